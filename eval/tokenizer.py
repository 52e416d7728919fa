"""How well a picture tokenizer gives pictures back, and how much of its codebook it uses.

Measured on toybox scenes that hold combinations kept out of all training. Knows a codec by its
contract alone: `spec`, `encode`, `decode`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchmetrics.functional.image import structural_similarity_index_measure

import unified
from unified.eval.judge import judge
from unified.tokenizers.codec import Codec
from unified.toybox.pixels import scenes, to_pictures

SPLIT = "held_out"
CODE_SCENES = 2048  # of which the use of the codebook is counted


@torch.no_grad()
def evaluate_tokenizer(
    codec: Codec, *, count: int = 512, seed: int = 0, batch: int = 64
) -> list[dict[str, Any]]:
    """Score a codec on held-out scenes, shown as 8-bit pictures.

    Args:
        count: scenes that are rebuilt; codes are counted over `max(count, 2048)` scenes.

    Returns:
        Rows {task, side, skill, split, metric, value, stderr, n, chance, settings}: psnr (dB, mean
        over pictures), psnr_all (dB of the mean squared error over all of them), ssim,
        recognised (share of the rebuilt pictures in which the judge of drawings still finds every
        thing and nothing else: what a perfect model could reach with this codec), codebook_use
        (share of the codes that occur) and perplexity (of the code histogram, in codes).

    Raises:
        ValueError: a count or batch below one, or a codec of other pictures than the toybox's.
    """
    if count < 1 or batch < 1:
        raise ValueError(f"count {count} and batch {batch}: both must be at least 1")
    size = codec.spec.codebook_size
    device = codec.device
    histogram = torch.zeros(size, dtype=torch.int64)
    errors: list[torch.Tensor] = []
    similarities: list[torch.Tensor] = []
    recognised: list[bool] = []
    total = max(count, CODE_SCENES)
    for start in range(0, total, batch):
        pixels = scenes(seed, start, min(batch, total - start), SPLIT).to(device)
        codes = codec.encode(pixels)
        histogram += torch.bincount(codes.flatten().cpu(), minlength=size)
        left = count - start
        if left > 0:
            truth, rebuilt = _levels(pixels[:left]), _levels(codec.decode(codes[:left]))
            recognised += [judge(one) == judge(two) for one, two in _pairs(truth, rebuilt)]
            errors.append((truth - rebuilt).square().mean((1, 2, 3)))  # in [0, 1]
            similarities.append(
                structural_similarity_index_measure(
                    rebuilt.double(), truth.double(), data_range=1.0, reduction="none"
                )
            )
    squared = torch.cat(errors).double()
    psnr = -10 * squared.clamp(min=1e-10).log10()
    ssim = torch.cat(similarities).double()
    share = histogram.double() / histogram.sum()
    entropy = -(share[share > 0] * share[share > 0].log()).sum()
    used = int((histogram > 0).sum()) / size
    share_right = sum(recognised) / count
    settings = {
        "seed": seed,
        "code_scenes": total,
        "codebook_size": size,
        "codes_a_picture": codec.spec.length,
        "image_size": list(codec.spec.image_size),
        "device": str(device),
        "toolkit": unified.__version__,
    }

    def row(metric: str, value: float, stderr: float, n: int) -> dict[str, Any]:
        return {
            "task": "tokenizer", "side": "reconstruction", "skill": "pictures", "split": SPLIT,
            "metric": metric, "value": value, "stderr": stderr, "n": n, "chance": 0.0,
            "settings": settings,
        }  # fmt: skip

    return [
        row("psnr", float(psnr.mean()), _stderr(psnr), count),
        row("psnr_all", -10 * math.log10(max(float(squared.mean()), 1e-10)), 0.0, count),
        row("ssim", float(ssim.mean()), _stderr(ssim), count),
        row("recognised", share_right, math.sqrt(share_right * (1 - share_right) / count), count),
        row("codebook_use", used, 0.0, total),
        row("perplexity", float(entropy.exp()), 0.0, total),
    ]


def _levels(pixels: torch.Tensor) -> torch.Tensor:
    """[-1, 1] -> [0, 1] in steps of 1/255, as a saved picture has them."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round() / 255


def _pairs(truth: torch.Tensor, rebuilt: torch.Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures of two batches in [0, 1], uint8 (H, W, 3) each."""
    return zip(to_pictures(truth * 2 - 1), to_pictures(rebuilt * 2 - 1), strict=True)


def _stderr(values: torch.Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else 0.0


@torch.no_grad()
def grid(
    codec: Codec,
    path: str | Path,
    *,
    columns: int = 12,
    rows: int = 3,
    seed: int = 0,
    zoom: int = 2,
) -> None:
    """Write a PNG of held-out scenes, each row of originals above the row of their rebuilds."""
    pixels = scenes(seed, 0, columns * rows, SPLIT).to(codec.device)
    pictures = to_pictures(pixels), to_pictures(codec.decode(codec.encode(pixels)))
    height, width = codec.spec.image_size
    gap = 4
    sheet = np.full(
        (rows * (2 * height + 3 * gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8
    )
    for k in range(columns * rows):
        y, x = (k // columns) * (2 * height + 3 * gap), (k % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = pictures[0][k]
        y += height + gap
        sheet[y : y + height, x : x + width] = pictures[1][k]
    image = Image.fromarray(sheet)
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
