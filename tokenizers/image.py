"""Pixel tokenizer: a VQ autoencoder, picture <-> one code a patch.

VQ-VAE (https://arxiv.org/abs/1711.00937) with the cosine codebook of ViT-VQGAN
(https://arxiv.org/abs/2110.04627), quantizer from vector-quantize-pytorch. With
`encoder_heads: null` a code depends on its own patch alone: equal patches get equal codes wherever
they stand, which is what the next-token model wants; the decoder sees all codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from vector_quantize_pytorch import VectorQuantize

from unified.detokenizers.image import PatchDecoder
from unified.layers import Block, patchify
from unified.tokenizers.codec import Codec, CodecSpec


@dataclass(frozen=True)
class VQConfig:
    image_size: int = 64
    patch: int = 8
    channels: int = 3
    codebook_size: int = 8192
    code_width: int = 192
    encoder_width: int = 256
    encoder_layers: int = 1
    encoder_heads: int | None = None
    decoder_width: int = 192
    decoder_layers: int = 4
    decoder_heads: int = 6
    decay: float = 0.995
    dead_code_threshold: float = 0.002  # of running hits a step; a rare tile has about 0.02

    @property
    def spec(self) -> CodecSpec:
        size, grid = (self.image_size, self.image_size), (self.side, self.side)
        return CodecSpec((self.codebook_size,), (0,) * self.side**2, size, self.channels, grid=grid)

    @property
    def side(self) -> int:
        """Codes along each side."""
        return self.image_size // self.patch


class PatchEncoder(nn.Module):
    """Pixels -> one vector a patch, (B, C, H, W) -> (B, length, code_width)."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.patch = config.patch
        self.embed = nn.Linear(config.channels * config.patch**2, config.encoder_width)
        self.blocks = nn.ModuleList(
            Block(config.encoder_width, config.encoder_heads) for _ in range(config.encoder_layers)
        )
        self.norm = nn.LayerNorm(config.encoder_width)
        self.out = nn.Linear(config.encoder_width, config.code_width)
        self.direct = nn.Linear(config.channels * config.patch**2, config.code_width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = patchify(pixels, self.patch)
        x = self.embed(patches)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x)) + self.direct(patches)


class ImageTokenizer(Codec):
    """The VQ autoencoder as a codec."""

    kind = "vq"
    Config = VQConfig

    def __init__(self, config: VQConfig):
        super().__init__()
        self.config = config
        self.encoder = PatchEncoder(config)
        self.quantizer = VectorQuantize(
            dim=config.code_width,
            codebook_size=config.codebook_size,
            decay=config.decay,
            kmeans_init=True,
            threshold_ema_dead_code=config.dead_code_threshold,
            commitment_weight=1.0,
        )
        self.decoder = PatchDecoder(
            code_width=config.code_width,
            width=config.decoder_width,
            layers=config.decoder_layers,
            heads=config.decoder_heads,
            grid=(config.side, config.side),
            patch=config.patch,
            channels=config.channels,
        )
        self._start_linear()

    @torch.no_grad()
    def _start_linear(self) -> None:
        """Begin as a linear autoencoder (the direct paths, orthogonal, inverse to each other), the
        deep paths silent: k-means then places the first codebook among the patches themselves."""
        nn.init.orthogonal_(self.encoder.direct.weight)
        self.decoder.direct.weight.copy_(self.encoder.direct.weight.T)
        for layer in (self.encoder.out, self.decoder.pixels):
            nn.init.zeros_(layer.weight)
        for layer in (
            self.encoder.out,
            self.encoder.direct,
            self.decoder.pixels,
            self.decoder.direct,
        ):
            nn.init.zeros_(layer.bias)

    @property
    def codebook(self) -> torch.Tensor:
        """(codebook_size, code_width)."""
        book: torch.Tensor = self.quantizer.codebook
        return book

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Training pass: reconstruction, codes and commitment loss."""
        vectors, codes, commitment = self._quantize(self.encoder(pixels).float())
        return self.decoder(vectors), codes, commitment.sum()

    def _quantize(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantize each distinct latent once: two thirds of a batch are the same few patches of
        background, which would take most of the codebook's updates and restarts."""
        flat = latents.flatten(0, 1)
        distinct, inverse = torch.unique(flat.detach(), dim=0, return_inverse=True)
        first = torch.full((len(distinct),), len(flat), device=flat.device).scatter_reduce_(
            0, inverse, torch.arange(len(flat), device=flat.device), "amin"
        )
        with torch.autocast(latents.device.type, enabled=False):  # codebooks stay in fp32
            vectors, codes, commitment = self.quantizer(flat[first][None])
        return (
            vectors[0][inverse].view_as(latents),
            codes[0][inverse].view(latents.shape[:2]),
            commitment,
        )

    @torch.no_grad()
    def place_codebook(self, pixels: torch.Tensor) -> None:
        """Put the codes at the k-means of the latents of many pictures, once, before quantizing.

        Raises:
            ValueError: the codebook is placed already.
        """
        if self.quantizer._codebook.initted:
            raise ValueError("the codebook is placed already")
        self._quantize(torch.cat([self.encoder(part).float() for part in pixels.split(64)]))

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in [-1, 1] -> codes (B, length) int64: the nearest, Euclidean."""
        self.check_pixels(pixels)
        latents, book = self.encoder(pixels).float(), self.codebook.float()
        # |x - e|^2 without its constant |x|^2: (B, length, codebook_size)
        return (book.square().sum(-1) - 2 * latents @ book.T).argmin(-1)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, length) -> (B, C, H, W) in [-1, 1]."""
        self.spec.check(codes)
        out: torch.Tensor = self.decoder(self.codebook[codes].to(self.decoder.position.dtype))
        return out.float().clamp(-1, 1)
