"""The picture codec: shapes, bijections, batch invariance, saving, training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unified.media.pixels import to_pictures, to_tensor
from unified.tokenizers.image import ImageTokenizer, VQConfig
from unified.tokenizers.kinds import load_codec, new_codec
from unified.toybox.pixels import scenes

SMALL = VQConfig(
    codebook_size=64, encoder_width=32, decoder_width=32, decoder_layers=1, decoder_heads=2
)


@pytest.fixture(scope="module")
def codec() -> ImageTokenizer:
    torch.manual_seed(0)
    codec = ImageTokenizer(SMALL)
    codec.place_codebook(scenes(0, 0, 32))
    return codec.eval()


def test_shapes_and_ranges(codec: ImageTokenizer) -> None:
    codes = codec.encode(scenes(0, 0, 3))
    assert codes.shape == (3, 64) and codes.dtype == torch.int64
    assert 0 <= codes.min() and codes.max() < 64
    pixels = codec.decode(codes)
    assert pixels.shape == (3, 3, 64, 64) and pixels.abs().max() <= 1


def test_encoding_changes_nothing_and_repeats(codec: ImageTokenizer) -> None:
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    state = torch.get_rng_state()
    first, again = codec.encode(scenes(0, 0, 4)), codec.encode(scenes(0, 0, 4))
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in codec.state_dict().items())


def test_a_picture_does_not_depend_on_its_neighbours(codec: ImageTokenizer) -> None:
    pixels = scenes(0, 0, 4)
    codes = codec.encode(pixels)
    for k in range(4):
        assert torch.equal(codec.encode(pixels[k : k + 1])[0], codes[k])
        alone = codec.decode(codes[k : k + 1])[0]
        torch.testing.assert_close(alone, codec.decode(codes)[k], atol=1e-5, rtol=0)


def test_equal_patches_get_equal_codes_wherever_they_stand(codec: ImageTokenizer) -> None:
    pixels = scenes(0, 0, 1)
    moved = pixels.roll((8, 16), dims=(2, 3))
    grid = codec.encode(pixels).view(8, 8)
    assert torch.equal(codec.encode(moved).view(8, 8), grid.roll((1, 2), dims=(0, 1)))


def test_the_code_of_a_vector_is_its_own(codec: ImageTokenizer) -> None:
    book = codec.codebook
    nearest = torch.cdist(book, book).argmin(-1)
    assert torch.equal(book[nearest], book)


def test_saved_is_loaded(codec: ImageTokenizer, tmp_path: Path) -> None:
    codec.save(tmp_path)
    again = ImageTokenizer.load(tmp_path)
    pixels = scenes(0, 5, 2)
    assert torch.equal(again.encode(pixels), codec.encode(pixels))
    assert torch.equal(again.decode(codec.encode(pixels)), codec.decode(codec.encode(pixels)))
    assert isinstance(load_codec(tmp_path), ImageTokenizer)
    (tmp_path / "config.json").write_text('{"kind": "clay"}')
    with pytest.raises(ValueError, match="'clay'; one of vq, conv, layered"):
        load_codec(tmp_path)


def test_wrong_input_is_named(codec: ImageTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(3, 32, 32\)"):
        codec.encode(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"0\.\.63"):
        codec.decode(torch.full((1, 64), 64))
    with pytest.raises(ValueError, match="a picture has 64"):
        codec.decode(torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="placed already"):
        codec.place_codebook(scenes(0, 0, 1))
    with pytest.raises(ValueError, match="'clay'; one of vq, conv, layered"):
        new_codec("clay", {})
    with pytest.raises(ValueError, match=r"unknown tokenizer\.model\.forms; one of image_size"):
        new_codec("vq", {"forms": 3})


def test_gradients_reach_the_encoder() -> None:
    codec = ImageTokenizer(SMALL).train()
    codec.place_codebook(scenes(0, 0, 16))
    rebuilt, codes, commitment = codec(scenes(0, 16, 4))
    (rebuilt.square().mean() + commitment).backward()
    assert codec.encoder.direct.weight.grad is not None
    assert codec.encoder.direct.weight.grad.abs().sum() > 0
    assert codes.shape == (4, 64)


def test_pictures_and_tensors_are_inverse() -> None:
    pixels = scenes(0, 0, 2)
    assert torch.equal(to_tensor(to_pictures(pixels)), pixels)
