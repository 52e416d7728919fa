"""The model: one decoder, decoupled encoders, a head per kind of token.

    text, control ids --> embedding ----------------------\
    picture codes ------> embedding -> aligner (+ place) --> decoder --> text head | image head
    pictures -----------> understanding encoder, aligner -/

Codes that are written in one step (`unified.pattern`) are all predicted from the last position
before the step, from which the image head is aimed at each: by the place of the code, and by those
of the step that are chosen already (`Aim`). That is all that decoding has when it chooses them.

Of a published model some parts may be absent: the encoder, and what codes have beside the decoder's
own embedding and head (`UnifiedImageConfig.shared`).

Knows ids and tensors; nothing of words, sampling or files. Shapes: B rows, S positions, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, PreTrainedModel
from transformers.models.chameleon.modeling_chameleon import ChameleonRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.utils import ModelOutput

from unified import attention
from unified.configuration import UnifiedConfig, UnifiedVisionConfig
from unified.encoders import JanusEncoder, UnderstandingEncoder
from unified.layers import MLP, Aim, CodeEmbedding, RMSNorm
from unified.packed import Blocks

IGNORE = -100  # label of a position without a target
LOGITS = 2**26  # held at once where a loss is computed: 256 MB in fp32
Head = Callable[[torch.Tensor], torch.Tensor]
NORMS = (LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm, ChameleonRMSNorm)


def code_places(ids: torch.Tensor, image_token: int, image_start: int) -> torch.Tensor:
    """Place of every code within its picture, as written, 0 elsewhere. ids (B, S) -> (B, S)."""
    return torch.where(ids >= image_start, _since(ids, image_token) - 1, 0)


def _since(ids: torch.Tensor, token: int) -> torch.Tensor:
    """How far back that token last stood, from each position. ids (B, S) -> (B, S)."""
    steps = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return steps - torch.where(ids == token, steps, 0).cummax(dim=1).values


def _with_fast_norms(decoder: Any) -> Any:
    """The decoder with its RMS norms replaced by ours; names and weights stay."""
    for parent in list(decoder.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, NORMS):
                setattr(parent, name, RMSNorm(norm.weight, norm.variance_epsilon))
    return decoder


def _decoder(config: Any) -> Any:
    """The decoder alone: that of Chameleon comes with a codec, which is kept beside the model."""
    decoder = _with_fast_norms(AutoModel.from_config(config))
    if config.model_type == "chameleon":
        del decoder.vqmodel
    return decoder


def _encoder(vision: Any, out: int) -> nn.Module:
    """The understanding encoder that a configuration asks for."""
    if not isinstance(vision, UnifiedVisionConfig):
        return JanusEncoder(vision, out)
    return UnderstandingEncoder(
        image_size=vision.image_size,
        patch=vision.patch_size,
        channels=vision.num_channels,
        width=vision.hidden_size,
        layers=vision.num_hidden_layers,
        heads=vision.num_attention_heads,
        merge=vision.merge,
        out=out,
    )


@dataclass
class UnifiedOutput(ModelOutput):
    """loss: mean over all targets; text_loss, image_loss: over those of a kind.
    hidden: (B, S, D) where no labels were given."""

    loss: torch.Tensor | None = None
    text_loss: torch.Tensor | None = None
    image_loss: torch.Tensor | None = None
    hidden: torch.Tensor | None = None


class UnifiedForConditionalGeneration(PreTrainedModel):
    """See the module's picture. Decoding lives in `unified.engine`.

    Attributes:
        packed: how the weights are packed (`unified.packed.KINDS`), None where they are plain.
    """

    config_class = UnifiedConfig
    base_model_prefix = "unified"
    main_input_name = "input_ids"
    output_modalities = ("text", "image")
    _supports_sdpa = True
    _supports_flash_attn = True
    supports_gradient_checkpointing = True
    packed: str | None = None

    def __init__(self, config: UnifiedConfig):
        super().__init__(config)
        image, vision = config.image_config, config.vision_config
        width = config.text_config.hidden_size
        own, places = image.shared is None, image.place_embedding
        self.decoder = _decoder(config.text_config)
        self.encoder: Any = _encoder(vision, width) if config.layout.views else None
        self.code_embedding = (
            CodeEmbedding(image.codebook_size, image.embedding_size) if own else None
        )
        self.code_aligner = MLP(image.embedding_size, width, width) if own else None
        self.code_place = nn.Embedding(image.length, width) if places else None
        self.pattern = config.layout.pattern
        self.code_aim = Aim(image.length, width) if self.pattern is not None else None
        if self.pattern is not None and self._slides:
            raise ValueError("this decoder sees a window alone: pattern raster")
        self.text_head = nn.Linear(width, config.vocabulary.text_head, bias=False)
        self.image_head = MLP(width, image.head_size, image.codebook_size) if own else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, UnderstandingEncoder):
            nn.init.normal_(module.position, std=0.02)
        elif isinstance(module, Aim):
            nn.init.zeros_(module.place)
            nn.init.zeros_(module.told.down.weight)
            nn.init.zeros_(module.told.down.bias)
        elif isinstance(module, CodeEmbedding):
            nn.init.normal_(module.weight, std=1.0)

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.decoder.set_input_embeddings(value)

    def embed(
        self, ids: torch.Tensor, places: torch.Tensor, features: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Inputs of the decoder.

        Args:
            ids: (B, S).
            places: (B, S), of each code in its picture (`places`).
            features: (N, slots, D) of the N views in `ids`, in reading order.

        Returns:
            (B, S, D)

        Raises:
            ValueError: as many slots in `ids` as `features` hold are needed.
        """
        vocabulary = self.config.vocabulary
        is_code = ids >= vocabulary.image_start
        x = self.get_input_embeddings()(ids.masked_fill(is_code, 0))
        if is_code.any():
            codes = self.coded(ids[is_code] - vocabulary.image_start, places[is_code])
            x = x.masked_scatter(is_code[..., None], codes.to(x.dtype))
        is_slot = ids == vocabulary.controls.get("slot", -1)
        slots = int(is_slot.sum())
        given = 0 if features is None else features.shape[0] * features.shape[1]
        if slots != given:
            raise ValueError(f"{slots} view slots in the ids, features for {given}")
        if features is not None and slots:
            x = x.masked_scatter(is_slot[..., None], features.to(x.dtype))
        return x

    def places(self, ids: torch.Tensor) -> torch.Tensor:
        """Place of every code in its picture, in the codec's order whatever the order they are
        written in, 0 elsewhere. ids (B, S) -> (B, S)."""
        vocabulary = self.config.vocabulary
        written = code_places(ids, vocabulary.control("image"), vocabulary.image_start)
        if self.pattern is None:
            return written
        return torch.tensor(self.pattern.order, device=ids.device)[written]

    def coded(self, codes: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Codes (N,) at places (N,) of their pictures as the decoder's inputs, (N, D)."""
        x = self._codes(codes)
        return x if self.code_place is None else x + self.code_place(places)

    def _codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (N,) wherever they stand, (N, D)."""
        if self.code_embedding is None or self.code_aligner is None:
            own: torch.Tensor = self.get_input_embeddings()(codes + self.config.image_config.shared)
            return own
        aligned: torch.Tensor = self.code_aligner(self.code_embedding(codes))
        return aligned

    def aim(self, hidden: torch.Tensor, places: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """See `Aim.forward`."""
        assert self.code_aim is not None
        aimed: torch.Tensor = self.code_aim(hidden, places, before)
        return aimed

    def text_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., text and control ids); rows that are the codes' are barred."""
        logits: torch.Tensor = self.text_head(hidden)
        if self.image_head is None:
            rows = self.config.vocabulary.shared_ids
            barred = torch.arange(logits.shape[-1], device=logits.device)
            barred = (barred >= rows.start) & (barred < rows.stop)
            logits = logits.masked_fill(barred, torch.finfo(logits.dtype).min)
        return logits

    def image_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D), aimed where there is a pattern -> (..., codes)."""
        if self.image_head is not None:
            own: torch.Tensor = self.image_head(hidden)
            return own
        rows = self.config.vocabulary.shared_ids
        if isinstance(self.text_head, Blocks):
            block: torch.Tensor = self.text_head.block(rows.start)(hidden)
            return block
        if type(self.text_head) is nn.Linear:  # an adapter's rows cannot be cut out
            return F.linear(hidden, self.text_head.weight[rows.start : rows.stop])
        logits: torch.Tensor = self.text_head(hidden)
        return logits[..., rows.start : rows.stop]

    def hidden(
        self,
        embeds: torch.Tensor,
        *,
        cache: Any = None,
        mask: Any = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The decoder over embedded inputs, (B, S, D) -> (B, S, D); extends `cache` in place."""
        if positions is not None and mask is None and cache is None and not self._slides:
            mask = attention.documents(positions.expand(len(embeds), -1), embeds.dtype)
        out = self.decoder(
            inputs_embeds=embeds,
            past_key_values=cache,
            attention_mask=mask,
            position_ids=positions,
            use_cache=cache is not None,
        )
        states: torch.Tensor = out.last_hidden_state
        return states

    @property
    def _slides(self) -> bool:
        """Whether some layers see a window alone: transformers' own masks say which."""
        kinds = getattr(self.config.text_config, "layer_types", None) or ()
        return "sliding_attention" in kinds

    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> UnifiedOutput:
        """A whole pass without cache.

        Args:
            input_ids: (B, S); rows are padded on the right.
            pixel_values: (N, C, H, W) in [-1, 1], the views in reading order.
            attention_mask: (B, S); not needed for right padding, which causality hides.
            labels: (B, S) ids to predict *at* each position (already shifted), IGNORE elsewhere.
            position_ids: (B, S); where they start again within a row, another sequence begins,
                which sees nothing of the one before it (packing).
        """
        if labels is None:
            hidden = self._pass(input_ids, pixel_values, attention_mask, position_ids)
            return UnifiedOutput(hidden=hidden)
        text, image = self.target_losses(
            input_ids, pixel_values, labels, attention_mask, position_ids
        )
        count = max(1, len(text) + len(image))
        return UnifiedOutput(
            loss=(text.sum() + image.sum()) / count, text_loss=_mean(text), image_loss=_mean(image)
        )

    def _pass(
        self,
        ids: torch.Tensor,
        pixels: torch.Tensor | None,
        mask: torch.Tensor | None,
        positions: torch.Tensor | None,
    ) -> torch.Tensor:
        features = None if pixels is None else self.features(pixels)
        embeds = self.embed(ids, self.places(ids), features)
        return self.hidden(embeds, mask=mask, positions=positions)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures (N, C, H, W) -> features of their views, (N, slots, D).

        Raises:
            ValueError: the model has no encoder.
        """
        if self.encoder is None:
            raise ValueError("this model has no encoder: its pictures stand as codes alone")
        features: torch.Tensor = self.encoder(pixels.to(next(self.encoder.parameters()).dtype))
        return features

    def target_losses(
        self,
        ids: torch.Tensor,
        pixels: torch.Tensor | None,
        labels: torch.Tensor,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of every text target and of every code target, (texts,) and (codes,).

        A head runs only at the positions that have a target of its kind.
        """
        hidden = self._pass(ids, pixels, mask, positions)
        start = self.config.vocabulary.image_start
        is_code = labels >= start
        is_text = (labels >= 0) & ~is_code
        sizes = self.config.vocabulary.text_head, self.config.image_config.codebook_size
        text = self._losses(self.text_logits, hidden[is_text], labels[is_text], sizes[0])
        codes, before = labels[is_code] - start, self._before(hidden, ids, is_code)
        return text, self._losses(self.image_logits, before, codes, sizes[1])

    def _before(
        self, hidden: torch.Tensor, ids: torch.Tensor, is_code: torch.Tensor
    ) -> torch.Tensor:
        """What codes are predicted from, (codes, D): the last position before the step of each,
        aimed. is_code: (B, S), whether a position's next id is a code that is a target."""
        if self.pattern is None or self.code_aim is None:
            return hidden[is_code]
        order, lags = (torch.tensor(table, device=ids.device)
                       for table in (self.pattern.order, self.pattern.lags))  # fmt: skip
        vocabulary = self.config.vocabulary
        written = _since(ids, vocabulary.control("image"))[is_code]
        rows, last = is_code.nonzero(as_tuple=True)
        lag = lags[written]
        back = torch.arange(max(self.pattern.lags), device=ids.device)  # from the last code on
        same = back < lag[:, None]
        codes = ids[rows[:, None], (last[:, None] - back).clamp_min(0)] - vocabulary.image_start
        places = order[(written[:, None] - 1 - back).clamp_min(0)]
        beside = hidden.new_zeros(*same.shape, hidden.shape[-1])
        own = self.coded(codes[same], places[same]).to(beside.dtype)
        beside = beside.masked_scatter(same[..., None], own).sum(1)
        aimed: torch.Tensor = self.code_aim(hidden[rows, last - lag], order[written], beside)
        return aimed

    def _losses(
        self, head: Head, hidden: torch.Tensor, targets: torch.Tensor, size: int
    ) -> torch.Tensor:
        """Cross-entropy of each of (N, D) with one of `size` targets, (N,). Where the logits would
        be the largest tensor of the step they are made in chunks, and again in the backward pass:
        of N x size numbers LOGITS are held at a time."""

        def losses(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(head(x).float(), y, reduction="none")

        rows = max(1, LOGITS // size)
        # processes that share out a head must all call it as often (ZeRO-3), and N differs
        shared_out = any(hasattr(p, "ds_id") for p in self.parameters())
        if len(hidden) <= rows or shared_out or not torch.is_grad_enabled():
            return losses(hidden, targets)
        chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
        return torch.cat([checkpoint(losses, x, y, use_reentrant=False) for x, y in chunks])


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean() if len(values) else values.new_zeros(())


AutoModel.register(UnifiedConfig, UnifiedForConditionalGeneration)
