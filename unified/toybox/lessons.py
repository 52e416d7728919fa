"""Two things that the shipped model has never heard of, to be taught from twenty pictures each.

    python -m unified.toybox.lessons zib pictures/zib

A new object: a "zib" is a small yellow star on top of a small blue square. A new style: "wallpaper"
shows a small thing all over the picture; it is taught on some things and tried on others. Both are
made of forms that the toybox has, because its picture tokenizer knows no others.
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

LESSONS = ("zib", "wallpaper")
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
    made = _zib(rng, ground) if name == "zib" else _wallpaper(index, ground, split)
    scene, words, request = made
    return Lesson(f"{words} {BACKGROUND_PHRASES[ground]}", scene, request.facts())


def _zib(rng: random.Random, ground: str) -> tuple[Scene, str, Request]:
    column, row = rng.randrange(GRID), rng.randrange(GRID - 1)
    star = Thing("star", "yellow", "small", column, row)
    square = Thing("square", "blue", "small", column, row + 1)
    groups = (Group("star", "yellow", 1, "small", None), Group("square", "blue", 1, "small", None))
    return Scene.of([star, square], ground), "a zib", Request(groups, (0, "above", 1), ground)


def _wallpaper(index: int, ground: str, split: str) -> tuple[Scene, str, Request]:
    taught = sorted(OBJECTS)[::3]  # two dozen
    names = taught if split == "train" else sorted(set(OBJECTS) - set(taught))
    name = names[index % len(names)]
    places = product(range(GRID), range(GRID))
    things = [Thing(name, None, "small", column, row) for row, column in places]
    group = Group(name, None, len(things), "small", None)
    return Scene.of(things, ground), f"{name} wallpaper", Request((group,), None, ground)


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
