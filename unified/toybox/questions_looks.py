"""Makers of questions about colours, whose colour it is, presence, size and background.

See `questions` for what a maker is.
"""

from __future__ import annotations

import random

from unified.toybox.language import (
    BACKGROUND_PHRASES,
    COMPARATIVES,
    FORMS,
    NATURAL,
    SIZE_WORDS,
    capital,
    noun,
    refer,
    say_background,
    say_colour,
    say_noun,
    summary,
)
from unified.toybox.question import Focus, Question, is_or_are, say_kind, with_article, yes_no
from unified.toybox.scene import BACKGROUNDS, Scene, Thing
from unified.toybox.sprites import COLOURS, OBJECTS

# --- colours -----------------------------------------------------------------------------------


def _unique_shapes(scene: Scene, focus: Focus, rng: random.Random) -> list[Thing]:
    return [
        t
        for t in focus.pick(scene, rng)
        if t.is_shape and len({s.colour for s in scene.things if s.name == t.name}) == 1
    ]


def which_colour(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


def colour_of_it(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


def is_colour(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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
    return yes_no("colours", text, truth, full)


def natural_colour(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


# --- attribute binding -------------------------------------------------------------------------


def _shapes(scene: Scene) -> list[Thing]:
    return [t for t in scene.things if t.is_shape]


def _binds(scene: Scene) -> bool:
    shapes = _shapes(scene)
    return len({t.name for t in shapes}) > 1 and len({t.colour for t in shapes}) > 1


def which_shape(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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


def bound_colour(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
    if not _binds(scene):
        return None
    found = which_colour(scene, rng, focus) if rng.random() < 0.5 else None
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


def swapped(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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
    full = f"there {is_or_are(scene)} {summary(scene)}."
    alike = {t.colour for t in scene.things if t.name == thing.name}
    if len(alike) == 1 and rng.random() < 0.5:
        count = sum(t.name == thing.name for t in scene.things)
        be = "is" if count == 1 else "are"
        text = f"{capital(be)} the {say_noun(thing.name, count, rng)} {say_colour(colour, rng)}?"
        full = f"the {noun(thing.name, count)} {be} {thing.colour}."
    return yes_no("attribute binding", text, truth, full)


# --- existence, size, background ---------------------------------------------------------------


def is_there(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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
    return yes_no("existence", text, truth, f"there {is_or_are(scene)} {summary(scene)}.")


def size(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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
            return yes_no("size", f"Is {name} {size}?", truth, full[0].lower() + full[1:])
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
        return yes_no("size", f"Is {names[0]} {more} than {names[1]}?", truth, full)
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


def background(scene: Scene, rng: random.Random, focus: Focus) -> Question | None:
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
    return yes_no("background", text, truth, f"it is {BACKGROUND_PHRASES[where]}.")
