"""Embeddings -> pictures by a published unCLIP pipeline: how SEED draws at full size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F


class UnclipDecoder:
    """A StableUnCLIPImg2ImgPipeline directory: image embeddings in, pictures out.

    Raises:
        ValueError: diffusers is not installed.
    """

    def __init__(self, folder: str | Path):
        try:
            from diffusers import StableUnCLIPImg2ImgPipeline
        except ImportError:
            raise ValueError("unCLIP needs diffusers: pip install 'unified[diffusers]'") from None
        self.pipeline: Any = StableUnCLIPImg2ImgPipeline.from_pretrained(
            str(folder), use_safetensors=True
        )
        self.pipeline.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def sample(
        self,
        embedding: torch.Tensor,
        size: tuple[int, int],
        *,
        seed: int = 0,
        steps: int = 20,
        guidance: float = 10.0,
    ) -> torch.Tensor:
        """Embeddings (B, D) of the pipeline's image encoder, of any length -> (B, 3, *size) in
        [-1, 1]; each picture has its own generator of the same seed."""
        self.pipeline.to(embedding.device)  # it is no module that goes where the codec goes
        known = self.pipeline.image_normalizer  # mean and deviation of such embeddings
        usual = (known.mean.square() + known.std.square()).sum().sqrt()
        embedding = F.normalize(embedding, dim=-1) * usual.to(embedding.dtype)
        pictures = []
        for row in embedding:
            out = self.pipeline(
                image_embeds=row[None],
                generator=torch.Generator(row.device).manual_seed(seed),
                num_inference_steps=steps,
                guidance_scale=guidance,
                noise_level=0,
                output_type="pt",
            )
            pictures.append(out.images)
        pixels = torch.cat(pictures).to(embedding.dtype) * 2 - 1
        return F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(-1, 1)
