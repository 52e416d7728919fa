"""What keeps a run from harm, and several processes that train as one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unified import checkpoint
from unified.train.distributed import Team
from unified.train.guards import STOPPED, Stopped, Termination, alone
from unified.train.loop import LoopConfig, fit, optimizers

ROOT = Path(__file__).parent.parent
SETTINGS = LoopConfig(
    steps=12, batch_size=4, learning_rate=0.01, warmup=1, save_every=100, log_every=1
)


class Line:
    """y = 2 x, learnt from numbers that depend on the step alone; `hook` sees every loss."""

    pool = 1

    def __init__(self, hook: Any = None):
        torch.manual_seed(0)
        self.model = nn.ModuleDict({"first": nn.Linear(1, 4), "last": nn.Linear(4, 1)})
        self.hook = hook

    def batch(self, step: int) -> list[torch.Tensor]:
        numbers = torch.Generator().manual_seed(step)
        return list(torch.randn(2, 2, 1, generator=numbers))

    def loss(self, part: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        error = self.model["last"](self.model["first"](part)) - 2 * part
        loss = error.square().mean() / 2
        if self.hook is not None:
            loss = self.hook(loss, step)
        return loss, {"off": error.abs().mean().item() / 2}


def train(stage: Line, folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    fit(stage, SETTINGS.model_copy(update=changes), folder, name="line", progress=False)
    return {name: value.clone() for name, value in stage.model.state_dict().items()}


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# --- guards ------------------------------------------------------------------------------------


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(ValueError, match="another run is training here"):
        train(Line(), tmp_path)
    train(Line(), tmp_path)  # the lock went with its holder


def test_sigterm_saves_and_the_same_run_goes_on(tmp_path: Path) -> None:
    whole = train(Line(), tmp_path / "whole")

    def stop(loss: torch.Tensor, step: int) -> torch.Tensor:
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    with pytest.raises(Stopped, match="saved after step 6 of 12"):
        train(Line(stop), tmp_path / "stopped")
    found = checkpoint.latest(tmp_path / "stopped" / "checkpoints")
    assert found is not None and found.name == "step-6"
    again = train(Line(), tmp_path / "stopped")
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert rows(tmp_path / "stopped")[-1]["loss"] == rows(tmp_path / "whole")[-1]["loss"]


def test_the_signal_is_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Termination() as termination:
        assert not termination.asked and signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_step_without_finite_gradients_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    def spoil(loss: torch.Tensor, step: int) -> torch.Tensor:
        return loss * float("nan") if step in (3, 4) else loss

    state = train(Line(spoil), tmp_path)
    assert all(torch.isfinite(value).all() for value in state.values())
    assert [row.get("skipped", 0) for row in rows(tmp_path)] == [0] * 3 + [1] + [2] * 8


def test_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="10 steps; last 9"):
        train(Line(lambda loss, step: loss * float("inf")), tmp_path)


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(Line(), tmp_path, steps=4, schedule="wsd")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        train(Line(), tmp_path, steps=8, schedule="wsd")
    found = checkpoint.latest(tmp_path / "checkpoints")
    assert found is not None and found.name == "step-4"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_make_the_same_batches_in_the_same_order(workers: int, tmp_path: Path) -> None:
    plain = train(Line(), tmp_path / "plain")
    for pool in (1, 5):
        stage = Line()
        stage.pool = pool
        made = train(stage, tmp_path / str(pool), workers=workers)
        assert all(torch.equal(plain[name], value) for name, value in made.items())
    logs = [[row["loss"] for row in rows(tmp_path / name)] for name in ("plain", "1", "5")]
    assert logs[0] == logs[1] == logs[2]


def test_a_dead_worker_is_an_error(tmp_path: Path) -> None:
    class Dying(Line):
        def batch(self, step: int) -> list[torch.Tensor]:
            if step == 4 and os.getpid() != parent:
                os._exit(1)
            return super().batch(step)

    parent, began = os.getpid(), time.monotonic()
    with pytest.raises(RuntimeError, match="a data worker died"):
        train(Dying(), tmp_path, workers=1)
    assert time.monotonic() - began < 60


# --- what is trained ---------------------------------------------------------------------------


def test_frozen_parts_stay_and_rates_are_shared_out(tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in Line().model.state_dict().items()}
    after = train(Line(), tmp_path, freeze=["first.weight"], rates={"last": 0.0})
    assert torch.equal(before["first.weight"], after["first.weight"])
    assert torch.equal(before["last.weight"], after["last.weight"])
    assert not torch.equal(before["first.bias"], after["first.bias"])
    with pytest.raises(ValueError, match="no part 'middle'; its parts are first, last"):
        optimizers(Line().model, SETTINGS.model_copy(update={"freeze": ["middle"]}))
    with pytest.raises(ValueError, match="every parameter is frozen"):
        optimizers(Line().model, SETTINGS.model_copy(update={"freeze": ["first", "last"]}))
    with pytest.raises(ValueError, match="recompute"):
        train(Line(), tmp_path / "twice", recompute=True)


# --- several processes -------------------------------------------------------------------------


def test_micro_batches_are_shared_out() -> None:
    parts = list(range(5))
    shares = [Team(rank, 2).share(parts) for rank in range(2)]
    assert sorted(x for share in shares for x in share) == parts
    with pytest.raises(ValueError, match="1 micro-batches for 2 processes"):
        Team(0, 2).share([1])


@pytest.mark.slow
def test_two_processes_train_as_one(tiny_run: Path, tmp_path: Path) -> None:
    """Real ones, over gloo: the same losses, and weights that one process reads."""
    steps = ["scale=tiny", "pretrain.loop.steps=4", "pretrain.loop.log_every=1"]
    settings = [part for step in steps for part in ("--set", step)]
    losses = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        for stage in ("text", "tokenizer", "vision"):
            shutil.copytree(tiny_run / stage, folder / stage)
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2"] if count == 2 else []
        verb = ["-m", "unified", "train", "toybox", "--stage", "pretrain", "--out", str(folder)]
        done = subprocess.run(
            [sys.executable, *launch, *verb, "--device", "cpu", *settings],
            cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        losses.append([row["loss"] for row in rows(folder / "pretrain") if "loss" in row])
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    checkpoint.verify(tmp_path / "2" / "pretrain" / "checkpoints" / "step-4")


@pytest.mark.slow
def test_sigterm_at_the_command_line(tiny_run: Path, tmp_path: Path) -> None:
    for stage in ("text", "tokenizer", "vision"):
        shutil.copytree(tiny_run / stage, tmp_path / stage)
    verb = ["-m", "unified", "train", "toybox", "--stage", "pretrain", "--out", str(tmp_path)]
    settings = ["--set", "scale=tiny", "--set", "pretrain.loop.steps=100000"]
    process = subprocess.Popen(
        [sys.executable, *verb, "--device", "cpu", *settings],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    log = tmp_path / "pretrain" / "log.jsonl"
    for _ in range(600):
        if log.is_file() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == STOPPED, said
    assert "stopped and saved after step" in said and "Traceback" not in said
    assert checkpoint.latest(tmp_path / "pretrain" / "checkpoints") is not None
