"""Is the judge right? Pictures whose facts are known, and what it says of them.

Real renders, renders as soft and noisy as a decoder's, and renders that show something else than
was asked for.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from unified.eval.judge import APPEARANCES, CLEAN, Judged, check, facts_of, judge, matching
from unified.toybox.scene import (
    GRID,
    TILE,
    Scene,
    Thing,
    background,
    find_place,
    relation,
    render,
    sample_scene,
)
from unified.toybox.sprites import COLOURS, SIZES


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
