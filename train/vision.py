"""Start the understanding encoder: which words describe this picture?

Each picture's description is a bag of text pieces, and a linear head on the mean slot must name
them: classification on raw words, no text encoder (SuperClass, https://arxiv.org/abs/2411.03313).
The decoder then meets features that already hold the words.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from unified.media.pixels import to_tensor
from unified.modeling import UnifiedForConditionalGeneration
from unified.tokenizers.text import PublishedTokenizer, TextTokenizer
from unified.toybox.samples import sample
from unified.toybox.scene import Scene, render
from unified.train.distributed import team
from unified.train.loop import LoopConfig, fit


class VisionConfig(BaseModel):
    """The vision stage of a recipe."""

    model_config = ConfigDict(extra="forbid")

    loop: LoopConfig
    micro_batch: int = 64


class VisionStage:
    """Cross-entropy between the head's softmax over pieces and the pieces of the description."""

    def __init__(
        self,
        config: VisionConfig,
        model: UnifiedForConditionalGeneration,
        text: TextTokenizer | PublishedTokenizer,
        seed: int,
        device: str,
    ):
        self.config, self.text, self.seed, self.device = config, text, seed, device
        width = model.config.text_config.hidden_size
        self.words = model.config.text_size
        head = nn.Linear(width, self.words)
        self.model = nn.ModuleDict({"encoder": model.encoder, "head": head}).to(device)

    def batch(self, step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        size = self.config.loop.batch_size
        pictures, bags = [], torch.zeros(size, self.words)
        for k in range(size):
            asked, told = sample("describe", self.seed, step * size + k).turns
            scene = next(part for part in asked.parts if isinstance(part, Scene))
            pictures.append(render(scene))
            bags[k, torch.tensor(self.text.ids(told.text)).unique()] = 1
        pixels = to_tensor(np.stack(pictures))
        bags = bags / bags.sum(1, keepdim=True)
        rows = team().rows(size, self.config.micro_batch)
        parts = (x.to(self.device).split(rows) for x in (pixels, bags))
        return list(zip(*parts, strict=True))

    def loss(
        self, part: tuple[torch.Tensor, torch.Tensor], step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        pixels, bags = part
        share = len(pixels) / self.config.loop.batch_size
        scores = self.model["head"](self.model["encoder"](pixels).mean(1)).float()
        # the least it can be is the entropy of the bags; what remains is reported
        entropy = -torch.xlogy(bags, bags).sum(1).mean()
        loss = -(bags * scores.log_softmax(1)).sum(1).mean()
        return share * loss, {"words_loss": share * float(loss.detach() - entropy)}


def train_vision(
    config: VisionConfig,
    model: UnifiedForConditionalGeneration,
    text: TextTokenizer | PublishedTokenizer,
    folder: Path,
    *,
    seed: int,
    device: str = "cpu",
    progress: bool = True,
) -> None:
    """Run the stage on the encoder of `model`, in place; the head is dropped."""
    stage = VisionStage(config, model, text, seed, device)
    fit(stage, config.loop, folder, name="vision", seed=seed, device=device, progress=progress)
