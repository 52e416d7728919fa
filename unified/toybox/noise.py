"""What people do to a sentence: politeness, case, punctuation, typos, spaces."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import cache

from unified.toybox.scene import BACKGROUNDS
from unified.toybox.sprites import COLOURS, OBJECTS, SHAPES
from unified.toybox.words import FORMS, NUMBERS

_BEFORE = (
    "Hey, ", "Hi, ", "Hello, ", "Hi! ", "Hello! ", "Please, ", "OK, ", "So, ", "Um, ", "Well, ",
    "Alright, ", "Hey! ", "Ok ", "Dear computer, ", "Good morning, ", "Excuse me, ", "Great, ",
)  # fmt: skip
_AFTER = (
    " please", ", please", " please!", " thanks", ", thanks!", ", thank you", " pls", " plz",
    " :)", "!!", "...", " for me", " now", ", ok?", " thx", ". Thank you!", ". Thanks.",
)  # fmt: skip


@cache
def _known_words() -> frozenset[str]:
    """Words that a typo must not turn into."""
    from unified.toybox.talk import UNKNOWN

    words = {w for forms in FORMS.values() for pair in forms for form in pair for w in form.split()}
    words |= {*UNKNOWN, *COLOURS, *SHAPES, *OBJECTS, *NUMBERS, *BACKGROUNDS}
    words |= {"there", "their", "want", "what", "were", "where", "bellow", "fist", "bred", "right"}
    return frozenset(words)


def typo(word: str, rng: random.Random) -> str:
    """One letter swapped, dropped or doubled; the word itself where that reads as another one."""
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        wrong = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    elif kind == 1:
        wrong = word[:at] + word[at + 1 :]
    else:
        wrong = word[:at] + word[at] + word[at:]
    return word if wrong.lower() in _known_words() else wrong


def noise(text: str, rng: random.Random, keep: Iterable[str] = ()) -> str:
    """What people do to a sentence: politeness, case, punctuation, a typo, spaces.

    Args:
        keep: words that get no typo, for replies that repeat them.
    """
    draw = rng.random()
    if draw < 0.07:
        head = text if text.startswith(("I ", "I'")) else text[:1].lower() + text[1:]
        text = rng.choice(_BEFORE) + head
    elif draw < 0.16:
        end = "?" if text.endswith("?") else ""
        text = text.rstrip(".!?") + rng.choice(_AFTER) + (end if rng.random() < 0.5 else "")
    if rng.random() < 0.08:
        words = text.split(" ")
        guarded = set(keep)
        able = [i for i, w in enumerate(words) if len(w) > 4 and w.isalpha() and w not in guarded]
        if able:
            at = rng.choice(able)
            words[at] = typo(words[at], rng)
            text = " ".join(words)
    draw = rng.random()
    if draw < 0.2:
        text = text.lower()
    elif draw < 0.23 and not keep:
        text = text.upper()
    draw = rng.random()
    if draw < 0.15:
        text = text.rstrip(".!?")
    elif draw < 0.18:
        text = text.replace(",", "").replace("'", "").rstrip(".!?")
    elif draw < 0.2:
        text = text.replace(" ", "  ", 1) if rng.random() < 0.5 else f" {text} "
    return text or "?"
