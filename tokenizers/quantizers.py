"""Vectors -> codes -> vectors: the quantizers of vector-quantize-pytorch behind one contract.

Their pitfalls are dealt with here once: codebooks in fp32 whatever autocast says, int64 codes,
settings under which no code dies, and nothing that changes in eval.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import nn
from vector_quantize_pytorch import FSQ, ResidualVQ

SHARES = 2**22  # of vectors in codes, computed at once


class Quantizer(nn.Module, ABC):
    """What a codec needs of a quantizer.

    Attributes:
        sizes: codes of each codebook.
    """

    sizes: tuple[int, ...]

    @abstractmethod
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents (B, N, D) -> quantized (B, N, D) with straight-through gradient, codes
        (B, N, Q) int64, -1 where training left a codebook out, and a loss to be added."""

    @abstractmethod
    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, N, Q) -> what they stand for, (B, N, D)."""


class FiniteScalar(Quantizer):
    """FSQ (https://arxiv.org/abs/2309.15505): each of a few bounded numbers is rounded.

    `count` codebooks of prod(levels) codes, side by side, and nothing to learn in them. What is
    rounded has unit variance over the batches of training, and codes that a batch leaves out draw
    the nearest vectors to themselves: else most samples of a kind fall on a few of them.
    """

    def __init__(self, width: int, levels: tuple[int, ...], count: int = 1, pull: float = 0.02):
        super().__init__()
        self.levels, self.pull = levels, pull
        self.inward = nn.Linear(width, count * len(levels))
        self.spread = nn.BatchNorm1d(count * len(levels), affine=False, momentum=0.05)
        self.outward = nn.Linear(count * len(levels), width)
        self.fsq = FSQ(
            levels=list(levels),
            num_codebooks=count,
            keep_num_codebooks_dim=True,
            preserve_symmetry=True,
        )
        self.sizes = (int(self.fsq.codebook_size),) * count

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            inner = self.spread(self.inward(x.float()).transpose(1, 2)).transpose(1, 2)
            rounded, codes = self.fsq(inner)
            loss = self.pull * self._left_out(inner) if self.training else inner.new_zeros(())
            return self.outward(rounded), codes.long(), loss

    def _left_out(self, inner: torch.Tensor) -> torch.Tensor:
        """How far codes are below a tenth of an even share of vectors (B, N, count * levels), in
        nats, the mean over codes. A vector's share in a code falls with the distance."""
        size = self.sizes[0]
        flat = inner.flatten(0, 1)
        flat = flat[:: -(-len(flat) * size // SHARES)].unflatten(1, (len(self.sizes), -1))
        share = flat.new_ones(*flat.shape[:2], 1)
        for number, levels in enumerate(self.levels):
            place = (levels - 1) * (flat[..., number].tanh() + 1) / 2
            apart = place[..., None] - torch.arange(levels, device=place.device)
            near = (-2 * apart.square()).softmax(-1)
            share = (share[..., None] * near[..., None, :]).flatten(2)
        floor = math.log(0.1 / size)
        return F.relu(floor - (share.mean(0) + 1e-9).log()).mean()

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        with torch.autocast(codes.device.type, enabled=False):
            flat = self.fsq.indices_to_codes(codes.reshape(1, -1, len(self.sizes)))
            out: torch.Tensor = self.outward(flat.view(*codes.shape[:-1], -1))
            return out


class Residual(Quantizer):
    """Residual VQ (SoundStream, https://arxiv.org/abs/2107.03312): each codebook says what those
    before it left over. With one codebook it is plain VQ.

    While training, the last codebooks are left out of half of the batches (`dropout`), so that a
    prefix of the codebooks decodes; codes out of use are restarted at latents of the batch.

    Attributes:
        free: latents pass as they are. Codebooks that are placed in what an untrained encoder
            writes collapse to a few codes: so train without them at first, then `place` them.
    """

    def __init__(
        self,
        width: int,
        count: int,
        size: int,
        *,
        inner: int | None = None,
        decay: float = 0.99,
        restart: float = 0.2,
        cosine: bool = False,
        dropout: bool = False,
    ):
        super().__init__()
        inner = inner or width
        self.inward = nn.Linear(width, inner) if inner != width else nn.Identity()
        self.outward = nn.Linear(inner, width) if inner != width else nn.Identity()
        self.vq = ResidualVQ(
            dim=inner,
            num_quantizers=count,
            codebook_size=size,
            decay=decay,
            kmeans_init=True,
            kmeans_iters=10,
            threshold_ema_dead_code=restart,
            use_cosine_sim=cosine,
            commitment_weight=0.25,
            quantize_dropout_cutoff_index=0,
        )
        for layer in self.vq.layers:  # a restarted code has time to be found
            layer._codebook.reset_cluster_size = 5 * restart
        self.dropout = dropout and count > 1
        self.sizes = (size,) * count
        self.cosine, self.free = cosine, False

    @torch.no_grad()
    def place(self, x: torch.Tensor) -> None:
        """Codebooks by k-means of latents (B, N, D), once: give several vectors for each code."""
        self.free, training = False, self.training
        self.eval()  # in training some codebooks would be left out
        with torch.autocast(x.device.type, enabled=False):
            self._quantized(x)
        self.train(training)

    def _quantized(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        quantized, codes, loss = self.vq(self.inward(x.float()))
        return self.outward(quantized), codes.long(), loss.sum()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            if self.free:
                inner = self.inward(x.float())
                inner = F.normalize(inner, dim=-1) if self.cosine else inner
                none = torch.full((*x.shape[:2], len(self.sizes)), -1, device=x.device)
                return self.outward(inner), none, inner.new_zeros(())
            if self.training and self.dropout:
                self.vq.quantize_dropout = bool(torch.rand(()) < 0.5)
            if not self.training and not all(layer._codebook.initted for layer in self.vq.layers):
                raise ValueError("the codebooks hold nothing yet: train this codec, or load one"
                                 " that is trained")  # fmt: skip
            return self._quantized(x)

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        with torch.autocast(codes.device.type, enabled=False):
            books = self.vq.codebooks  # (Q, size, inner)
            total = sum((books[q][codes[..., q]] for q in range(codes.shape[-1])),
                        books.new_zeros(()))  # fmt: skip
            out: torch.Tensor = self.outward(total)
            return out


def perplexity(codes: torch.Tensor, size: int) -> tuple[float, float]:
    """Perplexity of a codebook's code histogram, in codes, and the share of codes in use; codes
    of -1 stand for none."""
    histogram = torch.bincount(codes[codes >= 0], minlength=size).double()
    share = histogram / histogram.sum().clamp_min(1)
    entropy = -torch.xlogy(share, share).sum()
    return float(entropy.exp()), float((histogram > 0).double().mean())
