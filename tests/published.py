"""What the tests of published families share: pictures, prompts, sameness, broken checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unified.handle import Unified

SIDE = 20  # pixels of a small picture


def photo(width: int = SIDE, height: int = SIDE, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def shown(question: str, image: Image.Image) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def same(one: Unified, two: Unified) -> None:
    """The same prompts, hidden states, weights, codes and settings."""
    prompts = [model._fit(shown("What?", photo()), 9)[0].ids for model in (one, two)]
    assert prompts[0] == prompts[1]
    if one.layout.views:
        ids, views = torch.tensor([prompts[0]]), one.processor.image_processor.pixels(photo())[None]
        with torch.inference_mode():
            assert torch.equal(one.model(ids, views).hidden, two.model(ids, views).hidden)
    for part in ("model", "codec"):
        theirs = getattr(two, part).state_dict()
        for key, value in getattr(one, part).state_dict().items():
            assert torch.equal(value, theirs[key]), key
    codes = [reply.ids for reply in one._draw("only", ["A cat."], 1, 0, 1, None, {})]
    assert codes == [reply.ids for reply in two._draw("only", ["A cat."], 1, 0, 1, None, {})]
    assert one.layout == two.layout == two.processor.layout
    assert one.sampling == two.sampling


def broken(source: Path, folder: Path, **changes: Any) -> Path:
    """A copy whose config.json has other values, by dotted key."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        *parts, last = key.split("__")
        inner = config
        for part in parts:
            inner = inner[part]
        inner[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder
