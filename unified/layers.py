"""The bidirectional transformer block that tokenizers, de-tokenizers and encoders are built of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from unified.attention import attend


class MLP(nn.Module):
    """Two layers with GELU: the aligners of Janus and the feed-forward of a block."""

    def __init__(self, width: int, hidden: int, out: int):
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, length, head_dim) each
        mixed = attend(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Pre-norm block. Without heads it mixes nothing: every position is on its own."""

    def __init__(self, width: int, heads: int | None, ratio: int = 3):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width) if heads else None
        self.attention = Attention(width, heads) if heads else None
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, ratio * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.attention is not None and self.attention_norm is not None:
            x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


def patchify(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    """(B, C, H, W) -> (B, H/p * W/p, C*p*p), raster order."""
    batch, channels, height, width = pixels.shape
    if height % patch or width % patch:
        raise ValueError(f"{height}x{width} pixels do not divide into patches of {patch}")
    x = pixels.view(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)


def unpatchify(x: torch.Tensor, grid: tuple[int, int], patch: int) -> torch.Tensor:
    """Inverse of patchify for a grid of (rows, columns)."""
    rows, columns = grid
    x = x.view(x.shape[0], rows, columns, -1, patch, patch)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(x.shape[0], -1, rows * patch, columns * patch)
