"""Rendered batches of scenes."""

from __future__ import annotations

import random

import numpy as np
import torch

from unified.media.pixels import to_tensor
from unified.toybox.scene import render, sample_scene


def scenes(seed: int, start: int, count: int, split: str = "train") -> torch.Tensor:
    """Rendered scenes start..start+count of a seed, (count, 3, 64, 64) in [-1, 1]."""
    names = (f"{seed}/scene/{split}/{index}" for index in range(start, start + count))
    return to_tensor(np.stack([render(sample_scene(random.Random(n), split)) for n in names]))
