"""The bidirectional transformer block that tokenizers, de-tokenizers and encoders are built of, the
decoder's norm, and what a model's codes go through beside its decoder."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unified.attention import attend


class CodeEmbedding(nn.Embedding):
    """One row a code. Begins at unit size: smaller ones would, after the two layers of the aligner,
    whisper beside the embedding of places."""


class MLP(nn.Module):
    """Two layers with GELU: the aligners of Janus and the feed-forward of a block."""

    def __init__(self, width: int, hidden: int, out: int):
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> (..., width)."""
        return self.down(F.gelu(self.up(x)))


class Aim(nn.Module):
    """What the image head is told of a code that shares its step with others: its place, and the
    codes of its step that are written before it, as the decoder reads them. The decoder runs once a
    step; this is all that keeps two codes of a step from both beginning one thing.

    Nothing is told at first, so that weights of raster order begin as they are.
    """

    def __init__(self, places: int, width: int):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(places, width))
        self.told = MLP(2 * width, width, width)

    def forward(
        self, hidden: torch.Tensor, places: torch.Tensor, before: torch.Tensor
    ) -> torch.Tensor:
        """hidden (N, D), places (N,), before (N, D), the sum of the decoder's inputs for the codes
        of the same step that are written before each -> (N, D)."""
        aimed = hidden + self.place[places]
        told: torch.Tensor = self.told(torch.cat([aimed, before.to(aimed.dtype)], -1))
        return aimed + told


class ResBlock(nn.Module):
    """Two convolutions of 3x3 beside the identity, or a map of 1x1 where the width changes:
    (B, width, H, W) -> (B, out, H, W)."""

    def __init__(self, width: int, out: int, groups: int):
        super().__init__()
        self.norms = nn.ModuleList((nn.GroupNorm(groups, width), nn.GroupNorm(groups, out)))
        self.convs = nn.ModuleList((nn.Conv2d(width, out, 3, 1, 1), nn.Conv2d(out, out, 3, 1, 1)))
        self.skip = nn.Conv2d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(F.silu(norm(h)))
        return self.skip(x) + h


class Attention(nn.Module):
    """Self-attention over all places."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, length, width) -> the same."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, length, head_dim) each
        mixed = attend(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class CausalSelfAttention(nn.Module):
    """Every position sees itself and those before it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, length, width) -> the same; no place sees a later one."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        hidden = x.new_full((length, length), float("-inf")).triu(1)
        mixed = attend(query, key, value, hidden[None, None])
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
        """(B, length, width) -> the same."""
        if self.attention is not None and self.attention_norm is not None:
            x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class RMSNorm(nn.Module):
    """weight * x / rms(x) (https://arxiv.org/abs/1910.07467), computed in fp32.

    The same values as the norms of transformers' decoders in one autograd function: written out,
    each of them keeps four copies of its input, a seventh of a training step on two cores (LOG.md).
    """

    def __init__(self, weight: nn.Parameter, eps: float):
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> the same, of mean square 1 before the weight."""
        out: torch.Tensor = _RMS.apply(x, self.weight, self.eps)
        return out


class _RMS(torch.autograd.Function):
    """y = w n, n = x r, r = 1 / sqrt(mean(x^2) + eps); dx = r (w dy - n mean(w dy n))."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        squares = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        rate = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = wide * rate
        ctx.save_for_backward(normed, rate, weight)
        return weight * normed.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        normed, rate, weight = ctx.saved_tensors
        wide = grad.float()
        for_weight = (wide * normed).flatten(0, -2).sum(0).to(weight.dtype)
        wide = wide * weight
        shared = (wide * normed).mean(-1, keepdim=True)
        wide = torch.addcmul(wide, normed, shared, value=-1).mul_(rate)
        return wide.to(grad.dtype), for_weight, None


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
