"""The toybox's lessons as a benchmark: was the new object, or the new style, learnt?"""

from __future__ import annotations

from collections.abc import Iterator

from unified.eval.benchmark import Benchmark
from unified.eval.items import Sample
from unified.toybox.lessons import lesson

PROMPTS = 50  # of a lesson


def samples(spec: Benchmark, seed: int, limit: int | None) -> Iterator[Sample]:
    """Prompts of the lessons in `spec.skills`; `limit` in all, spread over them."""
    each = PROMPTS if limit is None else -(-limit // len(spec.skills))
    for skill in spec.skills:
        for index in range(each):
            made = lesson(skill, seed, index, "seen")
            facts = {"request": made.facts}
            name = f"seen/{skill}/{index}"
            yield Sample(name, spec.ask(prompt=made.caption), skill, "seen", (), facts, chance=0.0)
