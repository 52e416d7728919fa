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
PATTERNS = ("raster", "wavefront")  # of pictures
SLOPE = 2  # of a picture's wavefront


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

    @property
    def lags(self) -> tuple[int, ...]:
        """Of each code in written order, how many of its step are written before it: all of a step
        are predicted from where the step before it ends."""
        return tuple(k for step in self.steps for k in range(len(step)))

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


def wavefront(rows: int, columns: int, slope: int = 1, codes: int = 1, lead: int = 0) -> Pattern:
    """Tile (r, c) begins at step c + slope * r: with a slope of 1 an anti-diagonal at once, in rows
    + columns - 1 steps; with 2 each tile has the one above it to the right behind it, too.

    Args:
        codes: of a tile, each a step after the one before it.
        lead: codes before those of all tiles, each a step of its own.
    """
    _check_slope(slope)
    index = [(k, k, k) for k in range(lead)]
    for place in range(rows * columns * codes):
        tile, code = divmod(place, codes)
        row, column = divmod(tile, columns)
        index.append((lead + column + slope * row + code, place, lead + place))
    return _stepped(index)


def delay(steps: int, books: int) -> Pattern:
    """Of sound, (steps, books) in raster order: codebook b of time t is written at step t + b."""
    return _stepped([(t + b, b, t * books + b) for t in range(steps) for b in range(books)])


def pictured(
    name: str, length: int, grid: Sequence[int] | None = None, slope: int = SLOPE
) -> Pattern | None:
    """The order of a picture's codes; None for raster, the codec's own.

    Args:
        length: codes of the picture: those of the whole, then as many for every tile.
        grid: rows and columns of tiles, None where codes belong to none.

    Raises:
        ValueError: unknown pattern, a slope below 1, or codes that lie on no such grid.
    """
    check(name, slope)
    if name == "raster":
        return None
    if grid is None or length < grid[0] * grid[1]:
        raise ValueError(f"pattern {name!r} needs codes that belong to the tiles of a grid; this "
                         "picture tokenizer's do not: pattern raster")  # fmt: skip
    rows, columns = grid
    codes, lead = divmod(length, rows * columns)
    return wavefront(rows, columns, slope, codes, lead)


def check(name: str, slope: int = SLOPE) -> None:
    """Raise ValueError for a pattern of pictures that there is none of, or a slope below 1."""
    if name not in PATTERNS:
        raise ValueError(f"unknown pattern {name!r}; one of {', '.join(PATTERNS)}")
    _check_slope(slope)


def _check_slope(slope: int) -> None:
    if not isinstance(slope, int) or slope < 1:
        raise ValueError(f"a slope of {slope}; it is a whole number, at least 1")


def _stepped(index: list[tuple[int, int, int]]) -> Pattern:
    """(step, place within it, raster index) of every code -> the pattern."""
    index = sorted(index)
    times = [step for step, _, _ in index]
    sizes = tuple(times.count(step) for step in sorted(set(times)))
    return Pattern(tuple(code for _, _, code in index), sizes)
