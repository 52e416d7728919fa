"""Film tokenizer: causal in time, one step of codes for the first frame and for every few after it.

    1 + n * group frames -> groups (the first one is the first frame, repeated) -> one vector a
    patch and group -> FSQ -> a few codes each

An image is a film of one frame, and its codes are those of a film's first step. As the causal
tokenizers of MAGVIT-v2 and VidTok do (https://arxiv.org/abs/2310.05737,
https://arxiv.org/abs/2412.13061), with attention inside a step and causal convolution across steps
instead of 3-D convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from unified.causal import CausalStack, FilmBlock, State
from unified.detokenizers.video import FilmDecoder
from unified.layers import patchify, unpatchify
from unified.tokenizers.codec import CodecSpec, StreamCodec
from unified.tokenizers.quantizers import FiniteScalar


@dataclass(frozen=True)
class VideoConfig:
    """Sizes. Defaults: 64x64 pixels, 3 codes of 512 for each of 64 patches and 4 frames.

    Attributes:
        group: frames of a step.
        codes: of a patch, each of a codebook of its own.
        levels: of the finite scalar quantizer; their product is the size of a codebook.
        kernel: steps that a convolution over time sees.
    """

    image_size: int = 64
    patch: int = 8
    channels: int = 3
    rate: float = 8.0
    group: int = 4
    width: int = 160
    layers: int = 4
    heads: int = 5
    kernel: int = 3
    codes: int = 3
    levels: tuple[int, ...] = (8, 8, 8)
    decoder_width: int = 160
    decoder_layers: int = 4
    decoder_heads: int = 5

    @property
    def side(self) -> int:
        """Codes along each side."""
        return self.image_size // self.patch

    @property
    def spec(self) -> CodecSpec:
        size = 1
        for level in self.levels:
            size *= level
        return CodecSpec(
            codebooks=(size,) * self.codes,
            books=tuple(range(self.codes)) * self.side**2,
            image_size=(self.image_size, self.image_size),
            channels=self.channels,
            medium="video",
            rate=self.rate,
            first=1,
            stride=self.group,
        )


class VideoTokenizer(StreamCodec):
    """The codec; see the module's picture."""

    kind = "video"
    Config = VideoConfig
    config: VideoConfig

    def __init__(self, config: VideoConfig):
        super().__init__()
        self.config = config
        pixels, places = config.group * config.channels * config.patch**2, config.side**2
        self.embed = nn.Linear(pixels, config.width)
        self.position = nn.Parameter(torch.randn(places, config.width) * 0.02)
        self.blocks = CausalStack(
            [FilmBlock(config.width, config.heads, config.kernel) for _ in range(config.layers)]
        )
        self.norm = nn.LayerNorm(config.width)
        self.quantizer = FiniteScalar(config.width, config.levels, config.codes)
        self.decoder = FilmDecoder(
            code_width=config.width, width=config.decoder_width, layers=config.decoder_layers,
            heads=config.decoder_heads, places=places, out=pixels, kernel=config.kernel,
        )  # fmt: skip

    def latents(self, film: torch.Tensor, past: State = None) -> tuple[torch.Tensor, State]:
        """Whole steps of film (B, C, T, H, W) -> (B, steps, places, width), and the state."""
        if past is None:
            film = torch.cat(
                [film[:, :, :1].expand(-1, -1, self.config.group - 1, -1, -1), film], 2
            )
        batch = len(film)
        # frames of a group side by side as channels: (B * steps, group * C, H, W)
        groups = film.unflatten(2, (-1, self.config.group)).transpose(1, 2).transpose(2, 3)
        patches = patchify(groups.flatten(2, 3).flatten(0, 1), self.config.patch)
        x = self.embed(patches.unflatten(0, (batch, -1))) + self.position
        x, past = self.blocks(x, past)
        return self.norm(x), past

    def _film(self, patches: torch.Tensor, first: bool) -> torch.Tensor:
        """(B, steps, places, pixels) -> (B, C, T, H, W); of the first group its last frame."""
        config = self.config
        batch, steps = patches.shape[:2]
        groups = unpatchify(patches.flatten(0, 1), (config.side, config.side), config.patch)
        film = groups.view(batch, steps * config.group, config.channels, *groups.shape[2:])
        return film.transpose(1, 2)[:, :, config.group - 1 if first else 0 :]

    def forward(self, film: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Training pass: the film again, codes (B, steps * places, codes), quantizer's loss."""
        latents, _ = self.latents(film)
        quantized, codes, loss = self.quantizer(latents.flatten(1, 2))
        patches, _ = self.decoder(quantized.view_as(latents))
        return self._film(patches, True), codes, loss

    # --- the codec, step by step ---------------------------------------------------------------

    def encode_steps(self, media: torch.Tensor, past: State) -> tuple[torch.Tensor, State]:
        latents, past = self.latents(media, past)
        return self.quantizer(latents.flatten(1, 2))[1].flatten(1), past

    def decode_steps(self, codes: torch.Tensor, past: State) -> tuple[torch.Tensor, State]:
        begins = past is None
        places, count = self.config.side**2, self.config.codes
        vectors = self.quantizer.embed(codes.view(len(codes), -1, places, count))
        patches, past = self.decoder(vectors, past)
        return self._film(patches, begins).clamp(-1, 1), past
