"""The judge of drawings: right on real renders, on soft ones, and not fooled by wrong ones."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unified.eval.judge import Judged, check, facts_of, judge
from unified.eval.validation import WRONG, soften, validate
from unified.toybox.scene import BACKGROUNDS, Scene, Thing, background, render, sample_scene


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return validate(200)


@pytest.mark.parametrize("condition", ["render", "soft"])
def test_facts_of_true_renders(rows: list[dict[str, Any]], condition: str) -> None:
    found = {row["fact"]: row for row in rows if row["condition"] == condition}
    assert {"things", "count", "colour", "relation", "place", "size", "background"} <= set(found)
    for row in found.values():
        assert row["value"] >= 0.99, row
        assert row["n"] >= 50


@pytest.mark.parametrize("fact", WRONG)
def test_wrong_renders_are_rejected(rows: list[dict[str, Any]], fact: str) -> None:
    (row,) = [row for row in rows if row["condition"] == "wrong" and row["fact"] == fact]
    assert row["value"] >= 0.99, row
    assert row["n"] >= 25


def scene_of(*things: tuple[str, str | None, str, int, int], on: str = "white") -> Scene:
    return Scene.of([Thing(*thing) for thing in things], on)


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_bare_background(name: str) -> None:
    assert judge(background(name)) == Judged((), name, 0.0)


def test_soft_pictures_are_as_soft_as_promised() -> None:
    for seed in range(8):
        rng = random.Random(seed)
        picture = render(sample_scene(rng))
        error = (soften(picture, rng).astype(np.float64) - picture) ** 2
        assert 10 * np.log10(65025 / error.mean()) == pytest.approx(26, abs=1)


def test_unknown_thing_is_reported() -> None:
    picture = render(scene_of(("cat", None, "big", 0, 0)))
    random_state = np.random.default_rng(0)
    picture[40:56, 40:56] = random_state.integers(0, 255, (16, 16, 3))
    found = judge(picture)
    assert [t.label for t in found.things] == ["cat"]
    assert found.unexplained > 0
    assert found.counts == {"cat": 1, "unknown": 1}
    facts = facts_of(scene_of(("cat", None, "big", 0, 0)))
    assert not check(found, facts)
    assert check(found, facts, exact=False)


def test_things_between_the_tiles() -> None:
    """A user's own drawing keeps to no lattice."""
    picture = render(scene_of(("cat", None, "big", 0, 0)))
    shifted = np.roll(picture, (13, 19), (0, 1))
    found = judge(shifted)
    assert [t.label for t in found.things] == ["cat"]
    assert found.unexplained == 0


def test_pictures_of_any_size_and_arrays_of_one() -> None:
    scene = scene_of(("star", "blue", "big", 1, 2), on="sand")
    large = Image.fromarray(render(scene)).resize((256, 256), Image.Resampling.BICUBIC)
    assert judge(large).counts == scene.counts
    with pytest.raises(ValueError, match="shape"):
        judge(np.zeros((32, 32, 3), np.uint8))


def test_rules() -> None:
    cat, dog = ("cat", None, "small", 0, 1), ("dog", None, "small", 3, 1)
    found = judge(render(scene_of(cat, dog, ("circle", "red", "small", 1, 3))))

    def asked(*things: dict[str, Any], **rest: Any) -> dict[str, Any]:
        return {"things": list(things), **rest}

    one = {"name": "cat", "colour": None, "count": 1}
    two = {"name": "dog", "colour": None, "count": 1}
    red = {"name": "circle", "colour": "red", "count": 1}
    assert check(found, asked(one, two, red))
    assert not check(found, asked(one, two)), "the circle was not asked for"
    assert check(found, asked(one, two), exact=False)
    assert not check(found, asked(one, two, red | {"colour": "blue"}))
    assert check(found, asked(one, two, red | {"colour": None})), "any colour"
    assert not check(found, asked(one | {"count": 2}, two, red))
    assert check(found, asked(one, two, red, relation=[0, "left of", 1]))
    assert check(found, asked(one, two, red, relation=[1, "next to", 0]))
    assert not check(found, asked(one, two, red, relation=[1, "left of", 0]))
    assert check(found, asked(one | {"place": "left", "size": "small"}, two, red))
    assert not check(found, asked(one | {"place": "top"}, two, red))
    assert not check(found, asked(one | {"size": "big"}, two, red))
    assert check(found, asked(one, two, red, background="white"))
    assert not check(found, asked(one, two, red, background="night"))
    assert not check(replace(found, unexplained=0.1), asked(one, two, red))
