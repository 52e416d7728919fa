"""Codes -> sound: causal blocks, then a spectrum a frame, then overlap-add.

Vocos (https://arxiv.org/abs/2306.00814): the network writes magnitude and phase of short frames and
an inverse Fourier transform makes samples of them. Here everything is causal. Frame t covers the
`window` samples that end with its own hop, so samples are final `window - hop` samples later: the
latency of decoding.
"""

from __future__ import annotations

import torch
from torch import nn

from unified.causal import CausalBlock, CausalStack, State


class SpectralDecoder(nn.Module):
    """(B, T, D) at the codes' rate -> (B, T * stride) samples, `stride = up * hop`."""

    def __init__(self, width: int, layers: int, up: int, hop: int, window: int, kernel: int = 7):
        super().__init__()
        if window % hop:
            raise ValueError(f"a window of {window} samples is no multiple of the hop {hop}")
        self.up, self.hop, self.window = up, hop, window
        self.coarse = CausalStack([CausalBlock(width, kernel) for _ in range(layers // 2)])
        self.split = nn.Linear(width, up * width)
        self.fine = CausalStack([CausalBlock(width, kernel) for _ in range(layers - layers // 2)])
        self.norm = nn.LayerNorm(width)
        self.spectrum = nn.Linear(width, 2 * (window // 2 + 1))
        self.register_buffer("taper", torch.hann_window(window), persistent=False)
        self.taper: torch.Tensor

    @property
    def latency(self) -> int:
        """Samples that are not final yet when a step's codes have been read."""
        return self.window - self.hop

    def forward(self, x: torch.Tensor, past: State = None) -> tuple[torch.Tensor, State]:
        """The samples that are final after these steps, (B, steps * stride), `latency` samples
        late, and the state."""
        coarse, fine, tail = (None, None, None) if past is None else past
        x, coarse = self.coarse(x, coarse)
        x = self.split(x).reshape(x.shape[0], -1, x.shape[-1])
        x, fine = self.fine(x, fine)
        magnitude, phase = self.spectrum(self.norm(x)).float().chunk(2, -1)
        magnitude = magnitude.clamp(max=6).exp()
        frames = torch.fft.irfft(torch.polar(magnitude, phase), self.window) * self.taper
        if tail is None:
            tail = frames.new_zeros(len(frames), self.latency)
        sound = self._overlap(frames, tail)
        final = frames.shape[1] * self.hop
        return sound[:, :final], [coarse, fine, sound[:, final:]]

    def _overlap(self, frames: torch.Tensor, tail: torch.Tensor) -> torch.Tensor:
        """Sum of (B, T, window) frames, each one hop after the last, onto what is left before."""
        batch, count, window = frames.shape
        parts = window // self.hop
        hops = frames.view(batch, count, parts, self.hop)
        out = frames.new_zeros(batch, count + parts - 1, self.hop)
        for k in range(parts):
            out[:, k : k + count] += hops[:, :, k]
        # Hann windows one hop apart add up to window / (2 hop)
        sound = out.flatten(1) * (2 * self.hop / self.window)
        sound[:, : self.latency] += tail
        return sound
