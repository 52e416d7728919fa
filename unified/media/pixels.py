"""Pictures as arrays <-> pixels as tensors. A leaf: knows nothing of files or codecs."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1]."""
    # a copy: Pillow's arrays are read-only, and torch warns of them
    pixels = torch.from_numpy(np.array(pictures))
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pictures(pixels: torch.Tensor) -> np.ndarray:
    """Inverse of `to_tensor`, rounded to the nearest level and clipped."""
    scaled = (pixels.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def resized(pixels: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Pictures (B, C, H, W) or films (B, C, T, H, W) in [-1, 1] at another (height, width): the
    mean of what falls together, or bicubic where they grow."""
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    frames = pixels.transpose(1, -3).flatten(0, -4) if pixels.ndim == 5 else pixels
    if size[0] < frames.shape[2]:
        out = F.interpolate(frames, size, mode="area")
    else:
        out = F.interpolate(frames, size, mode="bicubic").clamp(-1, 1)
    if pixels.ndim == 5:
        out = out.unflatten(0, (len(pixels), -1)).transpose(1, 2)
    return out
