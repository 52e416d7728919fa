"""Published codecs behind our contract: what they say, how they are scored, saved and sized."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.test_codecs import codec_of, media_for, needs_diffusers
from unified.eval.tokenizer import evaluate_tokenizer
from unified.tokenizers.published import PUBLISHED, load_either, load_published

PLUGGED = [*PUBLISHED, pytest.param("VQModel", marks=needs_diffusers)]


@pytest.mark.parametrize("name", PLUGGED)
def test_codes_of_what_is_plugged_tell_media_apart(name: str) -> None:
    codec = codec_of(name)
    codes = codec.encode(media_for(codec, 2, 4))
    assert len(codes.unique()) > 2 and not torch.equal(codes[0], codes[1])


@pytest.mark.parametrize("name", PLUGGED)
def test_what_is_plugged_is_benchmarked(name: str) -> None:
    codec = codec_of(name)
    if codec.spec.medium != "audio" and codec.spec.channels != 3:
        pytest.skip("pictures of the toybox have three channels")
    rows = evaluate_tokenizer(codec, count=2, batch=2)
    found = {row["metric"]: row["value"] for row in rows}
    assert {"codebook_use", "codes", "bits", "encoded"} <= set(found)
    assert ("psnr" in found or "mel_distance" in found) == codec.decodes == ("decoded" in found)


def test_saving_what_is_plugged_leaves_it_as_it_is(tmp_path: Path) -> None:
    codec = codec_of("janus_vqgan")
    media = media_for(codec)
    before = codec.decode(codec.encode(media))
    codec.save(tmp_path, dtype=torch.float16)
    assert torch.equal(codec.decode(codec.encode(media)), before)
    with pytest.raises(ValueError, match="saved in a floating type"):
        codec.save(tmp_path, dtype=torch.int8)


def test_either_kind_is_read(tmp_path: Path) -> None:
    codec_of("vq").save(tmp_path / "own")
    codec_of("janus_vqgan").save(tmp_path / "published")
    assert load_either(tmp_path / "own").kind == "vq"
    assert load_either(tmp_path / "published").kind == "published"


def test_emu3_takes_films_of_the_size_and_rate_that_are_named(tmp_path: Path) -> None:
    codec_of("emu3_vqgan").save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"film_size": 32, "film_rate": 8}))
    codec = load_published(tmp_path)
    assert codec.spec.image_size == (32, 32) and codec.spec.rate == 8
    assert codec.decode(codec.encode(media_for(codec))).shape[3:] == (32, 32)
    (tmp_path / "config.json").write_text(json.dumps(config | {"film_size": 33}))
    with pytest.raises(ValueError, match="film_size 33 is no multiple"):
        load_published(tmp_path)
