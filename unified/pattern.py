"""The order in which the codes of a grid are written, which are written at once, and the inverse.

A pattern is a permutation that refuses to be built when it is none, cut into steps. Raster writes
one code a step. Wavefront and delay write those of a step together, each knowing the steps before
it alone: a picture's anti-diagonals, or the codebooks of sound, each one step behind the one above
it (MusicGen, https://arxiv.org/abs/2306.05284).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Pattern:
    """order[k] is the raster index of the code written k-th; sizes, how many each step writes, one
    where left out."""

    order: tuple[int, ...]
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.order))):
            raise ValueError(f"not a permutation of {len(self.order)} codes: {self.order}")
        if self.sizes and (sum(self.sizes) != len(self.order) or min(self.sizes) < 1):
            raise ValueError(f"steps of {self.sizes} do not write {len(self.order)} codes")

    @property
    def steps(self) -> tuple[tuple[int, ...], ...]:
        """The raster indices that each step writes, in order."""
        ends = accumulate(self.sizes or (1,) * len(self.order), initial=0)
        return tuple(self.order[start:end] for start, end in pairwise(ends))

    def write(self, raster: Sequence[T]) -> list[T]:
        """Raster order -> written order."""
        self._check(len(raster))
        return [raster[index] for index in self.order]

    def read(self, written: Sequence[T]) -> list[T]:
        """Inverse of `write`."""
        self._check(len(written))
        raster = list(written)
        for k, index in enumerate(self.order):
            raster[index] = written[k]
        return raster

    def _check(self, length: int) -> None:
        if length != len(self.order):
            raise ValueError(f"{length} codes; the pattern orders {len(self.order)}")


def raster(rows: int, columns: int) -> Pattern:
    """Row by row, left to right."""
    return Pattern(tuple(range(rows * columns)))


def wavefront(rows: int, columns: int, slope: int = 1) -> Pattern:
    """Step k writes the codes with column + slope * row = k: with a slope of 1 the anti-diagonals,
    rows + columns - 1 steps; with 2 each code has the one above it to the right behind it, too."""
    if slope < 1:
        raise ValueError(f"a slope of {slope}; it is at least 1")
    index = [(c + slope * r, r, r * columns + c) for r in range(rows) for c in range(columns)]
    return _stepped(index)


def delay(steps: int, books: int) -> Pattern:
    """Of sound, (steps, books) in raster order: codebook b of time t is written at step t + b."""
    return _stepped([(t + b, b, t * books + b) for t in range(steps) for b in range(books)])


def _stepped(index: list[tuple[int, int, int]]) -> Pattern:
    """(step, place within it, raster index) of every code -> the pattern."""
    index = sorted(index)
    times = [step for step, _, _ in index]
    sizes = tuple(times.count(step) for step in sorted(set(times)))
    return Pattern(tuple(code for _, _, code in index), sizes)
