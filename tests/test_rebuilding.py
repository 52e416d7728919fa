"""The model's own picture tokenizer as a benchmark: what comes back of scenes and of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from tests.official import Model, encoded, put
from tests.test_benchmarks import spec_file
from unified.eval import benchmark, results, runner
from unified.eval.features import PixelFeatures
from unified.eval.metrics import frechet_distance
from unified.eval.rebuilding import EXACT, signal_to_noise, similarity
from unified.eval.repeat import repeat
from unified.media.picture import metadata

SUITE = "toybox_tokenizer"


class Blurry(Model):
    """Gives pictures back out of focus."""

    def __init__(self, radius: float):
        super().__init__()
        self.radius = radius

    def rebuild(self, images: list[Image.Image]) -> list[Any]:
        return [(one, one.filter(ImageFilter.GaussianBlur(self.radius))) for one in images]


@pytest.fixture(scope="module")
def shipped() -> Any:
    from unified.handle import load

    return load(device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures, as people have them: sizes and kinds as they come, and one cut short."""
    rng = np.random.default_rng(0)
    home = tmp_path / "pictures"
    for k in range(12):
        noise = rng.integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(noise).resize((70 + k, 64), Image.Resampling.BICUBIC)
        put(home / ("ab"[k % 2]) / f"{k}.{('png', 'jpg')[k % 2]}", image)
    put(home / "b" / "broken.jpg", encoded()[:90])
    put(home / "readme.txt", "no picture\n")
    return home


def run(model: Any, folder: Path, out: Path, **plan: Any) -> results.Results:
    tasks = [runner.Task(benchmark.load("rebuilt"), folder)]
    return runner.run(model, tasks, out, runner.Plan(**plan))


def test_the_shipped_tokenizer_keeps_toybox_scenes(shipped: Any, tmp_path: Path) -> None:
    tasks = [runner.Task(spec) for spec in benchmark.select(SUITE)]
    found = runner.run(shipped, tasks, tmp_path / "a", runner.Plan(seed=1, limit=10, batch=4))
    assert not found.failed
    values = {(r.metric, r.split): r for r in found.rows}
    for split in ("seen", "held_out"):
        assert values["PSNR", split].value > 40 and values["SSIM", split].value > 0.99
        assert values["accuracy", split].value == 1  # every fact is still there
        distance = values["Fréchet distance (encoder)", split]
        assert 0 <= distance.value < 0.1 and not distance.higher_is_better and distance.n == 5
        assert distance.ci[0] <= distance.ci[1] and distance.stderr >= 0
    assert {row.skill for row in found.rows} == {"overall"}  # of the only skill, once
    kind = shipped.codec.kind
    for row in found.rows:
        assert row.side == "generation" and row.settings.sampling["codec"] == kind
        assert row.settings.revision == shipped.revision
    judged = values["PSNR", "seen"].settings
    assert judged.judge == "understanding encoder of unified/toybox" and judged.judge_revision
    assert repeat(tmp_path / "a", tmp_path / "b", lambda _: shipped) == []


def test_pictures_of_a_folder_are_written_side_by_side(folder: Path, tmp_path: Path) -> None:
    found = run(Blurry(1.0), folder, tmp_path / "out", batch=5)
    values = {r.metric: r for r in found.rows}
    row = values["PSNR"]
    assert (row.n, row.unscored, row.left_out) == (12, 1, 1) and row.protocol == "proxy"
    records = results.read_samples(tmp_path / "out" / "rebuilt.jsonl")
    (broken,) = (r for r in records if r["unscored"])
    assert "broken.jpg" in broken["unscored"] and broken["files"] == []
    homes = [tmp_path / "out" / "rebuilt" / name for name in ("originals", "rebuilt")]
    names = [sorted(p.name for p in home.iterdir()) for home in homes]
    assert names[0] == names[1] and len(names[0]) == 12
    one, two = ([Image.open(p) for p in sorted(home.iterdir())] for home in homes)
    distance = frechet_distance(*map(PixelFeatures().features, (one, two)))
    assert values["Fréchet distance (pixels)"].value == pytest.approx(distance, abs=1e-9)
    noise = [signal_to_noise(np.asarray(a), np.asarray(b)) for a, b in zip(one, two, strict=True)]
    assert row.value == pytest.approx(np.mean(noise), abs=1e-9)
    assert metadata(homes[1] / names[1][0])["model"] == "oracle 1"


def test_worse_is_worse_by_every_number(folder: Path, tmp_path: Path) -> None:
    better, worse = (
        {r.metric: r.value for r in run(Blurry(radius), folder, tmp_path / str(radius)).rows}
        for radius in (0.6, 3.0)
    )
    assert better["PSNR"] > worse["PSNR"] and better["SSIM"] > worse["SSIM"]
    assert better["Fréchet distance (pixels)"] < worse["Fréchet distance (pixels)"]


def test_what_comes_back_whole_is_whole(folder: Path, tmp_path: Path) -> None:
    values = {r.metric: r.value for r in run(Model(), folder, tmp_path / "out").rows}
    assert values["PSNR"] == EXACT and values["SSIM"] == pytest.approx(1)
    assert values["Fréchet distance (pixels)"] == pytest.approx(0, abs=1e-9)


def test_a_run_goes_on_and_asks_for_nothing_twice(folder: Path, tmp_path: Path) -> None:
    whole = run(Blurry(1.0), folder, tmp_path / "whole", batch=4)
    begun = tmp_path / "begun"
    run(Blurry(1.0), folder, begun, batch=4)
    file = begun / "rebuilt.jsonl"
    file.write_bytes(file.read_bytes()[:-1500])  # within a record
    again = run(Blurry(1.0), folder, begun, batch=4)
    assert again == whole and file.read_bytes() == (tmp_path / "whole/rebuilt.jsonl").read_bytes()

    class Silent(Blurry):
        def rebuild(self, images: list[Image.Image]) -> list[Any]:
            raise AssertionError("asked again")

    assert run(Silent(1.0), folder, begun, batch=4) == whole


def test_a_picture_that_cannot_be_rebuilt_costs_itself(folder: Path, tmp_path: Path) -> None:
    class Fussy(Model):
        def rebuild(self, images: list[Image.Image]) -> list[Any]:
            if any(image.width == 72 for image in images):
                raise RuntimeError("no room")
            return [(image, image) for image in images]

    found = run(Fussy(), folder, tmp_path / "out")
    assert {(r.unscored, r.left_out) for r in found.rows} == {(2, 2)}
    records = results.read_samples(tmp_path / "out" / "rebuilt.jsonl")
    assert any("not rebuilt" in str(r["unscored"]) for r in records)


def test_a_model_without_a_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    class Talker:
        source = "talker"

    reason = run(Talker(), folder, tmp_path / "out").failed["rebuilt"]
    assert reason == "rebuilt: talker has no picture tokenizer that gives them back"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": "rebuilt"}, "answer 'rebuilt' is of the side generation"),
        ({"side": "generation", "answer": "likelihood"}, "is of the side understanding"),
        ({"side": "generation", "answer": "rebuilt", "sampling": {"top_k": 1}},
         "a rebuilt picture has no sampling, and there is one of each"),
    ],
)  # fmt: skip
def test_answers_that_do_not_fit_are_refused(changes: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(benchmark.BenchmarkError, match=reason):
        benchmark.load(spec_file(tmp_path, **changes))


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_torchmetrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.integers(0, 256, (20, 24, 3), np.uint8)
    two = (one * rng.uniform(0.5, 1, one.shape)).astype(np.uint8)
    pixels = [torch.from_numpy(x).permute(2, 0, 1)[None].double() / 255 for x in (two, one)]
    assert signal_to_noise(one, two) == pytest.approx(
        float(peak_signal_noise_ratio(*pixels, data_range=1.0)), abs=1e-6
    )
    assert similarity(one, two) == pytest.approx(
        float(structural_similarity_index_measure(*pixels, data_range=1.0)), abs=1e-9
    )
    assert signal_to_noise(one, one) == EXACT
