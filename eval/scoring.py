"""What every scorer is made of: marks of a sample, and rows over many with how sure they are.

A record is what stands in the file of samples: {id, group, skill, split, chance, reply, files,
marks, unscored, …}. A scorer writes `marks` for one sample, "score" in [0, 1] among them where it
has one, and later makes `Value`s of all the records that count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unified.eval.items import Sample
from unified.eval.metrics import bootstrap

Record = Mapping[str, Any]
Marks = dict[str, Any]


@dataclass(frozen=True)
class Value:
    """One number and how sure it is; chance None: the benchmark's."""

    metric: str
    value: float
    stderr: float
    ci: tuple[float, float]
    n: int
    skill: str = "overall"
    split: str = "test"
    chance: float | None = None
    higher_is_better: bool | None = None


@dataclass
class Reply:
    """What a model gave: text, or the likelihood of each option, or pictures; and what it was given
    for each of them, where that is no prompt."""

    text: str = ""
    likelihoods: list[float] | None = None
    pictures: list[Any] = field(default_factory=list)
    given: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Context:
    """Where the files of a task are, and its samples and judge, for scores of whole sets."""

    folder: Path
    samples: Mapping[str, Sample]
    judge: Any
    seed: int = 0


class Scorer(Protocol):
    """Attributes: needs: the kind of judge, "" for none."""

    needs: str

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        """What one reply is worth. Raises Unscored."""
        ...

    def wrong(self, sample: Sample) -> Marks:
        """The marks of a reply that counts as wrong."""
        ...

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]: ...


def skills_of(sample: Sample) -> Marks:
    """The marks of a sample that counts for several skills."""
    return {"skills": list(sample.facts["skills"])} if sample.facts.get("skills") else {}


def slices(records: Sequence[Record]) -> Iterator[tuple[str, str, list[Record]]]:
    """(split, skill, records): of each split all records as "overall", then each skill if there is
    more than one. A record counts for the skills among its marks, else for its own."""

    def of(record: Record) -> Sequence[str]:
        found: Sequence[str] = record["marks"].get("skills", [record["skill"]])
        return found

    for split in dict.fromkeys(record["split"] for record in records):
        inside = [record for record in records if record["split"] == split]
        yield split, "overall", inside
        names = list(dict.fromkeys(name for record in inside for name in of(record)))
        if len(names) > 1:
            for name in names:
                yield split, name, [record for record in inside if name in of(record)]


def units(records: Sequence[Record], vector: Callable[[list[Record]], Any]) -> np.ndarray:
    """One row for each group of records that are scored as one, (groups, …)."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["group"], []).append(record)
    return np.array([vector(group) for group in groups.values()], dtype=np.float64)


def measured(
    metric: str,
    split: str,
    skill: str,
    found: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    chance: float | None = None,
    higher_is_better: bool | None = None,
    groups: Sequence[Any] | None = None,
    seed: int = 0,
) -> Value:
    """A statistic of units with its bootstrap."""
    stderr, ci = bootstrap(found, statistic, groups=groups, seed=seed)
    return Value(metric, float(statistic(found)), stderr, ci, len(found), skill, split, chance,
                 higher_is_better)  # fmt: skip


def mean(found: np.ndarray) -> float:
    return float(found.mean())


def ratio(found: np.ndarray) -> float:
    """Sum of the first column over the sum of the second; 0 where that is 0."""
    above, below = found.sum(0)[:2]
    return float(above / below) if below else 0.0


def chance_of(records: Sequence[Record]) -> float | None:
    """The mean chance of guessing, where every sample has its own."""
    known = [record["chance"] for record in records]
    return None if any(c is None for c in known) or not known else float(np.mean(known))
