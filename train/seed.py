"""Train SEED: the contrastive teacher, the causal Q-Former, the codebook, the flow decoder.

Each stage trains its own part and freezes what came before (SEED's stages I and II, the teacher
before them and the decoder after).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from unified.media.pixels import resized, to_tensor
from unified.tokenizers.quantizers import perplexity
from unified.tokenizers.seed import SeedTokenizer
from unified.tokenizers.teacher import Teacher, TeacherConfig
from unified.tokenizers.text import TextTokenizer
from unified.toybox.samples import sample
from unified.toybox.scene import Scene, render
from unified.train.media import Media

STAGES = ("teacher", "causal", "codes", "flow")


class _Pairs:
    """Batches of pictures and the ids of their descriptions, (B, 3, H, W) and (B, L): of the
    toybox, or one's own with their captions."""

    def __init__(
        self, text: TextTokenizer, config: TeacherConfig, size: int, seed: int, device: str,
        media: Media | None,
    ):  # fmt: skip
        self.text, self.size, self.length = text, size, config.text_length
        self.side, self.seed, self.device = config.image_size, seed, device
        self.media = media

    def batch(self, step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        first = step * self.size
        if self.media is not None:
            pixels, told = self.media.pairs(first, self.size)
        else:
            pixels, told = _scenes(self.seed, first, self.size)
            pixels = resized(pixels, (self.side, self.side))
        ids = torch.full((self.size, self.length), -1)
        for row, words in zip(ids, told, strict=True):
            pieces = torch.tensor(self.text.ids(words)[: self.length])
            row[: len(pieces)] = pieces
        return [(pixels.to(self.device), ids.to(self.device))]


def _scenes(seed: int, first: int, count: int) -> tuple[torch.Tensor, list[str]]:
    """Toybox pictures and what is said of them."""
    pictures, told = [], []
    for k in range(count):
        task = ("describe", "caption")[k % 2]  # every fact; or things and counts at times
        asked, reply, *_ = sample(task, seed, first + k).turns
        pictures.append(render(next(p for p in asked.parts if isinstance(p, Scene))))
        told.append(reply.text)
    return to_tensor(np.stack(pictures)), told


class TeacherStage(_Pairs):
    """Sigmoid loss between pictures and their words."""

    def __init__(
        self, model: Teacher, text: TextTokenizer, size: int, seed: int, device: str,
        media: Media | None = None,
    ):  # fmt: skip
        super().__init__(text, model.config, size, seed, device, media)
        self.model = model

    def loss(
        self, part: tuple[torch.Tensor, torch.Tensor], step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        pixels, ids = part
        (_, image), words = self.model.image(pixels), self.model.text(ids)
        return self.model.loss(image, words), {"right": _right(image, words)}


def _right(one: torch.Tensor, two: torch.Tensor) -> float:
    """Share of rows that are nearest to their own pair."""
    own = torch.arange(len(one), device=one.device)
    return float(((one @ two.T).argmax(1) == own).float().mean())


class SeedStage(_Pairs):
    """One of SEED's own stages.

    causal: InfoNCE between the last causal query and the teacher's embedding of the words.
    codes: cosine of the teacher's features and embedding rebuilt from a random prefix of the codes,
        the same InfoNCE on the last code, and a little of the prior's cross-entropy.
    flow: the velocity of the picture decoder, conditioned on a random prefix.
    """

    PRIOR = 0.02  # weight of the prior's loss; LARP has 0.06

    def __init__(
        self, name: str, codec: SeedTokenizer, teacher: Teacher, text: TextTokenizer, size: int,
        seed: int, device: str, media: Media | None = None,
    ):  # fmt: skip
        super().__init__(text, teacher.config, size, seed, device, media)
        self.name, self.codec, self.teacher = name, codec, teacher.eval().requires_grad_(False)
        codec.requires_grad_(False)
        parts: dict[str, tuple[nn.Module, ...]] = {
            "causal": (codec.qformer, codec.to_text),
            "codes": (codec.qformer, codec.quantizer, codec.code_to_text, codec.prior,
                      codec.reverse, codec.to_features, codec.to_embedding),
            "flow": (codec.flow,),
        }  # fmt: skip
        for module in parts[name]:
            module.requires_grad_(True)
        self.model = codec

    def loss(
        self, part: tuple[torch.Tensor, torch.Tensor], step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        pixels, ids = part
        generator = torch.Generator(pixels.device).manual_seed(self.seed * 1_000_003 + step)
        given = self._prefixes(len(pixels), generator)
        if self.name == "flow":
            # codes as decoding has them: eval, so that nothing in the quantizer moves
            self.codec.quantizer.eval()
            with torch.no_grad():
                quantized, _, _ = self.codec.quantizer(self.codec.embeddings(pixels))
                condition = self.codec.reverse(quantized, given)
            return self.codec.flow.loss(pixels, condition, generator), {}
        with torch.no_grad():
            features, embedding = self.teacher.image(pixels)
            words = self.teacher.text(ids)
        if self.name == "causal":
            last = F.normalize(self.codec.to_text(self.codec.qformer(features)[:, -1]), dim=-1)
            return info_nce(last, words), {"right": _right(last, words)}
        quantized, codes, commitment = self.codec.quantizer(self.codec.qformer(features))
        rebuilt = self.codec.reverse(quantized, given)
        near = 1 - F.cosine_similarity(self.codec.to_features(rebuilt), features, dim=-1).mean()
        whole = self.codec.to_embedding(rebuilt.mean(1))
        same = 1 - F.cosine_similarity(whole, embedding, dim=-1).mean()
        last = F.normalize(self.codec.code_to_text(quantized[:, -1]), dim=-1)
        said = info_nce(last, words)
        prior = self.codec.prior(quantized, codes[..., 0])
        spread, used = perplexity(codes, self.codec.config.codebook_size)
        loss = 2 * near + same + 0.1 * said + self.PRIOR * prior + commitment
        return loss, {
            "features": near.item(), "embedding": same.item(), "words": said.item(),
            "prior": prior.item(), "perplexity": spread,
            "codes_in_batch": used * self.codec.config.codebook_size,
        }  # fmt: skip

    def _prefixes(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """All codes for half of the pictures, a random prefix for the others (tail dropout)."""
        queries, device = self.codec.config.queries, generator.device
        some = torch.randint(1, queries + 1, (count,), generator=generator, device=device)
        whole = torch.rand(count, generator=generator, device=device) < 0.5
        return torch.where(whole, queries, some)


def info_nce(one: torch.Tensor, two: torch.Tensor, temperature: float = 0.07) -> torch.Tensor:
    """Symmetric contrastive loss of normalized embeddings (B, D), row by row a pair."""
    scores = one @ two.T / temperature
    own = torch.arange(len(one), device=one.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
