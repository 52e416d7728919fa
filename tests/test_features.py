"""Features for Fréchet distances: named, and a worse picture or sound is further away by them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from unified import checkpoint, handle
from unified.eval import judges, metrics
from unified.eval import tokenizer as codec_benchmark
from unified.eval.features import (
    BANDS,
    EncoderFeatures,
    PixelFeatures,
    SoundStatistics,
    TeacherFeatures,
    in_parts,
    of_directory,
)
from unified.media.pixels import to_pictures
from unified.tokenizers.kinds import load_codec
from unified.tokenizers.seed import SeedConfig, SeedTokenizer
from unified.toybox.pixels import scenes
from unified.toybox.sounds import render_clip, sample_clip
from unified.toybox.voices import RATE

COUNT = 48


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.fromarray(one) for one in to_pictures(scenes(3, 0, COUNT, "held_out"))]


@pytest.fixture(scope="module")
def seed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SEED tokenizer, tiny and random, as its own class saves it."""
    torch.manual_seed(0)
    teacher = {"width": 32, "layers": 1, "heads": 2, "out": 16}
    flow = {"width": 32, "layers": 1, "heads": 2}
    config = SeedConfig(queries=4, levels=(4, 4), width=32, heads=2, layers=1,
                        reverse_layers=1, prior_width=32, prior_layers=1, teacher=teacher,
                        flow=flow)  # fmt: skip
    folder = tmp_path_factory.mktemp("seed") / "tokenizer"
    SeedTokenizer(config).save(folder)
    return folder


def blurred(pictures: list[Image.Image], radius: float) -> list[Image.Image]:
    return [picture.filter(ImageFilter.GaussianBlur(radius)) for picture in pictures]


def test_the_further_from_the_original_the_greater_the_distance(
    pictures: list[Image.Image],
) -> None:
    seen = EncoderFeatures()
    originals = seen.features(pictures)
    assert originals.shape[0] == COUNT and np.isfinite(originals).all()
    distances = [
        metrics.frechet_distance(originals, seen.features(blurred(pictures, radius)))
        for radius in (0.0, 0.5, 1.0, 2.0)
    ]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert distances == sorted(distances) and distances[1] > 1e-3
    assert seen.features(pictures[:3]) == pytest.approx(originals[:3], abs=1e-4)  # of itself alone


def test_every_extractor_says_whose_it_is(pictures: list[Image.Image], seed_folder: Path) -> None:
    shipped = judges.make("encoder", "features", None)
    assert isinstance(shipped, EncoderFeatures)
    assert shipped.name == "understanding encoder of unified/toybox"
    assert shipped.revision == checkpoint.sha256(handle.DEFAULT / checkpoint.MANIFEST)[:12]
    again = of_directory(handle.DEFAULT)
    assert again.name == "understanding encoder of toybox" and again.revision == shipped.revision
    teacher = of_directory(seed_folder)
    assert isinstance(teacher, TeacherFeatures) and "contrastive teacher of" in teacher.name
    assert teacher.features(pictures[:5]).shape == (5, 32)
    (seed_folder / "model.safetensors").touch()
    assert TeacherFeatures(seed_folder).revision == teacher.revision
    ours = of_directory(handle.DEFAULT.parent / "seed")
    assert isinstance(ours, TeacherFeatures) and ours.features(pictures[:2]).shape[0] == 2
    assert {kind.short for kind in (shipped, teacher, PixelFeatures())} == {
        "encoder", "teacher", "pixels"
    }  # fmt: skip


def test_features_in_parts_are_those_of_all(pictures: list[Image.Image]) -> None:
    seen = PixelFeatures()
    many = pictures * 3
    assert np.array_equal(in_parts(seen, iter(many)), seen.features(many))


def test_a_directory_without_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model of transformers there; name a directory whose"):
        of_directory(tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "vq"}')
    with pytest.raises(ValueError, match="a tokenizer of kind 'vq' has no teacher; seed has"):
        of_directory(tmp_path)
    with pytest.raises(ValueError, match="no model of ours there"):
        EncoderFeatures(tmp_path)


def test_noise_moves_a_sound_s_statistics() -> None:
    clips = [sample_clip(random.Random(f"x{k}"), "held_out", 1.0) for k in range(12)]
    waves = torch.from_numpy(np.stack([render_clip(clip) for clip in clips])).float()
    generator = torch.Generator().manual_seed(0)
    found = SoundStatistics.features(waves, RATE)
    assert found.shape == (12, 2 * BANDS)
    distances = [
        metrics.frechet_distance(found, SoundStatistics.features(
            waves + level * torch.randn(waves.shape, generator=generator), RATE))
        for level in (0.0, 0.001, 0.01, 0.1)
    ]  # fmt: skip
    assert distances[0] == pytest.approx(0, abs=1e-6) and distances == sorted(distances)


def test_codecs_are_compared_by_the_features_that_are_named(
    seed_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is the distance of exactly the pictures that were rebuilt."""
    monkeypatch.setattr(codec_benchmark, "CODE_ITEMS", {"image": 8, "video": 4, "audio": 4})
    codec = load_codec(handle.DEFAULT / handle.CODEC)
    rows = codec_benchmark.evaluate_tokenizer(codec, count=6, seed=5, batch=4, features=seed_folder)
    (row,) = (row for row in rows if row["metric"] == "frechet_teacher")
    assert row["settings"]["features"] == TeacherFeatures(seed_folder).name
    assert row["settings"]["features_revision"] == TeacherFeatures(seed_folder).revision
    given = scenes(5, 0, 6, codec_benchmark.SPLIT)
    with torch.no_grad():
        rebuilt = codec.decode(codec.encode(given))
    one, two = (
        TeacherFeatures(seed_folder).features([Image.fromarray(x) for x in to_pictures(side)])
        for side in (given, rebuilt)
    )
    assert row["value"] == pytest.approx(metrics.frechet_distance(one, two), abs=1e-6)
    assert row["n"] == 6 and row["stderr"] >= 0
    single = codec_benchmark.evaluate_tokenizer(codec, count=1, seed=5)
    assert not any(row["metric"].startswith("frechet") for row in single)


def test_the_spread_of_a_distance_is_that_of_its_items() -> None:
    """Items that are the same a hundred times over do not spread; the more items, the less."""
    rng = np.random.default_rng(0)
    same = np.ones((10, 2, 3))
    assert metrics.frechet_draws(same, same + 1) == pytest.approx([3] * 20, abs=1e-9)
    few, many = (
        np.std(metrics.frechet_draws(x := rng.normal(size=(n, 2, 3)), x + rng.normal(size=x.shape)))
        for n in (20, 2000)
    )
    assert few > 3 * many > 0
