"""The codec benchmark: what comes back, how the codes are used, how easy they are to predict.

Measured on toybox pictures, films or sound that hold combinations kept out of all training, resized
to the codec's; or on media of one's own. Knows a codec by its contract alone: `spec`, `encode`,
`decode`; ours and published ones alike.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from unified.eval.features import (
    EncoderFeatures,
    Features,
    PixelFeatures,
    SoundStatistics,
    of_directory,
)
from unified.eval.judge import Judged, judge
from unified.eval.metrics import frechet_distance, frechet_draws
from unified.eval.probing import FRAMES, SECONDS, WORLD, Found, probed, share
from unified.eval.watching import follow, watch
from unified.media.pixels import resized, to_pictures, to_tensor
from unified.media.sound import resample
from unified.spectrum import mel_distance
from unified.tokenizers.codec import Codec
from unified.toybox.film import Film, render_film, sample_film
from unified.toybox.pixels import scenes
from unified.toybox.scene import Thing
from unified.toybox.sounds import Clip, render_clip, sample_clip
from unified.toybox.voices import RATE

SPLIT = "held_out"
CODE_ITEMS = {"image": 2048, "video": 256, "audio": 512}  # of which the use of codes is counted


def evaluate_tokenizer(
    codec: Codec,
    *,
    count: int = 512,
    seed: int = 0,
    batch: int = 64,
    probe: bool = False,
    features: Path | None = None,
    given: torch.Tensor | None = None,
) -> list[dict[str, Any]]:
    """Score a codec on held-out items of its medium.

    Args:
        count: items that are rebuilt; codes are counted over at least CODE_ITEMS.
        probe: also train the fixed probes (minutes).
        features: whose features the Fréchet distance of pictures is of: a directory of a model of
            ours, of a SEED tokenizer or of a vision encoder; the shipped model by default, and for
            media of one's own shrunk pixels.
        given: media of one's own, (N, ...) as the codec takes them, in place of the toybox's. Then
            `count` is theirs, there are no probes, and what needs facts is left out: what the
            judges recognise.

    Returns:
        Rows {task, side, skill, split, metric, value, stderr, n, chance, settings}.
        Pictures: psnr (dB, mean over pictures), psnr_all (dB of the mean squared error over all),
        ssim, recognised (share of the rebuilt pictures in which the judge of drawings still finds
        every thing and nothing else: what a perfect model could reach with this codec),
        objects_kept and colours_kept (of the things that it finds in the originals, the share whose
        name, and of coloured ones whose colour, it finds again).
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
        histogram, of the codebook where they are least), codes and bits an item or second, of
        pictures and films bits_pixel, encoded and decoded (items a second, here). Of a codec that
        only encodes nothing else is told.
        With `probe`: see `unified.eval.probing`.
        Judges see what comes back at the toybox's 64x64 pixels; errors are at the codec's.

    Raises:
        ValueError: a count or batch below one, or a codec of another number of channels than the
            toybox's.
    """
    if count < 1 or batch < 1:
        raise ValueError(f"count {count} and batch {batch}: both must be at least 1")
    spec = codec.spec
    sound = spec.medium == "audio"
    if not sound and spec.channels != 3:
        raise ValueError(f"this codec takes pictures of {spec.channels} channels; these have 3")
    seen: Any = SoundStatistics() if sound else _features(features, given is not None)
    measures: dict[str, Any] = {"image": _pictures, "video": _films, "audio": _sound}
    measure = measures[spec.medium]
    found = [*measure(codec, count if given is None else len(given), seed, batch, seen, given)]
    if probe and given is None:
        found += probed(codec, seed, batch)
    settings = {
        "seed": seed, "codebooks": list(spec.codebooks), "codes_a_step": spec.length,
        "image_size": list(spec.image_size), "rate": spec.rate, "device": str(codec.device),
        "threads": torch.get_num_threads(), "toolkit": unified.__version__,
        "features": seen.name, "features_revision": seen.revision,
    }  # fmt: skip
    names = {"image": "pictures", "video": "films", "audio": "sound"}
    split = SPLIT if given is None else "given"
    return [
        {"task": "tokenizer", "side": "reconstruction", "skill": names[spec.medium],
         "split": split, "metric": metric, "value": value, "stderr": stderr, "n": n, "chance": 0.0,
         "settings": settings}
        for metric, value, stderr, n in found
    ]  # fmt: skip


def _features(folder: Path | None, own: bool) -> Features:
    if folder is not None:
        return of_directory(folder)
    return PixelFeatures() if own else EncoderFeatures()


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
        codes = self.codec.encode(media).cpu()  # waits for a GPU
        self.encoded = [self.encoded[0] + len(media), self.encoded[1] + time.perf_counter() - began]
        self.histogram += torch.bincount(codes.flatten(), minlength=len(self.histogram))
        return codes.to(media.device)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        media = self.codec.decode(codes)
        if media.is_cuda:
            torch.cuda.synchronize()
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
        if self.spec.image_size:
            height, width = self.spec.image_size
            yield "bits_pixel", self.spec.bits / (height * width * self.spec.stride), 0.0, 1
        yield "encoded", self.encoded[0] / max(1e-9, self.encoded[1]), 0.0, int(self.encoded[0])
        if self.codec.decodes:
            yield "decoded", self.decoded[0] / max(1e-9, self.decoded[1]), 0.0, int(self.decoded[0])


def _pictures(
    codec: Codec, count: int, seed: int, batch: int, seen: Features, given: torch.Tensor | None
) -> Iterator[Found]:
    codes_of, size = _Codes(codec), codec.spec.image_size
    features: list[list[np.ndarray]] = [[], []]  # of originals and of rebuilds
    errors: list[torch.Tensor] = []
    similarities: list[torch.Tensor] = []
    judged: list[tuple[Judged, Judged]] = []
    total = count if given is not None else max(count, CODE_ITEMS["image"])
    for start in range(0, total, batch):
        if given is None:
            plain = scenes(seed, start, min(batch, total - start), SPLIT)
            pixels = resized(plain, size).to(codec.device)
        else:
            pixels = given[start : start + batch].to(codec.device)
        codes = codes_of.encode(pixels)
        left = count - start
        if left > 0 and codec.decodes:
            truth, rebuilt = _levels(pixels[:left]), _levels(codes_of.decode(codes[:left]))
            pairs = list(_pairs(truth, rebuilt))
            if given is None:
                small = to_pictures(resized(rebuilt * 2 - 1, WORLD))
                judged += zip(map(judge, to_pictures(plain[:left])), map(judge, small), strict=True)
            for side, pictures in zip(features, zip(*pairs, strict=True), strict=True):
                side.append(seen.features([Image.fromarray(one) for one in pictures])[:, None])
            errors.append((truth - rebuilt).square().mean((1, 2, 3)))  # in [0, 1]
            similarities.append(
                structural_similarity_index_measure(
                    rebuilt.double(), truth.double(), data_range=1.0, reduction="none"
                )
            )
    if not codec.decodes:
        yield from codes_of.found(total)
        return
    squared = torch.cat(errors).double()
    psnr, ssim = _decibel(squared), torch.cat(similarities).double()
    yield "psnr", float(psnr.mean()), _stderr(psnr), count
    yield "psnr_all", float(_decibel(squared.mean())), 0.0, count
    yield "ssim", float(ssim.mean()), _stderr(ssim), count
    if given is None:
        yield share("recognised", [one == two for one, two in judged])
        yield share("objects_kept", _kept(judged, lambda thing: thing.name))
        yield share("colours_kept", _kept(judged, lambda thing: thing.colour))
    yield from _frechet(seen.short, features, seed)
    yield from codes_of.found(total)


def _kept(
    judged: list[tuple[Judged, Judged]], look: Callable[[Thing], str | None]
) -> Iterator[bool]:
    """Of everything that a look finds in the originals: whether it finds it in the rebuilds."""
    for one, two in judged:
        there = Counter(look(thing) for thing in two.things)
        for thing in one.things:
            value = look(thing)
            if value is not None:
                yield there[value] > 0
                there[value] -= 1


def _films(
    codec: Codec, count: int, seed: int, batch: int, seen: Features, given: torch.Tensor | None
) -> Iterator[Found]:
    features: list[list[np.ndarray]] = [[], []]
    codes_of = _Codes(codec)
    errors: list[torch.Tensor] = []
    firsts: list[torch.Tensor] = []
    moved: list[bool] = []
    kept: list[bool] = []
    total = count if given is not None else max(count, CODE_ITEMS["video"])
    length = FRAMES if given is None else given.shape[2]
    batch = min(batch, 16)
    for start in range(0, total, batch):
        films: list[Film] = []
        if given is None:
            names = [f"{seed}/film/{SPLIT}/{k}" for k in range(start, min(total, start + batch))]
            films = [sample_film(random.Random(name), SPLIT, FRAMES) for name in names]
            media = resized(rendered(films), codec.spec.image_size)
        else:
            media = given[start : start + batch]
        codes = codes_of.encode(media.to(codec.device))
        pixels = media.transpose(1, 2)
        left = max(0, count - start)
        if left:
            rebuilt = codes_of.decode(codes[:left])[:, :, :length].transpose(1, 2).cpu()
            squared = (_levels(pixels[:left]) - _levels(rebuilt)).square()
            errors.append(squared.mean((1, 2, 3, 4)))
            firsts.append(squared[:, 0].mean((1, 2, 3)))
            for film, one in zip(films, rebuilt, strict=False):
                pictures = to_pictures(resized(one, WORLD))
                moved += _directions(film, pictures)
                kept += _things(film, pictures)
            for side, several in zip(features, (pixels[:left], rebuilt), strict=True):
                shown = [Image.fromarray(one) for one in to_pictures(several.flatten(0, 1))]
                side.append(seen.features(shown).reshape(len(several), length, -1))
    psnr, first = (_decibel(torch.cat(parts).double()) for parts in (errors, firsts))
    yield "psnr", float(psnr.mean()), _stderr(psnr), count
    yield "psnr_first", float(first.mean()), _stderr(first), count
    if given is None:
        yield share("motion_kept", moved)
        yield share("things_kept", kept)
    yield from _frechet(seen.short, features, seed)
    yield from codes_of.found(total)


def rendered(films: list[Film]) -> torch.Tensor:
    """(B, 3, FRAMES, 64, 64)."""
    frames = np.concatenate([render_film(film) for film in films])
    return to_tensor(frames).unflatten(0, (len(films), FRAMES)).transpose(1, 2)


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
    codec: Codec, count: int, seed: int, batch: int, seen: SoundStatistics,
    own: torch.Tensor | None,
) -> Iterator[Found]:  # fmt: skip
    features: list[list[np.ndarray]] = [[], []]
    codes_of, rate = _Codes(codec), int(codec.spec.rate)
    distances: list[float] = []
    ratios: list[torch.Tensor] = []
    clear: list[float] = []
    words: list[tuple[bool, bool]] = []
    sounds: list[bool] = []
    total = count if own is not None else max(count, CODE_ITEMS["audio"])
    for start in range(0, total, batch):
        clips: list[Clip | None]
        if own is None:
            clips = [held_out_clip(seed, k) for k in range(start, min(total, start + batch))]
            waves = [render_clip(clip) for clip in clips if clip]
            given = torch.from_numpy(np.stack([resample(wave, RATE, rate) for wave in waves]))
        else:
            given = own[start : start + batch, 0]
            clips, waves = [None] * len(given), [resample(x.numpy(), rate, RATE) for x in given]
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
                names = hearing.recognised(back, clip) if clip else []
                for event, heard in zip(clip.events if clip else [], names, strict=True):
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
    if own is None:
        yield share("words_recognised", [right for right, _ in words])
        yield share("voice_kept", [voice for _, voice in words])
        yield share("sounds_recognised", sounds)
    yield from _frechet(seen.short, features, seed)
    yield from codes_of.found(total)


def held_out_clip(seed: int, index: int) -> Clip:
    """Of an even number, words in voices that training never had them in; of an odd one, takes of
    named sounds that it never heard."""
    if index % 2 == 0:
        return sample_clip(random.Random(f"{seed}/clip/{SPLIT}/{index}"), SPLIT, SECONDS)
    rng = random.Random(f"{seed}/clip/sounds/{index}")
    while True:
        clip = sample_clip(rng, "seen", SECONDS)
        if not any(event.voice for event in clip.events):
            return clip


def _decibel(squared: torch.Tensor) -> torch.Tensor:
    """Mean squared errors of values in [0, 1] -> PSNR."""
    return -10 * squared.clamp(min=1e-10).log10()


def _levels(pixels: torch.Tensor) -> torch.Tensor:
    """[-1, 1] -> [0, 1], in steps of 1/255, as a saved picture has them."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round() / 255


def _pairs(truth: torch.Tensor, rebuilt: torch.Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures of two batches in [0, 1], uint8 (H, W, 3) each."""
    return zip(to_pictures(truth * 2 - 1), to_pictures(rebuilt * 2 - 1), strict=True)


def _stderr(values: torch.Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else 0.0
