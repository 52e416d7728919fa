"""Makers of questions about where things are, alone and to each other.

See `questions` for what a maker is.
"""

from __future__ import annotations

import random

from unified.toybox.language import (
    PLACE_NAMES,
    PLACE_PHRASES,
    RELATION_PHRASES,
    RELATIONS,
    amount,
    capital,
    label,
    refer,
    say_place,
    say_relation,
    sentence,
)
from unified.toybox.question import Focus, Question, say_thing, yes_no
from unified.toybox.scene import Scene, Thing, relation

# --- position ----------------------------------------------------------------------------------


def where(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    for thing in focus.pick(scene, rng):
        name = say_thing(scene, thing, rng, False)
        exact = refer(scene, thing)
        if name is None or exact is None:
            continue
        if len(scene.things) == 1 and rng.random() < 0.2:
            name = "it"
        text = rng.choice(
            (
                f"Where is {name}?",
                f"Where is {name}?",
                f"Where in the picture is {name}?",
                f"Where do you see {name}?",
                f"Where can I find {name}?",
                f"At which place is {name}?",
                f"In which part of the picture is {name}?",
                f"What is the position of {name}?",
                f"Tell me where {name} is.",
                f"Where does {name} stand?",
                f"Can you locate {name}?",
            )
        )
        where = PLACE_PHRASES[thing.place]
        full = f"{capital(exact)} is {where}."
        accepted: tuple[str, ...] = (
            thing.place,
            where,
            f"in {thing.place}",
            f"at {thing.place}",
            f"on {thing.place}",
        )
        if thing.place == "middle":
            accepted += ("center", "in center")
        return Question("position", text, sentence(where), full, accepted, 1 / 9)
    return None


def is_at(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    for thing in focus.pick(scene, rng):
        name, exact = say_thing(scene, thing, rng, False), refer(scene, thing)
        if name is None or exact is None:
            continue
        truth = rng.random() < 0.5
        place = thing.place
        if not truth:
            far = [p for p in PLACE_NAMES if p != thing.place]
            # "on the left" and "at the top" are also said of corners: keep away from those
            far = [p for p in far if not (set(p.split()) < set(place.split()))]
            far = [p for p in far if not (set(place.split()) < set(p.split()))]
            place = rng.choice(far)
        text = rng.choice(("Is {0} {1}?", "Is {0} {1}?", "Do you see {0} {1}?"))
        full = f"{exact} is {PLACE_PHRASES[thing.place]}."
        return yes_no("position", text.format(name, say_place(place, rng)), truth, full)
    return None


def _pairs(scene: Scene, rng: random.Random, focus: Focus) -> list[tuple[Thing, Thing, str]]:
    """Things that can be singled out, with a clear-cut relation, in random order."""
    things = focus.pick(scene, rng)
    found = []
    for one in things:
        for two in scene.things:
            name = relation(one, two) if one is not two and one.label != two.label else None
            if name and refer(scene, one) and refer(scene, two):
                found.append((one, two, name))
    rng.shuffle(found)
    return found


def relative(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    for one, two, name in _pairs(scene, rng, focus):
        first, second = say_thing(scene, one, rng, False), say_thing(scene, two, rng, False)
        if first is None or second is None:
            continue
        text = rng.choice(
            (
                f"Where is {first} relative to {second}?",
                f"Where is {first} compared to {second}?",
                f"On which side of {second} is {first}?",
                f"Where is {first}, seen from {second}?",
                f"What is the position of {first} relative to {second}?",
                f"Where does {first} stand relative to {second}?",
            )
        )
        other = str(refer(scene, two))
        phrase = f"{RELATION_PHRASES[name]} {other}"
        full = f"{capital(str(refer(scene, one)))} is {phrase}."
        short = name.removesuffix(" of")
        accepted = (phrase, f"{name} {other}", name, short, RELATION_PHRASES[name], f"on {short}")
        return Question("position", text, sentence(phrase), full, accepted, 0.25)
    return None


def is_relative(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    for one, two, name in _pairs(scene, rng, focus):
        first, second = say_thing(scene, one, rng, False), say_thing(scene, two, rng, False)
        if first is None or second is None:
            continue
        full = f"{refer(scene, one)} is {RELATION_PHRASES[name]} {refer(scene, two)}."
        if rng.random() < 0.3:
            sides = RELATIONS[:2] if name in RELATIONS[:2] else RELATIONS[2:]
            words = [r.removesuffix(" of") for r in rng.sample(sides, 2)]
            exact = f"{RELATION_PHRASES[name]} {refer(scene, two)}"
            if name in RELATIONS[:2]:
                text = f"Is {first} to the {words[0]} or to the {words[1]} of {second}?"
            else:
                text = f"Is {first} {words[0]} or {words[1]} {second}?"
            short = name.removesuffix(" of")
            accepted = (exact, f"{name} {refer(scene, two)}", name, short, RELATION_PHRASES[name])
            return Question("position", text, sentence(exact), capital(full), accepted, 0.5)
        truth = rng.random() < 0.5
        asked = name
        if not truth:
            asked = RELATIONS[RELATIONS.index(name) ^ 1]
            if rng.random() < 0.25:
                straight = [
                    r
                    for r in RELATIONS
                    if r != name
                    and r != asked
                    and 0
                    == (
                        one.centre[1] - two.centre[1]
                        if r in ("above", "below")
                        else one.centre[0] - two.centre[0]
                    )
                ]
                asked = rng.choice(straight) if straight else asked
        text = f"Is {first} {say_relation(asked, rng)} {second}?"
        return yes_no("position", text, truth, full)
    return None


def what_is_beside(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    """ "What is left of the dog?" where just one thing can be meant, or none."""
    for anchor in focus.pick(scene, rng):
        name = say_thing(scene, anchor, rng, False)
        if name is None or not refer(scene, anchor):
            continue
        others = [t for t in scene.things if t is not anchor]
        if not others:
            return None
        by_side: dict[str | None, list[Thing]] = {}
        for other in others:
            by_side.setdefault(relation(other, anchor), []).append(other)
        side = rng.choice(RELATIONS)
        axis = 0 if side in RELATIONS[:2] else 1
        sign = -1 if side in ("left of", "above") else 1
        towards = [t for t in others if (t.centre[axis] - anchor.centre[axis]) * sign > 0]
        found = by_side.get(side, [])
        if len(towards) != len(found) or len(found) > 1 or (not found and rng.random() < 0.6):
            continue
        words = say_relation(side, rng)
        text = rng.choice(
            (
                f"What is {words} {name}?",
                f"What do you see {words} {name}?",
                f"Which thing is {words} {name}?",
            )
        )
        phrase = f"{RELATION_PHRASES[side]} {refer(scene, anchor)}"
        if not found:
            full = f"Nothing is {phrase}."
            return Question("position", text, "Nothing.", full, ("nothing",), 1 / 129)
        (thing,) = found
        exact = amount(thing.name, thing.colour)
        full = f"{capital(exact)} is {phrase}."
        accepted = (label(thing.name, thing.colour), *((thing.name,) if not thing.colour else ()))
        return Question("position", text, sentence(exact), full, accepted, 1 / 129)
    return None


def what_is_at(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    for thing in focus.pick(scene, rng):
        words = set(thing.place.split())
        if sum(bool(words & set(t.place.split())) for t in scene.things) != 1:
            continue
        where = say_place(thing.place, rng)
        text = rng.choice(
            (f"What is {where}?", f"What do you see {where}?", f"Which thing is {where}?")
        )
        exact = amount(thing.name, thing.colour)
        full = f"{capital(exact)} is {PLACE_PHRASES[thing.place]}."
        accepted = (label(thing.name, thing.colour), *((thing.name,) if not thing.colour else ()))
        return Question("position", text, sentence(exact), full, accepted, 1 / 129)
    return None
