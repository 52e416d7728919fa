"""The layered codec: what it separates, what it gives back, and codes that stay in their books."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unified.media.pixels import to_tensor
from unified.tokenizers.layered import BLANK, LayeredConfig, LayeredTokenizer
from unified.toybox.pixels import scenes
from unified.toybox.scene import BACKGROUNDS, Scene, Thing, background, render

COLOURS = ("red", "blue", "yellow", "green")


def pictures(scene_list: list[Scene]) -> torch.Tensor:
    return torch.cat([to_tensor(render(scene)[None]) for scene in scene_list])


def training_scenes(count: int) -> list[Scene]:
    """Few things, so that a small codebook holds them all; red hearts are never shown."""
    made: list[Scene] = []
    rng = random.Random(0)
    while len(made) < count:
        name = rng.choice(("heart", "circle", "cat", "apple"))
        colour = rng.choice(COLOURS) if name in ("heart", "circle") else None
        if (name, colour) == ("heart", "red"):
            continue
        thing = Thing(name, colour, "small", rng.randrange(4), rng.randrange(4))
        made.append(Scene.of([thing], rng.choice(list(BACKGROUNDS))))
    return made


@pytest.fixture(scope="module")
def codec() -> LayeredTokenizer:
    torch.manual_seed(0)
    codec = LayeredTokenizer(LayeredConfig(forms=8, paints=6))
    errors = [row["error"] for row in codec.fit(pictures(training_scenes(400)), rounds=12)]
    assert errors[-1] < errors[0]
    return codec.eval()


def test_codes_stay_in_the_books_of_their_places(codec: LayeredTokenizer) -> None:
    codes = codec.encode(scenes(0, 0, 20))
    spec = codec.spec
    assert codes.shape == (20, 33) and codes.dtype == torch.int64
    for place, book in enumerate(spec.books):
        allowed = spec.ranges[book]
        assert all(int(code) in allowed for code in codes[:, place])
    spec.check(codes)


def test_grounds_are_the_bare_backgrounds(codec: LayeredTokenizer) -> None:
    bare = to_tensor(np.stack([background(name) for name in BACKGROUNDS]))
    apart = (codec.grounds[:, None] - bare).abs().amax((2, 3, 4))  # (grounds, backgrounds)
    assert float(apart.min(0).values.max()) < 0.01  # each is one of them, without a speck


def test_pictures_come_back(codec: LayeredTokenizer) -> None:
    pixels = pictures(training_scenes(40))
    error = (codec.decode(codec.encode(pixels)) - pixels).square().mean()
    assert -10 * torch.log10(error / 4) > 30


def test_what_colour_and_ground_are_separate_codes(codec: LayeredTokenizer) -> None:
    """Including a colour in which the thing was never shown."""
    start_form, start_paint = (r.start for r in codec.spec.ranges[1:])
    seen: dict[str, set[tuple[int, ...]]] = {"form": set(), "paint": set(), "ground": set()}
    for colour in COLOURS:
        for name in BACKGROUNDS:
            thing = Thing("heart", colour, "small", 2, 1)
            scene = Scene.of([thing], name)
            pixels = pictures([scene])
            codes = codec.encode(pixels)
            form, paint = codes[0, 1::2] - start_form, codes[0, 2::2] - start_paint
            assert (form != BLANK).nonzero().flatten().tolist() == [6]
            seen["form"].add((int(form[6]),))
            seen["paint"].add((COLOURS.index(colour), int(paint[6])))
            seen["ground"].add((list(BACKGROUNDS).index(name), int(codes[0, 0])))
            assert (codec.decode(codes) - pixels).abs().mean() < 0.02
    assert len(seen["form"]) == 1
    assert len(seen["paint"]) == len(COLOURS) == len({paint for _, paint in seen["paint"]})
    assert len(seen["ground"]) == len(BACKGROUNDS) == len({g for _, g in seen["ground"]})


def test_encoding_is_batch_invariant_and_repeats(codec: LayeredTokenizer) -> None:
    pixels = scenes(0, 0, 6)
    codes = codec.encode(pixels)
    assert torch.equal(codes, codec.encode(pixels))
    assert all(torch.equal(codec.encode(pixels[k : k + 1])[0], codes[k]) for k in range(6))


def test_any_codes_decode_and_any_picture_encodes(codec: LayeredTokenizer) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    pixels = codec.decode(codec.encode(noise))
    assert pixels.shape == noise.shape and pixels.abs().max() <= 1
    start = torch.tensor([codec.spec.ranges[book].start for book in codec.spec.books])
    assert codec.decode(start[None]).isfinite().all()


def test_saved_is_loaded(codec: LayeredTokenizer, tmp_path: Path) -> None:
    codec.save(tmp_path)
    again = LayeredTokenizer.load(tmp_path)
    pixels = scenes(0, 5, 4)
    assert torch.equal(again.encode(pixels), codec.encode(pixels))
    assert torch.equal(again.decode(codec.encode(pixels)), codec.decode(codec.encode(pixels)))


def test_wrong_input_is_named(codec: LayeredTokenizer) -> None:
    with pytest.raises(ValueError, match=r"\(3, 32, 32\)"):
        codec.encode(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="a picture has 33"):
        codec.decode(torch.zeros(1, 5, dtype=torch.long))
    codes = codec.encode(scenes(0, 0, 1))
    codes[0, 3] = 0
    with pytest.raises(ValueError, match=r"code 0 at place 3 is outside 8\.\.15"):
        codec.decode(codes)


def test_a_larger_patch_or_picture_is_a_setting() -> None:
    spec = replace(LayeredConfig(), image_size=128, patch=32).spec
    assert spec.length == 33 and spec.image_size == (128, 128)
