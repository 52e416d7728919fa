"""The understanding path: a ViT that turns a picture into the features of a view.

`UnderstandingEncoder` is our own; `JanusEncoder` is that of Janus, chosen by configuration. Both
take pictures (N, C, H, W) in [-1, 1] and give (N, slots, D), D the decoder's width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.janus.modeling_janus import JanusVisionModel

from unified.layers import MLP, Block, patchify

HALF = (0.5, 0.5, 0.5)


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


class JanusEncoder(nn.Module):
    """transformers' own ViT of Janus and its two-layer aligner (https://arxiv.org/abs/2410.13848).

    Args:
        config: a JanusVisionConfig; its `mean` and `std`, where it has them, are those by which
            the weights want values in [0, 1] normalized. By default 0.5, which gives [-1, 1].
    """

    def __init__(self, config: Any, out: int):
        super().__init__()
        if config.depth != 2 or config.projection_dim != out:
            raise ValueError(
                f"an aligner of depth {config.depth} to {config.projection_dim}; two layers to the"
                f" decoder's {out} are supported"
            )
        self.mean, self.std = (tuple(getattr(config, key, HALF)) for key in ("mean", "std"))
        self.tower = JanusVisionModel._from_config(config)
        self.aligner = MLP(config.hidden_size, out, out)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if (self.mean, self.std) != (HALF, HALF):
            mean, std = (pixels.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
            pixels = ((pixels + 1) / 2 - mean) / std
        return self.aligner(self.tower(pixels).last_hidden_state)
