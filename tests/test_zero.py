"""ZeRO by DeepSpeed, in two real processes over gloo: one launch trains by every stage of it, and
the tests look at what it left. Run as a file, this is what the processes do."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing import start_processes

from unified import checkpoint
from unified.configuration import UnifiedConfig
from unified.modeling import UnifiedForConditionalGeneration
from unified.sequence import Picture, Text, Turn
from unified.train import states
from unified.train.batches import Ballast, Batch, Batcher, Encoded
from unified.train.loop import LoopConfig, fit
from unified.train.model import next_token_loss
from unified.train.zero import deepspeed

ROOT = Path(__file__).parent.parent
STEPS = 4
SETTINGS = LoopConfig(
    steps=STEPS, batch_size=8, learning_rate=0.01, warmup=1, schedule="wsd", save_every=2,
    log_every=1, sample_every=2, ema=0.5, clip=0.5, recompute=True, precision="fp32",
)  # fmt: skip
WAYS = {
    "1": {"zero": 1},
    "2": {"zero": 2},
    "3": {"zero": 3},
    "1-offload": {"zero": 1, "offload": True},
    "3-offload": {"zero": 3, "offload": True},
}
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed (the extra deepspeed)"
)


class Mixed:
    """Pictures drawn, pictures seen and words alone, in micro-batches of unlike length and kind:
    five a step, which two processes cannot share evenly."""

    def __init__(self, spoil: int | None = None) -> None:
        torch.manual_seed(0)
        config = UnifiedConfig(
            text_config={
                "model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 2,
                "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
                "intermediate_size": 48, "max_position_embeddings": 128,
            },
            vision_config={"image_size": 16, "hidden_size": 32, "num_hidden_layers": 1,
                           "num_attention_heads": 2},
            image_config={"codebooks": [16], "books": [0] * 4, "embedding_size": 8,
                          "head_size": 16},
            text_size=40,
        )  # fmt: skip
        self.model = UnifiedForConditionalGeneration(config)
        self.layout, self.spoil = config.layout, spoil
        self.batcher = Batcher(self.layout.vocabulary, 2, None, "cpu")

    def sample(self, number: int) -> Encoded:
        rng = random.Random(number)
        words = Text(tuple(rng.randrange(40) for _ in range(3 + number % 5)))
        codes = tuple(rng.randrange(16) for _ in range(4))
        turns = {
            0: [Turn("user", (words,)), Turn("assistant", (Picture(codes),))],
            1: [Turn("user", (Picture(None), words)), Turn("assistant", (words,))],
            2: [Turn("user", (words,)), Turn("assistant", (words,))],
        }[number % 3]
        made = self.layout.flatten(turns)
        views = sum(part != words for turn in turns for part in turn.parts)
        numbers = torch.Generator().manual_seed(number)
        seen = torch.rand((views, 3, 16, 16), generator=numbers) if views else None
        return Encoded(made.ids, made.loss, seen)

    def batch(self, step: int) -> list[Batch]:
        samples = [self.sample(step * 10 + k) for k in range(10)]
        return self.batcher.deal(samples, 1)[0]

    def loss(self, part: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        loss, values = next_token_loss(self.model, part, 1.0)
        return loss * (float("nan") if step == self.spoil else 1.0), values


def trained(
    folder: Path, spoil: int | None = None, **changes: Any
) -> UnifiedForConditionalGeneration:
    stage = Mixed(spoil)
    config = SETTINGS.model_copy(update=changes)

    def look(step: int) -> dict[str, float]:
        return {"seen": float(logits(stage.model).std())}

    fit(stage, config, folder, name="mixed", on_sample=look, progress=False)
    return stage.model


def logits(model: UnifiedForConditionalGeneration) -> torch.Tensor:
    stage = Mixed()
    part = stage.batch(99)[-1]
    assert model.image_head is not None
    with torch.inference_mode():
        hidden = model.eval()(part.ids, part.views).hidden
        return torch.cat([model.text_head(hidden), model.image_head(hidden)], -1)


def work(folder: Path) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    for name, changes in WAYS.items():
        model = trained(folder / name, **changes)
        if os.environ["RANK"] == "0" and name == "3":
            model.save_pretrained(folder / name / "model")
    # stopped and gone on with: by itself, and begun without ZeRO
    trained(folder / "again", zero=3, steps=2)
    trained(folder / "again", zero=3)
    trained(folder / "changed", zero=0, steps=2)
    trained(folder / "changed", zero=2)
    trained(folder / "spoilt", zero=2, spoil=2)
    trained(folder / "spoilt-3", zero=3, spoil=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero")
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == ""  # nothing of DeepSpeed's where results go
    trained(folder / "plain", recompute=False)
    return folder


def rows(folder: Path, key: str) -> list[float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [row[key] for row in lines if key in row]


def saved(folder: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints" / f"step-{step}")[0]


@needs_deepspeed
@pytest.mark.slow
def test_every_stage_of_zero_trains_as_one_process(runs: Path) -> None:
    """Losses and norms to 1e-5 of themselves, weights to 1e-4; and what the averaged weights say
    of a picture, seen between two steps."""
    weights = saved(runs / "plain")
    for name in WAYS:
        for key in ("loss", "text_loss", "image_loss", "norm", "seen"):
            expected = rows(runs / "plain", key)
            assert rows(runs / name, key) == pytest.approx(expected, rel=1e-5), name
        for key, value in saved(runs / name).items():
            if not key.startswith("rng"):
                torch.testing.assert_close(value, weights[key], atol=1e-4, rtol=1e-4)


@needs_deepspeed
@pytest.mark.slow
def test_a_checkpoint_of_stage_three_is_one_model(runs: Path, tmp_path: Path) -> None:
    """Its files, one of each process, hold whole weights: a model by our loader, the same logits
    as that which the processes left."""
    folder = runs / "3" / "checkpoints" / f"step-{STEPS}"
    checkpoint.verify(folder)
    parts = sorted(folder.glob("state-*-of-00002.safetensors"))
    assert len(parts) == 2 and not list(folder.glob("*.pt"))
    left = UnifiedForConditionalGeneration.from_pretrained(runs / "3" / "model")
    assert sum(p.numel() for p in left.parameters()) == sum(
        p.numel() for p in Mixed().model.parameters()
    )
    model = Mixed().model
    states.put(folder, model)
    model.save_pretrained(tmp_path / "model")
    assert [file.name for file in (tmp_path / "model").glob("*.safetensors")] == [
        "model.safetensors"
    ]
    again = UnifiedForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(again), logits(left))
    damaged = shutil.copytree(folder, tmp_path / "damaged") / parts[1].name
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(checkpoint.CheckpointError, match=damaged.name):
        states.put(damaged.parent, model)


@needs_deepspeed
@pytest.mark.slow
def test_a_run_goes_on_under_zero_and_between_its_stages(runs: Path) -> None:
    whole, again = saved(runs / "3"), saved(runs / "again")
    assert whole.keys() == again.keys()
    for key, value in whole.items():
        assert torch.equal(value, again[key]), key
    plain = saved(runs / "plain")
    for key, value in saved(runs / "changed").items():  # begun without, gone on with stage 2
        if not key.startswith("rng"):
            torch.testing.assert_close(value, plain[key], atol=1e-4, rtol=1e-4)


@needs_deepspeed
@pytest.mark.slow
def test_a_step_that_is_not_finite_changes_nothing_under_zero(runs: Path) -> None:
    for name in ("spoilt", "spoilt-3"):
        lines = (runs / name / "log.jsonl").read_text().splitlines()
        skipped = [row.get("skipped", 0) for row in map(json.loads, lines) if "norm" in row]
        assert skipped == [0, 0, 1, 1]
        assert all(value.isfinite().all() for value in saved(runs / name).values())


@pytest.mark.parametrize("pack", [None, 30])
def test_ballast_changes_no_loss(pack: int | None) -> None:
    stage = Mixed()
    stage.batcher = Batcher(stage.layout.vocabulary, 1, pack, "cpu")
    start, ballast = stage.layout.vocabulary.image_start, Ballast.of(stage.model)
    assert ballast is not None
    lacking = 0
    for step in range(2):
        batch = stage.batch(step)
        for part in batch:
            more = ballast.added(part, batch)
            assert more.views is not None and bool((more.ids >= start).any())
            lacking += more is not part
            with torch.inference_mode():
                losses = [stage.loss(each, 0)[0].item() for each in (part, more)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert lacking  # else nothing was shown


def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = {"steps": 1, "batch_size": 1, "learning_rate": 1.0}
    with pytest.raises(ValueError, match="offload is a part of ZeRO"):
        LoopConfig(**values, offload=True)
    with pytest.raises(ValueError, match="muon needs whole matrices"):
        LoopConfig(**values, zero=2, optimizer="muon")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ValueError, match="DeepSpeed is not installed"):
        trained(tmp_path, zero=1, recompute=False)


def begin(rank: int, folder: Path, port: int) -> None:
    """What torchrun does for a process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    work(folder)


if __name__ == "__main__":
    deepspeed("cpu")  # imported once, for both
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(begin, (Path(sys.argv[1]), port), nprocs=2, start_method="fork")
