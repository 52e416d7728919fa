"""Losses of tokenizers beyond the squared error: spectra of sound, detail of pictures, a critic."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from unified.spectrum import magnitudes, to_log_mel

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
