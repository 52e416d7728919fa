"""Films of the toybox: things that move, a camera that moves, and the sound of it, all exact.

A film is 64x64 pixels at FPS frames a second. Things stand, move in a line, bounce on the floor,
appear or disappear; the camera stands, pans (all shifts alike), trucks (near things shift more than
far ones) or zooms. What is big is near. Some pairs of thing and motion are held out of training.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from unified.toybox.language import amount, listing
from unified.toybox.scene import BACKGROUNDS, HORIZON, SIDE, Identity, sample_identity
from unified.toybox.sounds import Clip, Event
from unified.toybox.sprites import SIZES, sprite

FPS = 8  # frames a second
FRAMES = 17  # of a usual film: one and sixteen more, 2.1 seconds
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MOTIONS = ("still", *DIRECTIONS, "bounce", "appear", "disappear")
CAMERAS = ("still", "pan left", "pan right", "truck left", "truck right", "zoom in", "zoom out")
ZOOM = 1.6  # from the wide end to the narrow one
DEPTH = {"big": 1.0, "small": 0.5}  # share of a trucking camera's way by which things shift
FAR = 0.2  # the same for the background
FLOOR = 62  # where bouncing things land, pixels from the top


@dataclass(frozen=True)
class Actor:
    """One thing of a film and what it does.

    Attributes:
        x, y: its top left corner in the first frame, in pixels; of a bouncing thing y is the top
            of its flight.
        motion: one of MOTIONS.
        speed: pixels a frame, of what moves in a line.
        frame: at which it appears or disappears; of a bouncing thing, from one landing to the next.
    """

    name: str
    colour: str | None
    size: str
    x: int
    y: int
    motion: str = "still"
    speed: float = 0.0
    frame: int = 0

    @property
    def label(self) -> str:
        return f"{self.colour} {self.name}" if self.colour else self.name

    @property
    def side(self) -> int:
        return SIZES[self.size]

    def at(self, frame: int) -> tuple[float, float] | None:
        """Its top left corner in a frame, before the camera; None while it is not there."""
        if self.motion in DIRECTIONS:
            dx, dy = DIRECTIONS[self.motion]
            return self.x + dx * self.speed * frame, self.y + dy * self.speed * frame
        if self.motion == "bounce":  # a parabola from landing to landing, from the top at frame 0
            phase = (frame / self.frame + 0.5) % 1
            low = FLOOR - self.side
            return self.x, self.y + (low - self.y) * (2 * phase - 1) ** 2
        if (self.motion == "appear" and frame < self.frame) or (
            self.motion == "disappear" and frame >= self.frame
        ):
            return None
        return self.x, self.y

    def landings(self, frames: int) -> list[int]:
        """Frames at which a bouncing thing touches the floor."""
        if self.motion != "bounce":
            return []
        first = self.frame / 2
        return [round(first + k * self.frame) for k in range(frames)
                if round(first + k * self.frame) < frames]  # fmt: skip


@dataclass(frozen=True)
class Film:
    """Actors before a background, seen by a camera, for a number of frames."""

    actors: tuple[Actor, ...]
    background: str
    camera: str = "still"
    speed: float = 0.0  # pixels a frame of a panning or trucking camera
    frames: int = FRAMES

    @property
    def seconds(self) -> float:
        return self.frames / FPS

    def facts(self) -> dict[str, Any]:
        """JSON-able, sound events included."""
        return {
            "actors": [asdict(actor) for actor in self.actors],
            "background": self.background,
            "camera": self.camera,
            "frames": self.frames,
            "sounds": soundtrack(self).facts()["events"],
        }

    def shift(self, frame: int, depth: float) -> float:
        """How far things of a depth stand to the left of where they would without the camera."""
        kind, _, way = self.camera.partition(" ")
        if kind not in ("pan", "truck"):
            return 0.0
        share = 1.0 if kind == "pan" else depth
        return share * self.speed * frame * (1 if way == "right" else -1)

    def scale(self, frame: int) -> float:
        """Magnification about the middle of the picture."""
        done = frame / max(1, self.frames - 1)
        if self.camera == "zoom in":
            return float(ZOOM**done)
        return float(ZOOM ** (1 - done)) if self.camera == "zoom out" else 1.0


@lru_cache(maxsize=32)
def _backdrop(name: str) -> np.ndarray:
    """A background that repeats every SIDE pixels, with marks that show a camera's way, float32
    (SIDE, 2 SIDE, 3)."""
    upper, lower = BACKGROUNDS[name]
    tile = np.empty((SIDE, SIDE, 3), np.float32)
    tile[:HORIZON], tile[HORIZON:] = upper, lower
    rng = random.Random(name)
    for row in range(4, SIDE - 4, 10):
        x, mark = rng.randrange(SIDE), (26.0 if name == "night" else -16.0)
        for dx in range(6 if row < HORIZON else 3):
            tile[row : row + 2, (x + dx) % SIDE] += mark
    return np.concatenate([tile, tile], 1).clip(0, 255)


def render_film(film: Film) -> np.ndarray:
    """The film's pixels, uint8 (frames, 64, 64, 3)."""
    return np.stack([_frame(film, k) for k in range(film.frames)])


def _frame(film: Film, k: int) -> np.ndarray:
    first = round(film.shift(k, FAR)) % SIDE
    canvas = _backdrop(film.background)[:, first : first + SIDE].copy()
    for actor in sorted(film.actors, key=lambda a: a.side):  # near things hide far ones
        place = actor.at(k)
        if place is None:
            continue
        x = round(place[0] - film.shift(k, DEPTH[actor.size]))
        _paste(canvas, sprite(actor.name, actor.size, actor.colour), x, round(place[1]))
    picture = canvas.round().astype(np.uint8)
    scale = film.scale(k)
    if scale == 1:
        return picture
    edge = SIDE / 2 * (1 - 1 / scale)
    box = (edge, edge, SIDE - edge, SIDE - edge)
    size, filter_ = (SIDE, SIDE), Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize(size, filter_, box=box))


def _paste(canvas: np.ndarray, image: np.ndarray, x: int, y: int) -> None:
    """Lay a sprite over a canvas, in place; what stands outside is cut off."""
    side = len(image)
    top, left = max(0, -y), max(0, -x)
    bottom, right = min(side, SIDE - y), min(side, SIDE - x)
    if bottom <= top or right <= left:
        return
    part = image[top:bottom, left:right].astype(np.float32)
    window = canvas[y + top : y + bottom, x + left : x + right]
    window += part[..., 3:] / 255 * (part[..., :3] - window)


def soundtrack(film: Film) -> Clip:
    """What is heard: a bounce at every landing, a pop at what appears or disappears."""
    events = []
    for number, actor in enumerate(film.actors):
        frames = [(k, "bounce") for k in actor.landings(film.frames)]
        if actor.motion in ("appear", "disappear"):
            frames.append((actor.frame, "pop"))
        take = zlib.crc32(f"{actor.label} {number}".encode())
        for frame, name in frames:
            length = 0.28 if name == "bounce" else 0.18
            events.append(Event(name, frame / FPS, length, 0.6, None, take))
    return Clip(tuple(sorted(events, key=lambda e: e.start)), film.seconds)


# --- sampling ----------------------------------------------------------------------------------


def held_out_motion(label: str, motion: str) -> bool:
    """About one in ten pairs of a thing and what it does."""
    return motion != "still" and zlib.crc32(f"motion {label} {motion}".encode()) % 10 == 0


def held_out_film(film: Film) -> bool:
    """Whether a film holds a pair that is kept out of all training."""
    return any(held_out_motion(actor.label, actor.motion) for actor in film.actors)


def sample_film(rng: random.Random, split: str = "train", frames: int = FRAMES) -> Film:
    """A random film of a split: one or two things, of which at least one does something, or a
    camera that moves past things that stand."""
    if split not in ("train", "seen", "held_out"):
        raise ValueError(f"unknown split {split!r}; one of train, seen, held_out")
    while True:
        camera = rng.choice(CAMERAS) if rng.random() < 0.35 else "still"
        count = rng.choice((1, 1, 2)) if camera == "still" else rng.choice((1, 2, 2))
        actors: list[Actor] = []
        for number in range(count):
            acts = camera == "still" and (number == 0 or rng.random() < 0.5)
            motion = rng.choice(MOTIONS[1:]) if acts else "still"
            actor = _actor(rng, sample_identity(rng), motion, frames, camera != "still")
            if actor is not None:
                actors.append(actor)
        if len(actors) < count or len({a.label for a in actors}) < count:
            continue
        speed = rng.choice((1.0, 1.5, 2.0)) if camera[:4] in ("pan ", "truc") else 0.0
        film = Film(tuple(actors), rng.choice(tuple(BACKGROUNDS)), camera, speed, frames)
        if not _apart(film) or not _in_view(film):
            continue
        if held_out_film(film) == (split == "held_out"):
            return film


def _actor(
    rng: random.Random, identity: Identity, motion: str, frames: int, wide: bool
) -> Actor | None:
    """A thing at a place from where its motion stays in the picture; None where none does."""
    name, colour = identity
    size = rng.choice(("small", "big"))
    free = SIDE - SIZES[size]
    x, y = rng.randint(0, free), rng.randint(0, free)
    if wide:  # a camera passes: things may start outside
        x = rng.randint(-SIZES[size] // 2, SIDE - SIZES[size] // 2)
    if motion in DIRECTIONS:
        speed = rng.choice((1.0, 1.5, 2.0, 2.5))
        way = speed * (frames - 1)
        if way > free:
            speed = float(free // max(1, frames - 1) or 1)
            way = min(free, speed * (frames - 1))
        start = rng.randint(0, max(0, int(free - way)))
        far = int(free - start)
        x = {"left": far, "right": start}.get(motion, x)
        y = {"up": far, "down": start}.get(motion, y)
        return Actor(name, colour, size, x, y, motion, speed)
    if motion == "bounce":
        period = rng.choice((6, 8, 10))
        return Actor(name, colour, size, x, rng.randint(0, max(0, free - 22)), motion, 0, period)
    if motion in ("appear", "disappear"):
        if frames < 6:
            return None
        return Actor(name, colour, size, x, y, motion, 0, rng.randint(2, frames - 3))
    return Actor(name, colour, size, x, y)


def _apart(film: Film) -> bool:
    """Whether no thing ever hides another."""
    for k in range(film.frames):
        boxes = []
        for actor in film.actors:
            place = actor.at(k)
            if place:
                x = place[0] - film.shift(k, DEPTH[actor.size])
                boxes.append((x, place[1], actor.side))
        for i, (x, y, a) in enumerate(boxes):
            for u, v, b in boxes[i + 1 :]:
                if x < u + b and u < x + a and y < v + b and v < y + a:
                    return False
    return True


def _in_view(film: Film) -> bool:
    """Whether every thing can be seen well in some frame, and its motion in most."""
    for actor in film.actors:
        seen = 0
        for k in range(film.frames):
            place = actor.at(k)
            if place is None:
                continue
            x = place[0] - film.shift(k, DEPTH[actor.size])
            seen += -actor.side / 4 <= x <= SIDE - 0.75 * actor.side
        if seen < film.frames / 2 and actor.motion not in ("appear", "disappear"):
            return False
    return True


# --- words -------------------------------------------------------------------------------------

_DOES = {
    "still": "stands still",
    "bounce": "bounces",
    "appear": "appears",
    "disappear": "disappears",
    **{name: f"moves {name}" for name in DIRECTIONS},
}
_CAMERA_DOES = {
    "pan left": "pans left",
    "pan right": "pans right",
    "truck left": "trucks left",
    "truck right": "trucks right",
    "zoom in": "zooms in",
    "zoom out": "zooms out",
}


def film_words(film: Film) -> str:
    """Canonical words: "a cat moves left and a red circle stands still"."""
    parts = [f"{amount(a.name, a.colour)} {_DOES[a.motion]}" for a in film.actors]
    if film.camera != "still":
        parts.append(f"the camera {_CAMERA_DOES[film.camera]}")
    return listing(parts)
