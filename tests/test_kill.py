"""Training that is killed at random moments ends in the same bytes as training that is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unified import checkpoint

KILLS = int(os.environ.get("UNIFIED_KILLS", "5"))  # 50 for the full measure
STEPS = 20 + 5 * KILLS  # more than are done between so many kills
PHASES = ("start", "step", "save", "rotate", "sample")
STATE = f"pretrain/checkpoints/step-{STEPS}"
# One process imports everything and forks a run each time: a start costs half a second, not five.
# One thread each, because libgomp's threads do not survive a fork. The run says by a pipe what it
# begins and ends; it is killed in what was hit least so far, at a random moment of it.
KILLER = """
import json, os, random, select, shutil, signal, sys, time
from collections import Counter
from pathlib import Path
import torch
import torch.utils.tensorboard
from unified.train import loop, model, optimize
from unified.train.recipe import run

torch.set_num_threads(1)
folder, kills, workers, steps = Path(sys.argv[1]), *map(int, sys.argv[2:])
settings = ["scale=tiny", f"pretrain.loop.steps={steps}", "pretrain.loop.save_every=2",
            "pretrain.loop.log_every=1", "pretrain.loop.sample_every=5", "pretrain.pack=256",
            "pretrain.micro_batch=1", "pretrain.loop.ema=0.9",
            f"pretrain.loop.workers={workers}"]
PHASES = {"a": "start", "t": "step", "s": "save", "r": "rotate", "e": "sample"}

def told(function, letter, end):
    def inner(*a, **k):
        os.write(end, letter.encode())
        try:
            return function(*a, **k)
        finally:
            os.write(end, b".")
    return inner

def remove_slowly(folder, ignore_errors=False):
    for file in sorted(Path(folder).glob("*")):
        file.unlink()
        time.sleep(0.002)  # else a kill would hardly ever fall between two files
    rmtree(folder, ignore_errors=ignore_errors)

def child(end):
    optimize.Replica.learn = told(optimize.Replica.learn, "t", end)
    loop.states.save = told(loop.states.save, "s", end)
    loop.checkpoint.rotate = told(loop.checkpoint.rotate, "r", end)
    loop.checkpoint.shutil.rmtree = remove_slowly
    drawn = model.sheet
    model.sheet = told(lambda *a, **k: drawn(*a, **k, count=2), "e", end)
    run("toybox", ["pretrain"], settings, folder, device="cpu", progress=False)
    os.write(end, b"z")

def said(pipe, seconds):
    ready, _, _ = select.select([pipe], [], [], seconds)
    return os.read(pipe, 1).decode() if ready else None

def follow(pid, pipe, phase):
    "Kill a run in a phase; the one that it was in then, None where it ended by itself."
    state, since, due = "a", time.monotonic(), None
    left = rng.randint(1, {"t": 4, "s": 2, "r": 2}.get(phase, 1))  # how many of them to wait for
    if phase == "a":
        due = since + rng.random() * lasting["a"]
    while due is None or time.monotonic() < due:
        letter = said(pipe, None if due is None else max(0, due - time.monotonic()))
        if letter is None:
            continue
        if letter in ("", "z"):
            return None
        now = time.monotonic()
        if letter == "." or state == "a":
            lasting[state] = now - since
        state, since = "t" if letter == "." else letter, now  # batches and logs go with steps
        if due is None and letter == phase:
            left -= 1
            due = None if left else now + rng.random() * lasting.get(phase, 0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    while letter := said(pipe, 0):
        state = "t" if letter == "." else letter
    return state if state != "z" else None

rmtree = shutil.rmtree
rng, hits, lasting = random.Random(0), Counter(), {"a": 0.5}
while True:
    begin, end = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(begin)
        try:
            child(end)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    os.close(end)
    phase = min(PHASES, key=hits.__getitem__)
    missed = hits[phase] < kills // 5 and hits.total() < 2 * kills  # the moment had passed
    phase = phase if hits.total() < kills or missed else None
    phase = follow(pid, begin, phase)
    os.close(begin)
    _, status = os.waitpid(pid, 0)
    if phase is None:
        assert status == 0, status
        break
    assert os.WIFSIGNALED(status), status
    hits[phase] += 1
print(json.dumps({PHASES[phase]: count for phase, count in hits.items()}))
"""


def trained(source: Path, folder: Path, kills: int, workers: int) -> dict[str, int]:
    """A run that is killed so often, or more often until each phase was hit; how often in what."""
    for stage in ("text", "tokenizer", "vision"):
        shutil.copytree(source / stage, folder / stage)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLER, str(folder), str(kills), str(workers),
         str(STEPS)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    hits: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return hits


def rows(folder: Path) -> list[list[str]]:
    """Each logged step with its loss."""
    lines = (folder / "pretrain" / "log.jsonl").read_text().splitlines()
    return [line.split(", ")[:2] for line in lines]


@pytest.fixture(scope="module")
def whole(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("kill") / "whole"
    assert trained(tiny_run, folder, 0, 0) == {}
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_moments_ends_in_the_same_bytes(
    workers: int, whole: Path, tiny_run: Path, tmp_path: Path
) -> None:
    """Weights, their average, moments and generator; during starts, steps, saves, rotation and
    samples; packing on. With workers, the same bytes as without."""
    killed = tmp_path / "killed"
    hits = trained(tiny_run, killed, KILLS, workers)
    print(f"workers {workers}: {hits}")
    assert sum(hits.values()) >= KILLS
    assert all(hits.get(phase, 0) >= max(1, KILLS // 10) for phase in PHASES)
    checkpoint.verify(killed / STATE)
    for file in ("state.safetensors", "state.json"):
        assert checkpoint.sha256(whole / STATE / file) == checkpoint.sha256(killed / STATE / file)
    assert rows(whole) == rows(killed)  # each step once, with its loss
