"""Which sample of which source comes when: pure functions of (seed, number).

So nothing is lost or repeated, however often a run is stopped and however many processes draw.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from functools import lru_cache

import numpy as np


class Mixture:
    """Sources by weight, exactly: in every cycle each comes as often as its weight says, in an
    order of the cycle's own, and its samples come one after the other.

    Args:
        weights: whole numbers by source.
    """

    def __init__(self, weights: dict[str, int], seed: int):
        wrong = {name: weight for name, weight in weights.items() if weight < 1}
        if wrong or not weights:
            raise ValueError(f"weights are whole numbers of at least 1, not {wrong or weights}")
        self.weights, self.seed = weights, seed
        self.length = sum(weights.values())

    def pick(self, number: int) -> tuple[str, int]:
        """The source of the `number`-th sample of all, and its number within the source."""
        cycle, place = divmod(number, self.length)
        order, ranks = _cycle(tuple(self.weights.items()), self.seed, cycle)
        name = order[place]
        return name, cycle * self.weights[name] + ranks[place]


@lru_cache(maxsize=64)
def _cycle(
    weights: tuple[tuple[str, int], ...], seed: int, cycle: int
) -> tuple[list[str], list[int]]:
    """Sources in the order of a cycle, and the how-manieth of its source each place is."""
    order = [name for name, weight in weights for _ in range(weight)]
    random.Random(f"{seed}/cycle/{cycle}").shuffle(order)
    places: dict[str, list[int]] = {}
    for place, name in enumerate(order):
        places.setdefault(name, []).append(place)
    return order, [bisect_left(places[name], place) for place, name in enumerate(order)]


class Epochs:
    """`length` samples over and over, each epoch in an order of its own."""

    def __init__(self, length: int, seed: int):
        if length < 1:
            raise ValueError("no samples to go through")
        self.length, self.seed = length, seed
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def index(self, number: int) -> tuple[int, int]:
        """(epoch, index of the sample) of the `number`-th draw."""
        epoch, place = divmod(number, self.length)
        if self._order[0] != epoch:
            generator = np.random.default_rng([self.seed, epoch])
            self._order = epoch, generator.permutation(self.length)
        return epoch, int(self._order[1][place])
