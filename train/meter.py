"""What a run will take and how well it uses the machine: peak, work, memory, time.

Measured on one micro-batch before the start, where a stage's micro-batches say how many `tokens`
they hold; its loss must then be without side effects. Knows nothing of what tokens are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from unified.precision import autocast, fast_bf16
from unified.train.optimize import Loss
from unified.train.settings import LoopConfig

FP32 = 4  # bytes


def peak_flops(device: str, precision: str = "auto") -> float:
    """Floating point operations a second of the matrix product at its best, measured.

    The products grow until one takes 10 ms; under half a second in all on a CPU that has nothing
    else to do.
    """
    bf16 = precision == "bf16" or precision == "auto" and fast_bf16(device)
    size, best = 256, 0.0
    began = time.perf_counter()
    while time.perf_counter() - began < 0.4:
        a, b = _factors(size, device, torch.bfloat16 if bf16 else torch.float32)
        seconds = min(_seconds(a, b) for _ in range(3))
        best = max(best, 2 * size**3 / seconds)
        if seconds > 0.01 or size >= 16384:
            break
        size *= 2
    return best


def _factors(size: int, device: str, dtype: torch.dtype) -> torch.Tensor:
    """Random numbers on a GPU, which multiplies ones faster (it draws less power); no generator
    that training goes on with is touched."""
    if torch.device(device).type != "cuda":
        return torch.ones(2, size, size, device=device, dtype=dtype)
    own = torch.Generator(device).manual_seed(0)
    return torch.randn(2, size, size, device=device, dtype=dtype, generator=own)


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    _settle(a.device)
    began = time.perf_counter()
    a @ b
    _settle(a.device)
    return time.perf_counter() - began


def _settle(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Estimate:
    """What a run will take, in one of its processes.

    Attributes:
        trained, frozen: parameters.
        weights, gradients, optimizer, activations: bytes; of the activations those of the largest
            micro-batch of a step. 0 where they were not measured.
        tokens: of all steps, without padding.
        seconds: of all steps.
        flops: of a token, forward and backward.
    """

    steps: int
    trained: int
    frozen: int
    weights: int
    gradients: int
    optimizer: int
    activations: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flops: float = 0.0

    @property
    def memory(self) -> int:
        """Bytes during a backward pass. What the operations need besides and what the allocator
        holds back is not in it: up to as much again where the model is small."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def values(self) -> dict[str, float]:
        return {**asdict(self), "memory": self.memory}

    def lines(self) -> Iterator[str]:
        """For people."""
        about = f"{self.trained / 1e6:.2f}M parameters trained, {self.frozen / 1e6:.2f}M frozen"
        if self.tokens:
            about += f"; {_short(self.tokens)} tokens in {self.steps} steps"
        if self.seconds:
            about += f", about {_duration(self.seconds)}"
        yield about
        parts = {
            "weights": self.weights, "gradients": self.gradients, "optimizer": self.optimizer,
            "activations": self.activations,
        }  # fmt: skip
        named = ", ".join(f"{name} {_size(size)}" for name, size in parts.items() if size)
        what = "" if self.activations else ", activations aside"
        yield f"memory about {_size(self.memory)} a process{what}: {named}"


def estimate(
    stage: Loss, config: LoopConfig, batch: list[Any], device: str, *, processes: int = 1,
    first: int = 0, making: float = 0.0,
) -> Estimate:  # fmt: skip
    """What training will take from step `first` on, whose micro-batches `batch` holds; weights,
    gradients and random numbers stay as they are.

    Args:
        making: seconds that it took to make the batch (of a pool's steps, if the stage has one).

    Sizes follow from the settings; with ZeRO they are divided by the processes. Activations, time
    and operations are measured; at ZeRO's stage 3, for which a pass of the whole model may be too
    large, operations are counted from the weights and the rest is left out.
    """
    sizes = _sizes(stage.model, config, processes)
    if not all(getattr(part, "tokens", 0) for part in batch):
        return sizes
    tokens, steps = sum(part.tokens for part in batch), config.steps - first
    sizes = replace(sizes, steps=steps, tokens=tokens * steps, flops=_counted(stage.model))
    if config.zero == 3:
        return sizes
    largest = max(batch, key=lambda part: part.tokens)
    training = stage.model.training
    stage.model.train()
    with torch.random.fork_rng([device] if device.startswith("cuda") else []):
        activations, flops = _work(stage, largest, first, config, device)
        _settle(device)
        began = time.perf_counter()
        _pass(stage, largest, first, config, device)
        _settle(device)
        computing = time.perf_counter() - began
    stage.model.zero_grad(set_to_none=True)
    stage.model.train(training)
    each = computing * tokens / largest.tokens / processes
    if device == "cpu" and not config.workers:  # else made meanwhile
        each += making / int(getattr(stage, "pool", 1))
    return replace(
        sizes, activations=activations, seconds=each * steps, flops=flops / largest.tokens
    )


def _sizes(model: nn.Module, config: LoopConfig, processes: int) -> Estimate:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    whole = sum(p.numel() * p.element_size() for p in model.parameters())
    whole += sum(b.numel() * b.element_size() for b in model.buffers())
    moments = 2 * trained
    if config.optimizer == "muon":
        moments -= sum(p.numel() for p in model.parameters() if p.requires_grad and p.ndim == 2)
    moments += trained if config.ema is not None else 0
    share = [1 if config.zero < stage else processes for stage in (1, 2, 3)]
    optimizer = FP32 * moments // share[0]
    if config.zero:  # keeps a copy of the weights to update
        optimizer += FP32 * trained // processes
    frozen = sum(p.numel() for p in model.parameters()) - trained
    return Estimate(config.steps, trained, frozen, whole // share[2], FP32 * trained // share[1],
                    optimizer)  # fmt: skip


def _counted(model: nn.Module) -> float:
    """Operations of a token by the rule of thumb: two for each weight of a matrix forward, two for
    its input's gradient, two for its own if it is trained. Tables that are looked up have none."""
    tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices = (p for p in model.parameters() if p.ndim >= 2 and p not in tables)
    return float(sum(p.numel() * (6 if p.requires_grad else 4) for p in matrices))


def _pass(stage: Loss, part: Any, step: int, config: LoopConfig, device: str) -> None:
    with autocast(device, config.precision):
        loss, _ = stage.loss(part, step)
    loss.backward()


def _work(stage: Loss, part: Any, step: int, config: LoopConfig, device: str) -> tuple[int, float]:
    """Bytes that a micro-batch's forward pass keeps for the backward pass, and the operations of
    both."""
    own = {p.untyped_storage().data_ptr() for p in stage.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False, custom_mapping=_cpu_attention())
    with ExitStack() as held:
        held.enter_context(counter)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            with autocast(device, config.precision):
                loss, _ = stage.loss(part, step)
        forward = counter.get_total_flops()
        loss.backward()
    work = counter.get_total_flops()
    if config.recompute:  # the second forward pass is no use of the machine
        work -= forward
    return sum(kept.values()), float(work)


def _cpu_attention() -> dict[Any, Any]:
    """Of the attention that a CPU has and the counter does not know: two products forward, five
    backward (one of them the scores again)."""

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        (b, h, s, d), t, v = query, key[-2], value[-1]
        return int(2 * b * h * s * t * (d + v))

    def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        (b, h, s, d), t, v = query, key[-2], value[-1]
        return int(2 * b * h * s * t * (3 * d + 2 * v))

    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class Meter:
    """Rates since the last look: samples, and tokens and their share of the peak where known.

    Args:
        flops: of a token; 0 where it is unknown.
        peak: operations a second of this process's device.
    """

    def __init__(self, flops: float, peak: float):
        self.flops, self.peak = flops, peak
        self.start()

    def start(self) -> None:
        self.samples, self.tokens, self.clock = 0, 0, time.perf_counter()

    def add(self, samples: int, parts: Any) -> None:
        """A step of so many samples, and this process's micro-batches."""
        self.samples += samples
        self.tokens += sum(getattr(part, "tokens", 0) for part in parts)

    def counts(self) -> dict[str, float]:
        """What is to be summed over the processes."""
        return {"tokens": float(self.tokens), "peak": self.peak}

    def rates(self, counts: dict[str, float]) -> dict[str, float]:
        """Rates from summed `counts`; counting starts again."""
        seconds = time.perf_counter() - self.clock
        found = {"samples_per_second": self.samples / seconds}
        if counts["tokens"]:
            found["tokens_per_second"] = counts["tokens"] / seconds
            if self.flops and counts["peak"]:
                found["mfu"] = found["tokens_per_second"] * self.flops / counts["peak"]
        self.start()
        return found
