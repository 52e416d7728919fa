"""Train the film tokenizer on endless films of the toybox, or on films of one's own."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from unified.media.pixels import resized, to_tensor
from unified.tokenizers.quantizers import perplexity
from unified.tokenizers.video import VideoTokenizer
from unified.toybox.film import render_film, sample_film
from unified.train.media import Media


def films(
    seed: int, start: int, count: int, split: str = "train", frames: int = 17, crowd: int = 1
) -> torch.Tensor:
    """Rendered films start..start+count of a seed, (count, 3, frames, 64, 64) in [-1, 1].

    Args:
        crowd: films whose things stand together in one, at most.
    """
    made = []
    for index in range(start, start + count):
        rng = random.Random(f"{seed}/film/{split}/{index}")
        first, *others = (sample_film(rng, split, frames) for _ in range(rng.randint(1, crowd)))
        actors = (actor for film in (first, *others) for actor in film.actors)
        made.append(render_film(replace(first, actors=tuple(actors))))
    return to_tensor(np.concatenate(made)).unflatten(0, (count, frames)).transpose(1, 2)


FRAMES = 9  # of a film in training
CROWD = 6  # one film shows so little that most of a batch would be bare ground


class VideoStage:
    """Absolute and squared error of the pixels; the first frame, a picture, weighs double.

    The squared one counts most: it asks for the things, the absolute one for the bare ground.
    """

    def __init__(
        self, model: VideoTokenizer, size: int, seed: int, device: str, frames: int = FRAMES,
        media: Media | None = None,
    ):  # fmt: skip
        self.model, self.size, self.seed, self.device = model, size, seed, device
        self.frames, self.media = frames, media

    def batch(self, step: int) -> list[torch.Tensor]:
        first, size, side = step * self.size, self.size, self.model.config.image_size
        if self.media is not None:
            return [self.media.batch(first, size).to(self.device)]
        film = films(self.seed, first, size, frames=self.frames, crowd=CROWD)
        return [resized(film, (side, side)).to(self.device)]

    def loss(self, part: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rebuilt, codes, commitment = self.model(part)
        rebuilt = rebuilt.float()
        squared = F.mse_loss(rebuilt, part)
        loss = F.l1_loss(rebuilt, part) + 10 * squared + commitment
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
