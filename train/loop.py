"""The one training loop: every stage of every recipe runs through `fit`.

A stage supplies a model, batches and a loss; the loop supplies optimizer, schedule, precision,
checkpoints, logs and progress. A batch is a pure function of its step, so that a run killed at any
moment continues with the same losses. Under torchrun each process takes its share of every step's
micro-batches (`distributed.py`). Knows nothing of pictures or words.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader, Dataset

from unified import checkpoint
from unified.train import states
from unified.train.distributed import Team, team
from unified.train.guards import Stopped, Termination, alone
from unified.train.journal import Journal
from unified.train.meter import Meter, estimate, peak_flops
from unified.train.optimize import (
    Replica,
    freeze,
    learning_rate,
    optimizers,
    recompute,
    update,
)
from unified.train.settings import LoopConfig

if TYPE_CHECKING:
    from unified.train.zero import Sharded

__all__ = ["COLUMNS", "LoopConfig", "Stage", "fit", "learning_rate", "optimizers", "update"]

PATIENT = 60  # seconds that a data worker may take for a batch
PATIENCE = 10  # steps in a row without finite gradients
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
           TimeRemainingColumn())  # fmt: skip


class Stage(Protocol):
    """What `fit` trains. One whose batches of several steps are made together says of how many by
    an attribute `pool`."""

    @property
    def model(self) -> nn.Module: ...

    def batch(self, step: int) -> list[Any]:
        """The micro-batches of a step; the same for the same step, whatever came before."""
        ...

    def loss(self, part: Any, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """One micro-batch's share of the loss, and its shares of named values; they add up."""
        ...


def fit(
    stage: Stage,
    config: LoopConfig,
    folder: Path,
    *,
    name: str,
    seed: int = 0,
    device: str = "cpu",
    on_sample: Callable[[int], dict[str, float]] | None = None,
    progress: bool = True,
) -> None:
    """Train `stage.model` in place to `config.steps`, resuming from `folder` where it stands.

    Writes checkpoints to folder/checkpoints, one JSON line per logged step to folder/log.jsonl,
    TensorBoard events to folder/tensorboard and, at the end, folder/curves.png. `on_sample(step)`
    runs every `sample_every` steps and at the end, never if that is 0; what it returns is logged. A
    step whose gradients are not finite changes nothing and is counted as "skipped".

    Raises:
        ValueError: another run trains in this folder, or a setting does not fit the model or the
            device.
        FloatingPointError: the gradients are not finite for PATIENCE steps in a row.
        Stopped: SIGTERM came; everything is saved.
    """
    if device == "cpu":
        _keep_freed_memory()
    if config.workers and torch.device(device).type == "cuda":
        raise ValueError(
            f"loop.workers={config.workers}: data workers are forked, and a forked process cannot"
            " use CUDA; on a GPU set loop.workers=0, and a thread makes each batch a step ahead"
        )
    crew = team()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        if crew.leads:
            held.enter_context(alone(folder))
        termination = held.enter_context(Termination())
        if config.workers:
            held.enter_context(_worker_deaths())
        torch.manual_seed(seed)
        freeze(stage.model, config.freeze)
        if config.recompute:
            recompute(stage.model)
        root = folder / "checkpoints"
        order = {"seed": seed, "batch_size": config.batch_size}
        first, saved = states.resume(stage.model, root, crew, order)
        journal = held.enter_context(Journal(folder, first, crew.leads, config.loggers))
        quiet = not (progress and crew.leads)
        screen = Console(stderr=True, quiet=quiet)
        ready = _Ready(stage, first, config.steps)
        meter = _meter(stage, config, device, crew, ready, screen)
        trainer = _trainer(stage, config, crew, device)
        trainer.load(saved)
        states.set_rng(saved, crew, device)
        del saved  # as large as all the rest
        bar = held.enter_context(Progress(*COLUMNS, console=screen, disable=quiet))
        task = bar.add_task(name, total=config.steps, completed=first)
        bad, skipped = 0, 0
        batches = held.enter_context(closing(_batches(ready, config, device)))
        meter.start()
        for step, batch in batches:
            rate = learning_rate(config, step)
            stage.model.train()
            total = trainer.learn(batch, step)
            norm = trainer.update(step, rate)
            bad = 0 if math.isfinite(norm) else bad + 1
            skipped += bad > 0
            if bad == PATIENCE:
                raise FloatingPointError(
                    f"{name}: gradients not finite for {PATIENCE} steps; last {step}"
                )
            meter.add(config.batch_size, crew.share(batch))
            done = step + 1
            last = done == config.steps
            if done % config.log_every == 0 or last:
                sums = crew.add_values(
                    {k: float(v) for k, v in {**total, **meter.counts()}.items()}
                )
                rates = meter.rates({name: sums.pop(name) for name in meter.counts()})
                row = {**sums, "norm": norm, "rate": rate, **rates}
                journal.write(done, row | ({"skipped": skipped} if skipped else {}))
                bar.update(task, description=_described(name, row))
            bar.update(task, completed=done)
            stopping = crew.add_values({"asked": termination.asked})["asked"] > 0
            if done % config.save_every == 0 or last or stopping:
                states.save(trainer, root, done, crew, device, order)
                if crew.leads:
                    checkpoint.rotate(root, config.keep, done)
            if stopping and not last:
                raise Stopped(f"{name}: stopped and saved after step {done} of {config.steps}; "
                              "the same command goes on from there")  # fmt: skip
            if on_sample is not None and _sampled(config, done):
                stage.model.eval()
                on_gpu = [device] if device.startswith("cuda") else []
                with trainer.whole(), torch.random.fork_rng(on_gpu):
                    journal.write(done, on_sample(done) if crew.leads else {})
                meter.start()
        trainer.finish()
    stage.model.eval()


def _trainer(stage: Stage, config: LoopConfig, crew: Team, device: str) -> Replica | Sharded:
    if config.zero:
        from unified.train.zero import Sharded  # DeepSpeed: only where it is asked for

        return Sharded(stage, config, crew, device)
    return Replica(stage, config, crew, device)


class _Ready:
    """A stage whose first batch is made once, for the estimate and for the step."""

    def __init__(self, stage: Stage, first: int, steps: int):
        began = time.perf_counter()
        self.stage, self.first = stage, first
        self.made = stage.batch(first) if first < steps else []
        self.seconds = time.perf_counter() - began

    def batch(self, step: int) -> list[Any]:
        made, self.made = self.made, []  # handed out once: it is not to stay in memory
        return made if step == self.first and made else self.stage.batch(step)


def _meter(
    stage: Stage, config: LoopConfig, device: str, crew: Team, ready: _Ready, screen: Console
) -> Meter:
    """What the rest of the run will take, told before its first step, and what measures it."""
    if not ready.made:
        return Meter(0.0, 0.0)
    found = estimate(stage, config, ready.made, device, processes=crew.size, first=ready.first,
                     making=ready.seconds)  # fmt: skip
    for line in found.lines():
        screen.print(line, highlight=False, soft_wrap=True)
    return Meter(found.flops, peak_flops(device, config.precision) if found.flops else 0.0)


def _sampled(config: LoopConfig, done: int) -> bool:
    every = config.sample_every
    return every > 0 and (done % every == 0 or done == config.steps)


def _described(name: str, row: dict[str, float]) -> str:
    """The line before the bar: the loss, tokens a second, the share of the peak that is used."""
    words = f"{name} loss {row['loss']:.3f}"
    if "tokens_per_second" in row:
        words += f" · {row['tokens_per_second']:,.0f} tokens/s"
    return words + (f" · MFU {row['mfu']:.0%}" if "mfu" in row else "")


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed: activations of the same sizes come back every step, and mapping
    them afresh, page by page, costs a quarter of a step on two cores (LOG.md)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    trim_threshold, mmap_max = -1, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def _batches(ready: _Ready, config: LoopConfig, device: str) -> Generator[tuple[int, list[Any]]]:
    """Every step's batch, the same and in the same order however it is made: by worker processes,
    a step ahead on a GPU, or in line on a CPU (a second thread's OpenMP team would spin against
    the first one's)."""
    first = ready.first
    if config.workers:
        ready.made = []  # workers make their own
        yield from _from_workers(ready.stage, first, config)
        return
    if device == "cpu":
        for step in range(first, config.steps):
            yield step, ready.batch(step)
        return
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(ready.batch, first)
        for step in range(first, config.steps):
            batch = following.result()
            if step + 1 < config.steps:
                following = ahead.submit(ready.batch, step + 1)
            yield step, batch


class _Pools(Dataset):
    """Pool p: the batches of the steps that a stage makes together."""

    def __init__(self, stage: Stage):
        self.stage, self.size = stage, int(getattr(stage, "pool", 1))

    def __getitem__(self, pool: int) -> list[tuple[int, list[Any]]] | ValueError:
        steps = range(pool * self.size, (pool + 1) * self.size)
        try:
            return [(step, self.stage.batch(step)) for step in steps]
        except ValueError as error:  # as it is: the loader would wrap it in a worker's traceback
            return error


def _from_workers(stage: Stage, first: int, config: LoopConfig) -> Iterator[tuple[int, list[Any]]]:
    pools = _Pools(stage)
    order = range(first // pools.size, -(-config.steps // pools.size))
    own = torch.Generator()  # else the loader would draw from the one that training goes on with
    loader = DataLoader(pools, batch_size=None, sampler=order, num_workers=config.workers,
                        timeout=PATIENT, multiprocessing_context="fork", generator=own)  # fmt: skip
    for made in loader:
        if isinstance(made, ValueError):
            raise made
        yield from (each for each in made if first <= each[0] < config.steps)


@contextmanager
def _worker_deaths() -> Iterator[None]:
    """What the loader raises for a worker that died, by a signal or a broken pipe, made plain."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader"):
            raise
        clear_frames(error.__traceback__)  # lets go of the loader, and with it of its signals
        raise RuntimeError(
            f"a data worker died, or made nothing for {PATIENT} seconds; the run goes on from its "
            "last checkpoint, and with loop.workers=0 the reason is seen"
        ) from None
