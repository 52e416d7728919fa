"""The order in which the codes of a grid are written, and its inverse.

A pattern is a permutation that refuses to be built when it is none. Raster is the first; others
(wavefront, delay) join here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Pattern:
    """order[k] is the raster index of the code written k-th."""

    order: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.order))):
            raise ValueError(f"not a permutation of {len(self.order)} codes: {self.order}")

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
