"""Train the film tokenizer on endless films of the toybox, pictures among them."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F

from unified.media.pixels import to_tensor
from unified.tokenizers.quantizers import perplexity
from unified.tokenizers.video import VideoTokenizer
from unified.toybox.film import render_film, sample_film


def films(
    seed: int, start: int, count: int, split: str = "train", frames: int = 17
) -> torch.Tensor:
    """Rendered films start..start+count of a seed, (count, 3, frames, 64, 64) in [-1, 1]."""
    names = (f"{seed}/film/{split}/{index}" for index in range(start, start + count))
    made = [render_film(sample_film(random.Random(n), split, frames)) for n in names]
    return to_tensor(np.concatenate(made)).unflatten(0, (count, frames)).transpose(1, 2)


class VideoStage:
    """Absolute and squared error of the pixels; the first frame, a picture, weighs double."""

    def __init__(self, model: VideoTokenizer, size: int, seed: int, device: str, frames: int = 9):
        self.model, self.size, self.seed, self.device = model, size, seed, device
        self.frames = frames

    def batch(self, step: int) -> list[torch.Tensor]:
        film = films(self.seed, step * self.size, self.size, frames=self.frames)
        return [film.to(self.device)]

    def loss(self, part: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rebuilt, codes, commitment = self.model(part)
        rebuilt = rebuilt.float()
        squared = F.mse_loss(rebuilt, part)
        loss = F.l1_loss(rebuilt, part) + squared + commitment
        loss = loss + F.l1_loss(rebuilt[:, :, 0], part[:, :, 0]) / self.frames
        size = self.model.spec.codebooks[0]
        spread, used = perplexity(codes[..., 0], size)
        values = {
            "psnr": -10 * float(torch.log10(squared.detach() / 4)),
            "left_out": float(commitment.detach()),
            "perplexity": spread,
            "codes_in_batch": used * size,
        }
        return loss, values
