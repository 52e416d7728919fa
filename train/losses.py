"""Losses of tokenizers beyond the squared error: spectra of sound, detail of pictures, a critic."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from unified.media.pixels import resized
from unified.spectrum import magnitudes, to_log_mel
from unified.tokenizers.kinds import load_codec
from unified.tokenizers.seed import SeedTokenizer
from unified.tokenizers.teacher import (
    ImageTower,
    PublishedTower,
    TeacherConfig,
    published_sizes,
)

# window -> mel bands; hops are a quarter of the window (DAC, https://arxiv.org/abs/2306.06546)
RESOLUTIONS = {2048: 128, 512: 48, 128: 12}


def spectral_loss(rebuilt: torch.Tensor, sound: torch.Tensor, rate: int) -> torch.Tensor:
    """Mean absolute difference of log mel spectra and of magnitudes, over RESOLUTIONS; (B, N)."""
    total = rebuilt.new_zeros(())
    for window, bands in RESOLUTIONS.items():
        if rebuilt.shape[1] < window:
            continue
        one = magnitudes(rebuilt, window, window // 4)
        with torch.no_grad():
            two = magnitudes(sound, window, window // 4)
            level = to_log_mel(two, rate, bands)
        total = total + F.l1_loss(to_log_mel(one, rate, bands), level)
        total = total + (one - two).norm() / two.norm().clamp_min(1e-3)  # spectral convergence
    return total / len(RESOLUTIONS)


def pyramid_loss(rebuilt: torch.Tensor, pixels: torch.Tensor, levels: int = 3) -> torch.Tensor:
    """Absolute difference of the Laplacian pyramids of pictures (B, C, H, W): edges weigh as much
    as areas. Stands where LPIPS would, whose weights are not to be had."""
    total = rebuilt.new_zeros(())
    for level in range(levels):
        smaller = [F.avg_pool2d(x, 2) for x in (rebuilt, pixels)]
        detail = [x - F.interpolate(s, scale_factor=2, mode="bilinear", align_corners=False)
                  for x, s in zip((rebuilt, pixels), smaller, strict=True)]  # fmt: skip
        total = total + 2**-level * F.l1_loss(detail[0], detail[1])
        rebuilt, pixels = smaller
    return total


class FeatureLoss:
    """1 - cosine of the features that a frozen encoder finds at each place of two pictures, 0 to 2.

    Args:
        folder: of a SEED tokenizer, whose teacher it is, or of a vision encoder of transformers
            (CLIP, SigLIP, DINOv2).

    Raises:
        ValueError: there is no such encoder.
    """

    def __init__(self, folder: Path, device: str):
        self.encoder = _encoder(folder).to(device).eval().requires_grad_(False)
        side = self.encoder.config.image_size
        self.size = (side, side)

    def __call__(self, rebuilt: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Of pictures (B, C, H, W); gradients reach the rebuilt ones alone."""
        one, _ = self.encoder(resized(rebuilt, self.size))
        with torch.no_grad():
            two, _ = self.encoder(resized(pixels, self.size))
        return 1 - F.cosine_similarity(one, two, dim=-1).mean()


def _encoder(folder: Path) -> ImageTower | PublishedTower:
    try:
        found = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        raise ValueError(f"tokenizer.encoder: {folder} has no config.json; name a seed tokenizer or"
                         " a vision encoder of transformers") from None  # fmt: skip
    if found.get("kind") == "seed":
        codec = load_codec(folder)
        assert isinstance(codec, SeedTokenizer)
        return codec.teacher
    try:
        return PublishedTower(TeacherConfig(folder=str(folder), **published_sizes(str(folder))))
    except ValueError as error:
        raise ValueError(f"tokenizer.encoder: {error}, and no seed tokenizer") from None


class Critic(nn.Module):
    """PatchGAN (https://arxiv.org/abs/1611.07004): a score for every patch of a picture."""

    def __init__(self, channels: int = 3, width: int = 64, layers: int = 3):
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for k in range(1, layers):
            before, after = width * min(2 ** (k - 1), 8), width * min(2**k, 8)
            parts += [nn.Conv2d(before, after, 4, 2, 1), nn.GroupNorm(8, after), nn.LeakyReLU(0.2)]
        parts.append(nn.Conv2d(width * min(2 ** (layers - 1), 8), 1, 3, 1, 1))
        self.net = nn.Sequential(*parts)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.net(pixels)
        return scores


def adversarial_losses(
    critic: Critic, rebuilt: torch.Tensor, pixels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the autoencoder and what the critic minimizes (hinge), in one pass and for one
    optimizer: the autoencoder's term does not reach the critic's weights, nor the other's the
    pictures."""
    frozen = {name: p.detach() for name, p in critic.named_parameters()}
    fooled = -functional_call(critic, frozen, (rebuilt,)).mean()
    real, fake = critic(pixels), critic(rebuilt.detach())
    return fooled, (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
