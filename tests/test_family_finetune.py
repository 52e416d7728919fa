"""Published families are tuned on both sides, by adapters that are put on again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unified
from tests import test_family_chameleon, test_family_emu3, test_family_janus
from unified.train.finetune import check, finetune, prepare
from unified.train.readers import read
from unified.train.tuning import read_config

FAMILIES: dict[str, Callable[[Path], Any]] = {
    "janus": test_family_janus.save,
    "chameleon": test_family_chameleon.save,
    "emu3": test_family_emu3.save,
}
FAST = ["loop.steps=3", "loop.batch_size=4", "micro_batch=2", "loop.log_every=1", "dropout=0.5",
        "loop.learning_rate=0.01"]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_both_sides_are_tuned(family: str, tmp_path: Path) -> None:
    source, pictures = tmp_path / family, tmp_path / "pictures"
    FAMILIES[family](source)
    pictures.mkdir()
    for k in range(3):
        values = np.random.default_rng(k).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(values).save(pictures / f"{k}.png")
        (pictures / f"{k}.txt").write_text(f"noise {k}")
    stage = prepare(
        unified.load(source, device="cpu"), read(str(pictures)), read_config(None, FAST)
    )
    assert check(stage)["learnt"] > 0
    adapter = finetune(stage, tmp_path / "run", progress=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [row for row in rows if "text_loss" in row]
    assert all(math.isfinite(row["loss"]) and row["image_loss"] > 0 for row in losses)
    tuned = unified.load(source, device="cpu", adapters=[adapter])
    assert tuned.adapters == ("adapter",)
    image = Image.open(pictures / "0.png")
    assert isinstance(tuned.ask(image, "What is it?", most=4), str)
    assert tuned.generate("noise 1", seed=0)[0].size[0] > 0
