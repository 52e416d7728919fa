"""The one place that chooses how attention is computed.

On a GPU SDPA, which has flash kernels of its own; where flash-attn is installed and products are
of 16 bits, its kernels for decoding, for prompts that go on from a cache, and for sequences that
share rows. For those SDPA would need a dense mask: without flash-attn they take FlexAttention. On a
CPU plain products, with a block mask for sequences that share rows: there SDPA's kernels cost two
to three times as much at the lengths of a conversation, forward and backward (LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

PRODUCTS, KERNELS = "products", "kernels"
HALVES = (torch.float16, torch.bfloat16)


def implementation(device: str | torch.device) -> str:
    """Name for transformers' `attn_implementation`."""
    return PRODUCTS if torch.device(device).type == "cpu" else KERNELS


@cache
def _flash() -> Any:
    """flash-attn; None where it is not installed, or was built for another torch."""
    if find_spec("flash_attn") is None:
        return None
    try:
        return import_module("flash_attn")
    except (ImportError, OSError):
        return None


def flash(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether flash-attn computes heads of this width and type on a device."""
    if device.type != "cuda" or dtype not in HALVES or width > 256 or width % 8:
        return False
    return _flash() is not None and torch.cuda.get_device_capability(device) >= (8, 0)


def said(device: str | torch.device, dtype: torch.dtype, width: int) -> str:
    """How decoding attends there, and why, in a sentence."""
    place = torch.device(device)
    if place.type == "cpu":
        return "plain products"
    if flash(place, dtype, width):
        return "flash-attn"
    if place.type == "cuda" and _flash() is not None:
        if dtype not in HALVES:
            return f"SDPA: flash-attn computes in 16 bits, and these weights are {dtype}"
        return f"SDPA: flash-attn has no kernel for heads of {width} on this GPU"
    return "SDPA"


def documents(positions: torch.Tensor, dtype: torch.dtype) -> BlockMask | torch.Tensor | None:
    """Who sees whom where sequences share rows, for a decoder's `attention_mask`.

    Args:
        positions: (B, S), of each sequence from its first on.
        dtype: that attention will have outside of autocast.

    Returns:
        Where the sequences end (`ends`) for flash-attn, where it is installed and can compute this
        dtype; else a block mask for FlexAttention. None where neither trains: there the decoder
        makes a mask from the positions by itself.
    """
    if positions.device.type != "cuda":
        return None
    if find_spec("flash_attn") and _computed(dtype, positions.device) in HALVES:
        return ends(positions)
    return block_mask(positions)


def ends(positions: torch.Tensor) -> torch.Tensor:
    """Where sequences end in rows laid end to end, int32 (1, 1, 1, sequences + 1), from 0 on."""
    first = _first(positions).flatten().nonzero()[:, 0]
    return F.pad(first, (0, 1), value=positions.numel()).int()[None, None, None]


def block_mask(positions: torch.Tensor) -> BlockMask:
    """Every position sees those of its own sequence up to itself, as FlexAttention takes it."""
    number = _first(positions).cumsum(1)  # (B, S), of the sequence

    def sees(b: Any, h: Any, query: Any, key: Any) -> Any:
        return (number[b, query] == number[b, key]) & (query >= key)

    (rows, length), device = positions.shape, positions.device
    make = create_block_mask if device.type == "cpu" else _compiled(create_block_mask)
    made: BlockMask = make(sees, rows, None, length, length, device=device)
    return made


def _first(positions: torch.Tensor) -> torch.Tensor:
    """Whether a sequence begins at a position: what does not follow the one before it."""
    return positions.diff(prepend=positions[:, :1]) != 1


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


def _computed(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The type in which products of a type are computed."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return dtype


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """softmax(q k' scale + mask) v; all (B, heads, length, head_dim), mask (1 or B, 1, Q, K)."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    batch, heads, length, width = query.shape
    scale = width**-0.5 if scale is None else scale
    q, k, v = (query * scale).flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
    if mask is None:
        scores = q @ k.transpose(1, 2)  # (B * heads, Q, K)
    else:
        bias = mask.to(q.dtype).expand(batch, heads, length, k.shape[1]).flatten(0, 1)
        scores = torch.baddbmm(bias, q, k.transpose(1, 2))
    return (scores.softmax(-1) @ v).view(batch, heads, length, -1)


def attend_last(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """The last few queries of each row over all that is cached: softmax(q k' scale + bias) v.

    Args:
        query: (B, heads, Q, head_dim). key, value: (B, kv_heads, length, head_dim).
        bias: (B, Q, length), where not every position is seen.

    Returns:
        (B, Q, heads * head_dim)
    """
    batch, heads, count, width = query.shape
    groups = key.shape[1]
    scale = width**-0.5 if scale is None else scale
    if query.device.type != "cpu":
        mask = None if bias is None else bias[:, None].to(query.dtype)
        out = F.scaled_dot_product_attention(
            query, key, value, mask, scale=scale, enable_gqa=heads > groups
        )
        return out.transpose(1, 2).flatten(2)
    q = (query * scale).reshape(batch * groups, heads // groups * count, width)
    scores = torch.bmm(q, key.flatten(0, 1).transpose(1, 2))  # (B * kv_heads, Q of a group, K)
    if bias is not None:
        scores.view(batch, heads, count, -1).add_(bias[:, None])
    out = torch.bmm(scores.softmax(-1), value.flatten(0, 1)).view(query.shape)
    return out.transpose(1, 2).flatten(2)


def visible(columns: torch.Tensor, length: int, dtype: torch.dtype, width: int) -> torch.Tensor:
    """What a row's queries see of a cache of fixed length, for `attend_rows`.

    Args:
        columns: (B, T), the last one that each query sees.
        dtype, width: of the heads.

    Returns:
        How many columns each row sees, int32 (B,), where flash-attn is to attend, to one query a
        row; else what is added to scores, (B, T, length).
    """
    if columns.shape[1] == 1 and flash(columns.device, dtype, width):
        return columns[:, 0].int() + 1
    seen = torch.arange(length, device=columns.device) <= columns[..., None]
    bias = torch.zeros(seen.shape, dtype=dtype, device=columns.device)
    return bias.masked_fill_(~seen, torch.finfo(dtype).min)


def attend_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """T queries a row over a cache of fixed length, no number of which is looked at.

    Args:
        query: (B, T, heads, head_dim). key, value: (B, kv_heads, length, head_dim).
        seen: of `visible`.

    Returns:
        (B * T, heads * head_dim)
    """
    batch, count, heads, width = query.shape
    groups = key.shape[1]
    if seen.dtype == torch.int32:
        kept = key.transpose(1, 2), value.transpose(1, 2)
        out: torch.Tensor = _flash().flash_attn_with_kvcache(
            query, *kept, cache_seqlens=seen, softmax_scale=scale
        )
        return out.reshape(batch * count, heads * width)
    share = heads // groups  # heads of one key: they stand as so many positions of it
    q = query.reshape(batch, count, groups, share, width).transpose(1, 2)
    mask = seen[:, None, :, None].expand(-1, 1, -1, share, -1).flatten(2, 3)
    out = attend(q.reshape(batch, groups, count * share, width), key, value, mask, scale)
    out = out.view(batch, groups, count, share, width).transpose(1, 2)
    return out.reshape(batch * count, heads * width)


def attend_causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """The last positions of a sequence, each over those before it and itself, on a GPU.

    Args:
        query: (positions, heads, head_dim). key, value: (kv_heads, length, head_dim).

    Returns:
        (positions, heads * head_dim)
    """
    count, heads, width = query.shape
    length = key.shape[1]
    if flash(query.device, query.dtype, width):  # aligned to the last position
        kept = key.transpose(0, 1)[None], value.transpose(0, 1)[None]
        made: torch.Tensor = _flash().flash_attn_func(
            query[None], *kept, softmax_scale=scale, causal=True
        )
        return made.reshape(count, heads * width)
    share = heads // len(key)
    if share > 1:
        key, value = (x.repeat_interleave(share, 0) for x in (key, value))
    parts = query.transpose(0, 1)[None], key[None], value[None]
    if count == length:
        out = F.scaled_dot_product_attention(*parts, is_causal=True, scale=scale)
    else:
        at = torch.arange(length - count, length, device=query.device)
        hidden = torch.arange(length, device=query.device) > at[:, None]
        mask = torch.zeros(hidden.shape, dtype=query.dtype, device=query.device)
        mask.masked_fill_(hidden, torch.finfo(query.dtype).min)
        out = F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale)
    return out[0].transpose(0, 1).reshape(count, heads * width)


def _products(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`attend` in the form that transformers' decoders call; keys may have fewer heads."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    return attend(query, key, value, attention_mask, scaling).transpose(1, 2), None


def _kernels(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA, or what `documents` gives a mask for; (B, heads, S, head_dim) -> (B, S, heads, ...)."""
    flex = isinstance(attention_mask, BlockMask)
    if not flex and (attention_mask is None or attention_mask.dtype != torch.int32):
        mixed: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return mixed
    dtype = _computed(query.dtype, query.device)  # norms and rotations leave float32 behind
    query, key, value = (x.to(dtype) for x in (query, key, value))
    if not flex:
        return _varlen(query, key, value, attention_mask, scaling), None
    run: Callable[..., Any] = flex_attention
    if query.device.type != "cpu":
        run = _compiled(flex_attention)
    out = run(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: Any, scale: float | None
) -> torch.Tensor:
    """flash-attn over the sequences of all rows, laid end to end."""
    from flash_attn import flash_attn_varlen_func

    rows, length = query.shape[0], query.shape[2]
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))  # (B * S, heads, ...)
    bounds = ends.flatten()
    mixed: torch.Tensor = flash_attn_varlen_func(
        q, k, v, bounds, bounds, length, length, softmax_scale=scale, causal=True
    )
    return mixed.unflatten(0, (rows, length))


AttentionInterface.register(PRODUCTS, _products)
AttentionMaskInterface.register(PRODUCTS, eager_mask)
AttentionInterface.register(KERNELS, _kernels)
AttentionMaskInterface.register(KERNELS, sdpa_mask)
