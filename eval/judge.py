"""An independent judge of toybox pictures: analysis by synthesis, no network.

Every appearance is laid over the background at every place, and the picture is explained by the
ones that fit, best first, until only noise is left. The judge shares the sprites with the world it
judges and nothing with any model. `validate` measures it on real renders, on renders as soft and
noisy as a decoder's, and on renders that show something else than asked.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from unified.toybox.scene import (
    BACKGROUNDS,
    GRID,
    HORIZON,
    SIDE,
    TILE,
    Scene,
    Thing,
    background,
    find_place,
    relation,
    render,
    sample_scene,
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


# --- validation --------------------------------------------------------------------------------


def soften(picture: np.ndarray, rng: random.Random, psnr: float = 26.0) -> np.ndarray:
    """A picture as a mediocre decoder gives it back: soft, a little off in colour, noisy.

    Blur takes at most two thirds of the error budget that `psnr` (dB) leaves, noise the rest.
    """
    generator = np.random.default_rng(rng.getrandbits(32))
    budget = 65025 / 10 ** (psnr / 10)
    radius, truth = 1.0, picture.astype(np.float32)
    while True:
        blurred = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius))
        soft = np.asarray(blurred, np.float32) + generator.uniform(-5, 5, 3)
        left = budget - float(((soft - truth) ** 2).mean())
        if left > budget / 3:
            break
        radius *= 0.85
    noisy = soft + generator.normal(0, left**0.5, soft.shape)
    return noisy.clip(0, 255).round().astype(np.uint8)


def _another(rng: random.Random, thing: Thing) -> Thing:
    while True:
        name, colour = rng.choice(APPEARANCES)
        if (name, colour) != (thing.name, thing.colour):
            return replace(thing, name=name, colour=colour)


def _swapped_in(scene: Scene, old: Thing, *new: Thing) -> Scene:
    return Scene.of([*(t for t in scene.things if t is not old), *new], scene.background)


def _wrong_object(scene: Scene, rng: random.Random) -> np.ndarray | None:
    old = rng.choice(scene.things)
    return render(_swapped_in(scene, old, _another(rng, old)))


def _wrong_colour(scene: Scene, rng: random.Random) -> np.ndarray | None:
    shapes = [t for t in scene.things if t.is_shape]
    if not shapes:
        return None
    old = rng.choice(shapes)
    colour = rng.choice([c for c in COLOURS if c != old.colour])
    return render(_swapped_in(scene, old, replace(old, colour=colour)))


def _wrong_count(scene: Scene, rng: random.Random) -> np.ndarray | None:
    old = rng.choice(scene.things)
    if rng.random() < 0.5:
        return render(_swapped_in(scene, old))
    new = find_place(rng, list(scene.things), old.name, old.colour, rng.choice(tuple(SIZES)))
    return render(_swapped_in(scene, old, old, new)) if new else None


def _mirror(scene: Scene, across: bool) -> Scene:
    things = [
        replace(t, column=GRID - t.tiles - t.column) if across
        else replace(t, row=GRID - t.tiles - t.row)
        for t in scene.things
    ]  # fmt: skip
    return Scene.of(things, scene.background)


def _wrong_relation(scene: Scene, rng: random.Random) -> np.ndarray | None:
    asked = facts_of(scene)["relation"]
    return render(_mirror(scene, asked[1] in ("left of", "right of"))) if asked else None


def _wrong_place(scene: Scene, rng: random.Random) -> np.ndarray | None:
    mirrored = _mirror(scene, rng.random() < 0.5)
    before = {(t.label, t.place) for t in scene.things}
    moved = any((t.label, t.place) not in before for t in mirrored.things)
    stated = any(group["place"] for group in facts_of(scene)["things"])
    return render(mirrored) if moved and stated and len(scene.things) == 1 else None


def _half(scene: Scene, rng: random.Random) -> np.ndarray | None:
    """One thing of which only the left or the upper half is there."""
    thing = rng.choice(scene.things)
    picture = render(scene)
    x, y = (p * TILE for p in (thing.column, thing.row))
    half = thing.pixels // 2
    box = (
        (slice(y, y + thing.pixels), slice(x + half, x + thing.pixels))
        if rng.random() < 0.5
        else (slice(y + half, y + thing.pixels), slice(x, x + thing.pixels))
    )
    picture[box] = background(scene.background)[box]
    return picture


def _wrong_tile(scene: Scene, rng: random.Random) -> np.ndarray | None:
    """One thing with one tile of another: a single wrong code."""
    thing = rng.choice(scene.things)
    picture, other = render(scene), render(_swapped_in(scene, thing, _another(rng, thing)))
    tiles = [
        (slice(row * TILE, (row + 1) * TILE), slice(column * TILE, (column + 1) * TILE))
        for row in range(thing.row, thing.row + thing.tiles)
        for column in range(thing.column, thing.column + thing.tiles)
    ]
    error = (picture.astype(np.float32) - other) ** 2
    worst = max(tiles, key=lambda tile: float(error[tile].mean()))
    picture[worst] = other[worst]
    return picture


WRONG: dict[str, Callable[[Scene, random.Random], np.ndarray | None]] = {
    "object": _wrong_object,
    "colour": _wrong_colour,
    "count": _wrong_count,
    "relation": _wrong_relation,
    "place": _wrong_place,
    "half a thing": _half,
    "one tile": _wrong_tile,
}


def _true_facts(judged: Judged, scene: Scene) -> dict[str, bool]:
    """Whether the judge agrees with a scene on each kind of fact that it has."""
    facts = facts_of(scene)
    same = {
        "things": judged.counts == scene.counts,
        "count": len(judged.things) == len(scene.things),
        "name": Counter(t.name for t in judged.things) == Counter(t.name for t in scene.things),
        "size": Counter(t.size for t in judged.things) == Counter(t.size for t in scene.things),
        "place": {(t.column, t.row) for t in judged.things}
        == {(t.column, t.row) for t in scene.things},
        "background": judged.background == scene.background,
        "nothing unknown": judged.unexplained <= CLEAN,
        "all": check(judged, facts),
    }
    if any(t.is_shape for t in scene.things):
        colours = (
            Counter((t.name, t.colour) for t in x.things if t.is_shape) for x in (judged, scene)
        )
        same["colour"] = next(colours) == next(colours)
    if facts["relation"]:
        asked = [facts["things"][facts["relation"][k]] for k in (0, 2)]
        one, two = (matching(judged, group) for group in asked)
        same["relation"] = bool(one and two) and relation(one[0], two[0]) == facts["relation"][1]
    return same


def validate(count: int = 200, seed: int = 0) -> list[dict[str, Any]]:
    """The judge on pictures whose facts are known.

    Returns:
        Rows {condition, fact, metric, value, n}: metric "accuracy" on true renders (condition
        "render", and "soft" for the same at 26 dB), "rejected" on renders that show something
        else than asked; half of the wrong ones are soft, too.
    """
    tally: dict[tuple[str, str, str], list[bool]] = {}
    for index in range(count):
        rng = random.Random(f"{seed}/judge/{index}")
        scene = sample_scene(rng, "held_out" if index % 4 == 0 else "seen")
        picture = render(scene)
        for condition, shown in (("render", picture), ("soft", soften(picture, rng))):
            for fact, true in _true_facts(judge(shown), scene).items():
                tally.setdefault((condition, fact, "accuracy"), []).append(true)
        for number, (fact, spoil) in enumerate(WRONG.items()):
            wrong = spoil(scene, rng)
            if wrong is None or (wrong == picture).all():
                continue
            shown = soften(wrong, rng) if (index + number) % 2 else wrong
            rejected = not check(judge(shown), facts_of(scene))
            tally.setdefault(("wrong", fact, "rejected"), []).append(rejected)
    order = ("render", "soft", "wrong")
    return [
        {"condition": condition, "fact": fact, "metric": metric,
         "value": sum(values) / len(values), "n": len(values)}
        for (condition, fact, metric), values in sorted(
            tally.items(), key=lambda item: order.index(item[0][0])
        )
    ]  # fmt: skip


def main(count: int = 500, seed: int = 0) -> None:
    """`python -m unified.eval.judge`: the figures of `validate`."""
    for row in validate(count, seed):
        print(f"{row['condition']:8}{row['fact']:18}{row['metric']:10}{row['value']:.4f}"
              f"  n={row['n']}")  # fmt: skip


if __name__ == "__main__":
    main()
