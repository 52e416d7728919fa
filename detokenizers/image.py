"""Codes -> picture: the decoder of the VQ autoencoder, and the layers of the layered codec.

Knows nothing of how codes were chosen: it receives what they stand for. In `PatchDecoder` all
positions see each other, so that one background colour need not be written into every code.
"""

from __future__ import annotations

import torch
from torch import nn

from unified.layers import Block, unpatchify


def composite(
    ground: torch.Tensor,
    cover: torch.Tensor,
    tint: torch.Tensor,
    texture: torch.Tensor,
    paint: torch.Tensor,
) -> torch.Tensor:
    """Forms in their paints over the ground, tile by tile, unbounded.

    Args:
        ground, texture: (N, C, P) for N tiles of P pixels.
        cover, tint: (N, P), the shares of ground hidden and of paint shown.
        paint: (N, C).
    """
    return (1 - cover[:, None]) * ground + tint[:, None] * paint[..., None] + texture


class PatchDecoder(nn.Module):
    """Code vectors -> pixels: transformer over the grid, then one linear map a patch."""

    def __init__(
        self,
        *,
        code_width: int,
        width: int,
        layers: int,
        heads: int,
        grid: tuple[int, int],
        patch: int,
        channels: int = 3,
    ):
        super().__init__()
        self.grid, self.patch = grid, patch
        self.embed = nn.Linear(code_width, width)
        self.position = nn.Parameter(torch.randn(grid[0] * grid[1], width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.Linear(width, channels * patch * patch)
        self.direct = nn.Linear(code_width, channels * patch * patch)  # each code on its own

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(B, length, code_width) -> (B, C, H, W), unbounded; training compares it as it is."""
        x = self.embed(vectors) + self.position
        for block in self.blocks:
            x = block(x)
        return unpatchify(self.pixels(self.norm(x)) + self.direct(vectors), self.grid, self.patch)
