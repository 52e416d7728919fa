"""Train the picture tokenizer on endless toybox scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BaseModel, ConfigDict
from rich.progress import Progress

from unified.tokenizers.codec import Codec
from unified.tokenizers.image import ImageTokenizer, new_codec
from unified.tokenizers.layered import LayeredTokenizer
from unified.toybox.pixels import scenes, to_pictures
from unified.train.loop import COLUMNS, LoopConfig, fit


class TokenizerConfig(BaseModel):
    """The tokenizer stage of a recipe: a kind of codec, its settings and how it is trained.

    A "vq" codec is trained by the loop, its codebook placed by k-means first; the codebooks of a
    "layered" one are fitted in closed form and need none.
    """

    model_config = ConfigDict(extra="forbid")

    kind: str = "layered"
    model: dict[str, Any] = {}
    scenes: int = 4096  # pictures that codebooks are placed or fitted by
    rounds: int = 24  # of a layered codec's fit
    loop: LoopConfig | None = None
    squared: float = 1.0  # weight of a vq codec's squared error beside the absolute one


class TokenizerStage:
    """Absolute plus squared error of the pixels, plus the codebook's commitment."""

    def __init__(self, config: TokenizerConfig, model: ImageTokenizer, seed: int, device: str):
        assert config.loop is not None
        self.config, self.seed, self.device = config, seed, device
        self.size = config.loop.batch_size
        self.model = model.to(device)

    def batch(self, step: int) -> list[torch.Tensor]:
        return [scenes(self.seed, step * self.size, self.size).to(self.device)]

    def loss(self, part: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        if step == 0:
            self.model.place_codebook(scenes(self.seed, 0, self.config.scenes).to(self.device))
        rebuilt, codes, commitment = self.model(part)
        rebuilt = rebuilt.float()
        absolute, squared = F.l1_loss(rebuilt, part), F.mse_loss(rebuilt, part)
        values = {
            "pixels": absolute.item(),
            "commitment": commitment.item(),
            "psnr": -10 * float(torch.log10(squared.detach() / 4)),
            "codes_in_batch": float(codes.unique().numel()),
        }
        return absolute + self.config.squared * squared + commitment, values


def train_tokenizer(
    config: TokenizerConfig, folder: Path, *, seed: int, device: str = "cpu", progress: bool = True
) -> Codec:
    """Run the stage, unless it is finished; the codec is saved to folder/model and returned.

    Raises:
        ValueError: an unknown kind or setting, or a "vq" codec without a loop.
    """
    torch.manual_seed(seed)
    codec = new_codec(config.kind, config.model).to(device)
    shown = scenes(seed, 0, 16, "held_out").to(device)

    def sample(step: int) -> dict[str, float]:
        codec.eval()
        rebuilt = codec.decode(codec.encode(shown))
        rows = [np.concatenate(to_pictures(x), 1) for x in (shown, rebuilt)]
        target = folder / "samples" / f"step-{step:06d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(rows, 0)).save(target)
        return {"held_out_psnr": -10 * float(torch.log10(F.mse_loss(rebuilt, shown) / 4))}

    if isinstance(codec, LayeredTokenizer):
        if (folder / "model" / "config.json").is_file():
            return LayeredTokenizer.load(folder / "model")
        _fit_layered(codec, config, folder, seed, progress)
        sample(config.rounds)
    else:
        if config.loop is None:
            raise ValueError(f"tokenizer.loop: a tokenizer of kind {config.kind!r} needs one")
        assert isinstance(codec, ImageTokenizer)
        stage = TokenizerStage(config, codec, seed, device)
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
    codec.save(folder / "model")
    return codec.eval()


def _fit_layered(
    codec: LayeredTokenizer, config: TokenizerConfig, folder: Path, seed: int, progress: bool
) -> None:
    """Closed form, under a minute: it starts afresh where it was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = scenes(seed, 0, config.scenes).to(codec.device)
    with Progress(*COLUMNS, disable=not progress) as bar, (folder / "log.jsonl").open("w") as log:
        task = bar.add_task("image tokenizer", total=config.rounds)
        for step, row in enumerate(codec.fit(pixels, config.rounds), 1):
            log.write(json.dumps({"step": step, **row}) + "\n")
            bar.update(task, completed=step)
