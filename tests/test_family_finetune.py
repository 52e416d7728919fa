"""Published families are tuned on both sides, by adapters that are put on again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image

import unified
from tests import test_family_chameleon, test_family_emu3, test_family_janus
from unified.adapters import AdapterError
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


def test_a_converted_janus_takes_dora_and_is_merged(tmp_path: Path) -> None:
    test_family_janus.save(tmp_path / "janus")
    converted, pictures = tmp_path / "converted", tmp_path / "pictures"
    unified.load(tmp_path / "janus", device="cpu").save(converted)
    pictures.mkdir()
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(values).save(pictures / "0.png")
    (pictures / "0.txt").write_text("noise")
    settings = read_config(None, [*FAST, "lora.dora=true", "lora.rslora=true", "lora.whole=[norm]",
                                  "loop.sample_every=0", "loop.batch_size=2"])  # fmt: skip
    stage = prepare(unified.load(converted, device="cpu"), read(str(pictures)), settings)
    adapter = finetune(stage, tmp_path / "run", progress=False)

    ids = torch.randint(0, 90, (2, 12), generator=torch.Generator().manual_seed(0))

    def logits(handle: Any) -> torch.Tensor:
        with torch.inference_mode():
            hidden: torch.Tensor = handle.model.text_logits(handle.model(ids).hidden)
            return hidden

    plain = unified.load(converted, device="cpu")
    base = logits(plain)
    tuned = unified.load(converted, device="cpu", adapters=[adapter])
    adapted = logits(tuned)
    assert not torch.allclose(adapted, base, atol=1e-4)
    PeftModel.from_pretrained(plain.model, str(adapter))  # peft reads it by itself
    torch.testing.assert_close(logits(plain), adapted)
    tuned.merge()
    tuned.save(tmp_path / "merged")
    merged = logits(unified.load(tmp_path / "merged", device="cpu"))
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)
    with pytest.raises(AdapterError, match="made for weights"):
        unified.load(tmp_path / "merged", device="cpu", adapters=[adapter])
