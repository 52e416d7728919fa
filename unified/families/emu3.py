"""Emu3 (https://arxiv.org/abs/2409.18869), Chat and Gen.

Read from transformers' format and written in it. What it has and our own model has not is all
configuration:

    control ids       of the published tokenizer
    codes             have rows within the decoder's own embedding and head
    frame             <image> h * w <codes> (row of codes <row_end>)... <codes_end> <image_end>
    no encoder        pictures stand as codes alone
    template          roles are words; a picture demanded is asked for in bare words
    guidance          against a picture of nothing

The decoder is a Llama, but for dropout of its residuals in training. Pictures have one size here,
the square of the published area: one of another shape is padded to it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from transformers import (
    Emu3Config,
    Emu3ForConditionalGeneration,
    Emu3ImageProcessor,
    Emu3Processor,
    Emu3TextConfig,
    Emu3VQVAE,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from unified.checkpoint import CheckpointError
from unified.configuration import UnifiedConfig
from unified.families.made import (
    CODEC,
    Made,
    Prefixes,
    Weights,
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
from unified.tokenizers.published import Emu3PictureCodec
from unified.tokenizers.text import PublishedTokenizer

# transformers' names and ours
NAMES: Prefixes = (
    ("model.vqmodel.", CODEC),
    ("model.text_model.", "decoder."),
    ("lm_head.", "text_head."),
)
# names of older files, and transformers'
OLDER = (
    (r"^text_model\.lm_head\.", "lm_head."),
    (r"^text_model\.(model\.)?", "model.text_model."),
    (r"^vqmodel\.", "model.vqmodel."),
)
# name of a control token -> attribute of the published tokenizer, and how it is spelt without one
CONTROLS = {
    "pad": ("pad_token", "<|endoftext|>"),
    "bos": ("bos_token", "<|extra_203|>"),
    "end": ("eos_token", "<|extra_204|>"),
    "image": ("boi_token", "<|image start|>"),
    "image_end": ("eoi_token", "<|image end|>"),
    "slot": ("image_token", "<image>"),
    "codes": ("image_wrapper_token", "<|image token|>"),
    "row_end": ("eol_token", "<|extra_200|>"),
    "codes_end": ("eof_token", "<|extra_201|>"),
}
CODE = re.compile(r"<\|visual token (\d+)\|>")
TEMPLATE = {
    "system": "You are a helpful assistant. ",
    "user": ("USER: ", " "),
    "assistant": ("ASSISTANT:", " "),
    "bare": True,
}
GUIDANCE, TOP_K = 3.0, 2048  # of the paper


def read(folder: Path, attention: str, dtype: Any) -> Made:
    """A directory on our modules: see `unified.families.read`."""
    read_json(folder / "config.json")
    weights = _renamed(read_weights(folder))
    config = Emu3Config.from_pretrained(str(folder), local_files_only=True)
    read_json(folder / "tokenizer.json")
    tokenizer = PublishedTokenizer.from_pretrained(str(folder), local_files_only=True)
    size, count = config.text_config.vocab_size, config.vq_config.codebook_size
    ids = token_ids(folder, tokenizer, CONTROLS, size, "Emu3")
    order = agreed_code_ids(config.vocabulary_map, tokenizer, CODE, folder, count)
    pixels = _pixels(folder, config.vq_config)
    for key, value in pixels["codec"].items():
        setattr(config.vq_config, key, value)
    mapped = unified_config(config, ids, order, tokenizer, pixels)
    model, codec = filled(mapped, Emu3VQVAE, config.vq_config, weights, NAMES, attention, dtype)
    reorder(model.state_dict(), order)
    settings = read_json(folder / "generation_config.json", optional=True)
    scale = settings.get("guidance_scale") or GUIDANCE
    sampling = Sampling(
        guidance_scale=float(scale),
        temperature=settings.get("temperature") or 1.0,
        top_k=TOP_K,
    )
    processor = UnifiedProcessor.of(mapped, tokenizer, chat_template(folder))
    return Made(model, processor, Emu3PictureCodec(codec, folder), sampling)


def unified_config(
    config: Any,
    ids: dict[str, int],
    order: list[int],
    tokenizer: PublishedTokenizer,
    pixels: dict[str, Any],
) -> UnifiedConfig:
    """Our configuration of an Emu3Config, the control ids and those of its codes."""
    grid = pixels["image_size"] // _stride(config.vq_config)
    return UnifiedConfig(
        text_config={**config.text_config.to_dict(), "model_type": "llama"},
        vision_config={key: pixels[key] for key in ("image_size", "background")},
        image_config={
            "codebooks": [len(order)],
            "books": [0] * grid**2,
            "place_embedding": False,
            "shared": min(order),
        },
        text_size=config.text_config.vocab_size,
        user_picture="codes",
        family="emu3",
        control_ids=ids,
        template=TEMPLATE,
        reread=False,
        frame={
            "opening": [*tokenizer.ids(f"{grid}*{grid}"), ids["codes"]],
            "row": grid,
            "row_end": [ids["row_end"]],
            "closing": [ids["codes_end"]],
        },
        draws_at_once=True,
    )


def export(made: Made, folder: Path) -> None:
    """Write transformers' format: see `unified.families.export`."""
    config, codec = made.model.config, made.codec
    vocabulary = made.processor.tokenizer.get_vocab()
    order = code_ids(vocabulary, CODE, folder / "tokenizer.json")
    state = published_state(made, order, NAMES)
    text, inner = config.text_config.to_dict(), codec.model
    theirs = Emu3Config(
        text_config={key: text[key] for key in text.keys() & Emu3TextConfig().to_dict().keys()}
        | {"model_type": Emu3TextConfig.model_type, "head_dim": text["head_dim"]},
        vq_config=inner.config.to_dict(),  # type: ignore[union-attr, operator]
        vocabulary_map=vocabulary,
        tie_word_embeddings="lm_head.weight" not in state,
    )
    model = Emu3ForConditionalGeneration.from_pretrained(
        None, config=theirs, state_dict=state, dtype=made.model.dtype
    )
    ids = config.control_ids
    model.generation_config = GenerationConfig(
        bos_token_id=ids["bos"],
        eos_token_id=ids["end"],
        pad_token_id=ids["pad"],
        guidance_scale=made.sampling.guidance_scale,
    )
    model.save_pretrained(folder)
    _processor(made).save_pretrained(folder)


def _renamed(weights: Weights) -> Weights:
    """Under transformers' names."""
    names = {}
    for key in weights.tensors:
        names[key] = key
        for pattern, to in OLDER:
            names[key] = re.sub(pattern, to, names[key])
    return Weights(
        {names[key]: tensor for key, tensor in weights.tensors.items()},
        {names[key]: file for key, file in weights.files.items()},
        weights.source,
    )


def _stride(codec: Any) -> int:
    """Pixels a side of what one code stands for."""
    return int(2 ** (len(codec.channel_multiplier) - 1))


def _pixels(folder: Path, codec: Any) -> dict[str, Any]:
    """The size of pictures, with what colour they are padded, and how they are normalized."""
    values, default = image_settings(folder), Emu3ImageProcessor()
    low, high = (values.get(key, getattr(default, key)) for key in ("min_pixels", "max_pixels"))
    area, stride = min(max(Emu3Processor.image_area, low), high), _stride(codec)
    if values.get("spatial_factor", stride) != stride:
        raise CheckpointError(
            f"{folder}: spatial_factor of pictures is {values['spatial_factor']}; the codec of"
            f" config.json has {stride}"
        )
    mean = list(values.get("image_mean") or OPENAI_CLIP_MEAN)
    std = list(values.get("image_std") or OPENAI_CLIP_STD)
    side = round(area**0.5 / stride) * stride
    return {
        "image_size": side,
        "background": [int(value * 255) for value in mean],
        "codec": {"picture_size": side, "pixels": [low, high], "mean": mean, "std": std},
    }


def _processor(made: Made) -> Any:
    """transformers' processor of a model of ours."""
    config, tokenizer, codec = made.model.config, made.processor.tokenizer, made.codec
    inner: Any = codec.model
    names = {key: getattr(tokenizer, key) for key in ("bos_token", "eos_token", "pad_token")}
    spelt = tokenizer.convert_ids_to_tokens
    extra = {
        key: spelt(config.control_ids[name])
        for name, (key, _) in CONTROLS.items()
        if key not in names
    }
    low, high = inner.config.pixels
    return Emu3Processor(
        Emu3ImageProcessor(
            min_pixels=low,
            max_pixels=high,
            image_mean=inner.config.mean,
            image_std=inner.config.std,
            spatial_factor=_stride(inner.config),
        ),
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, **names, extra_special_tokens=extra
        ),
        chat_template=made.processor.chat_template,
    )
