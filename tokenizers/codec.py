"""What every tokenizer of a medium promises: media -> codes -> media, and a spec of the codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class CodecSpec:
    """The shape of a codec's output; vocabulary and grammar are derived from it.

    Attributes:
        codebook_size: codes per codebook.
        grid: codes of one picture, (rows, columns); written in raster order.
        stride: pixels of one code along each side.
        channels: channels of the medium; values lie in [-1, 1].
    """

    codebook_size: int
    grid: tuple[int, int]
    stride: int
    channels: int = 3

    @property
    def length(self) -> int:
        """Codes of one picture."""
        return self.grid[0] * self.grid[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.grid[0] * self.stride, self.grid[1] * self.stride


class Codec(Protocol):
    @property
    def spec(self) -> CodecSpec: ...

    def encode(self, media: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in [-1, 1] -> codes (B, length), int64."""
        ...

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, length) -> (B, C, H, W) in [-1, 1]."""
        ...
