"""Features -> picture by rectified flow: noise is carried to a picture along straight lines.

A transformer over patches predicts the picture at the end of the line
(https://arxiv.org/abs/2209.03003): in pixels that is simpler than noise or velocity
(https://arxiv.org/abs/2511.13720). Conditioned as in DiT (https://arxiv.org/abs/2212.09748): the
time through each block's scale and shift, the features by addition, place by place. The part that
unCLIP plays in SEED.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unified.layers import MLP, Attention, patchify, unpatchify


@dataclass(frozen=True)
class FlowConfig:
    """condition: width of the features; their places are the patches'."""

    image_size: int = 64
    patch: int = 8
    channels: int = 3
    condition: int = 160
    width: int = 192
    layers: int = 5
    heads: int = 6


class FlowBlock(nn.Module):
    """A transformer block whose norms are scaled, shifted and gated by the time: what the time
    says to all blocks, and an offset of its own (adaLN-single, https://arxiv.org/abs/2310.00426).
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention, self.mlp = Attention(width, heads), MLP(width, 3 * width, width)
        self.offset = nn.Parameter(torch.zeros(6 * width))

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """told: (B, 6 D), of the time."""
        shift, scale, gate, shift2, scale2, gate2 = (told + self.offset)[:, None].chunk(6, -1)
        x = x + gate * self.attention(self.norms[0](x) * (1 + scale) + shift)
        return x + gate2 * self.mlp(self.norms[1](x) * (1 + scale2) + shift2)


class FlowDecoder(nn.Module):
    """Time 0 is noise, time 1 the picture; x_t = (1 - t) noise + t picture."""

    def __init__(self, config: FlowConfig):
        super().__init__()
        self.config = config
        pixels = config.channels * config.patch**2
        self.side = config.image_size // config.patch
        self.embed = nn.Linear(pixels, config.width)
        self.position = nn.Parameter(torch.randn(self.side**2, config.width) * 0.02)
        self.condition = nn.Linear(config.condition, config.width)
        self.nothing = nn.Parameter(torch.zeros(config.width))  # in place of the condition
        self.time = MLP(64, config.width, config.width)
        self.modulate = nn.Linear(config.width, 6 * config.width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        self.blocks = nn.ModuleList(
            FlowBlock(config.width, config.heads) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, pixels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: torch.Tensor, time: torch.Tensor, features: torch.Tensor, keep: torch.Tensor
    ) -> torch.Tensor:
        """x (B, C, H, W) at times (B,), features (B, places, D), used where keep (B,) -> the
        picture at time 1."""
        rates = torch.exp(-math.log(1e4) * torch.arange(32, device=x.device) / 32)
        angles = 1000 * time[:, None] * rates
        told = self.modulate(F.silu(self.time(torch.cat([angles.sin(), angles.cos()], 1))))
        given = torch.where(keep[:, None, None], self.condition(features), self.nothing)
        h = self.embed(patchify(x, self.config.patch)) + self.position + given
        for block in self.blocks:
            h = block(h, told)
        return unpatchify(self.out(self.norm(h)), (self.side, self.side), self.config.patch)

    def loss(
        self,
        pixels: torch.Tensor,
        features: torch.Tensor,
        generator: torch.Generator | None = None,
        dropout: float = 0.1,
    ) -> torch.Tensor:
        """Mean squared error of the velocity at random times, more of them in the middle
        (logit-normal, https://arxiv.org/abs/2403.03206)."""
        device, batch = pixels.device, len(pixels)
        draw: dict[str, Any] = {"generator": generator, "device": device}
        time = torch.randn(batch, **draw).sigmoid()
        keep = torch.rand(batch, **draw) >= dropout
        noise = torch.randn(pixels.shape, **draw)
        t = time[:, None, None, None]
        x = (1 - t) * noise + t * pixels
        missed = self(x, time, features, keep).float() - pixels
        return (missed / (1 - t).clamp_min(0.05)).square().mean()  # of the velocity

    @torch.no_grad()
    def sample(
        self, features: torch.Tensor, *, seed: int = 0, steps: int = 12, guidance: float = 1.0
    ) -> torch.Tensor:
        """Euler steps from noise to pictures (B, C, H, W) in [-1, 1].

        Args:
            seed: of the noise, which is the same for every picture: a picture does not depend on
                what else is in the batch.
            guidance: 1 follows the features; more exaggerates what they change, at twice the cost.

        Raises:
            ValueError: fewer than one step.
        """
        if steps < 1:
            raise ValueError(f"{steps} steps: at least one is needed")
        config, device = self.config, features.device
        shape = (1, config.channels, config.image_size, config.image_size)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        x = noise.to(device).repeat(len(features), 1, 1, 1)
        yes = torch.ones(len(x), dtype=torch.bool, device=device)
        for k in range(steps):
            time = torch.full((len(x),), k / steps, device=device)
            end = self(x, time, features, yes)
            if guidance != 1:
                free = self(x, time, features, ~yes)
                end = free + guidance * (end - free)
            x = x + (end - x) / (steps - k)
        return x.clamp(-1, 1)
