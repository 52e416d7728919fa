"""What a model can do with text alone: its perplexity on a file, before and after training.

The softmax is over ids of text: what a language model's vocabulary is extended by changes nothing,
so that the value before training is the language model's own.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from unified.modeling import UnifiedForConditionalGeneration

WINDOW = 1024  # ids that are read at once
MOST = 2**17  # ids of a file that are read


@torch.inference_mode()
def perplexity(
    model: UnifiedForConditionalGeneration, ids: list[int], window: int = WINDOW
) -> float:
    """exp of the mean cross-entropy of every id but the first of its window.

    Args:
        ids: of text.
        window: ids, in windows one after the other; at most what the model reads.

    Raises:
        ValueError: fewer than two ids.
    """
    if len(ids) < 2:
        raise ValueError(f"{len(ids)} ids of text have no perplexity; give more words")
    window = min(window, model.config.text_config.max_position_embeddings)
    vocabulary, device, training = model.config.vocabulary, model.device, model.training
    barred = torch.ones(vocabulary.text_head, dtype=torch.bool, device=device)
    for words in vocabulary.text_ranges:
        barred[words.start : words.stop] = False
    total, count = 0.0, 0
    model.eval()
    for start in range(0, len(ids), window):
        row = torch.tensor([ids[start : start + window]], device=device)
        if row.shape[1] < 2:
            continue
        hidden = model(row).hidden[0, :-1]
        logits = model.text_logits(hidden).float().masked_fill(barred, -torch.inf)
        total += float(F.cross_entropy(logits, row[0, 1:], reduction="sum"))
        count += row.shape[1] - 1
    model.train(training)
    return math.exp(min(total / count, 700.0))  # e^709 is the largest float


def text_ids(path: Path, tokenizer: Any) -> list[int]:
    """Ids of a text file, the first MOST.

    Raises:
        ValueError: it cannot be read as UTF-8 text, or holds too few words.
    """
    try:
        words = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise ValueError(f"ability: {path} cannot be read ({reason})") from None
    ids: list[int] = tokenizer.ids(words)[:MOST]
    if len(ids) < 2:
        raise ValueError(f"ability: {path} holds {len(ids)} ids of text; give more words")
    return ids
