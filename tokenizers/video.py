"""Film tokenizer: causal in time, one step of codes for the first frame and for every few after it.

    1 + n * group frames -> features of every frame -> groups (the first one is the first frame,
    repeated) -> one vector a patch and group -> FSQ -> a few codes each

An image is a film of one frame, and its codes are those of a film's first step. As the causal
tokenizers of MAGVIT-v2 and VidTok do (https://arxiv.org/abs/2310.05737,
https://arxiv.org/abs/2412.13061), with convolutions inside a frame, attention inside a step and
causal convolution across steps instead of 3-D convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from unified.causal import CausalStack, FilmBlock, State
from unified.detokenizers.video import FilmDecoder
from unified.layers import ResBlock
from unified.tokenizers.codec import CodecSpec, StreamCodec
from unified.tokenizers.quantizers import FiniteScalar


@dataclass(frozen=True)
class VideoConfig:
    """Sizes. Defaults: 64x64 pixels, 6 codes of 512 for each of 64 patches and 4 frames.

    Attributes:
        group: frames of a step.
        widths: channels of a frame's features, for 2x2 pixels, 4x4 and so on to a patch.
        codes: of a patch, each of a codebook of its own.
        levels: of the finite scalar quantizer; their product is the size of a codebook.
        kernel: steps that a convolution over time sees.
    """

    image_size: int = 64
    channels: int = 3
    rate: float = 8.0
    group: int = 4
    widths: tuple[int, ...] = (16, 48, 96)
    width: int = 160
    layers: int = 3
    heads: int = 5
    kernel: int = 3
    codes: int = 6
    levels: tuple[int, ...] = (8, 8, 8)
    decoder_width: int = 160
    decoder_layers: int = 3
    decoder_heads: int = 5

    @property
    def patch(self) -> int:
        """Pixels along each side of what a code stands for."""
        return 1 << len(self.widths)

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


class FrameEncoder(nn.Module):
    """(B, channels, H, W) -> features (B, widths[-1], h, w): half the side for each width. Every
    frame by itself."""

    def __init__(self, widths: tuple[int, ...], channels: int):
        super().__init__()
        self.first = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        coarser: list[nn.Module] = []
        for fine, coarse in pairwise(widths):
            coarser += [
                ResBlock(fine, fine, 1),
                nn.PixelUnshuffle(2),
                nn.Conv2d(4 * fine, coarse, 1),
            ]
        self.blocks = nn.Sequential(*coarser)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.blocks(self.first(F.pixel_unshuffle(x, 2)))
        return out


class VideoTokenizer(StreamCodec):
    """The codec; see the module's picture."""

    kind = "video"
    Config = VideoConfig
    config: VideoConfig

    def __init__(self, config: VideoConfig):
        super().__init__()
        self.config = config
        places, widths = config.side**2, config.widths
        self.frames = FrameEncoder(widths, config.channels)
        self.merge = nn.Linear(config.group * widths[-1], config.width)
        self.position = nn.Parameter(torch.randn(places, config.width) * 0.02)
        self.blocks = CausalStack(
            [FilmBlock(config.width, config.heads, config.kernel) for _ in range(config.layers)]
        )
        self.norm = nn.LayerNorm(config.width)
        self.quantizer = FiniteScalar(config.width, config.levels, config.codes)
        self.decoder = FilmDecoder(
            code_width=config.width, width=config.decoder_width, layers=config.decoder_layers,
            heads=config.decoder_heads, places=places, group=config.group,
            channels=config.channels, widths=widths, kernel=config.kernel,
        )  # fmt: skip

    def latents(self, film: torch.Tensor, past: State = None) -> tuple[torch.Tensor, State]:
        """Whole steps of film (B, C, T, H, W) -> (B, steps, places, width), and the state."""
        frames = film.transpose(1, 2)
        x = self.frames(frames.flatten(0, 1)).flatten(2).unflatten(0, frames.shape[:2])
        if past is None:  # (B, T, W, places)
            x = torch.cat([x[:, :1].expand(-1, self.config.group - 1, -1, -1), x], 1)
        groups = x.unflatten(1, (-1, self.config.group)).flatten(2, 3).transpose(2, 3)
        x, past = self.blocks(self.merge(groups) + self.position, past)
        return self.norm(x), past

    def _film(self, frames: torch.Tensor, first: bool) -> torch.Tensor:
        """(B, frames, C, H, W) -> (B, C, T, H, W); of the first step its last frame."""
        return frames.transpose(1, 2)[:, :, self.config.group - 1 if first else 0 :]

    def forward(self, film: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Training pass: the film again, codes (B, steps * places, codes), quantizer's loss."""
        latents, _ = self.latents(film)
        quantized, codes, loss = self.quantizer(latents.flatten(1, 2))
        frames, _ = self.decoder(quantized.view_as(latents))
        return self._film(frames, True), codes, loss

    # --- the codec, step by step ---------------------------------------------------------------

    def encode_steps(self, media: torch.Tensor, past: State) -> tuple[torch.Tensor, State]:
        latents, past = self.latents(media, past)
        return self.quantizer(latents.flatten(1, 2))[1].flatten(1), past

    def decode_steps(self, codes: torch.Tensor, past: State) -> tuple[torch.Tensor, State]:
        begins = past is None
        places, count = self.config.side**2, self.config.codes
        vectors = self.quantizer.embed(codes.view(len(codes), -1, places, count))
        frames, past = self.decoder(vectors, past)
        return self._film(frames, begins).clamp(-1, 1), past
