"""Weights of codecs in fewer bytes: halves, or rows of int8 with a scale each.

What is read back is float32 again: this saves disk, not work. Knows tensors, not codecs.
"""

from __future__ import annotations

import torch

SCALE = ".scale"  # of a row of int8, beside its key
SMALLEST = 32  # columns from which a row is worth a scale of its own


def pack(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Float weights as `dtype`. With int8, rows of matrices become whole steps of their largest
    value / 127 (round to nearest: an error of at most half a step), all else float16."""
    if dtype != torch.int8:
        return {key: value.to(dtype) if value.is_floating_point() else value
                for key, value in weights.items()}  # fmt: skip
    packed: dict[str, torch.Tensor] = {}
    for key, value in weights.items():
        if not value.is_floating_point():
            packed[key] = value
        elif value.ndim < 2 or value.shape[-1] < SMALLEST:
            packed[key] = value.half()
        else:
            # float16, and none so small that it is rounded itself
            scale = (value.abs().amax(-1, keepdim=True) / 127).clamp_min(2**-14).half()
            packed[key] = (value / scale.float()).round().clamp(-127, 127).to(torch.int8)
            packed[key + SCALE] = scale
    return packed


def unpack(packed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `pack` was given, but for rounding; floats as float32."""
    weights: dict[str, torch.Tensor] = {}
    for key, value in packed.items():
        if key.endswith(SCALE) and key.removesuffix(SCALE) in packed:
            continue
        scale = packed.get(key + SCALE)
        if scale is not None:
            value = value.float() * scale.float()
        weights[key] = value.float() if value.is_floating_point() else value
    return weights


def stored(packed: dict[str, torch.Tensor]) -> torch.dtype:
    """The type that `pack` was given."""
    if any(key.endswith(SCALE) for key in packed):
        return torch.int8
    floats = (value.dtype for value in packed.values() if value.is_floating_point())
    return next(floats, torch.float32)
