"""Encoded samples -> micro-batches of ids, views and labels; samples may share a row.

The samples of several steps are sorted by length and cut into micro-batches, which are dealt to the
steps in turn: every step holds short and long ones, with little padding. Knows nothing of words,
pictures or where samples come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from unified.modeling import IGNORE
from unified.sequence import Layout, Picture, Turn
from unified.vocabulary import Vocabulary

BLOCK = 128  # of FlexAttention: rows of few lengths, so that its kernels are compiled few times


@dataclass(frozen=True)
class Encoded:
    """A conversation as the model reads it.

    Attributes:
        ids, loss: (S,) the ids, and for each whether it is learnt (as the *next* token).
        views: (N, C, H, W) in [-1, 1], the pictures of its views in reading order; None without.
    """

    ids: list[int]
    loss: list[bool]
    views: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """ids, labels: (B, S); views: (N, C, H, W) in reading order; positions: (B, S) where rows are
    packed, each sample's from 0."""

    ids: torch.Tensor
    labels: torch.Tensor
    views: torch.Tensor | None
    texts: int  # text targets in the whole step
    codes: int  # code targets in the whole step
    positions: torch.Tensor | None = None
    tokens: int = 0  # ids that are no padding


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


class Batcher:
    """Cuts samples into micro-batches.

    Args:
        rows: of a micro-batch, at most.
        pack: tokens of a row that several samples share; None for a row each.
    """

    def __init__(self, vocabulary: Vocabulary, rows: int, pack: int | None, device: str):
        self.vocabulary, self.rows, self.pack, self.device = vocabulary, rows, pack, device
        on_gpu = torch.device(device).type == "cuda"
        self.block = BLOCK if pack and on_gpu else 1  # tokens that a row's length is a multiple of

    def deal(self, samples: list[Encoded], steps: int) -> list[list[Batch]]:
        """The samples of `steps` steps -> the micro-batches of each.

        Raises:
            ValueError: too few samples for so many steps, or one that is longer than a row.
        """
        samples = sorted(samples, key=len)
        shared = packed([len(s) for s in samples], self.pack) if self.pack else None
        lines = [[samples[k] for k in row] for row in shared] if shared else [[s] for s in samples]
        if len(lines) < steps:
            raise ValueError(
                f"{len(samples)} samples of {steps} steps fill {len(lines)} rows, fewer than there "
                "are steps; lower pack, or raise batch_size"
            )
        rows = min(self.rows, len(lines) // steps)  # a micro-batch is never more than a step
        parts = [lines[i : i + rows] for i in range(0, len(lines), rows)]
        return [self._step(parts[k::steps]) for k in range(steps)]

    def _step(self, parts: list[list[list[Encoded]]]) -> list[Batch]:
        start = self.vocabulary.image_start
        targets = [
            token >= start
            for lines in parts
            for line in lines
            for sample in line
            for token, loss in zip(sample.ids, sample.loss, strict=True)
            if loss
        ]
        codes = sum(targets)
        return [self.pad(lines, len(targets) - codes, codes) for lines in parts]

    def pad(self, lines: list[list[Encoded]], texts: int, codes: int) -> Batch:
        """Rows, each of samples that share it, as a micro-batch of a step with so many targets."""
        length = max(sum(map(len, line)) for line in lines)
        length = -(-length // self.block) * self.block
        ids = torch.full((len(lines), length), self.vocabulary.control("pad"))
        labels = torch.full((len(lines), length), IGNORE)
        positions = torch.zeros((len(lines), length), dtype=torch.int64)
        for k, line in enumerate(lines):
            start = 0
            for sample in line:
                end = start + len(sample)
                tokens = torch.tensor(sample.ids)
                mask = torch.tensor(sample.loss[1:])
                ids[k, start:end] = tokens
                labels[k, start : end - 1] = tokens[1:].masked_fill(~mask, IGNORE)  # the next one
                positions[k, start:end] = torch.arange(len(sample))
                start = end
        views = [s.views for line in lines for s in line if s.views is not None]
        return Batch(
            self._there(ids),
            self._there(labels),
            self._there(torch.cat(views)) if views else None,
            texts,
            codes,
            self._there(positions) if self.pack else None,
            sum(len(sample) for line in lines for sample in line),
        )

    def _there(self, made: torch.Tensor) -> torch.Tensor:
        """On the device; a GPU copies from pinned memory while the host goes on."""
        if torch.device(self.device).type == "cuda" and made.device.type == "cpu":
            return made.pin_memory().to(self.device, non_blocking=True)
        return made.to(self.device)


class Ballast:
    """A row that runs through every part of a model and teaches nothing: a picture, whole.

    Processes that share out a model's parts must all run the same ones. A micro-batch without
    pictures gets such a row where another micro-batch of the step has some.
    """

    def __init__(self, layout: Layout):
        self.start = layout.vocabulary.image_start
        self.pad = layout.vocabulary.control("pad")
        picture = layout.first_codes
        self.rows = {
            view: torch.tensor(layout.flatten([Turn("user", (Picture(picture, view),))]).ids)
            for view in {False, layout.views}
        }

    @classmethod
    def of(cls, model: Any) -> Ballast | None:
        """For a model that has a layout, with or without an adapter; None for any other."""
        layout = getattr(getattr(model, "config", None), "layout", None)
        return cls(layout) if isinstance(layout, Layout) else None

    def added(self, part: Any, step: Sequence[Any]) -> Any:
        """The micro-batch, with the row if it lacks views or codes that another one of the step
        has. Batches alone are looked at."""
        if not isinstance(part, Batch):
            return part
        views = next((other.views for other in step if other.views is not None), None)
        codes = any(bool((other.ids >= self.start).any()) for other in step)
        lacks_views = views is not None and part.views is None
        if not (lacks_views or codes and not (part.ids >= self.start).any()):
            return part
        row = self.rows[views is not None].to(part.ids.device)
        length = max(part.ids.shape[1], len(row))
        row = F.pad(row, (0, length - len(row)), value=self.pad)
        more = (0, length - part.ids.shape[1])
        ids = torch.cat([F.pad(part.ids, more, value=self.pad), row[None]])
        labels = F.pad(part.labels, (*more, 0, 1), value=IGNORE)
        positions = part.positions
        if positions is not None:
            own = torch.arange(length, device=ids.device)
            positions = torch.cat([F.pad(positions, more), own[None]])
        if views is not None:
            own_view = torch.zeros_like(views[:1])
            views = own_view if part.views is None else torch.cat([part.views, own_view])
        return replace(part, ids=ids, labels=labels, views=views, positions=positions)
