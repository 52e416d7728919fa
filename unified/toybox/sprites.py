"""Every appearance a thing of the toybox can have: emoji objects and coloured shapes.

The emoji are drawn once by `draw_sprites.py` from Noto Color Emoji (Apache-2.0, see assets/) into
one sheet; shapes are drawn here. Knows nothing about where things stand.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ASSETS = Path(__file__).parent / "assets"
SIZES = {"small": 16, "big": 32}  # pixels a side

# name -> (emoji, category)
EMOJI: dict[str, tuple[str, str]] = {
    "cat": ("🐱", "animal"),
    "dog": ("🐶", "animal"),
    "fox": ("🦊", "animal"),
    "lion": ("🦁", "animal"),
    "cow": ("🐮", "animal"),
    "pig": ("🐷", "animal"),
    "frog": ("🐸", "animal"),
    "monkey": ("🐵", "animal"),
    "panda": ("🐼", "animal"),
    "rabbit": ("🐰", "animal"),
    "bear": ("🐻", "animal"),
    "mouse": ("🐭", "animal"),
    "penguin": ("🐧", "animal"),
    "chick": ("🐤", "animal"),
    "fish": ("🐠", "animal"),
    "turtle": ("🐢", "animal"),
    "butterfly": ("🦋", "animal"),
    "bee": ("🐝", "animal"),
    "ladybug": ("🐞", "animal"),
    "snail": ("🐌", "animal"),
    "octopus": ("🐙", "animal"),
    "whale": ("🐳", "animal"),
    "elephant": ("🐘", "animal"),
    "crab": ("🦀", "animal"),
    "apple": ("🍎", "food"),
    "banana": ("🍌", "food"),
    "grapes": ("🍇", "food"),
    "strawberry": ("🍓", "food"),
    "watermelon": ("🍉", "food"),
    "lemon": ("🍋", "food"),
    "pear": ("🍐", "food"),
    "pineapple": ("🍍", "food"),
    "carrot": ("🥕", "food"),
    "corn": ("🌽", "food"),
    "pizza": ("🍕", "food"),
    "hamburger": ("🍔", "food"),
    "cake": ("🍰", "food"),
    "donut": ("🍩", "food"),
    "egg": ("🍳", "food"),
    "cheese": ("🧀", "food"),
    "car": ("🚗", "vehicle"),
    "bus": ("🚌", "vehicle"),
    "bicycle": ("🚲", "vehicle"),
    "rocket": ("🚀", "vehicle"),
    "boat": ("⛵", "vehicle"),
    "train": ("🚂", "vehicle"),
    "tractor": ("🚜", "vehicle"),
    "helicopter": ("🚁", "vehicle"),
    "house": ("🏠", "thing"),
    "umbrella": ("☔", "thing"),
    "key": ("🔑", "thing"),
    "book": ("📕", "thing"),
    "guitar": ("🎸", "thing"),
    "drum": ("🥁", "thing"),
    "balloon": ("🎈", "thing"),
    "clock": ("⏰", "thing"),
    "gift": ("🎁", "thing"),
    "crown": ("👑", "thing"),
    "hat": ("🎩", "thing"),
    "ball": ("⚽", "thing"),
    "robot": ("🤖", "thing"),
    "tree": ("🌳", "plant"),
    "flower": ("🌻", "plant"),
    "cactus": ("🌵", "plant"),
    "mushroom": ("🍄", "plant"),
    "sun": ("🌞", "sky"),
    "moon": ("🌙", "sky"),
    "cloud": ("☁", "sky"),
    "rainbow": ("🌈", "sky"),
    "snowman": ("⛄", "sky"),
}
OBJECTS: dict[str, str] = {name: category for name, (_, category) in EMOJI.items()}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "heart")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "orange": (246, 138, 28),
    "yellow": (250, 208, 24),
    "green": (34, 146, 62),
    "blue": (40, 88, 216),
    "purple": (134, 54, 178),
    "pink": (242, 104, 172),
    "brown": (128, 78, 42),
    "black": (12, 12, 12),
    "gray": (128, 130, 136),
}


@cache
def _sheet() -> dict[str, np.ndarray]:
    """Sheet of each size, uint8 (rows of one sprite each: objects * side, side, 4)."""
    sheets = {}
    for size in SIZES:
        with Image.open(ASSETS / f"sprites_{size}.png") as image:
            sheets[size] = np.asarray(image.convert("RGBA"))
    return sheets


@lru_cache(maxsize=1024)
def sprite(name: str, size: str, colour: str | None = None) -> np.ndarray:
    """Picture of one thing with transparency, uint8 (side, side, 4), side 16 or 32 pixels."""
    side = SIZES[size]
    if name in OBJECTS:
        row = list(OBJECTS).index(name)
        return _sheet()[size][row * side : (row + 1) * side]
    if name not in SHAPES or colour not in COLOURS:
        raise ValueError(f"no sprite for {name!r} in colour {colour!r}")
    return _shape(name, side, COLOURS[colour])


def _shape(name: str, side: int, rgb: tuple[int, int, int], zoom: int = 8) -> np.ndarray:
    """A filled shape with a slightly darker rim, one pixel clear of its box on every side."""
    big = side * zoom
    mask = Image.new("L", (big, big))
    rim = Image.new("L", (big, big))
    for image, margin in ((rim, zoom), (mask, 2 * zoom)):
        _outline(ImageDraw.Draw(image), name, margin, big - 1 - margin)
    small = (side, side)
    alpha = np.asarray(rim.resize(small, Image.Resampling.BOX), np.float32)
    inner = np.asarray(mask.resize(small, Image.Resampling.BOX), np.float32)[..., None] / 255
    fill = np.array(rgb, np.float32)
    body = fill * inner + fill * 0.72 * (1 - inner)
    return np.dstack([body.round(), alpha]).astype(np.uint8)


def _outline(draw: ImageDraw.ImageDraw, name: str, low: float, high: float) -> None:
    middle, radius = (low + high) / 2, (high - low) / 2
    if name == "circle":
        draw.ellipse((low, low, high, high), fill=255)
    elif name == "square":
        inset = radius * 0.08
        draw.rectangle((low + inset, low + inset, high - inset, high - inset), fill=255)
    elif name == "heart":
        angle = np.linspace(0, 2 * np.pi, 200)
        x = 16 * np.sin(angle) ** 3
        y = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
        across, down = middle + radius * x / 16, middle - radius * (y + 2.5) / 14.7
        draw.polygon(list(zip(across.tolist(), down.tolist(), strict=True)), fill=255)
    else:
        corners = {"triangle": 3, "diamond": 4, "star": 10}[name]
        points = []
        for k in range(corners):
            reach = radius * (0.45 if name == "star" and k % 2 else 1.0)
            turn = 2 * np.pi * k / corners - np.pi / 2
            points.append((middle + reach * np.cos(turn), middle + reach * np.sin(turn)))
        if name == "triangle":
            points = [(middle, low), (high, high - radius * 0.1), (low, high - radius * 0.1)]
        draw.polygon(points, fill=255)
