"""Training that is killed at random moments ends in the same bytes as training that is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from unified import checkpoint

KILLS = int(os.environ.get("UNIFIED_KILLS", "5"))  # 50 for the full measure
STEPS = 40
# One process imports everything and forks a run each time: a start costs half a second, not five.
# One thread each, because libgomp's threads do not survive a fork.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from unified.train.recipe import run

torch.set_num_threads(1)
folder, kills, steps = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
settings = ["scale=tiny", f"pretrain.loop.steps={steps}", "pretrain.loop.save_every=2",
            "pretrain.loop.log_every=1", "pretrain.loop.sample_every=5", "pretrain.pack=256",
            "pretrain.micro_batch=1", "pretrain.loop.ema=0.9"]
rng, killed, longest = random.Random(0), 0, 0.0
while True:
    child = os.fork()
    if not child:
        try:
            run("toybox", ["pretrain"], settings, folder, device="cpu", progress=False)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + (rng.uniform(0.3, 1.6) if killed < kills else 3600)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    if done:
        assert status == 0, status
        break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    killed += 1
print(killed)
"""


def trained(source: Path, folder: Path, kills: int) -> int:
    for stage in ("text", "tokenizer", "vision"):
        shutil.copytree(source / stage, folder / stage)
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(folder), str(kills), str(STEPS)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split()[-1])


def test_killed_at_random_moments_ends_in_the_same_bytes(tiny_run: Path, tmp_path: Path) -> None:
    """Weights, their average, moments and generator; during steps, saves, rotation (every second
    step), samples and starts; packing on."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert trained(tiny_run, whole, 0) == 0
    assert trained(tiny_run, killed, KILLS) >= 2  # a run may end before it is killed so often
    name = f"pretrain/checkpoints/step-{STEPS}"
    checkpoint.verify(killed / name)
    for file in ("state.safetensors", "state.json"):
        assert checkpoint.sha256(whole / name / file) == checkpoint.sha256(killed / name / file)
    logs = [(folder / "pretrain" / "log.jsonl").read_text() for folder in (whole, killed)]
    steps = [[line.split(", ")[:2] for line in log.splitlines()] for log in logs]
    assert steps[0] == steps[1]  # each step once, with its loss
