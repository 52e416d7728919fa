"""Pictures as arrays <-> pixels as tensors, and rendered batches of scenes."""

from __future__ import annotations

import random

import numpy as np
import torch

from unified.toybox.scene import render, sample_scene


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pictures(pixels: torch.Tensor) -> np.ndarray:
    """Inverse of `to_tensor`."""
    scaled = (pixels.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def scenes(seed: int, start: int, count: int, split: str = "train") -> torch.Tensor:
    """Rendered scenes start..start+count of a seed, (count, 3, 64, 64) in [-1, 1]."""
    names = (f"{seed}/scene/{split}/{index}" for index in range(start, start + count))
    return to_tensor(np.stack([render(sample_scene(random.Random(n), split)) for n in names]))
