"""Toybox conversations -> micro-batches of ids, views and labels.

    sample -> turns -> text ids | picture codes and views -> ids, loss mask -> rows, padded right

The samples of POOL steps are sorted by length and cut into micro-batches, which are dealt to the
steps in turn: every step holds short and long ones of all kinds, with little padding. Packed, they
first share rows of a given length, each sample with positions of its own. Everything is a pure
function of (seed, step).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from unified.media.pixels import to_tensor
from unified.modeling import IGNORE
from unified.sequence import Layout, Picture, Sequence, Text, Turn
from unified.tokenizers.codec import Codec
from unified.tokenizers.text import TextTokenizer
from unified.toybox.samples import Sample
from unified.toybox.scene import Scene, render

POOL = 4  # steps whose samples are sorted together


@dataclass(frozen=True)
class Batch:
    """ids, labels: (B, S); views: (N, 3, H, W) in reading order; positions: (B, S) where rows are
    packed."""

    ids: torch.Tensor
    labels: torch.Tensor
    views: torch.Tensor | None
    texts: int  # text targets in the whole step
    codes: int  # code targets in the whole step
    positions: torch.Tensor | None = None


@dataclass
class _Row:
    """One sample."""

    sequence: Sequence
    views: list[torch.Tensor]

    def __len__(self) -> int:
        return len(self.sequence)


def packed(lengths: list[int], room: int) -> list[list[int]]:
    """Indices of samples that share a row of `room` tokens: first fit, longest first.

    Raises:
        ValueError: a sample is longer than a row.
    """
    rows: list[list[int]] = []
    left: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda k: (-lengths[k], k)):
        length = lengths[index]
        if length > room:
            raise ValueError(f"a sample of {length} tokens does not fit a row of {room} (pack)")
        row = next((k for k, rest in enumerate(left) if rest >= length), None)
        if row is None:
            rows.append([])
            left.append(room)
            row = len(rows) - 1
        rows[row].append(index)
        left[row] -= length
    return rows


class Conversations:
    """Turns samples into batches for one model's layout and tokenizers.

    Args:
        user_views: probability that a user's picture stands as a view alone; else codes + view.
        shift: largest random shift, in pixels, of a picture that stands as a view alone.
        dropout: share of drawings whose condition is dropped, for guidance.
        micro_batch: rows that are computed at once.
        pack: tokens of a row that several samples share; None for a row each.
    """

    def __init__(
        self,
        layout: Layout,
        text: TextTokenizer,
        codec: Codec,
        *,
        user_views: float = 0.6,
        shift: int = 3,
        dropout: float = 0.1,
        micro_batch: int = 16,
        pack: int | None = None,
        device: str = "cpu",
    ):
        self.layout, self.text, self.codec = layout, text, codec
        self.user_views, self.shift, self.dropout = user_views, shift, dropout
        self.micro_batch, self.pack, self.device = micro_batch, pack, device

    def batches(self, samples: list[Sample], rng: random.Random) -> list[list[Batch]]:
        """The samples of POOL steps -> the micro-batches of each step."""
        rows = []
        for first in range(0, len(samples), 64):  # so many pictures are encoded at once
            rows += self._rows(samples[first : first + 64], rng)
        rows.sort(key=len)
        shared = packed([len(row) for row in rows], self.pack) if self.pack else None
        lines = [[rows[k] for k in line] for line in shared] if shared else [[row] for row in rows]
        parts = [lines[i : i + self.micro_batch] for i in range(0, len(lines), self.micro_batch)]
        if len(parts) < POOL:
            raise ValueError(
                f"{len(samples)} samples of {POOL} steps make {len(parts)} micro-batches of "
                f"{self.micro_batch} rows; lower micro_batch or pack, or raise batch_size"
            )
        return [self._step(parts[k::POOL]) for k in range(POOL)]

    def _rows(self, samples: list[Sample], rng: random.Random) -> list[_Row]:
        scenes = [p for s in samples for t in s.turns for p in t.parts if isinstance(p, Scene)]
        codes, rebuilt = self._encode(scenes)
        rows, index = [], 0
        for sample in samples:
            rows.append(self._row(sample, codes, rebuilt, scenes, index, rng))
            index += sum(isinstance(p, Scene) for t in sample.turns for p in t.parts)
        return rows

    def _step(self, parts: list[list[list[_Row]]]) -> list[Batch]:
        start = self.layout.vocabulary.image_start
        targets = [
            token >= start
            for lines in parts
            for line in lines
            for row in line
            for token, loss in zip(row.sequence.ids, row.sequence.loss, strict=True)
            if loss
        ]
        codes = sum(targets)
        return [self._pad(lines, len(targets) - codes, codes) for lines in parts]

    @torch.no_grad()
    def _encode(self, scenes: list[Scene]) -> tuple[list[tuple[int, ...]], torch.Tensor]:
        """Codes of every scene, and the pictures that come back from them."""
        if not scenes:
            return [], torch.empty(0)
        pixels = to_tensor(np.stack([render(scene) for scene in scenes])).to(self.device)
        codes = self.codec.encode(pixels)
        return [tuple(row) for row in codes.tolist()], self.codec.decode(codes)

    def _row(
        self,
        sample: Sample,
        codes: list[tuple[int, ...]],
        rebuilt: torch.Tensor,
        scenes: list[Scene],
        index: int,
        rng: random.Random,
    ) -> _Row:
        drawn_only = sample.task in ("draw", "render") and rng.random() < self.dropout
        as_view = sample.task != "dialogue" and rng.random() < self.user_views
        turns, views = [], []
        for turn in sample.turns:
            parts: list[Text | Picture] = []
            for part in turn.parts:
                if isinstance(part, str):
                    parts.append(Text(tuple(self.text.ids(part))))
                    continue
                if turn.role == "assistant":  # drawn: read back as it will look
                    reread = sample.task != "render"  # nothing follows that could use it
                    parts.append(Picture(codes[index], view=reread))
                    if reread:
                        views.append(rebuilt[index])
                else:
                    picture = render(scenes[index])
                    if as_view and rng.random() < 0.25:
                        picture = shifted(picture, self.shift, rng)
                    parts.append(Picture(None if as_view else codes[index]))
                    views.append(to_tensor(picture[None])[0].to(self.device))
                index += 1
            turns.append(Turn(turn.role, tuple(parts)))
        if drawn_only:
            pictures = [p for t in turns for p in t.parts if isinstance(p, Picture)]
            turns = [Turn("assistant", (Picture(pictures[0].codes, view=False),))]
            views = []
        return _Row(self.layout.flatten(turns), views)

    def _pad(self, lines: list[list[_Row]], texts: int, codes: int) -> Batch:
        length = max(sum(map(len, line)) for line in lines)
        pad = self.layout.vocabulary.control("pad")
        ids = torch.full((len(lines), length), pad)
        labels = torch.full((len(lines), length), IGNORE)
        positions = torch.zeros((len(lines), length), dtype=torch.int64)
        for k, line in enumerate(lines):
            start = 0
            for row in line:
                end = start + len(row)
                tokens = torch.tensor(row.sequence.ids)
                mask = torch.tensor(row.sequence.loss[1:])
                ids[k, start:end] = tokens
                labels[k, start : end - 1] = tokens[1:].masked_fill(~mask, IGNORE)  # the next one
                positions[k, start:end] = torch.arange(len(row))
                start = end
        views = [view for line in lines for row in line for view in row.views]
        return Batch(
            ids.to(self.device),
            labels.to(self.device),
            torch.stack(views) if views else None,
            texts,
            codes,
            positions.to(self.device) if self.pack else None,
        )


def shifted(picture: np.ndarray, most: int, rng: random.Random) -> np.ndarray:
    """Moved by up to `most` pixels each way, the border repeated."""
    dx, dy = rng.randint(-most, most), rng.randint(-most, most)
    padded = np.pad(picture, ((most, most), (most, most), (0, 0)), mode="edge")
    height, width = picture.shape[:2]
    return padded[most + dy : most + dy + height, most + dx : most + dx + width]


def mixed(
    draw: Callable[[str, int], Sample], mix: dict[str, float], pool: int, size: int, seed: int
) -> tuple[list[Sample], random.Random]:
    """The `size` samples of a pool: tasks by weight, each sample of its own index."""
    rng = random.Random(f"{seed}/mix/{pool}")
    tasks = rng.choices(list(mix), list(mix.values()), k=size)
    return [draw(task, pool * size + k) for k, task in enumerate(tasks)], rng
