"""An independent judge of toybox films: which things are where in every frame, and how they move.

Matched templates: every appearance is compared with every place of a frame under its own mask, and
the best fits are taken one by one until none is good enough (`watch`). Where something is, and so
how it moves, can be seen of what is too blurred to be told from others: `follow` looks for one
given thing. Shares the sprites with the world it judges and nothing with any codec.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from unified.toybox.scene import SIDE
from unified.toybox.sprites import COLOURS, OBJECTS, SHAPES, SIZES, sprite

NAME, VERSION = "templates", 2
FIT = 900.0  # mean squared difference, levels, under the mask of a thing that is there
EDGE = 2.0  # pixels that must be passed to have moved
MOST = 3  # things looked for in a frame
SEEN = 2  # frames in which a thing must be found

Key = TypeVar("Key", str, int)


@dataclass(frozen=True)
class Track:
    """places: (x, y) of its top left corner by frame number, for the frames where it was found."""

    name: str
    colour: str | None
    size: str
    places: dict[int, tuple[int, int]]

    @property
    def label(self) -> str:
        return f"{self.colour} {self.name}" if self.colour else self.name

    def motion(self, frames: int) -> str:
        """ "left", "right", "up", "down", "bounce", "appear", "disappear", "still", or
        "unseen" where it was found in no frame."""
        seen = sorted(self.places)
        if not seen:
            return "unseen"
        if len(seen) < frames:
            if seen[0] > 0 and seen[-1] == frames - 1 and len(seen) >= frames - seen[0] - 1:
                return "appear"
            if seen[0] == 0 and seen[-1] < frames - 1 and len(seen) >= seen[-1]:
                return "disappear"
        x, y = (np.array([self.places[k][axis] for k in seen], float) for axis in (0, 1))
        turns = np.diff(np.sign(np.diff(y)[np.abs(np.diff(y)) > 0.5]))
        if np.ptp(y) > 3 * EDGE and np.any(turns != 0):
            return "bounce"
        dx, dy = x[-1] - x[0], y[-1] - y[0]
        if max(abs(dx), abs(dy)) <= EDGE:
            return "still"
        if abs(dx) > abs(dy):
            return "right" if dx > 0 else "left"
        return "down" if dy > 0 else "up"


@cache
def _kernels(size: str) -> tuple[torch.Tensor, torch.Tensor, list[tuple[str, str | None]]]:
    """Colours under the mask (K, 3, s, s), masks (K, 1, s, s), and whose they are."""
    names: list[tuple[str, str | None]] = [(name, None) for name in OBJECTS]
    names += [(shape, colour) for shape in SHAPES for colour in COLOURS]
    images = np.stack([sprite(name, size, colour) for name, colour in names]).astype(np.float32)
    masks = (images[..., 3:] > 200).astype(np.float32)
    colours, shapes = (torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
                       for x in (images[..., :3] * masks, masks))  # fmt: skip
    return colours, shapes, names


def _gains(
    frame: torch.Tensor, colours: torch.Tensor, masks: torch.Tensor, fit: float = FIT
) -> torch.Tensor:
    """How much better than the bare background, taken as the median of each row, each thing
    explains each place of one frame (3, H, W): squared levels, (K, places, places). Zero where it
    fits worse than `fit` or explains less than half of what the background leaves."""
    x = frame[None]
    bare = (x - x.median(3, keepdim=True).values).square().sum(1, keepdim=True)
    nothing = F.conv2d(bare, masks)[0]
    squares = F.conv2d(x.square().sum(1, keepdim=True), masks)
    own = colours.square().sum((1, 2, 3))[:, None, None]
    misfits = (squares - 2 * F.conv2d(x, colours))[0] + own
    area = 3 * masks.sum((1, 2, 3))[:, None, None]
    fits = (misfits <= fit * area) & (misfits <= 0.5 * nothing)
    return (nothing - misfits).masked_fill(~fits, 0)


def _taken(
    gains: dict[Key, torch.Tensor], sizes: dict[Key, str], most: int
) -> Iterator[tuple[Key, int, int, int]]:
    """What explains most, one after the other: a circle explains more than the star that lies
    within it. Where one is taken, nothing else stands. gains: of each key (K, places, places)."""
    for _ in range(most):
        key = max(gains, key=lambda key: float(gains[key].max()))
        if float(gains[key].max()) <= 0:
            return
        _, rows, columns = gains[key].shape
        which, rest = divmod(int(gains[key].argmax()), rows * columns)
        y, x = divmod(rest, columns)
        yield key, which, x, y
        for other, g in gains.items():
            near, side = SIZES[sizes[other]], SIZES[sizes[key]]
            g[:, max(0, y - near // 2) : y + max(1, side - near // 2),
              max(0, x - near // 2) : x + max(1, side - near // 2)] = 0  # fmt: skip


def find(frame: np.ndarray) -> list[tuple[str, str | None, str, int, int]]:
    """Things in a frame uint8 (64, 64, 3): name, colour, size and top left corner."""
    picture = _picture(frame)
    gains = {size: _gains(picture, *_kernels(size)[:2]) for size in SIZES}
    taken = _taken(gains, {size: size for size in SIZES}, MOST)
    return [(*_kernels(size)[2][which], size, x, y) for size, which, x, y in taken]


def follow(frames: np.ndarray, things: Sequence[tuple[str, str | None, str]]) -> list[Track]:
    """Where given things (name, colour, size) are in each frame of a film uint8 (T, 64, 64, 3),
    however badly they are drawn: each at the place that it explains best, if it explains more than
    half of what stands out there."""
    tracks = [Track(*thing, {}) for thing in things]
    sizes = {k: size for k, (_, _, size) in enumerate(things)}
    kernels = []
    for name, colour, size in things:
        colours, masks, names = _kernels(size)
        which = names.index((name, colour))
        kernels.append((colours[which, None], masks[which, None]))
    for number, frame in enumerate(frames):
        picture = _picture(frame)
        gains = {k: _gains(picture, *kernel, math.inf) for k, kernel in enumerate(kernels)}
        for k, _, x, y in _taken(gains, sizes, len(things)):
            tracks[k].places.setdefault(number, (x, y))
            gains[k].zero_()
    return tracks


def _picture(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frame.astype(np.float32)).permute(2, 0, 1)


def watch(frames: np.ndarray) -> list[Track]:
    """The tracks of a film uint8 (T, 64, 64, 3), found in at least SEEN of its frames."""
    if frames.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"frames of shape {frames.shape[1:]}; the toybox's are {SIDE}x{SIDE}x3")
    places: dict[tuple[str, str | None, str], dict[int, tuple[int, int]]] = defaultdict(dict)
    for number, frame in enumerate(frames):
        for name, colour, size, x, y in find(frame):
            places[name, colour, size].setdefault(number, (x, y))
    return [Track(*who, where) for who, where in places.items() if len(where) >= SEEN]
