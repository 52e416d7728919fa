"""SEED: a picture as a short causal sequence of codes that hold what it means.

    picture -> frozen encoder -> causal Q-Former (queries, each seeing those before it) -> codes
    codes -> reverse Q-Former -> features of the frozen encoder -> flow decoder -> picture

SEED (https://arxiv.org/abs/2307.08041, https://arxiv.org/abs/2310.01218) in both its stages, and
beyond it: tail dropout, so that every prefix of the codes decodes, coarse to fine (FlexTok,
https://arxiv.org/abs/2502.13967); a small autoregressive prior that pulls the codes towards
what a next-token model finds easy (LARP, https://arxiv.org/abs/2410.21264); and queries that begin
by looking through windows, wide for the first and ever smaller for the others. A learnt codebook
gave way to FSQ, no code of which can die, and queries that all begin alike wrote the same code
sixteen times (LOG.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unified.attention import attend
from unified.detokenizers.flow import FlowConfig, FlowDecoder
from unified.detokenizers.unclip import UnclipDecoder
from unified.layers import MLP, Block, CausalSelfAttention
from unified.tokenizers.codec import Codec, CodecSpec
from unified.tokenizers.quantizers import FiniteScalar
from unified.tokenizers.teacher import TeacherConfig, image_tower


@dataclass(frozen=True)
class SeedConfig:
    """Sizes. Defaults: 16 codes of 1000 for 64x64 pixels.

    Attributes:
        queries: codes of a picture.
        levels: numbers that each of a code's few numbers can be; a code is one choice of them all.
        teacher, flow: of the frozen encoder and of the picture decoder.
        unclip: a StableUnCLIPImg2ImgPipeline directory of diffusers that draws instead.
        steps, guidance: how pictures are drawn where nothing else is said; None: as the decoder
            has it.
    """

    queries: int = 16
    levels: tuple[int, ...] = (8, 5, 5, 5)
    width: int = 160
    heads: int = 5
    layers: int = 3
    reverse_layers: int = 2
    prior_width: int = 128
    prior_layers: int = 2
    teacher: dict[str, Any] = field(default_factory=dict)
    flow: dict[str, Any] = field(default_factory=dict)
    unclip: str | None = None
    steps: int | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))

    @property
    def codebook_size(self) -> int:
        return math.prod(self.levels)

    @property
    def teacher_config(self) -> TeacherConfig:
        return TeacherConfig(**self.teacher)

    @property
    def flow_config(self) -> FlowConfig:
        side = self.teacher_config.image_size
        return FlowConfig(**{"image_size": side, "condition": self.width, **self.flow})

    @property
    def spec(self) -> CodecSpec:
        teacher = self.teacher_config
        return CodecSpec(
            codebooks=(self.codebook_size,),
            books=(0,) * self.queries,
            image_size=(teacher.image_size, teacher.image_size),
            channels=teacher.channels,
            nested=True,
        )


def windows(queries: int, places: int) -> torch.Tensor:
    """(queries, places): what is added to each query's scores of the places of a square to begin
    with.

    The k-th query, counted from one, looks through a Gaussian window of 1 / k of the square, around
    the k-th point of a sequence that covers it evenly (R2, Roberts 2018, "The Unreasonable
    Effectiveness of Quasirandom Sequences").
    """
    side = math.isqrt(places)
    order = torch.arange(queries)[:, None]
    centres = (0.5 + order * torch.tensor([0.754877666, 0.569840291])) % 1 * side - 0.5
    apart = torch.cartesian_prod(*(torch.arange(side),) * 2) - centres[:, None]
    return -apart.square().sum(-1) * math.pi * (order + 1) / places


class CrossAttention(nn.Module):
    """Queries (B, Q, D) look at features (B, N, F); `bias` (Q, N) is added to the scores."""

    def __init__(self, width: int, heads: int, features: int):
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.both = nn.Linear(features, 2 * width)

    def forward(self, x: torch.Tensor, features: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        query = self.query(x).view(batch, length, self.heads, -1).transpose(1, 2)
        both = self.both(features).view(batch, features.shape[1], 2, self.heads, -1)
        key, value = both.permute(2, 0, 3, 1, 4)
        seen = attend(query, key, value, bias[None, None])
        return self.out(seen.transpose(1, 2).reshape(batch, length, width))


class CausalBlock(nn.Module):
    """Causal self-attention, attention to features where there are any, feed-forward."""

    def __init__(self, width: int, heads: int, features: int | None):
        super().__init__()
        self.self_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, heads)
        self.cross_norm = nn.LayerNorm(width) if features else None
        self.cross = CrossAttention(width, heads, features) if features else None
        self.mlp = MLP(width, 3 * width, width)

    def forward(
        self,
        x: torch.Tensor,
        features: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x = x + self.attention(self.self_norm(x))
        if self.cross is not None and self.cross_norm is not None:
            assert features is not None and bias is not None
            x = x + self.cross(self.cross_norm(x), features, bias)
        return x + self.mlp(self.mlp_norm(x))


class CausalQFormer(nn.Module):
    """Features (B, N, F) -> causal embeddings (B, queries, width): the k-th depends on the
    features and on the queries up to k alone."""

    def __init__(self, config: SeedConfig):
        super().__init__()
        features, places = config.teacher_config.width, config.teacher_config.places
        # as large as what is added to them: queries that start alike stay alike, as do their codes
        self.queries = nn.Parameter(torch.randn(config.queries, config.width))
        self.windows = nn.Parameter(windows(config.queries, places))
        self.blocks = nn.ModuleList(
            CausalBlock(config.width, config.heads, features) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.queries.expand(len(features), -1, -1)
        for block in self.blocks:
            x = block(x, features, self.windows)
        return self.norm(x)


class ReverseQFormer(nn.Module):
    """Code vectors (B, queries, D), `absent` where there is none -> (B, places, D), one for every
    feature of the frozen encoder."""

    def __init__(self, config: SeedConfig):
        super().__init__()
        places, width = config.teacher_config.places, config.width
        self.absent = nn.Parameter(torch.randn(width) * 0.02)
        self.order = nn.Parameter(torch.randn(config.queries, width) * 0.02)
        self.places = nn.Parameter(torch.randn(places, width) * 0.02)
        self.windows = nn.Parameter(windows(config.queries, places).T.contiguous())
        self.read = nn.ModuleList(Block(width, config.heads) for _ in range(2))
        self.cross = nn.ModuleList(
            CrossAttention(width, config.heads, width) for _ in range(config.reverse_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.reverse_layers))
        self.blocks = nn.ModuleList(
            Block(width, config.heads) for _ in range(config.reverse_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, vectors: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """given: (B,) codes that are there, of each row."""
        steps = torch.arange(vectors.shape[1], device=vectors.device)
        there = (steps < given[:, None])[..., None]
        codes = torch.where(there, vectors, self.absent) + self.order
        for block in self.read:
            codes = block(codes)
        x = self.places.expand(len(vectors), -1, -1)
        for norm, cross, block in zip(self.norms, self.cross, self.blocks, strict=True):
            x = block(x + cross(norm(x), codes, self.windows))
        return self.norm(x)


class Prior(nn.Module):
    """A small causal transformer over code vectors: bits that the next code still takes."""

    def __init__(self, config: SeedConfig):
        super().__init__()
        width = config.prior_width
        self.embed = nn.Linear(config.width, width)
        self.first = nn.Parameter(torch.zeros(width))
        self.position = nn.Parameter(torch.randn(config.queries, width) * 0.02)
        self.blocks = nn.ModuleList(
            CausalBlock(width, width // 32, None) for _ in range(config.prior_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.codebook_size)

    def forward(self, vectors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy (nats a code) of codes (B, Q), from the vectors before each."""
        x = torch.cat([self.first.expand(len(vectors), 1, -1), self.embed(vectors[:, :-1])], 1)
        x = x + self.position
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1).float(), codes.flatten())


class SeedTokenizer(Codec):
    """The codec; see the module's picture. `decode` draws with the seed, steps and guidance of
    `sampling`; the same codes and settings give the same picture, whatever else is in the batch."""

    kind = "seed"
    Config = SeedConfig
    config: SeedConfig
    training_state = ("prior.", "to_text.")  # code_to_text, too

    def __init__(self, config: SeedConfig):
        super().__init__()
        self.config = config
        teacher = config.teacher_config
        self.teacher = image_tower(teacher).requires_grad_(False)
        self.qformer = CausalQFormer(config)
        self.to_text = nn.Linear(config.width, teacher.out)  # of the last query, stage I
        self.quantizer = FiniteScalar(config.width, config.levels)
        self.code_to_text = nn.Linear(config.width, teacher.out)
        self.prior = Prior(config)
        self.reverse = ReverseQFormer(config)
        self.to_features = nn.Linear(config.width, teacher.width)
        self.to_embedding = nn.Linear(config.width, teacher.out)
        self.flow = FlowDecoder(config.flow_config)
        given = {"steps": config.steps, "guidance": config.guidance}
        self.sampling: dict[str, Any] = {
            "seed": 0, **{name: value for name, value in given.items() if value is not None}
        }  # fmt: skip
        self.unclip = UnclipDecoder(config.unclip) if config.unclip else None

    def _shipped(self) -> dict[str, torch.Tensor]:
        """Without a published encoder, which is read from its own directory."""
        kept = super()._shipped()
        if self.config.teacher_config.folder is None:
            return kept
        return {key: value for key, value in kept.items() if not key.startswith("teacher.")}

    def train(self, mode: bool = True) -> SeedTokenizer:
        """As of any module; the frozen encoder stays as it is."""
        super().train(mode)
        self.teacher.eval()
        return self

    def embeddings(self, pixels: torch.Tensor) -> torch.Tensor:
        """Causal embeddings (B, queries, width) of pictures."""
        with torch.no_grad():
            features, _ = self.teacher(pixels)
        return self.qformer(features)

    @torch.no_grad()
    def encode(self, media: torch.Tensor) -> torch.Tensor:
        self.check_pixels(media)
        return self.quantizer(self.embeddings(media))[1][..., 0]

    def condition(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, k), any prefix of a picture's -> what the decoder draws from, (B, places,
        width).

        Raises:
            ValueError: no code, too many, or one outside the codebook.
        """
        count = codes.shape[1]
        if not 1 <= count <= self.config.queries:
            raise ValueError(f"{count} codes; a picture has 1 to {self.config.queries}")
        whole = F.pad(codes, (0, self.config.queries - count))
        self.spec.check(whole)
        given = torch.full((len(codes),), count, device=codes.device)
        return self.reverse(self.quantizer.embed(whole[..., None]), given)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Any prefix of a picture's codes, (B, 1..queries) -> (B, C, H, W) in [-1, 1]."""
        condition = self.condition(codes)
        if self.unclip is not None:
            embedding = self.to_embedding(condition.mean(1))
            height, width = self.spec.image_size
            return self.unclip.sample(embedding, (height, width), **self.sampling)
        return self.flow.sample(condition, **self.sampling)
