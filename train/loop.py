"""The one training loop: every stage of every recipe runs through `fit`.

A stage supplies a model, batches and a loss; the loop supplies optimizer, schedule, precision,
checkpoints, logs and progress. A batch is a pure function of its step, so that a run killed at any
moment continues with the same losses. Under torchrun each process takes its share of every step's
micro-batches (`distributed.py`). Knows nothing of pictures or words.
"""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from traceback import clear_frames
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader, Dataset

from unified import checkpoint
from unified.precision import autocast
from unified.train.distributed import Team, team
from unified.train.guards import Stopped, Termination, alone
from unified.train.muon import Muon
from unified.train.plots import curves

PATIENT = 60  # seconds that a data worker may take for a batch
PATIENCE = 10  # steps in a row without finite gradients
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
           TimeRemainingColumn())  # fmt: skip


class LoopConfig(BaseModel):
    """How long and how fast. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: int = 100
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay: int = 0  # last steps of a wsd schedule
    final_rate: float = 0.05  # of the peak, at the end
    optimizer: Literal["adamw", "muon"] = "adamw"
    freeze: list[str] = []  # modules or parameters that stay as they are, by name
    rates: dict[str, float] = {}  # of modules or parameters, beside the learning rate
    recompute: bool = False  # activations of the decoder's blocks: less memory, a third more time
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    # of the matrix products; weights and moments stay fp32. "auto": bf16 where it is native
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    workers: int = Field(default=0, ge=0)  # processes that make batches; 0 makes them in line
    save_every: int = 250
    log_every: int = 10
    sample_every: int = 500
    keep: int = 2


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


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up, then cosine over the rest, or constant with a linear decay at the end.

    The constant one (WSD, https://arxiv.org/abs/2404.06395) is the same up to its decay however
    many steps are to come: a run can be made longer from a checkpoint before the decay.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "cosine":
        done = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
        share = 0.5 * (1 + math.cos(math.pi * done))
    else:
        share = min(1.0, (config.steps - step) / max(1, config.decay))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * share)


def optimizers(model: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon (https://arxiv.org/abs/2502.16982) for the matrices of transformer
    blocks and AdamW for the rest; weight decay on matrices only. Each group holds its share of the
    learning rate as "share".

    Raises:
        ValueError: `freeze` or `rates` name what the model does not have, or nothing is left.
    """
    _freeze(model, config.freeze)
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            hidden = config.optimizer == "muon" and p.ndim == 2 and _inside(name)
            decay = config.weight_decay if p.ndim >= 2 else 0.0
            groups.setdefault((hidden, decay, _share(name, config.rates)), []).append(p)
    if not groups:
        raise ValueError("nothing is left to train: every parameter is frozen")
    for name in config.rates:
        _known(name, model)
    groups = dict(sorted(groups.items(), key=lambda entry: (-entry[0][1], entry[0][2])))
    rate = config.learning_rate
    adamw: list[dict[str, Any]]
    muon: list[dict[str, Any]]
    adamw, muon = (
        [
            {"params": parameters, "weight_decay": decay, "share": share}
            for (hidden, decay, share), parameters in groups.items()
            if hidden == wanted
        ]
        for wanted in (False, True)
    )
    found: list[torch.optim.Optimizer] = []
    if adamw:
        found.append(torch.optim.AdamW(adamw, lr=rate, betas=config.betas))
    if muon:
        found.append(Muon(muon, lr=rate, weight_decay=config.weight_decay))
    return found


def _freeze(model: nn.Module, names: list[str]) -> None:
    for name in names:
        _known(name, model)
        for own, parameter in model.named_parameters():
            if _below(own, name):
                parameter.requires_grad_(False)


def _below(own: str, name: str) -> bool:
    """Whether a parameter is the one of that name or in the module of that name."""
    return own == name or own.startswith(f"{name}.")


def _known(name: str, model: nn.Module) -> None:
    if not any(_below(own, name) for own, _ in model.named_parameters()):
        known = ", ".join(child for child, _ in model.named_children())
        raise ValueError(f"the model has no part {name!r}; its parts are {known}")


def _share(own: str, rates: dict[str, float]) -> float:
    """Of the learning rate: that of the longest name that fits, 1 without any."""
    fitting = [name for name in rates if _below(own, name)]
    return rates[max(fitting, key=len)] if fitting else 1.0


def _inside(name: str) -> bool:
    """Whether a parameter belongs to a transformer block, and not to an embedding or a head."""
    return ".layers." in name or ".blocks." in name


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
    runs every `sample_every` steps and at the end; what it returns is logged. A step whose
    gradients are not finite changes nothing and is counted as "skipped".

    Raises:
        ValueError: another run trains in this folder, or a setting does not fit the model.
        FloatingPointError: the gradients are not finite for PATIENCE steps in a row.
        Stopped: SIGTERM came; everything is saved.
    """
    if device == "cpu":
        _keep_freed_memory()
    crew = team()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        if crew.leads:
            held.enter_context(alone(folder))
        termination = held.enter_context(Termination())
        if config.workers:
            held.enter_context(_worker_deaths())
        torch.manual_seed(seed)
        if config.recompute:
            _recompute(stage.model)
        steppers = optimizers(stage.model, config)
        root = folder / "checkpoints"
        first = _resume(stage.model, steppers, root)
        journal = held.enter_context(_Journal(folder, first, crew.leads))
        quiet = not (progress and crew.leads)
        bar = held.enter_context(Progress(*COLUMNS, console=Console(stderr=True), disable=quiet))
        task = bar.add_task(name, total=config.steps, completed=first)
        bad, skipped, seen, clock = 0, 0, 0, time.perf_counter()
        batches = held.enter_context(closing(_batches(stage, first, config, device)))
        for step, batch in batches:
            rate = learning_rate(config, step)
            stage.model.train()
            total: Counter[str] = Counter()
            for part in crew.share(batch):
                with autocast(device, config.precision):
                    loss, values = stage.loss(part, step)
                loss.backward()
                total.update({"loss": loss.item(), **values})
            norm = update(stage.model, steppers, rate, config.clip, crew)
            bad = 0 if math.isfinite(norm) else bad + 1
            skipped += bad > 0
            if bad == PATIENCE:
                raise FloatingPointError(
                    f"{name}: gradients not finite for {PATIENCE} steps; last {step}"
                )
            seen += config.batch_size
            done = step + 1
            last = done == config.steps
            if done % config.log_every == 0 or last:
                now = time.perf_counter()
                row = {**crew.add_values(dict(total)), "norm": norm, "rate": rate,
                       "samples_per_second": seen / (now - clock)}  # fmt: skip
                seen, clock = 0, now
                journal.write(done, row | ({"skipped": skipped} if skipped else {}))
                bar.update(task, description=f"{name} loss {row['loss']:.3f}")
            bar.update(task, completed=done)
            stopping = crew.add_values({"asked": termination.asked})["asked"] > 0
            if done % config.save_every == 0 or last or stopping:
                if crew.leads:
                    _save(stage.model, steppers, root, done)
                    checkpoint.rotate(root, config.keep)
                crew.wait()
            if stopping and not last:
                raise Stopped(f"{name}: stopped and saved after step {done} of {config.steps}; "
                              "the same command goes on from there")  # fmt: skip
            if on_sample is not None and crew.leads and (done % config.sample_every == 0 or last):
                stage.model.eval()
                journal.write(done, on_sample(done))
                clock = time.perf_counter()
    stage.model.eval()


def update(
    model: nn.Module, steppers: list[torch.optim.Optimizer], rate: float, clip: float, crew: Team
) -> float:
    """One update from the gradients that lie in the parameters; their norm before clipping."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if crew.size > 1:  # a process whose micro-batches lack a kind has no gradient for its part
        for p in trained:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        crew.add(p.grad for p in trained if p.grad is not None)
    norm = float(nn.utils.clip_grad_norm_(trained, clip))
    if math.isfinite(norm):
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = rate * group["share"]
            stepper.step()
    model.zero_grad(set_to_none=True)
    return norm


def _recompute(model: nn.Module) -> None:
    """Keep no activations inside the decoder's blocks; the backward pass makes them again."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ValueError("recompute: this model's blocks cannot be computed twice")
    model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]


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


def _batches(
    stage: Stage, first: int, config: LoopConfig, device: str
) -> Generator[tuple[int, list[Any]]]:
    """Every step's batch, the same and in the same order however it is made: by worker processes,
    a step ahead on a GPU, or in line on a CPU (a second thread's OpenMP team would spin against
    the first one's)."""
    if config.workers:
        yield from _from_workers(stage, first, config)
        return
    if device == "cpu":
        for step in range(first, config.steps):
            yield step, stage.batch(step)
        return
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(stage.batch, first)
        for step in range(first, config.steps):
            batch = following.result()
            if step + 1 < config.steps:
                following = ahead.submit(stage.batch, step + 1)
            yield step, batch


class _Pools(Dataset):
    """Pool p: the batches of the steps that a stage makes together."""

    def __init__(self, stage: Stage):
        self.stage, self.size = stage, int(getattr(stage, "pool", 1))

    def __getitem__(self, pool: int) -> list[tuple[int, list[Any]]]:
        steps = range(pool * self.size, (pool + 1) * self.size)
        return [(step, self.stage.batch(step)) for step in steps]


def _from_workers(stage: Stage, first: int, config: LoopConfig) -> Iterator[tuple[int, list[Any]]]:
    pools = _Pools(stage)
    order = range(first // pools.size, -(-config.steps // pools.size))
    loader = DataLoader(pools, batch_size=None, sampler=order, num_workers=config.workers,
                        timeout=PATIENT, multiprocessing_context="fork")  # fmt: skip
    for made in loader:
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


class _Journal:
    """Named values by step: JSON lines, TensorBoard and, at the end, curves. What a killed run
    wrote past its last checkpoint is dropped on resume. Only the leading process writes."""

    def __init__(self, folder: Path, first: int, writes: bool):
        self.folder, self.path, self.writes = folder, folder / "log.jsonl", writes
        if not writes:
            return
        from torch.utils.tensorboard import SummaryWriter  # a second to import: only when training

        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first)
        if self.path.exists():
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= first]
            self.path.write_text("".join(line + "\n" for line in kept))

    def write(self, step: int, row: dict[str, float]) -> None:
        if not self.writes or not row:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
        for key, value in row.items():
            self.board.add_scalar(key, value, step)

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if self.writes:
            self.board.close()
            if kind is None and self.path.exists():
                curves(self.path, self.folder / "curves.png")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf  # a line cut off by the kill


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """All of a model that training changes: no frozen parameter."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _save(model: nn.Module, steppers: list[torch.optim.Optimizer], root: Path, step: int) -> None:
    tensors = {f"model.{k}": v for k, v in _state(model).items()}
    for number, stepper in enumerate(steppers):
        for index, entry in stepper.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{k}": v for k, v in entry.items()}
    tensors["rng"] = torch.get_rng_state()
    # tied weights share memory, which safetensors refuses: store copies
    checkpoint.save(root, step, {k: v.clone() for k, v in tensors.items()}, {"step": step})


def _resume(model: nn.Module, steppers: list[torch.optim.Optimizer], root: Path) -> int:
    """Load the newest valid checkpoint into model and optimizers; the step to go on from."""
    folder = checkpoint.latest(root)
    if folder is None:
        return 0
    tensors, state = checkpoint.load(folder)
    state_of_model = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
    differing = state_of_model.keys() ^ _state(model).keys()
    if differing:
        raise ValueError(
            f"{folder}: trains another set of weights than this run ({min(differing)}); give this "
            "one another folder (--out)"
        )
    model.load_state_dict(state_of_model, strict=False)
    moments: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in steppers]
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, index, what = key.split(".")
            moments[int(number)].setdefault(int(index), {})[what] = value
    for stepper, state_of in zip(steppers, moments, strict=True):
        groups = stepper.state_dict()["param_groups"]
        stepper.load_state_dict({"state": state_of, "param_groups": groups})
    torch.set_rng_state(tensors["rng"])
    return int(state["step"])
