"""Makers of questions about which things there are and how many.

See `questions` for what a maker is.
"""

from __future__ import annotations

import random

from unified.toybox.language import (
    FORMS,
    FRUIT,
    NUMBERS,
    amount,
    groups_of,
    label,
    noun,
    say_colour,
    sentence,
    summary,
)
from unified.toybox.question import (
    Focus,
    Question,
    is_or_are,
    say_kind,
    say_thing,
    with_article,
    yes_no,
)
from unified.toybox.scene import Identity, Scene, Thing
from unified.toybox.sprites import COLOURS, OBJECTS

# --- single object -----------------------------------------------------------------------------


def what_is_this(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


def this_or_that(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


def is_this(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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
    return yes_no("single object", text, truth, f"it is {words}.")


# --- two objects -------------------------------------------------------------------------------


def _two_kinds(scene: Scene) -> list[list[Thing]] | None:
    groups = list(groups_of(scene).values())
    return groups if len(groups) == 2 and len(scene.things) == 2 else None


def which_two(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


def what_else(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


def are_both(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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
    return yes_no("two objects", text, truth, f"there {is_or_are(scene)} {summary(scene)}.")


# --- counting ----------------------------------------------------------------------------------


def how_many(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


def how_many_of(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


def are_there_n(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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
    return yes_no("counting", text, truth, full)


def more(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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
    return yes_no("counting", f"Are there more {kinds[0]} than {kinds[1]}?", truth, full)
