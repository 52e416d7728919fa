"""Codes -> films: attention in a step, causal convolution across steps, convolutions in frames."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from unified.causal import CausalStack, FilmBlock, State
from unified.layers import ResBlock


class FrameDecoder(nn.Module):
    """Features (B, widths[-1], h, w) -> (B, channels, H, W): twice the side for each width. Every
    frame by itself."""

    def __init__(self, widths: tuple[int, ...], channels: int):
        super().__init__()
        finer: list[nn.Module] = []
        for fine, coarse in reversed(list(pairwise(widths))):
            finer += [nn.Conv2d(coarse, 4 * fine, 1), nn.PixelShuffle(2), ResBlock(fine, fine, 1)]
        self.blocks = nn.Sequential(*finer)
        self.last = nn.Conv2d(widths[0], 4 * channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.last(self.blocks(x)), 2)


class FilmDecoder(nn.Module):
    """Code vectors (B, steps, places, code_width) -> frames (B, steps * group, C, H, W), and the
    state."""

    def __init__(
        self, *, code_width: int, width: int, layers: int, heads: int, places: int, group: int,
        channels: int, widths: tuple[int, ...], kernel: int,
    ):  # fmt: skip
        super().__init__()
        self.group, self.side = group, math.isqrt(places)
        self.embed = nn.Linear(code_width, width)
        self.position = nn.Parameter(torch.randn(places, width) * 0.02)
        self.blocks = CausalStack([FilmBlock(width, heads, kernel) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.part = nn.Linear(width, group * widths[-1])
        self.frames = FrameDecoder(widths, channels)

    def forward(self, vectors: torch.Tensor, past: State = None) -> tuple[torch.Tensor, State]:
        x, past = self.blocks(self.embed(vectors) + self.position, past)
        x = self.part(self.norm(x)).unflatten(-1, (self.group, -1))  # (B, steps, places, group, W)
        x = x.permute(0, 1, 3, 4, 2).unflatten(-1, (self.side, -1)).flatten(1, 2)
        frames: torch.Tensor = self.frames(x.flatten(0, 1))
        return frames.unflatten(0, x.shape[:2]), past
