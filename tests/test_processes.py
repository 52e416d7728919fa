"""Fine-tuning by two real processes under torchrun: the losses and the adapter of one process, also
where all of them are killed on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from unified import checkpoint
from unified.adapters import WEIGHTS
from unified.handle import load
from unified.toybox.scene import render, sample_scene
from unified.train.finetune import finetune, prepare
from unified.train.readers import read
from unified.train.tuning import read_config

ROOT = Path(__file__).parent.parent
STEPS = 10
FAST = [f"loop.steps={STEPS}", "loop.batch_size=8", "micro_batch=1", "pack=200",
        "loop.save_every=2", "loop.log_every=1", "loop.precision=fp32",
        "toybox={draw: 1}"]  # fmt: skip
PATIENCE = 600  # seconds, on a machine that has other things to do


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven records, which neither batches nor processes divide; drawn, seen and words alone."""
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for k in range(7):
        Image.fromarray(render(sample_scene(random.Random(k)))).save(folder / f"{k}.png")
        picture = [{"type": "image", "path": f"{k}.png"}]
        asked = [f"draw number {k}", picture, f"say {k}"][k % 3]
        reply = [picture, f"It is number {k}.", f"{k}!"][k % 3]
        told = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
        lines.append(json.dumps({"messages": told}) + "\n")
    (folder / "data.jsonl").write_text("".join(lines))
    return folder / "data.jsonl"


def started(model: Path, data: Path, out: Path) -> subprocess.Popen[str]:
    sets = [part for value in FAST for part in ("--set", value)]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "unified", "finetune"]
    return subprocess.Popen(
        [sys.executable, *launch, str(data), "--model", str(model), "-o", str(out), *sets,
         "--device", "cpu"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def rows(folder: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [row for row in lines if "loss" in row]


@pytest.mark.slow
def test_two_processes_tune_one_model(tiny_run: Path, data: Path, tmp_path: Path) -> None:
    model, one, two = tiny_run / "model", tmp_path / "one", tmp_path / "two"
    stage = prepare(load(model, device="cpu"), read(data), read_config(None, FAST))
    parts = [len(stage.batch(step)) for step in range(STEPS)]
    assert min(parts) >= 2 and any(count % 2 for count in parts)  # not to be shared evenly
    adapter = finetune(stage, one, progress=False)

    begun = started(model, data, two)
    deadline = time.monotonic() + PATIENCE
    while not (two / "checkpoints" / "step-4" / checkpoint.MANIFEST).is_file():
        assert time.monotonic() < deadline and begun.poll() is None, begun.communicate()[0]
        time.sleep(0.01)
    children = Path(f"/proc/{begun.pid}/task/{begun.pid}/children")
    workers = list(map(int, children.read_text().split()))
    for process in (begun.pid, *workers):  # torchrun gives each worker a session of its own
        os.kill(process, signal.SIGKILL)
    begun.communicate()
    assert len(workers) == 2 and not (two / "adapter").exists()
    found = checkpoint.latest(two / "checkpoints")
    assert found is not None and int(found.name[5:]) < STEPS

    again = started(model, data, two)
    said = again.communicate(timeout=PATIENCE)[0]
    assert again.returncode == 0, said
    assert [row["step"] for row in rows(two)] == list(range(1, STEPS + 1))  # each of them once
    for key in ("loss", "text_loss", "image_loss", "norm"):
        expected = [row[key] for row in rows(one)]
        assert [row[key] for row in rows(two)] == pytest.approx(expected, rel=1e-4), key
    weights = load_file(two / "adapter" / WEIGHTS)
    assert weights.keys() == load_file(adapter / WEIGHTS).keys()
    for name, value in load_file(adapter / WEIGHTS).items():
        torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=1e-3)
    last = checkpoint.latest(two / "checkpoints")
    assert last is not None and last.name == f"step-{STEPS}"
    # one process goes on from what two left, and has nothing to do
    alone = prepare(load(model, device="cpu"), read(data), read_config(None, FAST))
    shutil.rmtree(two / "adapter")
    assert load_file(finetune(alone, two, progress=False) / WEIGHTS).keys() == weights.keys()
