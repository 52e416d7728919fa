"""Codecs are trained by their recipes, resumed exactly, and judged; on the smallest scale."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unified.eval import probe, probing, rebuilt
from unified.eval import tokenizer as benchmark
from unified.eval.hearing import hear
from unified.eval.watching import follow, watch
from unified.tokenizers.codec import Codec, CodecSpec
from unified.tokenizers.kinds import load_codec, new_codec
from unified.toybox.film import Actor, Film, render_film, sample_film
from unified.toybox.pixels import scenes
from unified.toybox.sounds import SOUNDS, sound
from unified.toybox.voices import spoken
from unified.train.losses import (
    Critic,
    FeatureLoss,
    adversarial_losses,
    pyramid_loss,
    spectral_loss,
)
from unified.train.plots import read_log
from unified.train.recipe import run

RECIPES = ("pixels", "video", "audio", "seed")
ALWAYS = {"codebook_use", "perplexity", "codes", "bits", "encoded", "decoded"}
SEEN = ALWAYS | {"bits_pixel"}
METRICS = {
    "image": SEEN
    | {"psnr", "psnr_all", "ssim", "recognised", "objects_kept", "colours_kept", "frechet_encoder"},
    "video": SEEN | {"psnr", "psnr_first", "motion_kept", "things_kept", "frechet_encoder"},
    "audio": ALWAYS
    | {
        "mel_distance",
        "si_sdr",
        "stoi",
        "words_recognised",
        "voice_kept",
        "sounds_recognised",
        "frechet_log_mel",
    },
}


@pytest.fixture(scope="module", params=RECIPES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    run(request.param, ["tokenizer"], ["scale=tiny"], folder, device="cpu", progress=False)
    return folder / "tokenizer"


def losses(folder: Path) -> list[tuple[int, float]]:
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


def test_a_recipe_trains_a_codec_that_is_judged(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load_codec(trained / "model")
    monkeypatch.setattr(benchmark, "CODE_ITEMS", {"image": 8, "video": 4, "audio": 4})
    rows = benchmark.evaluate_tokenizer(codec, count=3)
    found = {row["metric"]: row["value"] for row in rows}
    assert set(found) == METRICS[codec.spec.medium]
    assert all(np.isfinite(value) for value in found.values())
    assert 0 < found["codebook_use"] <= 1 <= found["perplexity"]
    json.dumps(rows)
    rebuilt.grid(codec, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 1000
    samples = [*trained.glob("samples/*.png"), *trained.glob("flow/samples/*.png")]
    assert samples
    (curves, *_) = [*trained.glob("curves.png"), *trained.glob("flow/curves.png")]
    assert curves.stat().st_size > 1000
    log = read_log(curves.with_name("log.jsonl"))
    assert 0 < log["codebook_use"][-1][1] <= 1 <= log["perplexity"][-1][1]


def test_a_strip_grows_from_the_first_code_to_all(trained: Path, tmp_path: Path) -> None:
    codec = load_codec(trained / "model")
    if codec.kind != "seed":
        with pytest.raises(ValueError, match="a strip needs one whose prefixes decode"):
            rebuilt.strip(codec, tmp_path / "strip.png")
        return
    assert probing.prefixes(codec.spec) == [1, 2, 4]
    rebuilt.strip(codec, tmp_path / "strip.png", rows=2)
    assert Image.open(tmp_path / "strip.png").size == (2 * (3 * 64 + 64 + 3 * 4), 4 * 64)


@pytest.mark.parametrize("recipe", ["pixels", "video", "audio"])
def test_a_killed_codec_resumes_to_the_same_losses(recipe: str, tmp_path: Path) -> None:
    settings = ["scale=tiny", "tokenizer.loop.log_every=1"]
    folders = [tmp_path / name / "tokenizer" for name in ("whole", "killed")]
    for folder in folders:
        run(recipe, ["tokenizer"], settings, folder.parent, device="cpu", progress=False)
    shutil.rmtree(folders[1] / "checkpoints" / "step-6")
    run(recipe, ["tokenizer"], settings, tmp_path / "killed", device="cpu", progress=False)
    assert losses(folders[0]) == losses(folders[1]) and len(losses(folders[0])) == 6


def test_words_are_needed_where_they_are_learnt_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give it a section text"):
        run("audio", ["tokenizer"], ["tokenizer.kind=seed"], tmp_path, device="cpu")


# --- losses ------------------------------------------------------------------------------------


def test_losses_are_nothing_for_what_is_equal() -> None:
    torch.manual_seed(0)
    sound_, pixels = torch.randn(2, 8000) * 0.1, torch.rand(2, 3, 32, 32)
    assert float(spectral_loss(sound_, sound_, 16_000)) == 0
    assert float(pyramid_loss(pixels, pixels)) == 0
    assert float(spectral_loss(sound_ * 2, sound_, 16_000)) > 0.1
    blurred = torch.nn.functional.avg_pool2d(pixels, 3, 1, 1)
    assert float(pyramid_loss(blurred, pixels)) > 0.05


def test_each_side_of_the_game_gets_its_own_gradient() -> None:
    critic, drawn = Critic(width=8, layers=2), torch.rand(2, 3, 16, 16, requires_grad=True)
    fooled, judged = adversarial_losses(critic, drawn, torch.rand(2, 3, 16, 16))
    fooled.backward(retain_graph=True)
    assert drawn.grad is not None and all(p.grad is None for p in critic.parameters())
    drawn.grad = None
    judged.backward()
    assert drawn.grad is None and all(p.grad is not None for p in critic.parameters())


# --- judges and probes -------------------------------------------------------------------------


def test_words_and_sounds_are_heard_through_noise() -> None:
    rng = np.random.default_rng(0)
    for word, voice in (("cat", "ada"), ("red", "ben"), ("helicopter", "eve"), ("two", "dan")):
        wave = spoken(word, voice)
        heard = hear(0.3 * wave + 0.003 * rng.standard_normal(len(wave)))
        assert (heard.name, heard.voice) == (word, voice)
    right = [hear(sound(name, sum(SOUNDS[name][2]) / 2, 77)).name == name for name in SOUNDS]
    assert sum(right) >= len(right) - 2
    assert hear(rng.standard_normal(8000)).voice is None


def test_given_things_are_followed_and_wrong_motions_are_not_taken_for_right() -> None:
    films = [sample_film(random.Random(f"5/film/{k}"), "held_out", 9) for k in range(40)]
    films = [film for film in films if film.camera == "still"]
    right, turned, blurred = [], [], []
    for film in films:
        frames = render_film(film)
        things = [(actor.name, actor.colour, actor.size) for actor in film.actors]
        motions = [actor.motion for actor in film.actors]
        right += [t.motion(9) == m for t, m in zip(follow(frames, things), motions, strict=True)]
        soft = frames.astype(np.float32)
        for axis in (1, 2):
            near = (np.roll(soft, by, axis) for by in (-1, 0, 1))
            soft = np.sum([part / 3 for part in near], axis=0)
        blurred += [
            t.motion(9) == m
            for t, m in zip(follow(soft.round().astype(np.uint8), things), motions, strict=True)
        ]
        lines = {"left", "right", "up", "down", "appear", "disappear"}
        backwards = follow(frames[::-1], things)
        turned += [t.motion(9) == m for t, m in zip(backwards, motions, strict=True) if m in lines]
    assert np.mean(right) >= 0.99 and np.mean(blurred) >= 0.95
    assert len(turned) > 10 and not any(turned)


@pytest.mark.parametrize("motion", ["left", "up", "bounce", "disappear", "still"])
def test_motions_are_seen_and_wrong_ones_are_not(motion: str) -> None:
    actor = Actor("cat", None, "big", 16, 4, motion, 1.5, 4)
    if motion == "left":
        actor = Actor("cat", None, "big", 20, 4, motion, 1.5, 4)
    if motion == "up":
        actor = Actor("cat", None, "big", 16, 26, motion, 1.5, 4)
    frames = render_film(Film((actor,), "meadow", frames=9))
    (track,) = watch(frames)
    assert track.label == "cat" and track.motion(9) == motion
    if motion == "left":
        assert watch(frames[::-1])[0].motion(9) == "right"
    assert watch(np.full_like(frames, 200)) == []


def test_a_circle_is_no_star_and_two_frames_are_seen() -> None:
    """A star lies within a circle and fits it perfectly, as far as it goes."""
    circle = Actor("circle", "black", "small", 23, 35, "up", 2.0)
    (track,) = watch(render_film(Film((circle,), "grass", frames=9)))
    assert (track.label, track.motion(9)) == ("black circle", "up")
    turtle = Actor("turtle", None, "big", 20, 32, "disappear", frame=2)
    (track,) = watch(render_film(Film((turtle,), "grass", frames=17)))
    assert (track.label, track.motion(17)) == ("turtle", "disappear")


def test_the_probe_finds_order_and_the_linear_one_finds_labels() -> None:
    """Codes that count up are easy in their order; a label that is a code is found."""
    from unified.tokenizers.codec import CodecSpec

    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 16, (600, 1), generator=generator)
    codes = (first + torch.arange(8)) % 16
    bits = probe.code_bits(codes[:500], codes[500:], CodecSpec((16,), (0,) * 8), steps=80)
    assert bits["bits_item"] < 12 < 8 * 4
    accuracy = probe.linear_accuracy(
        codes[:500], codes[:500, 3], codes[500:], codes[500:, 3], CodecSpec((16,), (0,) * 8),
        steps=200,
    )  # fmt: skip
    assert accuracy == 1


# --- full size ---------------------------------------------------------------------------------


# of the whole process, one item forth and back in fp32, as the recipes state it
GIGABYTES = {"pixels": 1.5, "video": 3.0, "audio": 2.0, "seed": 4.5}
FULL_SIZE = """
import sys, torch
from pathlib import Path
from unified.tokenizers.kinds import new_codec
from unified.train.recipe import read

plan = read(sys.argv[1], ["scale=full"]).tokenizer
codec = new_codec(plan.kind, plan.model).eval()
for module in codec.modules():  # as if k-means had run: else the first item places the codebook
    if hasattr(module, "initted") and hasattr(module, "embed"):
        module.embed.normal_()
        module.initted.fill_(True)
spec = codec.spec
time = () if spec.medium == "image" else (spec.time(3),)
media = torch.rand(1, spec.channels, *time, *spec.image_size) - 0.5
if plan.kind == "seed":
    codec.sampling["steps"] = 1
assert codec.decode(codec.encode(media)).shape == media.shape
# not ru_maxrss, which a process takes over from the one that started it
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_full_size_runs_on_a_cpu_within_its_memory(recipe: str) -> None:
    """One item through the full-size configuration, forth and back, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", FULL_SIZE, recipe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) <= GIGABYTES[recipe]


@pytest.mark.parametrize("side", [16, 128])
def test_codecs_of_other_sizes_are_judged_on_the_same_scenes(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codec that loses nothing keeps all at twice the size, and not all at a quarter of it."""

    class Whole(Codec):
        """Codes are places in a list of pictures."""

        kind = "whole"
        kept: list[torch.Tensor] = []

        @property
        def spec(self) -> CodecSpec:
            return CodecSpec((4096,), (0,), (side, side))

        @property
        def device(self) -> torch.device:
            return torch.device("cpu")

        def encode(self, media: torch.Tensor) -> torch.Tensor:
            self.check_pixels(media)
            self.kept.extend(media)
            return torch.arange(len(self.kept) - len(media), len(self.kept))[:, None]

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return torch.stack([self.kept[k] for k in codes[:, 0]])

    monkeypatch.setattr(benchmark, "CODE_ITEMS", {"image": 8})
    rows = benchmark.evaluate_tokenizer(Whole(), count=8)
    found = {row["metric"]: row["value"] for row in rows}
    assert found["psnr"] == 100
    kept = [found[name] for name in ("recognised", "objects_kept", "colours_kept")]
    assert kept == [1, 1, 1] if side > 64 else kept[1] < 1


def test_every_medium_is_probed(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "ITEMS", {"image": (24, 8), "video": (10, 6), "audio": (16, 8)})
    monkeypatch.setattr(probing, "PICTURES", 24)
    bits = partial(probe.code_bits, steps=3)
    monkeypatch.setattr(probing, "code_bits", bits)
    monkeypatch.setattr(probing, "linear_accuracy", partial(probe.linear_accuracy, steps=3))
    codec = load_codec(trained / "model")
    found = {metric: (value, n) for metric, value, _, n in probing.probed(codec, 0, 8)}
    order = {"probe_bits", "probe_bits_shuffled", "probe_bits_item", "probe_bits_item_shuffled"}
    known = {
        "vq": {"linear_object", "linear_colour", "drawn_object", "drawn_colour"},
        "seed": {"linear_object", "linear_colour", "drawn_object", "drawn_colour"}
        | {f"linear_{what}_{count}" for what in ("object", "colour") for count in (1, 2)},
        "video": {"linear_motion"},
        "audio": {"linear_word", "linear_voice"},
    }[codec.kind]
    assert set(found) == order | known
    assert all(0 <= value <= 1 and n for name, (value, n) in found.items() if name in known)
    size = math.log2(max(codec.spec.codebooks))
    assert 0.5 * size < found["probe_bits"][0] < 2 * size  # it has hardly begun to learn


def test_seed_resumes_in_the_middle_of_any_stage(tmp_path: Path) -> None:
    """Killed before its codebook has settled, and once more before it can draw: the same bytes."""
    settings = ["scale=tiny", "text.lines=600", "text.size=500",
                "tokenizer.model.teacher.words=500",
                *(f"tokenizer.loops.{stage}.save_every=1" for stage in ("codes", "flow")),
                "tokenizer.loops.flow.sample_every=0"]  # fmt: skip
    run("seed", ["tokenizer"], settings, tmp_path / "whole", device="cpu", progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    place = tmp_path / "killed" / "tokenizer"
    shutil.rmtree(place / "codes" / "checkpoints" / "step-3")
    shutil.rmtree(place / "flow")
    shutil.rmtree(place / "model")
    run("seed", ["tokenizer"], settings, tmp_path / "killed", device="cpu", progress=False)
    files = [tmp_path / name / "tokenizer/model/model.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_features_of_a_frozen_encoder_teach_a_codec(tmp_path: Path) -> None:
    import transformers as t

    torch.manual_seed(0)
    small: dict[str, Any] = {"width": 32, "layers": 1, "heads": 2}
    seed = new_codec("seed", {**small, "teacher": {**small, "text_width": 32}, "flow": small,
                              "reverse_layers": 1, "prior_width": 32})  # fmt: skip
    seed.save(tmp_path / "seed")
    vision = t.Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                            image_size=32, patch_size=8)  # fmt: skip
    t.Dinov2Model(vision).save_pretrained(tmp_path / "dino")
    t.CLIPImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "dino")
    pixels = scenes(0, 0, 2)
    for name in ("seed", "dino"):
        loss = FeatureLoss(tmp_path / name, "cpu")
        assert float(loss(pixels, pixels)) == pytest.approx(0, abs=1e-5)
        noisy = (pixels + 0.3 * torch.randn_like(pixels)).requires_grad_()
        missed = loss(noisy, pixels)
        missed.backward()
        assert float(missed.detach()) > 1e-3
        assert noisy.grad is not None and noisy.grad.abs().sum() > 0
        assert all(p.grad is None for p in loss.encoder.parameters())
    settings = ["scale=tiny", "tokenizer.perceptual=1"]
    run("pixels", ["tokenizer"], [*settings, f"tokenizer.encoder={tmp_path / 'seed'}"],
        tmp_path / "run", device="cpu", progress=False)  # fmt: skip
    assert read_log(tmp_path / "run" / "tokenizer" / "log.jsonl")["perceptual"][-1][1] > 0
    with pytest.raises(ValueError, match="say whose features count"):
        run("pixels", ["tokenizer"], settings, tmp_path / "no", device="cpu", progress=False)
    with pytest.raises(ValueError, match=r"no config\.json"):
        FeatureLoss(tmp_path, "cpu")
