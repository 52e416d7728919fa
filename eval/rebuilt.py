"""What comes back from a codec, to be looked at: originals above rebuilds, and pictures from ever
more of their codes. Of held-out toybox items, or of media of one's own. Measures nothing."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unified.eval.probing import FRAMES, prefixes
from unified.eval.tokenizer import SPLIT, held_out_clip, rendered
from unified.media.pixels import resized, to_pictures
from unified.media.sheet import spectrograms
from unified.media.sound import resample
from unified.tokenizers.codec import Codec
from unified.toybox.film import sample_film
from unified.toybox.pixels import scenes
from unified.toybox.sounds import render_clip
from unified.toybox.voices import RATE

GAP = 4  # pixels between pictures
SMALL = 128  # pixels of a side from which pictures are shown as they are, not enlarged


@torch.no_grad()
def grid(
    codec: Codec,
    path: str | Path,
    *,
    columns: int = 12,
    rows: int = 3,
    seed: int = 0,
    given: torch.Tensor | None = None,
) -> None:
    """Write a PNG of items, each row of originals above the row of their rebuilds: pictures, the
    frames of films (one a row), or the spectrograms of six sounds.

    Args:
        given: media of one's own, (N, ...) as the codec takes them; held-out toybox items if left
            out.
    """
    spec = codec.spec
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if spec.medium == "audio":
        rate = int(spec.rate)
        if given is None:
            clips = (render_clip(held_out_clip(seed, k)) for k in range(6))
            waves = torch.from_numpy(np.stack([resample(wave, RATE, rate) for wave in clips]))
        else:
            waves = given[:6, 0]
        media = waves[:, None].repeat(1, spec.channels, 1).to(codec.device)
        rebuilt = codec.decode(codec.encode(media))[:, 0, : waves.shape[1]].cpu()
        spectrograms(waves, rebuilt, rate, path)
        return
    if spec.medium == "video":
        if given is None:
            names = [f"{seed}/film/{SPLIT}/{k}" for k in range(rows)]
            films = rendered([sample_film(random.Random(n), SPLIT, FRAMES) for n in names])
            given = resized(films, spec.image_size)
        media = given[:rows].to(codec.device)
        columns = media.shape[2]
        again = codec.decode(codec.encode(media))[:, :, :columns]
        both = [to_pictures(x.transpose(1, 2).flatten(0, 1)) for x in (media, again)]
    else:
        if given is None:
            given = resized(scenes(seed, 0, columns * rows, SPLIT), spec.image_size)
        media = given[: columns * rows].to(codec.device)
        columns = min(columns, len(media))
        both = [to_pictures(x) for x in (media, codec.decode(codec.encode(media)))]
    height, width = spec.image_size
    count = len(both[0])
    rows = -(-count // columns)
    whole = rows * (2 * height + 3 * GAP) - GAP, columns * (width + GAP) - GAP
    sheet = np.full((*whole, 3), 255, np.uint8)
    for k in range(count):
        y, x = (k // columns) * (2 * height + 3 * GAP), (k % columns) * (width + GAP)
        for pictures in both:
            sheet[y : y + height, x : x + width] = pictures[k]
            y += height + GAP
    _save(sheet, path, spec.image_size)


@torch.no_grad()
def strip(
    codec: Codec,
    path: str | Path,
    *,
    rows: int = 6,
    seed: int = 0,
    given: torch.Tensor | None = None,
) -> None:
    """Write a PNG of pictures, one a row: from 1, 2, 4 ... all of its codes, and itself.

    Args:
        given: pictures of one's own, as for `grid`.

    Raises:
        ValueError: a prefix of this codec's codes does not decode.
    """
    size = codec.spec.image_size
    if not codec.spec.nested:
        raise ValueError(
            f"a tokenizer of kind {codec.kind!r} decodes whole pictures alone; "
            "a strip needs one whose prefixes decode (seed)"
        )
    if given is None:
        given = resized(scenes(seed, 0, rows, SPLIT), size)
    pixels = given[:rows].to(codec.device)
    codes = codec.encode(pixels)
    columns = [codec.decode(codes[:, :count]) for count in prefixes(codec.spec)]
    gap = np.full((len(pixels), size[0], GAP, 3), 255, np.uint8)
    parts = [part for x in (*columns, pixels) for part in (to_pictures(x), gap)][:-1]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(np.concatenate(np.concatenate(parts, 2), 0), path, size)


def _save(sheet: np.ndarray, path: Path, size: tuple[int, ...]) -> None:
    image, zoom = Image.fromarray(sheet), 2 if max(size) < SMALL else 1
    size = image.width * zoom, image.height * zoom
    image.resize(size, Image.Resampling.NEAREST).save(path)
