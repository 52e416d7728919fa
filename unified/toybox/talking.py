"""Talk

The words themselves are in `talk`. Knows nothing about seeds or tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from unified.toybox import talk
from unified.toybox.language import (
    NATURAL,
    NUMBERS,
    Group,
    Request,
    a,
    amount,
    ask_to_draw,
    frame,
    groups_of,
    here,
    label,
    listing,
    noise,
    noun,
    request_for,
    say_colour,
    say_group,
    say_noun,
    sentence,
    summary,
)
from unified.toybox.questions import with_article
from unified.toybox.scene import MOST, Identity, Scene, held_out_colour, sample_identity
from unified.toybox.sprites import COLOURS, OBJECTS, SHAPES
from unified.toybox.staging import (
    Dialogue,
    Turn,
    any_things,
    compose,
    drawn,
    reply,
    scene_facts,
    shown,
    user,
)


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


def _drawn_facts(skill: str, scene: Scene, request: Request) -> dict[str, Any]:
    return {
        "skill": skill,
        "scene": scene_facts(scene),
        "draws": [True],
        "request": request.facts(),
    }


def _unknown_place(rng: random.Random, split: str) -> Dialogue:
    scene = _one_group(rng, split)
    request = request_for(scene, rng, 0.0)
    where = rng.choice(talk.UNKNOWN_PLACES)
    text = noise(frame(f"{say_group(request.groups[0], rng)} {where}", rng), rng)
    said = reply(f"I don't have that background. {here(request)}", scene)
    return [user(text), said], _drawn_facts("unknown place", scene, request)


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
    return [user(text), said], _drawn_facts("too many", scene, request)


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
    scene = compose(rng, split, any_things)
    turns: list[Turn] = []
    draws: list[bool] = []
    if rng.random() < 0.5:
        text = noise(rng.choice(_CANNOT_TELL[:-2]), rng)
        turns += [shown(text, scene, rng), reply("I can't tell that from the picture.")]
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
