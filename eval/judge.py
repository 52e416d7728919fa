"""An independent judge of toybox pictures: analysis by synthesis, no network.

Every appearance is laid over the background at every place, and the picture is explained by the
ones that fit, best first, until only noise is left. The judge shares the sprites with the world it
judges and nothing with any model. How right it is, `unified.eval.validation` measures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from unified.toybox.scene import (
    BACKGROUNDS,
    GRID,
    HORIZON,
    SIDE,
    TILE,
    Scene,
    Thing,
    background,
    relation,
)
from unified.toybox.sprites import COLOURS, OBJECTS, SHAPES, SIZES, sprite

NAME, VERSION = "synthesis", 1
APPEARANCES: tuple[tuple[str, str | None], ...] = (
    *((name, None) for name in OBJECTS),
    *((shape, colour) for shape in SHAPES for colour in COLOURS),
)

# A window w over background b shows the sprite with difference d = sprite - b when
CONTRAST = (0.65, 1.35)  # <w - b, d> / |d|^2: 1 for the sprite itself, 0.5 for half of it
MISFIT = 0.25  # |w - b - d|^2 <= MISFIT |d|^2 + FLOOR n
FLOOR = 100.0  # what smoothing leaves of noise, squared levels a value
MARGIN = 0.25  # how far from the midpoint to any other sprite: 0 on it, 1 at the sprite itself
# An 8x8 patch is unexplained when its mean squared residue exceeds RESIDUE + SOFTNESS * variance
# of the explanation there: softness leaves most residue where there is most detail.
RESIDUE, SOFTNESS = 700.0, 0.35
LOST = 0.4
CLEAN = 0.0  # share of unexplained patches up to which nothing unknown stands in the picture


@dataclass(frozen=True)
class Judged:
    """What a picture shows.

    Attributes:
        things: in reading order, each on the tile nearest to it.
        background: the one of the known backgrounds that fits best.
        unexplained: share of the picture's patches, 0 to 1, that show something else.
    """

    things: tuple[Thing, ...]
    background: str
    unexplained: float

    @property
    def scene(self) -> Scene:
        """What was found, as a scene."""
        return Scene.of(self.things, self.background)

    @property
    def counts(self) -> Counter[str]:
        """How often each label was found; what nothing explains counts as one "unknown"."""
        found = Counter(thing.label for thing in self.things)
        if self.unexplained > CLEAN:
            found["unknown"] += 1
        return found


# --- synthesis ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bank:
    """All sprites of a size over one background: differences to it, and how they differ.

    Shapes: differences (A, n), energy (A,), distance (A, A + 1); the last column is the bare
    background; n = side * side * 3.
    """

    differences: np.ndarray
    energy: np.ndarray
    distance: np.ndarray


Colour = tuple[int, int, int]


def _smooth(x: np.ndarray) -> np.ndarray:
    """Binomial 3x3 filter with zeros around, (H, W, C): what is compared, so that a soft picture
    of a thing is still near to it. Sprites leave their outermost pixels clear: none spills over."""
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    x = x[:-2] + 2 * x[1:-1] + x[2:]
    return (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 16


@lru_cache(maxsize=256)
def _bank(size: str, upper: Colour, lower: Colour, split: int) -> _Bank:
    """Over a window whose first `split` rows are of one colour and the rest of another."""
    side = SIZES[size]
    bare = np.empty((side, side, 3), np.float32)
    bare[:split], bare[split:] = upper, lower
    rows = []
    for name, colour in APPEARANCES:
        image = sprite(name, size, colour).astype(np.float32)
        rows.append(_smooth(image[..., 3:] / 255 * (image[..., :3] - bare)).ravel())
    differences = np.stack(rows)
    energy = np.einsum("an,an->a", differences, differences)
    distance = energy[:, None] + energy - 2 * differences @ differences.T
    np.fill_diagonal(distance, np.inf)
    return _Bank(differences, energy, np.concatenate([distance, energy[:, None]], 1))


def _bank_at(where: str, size: str, y: int) -> _Bank:
    upper, lower = BACKGROUNDS[where]
    split = min(max(HORIZON - y, 0), SIZES[size]) if upper != lower else SIZES[size]
    if split == 0:
        upper, split = lower, SIZES[size]
    elif split == SIZES[size]:
        lower = upper
    return _bank(size, upper, lower, split)


@dataclass(frozen=True)
class _Candidate:
    gain: float  # squared error that it explains
    name: str
    colour: str | None
    size: str
    x: int
    y: int

    @property
    def side(self) -> int:
        return SIZES[self.size]

    @property
    def thing(self) -> Thing:
        last = GRID - self.side // TILE
        column, row = (min(round(p / TILE), last) for p in (self.x, self.y))
        return Thing(self.name, self.colour, self.size, column, row)

    def overlaps(self, other: _Candidate, slack: int) -> bool:
        """Whether the boxes share more than `slack` pixels along both axes."""
        dx = min(self.x + self.side, other.x + other.side) - max(self.x, other.x)
        dy = min(self.y + self.side, other.y + other.side) - max(self.y, other.y)
        return dx > slack and dy > slack


def _candidates(
    difference: np.ndarray, where: str, size: str, xs: Sequence[int], y: int
) -> list[_Candidate]:
    """The sprites that fit windows of one row of the picture.

    Args:
        difference: picture - background, smooth, float32 (64, 64, 3).
    """
    side = SIZES[size]
    windows = np.stack([difference[y : y + side, x : x + side].ravel() for x in xs])  # (P, n)
    total = np.einsum("pn,pn->p", windows, windows)
    bank = _bank_at(where, size, y)
    worth = total > 0.3 * bank.energy.min()  # the rest is bare background
    if not worth.any():
        return []
    at = np.flatnonzero(worth)
    windows, total = windows[at], total[at]
    projected = windows @ bank.differences.T  # (P, A)
    score = bank.energy - 2 * projected  # |w - b - d|^2 - |w - b|^2
    best = score.argmin(1)
    rows = np.arange(len(at))
    gain, energy = -score[rows, best], bank.energy[best]
    rivals = np.concatenate([score, np.zeros((len(at), 1), np.float32)], 1)
    margin = ((rivals + gain[:, None]) / bank.distance[best]).copy()
    margin[rows, best] = np.inf
    contrast = projected[rows, best] / energy
    fits = (total - gain <= MISFIT * energy + FLOOR * windows.shape[1]) & (margin.min(1) >= MARGIN)
    fits &= (contrast >= CONTRAST[0]) & (contrast <= CONTRAST[1])
    return [
        _Candidate(float(gain[i]), name, colour, size, xs[at[i]], y)
        for i in np.flatnonzero(fits)
        for name, colour in (APPEARANCES[best[i]],)
    ]


def _explain(pixels: np.ndarray, where: str, step: int = TILE) -> tuple[Judged, float]:
    """What is found on a background, and the mean squared error that remains."""
    canvas = background(where).astype(np.float32)
    difference = _smooth(pixels - canvas)
    fitting: list[_Candidate] = []
    for size, side in SIZES.items():
        places = range(0, SIDE - side + 1, step)
        for y in places:
            fitting += _candidates(difference, where, size, places, y)
    if step < TILE:  # between the places looked at
        fitting = [_nudge(difference, where, c) for c in fitting]
    slack = 0 if step == TILE else 4
    chosen: list[_Candidate] = []
    for candidate in sorted(fitting, key=lambda c: -c.gain):
        if not any(candidate.overlaps(other, slack) for other in chosen):
            chosen.append(candidate)
    for c in chosen:
        window = canvas[c.y : c.y + c.side, c.x : c.x + c.side]
        image = sprite(c.name, c.size, c.colour).astype(np.float32)
        window += image[..., 3:] / 255 * (image[..., :3] - window)
    odd = _unexplained(pixels, canvas)

    def is_clear(c: _Candidate) -> bool:
        """Not garbled: most of its patches are explained."""
        rows, columns = (slice(p // 4, (p + c.side) // 4 - 1) for p in (c.y, c.x))
        return bool(odd[rows, columns].mean() <= 0.5)

    shown = tuple(c.thing for c in chosen if is_clear(c))
    found = Judged(Scene.of(shown, where).things, where, float(odd.mean()))
    return found, float(((pixels - canvas) ** 2).mean())


def _nudge(difference: np.ndarray, where: str, start: _Candidate) -> _Candidate:
    """The best fit of a candidate's size within one pixel of it."""
    last = SIDE - start.side
    xs = [x for x in (start.x - 1, start.x, start.x + 1) if 0 <= x <= last]
    near = [
        c for y in (start.y - 1, start.y, start.y + 1) if 0 <= y <= last
        for c in _candidates(difference, where, start.size, xs, y)
    ]  # fmt: skip
    return max([start, *near], key=lambda c: c.gain)


def _patches(values: np.ndarray) -> np.ndarray:
    """Means over 8x8 patches every 4 pixels, (64, 64) -> (15, 15)."""
    halves = values.reshape(16, 4, 16, 4).mean((1, 3))
    return (halves[1:, 1:] + halves[1:, :-1] + halves[:-1, 1:] + halves[:-1, :-1]) / 4


def _unexplained(pixels: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """Which patches show something else than the canvas, bool (15, 15)."""
    residue = _patches(((pixels - canvas) ** 2).mean(-1))
    means = np.stack([_patches(canvas[..., c]) for c in range(3)])
    variance = _patches((canvas**2).mean(-1)) - (means**2).mean(0)
    odd: np.ndarray = residue > RESIDUE + SOFTNESS * variance
    return odd


def judge(picture: np.ndarray | Image.Image) -> Judged:
    """What a picture shows: things, background and whether anything is left over.

    Args:
        picture: RGB, uint8 (64, 64, 3), or a PIL picture of any size.

    Raises:
        ValueError: an array of another shape.
    """
    if isinstance(picture, Image.Image):
        image = picture.convert("RGB")
        picture = np.asarray(image if image.size == (SIDE, SIDE) else image.resize((SIDE, SIDE)))
    if picture.shape != (SIDE, SIDE, 3):
        raise ValueError(f"a picture of shape {picture.shape}; the judge takes ({SIDE}, {SIDE}, 3)")
    pixels = picture.astype(np.float32)
    # each pixel's error counts up to a limit, so that things weigh little
    errors = {
        name: float(np.minimum(np.abs(pixels - background(name)).sum(-1), 90).mean())
        for name in BACKGROUNDS
    }
    first, second = sorted(errors, key=errors.__getitem__)[:2]
    tries = [(first, TILE)]
    if errors[second] < 1.25 * errors[first] + 4:
        tries.append((second, TILE))
    best, least = None, np.inf
    for where, step in (*tries, *((name, 2) for name, _ in tries)):
        if step < TILE and best is not None and not CLEAN < best.unexplained < LOST:
            break  # nothing is left to look for between the tiles, or it is no toybox picture
        found, error = _explain(pixels, where, step)
        cost = found.unexplained + error / 65025
        if cost < least:
            best, least = found, cost
    assert best is not None
    return best


# --- facts -------------------------------------------------------------------------------------


def matching(judged: Judged, group: Mapping[str, Any]) -> list[Thing]:
    """The things of a kind {name, colour}; a shape without colour stands for any colour."""
    name, colour = group["name"], group.get("colour")
    return [t for t in judged.things if t.name == name and colour in (None, t.colour)]


def check(judged: Judged, facts: Mapping[str, Any], exact: bool = True) -> bool:
    """Whether a picture shows what was asked for, by GenEval's rules on exact facts.

    Args:
        facts: {"things": [{name, colour, count, size, place}], "relation": [i, name, j] or None,
            "background": name or None}; None leaves a fact open. Relations go by centres,
            "next to" is left or right of.
        exact: things that were not asked for make it wrong, and so does what nothing explains.
            Otherwise only the kinds asked for are counted.
    """
    members = []
    for group in facts["things"]:
        found = matching(judged, group)
        if len(found) != (group.get("count") or 1):
            return False
        if group.get("size") and any(t.size != group["size"] for t in found):
            return False
        if group.get("place") and any(t.place != group["place"] for t in found):
            return False
        members.append(found)
    if exact and (judged.unexplained > CLEAN or sum(map(len, members)) != len(judged.things)):
        return False
    if facts.get("relation"):
        i, name, j = facts["relation"]
        names = ("left of", "right of") if name == "next to" else (name,)
        if not any(relation(a, b) in names for a in members[i] for b in members[j]):
            return False
    return facts.get("background") in (None, judged.background)


def facts_of(scene: Scene) -> dict[str, Any]:
    """Every fact of a scene as `check` takes them; the relation is the first that is clear-cut."""
    groups: dict[str, list[Thing]] = {}
    for thing in scene.things:
        groups.setdefault(thing.label, []).append(thing)
    things = []
    for members in groups.values():
        first = members[0]
        size = first.size if all(t.size == first.size for t in members) else None
        place = first.place if all(t.place == first.place for t in members) else None
        things.append({"name": first.name, "colour": first.colour, "count": len(members),
                       "size": size, "place": place})  # fmt: skip
    single = [m[0] if len(m) == 1 else None for m in groups.values()]
    relations = [
        [i, relation(a, b), j]
        for i, a in enumerate(single) for j, b in enumerate(single)
        if a and b and a is not b and relation(a, b)
    ]  # fmt: skip
    return {"things": things, "relation": relations[0] if relations else None,
            "background": scene.background}  # fmt: skip


def main(count: int = 500, seed: int = 0) -> None:
    """`python -m unified.eval.judge`: the figures of its validation."""
    from unified.eval.validation import validate

    for row in validate(count, seed):
        print(f"{row['condition']:8}{row['fact']:18}{row['metric']:10}{row['value']:.4f}"
              f"  n={row['n']}")  # fmt: skip


if __name__ == "__main__":
    main()
