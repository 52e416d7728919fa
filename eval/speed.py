"""Speed, compared fairly: the same work by several ways, in one process, turn by turn.

Timings on a shared machine are noisy: every round runs each way once, the order turning from round
to round, and ways are compared round by round. On CUDA a way has to end by reading a result, which
waits for the device. Knows nothing of what it times.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import unified

# what decides how threads wait and where they run; read when torch is imported
THREADS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_SPINCOUNT",
           "MKL_NUM_THREADS", "KMP_BLOCKTIME")  # fmt: skip


@dataclass
class Timed:
    """Rounds of one way.

    Attributes:
        seconds: of each round. units: what each round did (tokens, pictures).
        peak: bytes that were held at most, in any round: on CUDA of the device by torch's tensors,
            else by the process; 0 where the system does not tell.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    peak: int = 0

    @property
    def rate(self) -> float:
        """Units a second, the median of the rounds."""
        return statistics.median(u / s for u, s in zip(self.units, self.seconds, strict=True))


Way = Callable[[], tuple[int, float]]  # does a round; the units and seconds of it


def timed(work: Callable[[], int]) -> Way:
    """Work that returns its units -> a way."""

    def way() -> tuple[int, float]:
        began = time.perf_counter()
        units = work()
        return units, time.perf_counter() - began

    return way


def interleaved(ways: Mapping[str, Way], rounds: int, device: str = "cpu") -> list[Timed]:
    """Run every way once a round, after one round that does not count."""
    found = {name: Timed(name) for name in ways}
    names = list(ways)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            _forget_peak(device)
            units, seconds = ways[name]()
            if turn:
                found[name].units.append(units)
                found[name].seconds.append(seconds)
                found[name].peak = max(found[name].peak, _peak(device))
    return list(found.values())


def ratio(one: Timed, other: Timed) -> float:
    """How many times the rate of `other` that of `one` is: the median over the rounds."""
    pairs = zip(one.units, one.seconds, other.units, other.seconds, strict=True)
    return statistics.median((a / s) / (b / t) for a, s, b, t in pairs)


def rows(
    task: str, unit: str, found: list[Timed], settings: dict[str, Any], device: str = "cpu"
) -> list[dict[str, Any]]:
    """Rows {task, way, unit, rate, rounds, seconds, peak_bytes, ratio, settings}: `ratio` is that
    of the first way's rate to this one's, the median over the rounds."""
    first = found[0]
    machine = {**machine_facts(device), **settings}
    return [
        {"task": task, "way": one.name, "unit": unit, "rate": one.rate, "rounds": len(one.seconds),
         "seconds": statistics.median(one.seconds), "peak_bytes": one.peak,
         "ratio": ratio(first, one),
         "settings": machine}
        for one in found
    ]  # fmt: skip


def machine_facts(device: str = "cpu") -> dict[str, Any]:
    """Threads, software, and what the device reaches now: products and reading of memory."""
    return {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "environment": {name: os.environ[name] for name in THREADS if name in os.environ},
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "toolkit": unified.__version__,
        **(_gpu_facts(device) if torch.device(device).type == "cuda" else _cpu_reaches()),
    }


def _cpu_reaches() -> dict[str, Any]:
    side = 1024
    a, b = torch.randn(side, side), torch.randn(side, side)
    products = _best(lambda: torch.mm(a, b), 2 * side**3)
    block = torch.randn(2**25)  # 128 MB
    return {
        "product_gflops": round(products / 1e9, 1),
        "read_gbytes": round(_best(lambda: block.sum(), block.numel() * 4) / 1e9, 1),
    }


def _gpu_facts(device: str) -> dict[str, Any]:
    """What the GPU is, how torch is set to use it, and what it reaches on random numbers. Memory is
    read by a sum over 1 GiB or copied from there, whichever moves more; far more than caches hold.
    """
    has = torch.cuda.get_device_properties(device)
    read = _gpu_reads(device)
    products = {
        "product_gflops": round(_gpu_multiplies(device, 8192, torch.bfloat16) / 1e9, 1),
        "product_gflops_fp32": round(_gpu_multiplies(device, 4096, torch.float32) / 1e9, 1),
    }
    torch.cuda.empty_cache()
    return {
        "device": has.name,
        "capability": f"{has.major}.{has.minor}",
        "device_gbytes": round(has.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "read_gbytes": round(read / 1e9, 1),
        **products,
    }


def _gpu_reads(device: str) -> float:
    block = torch.randn(2**28, device=device)
    other = torch.empty_like(block)
    read = _best_on_gpu(block.sum, block.nbytes, device)
    return max(read, _best_on_gpu(lambda: other.copy_(block), 2 * block.nbytes, device))


def _gpu_multiplies(device: str, side: int, dtype: torch.dtype) -> float:
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return _best_on_gpu(lambda: torch.mm(a, b), 2 * side**3, device)


def _best_on_gpu(work: Callable[[], Any], units: int, device: str, times: int = 10) -> float:
    """Units a second of the best of some runs, timed by the device itself."""
    for _ in range(3):
        work()
    seconds = []
    with torch.cuda.device(device):
        for _ in range(times):
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            marks[0].record()
            work()
            marks[1].record()
            marks[1].synchronize()
            seconds.append(marks[0].elapsed_time(marks[1]) / 1e3)
    return units / min(seconds)


def _best(work: Callable[[], Any], units: int, times: int = 5) -> float:
    work()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return units / min(seconds)


def _forget_peak(device: str) -> None:
    """Let the high-water mark of the device's or (Linux) this process's memory start again."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    line = next((x for x in status.splitlines() if x.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(line.split()[1]) * 1024
