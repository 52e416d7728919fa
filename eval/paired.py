"""The toybox asked both ways: every fact once as a question and once as a drawing.

Pair k of a skill is one scene. The question is about a fact of it, the prompt asks for a drawing in
which that same fact holds; both carry the same group, so that a report can say of each fact
whether it is seen and whether it can be drawn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from PIL import Image

from unified.eval.benchmark import Benchmark
from unified.eval.items import Picture, Sample
from unified.toybox.conversation import skill_scene
from unified.toybox.language import (
    PLACE_PHRASES,
    RELATION_PHRASES,
    Group,
    Request,
    ask_to_draw,
    groups_of,
    request_for,
)
from unified.toybox.questions import SKILLS, Focus, Question, make_question
from unified.toybox.scene import Scene, relation, render

SPLITS = ("seen", "held_out")
PAIRS = 50  # of a skill and split
PLACED = 0.35  # share of the position pairs that are about one thing's place
LIKELIEST = 0.34  # chance of guessing an answer


def samples(spec: Benchmark, seed: int, limit: int | None) -> Iterator[Sample]:
    """One side of the pairs.

    Args:
        limit: pairs at most, spread over the skills, those of a split after the other's.
    """
    places = [(s, skill, k) for k in range(PAIRS) for skill in SKILLS for s in SPLITS]
    if limit is not None:
        places = [(s, skill, k) for k in range(limit) for skill in SKILLS for s in SPLITS][:limit]
    for split, skill, index in sorted(places, key=lambda p: (SPLITS.index(p[0]), p[2])):
        yield sample(spec, skill, split, index, seed)


def sample(spec: Benchmark, skill: str, split: str, index: int, seed: int) -> Sample:
    """One side of one pair."""
    scene, question, prompt, request = pair(skill, split, index, seed)
    name = f"{split}/{skill}/{index}".replace(" ", "_")
    if spec.side == "generation":
        facts: dict[str, Any] = {"request": request}
        return Sample(name, spec.ask(prompt=prompt), skill, split, (), facts, chance=0.0)
    shown = Picture(name, image=Image.fromarray(render(scene)))
    facts = {"answers": list(question.answers), "request": request}
    return Sample(name, spec.ask(question=question.text), skill, split, (shown,), facts,
                  chance=question.chance)  # fmt: skip


def pair(
    skill: str, split: str, index: int, seed: int
) -> tuple[Scene, Question, str, dict[str, Any]]:
    """A scene, a question about one fact of it, words that ask for that fact to be drawn, and the
    fact as a judge takes it."""
    rng = random.Random(f"{seed}/paired/{skill}/{split}/{index}")
    while True:
        placed = skill == "position" and rng.random() < PLACED
        scene, labels = skill_scene("single object" if placed else skill, rng, split)
        request = _request(scene, skill, placed, rng)
        focus = Focus(split, labels)
        for _ in range(40):
            found = make_question(scene, skill, rng, focus)
            if found and found.skill == skill and _same(found, request):
                return scene, found, ask_to_draw(request, rng), request.facts()


def _request(scene: Scene, skill: str, placed: bool, rng: random.Random) -> Request:
    if placed:
        (thing,) = scene.things
        return Request((Group(thing.name, thing.colour, 1, None, thing.place),))
    request = request_for(scene, rng, 0.0, ordered=False)
    if skill == "position":
        one, two = (groups_of(scene)[group.label][0] for group in request.groups)
        request = Request(request.groups, (0, str(relation(one, two)), 1))
    return request


def _same(question: Question, request: Request) -> bool:
    """Whether a question asks for the fact of a request, openly: whoever guesses between yes and
    no would seem to see what nobody can draw by chance. Of positions there are two kinds, beside
    another thing and in the picture."""
    if question.chance > LIKELIEST or question.answers[0] in ("zero", "nothing"):
        return False
    if question.skill != "position":
        return True
    if request.relation is not None:
        return any(f" {phrase} " in question.full for phrase in RELATION_PHRASES.values())
    return f" {PLACE_PHRASES[str(request.groups[0].place)]}." in question.full
