"""The tasks: conversations about pictures, turn by turn, each with exact facts.

A task is a function (rng, split) -> (turns, facts). Scenes come from `staging`, words from
`language`, questions and edits from their own modules, longer conversations from `story` and
`talking`. Knows nothing about seeds or tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from unified.toybox.language import (
    FRUIT,
    ask_to_draw,
    canonical,
    capital,
    description,
    frame,
    here,
    noise,
    request_for,
    sentence,
    summary,
)
from unified.toybox.questions import (
    OTHER_SKILLS,
    SKILLS,
    Focus,
    ask_in_full,
    ask_plainly,
    make_question,
)
from unified.toybox.scene import Identity, Scene, sample_identity
from unified.toybox.sprites import OBJECTS
from unified.toybox.staging import (
    CAPTION_FULL,
    CAPTION_SHORT,
    Dialogue,
    Turn,
    any_shape,
    any_things,
    compose,
    core_of,
    drawn,
    reply,
    scene_facts,
    shown,
    skill_scene,
    user,
)
from unified.toybox.story import dialogue, revise
from unified.toybox.story import edit_memories as edit_memories
from unified.toybox.talking import talking


def _draw_something(rng: random.Random) -> tuple[str, str]:
    """A request that leaves the thing open, and the category it asks for ("" for any)."""
    kinds = {
        "something": "",
        "anything": "",
        "whatever you like": "",
        "anything you want": "",
        "something nice": "",
        "something else": "",
        "a random thing": "",
        "one thing": "",
        "an animal": "animal",
        "some animal": "animal",
        "any animal": "animal",
        "a pet": "pet",
        "a cute animal": "animal",
        "a fruit": "fruit",
        "some fruit": "fruit",
        "some food": "food",
        "something to eat": "food",
        "a snack": "food",
        "a vehicle": "vehicle",
        "a shape": "shape",
        "something with wheels": "wheels",
        "a plant": "plant",
        "any shape": "shape",
        "a coloured shape": "shape",
        "a colorful shape": "shape",
        "some vehicle": "vehicle",
        "an insect": "insect",
        "a means of transport": "vehicle",
        "a sea animal": "sea",
        "a toy": "toy",
        "a musical instrument": "music",
    }
    words = rng.choice(tuple(kinds))
    return words, kinds[words]


_SPECIAL = {
    "pet": ("cat", "dog", "rabbit", "mouse", "fish"),
    "fruit": FRUIT,
    "wheels": ("car", "bus", "bicycle", "train", "tractor"),
    "insect": ("bee", "butterfly", "ladybug"),
    "sea": ("fish", "octopus", "whale", "crab", "turtle"),
    "toy": ("ball", "robot", "balloon", "drum"),
    "music": ("guitar", "drum"),
}


def _of_category(category: str, rng: random.Random) -> Identity:
    if not category:
        return sample_identity(rng)
    if category == "shape":
        return any_shape(rng)
    names = _SPECIAL.get(category) or [n for n, c in OBJECTS.items() if c == category]
    return rng.choice(tuple(names)), None


def draw(rng: random.Random, split: str) -> Dialogue:
    """Ask for a picture; get it."""
    if split != "held_out" and rng.random() < 0.04:
        words, category = _draw_something(rng)
        scene = compose(rng, split, lambda r: [_of_category(category, r)])
        request = request_for(scene, rng, 0.0)
        text = frame(words, rng) if rng.random() < 0.85 else "Surprise me."
        if text == "Surprise me.":
            scene = compose(rng, split, lambda r: [sample_identity(r)])
            request = request_for(scene, rng, 0.0)
        turns = [user(noise(text, rng)), reply(here(request), scene)]
        return turns, {
            "skill": "open",
            "scene": scene_facts(scene),
            "request": request.facts(),
            "draws": [True],
        }
    if rng.random() < 0.45:
        skill = rng.choice(SKILLS)
        scene, _ = skill_scene(skill, rng, split)
    else:
        skill = "free"
        scene = compose(rng, split, any_things)
    request = request_for(scene, rng, rng.choice((0.3, 1.0, 1.0, 2.2)))
    text = noise(ask_to_draw(request, rng), rng)
    turns = [user(text), drawn(request, scene, rng)]
    facts = {
        "skill": skill,
        "scene": scene_facts(scene),
        "request": request.facts(),
        "draws": [True],
    }
    return turns, facts


def render(rng: random.Random, split: str) -> Dialogue:
    """The assistant's own words for a picture, then the picture: no phrasing to understand yet."""
    scene = compose(rng, split, any_things)
    request = request_for(scene, rng, rng.choice((0.3, 1.5, 3.0)))
    words = capital(f"{canonical(request)}.")
    said = reply(here(request), scene) if rng.random() < 0.3 else reply(scene)
    facts = {"skill": "free", "scene": scene_facts(scene), "request": request.facts()}
    return [user(words), said], facts | {"draws": [True]}


def study(rng: random.Random, split: str) -> Dialogue:
    """Several different things asked for plainly, most of them shapes, each in its own colour."""

    def things(rng: random.Random) -> list[Identity] | None:
        if rng.random() < 0.2:
            return core_of("counting", rng)
        shapes, count = rng.random() < 0.65, rng.choice((2, 2, 2, 2, 3, 4))
        chosen = [any_shape(rng) if shapes else sample_identity(rng) for _ in range(count)]
        names, colours = {n for n, _ in chosen}, {c for _, c in chosen}
        if len(names) < count or (shapes and len(colours) < count):
            return None
        return chosen

    scene = compose(rng, split, things)
    request = request_for(scene, rng, rng.choice((0.0, 0.0, 0.5, 1.0)))
    words = capital(f"{canonical(request)}.") if rng.random() < 0.5 else ask_to_draw(request, rng)
    facts = {"skill": "free", "scene": scene_facts(scene), "request": request.facts()}
    return [user(words), drawn(request, scene, rng)], facts | {"draws": [True]}


# --- ask and caption ---------------------------------------------------------------------------


def ask(rng: random.Random, split: str) -> Dialogue:
    """A picture with several questions about it."""
    main = rng.choice((*SKILLS, "counting", "position", "attribute binding"))
    if rng.random() < 0.25:
        main = rng.choice(OTHER_SKILLS)
        labels: frozenset[str] = frozenset()
        scene = compose(rng, split, any_things)
    else:
        scene, labels = skill_scene(main, rng, split, extras=True)
    return _questioned(
        rng, split, main, scene, labels, rng.randint(3, 6), (*SKILLS, *OTHER_SKILLS, main)
    )


def quiz(rng: random.Random, split: str) -> Dialogue:
    """A picture with many short questions about it, most about what is hard to see."""
    hard = ("position", "position", "counting", "counting", "attribute binding", "two objects")
    main = rng.choice((*hard, *SKILLS))
    scene, labels = skill_scene(main, rng, split, extras=True)
    skills = (*hard, *SKILLS, *SKILLS, *OTHER_SKILLS, main, main)
    return _questioned(rng, split, main, scene, labels, rng.randint(7, 10), skills)


def _questioned(
    rng: random.Random,
    split: str,
    main: str,
    scene: Scene,
    labels: frozenset[str],
    wanted: int,
    skills: tuple[str, ...],
) -> Dialogue:
    """Up to `wanted` questions about a scene: one of the main skill, then any of `skills`."""
    turns: list[Turn] = []
    questions: list[dict[str, Any]] = []
    asked: set[str] = set()
    for attempt in range(16):
        if len(questions) == wanted:
            break
        skill = main if not questions else rng.choice(skills)
        focus = Focus(split, labels if skill == main and not questions else frozenset())
        found = make_question(scene, skill, rng, focus)
        if found is None or found.text in asked:
            if attempt > 8 and not questions:
                main, labels = "existence", frozenset()
            continue
        asked.add(found.text)
        full = rng.random() < 0.13
        text = ask_in_full(found.text, rng) if full else ask_plainly(found.text, rng)
        text = noise(text, rng)
        turns.append(user(text) if questions else shown(text, scene, rng))
        turns.append(reply(capital(found.full) if full else found.answer))
        questions.append(found.facts(full) | {"question": text})
    facts = {
        "skill": main,
        "scene": scene_facts(scene),
        "questions": questions,
        "draws": [False] * len(questions),
    }
    return turns, facts


def describe(rng: random.Random, split: str) -> Dialogue:
    """A picture and every fact of it: no phrasing to understand yet."""
    scene = compose(rng, split, any_things)
    words = sentence(description(scene))
    facts = {"skill": "caption", "scene": scene_facts(scene), "answers": [words]}
    return [user(scene, "Describe."), reply(words)], facts | {"draws": [False]}


def caption(rng: random.Random, split: str) -> Dialogue:
    """A picture described: every fact, or things and counts."""
    scene = compose(rng, split, any_things)
    turns: list[Turn] = []
    kinds = rng.sample(("full", "short"), rng.choice((1, 1, 2)))
    answers = []
    for kind in kinds:
        text = rng.choice(CAPTION_FULL if kind == "full" else CAPTION_SHORT)
        if kind == "short" and turns and rng.random() < 0.3:
            text = rng.choice(("Shorter, please.", "And in a few words?", "Make it shorter."))
        text = noise(text, rng)
        turns.append(user(text) if turns else shown(text, scene, rng))
        answers.append(sentence(description(scene) if kind == "full" else summary(scene)))
        turns.append(reply(answers[-1]))
    facts = {
        "skill": "caption",
        "kinds": kinds,
        "scene": scene_facts(scene),
        "answers": answers,
        "draws": [False] * len(kinds),
    }
    return turns, facts


# --- all tasks ---------------------------------------------------------------------------------

BUILDERS: dict[str, Callable[[random.Random, str], Dialogue]] = {
    "render": render,
    "describe": describe,
    "draw": draw,
    "ask": ask,
    "caption": caption,
    "dialogue": dialogue,
    "talk": talking,
    "study": study,
    "quiz": quiz,
    "revise": revise,
}
