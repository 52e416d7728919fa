"""Codes -> films: attention within a step, causal convolution across steps, then patches."""

from __future__ import annotations

import torch
from torch import nn

from unified.causal import CausalStack, FilmBlock, State


class FilmDecoder(nn.Module):
    """Code vectors (B, steps, places, code_width) -> patches of every step, and the state."""

    def __init__(
        self,
        *,
        code_width: int,
        width: int,
        layers: int,
        heads: int,
        places: int,
        out: int,
        kernel: int,
    ):
        super().__init__()
        self.embed = nn.Linear(code_width, width)
        self.position = nn.Parameter(torch.randn(places, width) * 0.02)
        self.blocks = CausalStack([FilmBlock(width, heads, kernel) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.patches = nn.Linear(width, out)

    def forward(self, vectors: torch.Tensor, past: State = None) -> tuple[torch.Tensor, State]:
        x, past = self.blocks(self.embed(vectors) + self.position, past)
        return self.patches(self.norm(x)), past
