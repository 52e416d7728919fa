"""Contact sheets: pictures in rows with their captions, sounds as spectrograms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from unified.spectrum import log_mel

LINE = 13  # pixels of a line of caption
LETTER = 6  # pixels of a letter, about
LINES = 3


def captioned(
    pictures: list[Image.Image], captions: list[str], *, columns: int = 4, zoom: int = 3
) -> Image.Image:
    """Pictures of one size in rows, each enlarged `zoom` times with its caption under it."""
    width, height = (length * zoom for length in pictures[0].size)
    cell = (width + 8, height + LINE * LINES + 6)
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * cell[0], rows * cell[1]), "white")
    draw = ImageDraw.Draw(canvas)
    for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = (k % columns) * cell[0], (k // columns) * cell[1]
        canvas.paste(picture.resize((width, height), Image.Resampling.NEAREST), (x + 4, y))
        for line, words in enumerate(_wrapped(caption, width // LETTER)[:LINES]):
            draw.text((x + 4, y + height + 2 + LINE * line), words, fill="black")
    return canvas


def spectrograms(above: torch.Tensor, below: torch.Tensor, rate: int, path: Path) -> None:
    """Write a PNG of the log mel spectra of sounds (B, N), each of `above` over its own of `below`;
    low frequencies at the bottom, 100 decibel from black to white."""
    columns = []
    for pair in zip(above, below, strict=True):
        rows = [log_mel(x[None].float().cpu(), rate)[0].T.flip(0).numpy() for x in pair]
        gap = np.full((4, rows[0].shape[1]), 1.0)
        columns += [np.concatenate([rows[0] / 5 + 1, gap, rows[1] / 5 + 1]),
                    np.full((2 * len(rows[0]) + 4, 6), 1.0)]  # fmt: skip
    levels = (np.concatenate(columns[:-1], 1).clip(0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(levels)
    image.resize((image.width, image.height * 2), Image.Resampling.NEAREST).save(path)


def _wrapped(caption: str, letters: int) -> list[str]:
    lines = [""]
    for word in caption.encode("latin-1", "replace").decode("latin-1").split():
        if lines[-1] and len(lines[-1]) + len(word) + 1 > letters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
