"""How easy codes are for a next-token model, and what can be read from them.

`code_bits`: a small causal transformer of fixed size, data and steps learns the codes of many items
and is scored on others, in bits; against the same codes in a fixed shuffled order, which tells
whether the order they are written in is a good one. `linear_accuracy`: what a linear map of
the codes knows.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from unified.layers import MLP, CausalSelfAttention
from unified.tokenizers.codec import CodecSpec

WIDTH, LAYERS, HEADS = 128, 3, 4
BATCH, STEPS, RATE = 64, 1200, 2e-3
CODES = 4096  # of a batch at most, where items are long


class _Probe(nn.Module):
    """A causal transformer over codes (B, L); position k predicts code k from those before."""

    def __init__(self, size: int, length: int):
        super().__init__()
        self.embed = nn.Embedding(size + 1, WIDTH)  # the last one begins
        self.place = nn.Parameter(torch.randn(length, WIDTH) * 0.02)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * LAYERS + 1))
        self.attention = nn.ModuleList(CausalSelfAttention(WIDTH, HEADS) for _ in range(LAYERS))
        self.mlps = nn.ModuleList(MLP(WIDTH, 3 * WIDTH, WIDTH) for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, size)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        begin = torch.full_like(codes[:, :1], self.embed.num_embeddings - 1)
        x = self.embed(torch.cat([begin, codes[:, :-1]], 1)) + self.place
        for k, (attention, mlp) in enumerate(zip(self.attention, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * k](x))
            x = x + mlp(self.norms[2 * k + 1](x))
        return self.head(self.norms[-1](x))


def _nats(
    codes: torch.Tensor, unseen: torch.Tensor, allowed: torch.Tensor, seed: int, steps: int
) -> float:
    """Mean cross-entropy a code on unseen items, after the fixed training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size, length = allowed.shape[1], codes.shape[1]
        probe = _Probe(size, length)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=0.05)
        barred, batch = ~allowed, max(8, min(BATCH, CODES // length))
        for step in range(steps):
            for group in optimizer.param_groups:  # linear warm-up and decay
                group["lr"] = RATE * min(1.0, (step + 1) / 50, 1.2 * (1 - step / steps))
            rows = codes[torch.randint(len(codes), (batch,))]
            scores = probe(rows).masked_fill(barred, float("-inf"))
            loss = F.cross_entropy(scores.flatten(0, 1), rows.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            total = sum(
                float(F.cross_entropy(probe(part).masked_fill(barred, float("-inf")).flatten(0, 1),
                                      part.flatten(), reduction="sum"))
                for part in unseen.split(batch)
            )  # fmt: skip
        return total / unseen.numel()


def code_bits(
    codes: torch.Tensor, unseen: torch.Tensor, spec: CodecSpec, *, seed: int = 0, steps: int = STEPS
) -> dict[str, float]:
    """Bits that the probe needs on unseen items.

    Args:
        codes, unseen: (N, L) and (M, L), whole steps; unseen items are scored.

    Returns:
        "bits" and "bits_shuffled" a code, "bits_item" and "bits_item_shuffled" a whole item.
    """
    length = codes.shape[1]
    books = torch.tensor(spec.books).repeat(length // spec.length)
    numbers = torch.arange(spec.codebook_size)
    starts = torch.tensor([r.start for r in spec.ranges])
    stops = torch.tensor([r.stop for r in spec.ranges])
    allowed = (numbers >= starts[books, None]) & (numbers < stops[books, None])
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed))
    straight = _nats(codes, unseen, allowed, seed, steps) / math.log(2)
    shuffled = _nats(codes[:, order], unseen[:, order], allowed[order], seed, steps) / math.log(2)
    return {
        "bits": straight,
        "bits_shuffled": shuffled,
        "bits_item": straight * length,
        "bits_item_shuffled": shuffled * length,
    }


def linear_accuracy(
    codes: torch.Tensor, labels: torch.Tensor, unseen: torch.Tensor, truth: torch.Tensor,
    spec: CodecSpec, *, seed: int = 0, steps: int = 1500,
) -> float:  # fmt: skip
    """Accuracy on unseen items of a linear map from (place, code) pairs to labels (N,).

    Logistic regression on one-hot codes: a sum of one learnt row for every code at every place.
    """
    length, classes = codes.shape[1], int(max(labels.max(), truth.max())) + 1
    books = (spec.books * -(-length // spec.length))[:length]
    sizes = torch.tensor([spec.codebooks[book] for book in books])
    # rows of a place begin where those of the places before it end
    offsets = sizes.cumsum(0) - sizes - torch.tensor([spec.ranges[book].start for book in books])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = nn.EmbeddingBag(int(sizes.sum()), classes, mode="sum")
        nn.init.zeros_(rows.weight)
        optimizer = torch.optim.Adam(rows.parameters(), lr=0.02)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 0.02 * (1 - step / steps)
            pick = torch.randint(len(codes), (256,))
            loss = F.cross_entropy(rows(codes[pick] + offsets), labels[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return float((rows(unseen + offsets).argmax(1) == truth).double().mean())
