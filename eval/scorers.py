"""The scorers by name: how a reply is marked, and how marks become rows.

Each follows its benchmark's own rule; where it cannot, the benchmark's file says `proxy`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from unified.eval.answers import (
    chosen_option,
    mme_yes,
    mmmu_choice,
    mmmu_open_right,
    mmvet_share,
    plain,
    pope_yes,
    textvqa_accuracy,
    vqa_accuracy,
)
from unified.eval.drawn import Dpg, Facts, Fidelity, Geneval, Shows, Similarity, Tifa, Written
from unified.eval.items import Sample
from unified.eval.metrics import cider, word_errors, words_of
from unified.eval.rebuilding import Rebuilt
from unified.eval.scoring import (
    Context,
    Marks,
    Record,
    Reply,
    Scorer,
    Value,
    chance_of,
    mean,
    measured,
    ratio,
    skills_of,
    slices,
    units,
)
from unified.toybox.language import matches

PERCEPTION = frozenset(
    ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark",
     "artwork", "OCR")
)  # fmt: skip
COGNITION = frozenset(
    ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
)


class Mean:
    """The mean of a score in [0, 1] of each reply."""

    needs = ""

    def __init__(self, score: Callable[[Sample, Reply], float], metric: str = "accuracy"):
        self.score, self.metric = score, metric

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        return {"score": float(self.score(sample, reply)), **skills_of(sample)}

    def wrong(self, sample: Sample) -> Marks:
        return {"score": 0.0, **skills_of(sample)}

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]:
        for split, skill, inside in slices(records):
            found = units(inside, lambda group: np.mean([r["marks"]["score"] for r in group]))
            yield measured(self.metric, split, skill, found, mean, chance=chance_of(inside),
                           seed=context.seed)  # fmt: skip


def _exact(sample: Sample, reply: Reply) -> float:
    return plain(reply.text) in {plain(answer) for answer in sample.facts["answers"]}


def _toybox(sample: Sample, reply: Reply) -> float:
    return matches(reply.text, sample.facts["answers"])


def _vqa(sample: Sample, reply: Reply) -> float:
    return vqa_accuracy(reply.text, sample.facts["answers"])


def _textvqa(sample: Sample, reply: Reply) -> float:
    return textvqa_accuracy(reply.text, sample.facts["answers"])


def _mmvet(sample: Sample, reply: Reply) -> float:
    return mmvet_share(reply.text, sample.facts["answer"])


class Choice(Mean):
    """Multiple choice: the option that a free answer names, or the likeliest one."""

    def __init__(self) -> None:
        super().__init__(lambda sample, reply: 0.0)

    def chosen(self, sample: Sample, reply: Reply) -> int | None:
        if reply.likelihoods is not None:
            return int(np.argmax(reply.likelihoods))
        return chosen_option(reply.text, sample.facts["options"])

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        found = self.chosen(sample, reply)
        score = float(found == sample.facts["answer"])
        return {"said": found, "score": score, **skills_of(sample)}


class Mmmu(Choice):
    """MMMU: a choice, guessed at random where the answer names none as the official code does, or
    an open answer by its rules."""

    def chosen(self, sample: Sample, reply: Reply) -> int | None:
        if reply.likelihoods is not None:
            return super().chosen(sample, reply)
        found = mmmu_choice(reply.text, sample.facts["options"])
        if found is None:
            found = random.Random(sample.id).randrange(len(sample.facts["options"]))
        return found

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        if "options" in sample.facts:
            return super().mark(sample, reply, judge)
        return {"score": float(mmmu_open_right(reply.text, sample.facts["answers"]))}


class Circular(Choice):
    """MMBench: a question is right where it is right in every rotation of its options."""

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]:
        for split, skill, inside in slices(records):
            scores = units(inside, lambda g: [min(r["marks"]["score"] for r in g),
                                              g[0]["marks"]["score"]])  # fmt: skip
            yield measured("circular accuracy", split, skill, scores[:, :1], mean,
                           chance=chance_of(inside), seed=context.seed)  # fmt: skip
            once = float(np.mean(units(inside, lambda g: 1 / len(g))))
            yield measured("accuracy, first turn", split, skill, scores[:, 1:], mean, chance=once,
                           seed=context.seed)  # fmt: skip


class Pope:
    """Accuracy, precision, recall and F1 of "yes", and how often it is said."""

    needs = ""

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        return self._marks(pope_yes(reply.text), sample)

    def wrong(self, sample: Sample) -> Marks:
        return self._marks(not sample.facts["label"], sample)

    @staticmethod
    def _marks(said: bool, sample: Sample) -> Marks:
        label = sample.facts["label"]
        return {"said": said, "label": label, "score": float(said == label)}

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]:
        for split, skill, inside in slices(records):
            found = units(inside, lambda g: [g[0]["marks"]["said"], g[0]["marks"]["label"]])
            for metric, statistic in POPE_METRICS.items():
                yield measured(metric, split, skill, found, statistic, seed=context.seed)


def _hits(found: np.ndarray) -> float:
    return float((found[:, 0] * found[:, 1]).sum())


def pope_precision(found: np.ndarray) -> float:
    """(n, 2) of said and label -> share of the said that are so; 0 where none is said."""
    said = float(found[:, 0].sum())
    return _hits(found) / said if said else 0.0


def pope_recall(found: np.ndarray) -> float:
    there = float(found[:, 1].sum())
    return _hits(found) / there if there else 0.0


def pope_f1(found: np.ndarray) -> float:
    """Harmonic mean of precision and recall; 0 where both are."""
    precision, recall = pope_precision(found), pope_recall(found)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


POPE_METRICS: dict[str, Callable[[np.ndarray], float]] = {
    "accuracy": lambda found: float((found[:, 0] == found[:, 1]).mean()),
    "f1": pope_f1,
    "precision": pope_precision,
    "recall": pope_recall,
    "yes share": lambda found: float(found[:, 0].mean()),
}


class Mme:
    """MME: of each task, 100 x (accuracy + share of pictures with both questions right); perception
    and cognition are the sums over their tasks, as officially."""

    needs = ""

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        said, label = mme_yes(reply.text), sample.facts["label"]
        return {"said": said, "label": label, "score": float(said == label)}

    def wrong(self, sample: Sample) -> Marks:
        return {"said": None, "label": sample.facts["label"], "score": 0.0}

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]:
        tasks = list(dict.fromkeys(record["skill"] for record in records))
        parts = [[task] for task in tasks]
        named = list(zip(tasks, parts, strict=True))
        for name, kinds in (("perception", PERCEPTION), ("cognition", COGNITION)):
            inside = [task for task in tasks if task in kinds]
            named += [(name, inside)] if inside else []
        for skill, wanted in named:
            inside = [record for record in records if record["skill"] in wanted]
            found = units(inside, lambda g: [wanted.index(g[0]["skill"]), self._right(g),  # noqa: B023
                                             all(r["marks"]["score"] for r in g)])  # fmt: skip
            yield measured("score", records[0]["split"], skill, found, self.score,
                           groups=found[:, 0].tolist(), chance=75.0 * len(wanted),
                           seed=context.seed)  # fmt: skip

    @staticmethod
    def _right(group: list[Record]) -> float:
        return float(np.mean([record["marks"]["score"] for record in group]))

    @staticmethod
    def score(found: np.ndarray) -> float:
        """(pictures, 3) of task, share right, both right -> the sum over the tasks."""
        return float(
            sum(100 * found[found[:, 0] == task, 1:].mean(0).sum() for task in set(found[:, 0]))
        )


class Cider:
    """CIDEr-D of captions; document frequencies are those of the references that were asked for."""

    needs = ""

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        return {"caption": reply.text}

    def wrong(self, sample: Sample) -> Marks:
        return {"caption": ""}

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]:
        said = {record["id"]: record["marks"]["caption"] for record in records}
        wanted = {key: context.samples[key].facts["references"] for key in said}
        scores = cider(said, wanted)
        for split, skill, inside in slices(records):
            found = np.array([scores[record["id"]] for record in inside])
            yield measured("CIDEr-D", split, skill, found, mean, seed=context.seed)


class Wer:
    """Word error rate: errors over words, of all together."""

    needs = ""

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        errors, words = word_errors(reply.text, sample.facts["transcript"])
        return {"errors": errors, "words": words, "score": max(0.0, 1 - errors / words)}

    def wrong(self, sample: Sample) -> Marks:
        words = len(words_of(sample.facts["transcript"]))  # as `word_errors` counts them
        return {"errors": words, "words": words, "score": 0.0}

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]:
        for split, skill, inside in slices(records):
            found = units(inside, lambda g: [g[0]["marks"]["errors"], g[0]["marks"]["words"]])
            yield measured("word error rate", split, skill, found, ratio, seed=context.seed)


SCORERS: dict[str, Scorer] = {
    "exact": Mean(_exact),
    "toybox": Mean(_toybox),
    "vqa": Mean(_vqa, "VQA accuracy"),
    "textvqa": Mean(_textvqa, "VQA accuracy"),
    "choice": Choice(),
    "circular": Circular(),
    "mmmu": Mmmu(),
    "mmvet": Mean(_mmvet, "parts said"),
    "pope": Pope(),
    "mme": Mme(),
    "cider": Cider(),
    "wer": Wer(),
    "facts": Facts(),
    "geneval": Geneval(),
    "dpg": Dpg(),
    "tifa": Tifa(),
    "shows": Shows(),
    "explained": Shows(explained=True),
    "written": Written(),
    "fidelity": Fidelity(),
    "similarity": Similarity(),
    "rebuilt": Rebuilt(),
}


def scorer(name: str) -> Scorer:
    """The scorer of a name.

    Raises:
        ValueError: there is none; lists those there are.
    """
    if name not in SCORERS:
        raise ValueError(f"unknown scorer {name!r}; one of {', '.join(SCORERS)}")
    return SCORERS[name]
