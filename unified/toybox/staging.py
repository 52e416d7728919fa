"""What every conversation is made of: turns, scenes of a split, and the reply that draws.

Knows nothing about what is asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from unified.toybox.language import Request, canonical, here
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
from unified.toybox.sprites import COLOURS, SHAPES


@dataclass(frozen=True)
class Turn:
    """What one side says: texts and pictures in order."""

    role: str  # "user" or "assistant"
    parts: tuple[str | Scene, ...]

    @property
    def scene(self) -> Scene | None:
        """Its picture, None without one."""
        return next((part for part in self.parts if isinstance(part, Scene)), None)

    @property
    def text(self) -> str:
        """Its texts as one."""
        return " ".join(part for part in self.parts if isinstance(part, str))


# turns, and the facts that a sample keeps of them
Dialogue = tuple[list[Turn], dict[str, Any]]


def user(*parts: str | Scene) -> Turn:
    """A turn of the user's."""
    return Turn("user", parts)


def reply(*parts: str | Scene) -> Turn:
    """A turn of the assistant's."""
    return Turn("assistant", parts)


def scene_facts(scene: Scene) -> dict[str, Any]:
    """A scene as JSON: every thing with its place, and the background."""
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


def any_things(rng: random.Random) -> list[Identity]:
    """One to four things, mostly few."""
    return sample_identities(rng, rng.choices((1, 2, 3, 4), (0.32, 0.34, 0.2, 0.14))[0])


def any_shape(rng: random.Random) -> Identity:
    """A shape in a colour."""
    return rng.choice(SHAPES), rng.choice(tuple(COLOURS))


def core_of(skill: str, rng: random.Random) -> list[Identity]:
    """The things that a skill is about."""
    if skill == "single object":
        return [sample_identity(rng)]
    if skill == "counting":
        return [sample_identity(rng)] * rng.randint(2, MOST)
    if skill == "colours":
        return [any_shape(rng)]
    while True:
        if skill == "attribute binding":
            one, two = any_shape(rng), any_shape(rng)
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
        core = core_of(skill, rng)
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


# --- what is shown and drawn --------------------------------------------------------------------


def drawn(request: Request, scene: Scene, rng: random.Random) -> Turn:
    """The reply that draws: nearly always after a sentence that says what was understood, so that
    what the codes follow is the assistant's own few words, whatever the user's were."""
    draw = rng.random()
    if draw < 0.88:
        return reply(here(request), scene)
    if draw < 0.96:
        return reply(scene)
    return reply(scene, f"{canonical(request)[0].upper()}{canonical(request)[1:]}.")


CAPTION_FULL = (
    "Describe the picture.|Describe this picture.|Describe this image.|"
    "Describe the image in detail.|"
    "What exactly is in the picture?|Tell me everything about this picture.|Write a caption.|"
    "Write a detailed caption.|Give a full description.|Can you describe the picture?|"
    "Please describe what you see.|Describe everything you see.|Caption this.|"
    "Describe the scene.|Describe it in detail.|Explain the picture to me.|Say what is where.|"
    "Could you describe this picture in detail?|Give me a description of the picture.|"
    "What is where in the picture?|Describe.|Tell me about this picture.|Describe what you see."
).split("|")
CAPTION_SHORT = (
    "Describe the picture in a few words.|What is in the picture?|What do you see?|"
    "What things are there?|List the things.|Give a short caption.|Write a short caption.|"
    "In a few words, what is this?|Briefly describe the picture.|What can you see?|"
    "Describe it briefly.|Which things are in the picture?|What's in this picture?|"
    "Name everything you see.|What does the picture show?|Short description, please.|"
    "A few words about the picture, please.|Name the things in the picture.|Summarise the picture.|"
    "What objects are in the image?|Caption this in a few words.|What is there?"
).split("|")


def shown(text: str, scene: Scene, rng: random.Random) -> Turn:
    """The user's turn that shows a picture, mostly before the words."""
    return user(text, scene) if rng.random() < 0.25 else user(scene, text)
