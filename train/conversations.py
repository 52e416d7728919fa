"""Toybox conversations -> ids, loss mask and views, and which of them a step holds.

    sample -> turns -> text ids | picture codes and views -> ids, loss mask

Everything is a pure function of (seed, step).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from unified.media.pixels import to_tensor
from unified.sequence import Layout, Picture, Text, Turn
from unified.tokenizers.codec import Codec
from unified.tokenizers.text import PublishedTokenizer, TextTokenizer
from unified.toybox.samples import Sample, sample
from unified.toybox.scene import Scene, render
from unified.train.batches import Encoded

if TYPE_CHECKING:
    from unified.handle import Unified

POOL = 4  # steps whose samples are sorted together


class Conversations:
    """Encodes samples for one model's layout and tokenizers. Where the layout has no views,
    pictures stand as codes alone.

    Args:
        user_views: probability that a user's picture stands as a view alone; else codes + view.
        shift: largest random shift, in pixels, of a picture that stands as a view alone.
        dropout: share of drawings whose condition is dropped, for guidance.
    """

    def __init__(
        self,
        layout: Layout,
        text: TextTokenizer | PublishedTokenizer,
        codec: Codec,
        *,
        user_views: float = 0.6,
        shift: int = 3,
        dropout: float = 0.1,
        device: str = "cpu",
    ):
        self.layout, self.text, self.codec = layout, text, codec
        self.user_views, self.shift, self.dropout = user_views, shift, dropout
        self.device = device

    @classmethod
    def of(cls, handle: Unified, device: str) -> Conversations:
        """For a whole model, in the ways that fine-tuning keeps up what it knows."""
        return cls(handle.layout, handle.processor.tokenizer, handle.codec, device=device)

    def drawn(self, task: str, index: int, seed: int, number: int) -> Encoded:
        """The `index`-th sample of a task; what is random about how it stands follows from its
        `number` among all samples of a run."""
        rng = random.Random(f"{seed}/sample/{number}")
        return self.encode([sample(task, seed, index)], rng)[0]

    def encode(self, samples: list[Sample], rng: random.Random) -> list[Encoded]:
        """The samples as the model reads them, in their order."""
        encoded: list[Encoded] = []
        for first in range(0, len(samples), 64):  # so many pictures are encoded at once
            encoded += self._some(samples[first : first + 64], rng)
        return encoded

    def _some(self, samples: list[Sample], rng: random.Random) -> list[Encoded]:
        shown = [(p, self._rereads(s, t.role)) for s in samples for t in s.turns for p in t.parts
                 if isinstance(p, Scene)]  # fmt: skip
        scenes = [scene for scene, _ in shown]
        codes, rebuilt = self._encode(scenes, [k for k, (_, again) in enumerate(shown) if again])
        encoded, index = [], 0
        for one in samples:
            encoded.append(self._one(one, codes, rebuilt, scenes, index, rng))
            index += sum(isinstance(p, Scene) for t in one.turns for p in t.parts)
        return encoded

    def _rereads(self, sample: Sample, role: str) -> bool:
        """Whether what a role shows is read back as it was drawn; after a "render" nothing follows
        that could use it."""
        return role == "assistant" and sample.task != "render" and self.layout.reread

    @torch.no_grad()
    def _encode(
        self, scenes: list[Scene], again: list[int]
    ) -> tuple[list[tuple[int, ...]], dict[int, torch.Tensor]]:
        """Codes of every scene, and the pictures that come back of those that are read `again`: a
        flow decoder takes longer for one than all else."""
        if not scenes:
            return [], {}
        pixels = to_tensor(np.stack([render(scene) for scene in scenes])).to(self.device)
        codes = self.codec.encode(pixels)
        rebuilt = self.codec.decode(codes[again]) if again else codes[:0]
        return [tuple(row) for row in codes.tolist()], dict(zip(again, rebuilt, strict=True))

    def _one(
        self,
        sample: Sample,
        codes: list[tuple[int, ...]],
        rebuilt: dict[int, torch.Tensor],
        scenes: list[Scene],
        index: int,
        rng: random.Random,
    ) -> Encoded:
        drawn_only = sample.task in ("draw", "render") and rng.random() < self.dropout
        seen = self.layout.views
        as_view = sample.task != "dialogue" and rng.random() < self.user_views and seen
        turns, views = [], []
        for turn in sample.turns:
            parts: list[Text | Picture] = []
            for part in turn.parts:
                if isinstance(part, str):
                    parts.append(Text(tuple(self.text.ids(part))))
                    continue
                if turn.role == "assistant":  # drawn: read back as it will look
                    reread = self._rereads(sample, turn.role)
                    parts.append(Picture(codes[index], view=reread))
                    if reread:
                        views.append(rebuilt[index])
                else:
                    picture = render(scenes[index])
                    if as_view and rng.random() < 0.25:
                        picture = shifted(picture, self.shift, rng)
                    parts.append(Picture(None if as_view else codes[index], view=seen))
                    if seen:
                        views.append(to_tensor(picture[None])[0].to(self.device))
                index += 1
            turns.append(Turn(turn.role, tuple(parts)))
        if drawn_only:
            pictures = [p for t in turns for p in t.parts if isinstance(p, Picture)]
            turns = [Turn("assistant", (Picture(pictures[0].codes, view=False),))]
            views = []
        sequence = self.layout.flatten(turns)
        return Encoded(sequence.ids, sequence.loss, torch.stack(views) if views else None)


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
