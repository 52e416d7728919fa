"""The understanding path: a ViT that turns a picture into the features of a view."""

from __future__ import annotations

import torch
from torch import nn

from unified.layers import MLP, Block, patchify


class UnderstandingEncoder(nn.Module):
    """Picture -> slots, aligned to the decoder's width.

    ViT (https://arxiv.org/abs/2010.11929) on patches, neighbouring patches merged by
    concatenation, then the two-layer aligner of Janus (https://arxiv.org/abs/2410.13848).
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch: int,
        channels: int,
        width: int,
        layers: int,
        heads: int,
        merge: int,
        out: int,
    ):
        super().__init__()
        self.patch, self.merge, self.side = patch, merge, image_size // patch
        if self.side % merge:
            raise ValueError(f"{self.side} patches a side do not merge by {merge}")
        self.embed = nn.Linear(channels * patch * patch, width)
        self.position = nn.Parameter(torch.zeros(self.side**2, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.aligner = MLP(width * merge * merge, 2 * out, out)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, slots, out)."""
        x = self.embed(patchify(pixels, self.patch)) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        side, merge = self.side // self.merge, self.merge
        x = x.view(x.shape[0], side, merge, side, merge, -1).transpose(2, 3)
        return self.aligner(x.reshape(x.shape[0], side * side, -1))
