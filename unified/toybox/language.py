"""What is said in the toybox: canonical phrases, requests, and how users put them.

The assistant speaks canonical words ("a red circle", "in the top left"); users say the same in
many ways. The tables of words, the noise that people add, and how replies are compared have modules
of their own and can be had from here. Knows nothing about conversations.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unified.toybox.answers import matches as matches
from unified.toybox.answers import normalise as normalise
from unified.toybox.noise import noise as noise
from unified.toybox.noise import typo as typo
from unified.toybox.scene import Scene, Thing, relation
from unified.toybox.words import (
    BACKGROUND_PHRASES,
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    FORMS,
    ITS_SIDE,
    MASS,
    NUMBERS,
    OPPOSITE,
    PLACE_PHRASES,
    PLACE_WORDS,
    RELATION_PHRASES,
    RELATION_WORDS,
    SIZE_WORDS,
)
from unified.toybox.words import COMPARATIVES as COMPARATIVES
from unified.toybox.words import FRUIT as FRUIT
from unified.toybox.words import NATURAL as NATURAL
from unified.toybox.words import PLACE_NAMES as PLACE_NAMES
from unified.toybox.words import RELATIONS as RELATIONS

_AN = re.compile(r"(?:[aeio]|u(?!ni[cfqv]|kul|sb|r[aeiou]|fo\b)|hour|heir)", re.IGNORECASE)


# --- canonical phrases -------------------------------------------------------------------------


def a(words: str) -> str:
    """With its indefinite article: "a cat", "an egg"."""
    return f"{'an' if _AN.match(words) else 'a'} {words}"


def noun(name: str, count: int = 1) -> str:
    """The canonical name of one or several."""
    return FORMS[name][0][count != 1]


def label(name: str, colour: str | None = None, count: int = 1) -> str:
    """ "red circle", "red circles"."""
    return f"{colour} {noun(name, count)}" if colour else noun(name, count)


def amount(name: str, colour: str | None = None, count: int = 1, size: str | None = None) -> str:
    """ "a small red circle", "two cats", "no dogs"."""
    words = label(name, colour, count)
    if size:
        words = f"{size} {words}"
    return a(words) if count == 1 else f"{NUMBERS[count] if count else 'no'} {words}"


def listing(items: Sequence[str]) -> str:
    """ "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def sentence(words: str) -> str:
    """With a capital and a full stop."""
    return f"{words[0].upper()}{words[1:]}."


def summary(scene: Scene) -> str:
    """Things and counts in reading order: "a cat and two red circles"."""
    counts: dict[tuple[str, str | None], int] = {}
    for thing in scene.things:
        key = (thing.name, thing.colour)
        counts[key] = counts.get(key, 0) + 1
    return listing([amount(name, colour, n) for (name, colour), n in counts.items()])


def description(scene: Scene) -> str:
    """Every fact in reading order: "a big cat in the top left and a small dog …, on a beach"."""
    groups: dict[str, list[Thing]] = {}
    for thing in scene.things:
        groups.setdefault(thing.label, []).append(thing)
    items = []
    for things in groups.values():
        first = things[0]
        size = first.size if all(t.size == first.size for t in things) else None
        places = list(dict.fromkeys(PLACE_PHRASES[t.place] for t in things))
        items.append(f"{amount(first.name, first.colour, len(things), size)} {listing(places)}")
    plain = all(len(things) == 1 for things in groups.values())
    return (
        f"{listing(items) if plain else '; '.join(items)}, {BACKGROUND_PHRASES[scene.background]}"
    )


def refer(scene: Scene, thing: Thing) -> str | None:
    """The canonical way to single a thing out; None where neither label, size nor place does."""
    alike = [t for t in scene.things if t.label == thing.label]
    if len(alike) == 1:
        return f"the {noun(thing.name) if not thing.colour else label(thing.name, thing.colour)}"
    if sum(t.size == thing.size for t in alike) == 1:
        return f"the {thing.size} {label(thing.name, thing.colour)}"
    if sum(t.place == thing.place for t in alike) == 1:
        return f"the {label(thing.name, thing.colour)} {PLACE_PHRASES[thing.place]}"
    return None


# --- a request for a picture -------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Things alike that a request asks for; None where it leaves the fact open."""

    name: str
    colour: str | None
    count: int
    size: str | None = None
    place: str | None = None
    open: str = ""  # "colour" or "count" where the user does not say it

    @property
    def label(self) -> str:
        """Name and colour, "red circle"."""
        return f"{self.colour} {self.name}" if self.colour else self.name


@dataclass(frozen=True)
class Request:
    """The facts that a request states: groups, one relation (i, name, j), a background."""

    groups: tuple[Group, ...]
    relation: tuple[int, str, int] | None = None
    background: str | None = None

    def facts(self) -> dict[str, Any]:
        """What a picture must show, as JSON, as the judge takes it."""
        things = [asdict(group) for group in self.groups]
        for thing in things:
            del thing["open"]
        return {
            "things": things,
            "relation": list(self.relation) if self.relation else None,
            "background": self.background,
        }

    def holds(self, scene: Scene) -> bool:
        """Whether everything it states is true of a scene, and nothing else stands there."""
        if scene.counts != {group.label: group.count for group in self.groups}:
            return False
        members = [[t for t in scene.things if t.label == g.label] for g in self.groups]
        for group, things in zip(self.groups, members, strict=True):
            if group.size and any(t.size != group.size for t in things):
                return False
            if group.place and any(t.place != group.place for t in things):
                return False
        if self.relation:
            i, name, j = self.relation
            found = relation(members[i][0], members[j][0])
            if found != name and not (name == "next to" and found in ("left of", "right of")):
                return False
        return self.background in (None, scene.background)


def groups_of(scene: Scene) -> dict[str, list[Thing]]:
    """Things by label, in reading order."""
    groups: dict[str, list[Thing]] = {}
    for thing in scene.things:
        groups.setdefault(thing.label, []).append(thing)
    return groups


def request_for(
    scene: Scene, rng: random.Random, detail: float = 1.0, ordered: bool = True
) -> Request:
    """A request that a scene fulfils: all things and counts, and a random subset of the rest.

    Args:
        detail: how much of the rest is stated, about; 0 for nothing but things and counts.
        ordered: where no place is stated, things are named as they stand, in reading order: what
            to draw next is then what was named next. Else in any order.
    """
    members = list(groups_of(scene).values())
    rng.shuffle(members)
    link: tuple[int, str, int] | None = None
    singles = [i for i, things in enumerate(members) if len(things) == 1]
    if len(singles) >= 2 and rng.random() < 0.55 * detail:
        i, j = rng.sample(singles, 2)
        name = relation(members[i][0], members[j][0])
        if name in ("left of", "right of") and rng.random() < 0.12:
            name = "next to"
        if name:
            link = (i, name, j)
    sized, placed = 0.22 * detail, (0.12 if link else 0.32) * detail
    groups = []
    for i, things in enumerate(members):
        first = things[0]
        size = place = None
        if rng.random() < sized and all(t.size == first.size for t in things):
            size = first.size
        if not (link and i in link) and rng.random() < placed:
            place = first.place if all(t.place == first.place for t in things) else None
        left_open = ""
        if detail:
            chance = rng.random()
            if (
                first.colour
                and chance < 0.06
                and sum(m[0].name == first.name for m in members) == 1
            ):
                left_open = "colour"
            elif len(things) > 1 and chance > 0.96:
                left_open = "count"
        groups.append(Group(first.name, first.colour, len(things), size, place, left_open))
    backed = scene.background if rng.random() < 0.3 * detail else None
    if ordered and link is None and not any(group.place for group in groups):
        standing = list(groups_of(scene))
        groups.sort(key=lambda group: standing.index(group.label))
    return Request(tuple(groups), link, backed)


def canonical(request: Request) -> str:
    """The request in the assistant's words: "a big cat to the left of a dog, on a beach"."""

    def words(group: Group) -> str:
        text = amount(group.name, group.colour, group.count, group.size)
        return f"{text} {PLACE_PHRASES[group.place]}" if group.place else text

    items = [words(group) for group in request.groups]
    if request.relation:
        i, name, j = request.relation
        linked = f"{items[i]} {RELATION_PHRASES[name]} {items[j]}"
        rest = [item for k, item in enumerate(items) if k not in (i, j)]
        text = f"{linked}, and {listing(rest)}" if rest else linked
    else:
        text = listing(items)
    if request.background:
        text += f", {BACKGROUND_PHRASES[request.background]}"
    return text


def here(request: Request) -> str:
    """The sentence that says what is about to be drawn, before the picture."""
    first = request.groups[request.relation[0] if request.relation else 0]
    return f"Here {'is' if first.count == 1 else 'are'} {canonical(request)}."


def here_now(scene: Scene) -> str:
    """The same after a change: all that stands there, in reading order."""
    first = next(iter(groups_of(scene).values()))
    return f"Here {'is' if len(first) == 1 else 'are'} {summary(scene)}."


# --- the user's words --------------------------------------------------------------------------

_NICE = (
    "nice",
    "cute",
    "pretty",
    "lovely",
    "beautiful",
    "happy",
    "cool",
    "simple",
    "funny",
    "good",
)


def say_noun(name: str, count: int, rng: random.Random) -> str:
    """A user's word for one or several, a synonym now and then."""
    forms = FORMS[name]
    form = forms[0] if rng.random() < 0.6 else rng.choice(forms)
    return form[count != 1]


def say_colour(colour: str, rng: random.Random) -> str:
    """A user's word for a colour."""
    return rng.choice(COLOUR_WORDS.get(colour, (colour,)))


def say_place(place: str, rng: random.Random) -> str:
    """A user's words for a place."""
    if place in PLACE_WORDS:
        return rng.choice(PLACE_WORDS[place])
    vertical, side = place.split()
    upper = vertical if rng.random() < 0.8 else "upper" if vertical == "top" else "lower"
    return rng.choice(
        (
            f"in the {upper} {side}",
            f"in the {upper} {side} corner",
            f"at the {upper} {side}",
            f"in the {upper} {side}",
            f"{upper} {side}",
            f"in the {upper}-{side} corner",
        )
    )


def say_relation(name: str, rng: random.Random) -> str:
    """A user's words for where one thing is to another."""
    return rng.choice(RELATION_WORDS[name])


def say_background(name: str, rng: random.Random) -> str:
    """A user's words for a background."""
    return rng.choice(BACKGROUND_WORDS[name])


def say_count(count: int, rng: random.Random) -> str:
    """A number as a word, as digits or as a pair."""
    draw = rng.random()
    if count == 2 and draw < 0.15:
        return rng.choice(("a pair of", "a couple of"))
    return str(count) if draw > 0.75 else NUMBERS[count]


def say_group(group: Group, rng: random.Random, bare: bool = False) -> str:
    """One noun phrase: "two tiny grey boxes", "a kitty", bare: "kitty", "2 boxes"."""
    words = say_noun(group.name, group.count, rng)
    mass = words in MASS
    if group.colour and group.open != "colour":
        words = f"{say_colour(group.colour, rng)} {words}"
    if rng.random() < 0.04:
        words = f"{rng.choice(_NICE)} {words}"
    if group.size:
        words = f"{rng.choice(SIZE_WORDS[group.size])} {words}"
    if group.count > 1:
        if group.open == "count":
            return rng.choice((f"some {words}", words, f"a few {words}", f"several {words}"))
        return f"{say_count(group.count, rng)} {words}"
    if bare:
        return words
    if mass:
        return rng.choice((words, f"some {words}"))
    if group.name in ("sun", "moon") and rng.random() < 0.3:
        return f"the {words}"
    draw = rng.random()
    return f"one {words}" if draw < 0.04 else f"1 {words}" if draw < 0.07 else a(words)


_DEEDS = (
    "with", "with", "together with", "along with", "riding", "holding", "eating", "wearing",
    "looking at", "playing with", "chasing", "near", "who has", "carrying",
)  # fmt: skip


def say_request(request: Request, rng: random.Random) -> str:
    """The things, relation and background of a request in a user's words."""
    draw = rng.random()
    bare = draw < 0.1 and not request.relation
    dense = draw < 0.18 and not request.relation
    items = []
    for group in request.groups:
        words = say_group(group, rng, bare)
        items.append(f"{words} {say_place(group.place, rng)}" if group.place else words)
    loose = not any(group.place for group in request.groups)
    if request.relation:
        i, name, j = request.relation
        draw = rng.random()
        if draw < 0.12:
            linked = f"{items[j]} with {items[i]} {rng.choice(ITS_SIDE[name])}"
        elif draw < 0.2:
            linked = f"{items[j]} and {items[i]} {rng.choice(ITS_SIDE[name])}"
        elif draw < 0.28 and name in OPPOSITE:
            linked = f"{items[j]} {say_relation(OPPOSITE[name], rng)} {items[i]}"
        else:
            linked = f"{items[i]} {say_relation(name, rng)} {items[j]}"
        rest = [item for k, item in enumerate(items) if k not in (i, j)]
        text = linked
        if rest:
            text += f"{rng.choice((', and ', ' and also ', ', plus ', ', with '))}{listing(rest)}"
    elif dense:
        joins = (", ", ", ", " and ", " + ", "; ", " & ", *((" ",) if bare else ()))
        text = rng.choice(joins).join(items)
    elif len(items) == 1:
        text = items[0]
    elif len(items) == 2 and loose and rng.random() < 0.16:
        text = f"{items[0]} {rng.choice(_DEEDS)} {items[1]}"
    else:
        last = rng.choice((" and ",) * 6 + (", and ", " plus ", " as well as ", ", "))
        text = f"{', '.join(items[:-1])}{last}{items[-1]}"
    if request.background:
        where = say_background(request.background, rng)
        draw = rng.random()
        if dense:
            return f"{text}, {where}"
        if draw < 0.15:
            return f"{text}, all {where}" if len(items) > 1 else f"{text}, {where}"
        if draw < 0.5 or any(g.place for g in request.groups):
            return f"{text}, {where}"
        return f"{text} {where}"
    return text


_VERBS = (
    "draw", "draw", "draw", "draw", "paint", "sketch", "make", "create", "generate", "render",
    "produce", "show me", "give me", "draw me", "make me", "paint me", "show", "depict", "doodle",
    "illustrate", "design", "sketch me", "create for me", "compose",
)  # fmt: skip
_OPENINGS = (
    "", "", "", "", "", "", "", "", "Please ", "Can you ", "Could you ", "Would you ", "Now ",
    "Can you please ", "Could you please ", "I want you to ", "I'd like you to ", "Will you ",
    "Go ahead and ", "Let's ", "Try to ", "Kindly ", "You could ", "Next, ", "Would you kindly ",
    "Would you mind trying to ", "I need you to ", "Hi! Please ", "Now please ", "Are you able to ",
)  # fmt: skip
_AS_PICTURE = (
    "{x}", "{x}", "{x}", "{x}", "{x}", "a picture of {x}", "an image of {x}", "a drawing of {x}",
    "a picture with {x}", "a scene with {x}", "an image with {x}", "a picture showing {x}",
    "a sketch of {x}", "a painting of {x}", "a picture that has {x}", "me a picture of {x}",
)  # fmt: skip
_FRAMES = (
    "I want {x}", "I'd like {x}", "I want to see {x}", "I would like to see {x}", "I wish for {x}",
    "I would like a picture of {x}", "I need {x}", "Can I have {x}?", "Could I get {x}?",
    "May I see {x}?", "Let me see {x}", "{x}, please", "Picture of {x}", "Image of {x}",
    "Drawing of {x}", "A picture of {x}", "An image of {x}", "How about {x}?", "{x} would be nice",
    "I'm looking for a picture of {x}", "There should be {x} in the picture", "Imagine {x}",
    "I was thinking of {x}", "Put {x} in a picture", "A picture with {x}, please", "Just {x}",
    "I need a picture of {x}", "Can I see {x}?", "I'd love to see {x}", "A scene with {x}",
    "Get me {x}", "I want a picture with {x} in it", "My wish is {x}", "This time {x}",
    "What does a picture of {x} look like?", "A photo of {x}", "Do a picture of {x}",
    "I'd like to have {x}", "Can we have {x}?", "Do you think you could draw {x}?",
    "It would be great to see {x}", "Picture: {x}", "Prompt: {x}", "Show us {x}",
    "I feel like seeing {x}", "Surprise me with {x}", "For my daughter: {x}", "Next one: {x}",
    "A drawing with {x}",
)  # fmt: skip


def capital(text: str) -> str:
    """The first letter in upper case."""
    return text[:1].upper() + text[1:]


def frame(words: str, rng: random.Random) -> str:
    """Wrap what is wanted into a request for a picture, or leave it bare."""
    draw = rng.random()
    if draw < 0.14:
        return rng.choice((capital(words), words, f"{capital(words)}."))
    if draw < 0.42:
        text = rng.choice(_FRAMES).format(x=words)
        return capital(text) + ("" if text.endswith("?") or rng.random() < 0.3 else ".")
    opening, verb, picture = rng.choice(_OPENINGS), rng.choice(_VERBS), rng.choice(_AS_PICTURE)
    if verb.endswith("me") and picture.startswith("me "):
        picture = picture[3:]
    text = capital(f"{opening}{verb} {picture.format(x=words)}")
    asks = opening.startswith(("Can", "Could", "Would", "Will", "Are"))
    return text + ("?" if asks else rng.choice((".", ".", "", "!")))


def ask_to_draw(request: Request, rng: random.Random) -> str:
    """A whole request for a picture, without noise."""
    if request.background and rng.random() < 0.08:
        where = say_background(request.background, rng)
        words = say_request(Request(request.groups, request.relation), rng)
        return f"{capital(where)}, {rng.choice(('draw', 'paint', 'show me', 'I want'))} {words}."
    return frame(say_request(request, rng), rng)
