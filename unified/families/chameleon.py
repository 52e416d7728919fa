"""Chameleon (https://arxiv.org/abs/2405.09818) and Anole (https://arxiv.org/abs/2407.06135).

Read from transformers' format and written in it. What they have and our own model has not is all
configuration:

    control ids       of the published tokenizer
    codes             have rows within the decoder's own embedding and head, in an order of their
                      names; ours is the order of the codes, so these rows are put in order
    decoder           transformers' own Chameleon
    no encoder        pictures stand as codes alone
    template          <sep> ends what the user says

Anole is the same with a head that knows pictures, and the codec's decoder beside its encoder
(`model.vqmodel.decoder.…`). Without that decoder pictures are read and never drawn.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonProcessor,
    ChameleonVQVAE,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

from unified.checkpoint import CheckpointError
from unified.configuration import UnifiedConfig
from unified.families.made import (
    CODEC,
    Made,
    Prefixes,
    agreed_code_ids,
    chat_template,
    code_ids,
    filled,
    image_settings,
    published_state,
    read_json,
    read_weights,
    reorder,
    token_ids,
)
from unified.processing import UnifiedProcessor
from unified.sampling import Sampling
from unified.tokenizers.chameleon import ChameleonVQ
from unified.tokenizers.published import ChameleonCodec
from unified.tokenizers.text import PublishedTokenizer

# transformers' names and ours
NAMES: Prefixes = (
    ("model.vqmodel.", CODEC),
    ("model.", "decoder."),
    ("lm_head.", "text_head."),
)
DECODER = "model.vqmodel.decoder."
# name of a control token -> attribute of the published tokenizer, and how it is spelt without one
CONTROLS = {
    "pad": ("pad_token", "<pad>"),
    "bos": ("bos_token", "<s>"),
    "end": ("eos_token", "</s>"),
    "image": ("boi_token", "<racm3:break>"),
    "image_end": ("eoi_token", "<eoss>"),
    "slot": ("image_token", "<image>"),
}
SEPARATOR = "<reserved08706>"
CODE = re.compile(r"IMGIMG([A-J]+)Z")  # the digits of a code as letters
# transformers builds a codec inside the decoder, which is dropped: let it be as small as it can
NO_CODEC = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "embed_dim": 1,
            "num_embeddings": 1, "latent_channels": 32, "resolution": 1}  # fmt: skip
METHODS = {Image.Resampling.LANCZOS: "lanczos", Image.Resampling.BICUBIC: "bicubic"}


def read(folder: Path, attention: str, dtype: Any) -> Made:
    """A directory on our modules: see `unified.families.read`."""
    read_json(folder / "config.json")
    weights = read_weights(folder)
    config = ChameleonConfig.from_pretrained(str(folder), local_files_only=True)
    read_json(folder / "tokenizer.json")
    tokenizer = PublishedTokenizer.from_pretrained(str(folder), local_files_only=True)
    ids = token_ids(folder, tokenizer, CONTROLS, config.vocab_size, "Chameleon")
    codes = config.vq_config.num_embeddings
    order = agreed_code_ids(config.vocabulary_map, tokenizer, CODE, folder, codes)
    draws = any(key.startswith(DECODER) for key in weights.tensors)
    pixels = _pixels(folder, config.vq_config.resolution)
    for key in ("mean", "std"):
        setattr(config.vq_config, key, pixels.pop(key))
    config.vq_config.out_channels = config.vq_config.in_channels if draws else None
    mapped = unified_config(config, ids, order, _separator(folder, tokenizer), pixels)
    kind = ChameleonVQ if draws else ChameleonVQVAE
    model, codec = filled(mapped, kind, config.vq_config, weights, NAMES, attention, dtype)
    reorder(model.state_dict(), order)
    settings = read_json(folder / "generation_config.json", optional=True)
    sampling = Sampling(temperature=settings.get("temperature") or 1.0)
    processor = UnifiedProcessor.of(mapped, tokenizer, chat_template(folder))
    return Made(model, processor, ChameleonCodec(codec, folder), sampling)


def unified_config(
    config: Any, ids: dict[str, int], order: list[int], separator: str, pixels: dict[str, Any]
) -> UnifiedConfig:
    """Our configuration of a ChameleonConfig, the control ids and those of its codes."""
    codec = config.vq_config
    grid = codec.resolution // 2 ** (len(codec.channel_multiplier) - 1)
    return UnifiedConfig(
        text_config={**config.to_dict(), "vq_config": NO_CODEC, "vocabulary_map": {}},
        vision_config=pixels,
        image_config={
            "codebooks": [len(order)],
            "books": [0] * grid**2,
            "place_embedding": False,
            "shared": min(order),
        },
        text_size=config.vocab_size,
        user_picture="codes",
        family="chameleon",
        control_ids=ids,
        template={"system": "", "user": ("", separator), "assistant": ("", "")},
        reread=False,
        draws_at_once=True,
    )


def export(made: Made, folder: Path) -> None:
    """Write transformers' format: see `unified.families.export`."""
    config, codec = made.model.config, made.codec
    vocabulary = made.processor.tokenizer.get_vocab()
    order = code_ids(vocabulary, CODE, folder / "tokenizer.json")
    state = published_state(made, order, NAMES)
    inner: Any = codec.model
    theirs = ChameleonConfig(
        **{
            **config.text_config.to_dict(),
            "vq_config": inner.config.to_dict(),
            "vocabulary_map": vocabulary,
            "tie_word_embeddings": "lm_head.weight" not in state,
        }
    )
    model = ChameleonForConditionalGeneration.from_pretrained(
        None, config=theirs, state_dict=state, dtype=made.model.dtype
    )
    if codec.decodes:
        model.model.vqmodel = inner
    ids = config.control_ids
    model.generation_config = GenerationConfig(
        bos_token_id=ids["bos"], eos_token_id=ids["end"], pad_token_id=ids["pad"]
    )
    model.save_pretrained(folder)
    _processor(made).save_pretrained(folder)


def _separator(folder: Path, tokenizer: PublishedTokenizer) -> str:
    """The special token that ends what the user says."""
    token = str(tokenizer.sep_token or SEPARATOR)
    if token not in tokenizer.special:
        raise CheckpointError(
            f"{folder / 'tokenizer.json'}: {token!r}, the sep_token of Chameleon, is no special"
            " token there"
        )
    return token


def _pixels(folder: Path, side: int) -> dict[str, Any]:
    """How pictures are cut to a square, and normalized for the codec."""
    values = image_settings(folder)
    default = ChameleonImageProcessorPil
    cut = values.get("crop_size", default.crop_size)
    short = values.get("size", default.size).get("shortest_edge")
    if {*cut.values(), short} != {side}:
        raise CheckpointError(
            f"{folder}: pictures are resized to {short} and cut to {cut}; config.json's"
            f" vq_config.resolution is {side}"
        )
    method = values.get("resample", default.resample)
    if method not in METHODS:
        raise CheckpointError(f"{folder}: resample {method} of pictures is not supported")
    scale = 255 * values.get("rescale_factor", default.rescale_factor)
    mean, std = (values.get(key, getattr(default, key)) for key in ("image_mean", "image_std"))
    return {
        "image_size": side,
        "crop": METHODS[method],
        "mean": [value / scale for value in mean],
        "std": [value / scale for value in std],
    }


def _processor(made: Made) -> Any:
    """transformers' processor of a model of ours."""
    vision, tokenizer = made.model.config.vision_config, made.processor.tokenizer
    side = vision.image_size
    codec: Any = made.codec
    scale = 255 * ChameleonImageProcessorPil.rescale_factor
    mean, std = (
        [round(value * scale, 6) for value in getattr(codec.model.config, key)]
        for key in ("mean", "std")
    )
    names = {key: getattr(tokenizer, key) for key in ("bos_token", "eos_token", "pad_token")}
    names["sep_token"] = made.model.config.template["user"][1]
    return ChameleonProcessor(
        ChameleonImageProcessorPil(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            resample={name: method for method, name in METHODS.items()}[vision.crop],
            image_mean=mean,
            image_std=std,
        ),
        PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **names),
        image_seq_length=made.model.config.image_config.length,
    )
