"""Linear layers whose weights are packed for decoding on a CPU: 16, 8 or 4 bits each.

A step of decoding reads every weight once for a row or two, so its time is that of reading them.
The product is in C (step.c). What a row gives does not depend on the rows beside it.

    half    fp16; inputs and sums in fp32
    int8    a scale for each output (symmetric); inputs rounded to 16 bits, with a scale for 32 each
    int4    a scale and a zero in fp16 for 32 inputs each (5 bits a weight); heads are int8

Packed weights are read only: they cannot be trained, saved or moved to a GPU. On CUDA there is half
alone, which packs nothing: the model is in bf16, or in fp16 where the GPU has no bf16 units.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import nn

from unified.native import Weights, library
from unified.precision import fast_bf16

KINDS = ("half", "int8", "int4")
UNIT = 32  # inputs that lie together, as in step.c
TILE, LANES = 4, 16  # outputs that do, of 16 bits and of fewer
GROUP = UNIT  # inputs that share a scale and a zero, int4
LARGEST = torch.finfo(torch.float16).max
TINY = 2**-24  # the smallest fp16 above 0


class Packed(nn.Module):
    """y = W x + b. A kind of it says how W is coded.

    Args:
        size: (N, K).
        codes: (tiles, K / UNIT, bytes) uint8, what stands for UNIT inputs of a tile of outputs.
        scale, bias: (N,) float32 or None.
    """

    bits: ClassVar[int]

    def __init__(
        self, size: tuple[int, ...], codes: torch.Tensor, scale: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ):  # fmt: skip
        super().__init__()
        self.outputs, self.inputs = size
        self.units = codes.shape[1]
        # no buffers: they would change their dtype with the model's
        self.codes, self.scale = codes.contiguous(), scale
        self.bias = None if bias is None else bias.float().contiguous()
        self.bytes = self.codes.nbytes + (0 if scale is None else scale.nbytes)
        library()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != self.inputs or x.device.type != "cpu":
            raise ValueError(f"inputs of shape {tuple(x.shape)} on {x.device}; packed weights take"
                             f" {self.inputs} each, on the CPU")  # fmt: skip
        rows = x.reshape(-1, self.inputs).float().contiguous()
        if self.inputs % UNIT:
            rows = nn.functional.pad(rows, (0, -self.inputs % UNIT))
        y, room = rows.new_empty(len(rows), self.outputs), torch.empty_like(rows)
        library().product(
            self.weights(), rows.data_ptr(), y.data_ptr(), len(rows), room.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return y.view(*x.shape[:-1], self.outputs)

    def weights(self) -> Weights:
        """Where they lie."""
        parts = (self.codes, self.scale, self.bias)
        places = (None if part is None else part.data_ptr() for part in parts)
        return Weights(*places, self.outputs, self.units * UNIT, self.bits)


def _tiled(part: torch.Tensor, tile: int) -> torch.Tensor:
    """(N, units, …) -> (N / tile, units, tile, …), outputs filled up with zeros."""
    whole = torch.cat([part, part.new_zeros(-len(part) % tile, *part.shape[1:])])
    return whole.unflatten(0, (-1, tile)).transpose(1, 2)


def _bytes(part: torch.Tensor) -> torch.Tensor:
    """(tiles, units, …) of any kind -> (tiles, units, bytes)."""
    return part.contiguous().flatten(2).view(torch.uint8)


def _words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes (N, units, UNIT) uint8 -> (tiles, units, words of an output / 2, LANES, 2, in a word).

    Two words of 16 bits hold, the lowest bits first, the first and the second of pairs of inputs.
    """
    each = 16 // bits
    return _tiled(codes, LANES).unflatten(-1, (-1, each, 2)).permute(0, 1, 3, 2, 5, 4)


def _filled(weight: torch.Tensor) -> torch.Tensor:
    """(N, K) -> (N, units, UNIT) float32, inputs filled up with zeros."""
    whole = nn.functional.pad(weight.float(), (0, -weight.shape[1] % UNIT))
    return whole.unflatten(1, (-1, UNIT))


def _check_half(weight: torch.Tensor) -> None:
    if not weight.abs().max() <= LARGEST:
        raise ValueError(f"a weight beyond {LARGEST:.0f} has no fp16; load without weights=")


class Half(Packed):
    """W in fp16. weight (N, K), bias (N,) or None."""

    bits = 16

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        _check_half(weight)
        codes = _bytes(_tiled(_filled(weight).half(), TILE))
        super().__init__(tuple(weight.shape), codes, bias=bias)


class Int8(Packed):
    """W in 8 bits, a scale for each output."""

    bits = 8

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        scale = weight.float().abs().amax(1).clamp_min(1e-12) / 127
        codes = (_filled(weight) / scale[:, None, None]).round_().to(torch.int8)
        words = _words(codes.view(torch.uint8), self.bits)
        super().__init__(tuple(weight.shape), _bytes(words), scale, bias)


class Int4(Packed):
    """W in 4 bits, w = q scale + zero for each group of inputs."""

    bits = 4

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        inputs = weight.shape[1]
        if inputs % GROUP:
            raise ValueError(f"int4 weights need inputs in groups of {GROUP}; here are {inputs}")
        _check_half(weight)
        codes, *pair = _four_bits(_filled(weight))
        words = _words(codes, self.bits)
        parts = [words[..., 0::2] | words[..., 1::2] << 4, *(_tiled(own, LANES) for own in pair)]
        super().__init__(tuple(weight.shape), torch.cat(list(map(_bytes, parts)), -1), bias=bias)


def _four_bits(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, K/G, G) -> codes 0..15 (N, K/G, G) uint8, scale and zero (N, K/G) float16.

    Of several ranges, cut by up to a fifth, a group takes the one with the smallest square error.
    """
    low, high = groups.aminmax(dim=-1, keepdim=True)
    middle = (low + high) / 2
    best = torch.full_like(low, torch.inf)
    codes = torch.zeros(groups.shape, dtype=torch.uint8)
    scale, zero = (torch.zeros(low.shape, dtype=torch.float16) for _ in range(2))
    for cut in (1.0, 0.95, 0.9, 0.85, 0.8):
        step = ((high - low) * (cut / 15)).half().clamp_min(TINY)
        start = (middle - (high - low) * (cut / 2)).half()
        tried = ((groups - start.float()) / step.float()).round_().clamp_(0, 15)
        error = (tried * step.float() + start.float() - groups).square_().sum(-1, True)
        better = error < best
        best = torch.where(better, error, best)
        codes = torch.where(better, tried.to(torch.uint8), codes)
        scale, zero = torch.where(better, step, scale), torch.where(better, start, zero)
    return codes, scale[..., 0], zero[..., 0]


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
    library()


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
    return sum(part.bytes for part in module.modules() if isinstance(part, Packed))
