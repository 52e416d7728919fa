"""Speed, compared fairly: the same work by several ways, in one process, turn by turn.

Timings on a shared machine are noisy: every round runs each way once, the order turning from round
to round, and ways are compared round by round. Knows nothing of what it times.
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
        peak: bytes that the process held at most, in any round; 0 where the system does not tell.
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


def interleaved(ways: Mapping[str, Way], rounds: int) -> list[Timed]:
    """Run every way once a round, after one round that does not count."""
    found = {name: Timed(name) for name in ways}
    names = list(ways)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            _forget_peak()
            units, seconds = ways[name]()
            if turn:
                found[name].units.append(units)
                found[name].seconds.append(seconds)
                found[name].peak = max(found[name].peak, _peak())
    return list(found.values())


def ratio(one: Timed, other: Timed) -> float:
    """How many times the rate of `other` that of `one` is: the median over the rounds."""
    pairs = zip(one.units, one.seconds, other.units, other.seconds, strict=True)
    return statistics.median((a / s) / (b / t) for a, s, b, t in pairs)


def rows(
    task: str, unit: str, found: list[Timed], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rows {task, way, unit, rate, rounds, seconds, peak_bytes, ratio, settings}: `ratio` is that
    of the first way's rate to this one's, the median over the rounds."""
    first = found[0]
    machine = {**machine_facts(), **settings}
    return [
        {"task": task, "way": one.name, "unit": unit, "rate": one.rate, "rounds": len(one.seconds),
         "seconds": statistics.median(one.seconds), "peak_bytes": one.peak,
         "ratio": ratio(first, one),
         "settings": machine}
        for one in found
    ]  # fmt: skip


def machine_facts() -> dict[str, Any]:
    """Threads, software, and what this machine reaches now: products and reading of memory."""
    side = 1024
    a, b = torch.randn(side, side), torch.randn(side, side)
    products = _best(lambda: torch.mm(a, b), 2 * side**3)
    block = torch.randn(2**25)  # 128 MB
    return {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "environment": {name: os.environ[name] for name in THREADS if name in os.environ},
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "toolkit": unified.__version__,
        "product_gflops": round(products / 1e9, 1),
        "read_gbytes": round(_best(lambda: block.sum(), block.numel() * 4) / 1e9, 1),
    }


def _best(work: Callable[[], Any], units: int, times: int = 5) -> float:
    work()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return units / min(seconds)


def _forget_peak() -> None:
    """Let the high-water mark of this process's memory start again (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    line = next((x for x in status.splitlines() if x.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(line.split()[1]) * 1024
