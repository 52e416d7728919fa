"""Pixel tokenizer at full size: the convolutional VQ autoencoder of LlamaGen and Janus.

VQGAN (https://arxiv.org/abs/2012.09841) with the l2-normalized codebook of 8 dimensions of LlamaGen
(https://arxiv.org/abs/2406.06525): 16384 codes, one for 16x16 pixels. Convolutions are slow on a
CPU: `tokenizers/image.py` holds the small pixel tokenizer, this one is for a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from unified.attention import attend
from unified.layers import ResBlock
from unified.tokenizers.codec import Codec, CodecSpec
from unified.tokenizers.quantizers import Residual


@dataclass(frozen=True)
class ConvConfig:
    """Defaults: LlamaGen's VQ-16.

    Attributes:
        multipliers: width of each level in units of `width`; every level but the last halves the
            picture.
    """

    image_size: int = 256
    channels: int = 3
    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    latent: int = 256
    codebook_size: int = 16384
    code_width: int = 8
    groups: int = 32

    @property
    def side(self) -> int:
        """Codes along each side."""
        return self.image_size // 2 ** (len(self.multipliers) - 1)

    @property
    def spec(self) -> CodecSpec:
        size, grid = (self.image_size, self.image_size), (self.side, self.side)
        books = (0,) * self.side**2
        return CodecSpec((self.codebook_size,), books, size, self.channels, causal=False, grid=grid)


class PlaceAttention(nn.Module):
    """One head over all places of a feature map."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width)
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part.flatten(2).transpose(1, 2)[:, None] for part in self.qkv(self.norm(x)).chunk(3, 1)
        )
        mixed = attend(query, key, value)[:, 0].transpose(1, 2)
        return x + self.out(mixed.reshape(x.shape))


class Halve(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Double(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def _encoder(config: ConvConfig) -> nn.Sequential:
    groups, now = config.groups, config.width
    parts: list[nn.Module] = [nn.Conv2d(config.channels, now, 3, 1, 1)]
    last = len(config.multipliers) - 1
    for level, multiplier in enumerate(config.multipliers):
        out = config.width * multiplier
        for _ in range(config.blocks):
            parts.append(ResBlock(now, out, groups))
            now = out
            if level == last:
                parts.append(PlaceAttention(now, groups))
        if level != last:
            parts.append(Halve(now))
    parts += [ResBlock(now, now, groups), PlaceAttention(now, groups), ResBlock(now, now, groups)]
    parts += [nn.GroupNorm(groups, now), nn.SiLU(), nn.Conv2d(now, config.latent, 3, 1, 1)]
    return nn.Sequential(*parts)


def _decoder(config: ConvConfig) -> nn.Sequential:
    groups, now = config.groups, config.width * config.multipliers[-1]
    parts: list[nn.Module] = [nn.Conv2d(config.latent, now, 3, 1, 1)]
    parts += [ResBlock(now, now, groups), PlaceAttention(now, groups), ResBlock(now, now, groups)]
    last = len(config.multipliers) - 1
    for level in reversed(range(len(config.multipliers))):
        out = config.width * config.multipliers[level]
        for _ in range(config.blocks + 1):
            parts.append(ResBlock(now, out, groups))
            now = out
            if level == last:
                parts.append(PlaceAttention(now, groups))
        if level:
            parts.append(Double(now))
    parts += [nn.GroupNorm(groups, now), nn.SiLU(), nn.Conv2d(now, config.channels, 3, 1, 1)]
    return nn.Sequential(*parts)


class ConvTokenizer(Codec):
    """The codec: pictures <-> one code for every 2^(levels - 1) pixels a side, raster order."""

    kind = "conv"
    Config = ConvConfig
    config: ConvConfig

    def __init__(self, config: ConvConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = _encoder(config), _decoder(config)
        self.quantizer = Residual(
            config.latent, 1, config.codebook_size, inner=config.code_width, cosine=True
        )

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Training pass: reconstruction, codes (B, length) and the quantizer's loss."""
        latents = self.encoder(pixels).flatten(2).transpose(1, 2)
        quantized, codes, loss = self.quantizer(latents)
        return self._draw(quantized), codes[..., 0], loss

    def _draw(self, vectors: torch.Tensor) -> torch.Tensor:
        side = self.config.side
        drawn: torch.Tensor = self.decoder(vectors.transpose(1, 2).unflatten(2, (side, side)))
        return drawn

    @torch.no_grad()
    def encode(self, media: torch.Tensor) -> torch.Tensor:
        self.check_pixels(media)
        return self.quantizer(self.encoder(media).flatten(2).transpose(1, 2))[1][..., 0]

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        self.spec.check(codes)
        return self._draw(self.quantizer.embed(codes[..., None])).clamp(-1, 1)
