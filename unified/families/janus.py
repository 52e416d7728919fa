"""Janus and Janus-Pro (https://arxiv.org/abs/2410.13848, https://arxiv.org/abs/2501.17811).

Read from transformers' format and from the original one, written in transformers' format. What
they have and our own model has not is all configuration:

    control ids       of the published tokenizer; one id opens a picture's codes and a view alike
    template          roles are words
    encoder           transformers' own ViT of Janus, with its aligner
    no place embedding, nothing read back, a picture demanded is drawn at once
    guidance          against the same prompt in pads

The chat template that comes with a checkpoint is a program: it is kept and handed on, never run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusProcessor,
    JanusVQVAE,
    PreTrainedTokenizerFast,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.janus.processing_janus import DEFAULT_SYSTEM_PROMPT

from unified.checkpoint import CheckpointError
from unified.configuration import UnifiedConfig
from unified.families.made import (
    CODEC,
    Made,
    Prefixes,
    Weights,
    chat_template,
    filled,
    image_settings,
    published,
    read_json,
    read_weights,
    token_ids,
)
from unified.processing import UnifiedProcessor
from unified.sampling import Sampling
from unified.tokenizers.published import JanusCodec
from unified.tokenizers.text import PublishedTokenizer

# transformers' names and ours
NAMES: Prefixes = (
    ("model.language_model.", "decoder."),
    ("lm_head.", "text_head."),
    ("model.vision_model.", "encoder.tower."),
    ("model.aligner.fc1.", "encoder.aligner.up."),
    ("model.aligner.hidden_layers.0.", "encoder.aligner.down."),
    ("model.generation_embeddings.", "code_embedding."),
    ("model.generation_aligner.fc1.", "code_aligner.up."),
    ("model.generation_aligner.hidden_layers.0.", "code_aligner.down."),
    ("model.generation_head.proj_out.", "image_head.up."),
    ("model.generation_head.vision_head.", "image_head.down."),
    ("model.vqmodel.", CODEC),
)
# the original names, by pattern, and transformers'; "" is left out
ORIGINAL: tuple[tuple[str, str], ...] = (
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$", ""),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^vision_model\.vision_tower\.attn_pool\..*", ""),
    (r"^vision_model\.vision_tower\.pos_embed$",
     "model.vision_model.embeddings.position_embedding.weight"),
    (r"^vision_model\.vision_tower\.patch_embed\.proj\.",
     "model.vision_model.embeddings.patch_embedding."),
    (r"^vision_model\.vision_tower\.blocks\.(\d+)\.attn\.proj\.",
     r"model.vision_model.encoder.layers.\1.self_attn.projection_layer."),
    (r"^vision_model\.vision_tower\.blocks\.(\d+)\.attn\.",
     r"model.vision_model.encoder.layers.\1.self_attn."),
    (r"^vision_model\.vision_tower\.blocks\.(\d+)\.norm([12])\.",
     r"model.vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^vision_model\.vision_tower\.blocks\.", "model.vision_model.encoder.layers."),
    (r"^vision_model\.vision_tower\.norm\.", "model.vision_model.post_layernorm."),
    (r"^aligner\.layers\.0\.", "model.aligner.fc1."),
    (r"^aligner\.layers\.2\.", "model.aligner.hidden_layers.0."),
    (r"^gen_embed\.", "model.generation_embeddings."),
    (r"^gen_aligner\.layers\.0\.", "model.generation_aligner.fc1."),
    (r"^gen_aligner\.layers\.2\.", "model.generation_aligner.hidden_layers.0."),
    (r"^gen_head\.output_mlp_projector\.", "model.generation_head.proj_out."),
    (r"^gen_head\.vision_head\.", "model.generation_head.vision_head."),
    (r"^gen_vision_model\.quantize\.codebook_used$", ""),
    (r"^gen_vision_model\.encoder\.conv_blocks\.(\d+)\.res\.",
     r"model.vqmodel.encoder.down.\1.block."),
    (r"^gen_vision_model\.decoder\.conv_blocks\.(\d+)\.res\.",
     r"model.vqmodel.decoder.up.\1.block."),
    (r"^gen_vision_model\.encoder\.conv_blocks\.", "model.vqmodel.encoder.down."),
    (r"^gen_vision_model\.decoder\.conv_blocks\.", "model.vqmodel.decoder.up."),
    (r"^gen_vision_model\.(en|de)coder\.mid\.0\.", r"model.vqmodel.\1coder.mid.block_1."),
    (r"^gen_vision_model\.(en|de)coder\.mid\.1\.", r"model.vqmodel.\1coder.mid.attn_1."),
    (r"^gen_vision_model\.(en|de)coder\.mid\.2\.", r"model.vqmodel.\1coder.mid.block_2."),
    (r"^gen_vision_model\.", "model.vqmodel."),
)  # fmt: skip
# encoders and codecs that the original configuration only names
TOWERS: dict[str, dict[str, Any]] = {
    "siglip_large_patch16_384": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 384, "patch_size": 16,
    }
}  # fmt: skip
CODECS: dict[str, dict[str, Any]] = {"VQ-16": {}}  # the defaults of JanusVQVAEConfig

# name of a control token -> attribute of the published tokenizer, and how it is spelt without one
CONTROLS = {
    "pad": ("pad_token", "<\uff5c\u2581pad\u2581\uff5c>"),
    "bos": ("bos_token", "<\uff5cbegin\u2581of\u2581sentence\uff5c>"),
    "end": ("eos_token", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
    "image": ("boi_token", "<begin_of_image>"),
    "image_end": ("eoi_token", "<end_of_image>"),
    "view": ("boi_token", "<begin_of_image>"),
    "view_end": ("eoi_token", "<end_of_image>"),
    "slot": ("image_token", "<image_placeholder>"),
}
TEMPLATE = {
    "user": ("<|User|>: ", "\n\n"),
    "assistant": ("<|Assistant|>:", " "),
    "beside": "\n",
    "between": " ",
}
GUIDANCE = 5.0  # of the paper


def read(folder: Path, attention: str, dtype: Any) -> Made:
    """A directory on our modules: see `unified.families.read`."""
    values = read_json(folder / "config.json")
    weights, original = read_weights(folder), values["model_type"] != "janus"
    if original:
        config = original_config(values, folder / "config.json")
        weights = from_original(weights)
    else:
        config = JanusConfig.from_pretrained(str(folder), local_files_only=True)
    read_json(folder / "tokenizer.json")
    tokenizer = PublishedTokenizer.from_pretrained(str(folder), local_files_only=True)
    settings = read_json(folder / "generation_config.json", optional=True)
    if original:  # there both are known by their spelling, whatever the tokenizer calls its own
        config.image_token_id, settings["pad_token_id"] = (
            tokenizer.get_vocab().get(CONTROLS[name][1]) for name in ("slot", "pad")
        )
    ids = control_ids(folder, tokenizer, config, settings)
    mapped = unified_config(config, ids, folder, original)
    model, codec = filled(mapped, JanusVQVAE, config.vq_config, weights, NAMES, attention, dtype)
    processor = UnifiedProcessor.of(mapped, tokenizer, chat_template(folder))
    scale = settings.get("guidance_scale") or GUIDANCE
    sampling = Sampling(guidance_scale=float(scale), temperature=settings.get("temperature") or 1.0)
    return Made(model, processor, JanusCodec(codec, folder), sampling)


def unified_config(
    config: Any, ids: dict[str, int], folder: Path, original: bool = False
) -> UnifiedConfig:
    """Our configuration of a JanusConfig and the control ids of its tokenizer."""
    vision, codec = config.vision_config, config.vq_config
    length = codec.num_patches**2
    if vision.num_image_tokens != length:
        raise CheckpointError(
            f"{folder / 'config.json'}: vision_config.num_image_tokens is"
            f" {vision.num_image_tokens}, for a grid of {length} patches"
        )
    return UnifiedConfig(
        text_config=config.text_config.to_dict(),
        vision_config={**vision.to_dict(), **_pixels(folder)},
        image_config={
            "codebooks": [codec.num_embeddings],
            "books": [0] * length,
            "embedding_size": codec.embed_dim,
            "head_size": codec.projection_dim,
            "place_embedding": False,
        },
        text_size=config.text_config.vocab_size,
        user_picture="view",
        family="janus",
        control_ids=ids,
        template={"system": _system(folder, original), **TEMPLATE},
        reread=False,
        unconditional="padded",
        draws_at_once=True,
    )


def janus_config(made: Made) -> Any:
    """Inverse of `unified_config`; ties the text head where it equals the embedding."""
    config, model = made.model.config, made.model
    vision = config.vision_config.to_dict()
    for key in ("mean", "std", "background"):
        vision.pop(key, None)
    codec: Any = made.codec.model
    embedding: Any = model.get_input_embeddings()
    tied = torch.equal(model.text_head.weight, embedding.weight)
    return JanusConfig(
        text_config=config.text_config.to_dict(),
        vision_config=vision,
        vq_config=codec.config.to_dict(),
        image_token_id=config.control_ids["slot"],
        tie_word_embeddings=tied,
    )


def control_ids(
    folder: Path, tokenizer: PublishedTokenizer, config: Any, settings: dict[str, Any]
) -> dict[str, int]:
    """Where the control tokens lie.

    Raises:
        CheckpointError: a token is missing, or tokenizer and configuration disagree about an id.
    """
    path = folder / "tokenizer.json"
    ids = token_ids(folder, tokenizer, CONTROLS, config.text_config.vocab_size, "Janus")
    if settings.get("pad_token_id") is not None:  # what guidance pads with
        ids["pad"] = settings["pad_token_id"]
    if config.image_token_id != ids["slot"]:
        raise CheckpointError(
            f"{path}: the picture's placeholder has id {ids['slot']}; config.json's image_token_id"
            f" is {config.image_token_id}"
        )
    return ids


def export(made: Made, folder: Path) -> None:
    """Write transformers' format: see `unified.families.export`."""
    state = {published(key, NAMES): value for key, value in made.model.state_dict().items()}
    codec: Any = made.codec.model
    state |= {published(CODEC + key, NAMES): v for key, v in codec.state_dict().items()}
    config = janus_config(made)
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    model = JanusForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=state, dtype=made.model.dtype
    )
    ids = made.model.config.control_ids
    model.generation_config = GenerationConfig(
        bos_token_id=ids["bos"],
        eos_token_id=ids["end"],
        pad_token_id=ids["pad"],
        guidance_scale=made.sampling.guidance_scale,
        generation_kwargs={"boi_token_id": ids["image"]},
    )
    model.save_pretrained(folder)
    _processor(made).save_pretrained(folder)


def _processor(made: Made) -> Any:
    """transformers' processor of a model of ours."""
    vision, template = made.model.config.vision_config, made.model.config.template
    tokenizer = made.processor.tokenizer
    names = {key: getattr(tokenizer, key) for key in ("bos_token", "eos_token", "pad_token")}
    extra = {key: _token(made, name) for name, (key, _) in CONTROLS.items() if key not in names}
    return JanusProcessor(
        JanusImageProcessorPil(
            size={"height": vision.image_size, "width": vision.image_size},
            image_mean=list(vision.mean),
            image_std=list(vision.std),
        ),
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, **names, extra_special_tokens=extra
        ),
        chat_template=made.processor.chat_template,
        use_default_system_prompt=bool(template["system"]),
        num_image_tokens=vision.num_image_tokens,
    )


def _token(made: Made, name: str) -> str:
    token: str = made.processor.tokenizer.convert_ids_to_tokens(made.model.config.control_ids[name])
    return token


def _system(folder: Path, original: bool) -> str:
    """The system prompt, where the published processor has one; the original one always has."""
    path = folder / "processor_config.json"
    unsaid = original or not path.is_file()
    given = read_json(path, optional=True).get("use_default_system_prompt", unsaid)
    return DEFAULT_SYSTEM_PROMPT if given else ""


def _pixels(folder: Path) -> dict[str, Any]:
    """How pictures are normalized for the encoder and with what colour they are padded."""
    values = image_settings(folder)
    mean = values.get("image_mean") or OPENAI_CLIP_MEAN
    std = values.get("image_std") or OPENAI_CLIP_STD
    colour = [int(value * 255) for value in mean]
    if values.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    return {"mean": list(mean), "std": list(std), "background": colour}


def original_config(values: dict[str, Any], path: Path) -> Any:
    """A JanusConfig of the original configuration, which names its encoder and codec.

    Raises:
        CheckpointError: it names others than Janus and Janus-Pro have.
    """

    def params(part: str) -> dict[str, Any]:
        found: dict[str, Any] = values.get(part, {}).get("params", {})
        return found

    tower = params("vision_config").get("model_name", "")
    codec = values.get("gen_vision_config", {}).get("cls", "")
    for key, given, known in (
        ("vision_config.params.model_name", tower, TOWERS),
        ("gen_vision_config.cls", codec, CODECS),
    ):
        if given not in known:  # so it is in other models of this model_type, JanusFlow and VL
            raise CheckpointError(
                f"{path}: {key} is {given!r}; Janus and Janus-Pro have {', '.join(known)}"
            )
    sizes = TOWERS[tower]
    depths = {params(part).get("depth", 2) for part in ("aligner_config", "gen_aligner_config")}
    if depths != {2}:
        raise CheckpointError(f"{path}: aligners of depth {sorted(depths)}; 2 is supported")
    return JanusConfig(
        text_config={"model_type": "llama", **values["language_config"]},
        vision_config={
            **sizes,
            "projection_dim": params("aligner_config")["n_embed"],
            "num_image_tokens": (sizes["image_size"] // sizes["patch_size"]) ** 2,
        },
        vq_config={
            **CODECS[codec],
            "embed_dim": params("gen_vision_config")["n_embed"],
            "num_embeddings": params("gen_vision_config")["image_token_size"],
            "projection_dim": params("gen_aligner_config")["n_embed"],
            "image_token_embed_dim": params("gen_head_config")["image_token_embed"],
        },
    )


def from_original(weights: Weights) -> Weights:
    """Original names and shapes -> transformers'. Nothing is copied but the cut of q, k and v."""
    tensors: dict[str, torch.Tensor] = {}
    files: dict[str, Path] = {}
    for old, tensor in weights.tensors.items():
        for name, part in _cut(_renamed(old), tensor):
            if name:
                tensors[name], files[name] = part, weights.files[old]
    return Weights(tensors, files, weights.source)


def _renamed(name: str) -> str:
    for pattern, to in ORIGINAL:
        new, found = re.subn(pattern, to, name)
        if found:
            return new
    return name


def _cut(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    if ".self_attn.qkv." in name:
        parts = tensor.chunk(3)
        return [(name.replace("qkv", f"{x}_proj"), p) for x, p in zip("qkv", parts, strict=True)]
    if name.endswith("embeddings.position_embedding.weight"):
        return [(name, tensor.flatten(0, -2))]  # (1, N, D)
    return [(name, tensor)]
