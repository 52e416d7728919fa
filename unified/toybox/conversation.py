"""Conversations about pictures, turn by turn, each with exact facts.

A task is a function (rng, split) -> (turns, facts). Scenes come from `compose`, words from
`language`, questions and edits from their own modules. Knows nothing about seeds or tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from unified.toybox import talk
from unified.toybox.edits import Edit, edit, impossible
from unified.toybox.language import (
    FRUIT,
    NATURAL,
    NUMBERS,
    PLACE_PHRASES,
    Group,
    Request,
    a,
    amount,
    ask_to_draw,
    canonical,
    capital,
    description,
    frame,
    groups_of,
    here,
    label,
    listing,
    noise,
    noun,
    refer,
    request_for,
    say_colour,
    say_group,
    say_noun,
    say_request,
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
    with_article,
)
from unified.toybox.scene import (
    BACKGROUNDS,
    MOST,
    Identity,
    Scene,
    held_out_colour,
    held_out_count,
    held_out_pair,
    place_all,
    relation,
    sample_identities,
    sample_identity,
)
from unified.toybox.sprites import COLOURS, OBJECTS, SHAPES


@dataclass(frozen=True)
class Turn:
    """What one side says: texts and pictures in order."""

    role: str  # "user" or "assistant"
    parts: tuple[str | Scene, ...]

    @property
    def scene(self) -> Scene | None:
        return next((part for part in self.parts if isinstance(part, Scene)), None)

    @property
    def text(self) -> str:
        return " ".join(part for part in self.parts if isinstance(part, str))


Dialogue = tuple[list[Turn], dict[str, Any]]


def user(*parts: str | Scene) -> Turn:
    return Turn("user", parts)


def reply(*parts: str | Scene) -> Turn:
    return Turn("assistant", parts)


def scene_facts(scene: Scene) -> dict[str, Any]:
    return {"things": [asdict(t) for t in scene.things], "background": scene.background}


# --- scenes ------------------------------------------------------------------------------------


def _held_out(identities: list[Identity]) -> bool:
    labels = [f"{colour} {name}" if colour else name for name, colour in identities]
    if any(colour and held_out_colour(name, colour) for name, colour in identities):
        return True
    if any(held_out_count(words, labels.count(words)) for words in set(labels)):
        return True
    names = sorted({name for name, _ in identities})
    return any(held_out_pair(x, y) for i, x in enumerate(names) for y in names[i + 1 :])


def compose(
    rng: random.Random,
    split: str,
    identities: Callable[[random.Random], list[Identity] | None],
    test: Callable[[Scene], bool] | None = None,
    core: int | None = None,
) -> Scene:
    """A scene of a split with the given things, at random places, that passes a test.

    Args:
        core: how many of the first identities hold the held-out combination ("held_out" only).
    """
    while True:
        chosen = identities(rng)
        if chosen is None:
            continue
        if _held_out(chosen[:core] if split == "held_out" else chosen) != (split == "held_out"):
            continue
        for _ in range(6):
            things = place_all(rng, chosen)
            if things is None:
                break
            scene = Scene.of(things, rng.choice(_BACKGROUND_NAMES))
            if test is None or test(scene):
                return scene


_BACKGROUND_NAMES = tuple(BACKGROUNDS)


def _any_things(rng: random.Random) -> list[Identity]:
    return sample_identities(rng, rng.choices((1, 2, 3, 4), (0.32, 0.34, 0.2, 0.14))[0])


def _shape(rng: random.Random) -> Identity:
    return rng.choice(SHAPES), rng.choice(tuple(COLOURS))


def _core(skill: str, rng: random.Random) -> list[Identity]:
    """The things that a skill is about."""
    if skill == "single object":
        return [sample_identity(rng)]
    if skill == "counting":
        return [sample_identity(rng)] * rng.randint(2, MOST)
    if skill == "colours":
        return [_shape(rng)]
    while True:
        if skill == "attribute binding":
            one, two = _shape(rng), _shape(rng)
            if one[0] != two[0] and one[1] != two[1]:
                return [one, two]
        else:
            one, two = sample_identity(rng), sample_identity(rng)
            if one != two:
                return [one, two]


def skill_scene(
    skill: str, rng: random.Random, split: str, extras: bool = False
) -> tuple[Scene, frozenset[str]]:
    """A scene for a skill, and the labels of the things it is about.

    Args:
        extras: whether other things may stand there too (for questions).
    """
    labels: frozenset[str] = frozenset()
    size = 0

    def things(rng: random.Random) -> list[Identity]:
        nonlocal labels, size
        core = _core(skill, rng)
        size = len(core)
        labels = frozenset(f"{c} {n}" if c else n for n, c in core)
        if not extras or skill in ("single object", "two objects"):
            return core
        more = rng.choice((0, 0, 1, 2)) if skill != "colours" else rng.choice((0, 1, 1, 2, 3))
        rest = [sample_identity(rng) for _ in range(min(more, MOST - size))]
        if skill in ("colours", "attribute binding"):  # one colour for a kind of shape asked about
            rest = [r for r in rest if all(r[0] != c[0] for c in core)]
        return core + [r for r in rest if r not in core]

    def clear(scene: Scene) -> bool:
        return skill != "position" or relation(*_two(scene, labels)) is not None

    while True:
        scene = compose(rng, split, things, clear, None)
        if split != "held_out" or _held_out(
            [(t.name, t.colour) for t in scene.things if t.label in labels]
        ):
            return scene, labels


def _two(scene: Scene, labels: frozenset[str]) -> tuple[Any, Any]:
    one, two = [t for t in scene.things if t.label in labels][:2]
    return one, two


# --- draw --------------------------------------------------------------------------------------


def drawn(request: Request, scene: Scene, rng: random.Random) -> Turn:
    """The reply that draws: nearly always after a sentence that says what was understood, so that
    what the codes follow is the assistant's own few words, whatever the user's were."""
    draw = rng.random()
    if draw < 0.88:
        return reply(here(request), scene)
    if draw < 0.96:
        return reply(scene)
    return reply(scene, f"{canonical(request)[0].upper()}{canonical(request)[1:]}.")


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
        return _shape(rng)
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
        scene = compose(rng, split, _any_things)
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
    scene = compose(rng, split, _any_things)
    request = request_for(scene, rng, rng.choice((0.3, 1.5, 3.0)))
    words = capital(f"{canonical(request)}.")
    said = reply(here(request), scene) if rng.random() < 0.3 else reply(scene)
    facts = {"skill": "free", "scene": scene_facts(scene), "request": request.facts()}
    return [user(words), said], facts | {"draws": [True]}


def study(rng: random.Random, split: str) -> Dialogue:
    """Several different things asked for plainly, most of them shapes, each in its own colour."""

    def things(rng: random.Random) -> list[Identity] | None:
        if rng.random() < 0.2:
            return _core("counting", rng)
        shapes, count = rng.random() < 0.65, rng.choice((2, 2, 2, 2, 3, 4))
        chosen = [_shape(rng) if shapes else sample_identity(rng) for _ in range(count)]
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

_CAPTION_FULL = (
    "Describe the picture.|Describe this picture.|Describe this image.|"
    "Describe the image in detail.|"
    "What exactly is in the picture?|Tell me everything about this picture.|Write a caption.|"
    "Write a detailed caption.|Give a full description.|Can you describe the picture?|"
    "Please describe what you see.|Describe everything you see.|Caption this.|"
    "Describe the scene.|Describe it in detail.|Explain the picture to me.|Say what is where.|"
    "Could you describe this picture in detail?|Give me a description of the picture.|"
    "What is where in the picture?|Describe.|Tell me about this picture.|Describe what you see."
).split("|")
_CAPTION_SHORT = (
    "Describe the picture in a few words.|What is in the picture?|What do you see?|"
    "What things are there?|List the things.|Give a short caption.|Write a short caption.|"
    "In a few words, what is this?|Briefly describe the picture.|What can you see?|"
    "Describe it briefly.|Which things are in the picture?|What's in this picture?|"
    "Name everything you see.|What does the picture show?|Short description, please.|"
    "A few words about the picture, please.|Name the things in the picture.|Summarise the picture.|"
    "What objects are in the image?|Caption this in a few words.|What is there?"
).split("|")


def _shown(text: str, scene: Scene, rng: random.Random) -> Turn:
    return user(text, scene) if rng.random() < 0.25 else user(scene, text)


def ask(rng: random.Random, split: str) -> Dialogue:
    """A picture with several questions about it."""
    main = rng.choice((*SKILLS, "counting", "position", "attribute binding"))
    if rng.random() < 0.25:
        main = rng.choice(OTHER_SKILLS)
        labels: frozenset[str] = frozenset()
        scene = compose(rng, split, _any_things)
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
        turns.append(user(text) if questions else _shown(text, scene, rng))
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
    scene = compose(rng, split, _any_things)
    words = sentence(description(scene))
    facts = {"skill": "caption", "scene": scene_facts(scene), "answers": [words]}
    return [user(scene, "Describe."), reply(words)], facts | {"draws": [False]}


def caption(rng: random.Random, split: str) -> Dialogue:
    """A picture described: every fact, or things and counts."""
    scene = compose(rng, split, _any_things)
    turns: list[Turn] = []
    kinds = rng.sample(("full", "short"), rng.choice((1, 1, 2)))
    answers = []
    for kind in kinds:
        text = rng.choice(_CAPTION_FULL if kind == "full" else _CAPTION_SHORT)
        if kind == "short" and turns and rng.random() < 0.3:
            text = rng.choice(("Shorter, please.", "And in a few words?", "Make it shorter."))
        text = noise(text, rng)
        turns.append(user(text) if turns else _shown(text, scene, rng))
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


# --- dialogue ----------------------------------------------------------------------------------


class _Story:
    """A dialogue under construction: what was drawn and changed so far."""

    def __init__(self, rng: random.Random, split: str) -> None:
        self.rng, self.split = rng, split
        self.turns: list[Turn] = []
        self.draws: list[bool] = []
        self.steps: list[dict[str, Any]] = []
        self.scenes: list[Scene] = []  # all pictures in order
        self.drawn: list[Scene] = []  # the assistant's own
        self.edits: list[Edit] = []

    @property
    def scene(self) -> Scene:
        return self.scenes[-1]

    @property
    def cost(self) -> float:
        """About how many ids the turns take."""
        words = sum(len(t.text.split()) for t in self.turns)
        return 1.6 * words + 4 * len(self.turns) + 54 * len(self.scenes)

    def say(self, asked: Turn, said: Turn, step: dict[str, Any]) -> None:
        self.turns += [asked, said]
        for turn in (asked, said):
            if turn.scene:
                self.scenes.append(turn.scene)
        if said.scene:
            self.drawn.append(said.scene)
        self.draws.append(said.scene is not None)
        self.steps.append(step)

    def draw(self, scene: Scene, detail: float) -> None:
        rng = self.rng
        request = request_for(scene, rng, detail)
        text = noise(ask_to_draw(request, rng), rng)
        self.say(
            user(text),
            drawn(request, scene, rng),
            {"kind": "draw", "request": request.facts(), "scene": scene_facts(scene)},
        )

    def start(self) -> None:
        rng = self.rng
        scene = compose(rng, self.split, _any_things)
        if rng.random() < 0.62:
            self.draw(scene, rng.choice((0.0, 0.5, 1.0)))
            return
        self.scenes.append(scene)  # so that the steps see it; taken back below
        step = rng.choice((self.change, self.change, self.change, self.question, self.refuse))
        before = len(self.turns)
        step()
        if len(self.turns) == before:
            self.describe()
        first = self.turns[0]
        parts = (scene, *first.parts) if rng.random() < 0.75 else (*first.parts, scene)
        self.turns[0] = Turn("user", parts)

    def change(self, plain: bool = False) -> None:
        rng = self.rng
        kind = rng.choice(
            (
                "recolour",
                "recolour",
                "add",
                "add",
                "remove",
                "remove",
                "move",
                "move",
                "replace",
                "resize",
                "background",
                "swap",
            )
        )
        made = edit(self.scene, rng, self.split, kind, plain) or edit(self.scene, rng, self.split)
        if made is None:
            return
        self.edits.append(made)
        text = noise(made.request, rng)
        said = reply(made.reply, made.after) if rng.random() < 0.8 else reply(made.after)
        facts = {"kind": "edit", **made.facts, "before": scene_facts(made.before)}
        self.say(user(text), said, facts | {"after": scene_facts(made.after)})

    def question(self) -> None:
        skill = self.rng.choice((*SKILLS, *OTHER_SKILLS))
        found = make_question(self.scene, skill, self.rng, Focus(self.split))
        if found:
            text = noise(found.text, self.rng)
            self.say(user(text), reply(found.answer), {"kind": "question", **found.facts()})

    def describe(self) -> None:
        rng = self.rng
        full = rng.random() < 0.35
        text = rng.choice(_CAPTION_FULL if full else _CAPTION_SHORT)
        self.answer(text, description(self.scene) if full else summary(self.scene), "describe")

    def answer(self, text: str, words: str, kind: str) -> None:
        self.say(
            user(noise(text, self.rng)),
            reply(sentence(words)),
            {"kind": kind, "question": text, "answer": sentence(words), "answers": [words]},
        )

    def memory(self) -> None:
        """What was drawn, what was there before, what changed."""
        rng = self.rng
        options: list[tuple[str, str]] = []
        if self.drawn:
            text = rng.choice(
                (
                    "What did you draw?",
                    "What have you drawn?",
                    "What did you paint?",
                    "What did you just draw?",
                    "Which things did you draw?",
                    "What is in your picture?",
                    "What did you make?",
                    "Tell me what you drew.",
                    "What's in your drawing?",
                    "What did you draw last?",
                )
            )
            options += [(text, summary(self.drawn[-1]))] * 2
            many = rng.choice(
                (
                    "How many pictures have you drawn?",
                    "How many pictures did you draw?",
                    "How many pictures did you make so far?",
                )
            )
            options.append((many, NUMBERS[len(self.drawn)]))
        if len(self.scenes) > 1:
            before, first = self.scenes[-2], self.scenes[0]
            text = rng.choice(
                (
                    "What was there before?",
                    "What was in the picture before?",
                    "What was in the last picture?",
                    "What was there before the change?",
                    "What did the picture show before?",
                    "What was in the previous picture?",
                    "What did it look like before?",
                )
            )
            options += [(text, summary(before))] * 2
            text = rng.choice(
                (
                    "What was in the first picture?",
                    "What was there at first?",
                    "What did we start with?",
                    "What was there in the beginning?",
                    "What did the first picture show?",
                )
            )
            options.append((text, summary(first)))
        if self.edits:
            options += edit_memories(self.edits[-1], rng) * 2
        if options:
            text, words = rng.choice(options)
            self.answer(text, words, "memory")

    def refuse(self) -> None:
        rng = self.rng
        draw_ = rng.random()
        if draw_ < 0.6:
            absent = Focus(self.split).absent(self.scene, rng)
            if absent is None:
                return
            text, words = impossible(self.scene, rng, absent)
        elif draw_ < 0.85:
            thing = talk.unknown_thing(rng)
            text = rng.choice(
                (
                    "Add {x}.",
                    "Put {x} in it.",
                    "Can you add {x}?",
                    "Also draw {x}.",
                    "Now add {x}.",
                    "Draw {x} next to it.",
                    "I want {x} in it, too.",
                )
            )
            text = text.format(x=a(thing))
            words = f"I don't know how to draw {a(thing)}."
            self.say(
                user(noise(text, rng, thing.split())),
                reply(words),
                {"kind": "refuse", "answer": words},
            )
            return
        else:
            shapes = [t for t in self.scene.things if t.colour]
            if not shapes:
                return
            colour = rng.choice(talk.UNKNOWN_COLOURS)
            name = "it" if len(self.scene.things) == 1 else refer(self.scene, shapes[0])
            if name is None:
                return
            text = rng.choice(
                (f"Make {name} {colour}.", f"Paint {name} {colour}.", f"Turn {name} {colour}.")
            )
            words = talk.colour_reply(colour)
            self.say(
                user(noise(text, rng, colour.split())),
                reply(words),
                {"kind": "refuse", "answer": words},
            )
            return
        self.say(user(noise(text, rng)), reply(words), {"kind": "refuse", "answer": words})

    def ambiguous(self) -> None:
        """A change of one of several things alike that does not say which."""
        rng = self.rng
        names = [t.name for t in self.scene.things]
        alike = [n for n in dict.fromkeys(names) if names.count(n) > 1]
        if not alike:
            return
        name = rng.choice(alike)
        one = say_noun(name, 1, rng)
        text = rng.choice(
            (
                f"Remove the {one}.",
                f"Move the {one} to the left.",
                f"Delete the {one}.",
                f"Replace the {one} with something else.",
                f"Swap the {one} and something else.",
                f"Take the {one} away.",
                f"Put the {one} in the middle.",
                f"Please remove the {one}.",
                f"Where is the {one}?",
                f"Move the {one} to the top.",
            )
        )
        count = names.count(name)
        words = f"There are {NUMBERS[count]} {noun(name, count)}. Which one do you mean?"
        self.say(user(noise(text, rng)), reply(words), {"kind": "refuse", "answer": words})

    def told(self) -> Dialogue:
        facts = {
            "skill": "dialogue",
            "scene": scene_facts(self.scenes[0]),
            "steps": self.steps,
            "scenes": [scene_facts(s) for s in self.scenes],
            "draws": self.draws,
        }
        return self.turns, facts

    def undo(self) -> None:
        if len(self.scenes) < 2 or not self.edits:
            return
        rng, before = self.rng, self.scenes[-2]
        text = rng.choice(
            (
                "Undo that.",
                "Undo.",
                "Go back.",
                "Take that back.",
                "Show the previous picture again.",
                "Back to the picture before, please.",
                "Undo the last change.",
                "Revert that.",
                "I liked it better before.",
                "Please undo that.",
                "Show me the picture before that.",
            )
        )
        self.edits.clear()
        said = reply("Here is the picture as it was.", before)
        self.say(user(noise(text, rng)), said, {"kind": "undo", "after": scene_facts(before)})

    def draw_again(self) -> None:
        rng = self.rng
        scene = compose(rng, self.split, _any_things)
        request = request_for(scene, rng, rng.choice((0.0, 0.5, 1.0)))
        lead = rng.choice(
            (
                "Now draw {x}.",
                "Draw a new picture: {x}.",
                "Next, draw {x}.",
                "Make a new picture of {x}.",
                "Forget that. Draw {x}.",
                "Please start over and draw {x}.",
                "A new picture: {x}.",
                "New picture with {x}.",
                "Let's draw something else: {x}.",
                "Draw {x} instead of all this.",
            )
        )
        words = ask_to_draw(request, rng)
        if rng.random() < 0.6:
            words = lead.format(x=say_request(request, rng))
        elif not any(w in words.lower() for w in ("draw", "paint", "sketch", "picture", "image")):
            return
        self.edits.clear()
        self.say(
            user(noise(words, rng)),
            drawn(request, scene, rng),
            {"kind": "draw", "request": request.facts(), "scene": scene_facts(scene)},
        )

    def chat(self) -> None:
        rng = self.rng
        name = rng.choice(
            (
                "thanks",
                "thanks",
                "praise",
                "praise",
                "blame",
                "ability",
                "colours",
                "most",
                "who",
                "not now",
                "bye",
                "edit ability",
            )
        )
        _, text, words = talk.intent(rng, name)
        self.say(user(noise(text, rng)), reply(words), {"kind": "talk", "intent": name})


def edit_memories(made: Edit, rng: random.Random) -> list[tuple[str, str]]:
    """Questions about the last change, with their answers."""
    target = made.facts.get("target")
    changed = rng.choice(
        (
            "What did you change?",
            "What is different now?",
            "What have you changed?",
            "What was the last change?",
            "What did you do?",
        )
    )
    options = [(changed, made.reply[:-1])]
    if target is None:
        return options
    name, colour, count = target["name"], target["colour"], made.facts.get("count", 1)
    before = made.before
    if made.kind == "recolour":
        number = target.get("count", 1)
        alone = len({t.colour for t in before.things if t.name == name}) == 1
        now = len({t.colour for t in made.after.things if t.name == name}) == 1
        if alone and now:
            words = say_noun(name, number, rng)
            be = "was" if number == 1 else "were"
            do = "did"
            text = rng.choice(
                (
                    f"What colour {be} the {words} before?",
                    f"Which colour {do} the {words} have before?",
                    f"Which colour {be} the {words} before that?",
                    f"What color {do} the {words} have before?",
                )
            )
            options += [(text, str(made.facts["from"]))] * 4
    elif made.kind == "add":
        text = rng.choice(("What did you add?", "What have you added?", "What is new?"))
        options += [(text, amount(name, colour, count))] * 3
    elif made.kind == "remove":
        text = rng.choice(
            (
                "What did you remove?",
                "What have you removed?",
                "What is gone now?",
                "What did you take away?",
            )
        )
        options += [(text, amount(name, colour, count))] * 3
    elif made.kind == "replace":
        text = rng.choice(("What did you replace?", "What was replaced?"))
        options += [(text, amount(name, colour))] * 2
    elif made.kind == "move" and sum(t.name == name for t in before.things) == 1:
        words = say_noun(name, 1, rng)
        text = rng.choice(
            (f"Where was the {words} before?", f"Where did the {words} stand before?")
        )
        options += [(text, PLACE_PHRASES[target["place"]])] * 3
    return options


def dialogue(rng: random.Random, split: str) -> Dialogue:
    """Draw, ask, change, remember."""
    story = _Story(rng, split)
    story.start()
    wanted = rng.randint(2, 5)
    steps = (
        [story.change] * 8
        + [story.question] * 4
        + [story.memory] * 5
        + [story.describe] * 2
        + [story.refuse] * 2
        + [story.ambiguous]
        + [story.undo]
        + [story.draw_again]
        + [story.chat]
    )
    for _ in range(12):
        if len(story.draws) >= wanted or story.cost > 370:
            break
        step = rng.choice(steps)
        drawing = step in (story.change, story.undo, story.draw_again)
        if drawing and (len(story.scenes) >= 3 or story.cost > 270):
            continue
        if not drawing and story.cost > 350:
            continue
        step()
    if len(story.draws) < 2:
        story.describe()
    return story.told()


def revise(rng: random.Random, split: str) -> Dialogue:
    """Draw a few things, change them once or twice, ask: all of it about the assistant's own
    pictures."""
    story = _Story(rng, split)
    story.draw(compose(rng, split, _any_things), rng.choice((0.0, 0.0, 1.0)))
    while len(story.draws) < 6 and story.cost < 330:
        if len(story.scenes) < 3 and rng.random() < 0.6:
            story.change(plain=rng.random() < 0.7)
        else:
            rng.choice((story.question, story.question, story.memory, story.describe))()
        if len(story.scenes) == 3 and rng.random() < 0.35:
            break
    return story.told()


# --- talk --------------------------------------------------------------------------------------


def _one_group(rng: random.Random, split: str, most: int = 2) -> Scene:
    """A scene of one kind of thing."""

    def things(rng: random.Random) -> list[Identity]:
        return [sample_identity(rng)] * rng.randint(1, most)

    return compose(rng, split, things)


def _unknown(rng: random.Random, split: str) -> Dialogue:
    """Ask for a thing it does not know, alone or with known ones."""
    thing = talk.unknown_thing(rng)
    several = rng.random() < 0.2
    draw_ = rng.random()
    plural = _plural(thing)
    number = rng.choice((NUMBERS[n := rng.randint(2, 4)], str(n), "some", "a few"))
    if several:
        words, exact = f"{number} {plural}", plural
    else:
        exact = a(thing)
        words = rng.choice((exact, exact, exact, f"one {thing}", thing))
        if rng.random() < 0.12:
            kind = rng.choice(("big", "small", "nice", "red", "blue", "green", "cute", "tiny"))
            words = a(f"{kind} {thing}")
    left_out = f"I don't know how to draw {exact}"
    keep = [thing, plural, *exact.split()]
    if draw_ < 0.35:
        scene = _one_group(rng, split)
        request = request_for(scene, rng, 0.4)
        request = Request(request.groups, None, None)
        (group,) = request.groups
        known = say_group(group, rng)
        if group.place:
            group = Group(group.name, group.colour, group.count, group.size, None, group.open)
            request = Request((group,))
        parts = [words, known]
        rng.shuffle(parts)
        both = rng.choice(
            ("{} and {}", "{} and {}", "{} with {}", "{}, {}", "{} next to {}", "{} plus {}")
        )
        text = noise(frame(both.format(*parts), rng), rng, keep)
        it = "them" if several else "it"
        said = reply(f"{left_out}, so I left {it} out. {here(request)}", scene)
        facts = {
            "skill": "partly unknown",
            "word": thing,
            "scene": scene_facts(scene),
            "draws": [True],
            "request": request.facts(),
        }
        return [user(text), said], facts
    text = noise(frame(words, rng), rng, keep)
    if rng.random() < 0.06:
        text = rng.choice(
            (
                f"Do you know how to draw {exact}?",
                f"Do you know what {exact} is?"
                if not several
                else f"Do you know how to draw {exact}?",
            )
        )
    said = reply(f"{left_out}. {talk.ABILITY}")
    return [user(text), said], {"skill": "unknown thing", "word": thing, "draws": [False]}


def _plural(word: str) -> str:
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    irregular = {
        "man": "men",
        "woman": "women",
        "goose": "geese",
        "foot": "feet",
        "tooth": "teeth",
        "wolf": "wolves",
        "leaf": "leaves",
        "knife": "knives",
        "shelf": "shelves",
        "policeman": "policemen",
        "deer": "deer",
        "sheep": "sheep",
        "scarf": "scarves",
        "elf": "elves",
        "loaf": "loaves",
    }
    if word in irregular:
        return irregular[word]
    return f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"


def _unknown_colour(rng: random.Random, split: str) -> Dialogue:
    colour = rng.choice(talk.UNKNOWN_COLOURS)
    shape = rng.choice(SHAPES)
    words = a(f"{colour} {say_noun(shape, 1, rng)}")
    if rng.random() < 0.25:
        scene = _one_group(rng, split)
        request = request_for(scene, rng, 0.0)
        text = frame(listing([words, say_group(request.groups[0], rng)]).replace("  ", " "), rng)
        lead = f"I don't have the colour {colour}, so I left out the {noun(shape)}."
        facts = {
            "skill": "partly unknown",
            "word": colour,
            "scene": scene_facts(scene),
            "draws": [True],
            "request": request.facts(),
        }
        return [
            user(noise(text, rng, colour.split())),
            reply(f"{lead} {here(request)}", scene),
        ], facts
    if rng.random() < 0.2:
        words = f"two {colour} {noun(shape, 2)}"
    text = noise(frame(words, rng), rng, colour.split())
    return [user(text), reply(talk.colour_reply(colour))], {
        "skill": "unknown colour",
        "word": colour,
        "draws": [False],
    }


def _fixed_look(rng: random.Random, split: str) -> Dialogue:
    """ "A blue cat": drawn as a cat always looks."""
    scene = compose(
        rng, split, lambda r: [(r.choice(tuple(OBJECTS)), None)] * (2 if split == "held_out" else 1)
    )
    thing = scene.things[0]
    request = request_for(scene, rng, 0.0)
    colour = rng.choice(tuple(COLOURS))
    if rng.random() < 0.25 and thing.name in NATURAL:
        colour = NATURAL[thing.name]
    count = len(scene.things)
    words = f"{say_colour(colour, rng)} {say_noun(thing.name, count, rng)}"
    words = a(words) if count == 1 else f"{NUMBERS[count]} {words}"
    kind = amount(thing.name) if count == 1 else noun(thing.name, 2)
    lead = "" if NATURAL.get(thing.name) == colour else f"I can't change the colour of {kind}. "
    said = reply(f"{lead}{here(request)}", scene)
    facts = {
        "skill": "fixed look",
        "scene": scene_facts(scene),
        "draws": [True],
        "request": request.facts(),
    }
    return [user(noise(frame(words, rng), rng)), said], facts


def _unknown_place(rng: random.Random, split: str) -> Dialogue:
    scene = _one_group(rng, split)
    request = request_for(scene, rng, 0.0)
    where = rng.choice(talk.UNKNOWN_PLACES)
    text = noise(frame(f"{say_group(request.groups[0], rng)} {where}", rng), rng)
    said = reply(f"I don't have that background. {here(request)}", scene)
    facts = {
        "skill": "unknown place",
        "scene": scene_facts(scene),
        "draws": [True],
        "request": request.facts(),
    }
    return [user(text), said], facts


def _too_many(rng: random.Random, split: str) -> Dialogue:
    """More than four things: four are drawn."""

    def things(rng: random.Random) -> list[Identity]:
        one = sample_identity(rng)
        if rng.random() < 0.7:
            return [one] * MOST
        other, first = sample_identity(rng), rng.randint(1, 3)
        return [one] * first + [other] * (MOST - first)

    scene = compose(rng, split, things, lambda s: len(s.things) == MOST)
    members = list(groups_of(scene).values())
    rng.shuffle(members)
    asked, groups = [], []
    for k, group in enumerate(members):
        first = group[0]
        last = k == len(members) - 1
        groups.append(Group(first.name, first.colour, len(group)))
        count = len(group) + (rng.choice((1, 1, 2, 3, 4, 5, 6, 8)) if last else 0)
        kind = f"{say_colour(first.colour, rng)} " if first.colour else ""
        kind += say_noun(first.name, 2, rng)
        number = NUMBERS[count] if count < len(NUMBERS) and rng.random() < 0.6 else str(count)
        if last and len(members) == 1 and rng.random() < 0.2:
            number = rng.choice(
                ("20", "100", "many", "a dozen", "a hundred", "lots of", "fifty", "thirty", "1000")
            )
        asked.append(f"{number} {kind}" if count > 1 else with_article(kind))
    request = Request(tuple(groups))
    text = noise(frame(listing(asked), rng), rng)
    said = reply(f"I can draw at most four things. {here(request)}", scene)
    facts = {
        "skill": "too many",
        "scene": scene_facts(scene),
        "draws": [True],
        "request": request.facts(),
    }
    return [user(text), said], facts


def _no_picture(rng: random.Random, split: str) -> Dialogue:
    """Words about known things that ask for no drawing."""
    name, colour = sample_identity(rng)
    while colour and split != "held_out" and held_out_colour(name, colour):
        name, colour = sample_identity(rng)
    one, many = say_noun(name, 1, rng), say_noun(name, 2, rng)
    if colour:
        said_colour = say_colour(colour, rng)
        one, many = f"{said_colour} {one}", f"{said_colour} {many}"
    one = with_article(one)
    exact = label(name, colour, 2)
    draw_ = rng.random()
    if draw_ < 0.4:
        text = rng.choice(
            (
                f"Don't draw {one}.",
                f"Do not draw {one}.",
                f"Please don't draw {one}.",
                f"No {many}, please.",
                f"I don't want {one}.",
                f"Never draw {one}.",
                f"You shouldn't draw {one}.",
                f"Don't paint {one}, please.",
                f"Stop drawing {many}.",
                f"I don't want to see {one}.",
                f"Don't make a picture of {one}.",
                f"No picture of {one}, please.",
                f"Don't show me {one}.",
            )
        )
        words, skill = "All right, no picture.", "not now"
    elif draw_ < 0.7:
        text = rng.choice(
            (
                f"Do you know how to draw {one}?",
                f"Do you know {many}?",
                f"Do you know what {one} looks like?",
                f"Could you draw {many} if I asked you?",
                f"Do you know what {one} is?",
                f"Is it possible for you to draw {many}?",
                f"Would you be able to draw {many}?",
            )
        )
        words, skill = f"Yes, I can draw {exact}.", "can draw"
    else:
        text = rng.choice(
            (
                f"Where is the {say_noun(name, 1, rng)}?",
                f"Is there {one}?",
                f"How many {many} are there?",
                f"Do you see {one}?",
                f"Did you draw {one}?",
                f"Remove the {say_noun(name, 1, rng)}.",
                f"Have you drawn {one}?",
                f"What colour is the {say_noun(name, 1, rng)}?",
                f"Make the {say_noun(name, 1, rng)} bigger.",
                f"Is the {say_noun(name, 1, rng)} big?",
            )
        )
        words, skill = talk.NOTHING_YET, "nothing yet"
    return [user(noise(text, rng)), reply(words)], {"skill": skill, "draws": [False]}


def _small_talk(rng: random.Random, split: str) -> Dialogue:
    """One to three exchanges without a picture."""
    turns: list[Turn] = []
    skills: list[str] = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        draw_ = rng.random()
        if draw_ < 0.58:
            name, text, words = talk.intent(rng)
        elif draw_ < 0.72:
            name, text, words = "outside", talk.outside(rng), talk.OUTSIDE
        elif draw_ < 0.82:
            name, text, words = "gibberish", talk.gibberish(rng), talk.NOT_UNDERSTOOD
        elif draw_ < 0.9:
            name, text, words = "foreign", talk.foreign(rng), talk.ENGLISH
        else:
            (asked, said), facts = _no_picture(rng, split)
            name, text, words = facts["skill"], asked.text, said.text
        if sum(len(t.text.split()) for t in turns) > 90:
            break
        skills.append(name)
        quiet = name in ("gibberish", "foreign")
        turns += [user(text if quiet else noise(text, rng)), reply(words)]
    return turns, {"skill": skills[0], "skills": skills, "draws": [False] * len(skills)}


_CANNOT_TELL = (
    "Who painted this?|Why is it there?|When was this made?|How much does it cost?|Is it happy?|"
    "What is its name?|Who made this picture?|What will happen next?|How old is it?|"
    "Where was this taken?|"
    "What does it think?|Is it real?|What does it smell like?|What time is it in the picture?|"
    "Who owns it?|"
    "How heavy is it?|What happened before?|Why did someone draw this?|"
    "What is the story behind it?|"
    "Is it famous?|Do you like it?|Is this good?"
).split("|")


def _about_picture(rng: random.Random, split: str) -> Dialogue:
    """A picture with a question that it does not answer, or talk after one was drawn."""
    scene = compose(rng, split, _any_things)
    turns: list[Turn] = []
    draws: list[bool] = []
    if rng.random() < 0.5:
        text = noise(rng.choice(_CANNOT_TELL[:-2]), rng)
        turns += [_shown(text, scene, rng), reply("I can't tell that from the picture.")]
        draws.append(False)
    elif rng.random() < 0.3:
        turns += [user(scene), reply(sentence(summary(scene)))]
        draws.append(False)
    else:
        request = request_for(scene, rng, 0.5)
        turns += [user(noise(ask_to_draw(request, rng), rng)), drawn(request, scene, rng)]
        draws.append(True)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(
            (
                "thanks",
                "praise",
                "blame",
                "who",
                "bye",
                "ability",
                "colours",
                "not now",
                "how",
                "hello",
                "shapes",
                "most",
                "edit ability",
                "size of picture",
            )
        )
        text, words = talk.intent(rng, name)[1:]
        draw_ = rng.random()
        if draw_ < 0.15:
            text, words = talk.outside(rng), talk.OUTSIDE
        elif draw_ < 0.25:
            text, words = talk.gibberish(rng), talk.NOT_UNDERSTOOD
        turns += [user(noise(text, rng) if draw_ >= 0.25 else text), reply(words)]
        draws.append(False)
    facts = {"skill": "beside a picture", "scene": scene_facts(scene), "draws": draws}
    return turns, facts


_TALKS: tuple[tuple[Callable[[random.Random, str], Dialogue], int], ...] = (
    (_small_talk, 38),
    (_unknown, 24),
    (_unknown_colour, 5),
    (_fixed_look, 5),
    (_unknown_place, 4),
    (_too_many, 6),
    (_no_picture, 8),
    (_about_picture, 10),
)


def talking(rng: random.Random, split: str) -> Dialogue:
    """Everything else people say."""
    makers, weights = zip(*_TALKS, strict=True)
    turns, facts = rng.choices(makers, weights)[0](rng, split)
    return turns, facts


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
