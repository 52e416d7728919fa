"""Linear layers whose weights are packed for decoding on a CPU: 16, 8 or 4 bits each.

A step of decoding reads every weight once for a row or two, so its time is that of reading them.
Sums are in fp32 throughout, and what a row gives does not depend on the rows beside it.

    half    fp16, FBGEMM; the fastest 16-bit product for few rows where a CPU has no bf16 units
    int8    a scale for each output (symmetric), FBGEMM; inputs as two 7-bit digits, which keeps
            14 bits of them: 8-bit inputs would cost more accuracy than 8-bit weights do
    int4    a scale and a zero for 32 inputs each, torch's own kernel, bf16 inputs; heads are int8

Packed weights are read only: they cannot be trained, saved or moved to a GPU. On CUDA there is half
alone, which packs nothing: the model is in bf16, or in fp16 where the GPU has no bf16 units.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from unified.precision import fast_bf16

KINDS = ("half", "int8", "int4")
GROUP = 32  # inputs that share a scale and a zero, int4
TILE = 64  # outputs that the int4 kernel takes at a time
DIGIT = 63  # of an input: 7 bits with a sign, so that sums of two products fit into 16 bits
LARGEST = torch.finfo(torch.float16).max


@contextmanager
def _fbgemm() -> Iterator[None]:
    """Weights are packed for FBGEMM, by functions that torch deprecates without giving others."""
    before, torch.backends.quantized.engine = torch.backends.quantized.engine, "fbgemm"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        torch.backends.quantized.engine = before


class Half(nn.Module):
    """y = W x + b with W in fp16. weight (N, K), bias (N,) or None."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        if not weight.abs().max() <= LARGEST:
            raise ValueError(f"a weight beyond {LARGEST:.0f} has no fp16; load without weights=")
        self.bytes = weight.numel() * 2
        given = None if bias is None else bias.float().contiguous()
        with _fbgemm():
            self.packed = torch.ops.quantized.linear_prepack_fp16(
                weight.float().contiguous(), given
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if x.dtype == torch.float32 else x.float()
        out: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        return out


class Int8(nn.Module):
    """y = W x + b with W in 8 bits, a scale for each output, and x in two 7-bit digits."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        weight = weight.float()
        self.bytes = weight.numel() + 4 * len(weight)
        self.bias = None if bias is None else bias.float()
        scale = weight.abs().amax(1).clamp_min(1e-12) / 127
        zero = torch.zeros(len(weight), dtype=torch.long)
        with _fbgemm():
            coded = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(coded, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        peak = torch.linalg.vector_norm(rows, torch.inf, 1, keepdim=True)
        scale = peak.clamp_min_(1e-12).reciprocal_().mul_(2 * DIGIT**2)
        whole = rows * scale  # = 2 DIGIT high + low, both within DIGIT
        high = whole.mul(1 / (2 * DIGIT)).round_()
        digits = torch.cat([high, whole.sub_(high, alpha=2 * DIGIT)])
        out = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            digits, 1.0, DIGIT + 1, self.packed
        )
        high, low = out.chunk(2)
        y = torch.add(low, high, alpha=2 * DIGIT).div_(scale)
        if self.bias is not None:
            y += self.bias
        return y.view(*x.shape[:-1], -1)


class Int4(nn.Module):
    """y = W x + b with W in 4 bits, w = (q - 8) scale + zero for each group of inputs."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        self.outputs, inputs = weight.shape
        if inputs % GROUP:
            raise ValueError(f"int4 weights need inputs in groups of {GROUP}; here are {inputs}")
        rows = nn.functional.pad(weight.float(), (0, 0, 0, -self.outputs % TILE))
        codes, scales = _four_bits(rows.view(len(rows), -1, GROUP))
        self.bytes = weight.numel() // 2 + weight.numel() // GROUP * 4
        self.bias = None if bias is None else bias.float()
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.view(rows.shape), 1)
        self.scales = scales.transpose(0, 1).contiguous()  # no buffers: they would change dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).bfloat16()
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, GROUP, self.scales)
        y = out[:, : self.outputs].float()
        if self.bias is not None:
            y += self.bias
        return y.view(*x.shape[:-1], -1)


def _four_bits(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K/G, G) -> codes 0..15 (N, K/G, G) int32, scale and zero (N, K/G, 2) bf16.

    Of several ranges, cut by up to a fifth, a group takes the one with the smallest square error.
    """
    low, high = groups.aminmax(dim=-1, keepdim=True)
    best = torch.full_like(low, torch.inf)
    codes = torch.zeros(groups.shape, dtype=torch.int32)
    kept = torch.zeros(*groups.shape[:-1], 2, dtype=torch.bfloat16)
    for cut in (1.0, 0.95, 0.9, 0.85, 0.8):
        scale = ((high - low) * (cut / 15)).clamp_min(1e-8).bfloat16()
        zero = (low * cut + 8 * scale.float()).bfloat16()
        tried = ((groups - zero.float()) / scale.float() + 8).round_().clamp_(0, 15)
        error = ((tried - 8) * scale.float() + zero.float() - groups).square_().sum(-1, True)
        better = error < best
        best = torch.where(better, error, best)
        codes = torch.where(better, tried.int(), codes)
        kept = torch.where(better, torch.cat([scale, zero], -1), kept)
    return codes, kept


class Part(nn.Module):
    """Outputs start..stop of a product that several layers of one input share.

    The first to be asked computes it for all of them; the last one lets go of it.
    """

    def __init__(self, whole: nn.Module, start: int, stop: int, kept: list[Any], last: bool):
        super().__init__()
        self.whole, self.start, self.stop = whole, start, stop
        self.kept, self.last = kept, last  # [(input, output)], shared; one entry, set at once

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.kept[0]
        if found is None or found[0] is not x:
            found = x, self.whole(x)
        self.kept[0] = None if self.last else found
        out: torch.Tensor = found[1][..., self.start : self.stop]
        return out


class Blocks(nn.Module):
    """A head in blocks of outputs that follow each other, so that one can be asked for alone.

    Args:
        starts: the first output of each block.
    """

    def __init__(self, blocks: Sequence[nn.Module], starts: Sequence[int]):
        super().__init__()
        self.blocks, self.starts = nn.ModuleList(blocks), tuple(starts)

    def block(self, start: int) -> nn.Module:
        """The one whose first output is `start`."""
        return self.blocks[self.starts.index(start)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([block(x) for block in self.blocks], -1)


def joined(layers: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weights and biases of linear layers one below the other, (N, K) and (N,)."""
    biases = [layer.bias for layer in layers]
    weight = torch.cat([layer.weight for layer in layers])
    return weight, None if biases[0] is None else torch.cat(biases)


def check(kind: str, device: str | torch.device) -> None:
    """Whether weights can be packed so on a device.

    Raises:
        ValueError: they cannot; the kinds are listed, or what is missing.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown weights {kind!r}; one of {', '.join(KINDS)}")
    place = torch.device(device).type
    if place == "cuda" and kind == "half":
        return
    if place != "cpu":
        halves = "; half ones work there" if place == "cuda" else ""
        raise ValueError(
            f"{kind} weights are for a CPU; on {place} load without weights= or on device cpu"
            f"{halves}"
        )
    engines = torch.backends.quantized.supported_engines
    if "fbgemm" not in engines or not hasattr(torch, "quantize_per_channel"):
        raise ValueError(f"{kind} weights need FBGEMM; this torch has {', '.join(engines)}")


@torch.no_grad()
def pack(model: Any, kind: str) -> None:
    """Pack the decoder's linear layers and the heads, in place; all else becomes fp32. On CUDA
    all becomes bf16, or fp16.

    Args:
        model: a `UnifiedForConditionalGeneration` with plain layers. kind: one of KINDS.

    Raises:
        ValueError: see `check`; or a size or a weight does not fit.
    """
    check(kind, model.device)
    if model.device.type == "cuda":
        model.to(torch.bfloat16 if fast_bf16(model.device) else torch.float16)
        return
    _pack(model, {"half": Half, "int8": Int8, "int4": Int4}[kind], kind)
    model.float()
    model.packed = kind


def _pack(model: Any, linear: Any, kind: str) -> None:
    head = Int8 if kind == "int4" else linear  # what chooses a token is worth a byte
    for layer in model.decoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        _share(attention, ("q_proj", "k_proj", "v_proj"), linear)
        _share(mlp, ("gate_proj", "up_proj"), linear)
        attention.o_proj = linear(attention.o_proj.weight, attention.o_proj.bias)
        mlp.down_proj = linear(mlp.down_proj.weight, mlp.down_proj.bias)
    rows, weight = model.config.vocabulary.shared_ids, model.text_head.weight
    cuts = sorted({0, rows.start, rows.stop, len(weight)})  # the codes' rows apart, if it has them
    blocks = [head(weight[a:b], None) for a, b in pairwise(cuts)]
    model.text_head = Blocks(blocks, cuts[:-1])
    if model.image_head is not None:
        for name in ("up", "down"):
            layer = getattr(model.image_head, name)
            setattr(model.image_head, name, head(layer.weight, layer.bias))


def _share(module: Any, names: Sequence[str], linear: Any) -> None:
    """Put one packed product in the place of several linear layers of the same input."""
    layers = [getattr(module, name) for name in names]
    whole, start, kept = linear(*joined(layers)), 0, [None]
    for name, layer in zip(names, layers, strict=True):
        stop = start + layer.out_features
        setattr(module, name, Part(whole, start, stop, kept, name == names[-1]))
        start = stop


def packed_bytes(module: nn.Module) -> int:
    """Bytes of packed weights in a module."""
    return sum(m.bytes for m in module.modules() if isinstance(m, Half | Int8 | Int4))
