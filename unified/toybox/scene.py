"""A scene: up to four things on a background, its exact facts, and its pixels.

A scene is 64x64 pixels on a lattice of 16-pixel tiles; a small thing covers one tile, a big one
2x2, and no two overlap. Some combinations are held out of all training by a fixed rule.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

from unified.toybox.sprites import COLOURS, OBJECTS, SHAPES, SIZES, sprite

SIDE = 64  # pixels
TILE = 16
GRID = SIDE // TILE
SKY, GRASS, SAND = (188, 224, 250), (166, 214, 126), (240, 220, 166)
# name -> colour of the upper three rows of tiles and the lowest
BACKGROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "white": ((250, 250, 250), (250, 250, 250)),
    "sky": (SKY, SKY),
    "grass": (GRASS, GRASS),
    "sand": (SAND, SAND),
    "night": ((46, 52, 112), (46, 52, 112)),
    "pink": ((250, 210, 220), (250, 210, 220)),
    "meadow": (SKY, GRASS),
    "beach": (SKY, SAND),
}
HORIZON = 3 * TILE
PLACES = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)
MOST = 4  # things in a scene


@dataclass(frozen=True)
class Thing:
    """One object or coloured shape; column and row (tiles) of its top left corner."""

    name: str
    colour: str | None
    size: str
    column: int
    row: int

    @property
    def is_shape(self) -> bool:
        """Shapes have a colour, objects look as they look."""
        return self.colour is not None

    @property
    def label(self) -> str:
        """Name and colour, "red circle"."""
        return f"{self.colour} {self.name}" if self.colour else self.name

    @property
    def pixels(self) -> int:
        """Length of a side of its box."""
        return SIZES[self.size]

    @property
    def tiles(self) -> int:
        """The same in tiles."""
        return self.pixels // TILE

    @property
    def centre(self) -> tuple[int, int]:
        """(x, y) in pixels."""
        half = self.pixels // 2
        return self.column * TILE + half, self.row * TILE + half

    @property
    def place(self) -> str:
        """Where it stands, one of the nine PLACES."""
        x, y = self.centre
        return PLACES[_third(y)][_third(x)]

    def overlaps(self, other: Thing) -> bool:
        """Whether two boxes share a tile."""
        return (
            self.column < other.column + other.tiles
            and other.column < self.column + self.tiles
            and self.row < other.row + other.tiles
            and other.row < self.row + self.tiles
        )


def _third(x: int) -> int:
    return 0 if x < 24 else 2 if x > 40 else 1


@dataclass(frozen=True)
class Scene:
    """Things in reading order (row, then column) on a named background."""

    things: tuple[Thing, ...]
    background: str

    @staticmethod
    def of(things: list[Thing] | tuple[Thing, ...], background: str) -> Scene:
        """Things in reading order."""
        return Scene(tuple(sorted(things, key=lambda t: (t.row, t.column))), background)

    @property
    def counts(self) -> Counter[str]:
        """How often each label ("cat", "red circle") stands in the scene."""
        return Counter(thing.label for thing in self.things)

    def is_valid(self) -> bool:
        """All things inside, none on another."""
        inside = all(
            0 <= t.column <= GRID - t.tiles and 0 <= t.row <= GRID - t.tiles for t in self.things
        )
        return inside and not any(a.overlaps(b) for a, b in combinations(self.things, 2))


def relation(a: Thing, b: Thing) -> str | None:
    """What a is of b: "left of", "right of", "above", "below"; None where it is not clear-cut."""
    dx, dy = b.centre[0] - a.centre[0], b.centre[1] - a.centre[1]
    if abs(dx) >= 16 and abs(dx) >= 2 * abs(dy):
        return "left of" if dx > 0 else "right of"
    if abs(dy) >= 16 and abs(dy) >= 2 * abs(dx):
        return "above" if dy > 0 else "below"
    return None


@lru_cache(maxsize=64)
def background(name: str) -> np.ndarray:
    """uint8 (64, 64, 3)."""
    upper, lower = BACKGROUNDS[name]
    canvas = np.empty((SIDE, SIDE, 3), np.uint8)
    canvas[:HORIZON], canvas[HORIZON:] = upper, lower
    return canvas


def render(scene: Scene) -> np.ndarray:
    """The scene's pixels, uint8 (64, 64, 3)."""
    canvas = background(scene.background).astype(np.float32)
    for thing in scene.things:
        image = sprite(thing.name, thing.size, thing.colour).astype(np.float32)
        alpha = image[..., 3:] / 255
        x, y, side = thing.column * TILE, thing.row * TILE, thing.pixels
        window = canvas[y : y + side, x : x + side]
        window += alpha * (image[..., :3] - window)
    return canvas.round().astype(np.uint8)


# --- the held-out rule -------------------------------------------------------------------------


def _hash(*words: object) -> int:
    return zlib.crc32(" ".join(map(str, words)).encode())


def held_out_colour(shape: str, colour: str) -> bool:
    """About one in ten pairs of shape and colour."""
    return _hash("colour", shape, colour) % 10 == 0


def held_out_pair(a: str, b: str) -> bool:
    """About one in sixteen pairs of different objects."""
    return a != b and a in OBJECTS and b in OBJECTS and _hash("pair", *sorted((a, b))) % 16 == 0


def held_out_count(label: str, count: int) -> bool:
    """About one in twelve of (label, two to four of it)."""
    return count >= 2 and _hash("count", label, count) % 12 == 0


def held_out(scene: Scene) -> bool:
    """Whether a scene holds any combination that is kept out of all training."""
    if any(t.colour and held_out_colour(t.name, t.colour) for t in scene.things):
        return True
    if any(held_out_count(label, count) for label, count in scene.counts.items()):
        return True
    return any(held_out_pair(a.name, b.name) for a, b in combinations(scene.things, 2))


# --- sampling ----------------------------------------------------------------------------------

Identity = tuple[str, str | None]  # name, colour


def sample_identity(rng: random.Random) -> Identity:
    """Any object, or any shape in any colour."""
    if rng.random() < 0.62:
        return rng.choice(list(OBJECTS)), None
    return rng.choice(SHAPES), rng.choice(list(COLOURS))


def sample_identities(rng: random.Random, count: int) -> list[Identity]:
    """`count` things: all alike, or some alike, or all different."""
    draw = rng.random()
    if count > 1 and draw < 0.3:
        return [sample_identity(rng)] * count
    if count > 2 and draw < 0.5:
        alike = rng.randint(2, count - 1)
        return [sample_identity(rng)] * alike + [sample_identity(rng) for _ in range(count - alike)]
    return [sample_identity(rng) for _ in range(count)]


def place_all(
    rng: random.Random, identities: list[Identity], sizes: list[str] | None = None
) -> list[Thing] | None:
    """Stand the things at random free places; None where they do not fit after a few tries."""
    for _ in range(8):
        things: list[Thing] = []
        chosen = sizes or [rng.choice(("small", "big", "big")) for _ in identities]
        for (name, colour), size in zip(identities, chosen, strict=True):
            thing = find_place(rng, things, name, colour, size)
            if thing is None:
                break
            things.append(thing)
        else:
            return things
    return None


def find_place(
    rng: random.Random, others: list[Thing], name: str, colour: str | None, size: str
) -> Thing | None:
    """A random free place for one more thing, None where there is none."""
    last = GRID - SIZES[size] // TILE
    spots = [(column, row) for column in range(last + 1) for row in range(last + 1)]
    rng.shuffle(spots)
    for column, row in spots:
        thing = Thing(name, colour, size, column, row)
        if not any(thing.overlaps(other) for other in others):
            return thing
    return None


def sample_scene(rng: random.Random, split: str = "train", count: int | None = None) -> Scene:
    """A random scene of a split: "train" and "seen" hold no held-out combination, "held_out" one.

    Args:
        count: how many things; random from one to four when None.
    """
    if split not in ("train", "seen", "held_out"):
        raise ValueError(f"unknown split {split!r}; one of train, seen, held_out")
    while True:
        number = count or rng.choices((1, 2, 3, 4), (0.3, 0.35, 0.2, 0.15))[0]
        things = place_all(rng, sample_identities(rng, number))
        if things is None:
            continue
        scene = Scene.of(things, rng.choice(list(BACKGROUNDS)))
        if held_out(scene) == (split == "held_out"):
            return scene
