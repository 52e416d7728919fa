"""Questions about a picture, each with its one exact answer.

A maker takes the scene and returns a Question, or None where the scene does not allow it without
ambiguity. The wording of an answer follows from the question and the picture alone.
"""

from __future__ import annotations

import random

from unified.toybox import questions_looks as looks
from unified.toybox import questions_places as places
from unified.toybox import questions_things as things
from unified.toybox.question import Focus, Maker, Question
from unified.toybox.question import say_kind as say_kind
from unified.toybox.question import say_thing as say_thing
from unified.toybox.question import with_article as with_article
from unified.toybox.questions_looks import BACKGROUND_ANSWERS as BACKGROUND_ANSWERS
from unified.toybox.scene import Scene

SKILLS = (
    "single object",
    "two objects",
    "counting",
    "colours",
    "position",
    "attribute binding",
)
OTHER_SKILLS = ("existence", "size", "background")

ANYTHING = Focus()

MAKERS: dict[str, tuple[Maker, ...]] = {
    "single object": (
        things.what_is_this,
        things.what_is_this,
        things.this_or_that,
        things.is_this,
    ),
    "two objects": (things.which_two, things.what_else, things.are_both),
    "counting": (
        things.how_many,
        things.how_many,
        things.how_many,
        things.how_many_of,
        things.are_there_n,
        things.more,
    ),
    "colours": (
        looks.which_colour,
        looks.which_colour,
        looks.colour_of_it,
        looks.is_colour,
        looks.natural_colour,
    ),
    "position": (
        places.where,
        places.where,
        places.is_at,
        places.relative,
        places.is_relative,
        places.what_is_beside,
        places.what_is_at,
    ),
    "attribute binding": (looks.which_shape, looks.bound_colour, looks.swapped),
    "existence": (looks.is_there,),
    "size": (looks.size,),
    "background": (looks.background,),
}


def make_question(
    scene: Scene, skill: str, rng: random.Random, focus: Focus = ANYTHING
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
    """The question with a wish for a whole sentence."""
    return rng.choice(_FULL).format(q=text)


def ask_plainly(text: str, rng: random.Random) -> str:
    """The question as it is, or with a wish for a short answer."""
    return rng.choice(_SHORT).format(q=text) if rng.random() < 0.1 else text


__all__ = ["MAKERS", "OTHER_SKILLS", "SKILLS", "Focus", "Question", "make_question"]
