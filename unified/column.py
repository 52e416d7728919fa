"""A decoder's layers over the tokens of a step, and of short prompts, in C: `Step.column` without a
return to Python.

    x, rotations, cache -> (norm, qkv, rope, cache, attention, out, norm, gate and up, down) a layer

Reads the weights where they lie, plain fp32 ones or packed ones, and a `RowCache` in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.activations import SiLUActivation

from unified.cache import RowCache
from unified.layers import MLP
from unified.native import Layer, Shape, Weights, available, library, threaded
from unified.packed import UNIT, Packed, Part

if TYPE_CHECKING:
    from unified.step import Step

LANES = 16  # of a vector, as in step.c
KEPT = None, torch.float32, torch.float16
TOKENS = 256  # of a call, which bounds its memory: a row's are in order, and see those before
SILU = nn.SiLU, SiLUActivation


class Column:
    """What C reads of a step, as long as the step holds. Build it with `of`."""

    def __init__(self, layers: Sequence[Any], products: Sequence[Sequence[Weights]], eps: float):
        first, size = layers[0], products[0][0].inputs
        self.held = [held(_parts(own)) for own in layers]  # where they lie they have to stay
        self.layers = (Layer * len(layers))()
        for into, weights, own in zip(self.layers, products, layers, strict=True):
            into.qkv, into.out, into.gate_up, into.down = weights
            norms = own.before, own.between, own.head_norm
            into.before, into.between, into.head_norm = (
                None if norm is None else norm.weight.data_ptr() for norm in norms
            )
        self.shape = Shape(
            len(layers), size, first.heads, first.kv_heads, first.width, products[0][3].inputs,
            first.scale, eps, 32,
        )  # fmt: skip
        heads, mixed = first.heads * first.width, products[0][0].outputs
        inner = self.shape.inner
        self.floats = size + mixed + heads + 3 * inner + max(size, heads, inner)  # of a token

    @classmethod
    def of(cls, step: Step) -> Column | None:
        """None where it cannot be: on a GPU, in bf16, without a compiler, of sizes that are no
        whole vectors, or where a layer is none that step.c knows."""
        layers, products = step.layers, []
        for layer in layers:
            found = [weights(own) for own in (layer.qkv, layer.out, layer.gate_up, layer.down)]
            products.append([own for own in found if own is not None])
        norms = [getattr(own, "tiny", None) for layer in layers for own in _norms(layer)]
        width = layers[0].width
        if (
            min(map(len, products)) < 4
            or len(set(norms)) > 1
            or norms[0] is None
            or not all(readable(own.weight) for layer in layers for own in _norms(layer))
            or not all(isinstance(layer.activation, SILU) for layer in layers)
            or width % LANES
            or step.cos.shape[-1] != width
            or step.cos.dtype != torch.float32
            or not available()
            or not (threaded() or torch.get_num_threads() == 1 or isinstance(layers[0].qkv, Packed))
        ):
            return None
        return cls(layers, products, norms[0])

    def __call__(
        self, x: torch.Tensor, positions: Sequence[int], cache: RowCache, step: Step
    ) -> torch.Tensor:
        """Hidden states before the last norm, (tokens, D); see `Step.__call__`."""
        shape = Shape.from_buffer_copy(self.shape)
        buffers = cache.begin(shape.kv_heads, shape.width)
        count, (_, capacity) = len(x), cache.place.capacity
        assert count == len(positions) == len(cache.place.targets) and capacity % LANES == 0
        assert all(own.dtype in KEPT for pair in buffers for own in pair)
        layers = type(self.layers).from_buffer_copy(self.layers)  # another thread has its own
        shape.bits = 8 * buffers[0][0].element_size()
        for own, (keys, values) in zip(layers, buffers, strict=True):
            own.keys, own.values = keys.data_ptr(), values.data_ptr()
        cos, sin = step.cos, step.sin  # held: another thread may need longer ones
        out = x.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        rows, columns = zip(*cache.place.targets, strict=True)
        at, threads = torch.tensor((positions, rows, columns)), torch.get_num_threads()
        room = out.new_empty(min(count, TOKENS) * self.floats + threads * capacity)
        for first in range(0, count, TOKENS):
            some = at[:, first : first + TOKENS]
            library().column(
                layers, shape, out[first].data_ptr(), cos.data_ptr(), sin.data_ptr(),
                some[0].data_ptr(), some[1].data_ptr(), some[2].data_ptr(), some.shape[1], capacity,
                room.data_ptr(), threads,
            )  # fmt: skip
        return out

    def __reduce__(self) -> Any:
        """A copy of a step is one without: the weights of a copy lie elsewhere."""
        return type(None), ()


def linear(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """A plain layer of few rows, (rows, inputs) -> (rows, outputs), in C where its weights can be
    read there: memory is read faster than by what torch calls (LOG.md)."""
    own = weights(layer)
    if own is None or not readable(x):
        out: torch.Tensor = layer(x)
        return out
    out, room = x.new_empty(len(x), own.outputs), torch.empty_like(x)
    pointers = x.data_ptr(), out.data_ptr(), len(x), room.data_ptr()
    library().product(own, *pointers, torch.get_num_threads())
    return out


def unhooked(module: nn.Module) -> bool:
    """Whether it does what its class says: has no hooks, and no `forward` of its own."""
    own = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    return not own


def plain(layer: Any) -> bool:
    """Whether it is no more than a product: plain or packed, without an adapter or hooks."""
    own = type(layer) is nn.Linear or type(layer).__module__ == Part.__module__
    return own and unhooked(layer)


def plain_mlp(module: Any) -> bool:
    """Whether it is two plain layers, and nothing else happens there."""
    own = type(module) is MLP and unhooked(module)
    return own and plain(module.up) and plain(module.down)


def follows(cache: Any) -> bool:
    """Whether a cache is one that C can write, and what is next are targets (row, column)."""
    if not isinstance(cache, RowCache) or cache.place.blocks or not cache.place.targets:
        return False
    return cache.place.dtype in KEPT


def weights(product: Any) -> Weights | None:
    """Where a product's weights lie, None where C cannot read them."""
    if isinstance(product, Packed):
        return None if product.inputs % UNIT else product.weights()
    weight, bias = getattr(product, "weight", None), getattr(product, "bias", None)
    if weight is None or not all(readable(x) for x in (weight, bias) if x is not None):
        return None
    outputs, inputs = weight.shape
    if inputs % UNIT:
        return None
    place = None if bias is None else bias.data_ptr()
    return Weights(weight.data_ptr(), None, place, outputs, inputs, 32)


def readable(x: torch.Tensor) -> bool:
    """Whether C can read it as it lies."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous()


def held(parts: Sequence[Any]) -> list[torch.Tensor]:
    """The memory of some plain layers and norms, which C reads; packed ones hold their own."""
    both = [getattr(own, name, None) for own in parts for name in ("weight", "bias")]
    return [one.detach() for one in both if isinstance(one, torch.Tensor)]


def _parts(layer: Any) -> list[Any]:
    return [layer.qkv, layer.out, layer.gate_up, layer.down, *_norms(layer)]


def _norms(layer: Any) -> list[Any]:
    return [own for own in (layer.before, layer.between, layer.head_norm) if own is not None]
