"""What a question is, what it may be about, and a user's words for one thing of a scene."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unified.toybox.language import (
    MASS,
    PLACE_PHRASES,
    SIZE_WORDS,
    a,
    say_colour,
    say_noun,
    say_place,
)
from unified.toybox.scene import (
    Identity,
    Scene,
    Thing,
    held_out_colour,
    held_out_count,
    held_out_pair,
    sample_identity,
)
from unified.toybox.sprites import COLOURS, SHAPES


@dataclass(frozen=True)
class Question:
    """What is asked, and what must be answered; `full` is the answer as a whole sentence."""

    skill: str
    text: str
    answer: str
    full: str
    answers: tuple[str, ...]
    chance: float

    def facts(self, full: bool = False) -> dict[str, Any]:
        """As JSON; the answer as a whole sentence if `full`."""
        return {
            "skill": self.skill,
            "question": self.text,
            "answer": self.full if full else self.answer,
            "answers": list(self.answers),
            "chance": self.chance,
        }


Maker = Callable[[Scene, random.Random, "Focus"], "Question | None"]


@dataclass(frozen=True)
class Focus:
    """What questions may be about.

    Attributes:
        split: "train" and "seen" name no held-out combination.
        labels: things to ask about where a question is about one thing; all when empty.
    """

    split: str = "train"
    labels: frozenset[str] = frozenset()

    def allows(self, scene: Scene, name: str, colour: str | None, count: int = 1) -> bool:
        """Whether a thing may be named beside a scene."""
        if self.split == "held_out":
            return True
        if colour and held_out_colour(name, colour):
            return False
        words = f"{colour} {name}" if colour else name
        if held_out_count(words, count):
            return False
        return not any(held_out_pair(name, thing.name) for thing in scene.things)

    def pick(self, scene: Scene, rng: random.Random) -> list[Thing]:
        """The things to try as the target, in random order."""
        things = [t for t in scene.things if not self.labels or t.label in self.labels]
        rng.shuffle(things)
        return things

    def absent(self, scene: Scene, rng: random.Random) -> Identity | None:
        """A thing that a scene does not hold, often akin to one it does hold."""
        for _ in range(8):
            name, colour = sample_identity(rng)
            model = rng.choice(scene.things)
            draw = rng.random()
            if model.colour and draw < 0.4:
                name, colour = model.name, rng.choice(list(COLOURS))
            elif model.colour and draw < 0.6:
                name, colour = rng.choice(SHAPES), model.colour
            if all((t.name, t.colour) != (name, colour) for t in scene.things) and self.allows(
                scene, name, colour
            ):
                return name, colour
        return None


def yes(truth: bool) -> str:
    """The short answer of yes and no."""
    return "Yes." if truth else "No."


def yes_no(skill: str, text: str, truth: bool, full: str) -> Question:
    """A question of yes and no; `full` is what follows the comma in a whole sentence."""
    return Question(
        skill,
        text,
        yes(truth),
        f"{'Yes' if truth else 'No'}, {full}",
        ("yes" if truth else "no",),
        0.5,
    )


def say_thing(scene: Scene, thing: Thing, rng: random.Random, placed: bool = True) -> str | None:
    """A user's unambiguous words for one thing of a scene: "the kitty", "the big red star".

    Args:
        placed: whether its place may single it out ("the cat on the left").
    """
    alike = [t for t in scene.things if t.label == thing.label]
    words = say_noun(thing.name, 1, rng)
    if thing.colour:
        named = sum(t.name == thing.name for t in scene.things)
        if named > 1 or rng.random() < 0.4:
            words = f"{say_colour(thing.colour, rng)} {words}"
    if len(alike) == 1:
        if rng.random() < 0.05:
            words = f"{rng.choice(SIZE_WORDS[thing.size])} {words}"
        return f"the {words}"
    if sum(t.size == thing.size for t in alike) == 1:
        return f"the {rng.choice(SIZE_WORDS[thing.size])} {words}"
    if placed and sum(t.place == thing.place for t in alike) == 1:
        where = say_place(thing.place, rng)
        where = where if where.startswith(("in ", "on ", "at ")) else PLACE_PHRASES[thing.place]
        return f"the {words} {where}"
    return None


def say_kind(name: str, colour: str | None, count: int, rng: random.Random) -> str:
    """ "red circles", "kitty": a user's words without article."""
    words = say_noun(name, count, rng)
    return f"{say_colour(colour, rng)} {words}" if colour else words


def with_article(words: str) -> str:
    """One of it: "a cat", "some cheese"."""
    return f"some {words}" if words in MASS else a(words)


def is_or_are(scene: Scene) -> str:
    """The verb before a list of all things of a scene."""
    first = scene.things[0].label
    return "are" if sum(t.label == first for t in scene.things) > 1 else "is"
