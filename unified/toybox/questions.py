"""Questions about a picture, each with its one exact answer.

A maker takes the scene and returns a Question, or None where the scene does not allow it without
ambiguity. The wording of an answer follows from the question and the picture alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unified.toybox.language import (
    BACKGROUND_PHRASES,
    COMPARATIVES,
    FORMS,
    FRUIT,
    MASS,
    NATURAL,
    NUMBERS,
    PLACE_NAMES,
    PLACE_PHRASES,
    RELATION_PHRASES,
    RELATIONS,
    SIZE_WORDS,
    a,
    amount,
    capital,
    groups_of,
    label,
    noun,
    refer,
    say_background,
    say_colour,
    say_noun,
    say_place,
    say_relation,
    sentence,
    summary,
)
from unified.toybox.scene import (
    BACKGROUNDS,
    Identity,
    Scene,
    Thing,
    held_out_colour,
    held_out_count,
    held_out_pair,
    relation,
    sample_identity,
)
from unified.toybox.sprites import COLOURS, OBJECTS, SHAPES

SKILLS = (
    "single object",
    "two objects",
    "counting",
    "colours",
    "position",
    "attribute binding",
)
OTHER_SKILLS = ("existence", "size", "background")


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


def _yes(truth: bool) -> str:
    return "Yes." if truth else "No."


def _yes_no(skill: str, text: str, truth: bool, full: str) -> Question:
    return Question(
        skill,
        text,
        _yes(truth),
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
    return f"some {words}" if words in MASS else a(words)


# --- single object -----------------------------------------------------------------------------


def _what_is_this(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    if len(scene.things) != 1:
        return None
    (thing,) = scene.things
    words = amount(thing.name, thing.colour)
    accepted = tuple(
        f"{thing.colour} {form}" if thing.colour else form
        for form in dict.fromkeys((*(f[0] for f in FORMS[thing.name]), thing.name))
    )
    if thing.colour and rng.random() < 0.3:
        text = rng.choice(
            (
                "What shape is this?",
                "Which shape do you see?",
                "What shape is it?",
                "Which shape is in the picture?",
                "What kind of shape is that?",
            )
        )
        shape = amount(thing.name)
        accepted = tuple(dict.fromkeys(form[0] for form in FORMS[thing.name]))
        return Question("single object", text, sentence(shape), f"It is {shape}.", accepted, 1 / 6)
    category = OBJECTS.get(thing.name)
    if category in ("animal", "vehicle", "food", "plant") and rng.random() < 0.2:
        text = rng.choice(
            (
                f"What {category} is this?",
                f"Which {category} do you see?",
                f"What {category} is in the picture?",
                f"What kind of {category} is this?",
                f"Name the {category}.",
            )
        )
        return Question("single object", text, sentence(words), f"It is {words}.", accepted, 1 / 24)
    text = rng.choice(
        (
            "What is this?",
            "What is that?",
            "What's this?",
            "What is in the picture?",
            "What is it?",
            "What do you see?",
            "What's in the picture?",
            "What can you see?",
            "What does it show?",
            "What does the picture show?",
            "What is shown here?",
            "Which thing is this?",
            "Can you tell what this is?",
            "Name the thing in the picture.",
            "Tell me what this is.",
            "What thing is this?",
            "Do you know what this is?",
            "What have we here?",
            "What am I showing you?",
            "What object is this?",
            "Can you name it?",
            "What is in this image?",
            "Identify this.",
            "Guess what this is.",
        )
    )
    return Question("single object", text, sentence(words), f"It is {words}.", accepted, 1 / 129)


def _this_or_that(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    if len(scene.things) != 1:
        return None
    (thing,) = scene.things
    other = focus.absent(scene, rng)
    if other is None:
        return None
    words = amount(thing.name, thing.colour)
    names = [
        with_article(say_kind(thing.name, thing.colour, 1, rng)),
        with_article(say_kind(*other, 1, rng)),
    ]
    rng.shuffle(names)
    text = rng.choice(("Is this {0} or {1}?", "Do you see {0} or {1}?", "Is it {0} or {1}?"))
    accepted = tuple(
        f"{thing.colour} {form}" if thing.colour else form
        for form in dict.fromkeys((*(f[0] for f in FORMS[thing.name]), thing.name))
    )
    return Question(
        "single object", text.format(*names), sentence(words), f"It is {words}.", accepted, 0.5
    )


def _is_this(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    if len(scene.things) != 1:
        return None
    (thing,) = scene.things
    truth = rng.random() < 0.5
    asked = (thing.name, thing.colour) if truth else focus.absent(scene, rng)
    if asked is None:
        return None
    kind = with_article(say_kind(*asked, 1, rng))
    text = rng.choice(
        (
            f"Is this {kind}?",
            f"Is that {kind}?",
            f"Is it {kind}?",
            f"This is {kind}, right?",
            f"Is {kind} in the picture?",
            f"Would you say this is {kind}?",
        )
    )
    words = amount(thing.name, thing.colour)
    return _yes_no("single object", text, truth, f"it is {words}.")


# --- two objects -------------------------------------------------------------------------------


def _two_kinds(scene: Scene) -> list[list[Thing]] | None:
    groups = list(groups_of(scene).values())
    return groups if len(groups) == 2 and len(scene.things) == 2 else None


def _which_two(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    groups = _two_kinds(scene)
    if groups is None:
        return None
    words = [amount(g[0].name, g[0].colour) for g in groups]
    text = rng.choice(
        (
            "What two things are there?",
            "Which two things do you see?",
            "What do you see?",
            "What is in the picture?",
            "What are these?",
            "What are the two things?",
            "Which things are in the picture?",
            "What things are there?",
            "What can you see?",
            "Name the two things.",
            "Tell me what you see.",
            "What's in the picture?",
            "What is there in the picture?",
            "Which two objects are these?",
            "List the things.",
            "What objects are in the image?",
        )
    )
    both = (f"{words[0]} and {words[1]}", f"{words[1]} and {words[0]}")
    return Question("two objects", text, sentence(both[0]), f"There is {both[0]}.", both, 1 / 8000)


def _what_else(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    groups = _two_kinds(scene)
    if groups is None:
        return None
    rng.shuffle(groups)
    (one,), (other,) = groups
    name = say_thing(scene, one, rng, False)
    text = rng.choice(
        (
            f"What is there besides {name}?",
            f"What else is there apart from {name}?",
            f"Besides {name}, what do you see?",
            f"What else do you see, besides {name}?",
            f"What is with {name}?",
            f"What is the other thing, apart from {name}?",
            f"I see {name}. What else is there?",
            f"There is {name} and what else?",
        )
    )
    words = amount(other.name, other.colour)
    return Question(
        "two objects",
        text,
        sentence(words),
        f"There is {words}.",
        (label(other.name, other.colour), *((other.name,) if not other.colour else ())),
        1 / 129,
    )


def _are_both(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    groups = list(groups_of(scene).values())
    if len(groups) < 2:
        return None
    chosen = rng.sample(groups, 2)
    asked: list[Identity] = [(g[0].name, g[0].colour) for g in chosen]
    truth = rng.random() < 0.5
    if not truth:
        other = focus.absent(scene, rng)
        if other is None:
            return None
        asked[rng.randrange(2)] = other
    one, two = (with_article(say_kind(*identity, 1, rng)) for identity in asked)
    text = rng.choice(
        (
            f"Is there {one} and {two}?",
            f"Are there both {one} and {two}?",
            f"Do you see {one} and {two}?",
            f"Does the picture show {one} and {two}?",
            f"Can you see both {one} and {two}?",
            f"Are {one} and {two} in the picture?",
            f"Are these {one} and {two}?"
            if len(scene.things) == 2
            else f"Is there {one} and {two}?",
        )
    )
    return _yes_no("two objects", text, truth, f"there {_verb(scene)} {summary(scene)}.")


def _verb(scene: Scene) -> str:
    first = scene.things[0].label
    return "are" if sum(t.label == first for t in scene.things) > 1 else "is"


# --- counting ----------------------------------------------------------------------------------


def _how_many(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    things = focus.pick(scene, rng)
    draw = rng.random()
    if draw < 0.12:
        other = focus.absent(scene, rng)
        if other is None:
            return None
        name, colour = other
    else:
        name, colour = things[0].name, things[0].colour
    if colour and sum(t.name == name for t in scene.things) and rng.random() < 0.4:
        counted = sum(t.name == name for t in scene.things)
        kind, exact = say_kind(name, None, 2, rng), noun(name, counted)
    else:
        counted = sum((t.name, t.colour) == (name, colour) for t in scene.things)
        kind, exact = say_kind(name, colour, 2, rng), label(name, colour, counted)
    return _count_question(kind, exact, counted, rng)


def _count_question(kind: str, exact: str, counted: int, rng: random.Random) -> Question:
    text = rng.choice(
        (
            f"How many {kind} are there?",
            f"How many {kind} do you see?",
            f"How many {kind}?",
            f"How many {kind} are in the picture?",
            f"Count the {kind}.",
            f"How many {kind} can you see?",
            f"What is the number of {kind}?",
            f"Can you count the {kind}?",
            f"Tell me how many {kind} there are.",
            f"How many {kind} does the picture show?",
            f"Number of {kind}?",
            f"How many {kind} are shown?",
            f"Are there any {kind}, and how many?",
        )
    )
    words = NUMBERS[counted] if counted else "no"
    accepted = (NUMBERS[counted],) if counted else ("zero", "none", "no")
    full = f"There {'is' if counted == 1 else 'are'} {words} {exact}."
    return Question("counting", text, sentence(NUMBERS[counted]), full, accepted, 0.2)


def _how_many_of(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    draw = rng.random()
    if draw < 0.55:
        kind = rng.choice(
            ("things", "things", "objects", "items", "things in all", "things in total")
        )
        counted = len(scene.things)
        exact = "thing" if counted == 1 else "things"
    elif draw < 0.7:
        counted = sum(t.is_shape for t in scene.things)
        kind, exact = "shapes", "shape" if counted == 1 else "shapes"
    elif draw < 0.9:
        category, kind = rng.choice(
            (
                ("animal", "animals"),
                ("vehicle", "vehicles"),
                ("animal", "animals"),
                ("fruit", "fruits"),
            )
        )
        counted = sum(
            OBJECTS.get(t.name) == category or (category == "fruit" and t.name in FRUIT)
            for t in scene.things
        )
        exact = category if counted == 1 else kind
    else:
        colours = [t.colour for t in scene.things if t.colour] or list(COLOURS)
        colour = rng.choice(colours)
        counted = sum(t.colour == colour for t in scene.things)
        kind = f"{say_colour(colour, rng)} shapes"
        exact = f"{colour} shape{'s' * (counted != 1)}"
    return _count_question(kind, exact, counted, rng)


def _are_there_n(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    thing = focus.pick(scene, rng)[0]
    counted = sum(t.label == thing.label for t in scene.things)
    truth = rng.random() < 0.5
    asked = counted if truth else rng.choice([n for n in (1, 2, 3, 4) if n != counted])
    if not focus.allows(Scene((), ""), thing.name, thing.colour, asked):
        return None
    kind = say_kind(thing.name, thing.colour, asked, rng)
    number = rng.choice((NUMBERS[asked], NUMBERS[asked], str(asked)))
    be = "Is" if asked == 1 else "Are"
    text = rng.choice(
        (
            f"{be} there {number} {kind}?",
            f"{be} there exactly {number} {kind}?",
            f"Do you see exactly {number} {kind}?",
        )
    )
    if not truth and asked < counted and "exactly" not in text:
        text = f"{be} there exactly {number} {kind}?"
    words = label(thing.name, thing.colour, counted)
    full = f"there {'is' if counted == 1 else 'are'} {NUMBERS[counted]} {words}."
    return _yes_no("counting", text, truth, full)


def _more(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    groups = list(groups_of(scene).values())
    if len(groups) < 2:
        return None
    one, two = rng.sample(groups, 2)
    if len(one) == len(two):
        return None
    kinds = [say_kind(g[0].name, g[0].colour, 2, rng) for g in (one, two)]
    if rng.random() < 0.5:
        most = max((one, two), key=len)
        words = label(most[0].name, most[0].colour, 2)
        text = rng.choice(
            ("Are there more {0} or more {1}?", "Which are more, the {0} or the {1}?")
        )
        return Question(
            "counting",
            text.format(*kinds),
            f"More {words}.",
            f"There are more {words}.",
            (f"more {words}", words),
            0.5,
        )
    truth = len(one) > len(two)
    first, second = (label(g[0].name, g[0].colour, 2) for g in (one, two))
    full = f"there are {'more' if truth else 'fewer'} {first} than {second}."
    return _yes_no("counting", f"Are there more {kinds[0]} than {kinds[1]}?", truth, full)


# --- colours -----------------------------------------------------------------------------------


def _unique_shapes(scene: Scene, focus: Focus, rng: random.Random) -> list[Thing]:
    return [
        t
        for t in focus.pick(scene, rng)
        if t.is_shape and len({s.colour for s in scene.things if s.name == t.name}) == 1
    ]


def _which_colour(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    shapes = _unique_shapes(scene, focus, rng)
    if not shapes:
        return None
    thing = shapes[0]
    count = sum(t.name == thing.name for t in scene.things)
    name = say_noun(thing.name, count, rng)
    lone = count == 1 and sum(t.is_shape for t in scene.things) == 1 and rng.random() < 0.15
    if lone:
        name = "shape"
    be, do = ("is", "does") if count == 1 else ("are", "do")
    word = rng.choice(("colour", "color"))
    text = rng.choice(
        (
            f"What {word} {be} the {name}?",
            f"Which {word} {be} the {name}?",
            f"What {word} {do} the {name} have?",
            f"What is the {word} of the {name}?",
            f"The {name}: which {word}?",
            f"Tell me the {word} of the {name}.",
            f"In what {word} {be} the {name}?",
            f"Which {word} {do} the {name} have?",
            f"What {word} did someone give the {name}?",
            f"Can you tell me the {word} of the {name}?",
            f"What's the {name}'s {word}?" if count == 1 else f"What {word} {be} the {name}?",
        )
    )
    verb = "is" if count == 1 else "are"
    full = f"The {noun(thing.name, count)} {verb} {thing.colour}."
    return Question("colours", text, capital(f"{thing.colour}."), full, (str(thing.colour),), 0.1)


def _colour_of_it(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    if len(scene.things) != 1 or not scene.things[0].colour:
        return None
    colour = scene.things[0].colour
    text = rng.choice(
        (
            "What colour is it?",
            "Which colour is it?",
            "What color is this?",
            "What colour is that?",
            "What is its colour?",
            "What color does it have?",
            "Its colour?",
        )
    )
    return Question("colours", text, capital(f"{colour}."), f"It is {colour}.", (colour,), 0.1)


def _is_colour(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    shapes = _unique_shapes(scene, focus, rng)
    if not shapes:
        return None
    thing = shapes[0]
    count = sum(t.name == thing.name for t in scene.things)
    truth = rng.random() < 0.5
    others = [
        c for c in COLOURS if c != thing.colour and focus.allows(Scene((), ""), thing.name, c)
    ]
    colour = str(thing.colour) if truth else rng.choice(others)
    name = say_noun(thing.name, count, rng)
    be = "is" if count == 1 else "are"
    words = say_colour(colour, rng)
    text = rng.choice(
        (
            f"{capital(be)} the {name} {words}?",
            f"{capital(be)} the {name} {words}?",
            f"Does the {name} look {words}?" if count == 1 else f"Do the {name} look {words}?",
            f"The {name} {be} {words}, right?",
        )
    )
    full = f"the {noun(thing.name, count)} {be} {thing.colour}."
    return _yes_no("colours", text, truth, full)


def _natural_colour(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    things = [t for t in focus.pick(scene, rng) if t.name in NATURAL]
    if not things or focus.labels:
        return None
    thing = things[0]
    count = sum(t.name == thing.name for t in scene.things)
    be = "is" if count == 1 else "are"
    word = rng.choice(("colour", "color"))
    name = say_noun(thing.name, count, rng)
    text = rng.choice(
        (
            f"What {word} {be} the {name}?",
            f"Which {word} {be} the {name}?",
            f"What is the {word} of the {name}?",
        )
    )
    colour = NATURAL[thing.name]
    full = f"The {noun(thing.name, count)} {be} {colour}."
    return Question("colours", text, capital(f"{colour}."), full, (colour,), 0.1)


# --- position ----------------------------------------------------------------------------------


def _where(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


def _is_at(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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
        return _yes_no("position", text.format(name, say_place(place, rng)), truth, full)
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


def _relative(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


def _is_relative(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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
        return _yes_no("position", text, truth, full)
    return None


def _what_is_beside(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


def _what_is_at(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


# --- attribute binding -------------------------------------------------------------------------


def _shapes(scene: Scene) -> list[Thing]:
    return [t for t in scene.things if t.is_shape]


def _binds(scene: Scene) -> bool:
    shapes = _shapes(scene)
    return len({t.name for t in shapes}) > 1 and len({t.colour for t in shapes}) > 1


def _which_shape(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    if not _binds(scene):
        return None
    shapes = _shapes(scene)
    for thing in focus.pick(scene, rng):
        if not thing.is_shape or sum(t.colour == thing.colour for t in shapes) != 1:
            continue
        if sum(t.name == thing.name for t in shapes) != 1:
            continue
        colour = say_colour(str(thing.colour), rng)
        text = rng.choice(
            (
                f"Which shape is {colour}?",
                f"What shape is {colour}?",
                f"Which one of the shapes is {colour}?",
                f"Which of the shapes is {colour}?",
                f"What shape is the {colour} one?",
                f"Tell me which shape is {colour}.",
                f"What is the shape of the {colour} thing?"
                if all(t.is_shape for t in scene.things)
                else f"Which shape is {colour}?",
            )
        )
        name = noun(thing.name)
        return Question(
            "attribute binding",
            text,
            f"The {name}.",
            f"The {name} is {thing.colour}.",
            tuple(dict.fromkeys(form[0] for form in FORMS[thing.name])),
            1 / len(shapes),
        )
    return None


def _bound_colour(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    if not _binds(scene):
        return None
    found = _which_colour(scene, rng, focus) if rng.random() < 0.5 else None
    if found:
        return Question("attribute binding", *list(vars(found).values())[1:])
    shapes = _unique_shapes(scene, focus, rng)
    if not shapes:
        return None
    thing = shapes[0]
    others = [
        str(t.colour)
        for t in _shapes(scene)
        if t.colour != thing.colour and focus.allows(Scene((), ""), thing.name, t.colour)
    ]
    if not others or sum(t.name == thing.name for t in scene.things) > 1:
        return None
    pair = [say_colour(c, rng) for c in (str(thing.colour), rng.choice(others))]
    rng.shuffle(pair)
    name = say_noun(thing.name, 1, rng)
    text = rng.choice(("Is the {n} {a} or {b}?", "Which colour is the {n}, {a} or {b}?"))
    return Question(
        "attribute binding",
        text.format(n=name, a=pair[0], b=pair[1]),
        capital(f"{thing.colour}."),
        f"The {noun(thing.name)} is {thing.colour}.",
        (str(thing.colour),),
        0.5,
    )


def _swapped(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    """ "Is there a blue circle?" beside a red circle and a blue square."""
    if not _binds(scene):
        return None
    truth = rng.random() < 0.5
    shapes = [t for t in focus.pick(scene, rng) if t.is_shape]
    if not shapes:
        return None
    thing = shapes[0]
    colour = str(thing.colour)
    if not truth:
        colours = [
            str(t.colour)
            for t in _shapes(scene)
            if t.colour != colour
            and all((s.name, s.colour) != (thing.name, t.colour) for s in scene.things)
            and focus.allows(Scene((), ""), thing.name, t.colour)
        ]
        if not colours:
            return None
        colour = rng.choice(colours)
    words = say_kind(thing.name, colour, 1, rng)
    text = rng.choice(
        (
            f"Is there {with_article(words)}?",
            f"Do you see {with_article(words)}?",
            f"Is there {with_article(words)} in the picture?",
            f"Can you see {with_article(words)}?",
        )
    )
    full = f"there {_verb(scene)} {summary(scene)}."
    alike = {t.colour for t in scene.things if t.name == thing.name}
    if len(alike) == 1 and rng.random() < 0.5:
        count = sum(t.name == thing.name for t in scene.things)
        be = "is" if count == 1 else "are"
        text = f"{capital(be)} the {say_noun(thing.name, count, rng)} {say_colour(colour, rng)}?"
        full = f"the {noun(thing.name, count)} {be} {thing.colour}."
    return _yes_no("attribute binding", text, truth, full)


# --- existence, size, background ---------------------------------------------------------------


def _is_there(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    truth = rng.random() < 0.5
    if rng.random() < 0.15:
        groups = {
            "an animal": "animal",
            "a vehicle": "vehicle",
            "any food": "food",
            "a plant": "plant",
            "any animals": "animal",
            "any vehicles": "vehicle",
            "something to eat": "food",
        }
        here = {OBJECTS.get(t.name) for t in scene.things}
        able = [words for words, kind in groups.items() if (kind in here) == truth]
        if rng.random() < 0.3 and truth == any(t.is_shape for t in scene.things):
            able = ["a shape", "any shapes"]
        if not able:
            return None
        kind = rng.choice(able)
    else:
        thing = focus.pick(scene, rng)[0]
        asked = (thing.name, thing.colour) if truth else focus.absent(scene, rng)
        if asked is None:
            return None
        name, colour = asked
        if colour and rng.random() < 0.3 and truth == any(t.name == name for t in scene.things):
            colour = None
        many = rng.random() < 0.3
        words = say_kind(name, colour, 2 if many else 1, rng)
        kind = f"any {words}" if many else with_article(words)
    text = rng.choice(
        (
            f"Is there {kind}?",
            f"Is there {kind} in the picture?",
            f"Do you see {kind}?",
            f"Can you see {kind}?",
            f"Does the picture show {kind}?",
            f"Is there {kind} here?",
            f"Does it have {kind}?",
            f"Is {kind} in this picture?",
        )
    )
    if kind.startswith("any ") and kind.endswith("s"):
        text = text.replace("Is there any", "Are there any").replace("Is any", "Are any")
    return _yes_no("existence", text, truth, f"there {_verb(scene)} {summary(scene)}.")


def _size(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    for thing in focus.pick(scene, rng):
        exact = refer(scene, thing)
        if exact is None or sum(t.label == thing.label for t in scene.things) > 1:
            continue
        name = f"the {say_kind(thing.name, thing.colour, 1, rng)}"
        draw = rng.random()
        full = f"{capital(exact)} is {thing.size}."
        if draw < 0.45:
            words = [rng.choice(SIZE_WORDS[s]) for s in rng.sample(("big", "small"), 2)]
            text = rng.choice(
                (
                    f"Is {name} {words[0]} or {words[1]}?",
                    f"What size is {name}?",
                    f"How big is {name}?",
                    f"Which size does {name} have?",
                    f"Is {name} {words[0]} or {words[1]}?",
                )
            )
            return Question("size", text, capital(f"{thing.size}."), full, (thing.size,), 0.5)
        if draw < 0.75:
            truth = rng.random() < 0.5
            other = {"big": "small", "small": "big"}[thing.size]
            size = rng.choice(SIZE_WORDS[thing.size if truth else other])
            return _yes_no("size", f"Is {name} {size}?", truth, full[0].lower() + full[1:])
        others = [
            t
            for t in scene.things
            if t.size != thing.size and sum(s.label == t.label for s in scene.things) == 1
        ]
        if not others:
            continue
        other_thing = rng.choice(others)
        names = [name, f"the {say_kind(other_thing.name, other_thing.colour, 1, rng)}"]
        exacts = [exact, str(refer(scene, other_thing))]
        size = rng.choice(("big", "small"))
        more = COMPARATIVES[size][0]
        winner = exact if thing.size == size else exacts[1]
        loser = exacts[1] if thing.size == size else exact
        if rng.random() < 0.5:
            text = rng.choice(("Which is {m}, {a} or {b}?", "What is {m}, {a} or {b}?"))
            order = rng.sample(names, 2)
            won = winner.removeprefix("the ")
            return Question(
                "size",
                text.format(m=more, a=order[0], b=order[1]),
                capital(f"{winner}."),
                f"{capital(winner)} is {more} than {loser}.",
                (won,),
                0.5,
            )
        truth = winner == exact
        full = f"{winner} is {more} than {loser}."
        return _yes_no("size", f"Is {names[0]} {more} than {names[1]}?", truth, full)
    return None


BACKGROUND_ANSWERS = {
    "white": "White.",
    "sky": "The sky.",
    "grass": "Grass.",
    "sand": "Sand.",
    "night": "Night.",
    "pink": "Pink.",
    "meadow": "A meadow.",
    "beach": "A beach.",
}


def _background(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    where = scene.background
    if rng.random() < 0.6:
        text = rng.choice(
            (
                "What is the background?",
                "What is in the background?",
                "Which background is it?",
                "What background does the picture have?",
                "What is behind it?" if len(scene.things) == 1 else "What is behind them?",
                "What kind of background is that?",
                "Which background does it have?",
                "What's the background like?",
                "Describe the background.",
            )
        )
        accepted = (
            where,
            BACKGROUND_PHRASES[where],
            BACKGROUND_ANSWERS[where],
            f"on {where}",
            f"in {where}",
            f"at {where}",
        )
        full = {"white": "The background is white.", "pink": "The background is pink."}.get(
            where,
            f"The background is {BACKGROUND_ANSWERS[where][0].lower()}"
            f"{BACKGROUND_ANSWERS[where][1:]}",
        )
        return Question("background", text, BACKGROUND_ANSWERS[where], full, accepted, 1 / 8)
    truth = rng.random() < 0.5
    near = ({"sky", "meadow", "beach"}, {"grass", "meadow"}, {"sand", "beach"}, {"sky", "night"})
    far = [b for b in BACKGROUNDS if b != where and not any({where, b} <= pair for pair in near)]
    other = where if truth else rng.choice(far)
    be = "Is it" if len(scene.things) == 1 else "Are they"
    place = say_background(other, rng)
    text = rng.choice((f"{be} {place}?", f"Is the picture {place}?", f"Is this {place}?"))
    return _yes_no("background", text, truth, f"it is {BACKGROUND_PHRASES[where]}.")


MAKERS: dict[str, tuple[Maker, ...]] = {
    "single object": (_what_is_this, _what_is_this, _this_or_that, _is_this),
    "two objects": (_which_two, _what_else, _are_both),
    "counting": (_how_many, _how_many, _how_many, _how_many_of, _are_there_n, _more),
    "colours": (_which_colour, _which_colour, _colour_of_it, _is_colour, _natural_colour),
    "position": (
        _where,
        _where,
        _is_at,
        _relative,
        _is_relative,
        _what_is_beside,
        _what_is_at,
    ),
    "attribute binding": (_which_shape, _bound_colour, _swapped),
    "existence": (_is_there,),
    "size": (_size,),
    "background": (_background,),
}


def make_question(
    scene: Scene, skill: str, rng: random.Random, focus: Focus = Focus()
) -> Question | None:
    """A question of a skill about a scene; None where the scene does not allow one."""
    makers = list(MAKERS[skill])
    rng.shuffle(makers)
    for maker in makers:
        found = maker(scene, rng, focus)
        if found:
            return found
    return None


_FULL = (
    "{q} Answer in a full sentence.",
    "{q} Please answer in a whole sentence.",
    "{q} Use a full sentence.",
    "Answer in a full sentence: {q}",
    "{q} (full sentence please)",
    "In a full sentence: {q}",
    "{q} Answer with a complete sentence.",
)
_SHORT = (
    "{q} Answer in one word.",
    "{q} Short answer.",
    "Quick question: {q}",
    "Tell me: {q}",
    "Look at the picture. {q}",
    "{q} Be brief.",
    "I have a question: {q}",
)


def ask_in_full(text: str, rng: random.Random) -> str:
    return rng.choice(_FULL).format(q=text)


def ask_plainly(text: str, rng: random.Random) -> str:
    return rng.choice(_SHORT).format(q=text) if rng.random() < 0.1 else text


__all__ = ["MAKERS", "OTHER_SKILLS", "SKILLS", "Focus", "Question", "make_question"]
