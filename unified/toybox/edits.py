"""Changes of a picture: the request, the scene after it, and what exactly changed.

Everything a request does not name stays exactly where it is. Pure functions of their arguments.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from unified.toybox.language import (
    BACKGROUND_PHRASES,
    NUMBERS,
    PLACE_NAMES,
    PLACE_PHRASES,
    RELATION_PHRASES,
    RELATIONS,
    SIZE_WORDS,
    a,
    amount,
    groups_of,
    label,
    noun,
    refer,
    say_background,
    say_colour,
    say_count,
    say_place,
    say_relation,
    sentence,
)
from unified.toybox.questions import say_kind, say_thing, with_article
from unified.toybox.scene import (
    BACKGROUNDS,
    GRID,
    MOST,
    Scene,
    Thing,
    find_place,
    held_out,
    held_out_pair,
    relation,
    sample_identity,
)
from unified.toybox.sprites import COLOURS, SIZES

KINDS = (
    "recolour",
    "add",
    "remove",
    "move",
    "replace",
    "resize",
    "background",
    "swap",
)


@dataclass(frozen=True)
class Edit:
    """One change. `facts` is JSON-able and holds kind, target and new value.

    Attributes:
        reply: the assistant's sentence about it, true of `after`.
        about: canonical words for what changed, for later questions.
    """

    kind: str
    request: str
    reply: str
    before: Scene
    after: Scene
    facts: dict[str, Any]


def _fact(thing: Thing) -> dict[str, Any]:
    return {"name": thing.name, "colour": thing.colour, "size": thing.size, "place": thing.place}


def _swap_in(scene: Scene, old: Thing, *new: Thing) -> Scene:
    things = list(scene.things)
    at = things.index(old)
    things[at : at + 1] = new
    return Scene.of(things, scene.background)


def _targets(scene: Scene, rng: random.Random, plain: bool) -> list[tuple[Thing, str, str]]:
    """(thing, user's words, canonical words) of all that can be singled out, in random order."""
    found = []
    for thing in rng.sample(scene.things, len(scene.things)):
        exact = refer(scene, thing)
        alone = sum(t.label == thing.label for t in scene.things) == 1
        words = exact if plain and alone else None if plain else say_thing(scene, thing, rng)
        if words and exact:
            if thing.colour and alone and sum(t.name == thing.name for t in scene.things) == 1:
                exact = f"the {noun(thing.name)}"
                words = exact if plain else words
            if len(scene.things) == 1 and not plain and rng.random() < 0.5:
                words = "it"
            found.append((thing, words, exact))
    return found


def _recolour(scene: Scene, rng: random.Random, plain: bool) -> Edit | None:
    if not plain and rng.random() < 0.3:
        alike = [g for g in groups_of(scene).values() if len(g) > 1 and g[0].colour]
        if alike:
            return _recolour_all(scene, rng.choice(alike), rng)
    for thing, words, exact in _targets(scene, rng, plain):
        if not thing.colour:
            continue
        colour = rng.choice([c for c in COLOURS if c != thing.colour])
        said = colour if plain else say_colour(colour, rng)
        request = rng.choice(
            (
                f"Make {words} {said}.",
                f"Change {words} to {said}.",
                f"Paint {words} {said}.",
                f"Turn {words} {said}.",
                f"{words.capitalize()} should be {said}.",
                f"I want {words} to be {said}.",
                f"Can you make {words} {said}?",
                f"Now make {words} {said}.",
                f"Color {words} {said}.",
                f"Colour {words} {said}.",
                f"Could {words} be {said}?",
                f"I'd prefer {words} in {said}.",
                f"Make {words} {said} instead.",
                f"Change the colour of {words} to {said}.",
                f"Let {words} be {said}.",
                f"Give {words} the colour {said}.",
                f"Recolor {words} to {said}.",
                f"Make {words} {said}, please.",
                f"What if {words} were {said}?",
                f"Could you change {words} to {said}?",
            )
        )
        if words == "it" and rng.random() < 0.3:
            request = rng.choice(
                (
                    f"Now in {said}.",
                    f"The same in {said}, please.",
                    f"{said}, please.",
                    f"In {said} instead.",
                    f"And now {said}.",
                )
            ).capitalize()
        after = _swap_in(scene, thing, replace(thing, colour=colour))
        facts = {"target": _fact(thing), "from": thing.colour, "to": colour}
        return Edit("recolour", request, sentence(f"{exact} is {colour} now"), scene, after, facts)
    return None


def _recolour_all(scene: Scene, group: list[Thing], rng: random.Random) -> Edit:
    first = group[0]
    colour = rng.choice([c for c in COLOURS if c != first.colour])
    lone = all(t.colour == first.colour for t in scene.things if t.name == first.name)
    named = f"the {noun(first.name, 2)}" if lone else f"the {label(first.name, first.colour, 2)}"
    words = f"the {say_kind(first.name, None if lone else first.colour, 2, rng)}"
    if len(scene.things) == len(group) and rng.random() < 0.4:
        words = "them"
    said = say_colour(colour, rng)
    request = rng.choice(
        (
            f"Make {words} {said}.",
            f"Change {words} to {said}.",
            f"Paint {words} {said}.",
            f"Turn {words} {said}.",
            f"Make all of {words} {said}.",
            f"Can you make {words} {said}?",
        )
    )
    things = [replace(t, colour=colour) if t in group else t for t in scene.things]
    facts = {"target": _fact(first) | {"count": len(group)}, "from": first.colour, "to": colour}
    after = Scene.of(things, scene.background)
    return Edit("recolour", request, sentence(f"{named} are {colour} now"), scene, after, facts)


def _add(scene: Scene, rng: random.Random, plain: bool) -> Edit | None:
    room = MOST - len(scene.things)
    if not room:
        return None
    name, colour = sample_identity(rng)
    another = not plain and rng.random() < 0.2
    if another:
        model = rng.choice(scene.things)
        name, colour = model.name, model.colour
    count = 2 if room > 1 and rng.random() < 0.12 and not plain else 1
    size = rng.choice(tuple(SIZES))
    things = list(scene.things)
    new: list[Thing] = []
    for _ in range(count):
        thing = find_place(rng, things, name, colour, size)
        if thing is None:
            return None
        things.append(thing)
        new.append(thing)
    first = new[0]
    facts: dict[str, Any] = {
        "target": {"name": name, "colour": colour, "size": None, "place": None},
        "count": count,
    }
    kind = label(name, colour) if plain else say_kind(name, colour, count, rng)
    exact = amount(name, colour, count)
    if rng.random() < 0.2 and not plain:
        kind = f"{rng.choice(SIZE_WORDS[size])} {kind}"
        exact = amount(name, colour, count, size)
        facts["target"]["size"] = size
    words = with_article(kind) if count == 1 else f"{say_count(count, rng)} {kind}"
    if another:
        words = f"another {kind}" if count == 1 else f"two more {kind}"
    where = said = ""
    draw = rng.random()
    if plain:
        pass
    elif count == 1 and draw < 0.3:
        where, said = PLACE_PHRASES[first.place], say_place(first.place, rng)
        facts["target"]["place"] = first.place
    elif count == 1 and draw < 0.5:
        for anchor in rng.sample(scene.things, len(scene.things)):
            side = relation(first, anchor)
            named = refer(scene, anchor)
            alone = sum(t.label == anchor.label for t in scene.things) == 1
            if side and named and alone:
                where = f"{RELATION_PHRASES[side]} {named}"
                said = f"{say_relation(side, rng)} {say_thing(scene, anchor, rng)}"
                facts["relation"] = [side, _fact(anchor)]
                break
    tail = f" {said}" if said else ""
    request = rng.choice(
        (
            f"Add {words}{tail}.",
            f"Add {words}{tail}.",
            f"Put {words}{tail or ' in it'}.",
            f"Can you add {words}{tail}?",
            f"Now add {words}{tail}.",
            f"Also draw {words}{tail}.",
            f"And {words}{tail}, too.",
            f"Put {words} into the picture{',' * bool(tail)}{tail}.",
            f"I'd like {words} in it as well{',' * bool(tail)}{tail}.",
            f"Place {words}{tail or ' there'}.",
            f"Please add {words}{tail}.",
            f"Could you also add {words}{tail}?",
            f"There should also be {words}{tail}.",
            f"It needs {words}{tail}.",
            f"Include {words}{tail}.",
            f"Insert {words}{tail}.",
            f"Add {words} to the picture{tail}.",
            f"Draw {words}{tail} as well.",
            f"Draw {words} in it, too{',' * bool(tail)}{tail}.",
        )
    )
    after = Scene.of(things, scene.background)
    reply = sentence(f"I added {exact}{' ' + where if where else ''}")
    return Edit("add", request, reply, scene, after, facts)


def _remove(scene: Scene, rng: random.Random, plain: bool) -> Edit | None:
    if len(scene.things) < 2:
        return None
    groups = groups_of(scene)
    alike = [g for g in groups.values() if len(g) > 1]
    gone: list[Thing] = []
    words = exact = ""
    if alike and not plain and rng.random() < 0.6:
        group = rng.choice(alike)
        first = group[0]
        if len(groups) > 1 and rng.random() < 0.6:
            kind = say_kind(first.name, first.colour, 2, rng)
            gone, words = group, rng.choice((f"the {kind}", f"all {kind}", f"all the {kind}"))
            exact = f"the {label(first.name, first.colour, 2)}"
        else:
            kind = say_kind(first.name, first.colour, 2, rng)
            single = say_kind(first.name, first.colour, 1, rng)
            gone, words = [rng.choice(group)], rng.choice((f"one of the {kind}", f"one {single}"))
            exact = f"one {label(first.name, first.colour)}"
    else:
        found = _targets(scene, rng, plain)
        if not found:
            return None
        thing, words, exact = found[0]
        gone = [thing]
    request = rng.choice(
        (
            f"Remove {words}.",
            f"Remove {words}.",
            f"Delete {words}.",
            f"Take {words} away.",
            f"Take away {words}.",
            f"Get rid of {words}.",
            f"Erase {words}.",
            f"Can you remove {words}?",
            f"I don't want {words}.",
            f"{words[0].upper()}{words[1:]} should go.",
            f"Leave out {words}.",
            f"Please remove {words}.",
            f"Take out {words}.",
            f"Now without {words}.",
            f"Drop {words}.",
            f"The same without {words}.",
            f"Could you take {words} out?",
            f"Clear {words}.",
        )
    )
    things = [t for t in scene.things if t not in gone]
    facts = {"target": _fact(gone[0]), "count": len(gone)}
    after = Scene.of(things, scene.background)
    return Edit("remove", request, sentence(f"I removed {exact}"), scene, after, facts)


def _spots(scene: Scene, thing: Thing) -> list[Thing]:
    """The thing at every free spot."""
    others = [t for t in scene.things if t is not thing]
    last = GRID - thing.tiles
    moved = (replace(thing, column=c, row=r) for c in range(last + 1) for r in range(last + 1))
    return [m for m in moved if not any(m.overlaps(other) for other in others)]


def _move(scene: Scene, rng: random.Random, plain: bool) -> Edit | None:
    if plain and len(scene.things) > 1:
        return None
    for thing, words, exact in _targets(scene, rng, plain):
        spots = _spots(scene, thing)
        relative = not plain and len(scene.things) > 1 and rng.random() < 0.35
        if relative:
            anchor = rng.choice([t for t in scene.things if t is not thing])
            side = rng.choice(RELATIONS)
            named, said = refer(scene, anchor), say_thing(scene, anchor, rng)
            spots = [m for m in spots if relation(m, anchor) == side]
            if (
                not spots
                or not named
                or not said
                or relation(thing, anchor) == side
                or thing.label == anchor.label
            ):
                continue
            new = rng.choice(spots)
            where, there = f"{RELATION_PHRASES[side]} {named}", f"{say_relation(side, rng)} {said}"
            facts: dict[str, Any] = {"target": _fact(thing), "relation": [side, _fact(anchor)]}
        else:
            places = {m.place for m in spots} - {thing.place}
            if not places:
                continue
            place = rng.choice([p for p in PLACE_NAMES if p in places])
            new = rng.choice([m for m in spots if m.place == place])
            where, there = PLACE_PHRASES[place], say_place(place, rng)
            there = there if there.startswith(("in ", "on ", "at ", "to ")) else where
            if plain or (rng.random() < 0.5 and "corner" not in there):
                there = where
                if rng.random() < 0.5:
                    there = f"to the {place}" if place != "middle" else "to the middle"
            facts = {"target": _fact(thing), "to": place}
        verbs = (
            "Move",
            "Put",
            "Place",
            "Shift",
            "Can you move",
            "Could you put",
            "Bring",
            "Set",
            "Now put",
            "I want",
            "Now move",
            "Please move",
        )
        verb = rng.choice(verbs)
        end = "?" if verb.startswith(("Can", "Could")) else "."
        if verb.endswith(("ove", "hift", "ring")) and rng.random() < 0.8:
            there = re.sub(r"^(in|at|on) the ", "to the ", there)
        request = f"{verb} {words} {there}{end}"
        if rng.random() < 0.1:
            request = f"{words[0].upper()}{words[1:]} should be {there}."
        after = _swap_in(scene, thing, new)
        reply = sentence(
            f"{exact.split(' in the ')[0].split(' on the ')[0].split(' at the ')[0]} is {where} now"
        )
        return Edit("move", request, reply, scene, after, facts)
    return None


def _replace(scene: Scene, rng: random.Random, plain: bool) -> Edit | None:
    for thing, words, exact in _targets(scene, rng, plain):
        name, colour = sample_identity(rng)
        if (name, colour) == (thing.name, thing.colour) or (name == thing.name and plain):
            continue
        if held_out_pair(name, thing.name):
            continue
        new = amount(name, colour)
        said = new if plain else with_article(say_kind(name, colour, 1, rng))
        request = rng.choice(
            (
                f"Replace {words} with {said}.",
                f"Replace {words} by {said}.",
                f"Turn {words} into {said}.",
                f"Change {words} into {said}.",
                f"Swap {words} for {said}.",
                f"{said[0].upper()}{said[1:]} instead of {words}, please.",
                f"Make {words} {said} instead.",
                f"I want {said} instead of {words}.",
                f"Can you replace {words} with {said}?",
                f"Exchange {words} for {said}.",
                f"Instead of {words}, draw {said}.",
                f"Put {said} in the place of {words}.",
            )
        )
        if words == "it":
            exact = exact if thing.colour is None else f"the {noun(thing.name)}"
        after = _swap_in(scene, thing, replace(thing, name=name, colour=colour))
        facts = {"target": _fact(thing), "to": {"name": name, "colour": colour}}
        reply = sentence(f"I replaced {exact} with {new}")
        return Edit("replace", request, reply, scene, after, facts)
    return None


def _resized(scene: Scene, thing: Thing) -> Thing | None:
    """The thing in its other size, in the same place of the picture; None where it does not fit."""
    size = "big" if thing.size == "small" else "small"
    others = [t for t in scene.things if t is not thing]
    for right, down in ((0, 0), (-1, 0), (0, -1), (-1, -1), (1, 0), (0, 1), (1, 1)):
        new = replace(thing, size=size, column=thing.column + right, row=thing.row + down)
        inside = 0 <= new.column <= GRID - new.tiles and 0 <= new.row <= GRID - new.tiles
        if inside and new.place == thing.place and not any(new.overlaps(other) for other in others):
            return new
    return None


def _resize(scene: Scene, rng: random.Random, plain: bool) -> Edit | None:
    for thing, words, exact in _targets(scene, rng, plain):
        new = _resized(scene, thing)
        if new is None:
            continue
        big = new.size == "big"
        adjective = rng.choice(SIZE_WORDS[new.size])
        more = "bigger" if big else "smaller"
        options = [
            f"Make {words} {more}.",
            f"Make {words} {adjective}.",
            f"{'Enlarge' if big else 'Shrink'} {words}.",
            f"Can you make {words} {more}?",
            f"I want {words} {more}.",
            f"Now make {words} {more}.",
            f"{words[0].upper()}{words[1:]} should be {more}.",
            f"{words[0].upper()}{words[1:]} should be {adjective}.",
            f"{words[0].upper()}{words[1:]} is too {'small' if big else 'big'}.",
            f"Please make {words} {adjective}.",
        ]
        if words == "it":
            options += ["Bigger, please.", "Larger!"] if big else ["Smaller, please.", "Smaller!"]
        plainly = exact.removeprefix(f"the {thing.size} ")
        plainly = plainly if plainly == exact else f"the {plainly}"
        after = _swap_in(scene, thing, new)
        facts = {"target": _fact(thing), "to": new.size}
        reply = sentence(f"{plainly} is {new.size} now")
        return Edit("resize", rng.choice(options), reply, scene, after, facts)
    return None


def _background(scene: Scene, rng: random.Random, plain: bool) -> Edit:
    where = rng.choice([b for b in BACKGROUNDS if b != scene.background])
    it = "it" if len(scene.things) == 1 or rng.random() < 0.3 else "them"
    said = BACKGROUND_PHRASES[where] if plain else say_background(where, rng)
    kind = {"white": "white", "pink": "pink", "sky": "the sky", "night": "night"}.get(where)
    kind = kind or (a(where) if where in ("meadow", "beach") else where)
    request = rng.choice(
        (
            f"Put {it} {said}.",
            f"Now {said}.",
            f"The same {said}.",
            f"Draw {it} {said}.",
            f"Make it {said}.",
            f"Change the background to {kind}.",
            f"Make the background {kind}.",
            f"Use {kind} as the background.",
            f"Can you put {it} {said}?",
            f"I want {it} {said}.",
            f"The background should be {kind}.",
            f"Set the background to {kind}.",
            f"Show {it} {said}.",
            f"Could the background be {kind}?",
            f"Same picture, but {said}.",
        )
    )
    reply = sentence(
        f"now {'it is' if len(scene.things) == 1 else 'they are'} {BACKGROUND_PHRASES[where]}"
    )
    after = Scene(scene.things, where)
    return Edit("background", request, reply, scene, after, {"from": scene.background, "to": where})


def _swap(scene: Scene, rng: random.Random, plain: bool) -> Edit | None:
    found = [f for f in _targets(scene, rng, plain) if f[1] != "it"]
    if plain or len(found) < 2:
        return None
    (one, first, exact), (two, second, other) = found[:2]
    if one.size != two.size or one.label == two.label:
        return None
    things = [t for t in scene.things if t not in (one, two)]
    things += [
        replace(one, column=two.column, row=two.row),
        replace(two, column=one.column, row=one.row),
    ]
    request = rng.choice(
        (
            f"Swap {first} and {second}.",
            f"Let {first} and {second} change places.",
            f"Switch {first} and {second}.",
            f"Exchange the places of {first} and {second}.",
            f"Swap the places of {first} and {second}.",
        )
    )
    facts = {"target": _fact(one), "other": _fact(two)}
    after = Scene.of(things, scene.background)
    reply = sentence(f"I swapped {exact} and {other}")
    return Edit("swap", request, reply, scene, after, facts)


_EDITS: dict[str, Callable[[Scene, random.Random, bool], Edit | None]] = {
    "recolour": _recolour,
    "add": _add,
    "remove": _remove,
    "move": _move,
    "replace": _replace,
    "resize": _resize,
    "background": _background,
    "swap": _swap,
}


def edit(
    scene: Scene,
    rng: random.Random,
    split: str = "train",
    kind: str | None = None,
    plain: bool = False,
) -> Edit | None:
    """A random change of a scene, None where a few tries find none.

    Args:
        split: "train" and "seen" never arrive at a held-out combination.
        kind: one of KINDS; random when None.
        plain: canonical words, targets that are named by label alone, nothing that needs to know
            where things stand (for scripts whose picture is drawn by a model).
    """
    for _ in range(6):
        name = kind or rng.choice(KINDS)
        found = _EDITS[name](scene, rng, plain)
        if found and (split == "held_out" or not held_out(found.after)):
            found.facts["edit"] = name
            return found
    return None


def impossible(scene: Scene, rng: random.Random, absent: tuple[str, str | None]) -> tuple[str, str]:
    """(request, reply) of a change that cannot be made; no picture follows.

    Args:
        absent: a thing that the scene does not hold.
    """
    options: list[tuple[str, str]] = []
    kind = say_kind(*absent, 1, rng)
    exact = label(*absent)
    missing = f"There is no {exact} in the picture."
    colour = say_colour(rng.choice(list(COLOURS)), rng)
    verb = rng.choice(("Remove", "Delete", "Take away", "Erase", "Get rid of", "Please remove"))
    options += [(f"{verb} the {kind}.", missing)] * 2
    options.append((f"Move the {kind} {say_place(rng.choice(PLACE_NAMES), rng)}.", missing))
    options.append((f"Make the {kind} bigger.", missing))
    fixed = [t for t in scene.things if not t.colour]
    if fixed:
        thing = rng.choice(fixed)
        words = say_thing(scene, thing, rng)
        if words and refer(scene, thing):
            reply = f"I can't change the colour of {refer(scene, thing)}."
            options += [
                (f"{rng.choice(('Make', 'Paint', 'Turn', 'Color'))} {words} {colour}.", reply)
            ] * 3
    for thing in scene.things:
        words, named = say_thing(scene, thing, rng), refer(scene, thing)
        if words and named and sum(t.label == thing.label for t in scene.things) == 1:
            more = "bigger" if thing.size == "big" else "smaller"
            verb = "Enlarge" if thing.size == "big" else "Shrink"
            request = rng.choice((f"Make {words} {more}.", f"{verb} {words}."))
            options.append((request, f"{named[0].upper()}{named[1:]} is already {thing.size}."))
            if thing.colour:
                said = say_colour(thing.colour, rng)
                reply = f"{named[0].upper()}{named[1:]} is already {thing.colour}."
                reply = reply.replace(f"The {thing.colour} ", "The ", 1)
                if sum(t.name == thing.name for t in scene.things) == 1:
                    options.append((f"Make {words} {said}.", reply))
    if len(scene.things) == MOST:
        words = with_article(say_kind(*absent, 1, rng))
        request = rng.choice((f"Add {words}.", f"Also draw {words}.", f"Put {words} in it, too."))
        options += [(request, f"I can draw at most {NUMBERS[MOST]} things.")] * 4
    return rng.choice(options)
