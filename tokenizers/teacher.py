"""A contrastive pair of encoders: what a picture means, learnt from pictures and their words.

SEED reads pictures through a frozen encoder of this kind. The small one here is trained on toybox
pairs with the sigmoid loss of SigLIP (https://arxiv.org/abs/2303.15343); at full size
`PublishedTower` puts a CLIP, SigLIP or DINO directory of transformers in its place, and only the
text encoder is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unified.layers import MLP, Block, patchify

PROJECTED = "CLIPVisionModelWithProjection"  # transformers' name of CLIP's encoder by itself


@dataclass(frozen=True)
class TeacherConfig:
    """Sizes; `folder` names a directory of transformers whose vision encoder is used instead of a
    trained one."""

    image_size: int = 64
    patch: int = 8
    channels: int = 3
    width: int = 160
    layers: int = 5
    heads: int = 5
    words: int = 2048  # pieces of the text tokenizer
    text_width: int = 128
    text_layers: int = 2
    text_length: int = 48  # pieces of a text that are read
    out: int = 128
    folder: str | None = None

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
        self.image, self.text = image_tower(config), TextTower(config)
        self.scale = nn.Parameter(torch.tensor(2.3))  # log 10
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def loss(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Sigmoid loss of two batches of embeddings (B, out), row by row a pair."""
        scores = self.scale.exp() * image @ text.T + self.bias
        signs = 2 * torch.eye(len(scores), device=scores.device) - 1
        return -F.logsigmoid(signs * scores).sum(1).mean()


def published_sizes(folder: str) -> dict[str, int]:
    """The sizes of a vision encoder saved by transformers, by names of `TeacherConfig`.

    Raises:
        ValueError: it is none with patches.
    """
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    seen = getattr(config, "vision_config", config)
    if not hasattr(seen, "patch_size") or not hasattr(seen, "hidden_size"):
        raise ValueError(f"{folder} is no vision encoder with patches")
    out = config.projection_dim if _projects(config) else seen.hidden_size
    side = seen.image_size // seen.patch_size * seen.patch_size
    return {"image_size": side, "patch": seen.patch_size, "width": seen.hidden_size, "out": out}


def _projects(config: Any) -> bool:
    """Whether it maps what it has pooled to where its words are: what unCLIP draws from."""
    return config.model_type == "clip" or PROJECTED in (config.architectures or ())


class PublishedTower(nn.Module):
    """A frozen vision encoder saved by transformers (CLIP, SigLIP, DINOv2) in the place of ours.

    Pictures are resized and normalized as its own processor says; its features are those of the
    patches, its embedding the pooled output, of a CLIP projected.

    Raises:
        ValueError: it is of other sizes than the configuration says.
    """

    def __init__(self, config: TeacherConfig):
        super().__init__()
        from transformers import (
            AutoConfig,
            AutoImageProcessor,
            AutoModel,
            CLIPVisionModelWithProjection,
        )

        assert config.folder is not None
        sizes = published_sizes(config.folder)
        for name in ("patch", "width", "out"):
            if getattr(config, name) != sizes[name]:
                raise ValueError(f"{config.folder}: set teacher.{name} to {sizes[name]}, not"
                                 f" {getattr(config, name)}")  # fmt: skip
        alone = AutoConfig.from_pretrained(config.folder).architectures == [PROJECTED]
        model: Any = (CLIPVisionModelWithProjection if alone else AutoModel).from_pretrained(
            config.folder, use_safetensors=True, trust_remote_code=False
        )
        processor = AutoImageProcessor.from_pretrained(config.folder, trust_remote_code=False)
        self.config = config
        self.tower = getattr(model, "vision_model", model).eval().requires_grad_(False)
        projection = getattr(model, "visual_projection", nn.Identity())
        self.projection = projection.requires_grad_(False)
        size = (config.image_size, config.image_size)
        self.size = size
        mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)
        self.mean: torch.Tensor
        self.std: torch.Tensor

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if tuple(pixels.shape[2:]) != self.size:
            pixels = F.interpolate(pixels, self.size, mode="bicubic", antialias=True)
        out = self.tower(pixel_values=((pixels + 1) / 2 - self.mean) / self.std)
        features = out.last_hidden_state[:, -self.config.places :]  # without a class token
        pooled = getattr(out, "pooler_output", None)
        pooled = self.projection(features.mean(1) if pooled is None else pooled)
        return features, F.normalize(pooled, dim=-1)


def image_tower(config: TeacherConfig) -> ImageTower | PublishedTower:
    """Ours, to be trained, or the published one that the configuration names."""
    return PublishedTower(config) if config.folder else ImageTower(config)
