"""Train the picture tokenizer on endless toybox scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BaseModel, ConfigDict

from unified.tokenizers.image import ImageTokenizer, VQConfig
from unified.toybox.pixels import scenes, to_pictures
from unified.train.loop import LoopConfig, fit


class TokenizerConfig(BaseModel):
    """The tokenizer stage of a recipe."""

    model_config = ConfigDict(extra="forbid")

    model: dict[str, Any] = {}
    loop: LoopConfig
    unquantized_steps: int = 0  # before k-means places the codebook
    placing_scenes: int = 4096  # for that k-means
    squared: float = 1.0  # weight of the squared error beside the absolute one


class TokenizerStage:
    """Absolute plus squared error of the pixels, plus the codebook's commitment."""

    def __init__(self, config: TokenizerConfig, seed: int, device: str = "cpu"):
        torch.manual_seed(seed)
        self.config, self.seed, self.device = config, seed, device
        self.model = ImageTokenizer(VQConfig(**config.model)).to(device)

    def batch(self, step: int) -> list[torch.Tensor]:
        size = self.config.loop.batch_size
        return [scenes(self.seed, step * size, size).to(self.device)]

    def loss(self, part: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        start = self.config.unquantized_steps
        if step == start:
            self.model.place_codebook(
                scenes(self.seed, 0, self.config.placing_scenes).to(self.device)
            )
        rebuilt, codes, commitment = self.model(part, quantize=step >= start)
        rebuilt = rebuilt.float()
        absolute, squared = F.l1_loss(rebuilt, part), F.mse_loss(rebuilt, part)
        loss = absolute + self.config.squared * squared + commitment
        values = {
            "pixels": absolute.item(),
            "commitment": commitment.item(),
            "psnr": -10 * float(torch.log10(squared.detach() / 4)),
        }
        if codes is not None:
            values["codes_in_batch"] = float(codes.unique().numel())
        return loss, values


def train_tokenizer(
    config: TokenizerConfig, folder: Path, *, seed: int, device: str = "cpu", progress: bool = True
) -> ImageTokenizer:
    """Run the stage; the codec is saved to folder/model and returned in eval mode."""
    stage = TokenizerStage(config, seed, device)
    shown = scenes(seed, 0, 16, "held_out").to(device)

    def sample(step: int) -> dict[str, float]:
        with torch.no_grad():
            rebuilt = stage.model(shown, quantize=step > config.unquantized_steps)[0]
        rows = [np.concatenate(to_pictures(x), 1) for x in (shown, rebuilt.float())]
        target = folder / "samples" / f"step-{step:06d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(rows, 0)).save(target)
        error = F.mse_loss(rebuilt.float().clamp(-1, 1), shown)
        return {"held_out_psnr": -10 * float(torch.log10(error / 4))}

    fit(
        stage,
        config.loop,
        folder,
        name="image tokenizer",
        seed=seed,
        device=device,
        on_sample=sample,
        progress=progress,
    )
    stage.model.save(folder / "model")
    return stage.model
