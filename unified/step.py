"""A token of each row, or a few, through the decoder, with nothing done that a step before did.

    codes -> table of aligned codes \\
    text, control ids -> embedding --> (norm, qkv, rope, cache, attention, out,
    slots -> features of a view    -/    norm, gate and up, down) a layer --> norm

The weights are the model's own: q, k and v, and gate and up, are laid one below the other, and the
model's parameters become views of that, so that nothing is held twice. Rotations are computed once;
`aligner(embedding(code))` is, when a code is first met.

Knows the decoders of `unified.configuration.DECODERS` with plain or packed layers. For any other,
such as one that carries adapters, `Step.of` gives None and the model runs as it is. On a CPU the
layers run in C where they can (`unified.column`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unified.choices import Chooser
from unified.column import Column, follows, linear, plain, plain_mlp
from unified.layers import CodeEmbedding
from unified.packed import Part

Product = Callable[[torch.Tensor], torch.Tensor]
DECODERS = ("llama", "qwen2", "qwen3", "chameleon")
TURNED = 4096  # positions whose rotations are computed at first
TURNING = Lock()  # of those that compute more
ROPES = ("default", "linear", "llama3", "yarn")  # a position is turned the same way at any length


@dataclass(frozen=True)
class _Layer:
    """Products and norms of a decoder layer; heads, kv_heads, width of a head, scale of scores."""

    qkv: Product
    out: Product
    gate_up: Product
    down: Product
    before: Product
    between: Product
    head_norm: Product | None
    activation: Product
    heads: int
    kv_heads: int
    width: int
    scale: float


class Step:
    """A decoder's next column. Build it with `of`."""

    def __init__(self, model: Any):
        self.model = model
        config, decoder = model.config.text_config, model.decoder
        self.layers = [_layer(layer, config) for layer in decoder.layers]
        self.norm = _norm(decoder.norm)
        device, dtype = model.device, model.dtype
        self.device = device
        self.cos = self.sin = torch.empty(0)
        self._rotations(min(TURNED, config.max_position_embeddings))
        vocabulary = model.config.vocabulary
        self.image_start, self.slot = vocabulary.image_start, vocabulary.controls.get("slot", -1)
        self.table: torch.Tensor | None = None
        if _plain_codes(model):
            shape = vocabulary.image_size, config.hidden_size
            self.table = torch.empty(shape, device=device, dtype=dtype)
            self.met = torch.zeros(shape[0], dtype=torch.bool, device=device)
        self.mark = mark(model)  # with weights where they now lie
        self.compiled = Column.of(self)
        self.chooser = Chooser.of(self)
        self.lasting = lasting(model)

    @classmethod
    def of(cls, model: Any, last: Step | None = None) -> Step | None:
        """The step of a model: `last` where it still holds, None where the decoder is not known."""
        same = last is not None and last.model is model and last.lasting
        if same and last.mark == mark(model):  # type: ignore[union-attr]
            return last
        if not _known(model):
            return None
        with torch.inference_mode(False), torch.no_grad():  # parameters stay trainable
            return cls(model)

    def _rotations(self, count: int) -> None:
        """Compute those of positions 0..count."""
        positions = torch.arange(count, device=self.model.device)
        like = torch.empty(0, device=self.model.device, dtype=self.model.dtype)
        cos, sin = self.model.decoder.rotary_emb(like, positions[None])
        turned = sin[0, :, None].clone()
        turned[..., : sin.shape[-1] // 2].neg_()  # of the half that `roll` brings there
        with TURNING:
            if count > len(self.cos):  # another thread may have come further meanwhile
                self.sin = turned  # first: by the length of `cos` it is known how far they reach
                self.cos = cos[0, :, None].contiguous()

    def embed(
        self, tokens: Sequence[int], places: Sequence[int], features: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Inputs of a column, (rows, D): see `UnifiedForConditionalGeneration.embed`."""
        model, start = self.model, self.image_start
        ids = torch.tensor(tokens, device=self.device)
        coded = [k for k, token in enumerate(tokens) if token >= start]
        if len(coded) == len(tokens):
            return self.coded(ids - start, self._tensor(places))
        x: torch.Tensor = model.get_input_embeddings()(ids.clamp_max(start - 1))
        if coded:
            x[coded] = self.coded(ids[coded] - start, self._tensor([places[k] for k in coded]))
        if features:
            slots = [k for k, token in enumerate(tokens) if token == self.slot]
            x[slots] = torch.stack(list(features)).to(x.dtype)
        return x

    def _tensor(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, device=self.device)

    def coded(self, codes: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """As the model's."""
        if self.table is None:
            x: torch.Tensor = self.model.coded(codes, places)
            return x
        new = codes[~self.met[codes]]
        if len(new):
            self.table[new] = self.model._codes(new)
            self.met[new] = True
        known, own = self.table[codes], self.model.code_place
        return known if own is None else known + own(places)

    def fill(self) -> None:
        """Compute all of the table."""
        if self.table is not None and not bool(self.met.all()):
            new = (~self.met).nonzero()[:, 0]
            self.table[new] = self.model._codes(new)
            self.met.fill_(True)

    def __call__(
        self,
        x: torch.Tensor,
        positions: Sequence[int],
        cache: Any,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states of a column, (rows, D) -> (rows, D); extends `cache`, which attends.

        Args:
            cache: of layers that have `attend`: those of `unified.cache`.
            bias: (rows, positions so far and this one), added to scores; None: all is seen. C does
                without: of a `RowCache` a position sees the columns of its row up to its own.
        """
        self.reach(max(positions) + 1)
        if self.compiled is not None and follows(cache):
            return self.norm(self.compiled(x, positions, cache, self))
        return self.column(x, torch.tensor(positions, device=x.device), cache, bias)

    def text_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """As the model's, of a few rows (N, D)."""
        head = self.model.text_head
        own = self.compiled is not None and self.model.image_head is not None
        if own and type(head) is nn.Linear and plain(head):
            return linear(head, hidden)
        logits: torch.Tensor = self.model.text_logits(hidden)
        return logits

    def reach(self, count: int) -> None:
        """Know the rotations of positions 0..count."""
        if count > len(self.cos):
            self._rotations(2 * count)

    def column(
        self, x: torch.Tensor, at: torch.Tensor, cache: Any, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """The same with positions as a tensor (rows,), within `reach`: no number is read."""
        cos, sin = self.cos[at], self.sin[at]
        rows = len(x)
        for layer, kept in zip(self.layers, cache.layers, strict=True):
            n, width = layer.heads + layer.kv_heads, layer.width
            mixed = layer.qkv(layer.before(x))
            turned = mixed[:, : n * width].view(rows, n, width)
            if layer.head_norm is not None:
                turned = layer.head_norm(turned)
            turned = torch.addcmul(turned * cos, turned.roll(width // 2, -1), sin)
            key = turned[:, layer.heads :, None]
            value = mixed[:, n * width :].view(rows, layer.kv_heads, 1, width)
            seen = kept.attend(turned[:, : layer.heads], key, value, bias, layer.scale)
            x = x + layer.out(seen)
            gate, up = layer.gate_up(layer.between(x)).chunk(2, -1)
            x = x + layer.down(layer.activation(gate).mul_(up))
        return self.norm(x)


@dataclass(frozen=True)
class Joined:
    """Several linear layers of one input as one."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


class _Norm:
    """`unified.layers.RMSNorm`, of few rows: as few operations as there can be, on CUDA one."""

    def __init__(self, weight: torch.Tensor, eps: float):
        self.weight, self.share, self.tiny = weight, 1 / weight.shape[-1], eps
        self.eps = torch.tensor(eps, device=weight.device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cuda and self.weight.ndim == 1 and self.weight.dtype == x.dtype:
            return F.rms_norm(x, x.shape[-1:], self.weight, self.tiny)
        wide = x if x.dtype == torch.float32 else x.float()
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        normed = wide * torch.addcmul(self.eps, size, size, value=self.share).rsqrt_()
        return normed.mul_(self.weight) if wide is x else normed.to(x.dtype) * self.weight


def _norm(module: Any) -> _Norm:
    return _Norm(module.weight, module.eps)


def _known(model: Any) -> bool:
    config = model.config.text_config
    kind = (config.rope_parameters or {}).get("rope_type", "default")
    if config.model_type not in DECODERS or kind not in ROPES:
        return False
    if getattr(config, "swin_norm", False) or getattr(config, "use_sliding_window", False):
        return False
    return all(
        plain(layer) for parts in map(_products, model.decoder.layers) for layer in sum(parts, ())
    )


def _products(layer: Any) -> tuple[tuple[Any, ...], ...]:
    """The linear layers of a decoder layer, those of one input together."""
    a, m = layer.self_attn, layer.mlp
    return (a.q_proj, a.k_proj, a.v_proj), (a.o_proj,), (m.gate_proj, m.up_proj), (m.down_proj,)


def _plain_codes(model: Any) -> bool:
    """Whether codes have an embedding and aligner of their own, without adapters."""
    table, aligner = model.code_embedding, model.code_aligner
    return type(table) is CodeEmbedding and plain_mlp(aligner)


def mark(model: Any) -> tuple[Any, ...]:
    """What a model computes with: modules, memory and values of weights, adapters, hooks.

    Modules are held, so that none takes the address of another that is gone.
    """
    modules = tuple(model.modules())
    weights = [w for module in modules for w in module._parameters.values() if w is not None]
    return (
        modules,
        tuple((w.data_ptr(), w._version) for w in weights),
        tuple(state for module in modules if (state := _added(module))),
    )


def _added(module: Any) -> tuple[Any, ...]:
    """What is switched on at a module beside its weights: hooks, and peft's adapters."""
    hooks = (*module._forward_pre_hooks, *module._forward_hooks)
    name = "_active_adapter"  # of the class or its own; to ask a module for what it lacks is slow
    if name not in module.__dict__ and not hasattr(type(module), name):
        return hooks
    scales = tuple(getattr(module, "scaling", {}).items())
    merged = tuple(getattr(module, "merged_adapters", ()))
    return (*hooks, str(module._active_adapter), module._disable_adapters, merged, scales)


def lasting(model: Any) -> bool:
    """Whether a change of weights shows in `mark`: not of views of an optimizer's flat buffer."""
    groups: list[list[Any]] = []
    if model.config.text_config.model_type in DECODERS:  # whose products are joined
        for group in (group for layer in model.decoder.layers for group in _products(layer)):
            if type(group[0]) is nn.Linear:
                groups += [[part.weight for part in group]]
                groups += [[part.bias for part in group]] if group[0].bias is not None else []
    else:
        groups += [[p] for p in model.decoder.parameters()]
    codes = (model.code_embedding, model.code_aligner)
    groups += [[p] for part in codes if part is not None for p in part.parameters()]
    return all(
        p.untyped_storage().nbytes() in (p.nbytes, sum(q.nbytes for q in group))
        for group in groups
        for p in group
    )


def _layer(layer: Any, config: Any) -> _Layer:
    attention = layer.self_attn
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    qkv, out, gate_up, down = (_product(group) for group in _products(layer))
    return _Layer(
        qkv, out, gate_up, down,
        _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm),
        _head_norm(attention, heads, kv_heads), layer.mlp.act_fn,
        heads, kv_heads, attention.head_dim, attention.scaling,
    )  # fmt: skip


def _product(layers: Sequence[Any]) -> Product:
    """Layers of one input as one product."""
    first = layers[0]
    if isinstance(first, Part):
        whole: nn.Module = first.whole
        return whole
    if len(layers) == 1:
        return first  # type: ignore[no-any-return]
    weight, bias = _shared([layer.weight for layer in layers]), None
    if first.bias is not None:
        bias = _shared([layer.bias for layer in layers])
    return Joined(weight, bias)


def _shared(parts: Sequence[nn.Parameter]) -> torch.Tensor:
    """Parameters one below the other, as one tensor of which they become views.

    They are copied where they are views of something already, such as an optimizer's flat buffer.
    """
    first, at = parts[0], parts[0].data_ptr()
    following = []
    for part in parts:
        following.append(part.is_contiguous() and part.data_ptr() == at)
        at += part.nbytes
    size = sum(len(part) for part in parts)
    if all(following) and len({p.untyped_storage().data_ptr() for p in parts}) == 1:
        return first.data.as_strided((size, *first.shape[1:]), first.stride())
    whole = torch.cat([part.data for part in parts])
    if all(part.untyped_storage().nbytes() == part.nbytes for part in parts):
        start = 0
        for part in parts:
            part.data = whole[start : start + len(part)]
            start += len(part)
    return whole


def _head_norm(attention: Any, heads: int, kv_heads: int) -> Any:
    """The norms of queries and keys, for heads of both together; None where there are none."""
    query, key = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    if query is None or key is None:
        return None
    both = [(query, heads), (key, kv_heads)]
    weight = torch.cat([norm.weight.expand(n, attention.head_dim) for norm, n in both])
    if getattr(query, "bias", None) is None:  # of Qwen3: one weight for all heads
        return _Norm(weight, query.eps)
    bias = torch.cat([norm.bias.expand(n, attention.head_dim) for norm, n in both])
    return lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-5) * weight + bias  # of Chameleon
