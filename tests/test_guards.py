"""What keeps a run from harm, what it says of itself, and several processes that train as one."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unified import checkpoint
from unified.train.distributed import Team
from unified.train.guards import STOPPED, Stopped, Termination, alone
from unified.train.loop import LoopConfig, fit, optimizers
from unified.train.meter import estimate, peak_flops
from unified.train.mixture import Epochs
from unified.train.quarantine import Quarantine, UnreadableError
from unified.train.records import DataError

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


def test_what_a_killed_run_leaves_behind_does_not_hold_its_folder(tmp_path: Path) -> None:
    """A data worker notices only after seconds that its run is gone."""
    began, begins = os.pipe()
    with alone(tmp_path):
        worker = os.fork()
        if not worker:
            os.write(begins, b"!")
            time.sleep(600)
            os._exit(0)
        os.read(began, 1)  # the worker runs
        with pytest.raises(ValueError, match="another run is training here"), alone(tmp_path):
            pass
    try:
        with alone(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        os.close(began)
        os.close(begins)


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


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    train(Line(), tmp_path, steps=4, schedule="wsd")
    root, before = tmp_path / "checkpoints", resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (root / "step-4" / "state.safetensors").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, before[1]))  # no file may be so large
    try:
        with pytest.raises(ValueError, match="step-8: cannot be written: .*File too large.*stands"):
            train(Line(), tmp_path, steps=8, schedule="wsd", loggers=[], log_every=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [folder.name for folder in root.iterdir()] == ["step-4"]
    assert checkpoint.latest(root) == root / "step-4"


@dataclass
class Payload:
    """Who unpickles it makes a folder."""

    ran: str

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.ran,)


def spoilt(folder: Path, how: str, ran: Path) -> None:
    file = folder / "state.safetensors"
    match how:
        case "bit":
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
        case "cut":
            file.write_bytes(file.read_bytes()[:-1])
        case "missing":
            file.unlink()
        case "foreign":
            torch.save(Payload(str(ran)), folder / "extra.pt")
        case "pickle":
            torch.save(Payload(str(ran)), file)
        case "listed":  # by whoever wrote the manifest anew
            torch.save(Payload(str(ran)), folder / "state-2.safetensors")
            checkpoint.write_manifest(folder)
        case "manifest":
            (folder / "manifest.json").write_text('{"files": {"state.safetensors": 3}}')
        case "unlisted":
            (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("bit", "state.safetensors: does not match its SHA-256"),
        ("cut", "state.safetensors: does not match its SHA-256"),
        ("missing", "state.safetensors: missing"),
        ("foreign", "extra.pt: manifest.json does not list it; a foreign file"),
        ("pickle", "state.safetensors: does not match its SHA-256"),
        ("listed", "state-2.safetensors: not readable as safetensors"),
        ("manifest", "manifest.json: not a readable manifest"),
        ("unlisted", "no manifest.json; not a complete checkpoint"),
    ],
)
def test_a_broken_checkpoint_is_named_and_passed_over(how: str, named: str, tmp_path: Path) -> None:
    for step in (2, 4):
        checkpoint.save(tmp_path, step, {"x": torch.full((3,), step)}, {"step": step})
    spoilt(tmp_path / "step-4", how, tmp_path / "ran")
    found, (broken,) = checkpoint.survey(tmp_path)
    assert found == tmp_path / "step-2" and named in str(broken)
    assert checkpoint.load(found)[1] == {"step": 2}
    assert not (tmp_path / "ran").exists()


def test_a_run_says_what_is_broken_and_goes_on_from_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(Line(), tmp_path, steps=4, schedule="wsd", save_every=2)
    whole = train(Line(), tmp_path, steps=6, schedule="wsd", save_every=6, keep=9)
    root = tmp_path / "checkpoints"
    shutil.rmtree(root / "step-6")
    spoilt(root / "step-4", "bit", tmp_path)
    again = train(Line(), tmp_path, steps=6, schedule="wsd", save_every=4)
    said = capsys.readouterr().err
    assert "state.safetensors: does not match" in said and "going on from step-2" in said
    assert len(said.splitlines()) == 1
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    for folder in (root / "step-4", root / "step-6"):
        checkpoint.trust(folder)


def test_a_broken_checkpoint_never_outlives_a_whole_one(tmp_path: Path) -> None:
    train(Line(), tmp_path, steps=6, schedule="wsd", save_every=3, keep=2)
    root = tmp_path / "checkpoints"
    spoilt(root / "step-6", "cut", tmp_path)
    train(Line(), tmp_path, steps=5, schedule="wsd", save_every=5, keep=1)
    assert [folder.name for folder in root.iterdir()] == ["step-5"]
    checkpoint.trust(root / "step-5")


def test_a_run_that_is_gone_on_with_draws_the_same_samples(tmp_path: Path) -> None:
    train(Line(), tmp_path, steps=4, schedule="wsd")
    with pytest.raises(ValueError, match="begun with batch_size=4, not 8: samples would be lost"):
        train(Line(), tmp_path, steps=8, schedule="wsd", batch_size=8)
    with pytest.raises(ValueError, match="begun with seed=0, not 3"):
        fit(Line(), SETTINGS, tmp_path, name="line", seed=3, progress=False)
    wide = Line()
    wide.model = nn.ModuleDict({"first": nn.Linear(1, 5), "last": nn.Linear(5, 1)})
    with pytest.raises(ValueError, match=r"another set of .*first.bias: \(4,\) there, \(5,"):
        train(wide, tmp_path)


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


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_workers_error_is_its_own(tmp_path: Path) -> None:
    class Wrong(Line):
        def batch(self, step: int) -> list[torch.Tensor]:
            if step == 3:
                raise DataError("record 7: no picture")
            return super().batch(step)

    with pytest.raises(DataError, match="^record 7: no picture$"):
        train(Wrong(), tmp_path, workers=1)


# --- records that cannot be read ---------------------------------------------------------------


class Shelf:
    """Numbered records of which some cannot be read."""

    def __init__(self, bad: set[int], length: int = 200):
        self.bad, self.epochs = bad, Epochs(length, 0)
        self.quarantine = Quarantine(length, 0.02, lambda index: f"shelf:{index}")

    def read(self, index: int) -> int:
        if index in self.bad:
            raise DataError(f"shelf:{index}: torn\nin two")
        return index

    def draw(self, number: int) -> int:
        return self.quarantine.draw(self.epochs, number, self.read)


def test_what_cannot_be_read_is_set_aside_by_name(tmp_path: Path) -> None:
    """Another record takes its place, the same wherever a run begins."""
    shelf = Shelf({17, 18, 150})
    shelf.quarantine.keep(tmp_path / "quarantine.jsonl")
    drawn = [shelf.draw(number) for number in range(400)]
    wanted = [shelf.epochs.index(number)[1] for number in range(400)]
    for got, want in zip(drawn, wanted, strict=True):
        assert got == {17: 19, 18: 19, 150: 151}.get(want, want)
    lines = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    found = {row["record"]: row for row in map(json.loads, lines)}
    assert found.keys() == {"shelf:17", "shelf:18", "shelf:150"} and len(lines) == 3
    assert found["shelf:17"]["reason"] == "shelf:17: torn in two"
    again = Shelf(set())  # by now they can be read, but the run must be what it was
    again.quarantine.keep(tmp_path / "quarantine.jsonl")
    assert [again.draw(number) for number in range(200, 400)] == drawn[200:]
    assert [Shelf({17, 18, 150}).draw(number) for number in range(399, -1, -1)] == drawn[::-1]


def test_a_record_stays_in_the_places_where_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    shelf = Shelf(set())
    shelf.quarantine.keep(path)
    early = [shelf.draw(number) for number in range(200)]
    shelf.bad = {early[3]}  # the file breaks in the second epoch
    late = [shelf.draw(number) for number in range(200, 400)]
    assert early[3] not in late
    again = Shelf(set())  # killed and gone on with, from before it broke
    again.quarantine.keep(path)
    assert [again.draw(number) for number in range(400)] == early + late


def test_too_many_that_cannot_be_read_end_the_run(tmp_path: Path) -> None:
    shelf = Shelf({5, 6, 7, 8, 9})
    shelf.quarantine.keep(tmp_path / "quarantine.jsonl")
    with pytest.raises(UnreadableError, match="5 of 200 records cannot be read, more than the sha"):
        for number in range(200):
            shelf.draw(number)
    with (tmp_path / "quarantine.jsonl").open("a") as file:
        file.write('{"record": "cut of')
    again = Shelf({5, 6, 7, 8, 9, 10})
    again.quarantine.keep(tmp_path / "quarantine.jsonl")
    assert len(again.quarantine.aside) == 5
    with pytest.raises(UnreadableError, match="6 of 200"):
        again.quarantine.draw(again.epochs, 200 + int(np.argmax(order(again) == 10)), again.read)
    assert (tmp_path / "quarantine.jsonl").read_text().count('"shelf:10"') == 1


def order(shelf: Shelf) -> np.ndarray:
    """The second epoch's."""
    return np.array([shelf.epochs.index(number)[1] for number in range(200, 400)])


# --- the moving average of the weights ---------------------------------------------------------


def test_the_average_is_what_is_shown_and_left(tmp_path: Path) -> None:
    shown = Line()
    weights: dict[int, dict[str, torch.Tensor]] = {}
    seen: dict[int, torch.Tensor] = {}

    def hook(loss: torch.Tensor, step: int) -> torch.Tensor:
        weights[step] = {n: p.detach().clone() for n, p in shown.model.named_parameters()}
        return loss

    def look(step: int) -> dict[str, float]:
        seen[step] = last_weight(shown).clone()
        return {}

    shown.hook = hook
    config = SETTINGS.model_copy(update={"ema": 0.7, "sample_every": 6})
    fit(shown, config, tmp_path / "shown", name="line", on_sample=look, progress=False)
    average = weights[0]["last.weight"].clone()
    for step in range(12):
        if step == 6:
            torch.testing.assert_close(seen[6], average)
            assert not torch.equal(seen[6], weights[6]["last.weight"])
        if step == 11:
            break
        average.lerp_(weights[step + 1]["last.weight"], 1 - min(0.7, (1 + step) / (10 + step)))
    left = last_weight(shown)
    assert torch.equal(left, seen[12]) and not torch.equal(left, weights[11]["last.weight"])
    # a finished run that is called again leaves the same
    again = Line()
    fit(again, config, tmp_path / "shown", name="line", progress=False)
    assert torch.equal(last_weight(again), left)


def last_weight(stage: Line) -> torch.Tensor:
    return stage.model.state_dict()["last.weight"]


def test_the_average_goes_on_exactly(tmp_path: Path) -> None:
    whole = train(Line(), tmp_path / "whole", ema=0.9, schedule="wsd")
    train(Line(), tmp_path / "parts", ema=0.9, schedule="wsd", steps=5)
    parts = train(Line(), tmp_path / "parts", ema=0.9, schedule="wsd")
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    states = [checkpoint.load(tmp_path / name / "checkpoints/step-12")[0]
              for name in ("whole", "parts")]  # fmt: skip
    assert states[0].keys() == states[1].keys() and "average.last.weight" in states[0]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


# --- what a run says of itself -----------------------------------------------------------------


class Words(Line):
    """As Line, its micro-batches of tokens; large enough that its memory can be seen."""

    def __init__(self, width: int = 8, rows: int = 4, depth: int = 4):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(width, width, bias=False) for _ in range(depth)]
        self.model = nn.ModuleDict({"body": nn.Sequential(*layers)})
        self.width, self.rows = width, rows

    def batch(self, step: int) -> list[Tokens]:  # type: ignore[override]
        numbers = torch.Generator().manual_seed(step)
        return [Tokens(torch.randn(self.rows, self.width, generator=numbers)) for _ in range(2)]

    def loss(self, part: Any, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return self.model["body"](part.x).tanh().square().mean() / 2, {}


@dataclass
class Tokens:
    x: torch.Tensor

    @property
    def tokens(self) -> int:
        return len(self.x)


def test_rates_stand_in_the_log_beside_the_peak(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(Words(64, 32), SETTINGS, tmp_path / "words", name="words", seed=3)
    told = capsys.readouterr().err
    assert "0.02M parameters trained, 0.00M frozen; 768 tokens in 12 steps" in " ".join(
        told.split()
    )
    assert "memory about" in told and "activations" in told and "MFU" in told
    for row in rows(tmp_path / "words"):
        assert 0 < row["mfu"] < 1.2 and row["tokens_per_second"] > row["samples_per_second"] > 0
    train(Line(), tmp_path / "line")  # whose micro-batches are of no tokens
    assert "mfu" not in rows(tmp_path / "line")[-1]


def test_the_estimate_changes_nothing_and_counts_the_work() -> None:
    stage = Words(64, 32)
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    rng = torch.get_rng_state()
    found = estimate(stage, SETTINGS, stage.batch(0), "cpu")
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(before[name], v) for name, v in stage.model.state_dict().items())
    assert all(p.grad is None for p in stage.model.parameters())
    # four products forward; backward twice as many, but for the first one's input
    assert found.flops == 2 * 64 * 64 * (4 + 4 + 3) and found.tokens == 12 * 2 * 32
    assert found.weights == found.gradients == 4 * 4 * 64 * 64 == found.optimizer // 2
    shared = SETTINGS.model_copy(update={"zero": 3, "ema": 0.9})
    parts = estimate(stage, shared, stage.batch(0), "cpu", processes=4)
    assert parts.weights == parts.gradients == found.weights // 4
    assert parts.flops == 6 * 4 * 64 * 64 and parts.activations == 0
    assert parts.optimizer == found.weights  # moments, average and copy, a quarter of each
    seconds = time.perf_counter()
    assert peak_flops("cpu", "fp32") > 1e8 and torch.equal(torch.get_rng_state(), rng)
    assert time.perf_counter() - seconds < 20  # a second on an idle machine


MEMORY = """
import json, re, sys
from pathlib import Path
import torch
from torch.utils.tensorboard import SummaryWriter
sys.path.insert(0, "tests")
from test_guards import SETTINGS, Words
from unified.train.loop import fit
from unified.train.meter import estimate

def peak():  # getrusage's begins at that of the process that started this one
    said = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", said)[1]) * 1024

torch.set_num_threads(1)
settings = SETTINGS.model_copy(update={"steps": 1})
fit(Words(), settings, Path(sys.argv[1]) / "small", name="words", progress=False)
before = peak()
stage = Words(1024, 512, depth=12)
said = estimate(stage, settings, stage.batch(0), "cpu").memory
fit(stage, settings, Path(sys.argv[1]) / "large", name="words", progress=False)
print(json.dumps([said, peak() - before]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak from Linux")
def test_the_memory_is_what_was_estimated_within_a_factor_of_two(tmp_path: Path) -> None:
    """Of a process of its own, beyond what one that trains next to nothing takes."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said, taken = json.loads(done.stdout)
    print(f"memory: {said / 1e6:.0f} MB estimated, {taken / 1e6:.0f} MB taken")
    assert 0.5 < said / taken < 2


def test_trackio_is_refused_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ValueError, match="trackio is not installed; pip install"):
        train(Line(), tmp_path, loggers=["tensorboard", "trackio"])


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
    assert [Team(0, size).rows(16, 16) for size in (1, 2, 4, 32)] == [16, 8, 4, 1]
    assert Team(0, 2).rows(64, 16) == 16


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
