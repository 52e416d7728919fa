"""What the shipped model has never heard of, to be taught from twenty pictures each.

    python -m unified.toybox.lessons zib pictures/zib

A new object: a "zib" is a small yellow star on top of a small blue square. New styles: a
"valentine" shows a big thing in the middle, on pink, between two small red hearts; "wallpaper"
shows a small thing all over the picture. Styles are taught on some things and tried on others. All
are made of forms that the toybox has, because its picture tokenizer knows no others.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from unified.toybox.language import BACKGROUND_PHRASES, Group, Request
from unified.toybox.scene import BACKGROUNDS, GRID, Scene, Thing, render
from unified.toybox.sprites import OBJECTS

LESSONS = ("zib", "valentine", "wallpaper")
SPLITS = ("train", "seen")
PICTURES = 20


@dataclass(frozen=True)
class Lesson:
    """A caption, a picture that it is true of, and what must hold of any such picture, as the judge
    of drawings takes it."""

    caption: str
    scene: Scene
    facts: dict[str, Any]


def lesson(name: str, seed: int, index: int, split: str = "train") -> Lesson:
    """Picture number `index` of a lesson; "seen" is for trying what was learnt from "train".

    Raises:
        ValueError: an unknown lesson or split.
    """
    if name not in LESSONS or split not in SPLITS:
        known = f"{', '.join(LESSONS)}; {', '.join(SPLITS)}"
        raise ValueError(f"no lesson {name!r} of split {split!r}; one of {known}")
    rng = random.Random(f"{seed}/lesson/{name}/{split}/{index}")
    ground = rng.choice(list(BACKGROUNDS))
    if name == "zib":
        scene, words, request = _zib(rng, ground)
    elif name == "valentine":
        scene, words, request = _valentine(_styled(index, split))
    else:
        scene, words, request = _wallpaper(_styled(index, split), ground)
    return Lesson(words, scene, request.facts())


def _styled(index: int, split: str) -> str:
    """The thing of a style's picture number `index`: one of two dozen, or for trying another."""
    taught = sorted(OBJECTS)[::3]
    names = taught if split == "train" else sorted(set(OBJECTS) - set(taught))
    return names[index % len(names)]


def _zib(rng: random.Random, ground: str) -> tuple[Scene, str, Request]:
    column, row = rng.randrange(GRID), rng.randrange(GRID - 1)
    star = Thing("star", "yellow", "small", column, row)
    square = Thing("square", "blue", "small", column, row + 1)
    groups = (Group("star", "yellow", 1, "small", None), Group("square", "blue", 1, "small", None))
    words = f"a zib {BACKGROUND_PHRASES[ground]}"
    return Scene.of([star, square], ground), words, Request(groups, (0, "above", 1), ground)


def _valentine(name: str) -> tuple[Scene, str, Request]:
    thing = Thing(name, None, "big", 1, 1)
    hearts = [Thing("heart", "red", "small", column, 1) for column in (0, 3)]
    groups = (Group(name, None, 1, "big", thing.place), Group("heart", "red", 2, "small", None))
    scene = Scene.of([thing, *hearts], "pink")
    return scene, f"{name} valentine", Request(groups, (1, "next to", 0), "pink")


def _wallpaper(name: str, ground: str) -> tuple[Scene, str, Request]:
    places = product(range(GRID), range(GRID))
    things = [Thing(name, None, "small", column, row) for row, column in places]
    group = Group(name, None, len(things), "small", None)
    words = f"{name} wallpaper {BACKGROUND_PHRASES[ground]}"
    return Scene.of(things, ground), words, Request((group,), None, ground)


def write(name: str, folder: Path, count: int = PICTURES, seed: int = 0) -> None:
    """Pictures with their captions beside them, as `unified finetune` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        made = lesson(name, seed, index)
        Image.fromarray(render(made.scene)).save(folder / f"{index:02}.png")
        (folder / f"{index:02}.txt").write_text(made.caption + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in LESSONS:
        sys.exit(f"usage: python -m unified.toybox.lessons {'|'.join(LESSONS)} FOLDER")
    write(sys.argv[1], Path(sys.argv[2]))
