"""Chameleon's VQ-GAN (https://arxiv.org/abs/2405.09818) with the decoder that transformers has not.

The decoder is the one of https://arxiv.org/abs/2203.13131, as Anole's checkpoints hold it. Its
parts are those of transformers' Janus, whose VQ-GAN is of the same kind.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import ChameleonVQVAE
from transformers.models.janus.modeling_janus import JanusVQVAEDecoder


class _ByResolution(nn.ModuleList):
    """Levels named from the highest resolution on, as Anole has them, and run from the lowest."""

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(len(self) - 1 - index)


class ChameleonVQ(ChameleonVQVAE):
    """ChameleonVQVAE and `decode`. Its configuration has `out_channels`.

    Raises:
        ValueError: attention in the decoder's upsampling, which no published checkpoint has.
    """

    def __init__(self, config: Any):
        super().__init__(config)
        if config.attn_resolutions or config.attn_type != "vanilla":
            raise ValueError("attention at other resolutions than the lowest is not supported")
        self.decoder = JanusVQVAEDecoder(config)
        levels = list(self.decoder.up)
        for level in levels:
            level.attn = nn.ModuleList()
        self.decoder.up = _ByResolution(levels[::-1])
        self.post_init()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, grid * grid) -> pictures (B, C, H, W)."""
        side = int(codes.shape[1] ** 0.5)
        latents = self.quantize.embedding(codes).transpose(1, 2).unflatten(2, (side, side))
        pictures: torch.Tensor = self.decoder(self.post_quant_conv(latents))
        return pictures
