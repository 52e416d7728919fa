"""Every codec of this toolkit by the name of its kind: making a new one, loading a saved one."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from unified.tokenizers.audio import AudioTokenizer
from unified.tokenizers.codec import Codec
from unified.tokenizers.conv import ConvTokenizer
from unified.tokenizers.image import ImageTokenizer
from unified.tokenizers.layered import LayeredTokenizer
from unified.tokenizers.seed import SeedTokenizer
from unified.tokenizers.video import VideoTokenizer

ALL: tuple[type[Codec], ...] = (
    ImageTokenizer,
    ConvTokenizer,
    LayeredTokenizer,
    SeedTokenizer,
    VideoTokenizer,
    AudioTokenizer,
)
KINDS: dict[str, type[Codec]] = {codec.kind: codec for codec in ALL}


def new_codec(kind: str, settings: dict[str, Any]) -> Codec:
    """A codec to be trained.

    Raises:
        ValueError: unknown kind or setting; the valid ones are listed.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown tokenizer {kind!r}; one of {', '.join(KINDS)}")
    known = [field.name for field in fields(KINDS[kind].Config)]
    for key in settings:
        if key not in known:
            raise ValueError(f"unknown tokenizer.model.{key}; one of {', '.join(known)}")
    return KINDS[kind](KINDS[kind].Config(**settings))


def load_codec(folder: Path) -> Codec:
    """A saved codec of whatever kind, in eval mode.

    Raises:
        ValueError: unknown kind, or weights that do not fit.
    """
    kind = json.loads((folder / "config.json").read_text()).get("kind", ImageTokenizer.kind)
    if kind not in KINDS:
        raise ValueError(f"{folder}: unknown tokenizer {kind!r}; one of {', '.join(KINDS)}")
    return KINDS[kind].load(folder)
