"""What every codec promises, ours and published ones, on small random weights."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from unified.tokenizers.audio import AudioConfig, AudioTokenizer
from unified.tokenizers.codec import Codec, StreamCodec
from unified.tokenizers.conv import ConvConfig, ConvTokenizer
from unified.tokenizers.image import ImageTokenizer, VQConfig
from unified.tokenizers.kinds import load_codec
from unified.tokenizers.layered import LayeredConfig, LayeredTokenizer
from unified.tokenizers.published import PUBLISHED, MimiCodec, load_published
from unified.tokenizers.seed import SeedConfig, SeedTokenizer
from unified.tokenizers.video import VideoConfig, VideoTokenizer
from unified.toybox.pixels import scenes


def _layered() -> Codec:
    codec = LayeredTokenizer(LayeredConfig(forms=12, paints=6))
    list(codec.fit(scenes(0, 0, 96), rounds=2))
    return codec


def _vq() -> Codec:
    codec = ImageTokenizer(
        VQConfig(
            patch=16,
            codebook_size=32,
            code_width=16,
            encoder_width=32,
            decoder_width=32,
            decoder_layers=1,
            decoder_heads=2,
        )
    )
    codec.place_codebook(scenes(0, 0, 64))
    return codec


def _seed() -> Codec:
    small: dict[str, Any] = {"width": 32, "layers": 1, "heads": 2}
    codec = SeedTokenizer(
        SeedConfig(
            queries=6,
            levels=(8, 4),
            reverse_layers=1,
            prior_width=32,
            prior_layers=1,
            teacher={**small, "text_width": 32, "text_layers": 1, "out": 16},
            flow=small,
            **small,
        )
    )
    codec.sampling["steps"] = 2
    torch.nn.init.normal_(codec.flow.out.weight, std=0.1)  # it starts at nothing
    codec.quantizer(torch.randn(8, 6, 32))  # places the codebook
    return codec


def _video() -> Codec:
    return VideoTokenizer(
        VideoConfig(
            widths=(4, 8, 16),
            width=32,
            layers=1,
            heads=2,
            levels=(4, 4, 4),
            decoder_width=32,
            decoder_layers=1,
            decoder_heads=2,
        )
    )


def _audio() -> Codec:
    codec = AudioTokenizer(
        AudioConfig(
            width=32,
            layers=2,
            codebooks=3,
            codebook_size=16,
            code_width=8,
            decoder_width=32,
            decoder_layers=2,
        )
    )
    codec.quantizer.place(codec.latents(torch.randn(4, 1, 640 * 20) * 0.1)[0])
    for layer in codec.quantizer.vq.layers:
        layer._codebook.embed.normal_()  # and far from each other: no near ties
    return codec


def _conv() -> Codec:
    codec = ConvTokenizer(
        ConvConfig(
            image_size=16,
            width=8,
            multipliers=(1, 2),
            blocks=1,
            latent=16,
            codebook_size=32,
            groups=4,
        )
    )
    codec(torch.randn(8, 3, 16, 16))  # places the codebook
    return codec


OURS: dict[str, Callable[[], Codec]] = {
    "conv": _conv,
    "layered": _layered,
    "vq": _vq,
    "seed": _seed,
    "video": _video,
    "audio": _audio,
}


def _published(kind: str, folder: str) -> None:
    """A small random checkpoint, saved by its own class."""
    import transformers as t

    convolutions = {"base_channels": 32, "num_res_blocks": 1, "channel_multiplier": [1, 1]}
    sound = {"num_filters": 4, "hidden_size": 16, "upsampling_ratios": [4, 2], "codebook_size": 16}
    model: Any
    if kind == "janus_vqgan":
        config = t.JanusVQVAEConfig if hasattr(t, "JanusVQVAEConfig") else None
        assert config is not None
        model = t.JanusVQVAE(
            config(
                num_embeddings=32, embed_dim=8, latent_channels=32, num_patches=4, **convolutions
            )
        )
    elif kind == "chameleon_vqgan":
        model = t.ChameleonVQVAE(
            t.ChameleonVQVAEConfig(
                num_embeddings=32, embed_dim=8, latent_channels=32, resolution=32, **convolutions
            )
        )
    elif kind == "emu3_vqgan":
        model = t.Emu3VQVAE(
            t.Emu3VQVAEConfig(
                codebook_size=32,
                latent_channels=4,
                hidden_size=32,
                attn_resolutions=[1],
                temporal_downsample_factor=2,
                **{**convolutions, "channel_multiplier": [1, 1, 1, 1]},
            )
        )
    elif kind == "encodec":
        model = t.EncodecModel(
            t.EncodecConfig(num_lstm_layers=1, target_bandwidths=[24.0, 48.0], **sound)
        )
    elif kind == "mimi":
        model = t.MimiModel(
            t.MimiConfig(
                vector_quantization_hidden_dimension=8,
                codebook_dim=8,
                num_quantizers=3,
                upsample_groups=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=8,
                intermediate_size=32,
                **{**sound, "upsampling_ratios": [8, 8]},  # few steps a second
            )
        )
    elif kind == "dac":
        model = t.DacModel(
            t.DacConfig(
                encoder_hidden_size=8,
                decoder_hidden_size=32,
                n_codebooks=2,
                codebook_size=16,
                codebook_dim=4,
                downsampling_ratios=[2, 4],
            )
        )
    elif kind == "VQModel":
        import diffusers

        model = diffusers.VQModel(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=8,
            num_vq_embeddings=32,
            sample_size=16,
        )
    else:
        inner: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1,
                                 "num_attention_heads": 2, "intermediate_size": 32}  # fmt: skip
        listening = t.Wav2Vec2BertConfig(
            feature_projection_input_dim=160, add_adapter=False, **inner
        )
        model = t.Xcodec2Model(
            t.Xcodec2Config(
                num_key_value_heads=2,
                head_dim=16,
                encoder_hidden_size=4,
                quantization_dim=64,
                quantization_levels=[4, 4],
                semantic_model_config=listening,
                **inner,
            )
        )
    for key, weight in model.state_dict().items():  # so that a new model's codes differ
        if key.endswith(("codebook.embed", "embed_sum")):  # all zero
            weight.normal_(std=0.01 if kind == "encodec" else 1)
        elif kind == "xcodec2" and key == "quantizer.project_in.weight":
            weight.mul_(1000)
    model.save_pretrained(folder)


needs_diffusers = pytest.mark.skipif(find_spec("diffusers") is None, reason="needs diffusers")


@cache
def codec_of(name: str) -> Codec:
    torch.manual_seed(0)
    if name in OURS:
        return OURS[name]().eval()
    folder = mkdtemp()
    _published(name, folder)
    return load_published(folder)


NAMES = [*OURS, *PUBLISHED, pytest.param("VQModel", marks=needs_diffusers)]
STREAMS = ["video", "audio"]
CAUSAL = [*STREAMS, "mimi"]


def media_for(codec: Codec, count: int = 2, steps: int = 4, short: int = 0) -> torch.Tensor:
    """Random media of so many steps, the last one `short` frames or samples short."""
    spec, generator = codec.spec, torch.Generator().manual_seed(1)
    if spec.medium == "image":
        if spec.image_size == (64, 64):
            return scenes(3, 0, count)
        return torch.rand(count, spec.channels, *spec.image_size, generator=generator) * 2 - 1
    shape = (count, spec.channels, spec.time(steps) - short, *spec.image_size)
    return (torch.rand(shape, generator=generator) * 2 - 1) * 0.5


def decodes(name: str) -> bool:
    return name != "chameleon_vqgan"


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_media_have_the_shapes_of_the_spec(name: str) -> None:
    codec = codec_of(name)
    media = media_for(codec)
    codes = codec.encode(media)
    steps = 1 if codec.spec.medium == "image" else codec.spec.steps(media.shape[2])
    assert codes.shape == (2, steps * codec.spec.length) and codes.dtype == torch.int64
    codec.spec.check(codes)
    if decodes(name):
        rebuilt = codec.decode(codes)
        assert rebuilt.shape == media.shape
        assert torch.isfinite(rebuilt).all() and rebuilt.abs().max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_encoding_twice_is_equal_and_leaves_everything_as_it_was(name: str) -> None:
    codec = codec_of(name)
    media, before = media_for(codec), {k: v.clone() for k, v in codec.state_dict().items()}
    state = torch.get_rng_state()
    first = codec.encode(media)
    assert torch.equal(codec.encode(media), first)
    if decodes(name):
        assert torch.equal(codec.decode(first), codec.decode(first))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in codec.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_an_item_does_not_depend_on_its_batch(name: str) -> None:
    codec = codec_of(name)
    media = media_for(codec, 3)
    codes = codec.encode(media)
    for row in range(3):
        assert torch.equal(codec.encode(media[row : row + 1])[0], codes[row])
        if decodes(name):
            alone = codec.decode(codes[row : row + 1])[0]
            torch.testing.assert_close(alone, codec.decode(codes)[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_media_of_unlike_lengths_have_the_codes_that_they_have_alone(name: str) -> None:
    codec = codec_of(name)
    assert codec.encode_each([]) == []
    media = list(media_for(codec, 4))
    if codec.spec.medium != "image":
        cuts = 0, codec.spec.stride + 1, 1, 0
        media = [item[:, : item.shape[1] - cut] for item, cut in zip(media, cuts, strict=True)]
    for item, codes in zip(media, codec.encode_each(media), strict=True):
        assert torch.equal(codes, codec.encode(item[None])[0])


@pytest.mark.parametrize("name", NAMES)
def test_wrong_codes_are_refused(name: str) -> None:
    if not decodes(name):
        with pytest.raises(ValueError, match="only encode"):
            codec_of(name).decode(torch.zeros(1, 1, dtype=torch.int64))
        return
    codec = codec_of(name)
    codes = codec.encode(media_for(codec, 1))
    codes[0, 0] = codec.spec.codebook_size
    with pytest.raises(ValueError, match="outside"):
        codec.decode(codes)
    if codec.spec.length > 1:
        with pytest.raises(ValueError, match="has|codes"):
            codec.decode(torch.zeros(1, 3 * codec.spec.length - 1, dtype=torch.int64))


@pytest.mark.parametrize("name", NAMES)
def test_media_of_another_shape_are_refused(name: str) -> None:
    codec = codec_of(name)
    media = media_for(codec, 1)
    with pytest.raises(ValueError, match="shape"):
        codec.encode(media[:, :0])


@pytest.mark.parametrize("name", OURS)
def test_saved_is_loaded(name: str, tmp_path: Path) -> None:
    codec = codec_of(name)
    media = media_for(codec)
    codec.save(tmp_path)
    again = load_codec(tmp_path)
    assert again.spec == codec.spec
    codes = codec.encode(media)
    assert torch.equal(again.encode(media), codes)
    if isinstance(codec, SeedTokenizer) and isinstance(again, SeedTokenizer):
        again.sampling = codec.sampling
    torch.testing.assert_close(again.decode(codes), codec.decode(codes), atol=1e-5, rtol=1e-5)


def test_weights_are_not_read_with_other_settings(tmp_path: Path) -> None:
    codec_of("seed").save(tmp_path)  # FSQ of 8 and 4 levels
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    settings["levels"] = settings["levels"][::-1]  # as many codes, of another meaning
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="config.json is not the one that model.safetensors"):
        load_codec(tmp_path)


@pytest.mark.parametrize("name", OURS)
def test_saved_as_int8_is_near_and_small(name: str, tmp_path: Path) -> None:
    codec = codec_of(name)
    codec.save(tmp_path / "whole")
    codec.save(tmp_path / "int8", dtype=torch.int8)
    again = load_codec(tmp_path / "int8").state_dict()
    for key, value in codec._shipped().items():
        if not value.is_floating_point():
            assert torch.equal(again[key], value)
            continue
        step = value.abs().amax(-1, keepdim=True) / 127 if value.ndim > 1 else value.abs() / 1024
        assert ((again[key] - value).abs() <= 0.52 * step + 2**-14).all(), key
    load_codec(tmp_path / "int8").save(tmp_path / "kept")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("int8", "kept"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    sizes = [(tmp_path / way / "model.safetensors").stat().st_size for way in ("whole", "int8")]
    assert sizes[1] < 0.7 * sizes[0]


# --- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("short", [0, 1, 3])
def test_chunked_is_whole(name: str, short: int) -> None:
    codec = codec_of(name)
    assert isinstance(codec, StreamCodec)
    media, rng = media_for(codec, 2, 6, short), random.Random(short)
    whole = codec.encode(media)
    media_whole = codec.decode(whole)
    length, step = media.shape[2], codec.spec.length
    for _ in range(4):
        stream, parts, at = codec.encode_stream(), [], 0
        while at < length:
            size = rng.randint(1, 2 * codec.spec.stride)
            parts.append(stream.push(media[:, :, at : at + size], last=at + size >= length))
            at += size
        assert torch.equal(torch.cat(parts, 1), whole)
        out, heard, at = codec.decode_stream(), [], 0
        while at < 6:
            size = rng.randint(1, 3)
            heard.append(out.push(whole[:, at * step : (at + size) * step], last=at + size >= 6))
            at += size
        torch.testing.assert_close(torch.cat(heard, 2), media_whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_what_comes_later_changes_nothing_before(name: str) -> None:
    codec = codec_of(name)
    spec, media = codec.spec, media_for(codec, 1, 5)
    codes = codec.encode(media)
    for steps in (1, 3):
        now = spec.time(steps)
        other = media.clone()
        other[:, :, now:] = 0.3
        assert torch.equal(
            codec.encode(other)[:, : steps * spec.length], codes[:, : steps * spec.length]
        )
        assert torch.equal(codec.encode(media[:, :, :now]), codes[:, : steps * spec.length])
        final = now - spec.latency  # what later codes cannot change any more
        torch.testing.assert_close(
            codec.decode(codes[:, : steps * spec.length])[:, :, :final],
            codec.decode(codes)[:, :, :final],
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.mark.parametrize("name", CAUSAL)
def test_streams_refuse_what_the_whole_refuses(name: str) -> None:
    codec = codec_of(name)
    assert isinstance(codec, StreamCodec | MimiCodec)
    media = media_for(codec, 1, 3)
    stream = codec.encode_stream()
    stream.push(media)
    with pytest.raises(ValueError, match="not numbers"):
        stream.push(torch.full_like(media, torch.nan))
    with pytest.raises(ValueError, match="this codec takes"):
        stream.push(torch.cat([media, media], 1))
    assert stream.push(media[:, :, :0], last=True).shape[1] < 2 * codec.spec.length
    with pytest.raises(ValueError, match="without a single frame or sample"):
        codec.encode_stream().push(media[:, :, :0], last=True)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_of_codes_may_end_by_itself(name: str) -> None:
    codec = codec_of(name)
    assert isinstance(codec, StreamCodec)
    codes = codec.encode(media_for(codec, 2, 3))
    out = codec.decode_stream()
    heard = [out.push(codes), out.push(codes[:, :0], last=True)]
    torch.testing.assert_close(torch.cat(heard, 2), codec.decode(codes), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError):
        codec.decode_stream().push(codes[:, :0], last=True)


def test_latency_is_met() -> None:
    """After every step of codes, all but the last `latency` samples are there."""
    codec = codec_of("audio")
    assert isinstance(codec, StreamCodec)
    codes, out, have = codec.encode(media_for(codec, 1, 5)), codec.decode_stream(), 0
    for step in range(5):
        have += out.push(codes[:, step * 3 : step * 3 + 3]).shape[2]
        assert have == codec.spec.time(step + 1) - codec.spec.latency


def test_an_image_is_a_film_of_one_frame() -> None:
    codec = codec_of("video")
    film = media_for(codec, 2, 4)
    codes = codec.encode(film)
    first = codec.encode(film[:, :, :1])
    assert torch.equal(first, codes[:, : codec.spec.length])
    torch.testing.assert_close(
        codec.decode(first), codec.decode(codes)[:, :, :1], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
def test_media_that_cannot_be_encoded_are_refused(name: str) -> None:
    codec = codec_of(name)
    media = media_for(codec, 1, 2)
    if codec.spec.medium != "image":
        with pytest.raises(ValueError, match="without a single"):
            codec.encode(media[:, :, :0])
    media[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not numbers"):
        codec.encode(media)
    with pytest.raises(ValueError, match="shape"):
        codec.encode(torch.zeros(1, 8, *media.shape[2:]))


@pytest.mark.parametrize("name", ["conv", "vq", "seed", "video", "audio"])
def test_what_is_decoded_is_what_was_quantized(name: str) -> None:
    """From codes as from the vectors that they were made of."""
    codec: Any = codec_of(name)
    media = media_for(codec)
    codes = codec.encode(media)
    with torch.no_grad():
        if isinstance(codec, SeedTokenizer):
            quantized, _, _ = codec.quantizer(codec.embeddings(media))
            rebuilt = codec.reverse(quantized, torch.full((2,), codec.config.queries))
            torch.testing.assert_close(codec.condition(codes), rebuilt, atol=1e-5, rtol=1e-5)
            return
        rebuilt, _, _ = codec(media)
    torch.testing.assert_close(codec.decode(codes), rebuilt.clamp(-1, 1), atol=1e-5, rtol=1e-4)


def test_one_sample_and_silence_are_sound() -> None:
    codec = codec_of("audio")
    assert codec.encode(torch.zeros(1, 1, 1)).shape == (1, 3)
    assert torch.isfinite(codec.decode(codec.encode(torch.zeros(1, 1, 5000)))).all()


# --- SEED --------------------------------------------------------------------------------------


def test_later_queries_do_not_change_earlier_codes() -> None:
    codec = codec_of("seed")
    assert isinstance(codec, SeedTokenizer)
    pixels = media_for(codec)
    codes = codec.encode(pixels)
    kept = codec.qformer.queries.data.clone()
    codec.qformer.queries.data[3:] += torch.randn_like(kept[3:])
    changed = codec.encode(pixels)
    codec.qformer.queries.data.copy_(kept)
    assert torch.equal(changed[:, :3], codes[:, :3])
    assert not torch.equal(changed, codes)


def test_every_prefix_decodes_and_the_seed_decides_the_noise() -> None:
    codec = codec_of("seed")
    assert isinstance(codec, SeedTokenizer)
    codes = codec.encode(media_for(codec))
    pictures = [codec.decode(codes[:, :k]) for k in range(1, 7)]
    assert all(p.shape == (2, 3, 64, 64) for p in pictures)
    assert not torch.equal(pictures[0], pictures[-1])
    codec.sampling["seed"] = 1
    other = codec.decode(codes)
    codec.sampling["seed"] = 0
    assert not torch.equal(other, pictures[-1])
    assert torch.equal(codec.decode(codes), pictures[-1])


def test_gradients_reach_the_encoder_and_never_the_teacher() -> None:
    codec = _seed().train()
    assert isinstance(codec, SeedTokenizer)
    codec.teacher.requires_grad_(False)
    quantized, codes, loss = codec.quantizer(codec.embeddings(media_for(codec)))
    given = torch.tensor([6, 3])
    (
        codec.reverse(quantized, given).sum() + loss + codec.prior(quantized, codes[..., 0])
    ).backward()
    assert codec.qformer.queries.grad is not None and codec.qformer.queries.grad.abs().sum() > 0
    assert all(p.grad is None for p in codec.teacher.parameters())


@pytest.mark.parametrize("name", ["conv", "vq", "video", "audio"])
def test_gradients_pass_the_codes(name: str) -> None:
    """What comes back teaches every weight of the encoder, through the quantizer."""
    codec: Any = OURS[name]().train()
    for part in codec.modules():
        if isinstance(part, torch.nn.Linear) and not part.weight.any():
            torch.nn.init.normal_(part.weight, std=0.02)  # some paths start silent
    rebuilt, _, _ = codec(media_for(codec))
    rebuilt.square().mean().backward()
    reached = {key for key, value in codec.named_parameters() if value.grad is not None}
    silent = {key for key, _ in codec.named_parameters()} - reached
    assert all("decoder" in key or "quantizer" in key for key in silent), silent
    first = next(value for value in codec.parameters() if value.requires_grad and value.ndim > 1)
    assert first.grad is not None and first.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["clip", "clip alone", "siglip", "dinov2"])
def test_a_published_encoder_takes_the_teachers_place(kind: str, tmp_path: Path) -> None:
    import transformers as t

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen = {**sizes, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
    words = {**sizes, "intermediate_size": 64, "vocab_size": 50}
    model: Any
    if kind == "clip":
        model = t.CLIPModel(t.CLIPConfig(text_config=words, vision_config=seen, projection_dim=24))
    elif kind == "clip alone":
        model = t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(projection_dim=24, **seen))
    elif kind == "siglip":
        model = t.SiglipModel(t.SiglipConfig(text_config=words, vision_config=seen))
    else:
        model = t.Dinov2Model(t.Dinov2Config(image_size=32, patch_size=8, **sizes))
    model.save_pretrained(tmp_path / "encoder")
    t.CLIPImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "encoder")
    out = 24 if "clip" in kind else 32
    teacher = {"image_size": 32, "patch": 8, "width": 32, "out": out, "heads": 2}
    small: dict[str, Any] = {"width": 32, "layers": 1, "heads": 2}
    config = {"queries": 4, "levels": (4, 4), "reverse_layers": 1,
              "prior_width": 32, "flow": small, **small}  # fmt: skip
    where = {**teacher, "folder": str(tmp_path / "encoder")}
    codec = SeedTokenizer(SeedConfig(teacher=where, **config))
    codec.quantizer(torch.randn(8, 4, 32))
    codec.eval()
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    if kind == "clip alone":  # what a diffusers unCLIP pipeline computes of a picture
        tower: Any = codec.teacher
        shown = ((pixels + 1) / 2 - tower.mean) / tower.std
        theirs = model.eval()(pixel_values=shown).image_embeds
        torch.testing.assert_close(tower(pixels)[1], F.normalize(theirs, dim=-1))
    codes = codec.encode(pixels)
    codec.save(tmp_path / "codec")
    stored = (tmp_path / "codec" / "model.safetensors").stat().st_size
    assert stored < sum(4 * v.numel() for v in codec.state_dict().values())  # without the encoder
    assert torch.equal(load_codec(tmp_path / "codec").encode(pixels), codes)
    with pytest.raises(ValueError, match="set teacher.patch to 8, not 16"):
        SeedTokenizer(SeedConfig(teacher={**where, "patch": 16}, **config))


def unclip_pipeline(folder: Path) -> None:
    """A small random unCLIP pipeline, saved by diffusers' own classes."""
    import diffusers as d
    import transformers as t
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )

    small = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1,
             "num_attention_heads": 4, "projection_dim": 32}  # fmt: skip
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}
    text = t.CLIPTextConfig(vocab_size=4, bos_token_id=0, eos_token_id=1, pad_token_id=1, **small)
    image = t.CLIPVisionConfig(image_size=32, patch_size=8, **small)
    pipeline: Any = d.StableUnCLIPImg2ImgPipeline(
        feature_extractor=t.CLIPImageProcessor(size={"height": 32, "width": 32}),
        image_encoder=t.CLIPVisionModelWithProjection(image),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=32),
        image_noising_scheduler=d.DDPMScheduler(),
        tokenizer=t.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77),
        text_encoder=t.CLIPTextModel(text),
        unet=d.UNet2DConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(32, 64),
            attention_head_dim=(2, 4),
            class_embed_type="projection",
            projection_class_embeddings_input_dim=64,
            cross_attention_dim=32,
            layers_per_block=1,
        ),
        scheduler=d.DDIMScheduler(),
        vae=d.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, sample_size=16),
    )
    pipeline.save_pretrained(folder)


def test_a_published_unclip_pipeline_draws(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unclip_pipeline(tmp_path)
    small: dict[str, Any] = {"width": 32, "layers": 1, "heads": 2}
    codec = SeedTokenizer(
        SeedConfig(queries=4, levels=(4, 4), reverse_layers=1, prior_width=32,
                   teacher={**small, "image_size": 32, "out": 32}, flow=small,
                   unclip=str(tmp_path), **small)
    )  # fmt: skip
    codec.quantizer(torch.randn(8, 4, 32))
    codec.eval().sampling = {"seed": 3, "steps": 2, "guidance": 5.0}
    codes = codec.encode(torch.rand(2, 3, 32, 32) * 2 - 1)
    drawn = codec.decode(codes)
    assert drawn.shape == (2, 3, 32, 32) and torch.isfinite(drawn).all()
    # seeded, whatever the batch
    torch.testing.assert_close(codec.decode(codes[:1])[0], drawn[0], atol=1e-3, rtol=1e-3)
    assert codec.unclip is not None  # embeddings are learnt by cosine: their length says nothing
    one, other = (codec.unclip.sample(k * torch.ones(1, 32), (32, 32), steps=2) for k in (1, 9))
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
