"""The codec benchmark: what comes back, how the codes are used, how easy they are to predict.

Measured on toybox pictures, films or sound that hold combinations kept out of all training. Knows
a codec by its contract alone: `spec`, `encode`, `decode`; ours and published ones alike.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio
from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility
from torchmetrics.functional.image import structural_similarity_index_measure

import unified
from unified.eval import hearing
from unified.eval.features import EncoderFeatures, Features, SoundStatistics, of_directory
from unified.eval.judge import judge
from unified.eval.metrics import frechet_distance, frechet_draws
from unified.eval.probe import code_bits, linear_accuracy
from unified.eval.watching import follow, watch
from unified.media.pixels import to_pictures, to_tensor
from unified.media.sheet import spectrograms
from unified.media.sound import resample
from unified.spectrum import mel_distance
from unified.tokenizers.codec import Codec, CodecSpec
from unified.toybox.film import Film, render_film, sample_film
from unified.toybox.pixels import scenes
from unified.toybox.scene import render, sample_scene
from unified.toybox.sounds import Clip, render_clip, sample_clip
from unified.toybox.voices import RATE

SPLIT = "held_out"
CODE_ITEMS = {"image": 2048, "video": 256, "audio": 512}  # of which the use of codes is counted
FRAMES, SECONDS = 9, 2.0  # of the films and clips
PROBE_ITEMS, UNSEEN = 4096, 512  # pictures that the probes learn from, and are scored on

Found = tuple[str, float, float, int]  # metric, value, standard error, items


def evaluate_tokenizer(
    codec: Codec,
    *,
    count: int = 512,
    seed: int = 0,
    batch: int = 64,
    probe: bool = False,
    features: Path | None = None,
) -> list[dict[str, Any]]:
    """Score a codec on held-out items of its medium.

    Args:
        count: items that are rebuilt; codes are counted over at least CODE_ITEMS.
        probe: also train the fixed probes (pictures alone; minutes).
        features: whose features the Fréchet distance of pictures is of: a directory of a model of
            ours, of a SEED tokenizer or of a vision encoder; the shipped model by default.

    Returns:
        Rows {task, side, skill, split, metric, value, stderr, n, chance, settings}.
        Pictures: psnr (dB, mean over pictures), psnr_all (dB of the mean squared error over all),
        ssim, recognised (share of the rebuilt pictures in which the judge of drawings still finds
        every thing and nothing else: what a perfect model could reach with this codec).
        Films: psnr, psnr_first (of first frames), motion_kept (share of things that the judge of
        films, told which they are, sees move as they should), things_kept (share that it also tells
        from all others).
        Pictures, and films frame by frame: frechet_encoder, or frechet_teacher and so on by
        `features`: Fréchet distance of rebuilds from originals on the features that the settings
        name, with a bootstrap over items; to be compared at equal n, and from two items on.
        Sound: mel_distance (dB), si_sdr (dB), stoi, words_recognised, voice_kept and
        sounds_recognised (shares of words, of their voices and of named sounds that the judge of
        sound names rightly), frechet_log_mel; half of the clips are words, half named sounds.
        All: codebook_use and perplexity (share of the codes that occur, and perplexity of the code
        histogram, of the codebook where they are least), codes and bits an item or second,
        encoded and decoded (items a second, here).
        With `probe`: see `unified.eval.probe`.

    Raises:
        ValueError: a count or batch below one, or a codec of another shape than the toybox's.
    """
    if count < 1 or batch < 1:
        raise ValueError(f"count {count} and batch {batch}: both must be at least 1")
    spec = codec.spec
    if spec.medium != "audio" and (spec.image_size != (64, 64) or spec.channels != 3):
        raise ValueError(
            f"this codec takes {spec.channels} x {spec.image_size} pixels; the toybox's are 64x64"
        )
    sound = spec.medium == "audio"
    seen: Any = SoundStatistics() if sound else _features(features)
    measures: dict[str, Any] = {"image": _pictures, "video": _films, "audio": _sound}
    measure = measures[spec.medium]
    found = [*measure(codec, count, seed, batch, seen)]
    if probe and spec.medium == "image":
        found += _probes(codec, seed, batch)
    settings = {
        "seed": seed, "codebooks": list(spec.codebooks), "codes_a_step": spec.length,
        "image_size": list(spec.image_size), "rate": spec.rate, "device": str(codec.device),
        "threads": torch.get_num_threads(), "toolkit": unified.__version__,
        "features": seen.name, "features_revision": seen.revision,
    }  # fmt: skip
    names = {"image": "pictures", "video": "films", "audio": "sound"}
    return [
        {"task": "tokenizer", "side": "reconstruction", "skill": names[spec.medium],
         "split": SPLIT, "metric": metric, "value": value, "stderr": stderr, "n": n, "chance": 0.0,
         "settings": settings}
        for metric, value, stderr, n in found
    ]  # fmt: skip


def _features(folder: Path | None) -> Features:
    return EncoderFeatures() if folder is None else of_directory(folder)


def _frechet(short: str, sides: Sequence[Sequence[np.ndarray]], seed: int) -> Iterator[Found]:
    """Of the features of originals and of rebuilds, each in parts of (items, samples of an item,
    D); nothing for a single item."""
    originals, rebuilt = (np.concatenate(side) for side in sides)
    if len(originals) > 1:
        one, two = (x.reshape(-1, x.shape[-1]) for x in (originals, rebuilt))
        spread = float(np.std(frechet_draws(originals, rebuilt, seed=seed), ddof=1))
        yield f"frechet_{short}", frechet_distance(one, two), spread, len(originals)


class _Codes:
    """Counts codes and times encoding and decoding."""

    def __init__(self, codec: Codec):
        self.codec, self.spec = codec, codec.spec
        self.histogram = torch.zeros(self.spec.codebook_size, dtype=torch.int64)
        self.encoded, self.decoded = [0, 0.0], [0, 0.0]

    @torch.no_grad()
    def encode(self, media: torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        codes = self.codec.encode(media)
        self.encoded = [self.encoded[0] + len(media), self.encoded[1] + time.perf_counter() - began]
        self.histogram += torch.bincount(codes.flatten().cpu(), minlength=len(self.histogram))
        return codes

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        media = self.codec.decode(codes)
        self.decoded = [self.decoded[0] + len(codes), self.decoded[1] + time.perf_counter() - began]
        return media

    def found(self, items: int) -> Iterator[Found]:
        used, spread = [], []
        for book in self.spec.ranges:
            share = self.histogram[book.start : book.stop].double()
            share = share / share.sum().clamp_min(1)
            used.append(float((share > 0).double().mean()))
            spread.append(float((-torch.xlogy(share, share).sum()).exp()))
        yield "codebook_use", min(used), 0.0, items
        yield "perplexity", spread[used.index(min(used))], 0.0, items
        # of a picture, or of a second of film or sound
        steps = self.spec.rate / self.spec.stride if self.spec.rate else 1.0
        yield "codes", self.spec.length * steps, 0.0, 1
        yield "bits", self.spec.bits * steps, 0.0, 1
        yield "encoded", self.encoded[0] / max(1e-9, self.encoded[1]), 0.0, int(self.encoded[0])
        yield "decoded", self.decoded[0] / max(1e-9, self.decoded[1]), 0.0, int(self.decoded[0])


def _pictures(codec: Codec, count: int, seed: int, batch: int, seen: Features) -> Iterator[Found]:
    codes_of = _Codes(codec)
    features: list[list[np.ndarray]] = [[], []]  # of originals and of rebuilds
    errors: list[torch.Tensor] = []
    similarities: list[torch.Tensor] = []
    recognised: list[bool] = []
    total = max(count, CODE_ITEMS["image"])
    for start in range(0, total, batch):
        pixels = scenes(seed, start, min(batch, total - start), SPLIT).to(codec.device)
        codes = codes_of.encode(pixels)
        left = count - start
        if left > 0:
            truth, rebuilt = _levels(pixels[:left]), _levels(codes_of.decode(codes[:left]))
            pairs = list(_pairs(truth, rebuilt))
            recognised += [judge(one) == judge(two) for one, two in pairs]
            for side, pictures in zip(features, zip(*pairs, strict=True), strict=True):
                side.append(seen.features([Image.fromarray(one) for one in pictures])[:, None])
            errors.append((truth - rebuilt).square().mean((1, 2, 3)))  # in [0, 1]
            similarities.append(
                structural_similarity_index_measure(
                    rebuilt.double(), truth.double(), data_range=1.0, reduction="none"
                )
            )
    squared = torch.cat(errors).double()
    psnr, ssim = _decibel(squared), torch.cat(similarities).double()
    yield "psnr", float(psnr.mean()), _stderr(psnr), count
    yield "psnr_all", float(_decibel(squared.mean())), 0.0, count
    yield "ssim", float(ssim.mean()), _stderr(ssim), count
    yield _share("recognised", recognised)
    yield from _frechet(seen.short, features, seed)
    yield from codes_of.found(total)


def _films(codec: Codec, count: int, seed: int, batch: int, seen: Features) -> Iterator[Found]:
    features: list[list[np.ndarray]] = [[], []]
    codes_of = _Codes(codec)
    errors: list[torch.Tensor] = []
    firsts: list[torch.Tensor] = []
    moved: list[bool] = []
    kept: list[bool] = []
    total = max(count, CODE_ITEMS["video"])
    batch = min(batch, 16)
    for start in range(0, total, batch):
        names = [f"{seed}/film/{SPLIT}/{k}" for k in range(start, min(total, start + batch))]
        films = [sample_film(random.Random(name), SPLIT, FRAMES) for name in names]
        frames = np.stack([render_film(film) for film in films])
        pixels = to_tensor(frames.reshape(-1, *frames.shape[2:])).unflatten(0, frames.shape[:2])
        codes = codes_of.encode(pixels.transpose(1, 2).to(codec.device))
        left = max(0, count - start)
        if left:
            rebuilt = codes_of.decode(codes[:left])[:, :, :FRAMES].transpose(1, 2).cpu()
            squared = (_levels(pixels[:left]) - _levels(rebuilt)).square()
            errors.append(squared.mean((1, 2, 3, 4)))
            firsts.append(squared[:, 0].mean((1, 2, 3)))
            for film, one in zip(films, rebuilt, strict=False):
                pictures = to_pictures(one)
                moved += _directions(film, pictures)
                kept += _things(film, pictures)
            for side, several in zip(features, (pixels[:left], rebuilt), strict=True):
                shown = [Image.fromarray(one) for one in to_pictures(several.flatten(0, 1))]
                side.append(seen.features(shown).reshape(len(several), FRAMES, -1))
    psnr, first = (_decibel(torch.cat(parts).double()) for parts in (errors, firsts))
    yield "psnr", float(psnr.mean()), _stderr(psnr), count
    yield "psnr_first", float(first.mean()), _stderr(first), count
    yield _share("motion_kept", moved)
    yield _share("things_kept", kept)
    yield from _frechet(seen.short, features, seed)
    yield from codes_of.found(total)


def _directions(film: Film, frames: np.ndarray) -> list[bool]:
    """Of each thing before a camera that stands: whether it is seen to move as it should, however
    it looks."""
    if film.camera != "still":
        return []
    tracks = follow(frames, [(actor.name, actor.colour, actor.size) for actor in film.actors])
    return [
        track.motion(len(frames)) == actor.motion
        for track, actor in zip(tracks, film.actors, strict=True)
    ]


def _things(film: Film, frames: np.ndarray) -> list[bool]:
    """Of the same things: whether the judge tells them from all others and names their motion."""
    if film.camera != "still":
        return []
    seen = {track.label: track.motion(len(frames)) for track in watch(frames)}
    return [seen.get(actor.label) == actor.motion for actor in film.actors]


def _sound(
    codec: Codec, count: int, seed: int, batch: int, seen: SoundStatistics
) -> Iterator[Found]:
    features: list[list[np.ndarray]] = [[], []]
    codes_of, rate = _Codes(codec), int(codec.spec.rate)
    distances: list[float] = []
    ratios: list[torch.Tensor] = []
    clear: list[float] = []
    words: list[tuple[bool, bool]] = []
    sounds: list[bool] = []
    total = max(count, CODE_ITEMS["audio"])
    for start in range(0, total, batch):
        clips = [_clip(seed, k) for k in range(start, min(total, start + batch))]
        waves = [render_clip(clip) for clip in clips]
        given = torch.from_numpy(np.stack([resample(wave, RATE, rate) for wave in waves]))
        media = given[:, None].repeat(1, codec.spec.channels, 1).to(codec.device)
        codes = codes_of.encode(media)
        left = max(0, count - start)
        if left:
            rebuilt = codes_of.decode(codes[:left])[:, 0, : given.shape[1]].cpu()
            ratios.append(scale_invariant_signal_distortion_ratio(rebuilt, given[:left]))
            for clip, wave, one, two in zip(clips, waves, rebuilt, given, strict=False):
                distances.append(float(mel_distance(one[None], two[None], rate)))
                back = resample(one.numpy(), rate, RATE)
                back = np.pad(back, (0, max(0, len(wave) - len(back))))[: len(wave)]
                for event, heard in zip(clip.events, hearing.recognised(back, clip), strict=True):
                    if event.voice:
                        words.append(heard)
                    else:
                        sounds.append(heard[0])
                for side, part in zip(features, (wave, back), strict=True):
                    side.append(seen.features(torch.from_numpy(part)[None], RATE)[None])
                pair = torch.from_numpy(np.stack([back, wave]))
                clear.append(float(short_time_objective_intelligibility(*pair, RATE)))
    for name, values in (("mel_distance", torch.tensor(distances)), ("si_sdr", torch.cat(ratios)),
                         ("stoi", torch.tensor(clear))):  # fmt: skip
        yield name, float(values.mean()), _stderr(values), count
    yield _share("words_recognised", [right for right, _ in words])
    yield _share("voice_kept", [voice for _, voice in words])
    yield _share("sounds_recognised", sounds)
    yield from _frechet(seen.short, features, seed)
    yield from codes_of.found(total)


def _clip(seed: int, index: int) -> Clip:
    """Of an even number, words in voices that training never had them in; of an odd one, takes of
    named sounds that it never heard."""
    if index % 2 == 0:
        return sample_clip(random.Random(f"{seed}/clip/{SPLIT}/{index}"), SPLIT, SECONDS)
    rng = random.Random(f"{seed}/clip/sounds/{index}")
    while True:
        clip = sample_clip(rng, "seen", SECONDS)
        if not any(event.voice for event in clip.events):
            return clip


def _probes(codec: Codec, seed: int, batch: int) -> Iterator[Found]:
    """The fixed probes: bits of a picture, and what a linear map knows of a single thing."""
    seen, unseen = (
        torch.cat([codec.encode(scenes(seed + 1, start, batch, split).to(codec.device)).cpu()
                   for start in range(0, size, batch)])
        for size, split in ((PROBE_ITEMS, "train"), (UNSEEN, "seen"))
    )  # fmt: skip
    bits = code_bits(seen, unseen, codec.spec)
    for name, value in bits.items():
        yield f"probe_{name}", value, 0.0, UNSEEN
    for name in ("object", "colour"):
        codes, labels = [], []
        for size, split in ((PROBE_ITEMS, "train"), (UNSEEN, "seen")):
            things = [one for k in range(size) if (one := _single(seed, k, split, name))]
            pixels = to_tensor(np.stack([picture for picture, _ in things]))
            parts = [codec.encode(part.to(codec.device)).cpu() for part in pixels.split(batch)]
            codes.append(torch.cat(parts))
            labels.append([label for _, label in things])
        numbers = {label: k for k, label in enumerate(sorted({*labels[0], *labels[1]}))}
        known, truth = (torch.tensor([numbers[label] for label in part]) for part in labels)
        for count in prefixes(codec.spec):
            parts = [part[:, :count] for part in codes]
            value = linear_accuracy(parts[0], known, parts[1], truth, codec.spec)
            metric = f"linear_{name}" + (f"_{count}" if count < codec.spec.length else "")
            yield metric, value, math.sqrt(value * (1 - value) / len(truth)), len(truth)


def prefixes(spec: CodecSpec) -> list[int]:
    """1, 2, 4 ... and all codes of a picture where a prefix means something; all of them alone
    elsewhere."""
    return [*(2**k for k in range((spec.length - 1).bit_length()) if spec.nested), spec.length]


def _single(seed: int, index: int, split: str, what: str) -> tuple[np.ndarray, str] | None:
    """A picture of a single thing and its name or colour; None where it has no colour."""
    rng = random.Random(f"{seed}/single/{split}/{index}")
    scene = sample_scene(rng, split, count=1)
    (thing,) = scene.things
    label = thing.name if what == "object" else thing.colour
    return (render(scene), label) if label else None


def _decibel(squared: torch.Tensor) -> torch.Tensor:
    """Mean squared errors of values in [0, 1] -> PSNR."""
    return -10 * squared.clamp(min=1e-10).log10()


def _share(metric: str, right: list[bool]) -> Found:
    share = sum(right) / max(1, len(right))
    return metric, share, math.sqrt(share * (1 - share) / max(1, len(right))), len(right)


def _levels(pixels: torch.Tensor) -> torch.Tensor:
    """[-1, 1] -> [0, 1], in steps of 1/255, as a saved picture has them."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round() / 255


def _pairs(truth: torch.Tensor, rebuilt: torch.Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures of two batches in [0, 1], uint8 (H, W, 3) each."""
    return zip(to_pictures(truth * 2 - 1), to_pictures(rebuilt * 2 - 1), strict=True)


def _stderr(values: torch.Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else 0.0


@torch.no_grad()
def grid(
    codec: Codec,
    path: str | Path,
    *,
    columns: int = 12,
    rows: int = 3,
    seed: int = 0,
    zoom: int = 2,
) -> None:
    """Write a PNG of held-out items, each row of originals above the row of their rebuilds: scenes,
    the frames of films, or the spectrograms of sound."""
    if codec.spec.medium == "audio":
        waves = [render_clip(_clip(seed, k)) for k in range(6)]
        rate = int(codec.spec.rate)
        given = torch.from_numpy(np.stack([resample(wave, RATE, rate) for wave in waves]))
        media = given[:, None].repeat(1, codec.spec.channels, 1).to(codec.device)
        rebuilt = codec.decode(codec.encode(media))[:, 0, : given.shape[1]].cpu()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        spectrograms(given, rebuilt, rate, Path(path))
        return
    if codec.spec.medium == "video":
        columns = FRAMES
        names = [f"{seed}/film/{SPLIT}/{k}" for k in range(rows)]
        films = np.concatenate([render_film(sample_film(random.Random(name), SPLIT, FRAMES))
                                for name in names])  # fmt: skip
        media = to_tensor(films).unflatten(0, (rows, FRAMES)).transpose(1, 2).to(codec.device)
        rebuilt = codec.decode(codec.encode(media))[:, :, :FRAMES].transpose(1, 2).flatten(0, 1)
        pictures = films, to_pictures(rebuilt)
    else:
        pixels = scenes(seed, 0, columns * rows, SPLIT).to(codec.device)
        pictures = to_pictures(pixels), to_pictures(codec.decode(codec.encode(pixels)))
    height, width = codec.spec.image_size
    gap = 4
    sheet = np.full(
        (rows * (2 * height + 3 * gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8
    )
    for k in range(columns * rows):
        y, x = (k // columns) * (2 * height + 3 * gap), (k % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = pictures[0][k]
        y += height + gap
        sheet[y : y + height, x : x + width] = pictures[1][k]
    image = Image.fromarray(sheet)
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@torch.no_grad()
def strip(codec: Codec, path: str | Path, *, rows: int = 6, seed: int = 0, zoom: int = 2) -> None:
    """Write a PNG of held-out scenes, one a row: from 1, 2, 4 ... all of its codes, and itself.

    Raises:
        ValueError: a prefix of this codec's codes does not decode.
    """
    if not codec.spec.nested:
        raise ValueError(
            f"a tokenizer of kind {codec.kind!r} decodes whole pictures alone; "
            "a strip needs one whose prefixes decode (seed)"
        )
    pixels = scenes(seed, 0, rows, SPLIT).to(codec.device)
    codes = codec.encode(pixels)
    columns = [codec.decode(codes[:, :count]) for count in prefixes(codec.spec)]
    gap = np.full((rows, codec.spec.image_size[0], 4, 3), 255, np.uint8)
    parts = [part for x in (*columns, pixels) for part in (to_pictures(x), gap)][:-1]
    image = Image.fromarray(np.concatenate(np.concatenate(parts, 2), 0))
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
