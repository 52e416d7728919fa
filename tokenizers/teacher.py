"""A contrastive pair of encoders: what a picture means, learnt from pictures and their words.

SEED reads pictures through a frozen encoder of this kind. The small one here is trained on toybox
pairs with the sigmoid loss of SigLIP (https://arxiv.org/abs/2303.15343); at full size
`PublishedTeacher` puts a CLIP, SigLIP or DINO directory of transformers in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unified.layers import MLP, Block, patchify


@dataclass(frozen=True)
class TeacherConfig:
    image_size: int = 64
    patch: int = 8
    channels: int = 3
    width: int = 192
    layers: int = 5
    heads: int = 6
    words: int = 2048  # pieces of the text tokenizer
    text_width: int = 128
    text_layers: int = 2
    text_length: int = 48  # pieces of a text that are read
    out: int = 128

    @property
    def places(self) -> int:
        """Features of a picture."""
        return (self.image_size // self.patch) ** 2


class ImageTower(nn.Module):
    """ViT: pictures (B, C, H, W) in [-1, 1] -> features (B, places, width), embedding (B, out)."""

    def __init__(self, config: TeacherConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.channels * config.patch**2, config.width)
        self.position = nn.Parameter(torch.randn(config.places, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.out = MLP(2 * config.width, config.width, config.out)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.embed(patchify(pixels, self.config.patch)) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        pooled = torch.cat([x.mean(1), x.amax(1)], -1)  # small things survive the maximum
        return x, F.normalize(self.out(pooled), dim=-1)


class TextTower(nn.Module):
    """Text ids (B, L), -1 where there is none -> embedding (B, out)."""

    def __init__(self, config: TeacherConfig):
        super().__init__()
        self.embed = nn.Embedding(config.words + 1, config.text_width)  # the last one: nothing
        self.position = nn.Parameter(torch.randn(config.text_length, config.text_width) * 0.02)
        self.blocks = nn.ModuleList(
            Block(config.text_width, config.text_width // 32) for _ in range(config.text_layers)
        )
        self.norm = nn.LayerNorm(config.text_width)
        self.out = MLP(config.text_width, config.text_width, config.out)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        nothing = ids < 0
        x = self.embed(ids.masked_fill(nothing, self.embed.num_embeddings - 1))
        x = x + self.position[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        x = self.norm(x).masked_fill(nothing[..., None], 0)
        return F.normalize(self.out(x.sum(1) / (~nothing).sum(1, keepdim=True)), dim=-1)


class Teacher(nn.Module):
    """Both towers, with the temperature and bias of the sigmoid loss."""

    def __init__(self, config: TeacherConfig):
        super().__init__()
        self.config = config
        self.image, self.text = ImageTower(config), TextTower(config)
        self.scale = nn.Parameter(torch.tensor(2.3))  # log 10
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def loss(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Sigmoid loss of two batches of embeddings (B, out), row by row a pair."""
        scores = self.scale.exp() * image @ text.T + self.bias
        signs = 2 * torch.eye(len(scores), device=scores.device) - 1
        return -F.logsigmoid(signs * scores).sum(1).mean()


class PublishedTeacher(nn.Module):
    """A frozen vision encoder saved by transformers (CLIP, SigLIP, DINOv2) as a teacher.

    Pictures are resized and normalized as its own processor says. `folder` is a local directory.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        from transformers import AutoImageProcessor, AutoModel

        model: Any = AutoModel.from_pretrained(str(folder), use_safetensors=True)
        processor = AutoImageProcessor.from_pretrained(str(folder))
        self.tower = getattr(model, "vision_model", model).eval().requires_grad_(False)
        size = processor.size
        self.side = int(size.get("height") or size.get("shortest_edge"))
        mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)
        self.mean: torch.Tensor
        self.std: torch.Tensor

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (B, 3, H, W) in [-1, 1] -> features (B, N, D) and embedding (B, D)."""
        size = (self.side, self.side)
        x = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
        out = self.tower(pixel_values=((x + 1) / 2 - self.mean) / self.std)
        features = out.last_hidden_state
        pooled = out.pooler_output if out.pooler_output is not None else features.mean(1)
        return features, F.normalize(pooled, dim=-1)
