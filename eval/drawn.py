"""Scorers of drawings: what a judge says of them, put together as each benchmark does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from unified.eval.features import in_parts
from unified.eval.items import Sample
from unified.eval.judges import Unscored
from unified.eval.metrics import around, frechet_distance, manifold_members
from unified.eval.scoring import (
    Context,
    Marks,
    Record,
    Reply,
    Value,
    mean,
    measured,
    ratio,
    skills_of,
    slices,
    units,
)
from unified.media.picture import MediaError, read

FEW = 100  # resamples of what takes long
NEIGHBOURS = 3


class Drawn:
    """The mean over a prompt's pictures, then over the prompts."""

    needs = "questions"
    metric = "score"

    def wrong(self, sample: Sample) -> Marks:
        return {"pictures": [0.0], "score": 0.0, **skills_of(sample)}

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]:
        for split, skill, inside in slices(records):
            found = units(inside, lambda group: group[0]["marks"]["score"])
            yield measured(self.metric, split, skill, found, mean, seed=context.seed)

    @staticmethod
    def marks(pictures: Sequence[float], **more: Any) -> Marks:
        scores = [float(score) for score in pictures]
        return {"pictures": scores, "score": float(np.mean(scores)), **more}


class Facts(Drawn):
    """Exact facts of a toybox picture: what was asked for and nothing else."""

    needs, metric = "facts", "accuracy"

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        request = sample.facts["request"]
        return self.marks([judge.fulfils(picture, request) for picture in reply.pictures])


class Geneval(Drawn):
    """GenEval: a picture is right or wrong; overall is the mean of the tags' means."""

    needs = "facts"

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        metadata = sample.facts["metadata"]
        return self.marks([judge.geneval(picture, metadata) for picture in reply.pictures])

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]:
        for split, skill, inside in slices(records):
            tags = list(dict.fromkeys(record["skill"] for record in inside))
            found = units(inside, lambda g: [tags.index(g[0]["skill"]),  # noqa: B023
                                             sum(g[0]["marks"]["pictures"]),
                                             len(g[0]["marks"]["pictures"])])  # fmt: skip
            yield measured("score", split, skill, found, self.overall,
                           groups=found[:, 0].tolist(), seed=context.seed)  # fmt: skip

    @staticmethod
    def overall(found: np.ndarray) -> float:
        """(prompts, 3) of tag, pictures right, pictures -> the mean of the tags' means."""
        return float(np.mean([ratio(found[found[:, 0] == tag, 1:]) for tag in set(found[:, 0])]))


class Dpg(Drawn):
    """DPG-Bench: of each picture the share of questions answered with yes, where a question counts
    only if all that it depends on are answered so; by category, without that."""

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        asked = sample.facts["questions"]
        words = [question["question"] for question in asked.values()]
        pictures, said = [], []
        for picture in reply.pictures:
            yes = dict(zip(asked, judge.yes([picture] * len(words), words), strict=True))
            pictures.append(self.depending(yes, asked))
            said.append(yes)
        categories: dict[str, list[float]] = {}
        for yes in said:
            for key, value in yes.items():
                categories.setdefault(asked[key]["category"], []).append(float(value))
        means = {name: [sum(v), len(v)] for name, v in categories.items()}
        return self.marks(pictures, categories=means)

    def wrong(self, sample: Sample) -> Marks:
        counts: dict[str, list[float]] = {}
        for question in sample.facts["questions"].values():
            counts.setdefault(question["category"], [0.0, 0])[1] += 1
        return super().wrong(sample) | {"categories": counts}

    @staticmethod
    def depending(yes: dict[str, bool], asked: dict[str, dict[str, Any]]) -> float:
        """In the order of the file: a question whose parent failed, or counts as failed, fails."""
        counted = {key: float(value) for key, value in yes.items()}
        for key, question in asked.items():
            if any(counted.get(parent) == 0 for parent in question["parents"]):
                counted[key] = 0.0
        return sum(counted.values()) / len(counted)

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]:
        yield from super().rows(records, context)
        yield from by_kind(records, "categories", context)


class Tifa(Drawn):
    """TIFA: the share of questions that the judge answers as the prompt implies."""

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        pictures: list[float] = []
        kinds: dict[str, list[float]] = {}
        for picture in reply.pictures:
            right = []
            for asked in sample.facts["questions"]:
                choices = [str(choice) for choice in asked["choices"]]
                found = choices[judge.choose(picture, asked["question"], choices)]
                right.append(float(found == str(asked["answer"])))
                tally = kinds.setdefault(str(asked["type"]), [0.0, 0])
                tally[0] += right[-1]
                tally[1] += 1
            pictures.append(float(np.mean(right)))
        return self.marks(pictures, kinds=kinds)

    def wrong(self, sample: Sample) -> Marks:
        kinds: dict[str, list[float]] = {}
        for asked in sample.facts["questions"]:
            kinds.setdefault(str(asked["type"]), [0.0, 0])[1] += 1
        return super().wrong(sample) | {"kinds": kinds}

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]:
        yield from super().rows(records, context)
        yield from by_kind(records, "kinds", context)


def by_kind(records: Sequence[Record], key: str, context: Context) -> Iterator[Value]:
    """Rows over the questions of each kind: marks[key] is {kind: [right, asked]}."""
    for kind in dict.fromkeys(name for record in records for name in record["marks"][key]):
        inside = [record for record in records if kind in record["marks"][key]]
        found = units(inside, lambda g: g[0]["marks"][key][kind])  # noqa: B023
        yield measured("questions", inside[0]["split"], f"{kind} questions", found, ratio,
                       seed=context.seed)  # fmt: skip


class Shows(Drawn):
    """Whether the judge says that a picture shows its prompt, https://arxiv.org/abs/2404.01291,
    with yes or no in place of the probability of yes."""

    metric = "said to show it"

    def __init__(self, explained: bool = False):
        self.explained = explained

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        question = f'Does this figure show "{sample.facts["text"]}"?'
        if self.explained:
            question += f" It must be so that: {sample.facts['explanation']}"
        question += " Please answer yes or no."
        said = judge.yes(reply.pictures, [question] * len(reply.pictures))
        return self.marks(said, **skills_of(sample))


class Written(Drawn):
    """Nothing but how much was written; the official scorer does the rest."""

    needs, metric = "", "files written"

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        return self.marks([1.0] * len(reply.pictures))


class Similarity:
    """CLIPScore, https://arxiv.org/abs/2104.08718: 2.5 times the cosine of picture and prompt, not
    below 0, of whichever encoder is the judge; the mean over a prompt's pictures. It says nothing
    of right and wrong, so there are no failures and no comparison by units."""

    needs = "similarity"

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        cosines = judge.cosines(reply.pictures, sample.facts["text"])
        if not np.isfinite(cosines).all():
            raise Unscored(f"the judge {judge.name} gave no number")
        return {"similarity": float(np.mean([2.5 * max(0.0, cosine) for cosine in cosines]))}

    def wrong(self, sample: Sample) -> Marks:
        return {"similarity": 0.0}

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]:
        for split, skill, inside in slices(records):
            found = units(inside, lambda group: group[0]["marks"]["similarity"])
            yield measured("CLIPScore-like", split, skill, found, mean, seed=context.seed)


class Fidelity:
    """Drawings as a set against real pictures: Fréchet distance, precision and recall. How sure the
    first two are is of other drawings, recall of other real pictures."""

    needs = "features"

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        for real in sample.pictures:
            real.open()  # a real picture that cannot be read leaves its drawing out
        return {}

    def wrong(self, sample: Sample) -> Marks:
        return {}

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]:
        try:
            files = (context.folder / name for record in records for name in record["files"])
            made_features = in_parts(context.judge, map(read, files))
        except MediaError as error:
            raise ValueError(f"a drawing of this run is gone: {error}") from None
        real = (p.open() for record in records for p in context.samples[record["id"]].pictures)
        real_features = in_parts(context.judge, real)
        split = records[0]["split"]
        distance = frechet_distance(real_features, made_features)
        rng, n = np.random.default_rng(context.seed), len(made_features)
        draws = [
            frechet_distance(real_features, made_features[rng.integers(n, size=n)])
            for _ in range(FEW)
        ]
        spread, ci = around(distance, draws)
        yield Value("Fréchet distance", distance, spread, ci, n, "overall", split, 0.0, False)
        inside = manifold_members(real_features, made_features, NEIGHBOURS)
        for name, found in zip(("precision", "recall"), inside, strict=True):  # of made, of real
            yield measured(name, split, "overall", found, mean, chance=0.0, higher_is_better=True,
                           seed=context.seed)  # fmt: skip
