"""What the fixed probes of `probe.py` find in a codec's codes of toybox items.

All media: probe_bits and probe_bits_shuffled (a code), probe_bits_item and probe_bits_item_shuffled
(a picture; of films the first steps, of sound the first seconds). Pictures: linear_object and
linear_colour of a single thing, from all codes and, where prefixes decode, from 1, 2, 4 ... of
them; drawn_object and drawn_colour, what the judge of drawings still finds in what those codes
decode to. Films: linear_motion of a single thing. Sound: linear_word and linear_voice of a single
word.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from unified.eval.judge import judge
from unified.eval.probe import code_bits, linear_accuracy
from unified.media.pixels import resized, to_pictures, to_tensor
from unified.media.sound import resample
from unified.tokenizers.codec import Codec, CodecSpec
from unified.toybox.film import Film, render_film, sample_film
from unified.toybox.pixels import scenes
from unified.toybox.scene import SIDE, render, sample_scene
from unified.toybox.sounds import Clip, render_clip, sample_clip
from unified.toybox.voices import RATE

WORLD = (SIDE, SIDE)  # pixels of the toybox, in which its judges look
FRAMES, SECONDS = 9, 2.0  # of the films and clips
# items that the probes learn from, and are scored on
ITEMS = {"image": (4096, 512), "video": (1024, 256), "audio": (2048, 512)}
PICTURES = 16384  # that the next-token probe learns from: fewer it learns by heart
MOST = 400  # codes of an item that are predicted, cut down to whole steps
ALONE = 1.0  # seconds of a single word

Found = tuple[str, float, float, int]  # metric, value, standard error, items
Label = Callable[[Any], str]


def probed(codec: Codec, seed: int, batch: int) -> Iterator[Found]:
    """All probes of the codec's medium."""
    of_medium = {"image": _pictures, "video": _films, "audio": _sound}[codec.spec.medium]
    yield from of_medium(codec, seed, batch)


def _pictures(codec: Codec, seed: int, batch: int) -> Iterator[Found]:
    known, unseen = (
        torch.cat([_coded(codec, scenes(seed + 1, start, batch, split))
                   for start in range(0, size, batch)])
        for size, split in ((PICTURES, "train"), (ITEMS["image"][1], "seen"))
    )  # fmt: skip
    yield from _bits(codec, known, unseen)
    for name in ("object", "colour"):
        codes, labels = [], []
        for size, split in _parts("image"):
            things = [one for k in range(size) if (one := _single(seed, k, split, name))]
            pixels = to_tensor(np.stack([picture for picture, _ in things]))
            codes.append(torch.cat([_coded(codec, part) for part in pixels.split(batch)]))
            labels.append([label for _, label in things])
        yield from _linear(codec, f"linear_{name}", codes, labels, prefixes(codec.spec))
        if codec.decodes:
            yield share(f"drawn_{name}", _drawn(codec, codes[1], labels[1], batch))


def _films(codec: Codec, seed: int, batch: int) -> Iterator[Found]:
    films = [
        [_film(f"{seed + 1}/film/{split}/{k}", split) for k in range(size)]
        for size, split in _parts("video")
    ]
    yield from _timed(codec, films, _rendered, {"motion": lambda film: film.actors[0].motion})


def _film(name: str, split: str) -> Film:
    """A film of one thing before a camera that stands."""
    rng = random.Random(name)
    while True:
        film = sample_film(rng, split, FRAMES)
        if film.camera == "still" and len(film.actors) == 1:
            return film


def _rendered(codec: Codec, films: list[Film]) -> torch.Tensor:
    frames = np.concatenate([render_film(film) for film in films])
    media = to_tensor(frames).unflatten(0, (len(films), FRAMES)).transpose(1, 2)
    return resized(media, codec.spec.image_size)


def _sound(codec: Codec, seed: int, batch: int) -> Iterator[Found]:
    clips = [
        [_word(f"{seed + 1}/clip/{split}/{k}", split) for k in range(size)]
        for size, split in _parts("audio")
    ]
    yield from _timed(
        codec, clips, _heard,
        {"word": lambda clip: clip.events[0].name, "voice": lambda clip: clip.events[0].voice},
    )  # fmt: skip


def _word(name: str, split: str) -> Clip:
    """A clip of one word."""
    rng = random.Random(name)
    while True:
        clip = sample_clip(rng, split, ALONE)
        if len(clip.events) == 1 and clip.events[0].voice:
            return clip


def _heard(codec: Codec, clips: list[Clip]) -> torch.Tensor:
    rate = int(codec.spec.rate)
    waves = np.stack([resample(render_clip(clip), RATE, rate) for clip in clips])
    return torch.from_numpy(waves)[:, None].repeat(1, codec.spec.channels, 1)


def _timed(
    codec: Codec,
    items: list[list[Any]],
    rendered: Callable[[Codec, list[Any]], torch.Tensor],
    labels: dict[str, Label],
) -> Iterator[Found]:
    """Bits of the first steps of films or sound, and what a linear map reads from all."""
    codes = [
        torch.cat([_encoded(codec, rendered(codec, part[k : k + 16]))
                   for k in range(0, len(part), 16)])
        for part in items
    ]  # fmt: skip
    few = max(1, MOST // codec.spec.length) * codec.spec.length
    yield from _bits(codec, codes[0][:, :few], codes[1][:, :few])
    for name, look in labels.items():
        told = [[look(item) for item in part] for part in items]
        yield from _linear(codec, f"linear_{name}", codes, told, [codes[0].shape[1]])


def _bits(codec: Codec, known: torch.Tensor, unseen: torch.Tensor) -> Iterator[Found]:
    for name, value in code_bits(known, unseen, codec.spec).items():
        yield f"probe_{name}", value, 0.0, len(unseen)


def _linear(
    codec: Codec, metric: str, codes: list[torch.Tensor], labels: list[list[str]], counts: list[int]
) -> Iterator[Found]:
    """Accuracy from the first `counts` codes of each item."""
    numbers = {label: k for k, label in enumerate(sorted({*labels[0], *labels[1]}))}
    known, truth = (torch.tensor([numbers[label] for label in part]) for part in labels)
    for count in counts:
        one, two = (part[:, :count] for part in codes)
        value = linear_accuracy(one, known, two, truth, codec.spec)
        name = metric + (f"_{count}" if count < codes[0].shape[1] else "")
        yield name, value, math.sqrt(value * (1 - value) / len(truth)), len(truth)


def _parts(medium: str) -> list[tuple[int, str]]:
    return list(zip(ITEMS[medium], ("train", "seen"), strict=True))


def _coded(codec: Codec, pixels: torch.Tensor) -> torch.Tensor:
    """Codes of toybox pictures."""
    return _encoded(codec, resized(pixels, codec.spec.image_size))


def _encoded(codec: Codec, media: torch.Tensor) -> torch.Tensor:
    """Codes, on the CPU."""
    return codec.encode(media.to(codec.device)).cpu()


def _drawn(codec: Codec, codes: torch.Tensor, labels: list[str], batch: int) -> Iterator[bool]:
    """Whether the judge finds the names or colours in what is decoded from codes."""
    for start in range(0, len(codes), batch):
        rebuilt = codec.decode(codes[start : start + batch].to(codec.device))
        pictures = to_pictures(resized(rebuilt, WORLD))
        for picture, label in zip(pictures, labels[start : start + batch], strict=True):
            yield any(label in (thing.name, thing.colour) for thing in judge(picture).things)


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


def share(metric: str, found: Iterable[bool]) -> Found:
    """The share of what is right, with its standard error."""
    right = list(found)
    value = sum(right) / max(1, len(right))
    return metric, value, math.sqrt(value * (1 - value) / max(1, len(right))), len(right)
