"""Whether two models that answered the same units differ: counts, an interval, an exact test.

Whether learning to draw helps or hurts learning to see is such a question, asked of a model and its
twins. Pure functions over records; knows nothing of files or pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unified.eval.metrics import mcnemar

RIGHT = 0.5  # a sample is right where its score is above this
CLEAR = 0.05  # corrected p below which a difference is called one
RESAMPLES = 4000

Outcomes = dict[str, tuple[str, bool]]  # unit -> its split, and whether it is right


class Counts(NamedTuple):
    """How many units are right by both, by the first alone, by the second alone, by neither."""

    both: int
    first: int
    second: int
    neither: int

    @property
    def n(self) -> int:
        return sum(self)

    @property
    def difference(self) -> float:
        """Share that the first has right, less that of the second."""
        return (self.first - self.second) / self.n if self.n else 0.0

    @property
    def p(self) -> float:
        """Of McNemar's exact test, two-sided."""
        return mcnemar(self.first, self.second)

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """95% of the differences when units are drawn again with replacement, each with both of its
        answers: a paired bootstrap."""
        if not self.n:
            return 0.0, 0.0
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(self.n, np.array(self) / self.n, size=RESAMPLES)
        low, high = np.quantile((drawn[:, 1] - drawn[:, 2]) / self.n, [0.025, 0.975])
        return float(low), float(high)

    def finding(self, p: float) -> str:
        """What may be said of the two models, given the p of this comparison among all that were
        made (`holm`)."""
        if p >= CLEAR:
            return "not clearly different"
        return "better than the twin" if self.first > self.second else "worse than the twin"


def holm(values: Sequence[float]) -> list[float]:
    """Each p corrected for all of them, https://www.jstor.org/stable/4615733: where every p below
    CLEAR is called a difference, the chance that any such call is false stays below CLEAR."""
    order = sorted(range(len(values)), key=lambda k: values[k])
    out, least = [1.0] * len(values), 0.0
    for rank, k in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[k]))
        out[k] = least
    return out


def right(record: Mapping[str, Any]) -> bool:
    return bool((record["marks"].get("score") or 0) > RIGHT)


def quadrants(both: Sequence[tuple[bool, bool]]) -> Counts:
    """Pairs of (right by the first, right by the second), counted."""
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    return Counts(*(sum(pair == kind for pair in both) for kind in kinds))


def outcomes(records: Iterable[Mapping[str, Any]], unscored: str) -> Outcomes:
    """The units of one task's records: right where all of a unit's samples are.

    Args:
        unscored: the benchmark's rule. What is left out of its score is left out here, with the
            whole of its unit; what counts as wrong is wrong.
    """
    found: Outcomes = {}
    gone: set[str] = set()
    for record in records:
        unit = record["group"]
        if record["unscored"] and (record["outside"] or unscored == "left out"):
            gone.add(unit)
        elif record["unscored"] or "score" in record["marks"]:
            before = found.get(unit, (record["split"], True))[1]
            found[unit] = record["split"], before and right(record)
    return {unit: outcome for unit, outcome in found.items() if unit not in gone}


def compare(one: Outcomes, two: Outcomes) -> dict[str, Counts]:
    """By split, "seen" before "held_out", over the units that both have."""
    pairs: dict[str, list[tuple[bool, bool]]] = {}
    for unit in one.keys() & two.keys():
        pairs.setdefault(one[unit][0], []).append((one[unit][1], two[unit][1]))
    return {split: quadrants(both) for split, both in sorted(pairs.items(), reverse=True)}
