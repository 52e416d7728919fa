"""Whether a reply says what was to be answered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

from unified.toybox.sprites import COLOURS
from unified.toybox.words import FORMS, NUMBERS, PLACE_NAMES, RELATIONS

_DROPPED = {"a", "an", "the", "some"}


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, digits as words."""
    words = re.findall(r"[a-z0-9]+", text.lower().replace("grey", "gray"))
    words = [NUMBERS[int(w)] if w.isdigit() and int(w) < len(NUMBERS) else w for w in words]
    return " ".join(w for w in words if w not in _DROPPED)


@cache
def _families() -> tuple[frozenset[str], ...]:
    """Answers that exclude one another, by what kind of answer is expected."""
    return (
        frozenset(("yes", "no")),
        frozenset(NUMBERS) | {"none", "no"},
        frozenset(COLOURS),
        frozenset(("big", "small")),
        frozenset(PLACE_NAMES),
    )


@cache
def _names() -> frozenset[str]:
    return frozenset(normalise(word) for forms in FORMS.values() for pair in forms for word in pair)


def _mentions(text: str, family: Iterable[str]) -> list[str]:
    """Members of a family that stand in a text in order, the longest first, none in another."""
    found = []
    text = f" {text} "
    for member in sorted(family, key=len, reverse=True):
        while (at := text.find(f" {member} ")) >= 0:
            found.append((at, member))
            text = f"{text[:at]} {'|' * len(member)} {text[at + len(member) + 2 :]}"
    return [member for _, member in sorted(found)]


def matches(reply: str, answers: Sequence[str]) -> bool:
    """Whether a reply is one of the accepted answers, or a sentence that says exactly that one."""
    said = normalise(reply)
    accepted = [normalise(answer) for answer in answers]
    if said in accepted:
        return True
    if not any(f" {answer} " in f" {said} " for answer in accepted):
        return False
    if accepted[0] == "nothing":
        return said.startswith("nothing")
    if accepted[0] in ("yes", "no"):
        return said.startswith(accepted[0]) and set(_mentions(said, ("yes", "no"))) == {accepted[0]}
    for family in _families():
        if accepted[0] in family:
            return set(_mentions(said, family)) <= set(accepted)
    sides = set(_mentions(accepted[0], RELATIONS))
    if sides:
        return set(_mentions(said, RELATIONS)) == sides
    if any(
        f" {word} " in f" {said} " and word not in accepted[0].split() for word in ("and", "or")
    ):
        return False
    names = _mentions(said, _names())
    return not names or any(names[0] in _mentions(answer, _names()) for answer in accepted)
