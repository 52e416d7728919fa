"""The one training loop: every stage of every recipe runs through `fit`.

A stage supplies a model, batches and a loss; the loop supplies optimizer, schedule, precision,
checkpoints, logs and progress. A batch is a pure function of its step, so that a run killed at any
moment continues with the same losses. Knows nothing of pictures or words.
"""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from unified import checkpoint
from unified.precision import autocast
from unified.train.muon import Muon
from unified.train.plots import curves

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
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    # of the matrix products; weights and moments stay fp32. "auto": bf16 where it is native
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    save_every: int = 250
    log_every: int = 10
    sample_every: int = 500
    keep: int = 2


class Stage(Protocol):
    """What `fit` trains."""

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
    blocks and AdamW for the rest; weight decay on matrices only."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    hidden = {
        name for name, p in named if config.optimizer == "muon" and p.ndim == 2 and _inside(name)
    }
    rest = [p for name, p in named if name not in hidden]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
    ]
    if hidden:
        found.append(
            Muon(
                [p for name, p in named if name in hidden],
                lr=config.learning_rate,
                weight_decay=config.weight_decay,
            )
        )
    return found


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
    runs every `sample_every` steps and at the end; what it returns is logged.

    Raises:
        FloatingPointError: the loss is not finite for ten steps in a row.
    """
    from torch.utils.tensorboard import SummaryWriter  # a second to import: only when training

    if device == "cpu":
        _keep_freed_memory()
    root = folder / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    steppers = optimizers(stage.model, config)
    first = _resume(stage.model, steppers, root)
    board = SummaryWriter(str(folder / "tensorboard"), purge_step=first)
    log = _Log(folder / "log.jsonl", first)
    bad, seen, clock = 0, 0, time.perf_counter()
    with Progress(*COLUMNS, disable=not progress) as bar:
        task = bar.add_task(name, total=config.steps, completed=first)
        for step, batch in _batches(stage, first, config.steps, device):
            rate = learning_rate(config, step)
            for group in (group for stepper in steppers for group in stepper.param_groups):
                group["lr"] = rate
            stage.model.train()
            total: Counter[str] = Counter()
            for part in batch:
                with autocast(device, config.precision):
                    loss, values = stage.loss(part, step)
                loss.backward()
                total.update({"loss": loss.item(), **values})
            norm = nn.utils.clip_grad_norm_(stage.model.parameters(), config.clip)
            if torch.isfinite(norm):
                for stepper in steppers:
                    stepper.step()
                bad = 0
            else:
                bad += 1
                if bad == 10:
                    raise FloatingPointError(
                        f"{name}: gradients not finite for 10 steps; last {step}"
                    )
            stage.model.zero_grad(set_to_none=True)
            seen += config.batch_size
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                now = time.perf_counter()
                row = {
                    **total,
                    "norm": float(norm),
                    "rate": rate,
                    "samples_per_second": seen / (now - clock),
                }
                seen, clock = 0, now
                log.write(done, row)
                for key, value in row.items():
                    board.add_scalar(key, value, done)
                bar.update(task, description=f"{name} loss {row['loss']:.3f}")
            bar.update(task, completed=done)
            last = done == config.steps
            if done % config.save_every == 0 or last:
                _save(stage.model, steppers, root, done)
                checkpoint.rotate(root, config.keep)
            if on_sample is not None and (done % config.sample_every == 0 or last):
                stage.model.eval()
                for key, value in on_sample(done).items():
                    board.add_scalar(key, value, done)
                    log.write(done, {key: value})
                clock = time.perf_counter()
    board.close()
    curves(log.path, folder / "curves.png")
    stage.model.eval()


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


def _batches(stage: Stage, first: int, steps: int, device: str) -> Iterator[tuple[int, list[Any]]]:
    """Every step's batch; made one step ahead on a GPU. On a CPU it is made in line: a second
    thread's OpenMP team would spin against the first one's."""
    if device == "cpu":
        for step in range(first, steps):
            yield step, stage.batch(step)
        return
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(stage.batch, first)
        for step in range(first, steps):
            batch = following.result()
            if step + 1 < steps:
                following = ahead.submit(stage.batch, step + 1)
            yield step, batch


class _Log:
    """JSON lines; what a killed run wrote past its last checkpoint is dropped on resume."""

    def __init__(self, path: Path, first: int):
        self.path = path
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _step_of(line) <= first]
            path.write_text("".join(line + "\n" for line in lines))

    def write(self, step: int, row: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf  # a line cut off by the kill


def _save(model: nn.Module, steppers: list[torch.optim.Optimizer], root: Path, step: int) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
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
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
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
