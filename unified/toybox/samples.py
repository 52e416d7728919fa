"""Samples and benchmark items of the toybox: pure functions of their arguments.

`sample` for training and looking; `benchmark_*` for the four parts of the benchmark; `corpus` for
the text tokenizer. Splits: "train" and "seen" follow one distribution under different seeds,
"held_out" holds a combination that the other two never show or name.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from unified.toybox.conversation import (
    BUILDERS,
    Turn,
    compose,
    dialogue,
    draw,
    edit_memories,
    skill_scene,
    talking,
)
from unified.toybox.edits import Edit, edit
from unified.toybox.language import (
    Group,
    Request,
    amount,
    ask_to_draw,
    groups_of,
    listing,
    matches,
    request_for,
)
from unified.toybox.questions import SKILLS, Focus, make_question
from unified.toybox.scene import Scene, relation, sample_identities

TASKS: tuple[str, ...] = tuple(BUILDERS)
# all words are in these; the other tasks repeat what is hard
WORDED = ("render", "describe", "draw", "ask", "caption", "dialogue", "talk")
SPLITS = ("train", "seen", "held_out")


@dataclass(frozen=True)
class Sample:
    """A conversation with its exact facts.

    Attributes:
        facts: JSON-able; always "skill" and "draws" (one bool per assistant turn).
    """

    task: str
    turns: tuple[Turn, ...]
    facts: dict[str, Any]


def _check(value: str, known: tuple[str, ...], what: str) -> None:
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; one of {', '.join(known)}")


def sample(task: str, seed: int, index: int, split: str = "train") -> Sample:
    """The conversation number `index` of a task."""
    _check(task, TASKS, "task")
    _check(split, SPLITS, "split")
    rng = random.Random(f"{seed}/{task}/{split}/{index}")
    turns, facts = BUILDERS[task](rng, split)
    return Sample(task, tuple(turns), facts)


def corpus(seed: int, count: int) -> Iterator[str]:
    """Texts of `count` conversations of the WORDED tasks in turn, for the text tokenizer."""
    for index in range(count):
        for turn in sample(WORDED[index % len(WORDED)], seed, index // len(WORDED)).turns:
            yield from (part for part in turn.parts if isinstance(part, str))


# --- benchmark ---------------------------------------------------------------------------------


def benchmark_prompt(skill: str, seed: int, index: int, split: str) -> tuple[str, dict[str, Any]]:
    """A request for a picture and the facts that it must hold.

    Returns:
        The prompt, and {"things": [{name, colour, count, size, place}], "relation": [i, name, j]
        or None, "background": name or None}; a None inside leaves that fact open.
    """
    _check(skill, SKILLS, "skill")
    _check(split, SPLITS, "split")
    rng = random.Random(f"{seed}/prompt/{skill}/{split}/{index}")
    if skill == "position" and rng.random() < 0.35:
        scene, _ = skill_scene("single object", rng, split)
        (thing,) = scene.things
        request = Request((Group(thing.name, thing.colour, 1, None, thing.place),))
    else:
        scene, _ = skill_scene(skill, rng, split)
        request = request_for(scene, rng, 0.0, ordered=False)
        if skill == "position":
            one, two = [next(t for t in scene.things if t.label == g.label) for g in request.groups]
            request = Request(request.groups, (0, str(relation(one, two)), 1))
    return ask_to_draw(request, rng), request.facts()


def benchmark_question(
    skill: str, seed: int, index: int, split: str
) -> tuple[Scene, str, list[str], float]:
    """A picture, a question, the accepted answers and the chance of guessing right."""
    _check(skill, SKILLS, "skill")
    _check(split, SPLITS, "split")
    rng = random.Random(f"{seed}/question/{skill}/{split}/{index}")
    while True:
        scene, labels = skill_scene(skill, rng, split, extras=True)
        found = make_question(scene, skill, rng, Focus(split, labels))
        if found and (found.skill == skill):
            return scene, found.text, list(found.answers), found.chance


def benchmark_dialogue(seed: int, index: int, split: str) -> list[dict[str, Any]]:
    """A scripted dialogue: draw, then changes and questions that hold whatever was drawn.

    Returns:
        Per user turn {"text", "kind", ...}: kind "draw" with "request" (facts as of
        `benchmark_prompt`), "edit" with the facts of `edits.edit` and "things" (the counts by
        label that must stand there afterwards), "question" with "answers" and "chance".
    """
    _check(split, SPLITS, "split")
    rng = random.Random(f"{seed}/dialogue benchmark/{split}/{index}")
    scene = compose(rng, split, lambda r: sample_identities(r, r.choice((1, 2, 2, 3))))
    request = request_for(scene, rng, 0.0, ordered=False)
    turns: list[dict[str, Any]] = [
        {"text": ask_to_draw(request, rng), "kind": "draw", "request": request.facts()}
    ]
    scenes = [scene]
    made: Edit | None = None
    for step in rng.choice((("edit", "ask"), ("ask", "edit", "ask"), ("edit", "edit", "ask"),
                            ("edit", "ask", "memory"), ("edit", "memory"))):  # fmt: skip
        if step == "edit":
            kinds = ["recolour", "add", "remove", "replace", "background", "move"]
            rng.shuffle(kinds)
            for kind in kinds:
                change = edit(scenes[-1], rng, split, kind, plain=True)
                if change:
                    made = change
                    scenes.append(made.after)
                    turns.append(
                        {"text": made.request, "kind": "edit", **made.facts,
                         "things": dict(made.after.counts)}
                    )  # fmt: skip
                    break
        else:
            turns.append(_scripted(scenes, made if step == "memory" else None, rng))
    return turns


def _scripted(scenes: list[Scene], made: Edit | None, rng: random.Random) -> dict[str, Any]:
    """A question whose answer follows from what was asked for alone."""
    scene = scenes[-1]
    if made:
        told = [(text, words) for text, words in edit_memories(made, rng) if made.kind != "move"]
        if told and rng.random() < 0.5:
            text, words = rng.choice(told)
            if words != made.reply[:-1]:
                return _question(text, [words], "memory", 1 / 100)
        text = rng.choice(("What was there before?", "What was in the picture before?"))
        before = scenes[-2]
        return _question(text, _orders(before), "memory", 1 / 1000)
    draw_ = rng.random()
    if draw_ < 0.35:
        text = rng.choice(
            ("What did you draw?", "What is in the picture?", "What things are there?")
        )
        return _question(text, _orders(scene), "describe", 1 / 1000)
    skill = "colours" if draw_ < 0.6 and any(t.colour for t in scene.things) else "counting"
    focus = Focus(
        "held_out", frozenset(t.label for t in scene.things if t.colour or skill != "colours")
    )
    found = make_question(scene, skill, rng, focus)
    if found is None:
        return _question("What did you draw?", _orders(scene), "describe", 1 / 1000)
    return _question(found.text, list(found.answers), skill, found.chance)


def _orders(scene: Scene) -> list[str]:
    """The short description with its things in any order."""
    groups = groups_of(scene).values()
    words = [amount(g[0].name, g[0].colour, len(g)) for g in groups]
    return [listing(order) for order in permutations(words)]


def _question(text: str, answers: list[str], skill: str, chance: float) -> dict[str, Any]:
    return {"text": text, "kind": "question", "answers": answers, "skill": skill, "chance": chance}


def benchmark_when(seed: int, index: int) -> tuple[list[Turn], bool]:
    """The user's turns of a conversation, and whether the reply to the last one must draw.

    The turns before the last are answered by the model itself.
    """
    rng = random.Random(f"{seed}/when/{index}")
    draws = index % 2 == 0
    while True:
        builder = rng.choice((draw, talking, dialogue, talking) if draws else (talking, dialogue))
        turns, facts = builder(rng, "seen")
        ends = [i for i, drawn in enumerate(facts["draws"]) if drawn == draws]
        if ends:
            last = rng.choice(ends)
            return [t for t in turns if t.role == "user"][: last + 1], draws


__all__ = [
    "SKILLS",
    "SPLITS",
    "TASKS",
    "Sample",
    "Turn",
    "benchmark_dialogue",
    "benchmark_prompt",
    "benchmark_question",
    "benchmark_when",
    "corpus",
    "matches",
    "sample",
]
