"""Published codecs behind our contract: what they say, how they are scored, saved and sized."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.test_codecs import codec_of, media_for, needs_diffusers
from unified.eval.tokenizer import evaluate_tokenizer
from unified.tokenizers.published import PUBLISHED, MimiCodec, load_either, load_published

SOUNDS = ["encodec", "mimi", "dac", "xcodec2"]
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


@pytest.mark.parametrize("name", [*SOUNDS, pytest.param("VQModel", marks=needs_diffusers)])
@torch.no_grad()
def test_codes_decode_to_what_the_whole_model_gives(name: str) -> None:
    """encode, then decode, is the published class' own pass, which decodes the vectors that it
    quantized and no codes."""
    codec: Any = codec_of(name)
    media = media_for(codec)
    if name == "VQModel":
        whole = codec.model(media).sample
    elif name == "encodec":
        whole = codec.model(media, bandwidth=codec.bandwidth).audio_values
    elif name == "xcodec2":
        half = codec.spec.stride // 2
        waves = [F.pad(wave, (half, half)).numpy() for wave in media[:, 0]]
        made = codec.extractor(waves, sampling_rate=int(codec.spec.rate), return_tensors="pt")
        whole = codec.model(media, made["input_features"]).audio_values
    else:
        whole = codec.model(media).audio_values
    whole = whole.view(*media.shape[:2], -1)[..., : media[0, 0].numel()].view(media.shape)
    found = codec.decode(codec.encode(media))
    torch.testing.assert_close(found, whole.clamp(-1, 1), atol=1e-5, rtol=1e-4)


def nearest(name: str, model: Any) -> list[torch.Tensor]:
    """The codes that each codebook has for its own vectors, one after the other."""
    if name == "encodec":
        return [own.codebook.encode(own.codebook.embed) for own in model.quantizer.layers]
    if name == "mimi":
        halves = (
            model.quantizer.semantic_residual_vector_quantizer,
            (model.quantizer.acoustic_residual_vector_quantizer),
        )
        books = [layer.codebook for half in halves for layer in half.layers]
        return [book.encode(book.embed) for book in books]
    if name == "dac":
        books = [(own, own.codebook.weight) for own in model.quantizer.quantizers]
        return [own.decode_latents(weight.T[None])[1][0] for own, weight in books]
    vectors = model.quantize.embedding.weight.T[None, :, :, None]  # a picture of them all
    if name == "emu3_vqgan":
        return [model.quantize(vectors[:, None]).flatten()]
    found = model.quantize(vectors)[2]
    return [found[2] if name == "VQModel" else found]


@pytest.mark.parametrize(
    "name",
    ["chameleon_vqgan", "emu3_vqgan", "encodec", "mimi", "dac",
     pytest.param("VQModel", marks=needs_diffusers)],
)  # fmt: skip
@torch.no_grad()
def test_every_code_of_what_is_plugged_is_that_of_its_vector(name: str) -> None:
    codec: Any = codec_of(name)
    sizes = codec.spec.codebooks  # of EnCodec fewer than it has, by the bandwidth
    for book, size in zip(nearest(name, codec.model), sizes, strict=False):
        assert book.tolist() == list(range(size))


@pytest.mark.parametrize("name", [*SOUNDS, "emu3_vqgan"])
def test_the_last_step_of_what_is_plugged_is_filled(name: str) -> None:
    """With silence, or the last frame again; and what is decoded of it is whole steps."""
    codec = codec_of(name)
    spec, last = codec.spec, media_for(codec)
    for short in {1, spec.stride - 1}:
        media = last[:, :, : last.shape[2] - short]
        tail = media[:, :, -1:] if spec.medium == "video" else torch.zeros_like(media[:, :, :1])
        filled = torch.cat([media, tail.repeat_interleave(short, 2)], 2)
        codes = codec.encode(media)
        assert torch.equal(codes, codec.encode(filled))
        assert (
            codec.decode(codes).shape[2] == spec.time(spec.steps(media.shape[2])) == last.shape[2]
        )


def test_mimi_encodes_chunk_by_chunk_what_it_encodes_whole() -> None:
    codec, rng = codec_of("mimi"), random.Random(0)
    assert isinstance(codec, MimiCodec)
    for short in (0, 1, codec.spec.stride - 1):
        media = media_for(codec, 2, 9, short)
        whole = codec.encode(media)
        for _ in range(3):
            stream, parts, at = codec.encode_stream(), [], 0
            while at < media.shape[2]:
                end = at + rng.randrange(1, 3 * codec.spec.stride)
                parts.append(stream.push(media[:, :, at:end], last=end >= media.shape[2]))
                at = end
            assert torch.equal(torch.cat(parts, 1), whole)


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
