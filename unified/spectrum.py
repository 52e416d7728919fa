"""Mel spectra of sound: how losses, scores and plots look at it. A leaf."""

from __future__ import annotations

from functools import lru_cache

import torch
from transformers.audio_utils import mel_filter_bank


@lru_cache(maxsize=32)
def _filters(rate: int, window: int, bands: int) -> torch.Tensor:
    """(window / 2 + 1, bands), triangles of equal area."""
    bank = mel_filter_bank(
        num_frequency_bins=window // 2 + 1,
        num_mel_filters=bands,
        min_frequency=0.0,
        max_frequency=rate / 2,
        sampling_rate=rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(bank).float()


def magnitudes(sound: torch.Tensor, window: int, hop: int) -> torch.Tensor:
    """Sound (B, N) -> magnitudes (B, frames, window / 2 + 1) of Hann windows, none padded."""
    taper = torch.hann_window(window, device=sound.device)
    spectrum = torch.stft(sound, window, hop, window=taper, center=False, return_complex=True)
    # the gradient of |z| at 0 is taken as that near it
    return torch.view_as_real(spectrum).square().sum(-1).add(1e-9).sqrt().transpose(1, 2)


def log_mel(
    sound: torch.Tensor, rate: int, window: int = 1024, hop: int | None = None, bands: int = 80
) -> torch.Tensor:
    """Sound (B, N) -> log10 of mel magnitudes, (B, frames, bands), no less than -5."""
    heights = magnitudes(sound.float(), window, hop or window // 4)
    return (heights @ _filters(rate, window, bands).to(sound.device)).clamp_min(1e-5).log10()


def mel_distance(one: torch.Tensor, two: torch.Tensor, rate: float) -> torch.Tensor:
    """Mean absolute difference of the log mel spectra of two sounds (B, N), in decibel."""
    return 20 * (log_mel(one, int(rate)) - log_mel(two, int(rate))).abs().mean()
