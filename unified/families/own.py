"""Our own format: a model as transformers saves it, with its codec, its settings and a manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unified import checkpoint
from unified.families.made import Made
from unified.modeling import UnifiedForConditionalGeneration
from unified.processing import UnifiedProcessor
from unified.sampling import Sampling
from unified.tokenizers.published import load_either
from unified.tokenizers.text import load_tokenizer

CODEC = "image_tokenizer"
SAMPLING = "sampling.json"
SMALL = 64e6  # parameters; a smaller model is written in parts that any host of code takes


def read(folder: Path, attention: str, dtype: Any) -> Made:
    """What `write` wrote, checked against its manifest: see `unified.families.read`."""
    checkpoint.verify(folder)
    model = model_in(folder, dtype=dtype, attn_implementation=attention)
    template = folder / "chat_template.jinja"
    processor = UnifiedProcessor.of(
        model.config,
        load_tokenizer(folder),
        template.read_text(encoding="utf-8") if template.is_file() else None,
    )
    codec = load_either(folder / CODEC)
    sampling = Sampling(**json.loads((folder / SAMPLING).read_text()))
    revision = checkpoint.sha256(folder / checkpoint.MANIFEST)[:12]
    return Made(model, processor, codec, sampling, revision)


def model_in(folder: Path, begun: str | None = None, **how: Any) -> UnifiedForConditionalGeneration:
    """The model of a folder.

    Args:
        begun: beginning of the keys that may be missing, as they are new, or left over.
        how: to transformers' `from_pretrained`.

    Raises:
        CheckpointError: weights cannot be read, are missing, or belong to no such model.
    """
    try:
        model, found = UnifiedForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **how
        )
    except (OSError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise checkpoint.CheckpointError(f"{folder}: cannot be read as a model: {reason}") from None
    for keys, what in (("missing_keys", "lacks"), ("unexpected_keys", "has the unknown")):
        wrong = [key for key in found[keys] if begun is None or not key.startswith(begun)]
        if wrong:
            raise checkpoint.CheckpointError(f"{folder}: {what} {min(wrong)}; it was not"
                                             " written from a whole model")  # fmt: skip
    assert isinstance(model, UnifiedForConditionalGeneration)
    return model


def write(made: Made, folder: Path, *, half: bool = False) -> None:
    """Weights, processor, codec, settings, manifest.

    Args:
        half: weights take half the room, the model's as bf16 and the codec's as fp16, unless they
            are of fewer bytes already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if half:
        made = replace(made, model=_converted(made.model, torch.bfloat16))
    small = made.model.num_parameters() < SMALL
    made.model.save_pretrained(folder, max_shard_size="14MB" if small else "4GB")
    made.processor.save_pretrained(folder)
    wide = made.codec.stored == torch.float32
    made.codec.save(folder / CODEC, dtype=torch.float16 if half and wide else None)
    (folder / SAMPLING).write_text(json.dumps(made.sampling.settings(), indent=2) + "\n")
    checkpoint.write_manifest(folder)


def _converted(
    model: UnifiedForConditionalGeneration, dtype: torch.dtype
) -> UnifiedForConditionalGeneration:
    copy = UnifiedForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.to(dtype)
