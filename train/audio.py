"""Train the sound tokenizer on endless clips of the toybox, or on sound of one's own."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from unified.media.sound import resample
from unified.tokenizers.audio import AudioTokenizer
from unified.tokenizers.quantizers import perplexity
from unified.toybox.sounds import render_clip, sample_clip
from unified.toybox.voices import RATE
from unified.train.losses import spectral_loss
from unified.train.media import Media

PLACED = 256  # clips that the codebooks are placed by
SECONDS = 1.28  # of a clip in training


def clips(
    seed: int, start: int, count: int, split: str = "train", seconds: float = 2.0,
    rate: int = RATE,
) -> Any:  # fmt: skip
    """Rendered clips start..start+count of a seed, (count, 1, samples)."""
    names = (f"{seed}/clip/{split}/{index}" for index in range(start, start + count))
    waves = [render_clip(sample_clip(random.Random(name), split, seconds)) for name in names]
    waves = [resample(wave, RATE, rate) for wave in waves]
    return torch.from_numpy(np.stack(waves))[:, None]


def piece(model: AudioTokenizer) -> int:
    """Samples of a clip in training: whole steps."""
    return int(SECONDS * model.config.rate) // model.spec.stride * model.spec.stride


class AudioStage:
    """Spectra at several resolutions, a little of the samples themselves, and the commitment."""

    def __init__(self, model: AudioTokenizer, size: int, seed: int, device: str,
                 free: int = 0, media: Media | None = None):  # fmt: skip
        self.model, self.size, self.seed, self.device = model, size, seed, device
        self.free, self.media = free, media
        self.length = piece(model)

    def batch(self, step: int) -> list[torch.Tensor]:
        return [self._cut(step * self.size, self.size).to(self.device)]

    def loss(self, part: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        self.model.quantizer.free = step < self.free
        if step == self.free:
            self._place()
        rebuilt, codes, commitment = self.model(part)
        one, two = rebuilt[:, 0].float(), part[:, 0]
        spectral = spectral_loss(one, two, self.model.config.rate)
        samples = F.l1_loss(one, two)
        _, used = perplexity(codes[..., 0], self.model.config.codebook_size)
        values = {
            "spectral": spectral.item(),
            "samples": samples.item(),
            "commitment": commitment.item(),
            "codes_in_batch": used * self.model.config.codebook_size,
        }
        return spectral + 2 * samples + commitment, values

    def _cut(self, start: int, count: int) -> torch.Tensor:
        """A piece from anywhere in each clip; a third of a clip is the silence after it."""
        if self.media is not None:
            return self.media.batch(start, count)
        sound = clips(self.seed, start, count, rate=self.model.config.rate)
        rng = random.Random(f"{self.seed}/cut/{start}")
        firsts = (rng.randrange(sound.shape[2] - self.length + 1) for _ in range(count))
        return torch.stack([one[:, first : first + self.length]
                            for one, first in zip(sound, firsts, strict=True)])  # fmt: skip

    def _place(self) -> None:
        sound = self._cut(0, PLACED).to(self.device)
        with torch.no_grad():
            self.model.quantizer.place(self.model.latents(sound)[0])
