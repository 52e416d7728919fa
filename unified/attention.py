"""The one place that chooses how attention is computed.

flash-attention on a GPU that has it, SDPA on other GPUs, and plain products on a CPU: there SDPA's
kernels cost two to three times as much at the lengths of a conversation, forward and backward
(LOG.md).
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

PRODUCTS = "products"


def implementation(device: str | torch.device) -> str:
    """Name for transformers' `attn_implementation`."""
    if torch.device(device).type == "cpu":
        return PRODUCTS
    return "flash_attention_2" if find_spec("flash_attn") else "sdpa"


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
    """One query a row over all that is cached: softmax(q k' scale + bias) v.

    Args:
        query: (B, heads, head_dim). key, value: (B, kv_heads, length, head_dim).
        bias: (B, length), where a row does not see every position.

    Returns:
        (B, heads * head_dim)
    """
    batch, heads, width = query.shape
    groups = key.shape[1]
    scale = width**-0.5 if scale is None else scale
    if query.device.type != "cpu":
        mask = None if bias is None else bias[:, None, None].to(query.dtype)
        out = F.scaled_dot_product_attention(
            query[:, :, None], key, value, mask, scale=scale, enable_gqa=heads > groups
        )
        return out.reshape(batch, heads * width)
    q = (query * scale).reshape(batch * groups, heads // groups, width)
    scores = torch.bmm(q, key.flatten(0, 1).transpose(1, 2))  # (B * kv_heads, heads a group, K)
    if bias is not None:
        scores.view(batch, heads, -1).add_(bias[:, None])
    return torch.bmm(scores.softmax(-1), value.flatten(0, 1)).view(batch, heads * width)


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


AttentionInterface.register(PRODUCTS, _products)
AttentionMaskInterface.register(PRODUCTS, eager_mask)
