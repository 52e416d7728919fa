"""The VQ autoencoder of Janus on a CPU: the weights of transformers' JanusVQVAE, run sooner.

    3x3 convolutions     Winograd's F(4x4, 3x3), https://arxiv.org/abs/1509.09308: a quarter of the
                         multiplications, in bands of rows that stay in the processor's cache
    GroupNorm and SiLU   a scale and a shift for each channel, applied as a band is read
    1x1 convolutions     plain products; attention, too

Pictures lie (H, W, channels) in memory. In fp32 the numbers are those of transformers to less than
1e-4. Transformed weights, of large feature maps alone, take four times the memory of plain ones.
Knows nothing of codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

TILE = 4  # pixels along a side of the tiles that are made, each of one with a margin of a pixel
SIDE = TILE + 2
# where polynomials are multiplied, beside infinity; of those tried, these round least: a quarter
# of the largest error at 0, 1, -1, 2 and -2
POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
TILES = 192  # of a band
LEAST = 1536  # pixels of a feature map, so that it is worth reading transformed weights

Affine = tuple[torch.Tensor, torch.Tensor]  # scale and shift of each channel, (channels,)


def transforms(points: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Toom and Cook's, for a kernel of 3 at n - 1 points and infinity.

    Returns:
        back (n - 2, n), kernel (n, 3) and into (n, n): y = back ((kernel g) * (into d)).
    """
    size = len(points) + 1
    whole = np.poly1d(points, r=True)
    back, kernel, into = np.zeros((size - 2, size)), np.zeros((size, 3)), np.zeros((size, size))
    for j, point in enumerate(points):
        others = [p for p in points if p != point]
        factor = np.prod([point - p for p in others])
        back[:, j] = [point**i for i in range(size - 2)]
        kernel[j] = [point**k / factor for k in range(3)]
        into[j, : size - 1] = np.poly1d(others, r=True).coeffs[::-1]
    back[-1, -1] = kernel[-1, -1] = 1
    into[-1] = whole.coeffs[::-1]
    return back, kernel, into


def _squared(matrix: np.ndarray) -> torch.Tensor:
    """For both sides of a tile at once."""
    return torch.from_numpy(np.kron(matrix, matrix)).float()


BACK, KERNEL, INTO = (_squared(matrix) for matrix in transforms(POINTS))


class Conv3:
    """A 3x3 convolution that keeps the size, of what an affine map and SiLU make of its input."""

    def __init__(self, layer: Any):
        self.plain = layer.weight.detach().contiguous(memory_format=torch.channels_last)
        self.outputs, self.inputs = self.plain.shape[:2]
        self.bias = layer.bias.detach()
        self.weight: torch.Tensor | None = None  # (SIDE * SIDE, inputs, outputs), once needed

    def __call__(
        self, x: torch.Tensor, affine: Affine | None = None, add: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(H, W, inputs) -> (H, W, outputs); where there is an `add` of that shape, it is added to
        that, in its place."""
        height, width, _ = x.shape
        uneven = height % TILE or width % TILE
        if uneven or height * width < LEAST or min(self.inputs, self.outputs) < 32:
            out = conv(x if affine is None else _normed(x, affine), self.plain, self.bias)
            return out if add is None else add.add_(out)
        if self.weight is None:
            flat = self.plain.permute(2, 3, 1, 0).reshape(9, -1)
            self.weight = (KERNEL @ flat).view(-1, self.inputs, self.outputs)
        out = x.new_empty(height, width, self.outputs) if add is None else add
        step = max(1, TILES * TILE // width) * TILE
        room = x.new_empty(3, SIDE**2, step * width // TILE**2 * max(self.inputs, self.outputs))
        band = x.new_zeros(step + 2, width + 2, self.inputs)
        for top in range(0, height, step):
            rows = slice(top, min(top + step, height))
            read = _read(x, affine, rows, band)
            self._fill(out[rows], read, add is not None, room)
        return out

    def _fill(self, out: torch.Tensor, band: torch.Tensor, adds: bool, room: torch.Tensor) -> None:
        """Fill some rows, or add to them, from a band of them with its margins. All between lies in
        `room`: memory that the system finds anew for every step costs half of what products do."""
        assert self.weight is not None
        tiles = out.shape[0] * out.shape[1] // TILE**2
        down, right, _ = band.stride()
        shape = SIDE, SIDE, out.shape[0] // TILE, out.shape[1] // TILE, self.inputs
        cut, read = (part[:, : tiles * self.inputs] for part in room[:2])
        cut.view(shape).copy_(band.as_strided(shape, (down, right, TILE * down, TILE * right, 1)))
        torch.mm(INTO, cut, out=read)
        made = room[2, :, : tiles * self.outputs]
        torch.bmm(
            read.view(-1, tiles, self.inputs), self.weight,
            out=made.view(-1, tiles, self.outputs),
        )  # fmt: skip
        done = room[0, : TILE**2, : tiles * self.outputs]
        torch.addmm(self.bias.repeat(tiles), BACK, made, out=done)
        target = _tiled(out)
        if adds:
            target.add_(done.view(target.shape))
        else:
            target.copy_(done.view(target.shape))


def _tiled(band: torch.Tensor) -> torch.Tensor:
    """(rows * TILE, wide * TILE, C) -> its tiles, a view (TILE, TILE, rows, wide, C)."""
    rows, wide = band.shape[0] // TILE, band.shape[1] // TILE
    return band.view(rows, TILE, wide, TILE, -1).permute(1, 3, 0, 2, 4)


def _read(x: torch.Tensor, affine: Affine | None, rows: slice, band: torch.Tensor) -> torch.Tensor:
    """Some rows of what a convolution reads, with a margin of one pixel on each side, in `band`,
    whose columns at the sides are zero."""
    start, height = rows.start - 1, x.shape[0]
    top, bottom = max(0, start), min(height, rows.stop + 1)
    band = band[: rows.stop + 1 - start]
    band[: top - start] = 0
    band[bottom - start :] = 0
    inner = band[top - start : bottom - start, 1:-1]
    if affine is None:
        inner.copy_(x[top:bottom])
    else:
        scale, shift = affine
        F.silu(torch.addcmul(shift, x[top:bottom], scale, out=inner), inplace=True)
    return band


def conv(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int = 1, padding: int = 1
) -> torch.Tensor:
    """A convolution as torch has it, (H, W, inputs) -> (H', W', outputs)."""
    out = F.conv2d(x.permute(2, 0, 1)[None], weight, bias, stride, padding)[0]
    return out.permute(1, 2, 0).contiguous()


def affine(x: torch.Tensor, norm: Any) -> Affine:
    """GroupNorm over (H, W, C) as a scale and a shift of each channel."""
    planes = x.permute(2, 0, 1)[None]
    mean, spread = torch.batch_norm_update_stats(planes, None, None, 0.0)  # of each channel
    groups = norm.num_groups
    mean, spread = mean.view(groups, -1), spread.view(groups, -1)
    middle = mean.mean(1, keepdim=True)
    variance = (spread + (mean - middle).square()).mean(1, keepdim=True)
    scale = norm.weight.view(groups, -1) * (variance + norm.eps).rsqrt()
    return scale.flatten(), (norm.bias.view(groups, -1) - middle * scale).flatten()


def _normed(x: torch.Tensor, how: Affine) -> torch.Tensor:
    """SiLU of an affine map."""
    return F.silu(torch.addcmul(how[1], x, how[0]), inplace=True)


# (H, W, C) -> (H', W', C'); what comes in may be written over
Layer = Callable[[torch.Tensor], torch.Tensor]


def _residual(block: Any) -> Layer:
    first, second = Conv3(block.conv1), Conv3(block.conv2)
    skip = getattr(block, "nin_shortcut", None)

    def layer(x: torch.Tensor) -> torch.Tensor:
        h = first(x, affine(x, block.norm1))
        beside = x if skip is None else F.linear(x, skip.weight.flatten(1), skip.bias)
        return second(h, affine(h, block.norm2), beside)

    return layer


def _attention(block: Any) -> Layer:
    """One head over all places."""
    parts = (block.q, block.k, block.v)
    weight = torch.cat([part.weight.flatten(1) for part in parts])
    bias = torch.cat([part.bias for part in parts])

    def layer(x: torch.Tensor) -> torch.Tensor:
        scale, shift = affine(x, block.norm)
        places = x.flatten(0, 1)  # (H W, C)
        query, key, value = F.linear(torch.addcmul(shift, places, scale), weight, bias).chunk(3, 1)
        seen = ((query * query.shape[1] ** -0.5) @ key.T).softmax(1) @ value
        out = F.linear(seen, block.proj_out.weight.flatten(1), block.proj_out.bias)
        return x + out.view_as(x)

    return layer


def _halve(sampler: Any) -> Layer:
    weight = sampler.conv.weight.contiguous(memory_format=torch.channels_last)
    return lambda x: conv(F.pad(x, (0, 0, 0, 1, 0, 1)), weight, sampler.conv.bias, 2, 0)


def _double(sampler: Any) -> Layer:
    after = Conv3(sampler.conv)

    def layer(x: torch.Tensor) -> torch.Tensor:
        height, width, channels = x.shape
        wide = x[:, None, :, None].expand(height, 2, width, 2, channels)
        return after(wide.reshape(2 * height, 2 * width, channels))

    return layer


def _levels(levels: Any, sampler: str, resample: Callable[[Any], Layer]) -> list[Layer]:
    """Residual blocks, attention after each where there is any, then the change of size."""
    layers: list[Layer] = []
    for level in levels:
        for k, block in enumerate(level.block):
            layers.append(_residual(block))
            if len(level.attn):
                layers.append(_attention(level.attn[k]))
        if hasattr(level, sampler):
            layers.append(resample(getattr(level, sampler)))
    return layers


def _middle(mid: Any) -> list[Layer]:
    first, last = _residual(mid.block_1), _residual(mid.block_2)
    return [first, _attention(mid.attn_1), last]


def _out(part: Any) -> Layer:
    last = Conv3(part.conv_out)
    return lambda x: last(x, affine(x, part.norm_out))


class Autoencoder:
    """Both ways of a JanusVQVAE, its quantizer left out.

    Args:
        model: in fp32, on a CPU.
    """

    def __init__(self, model: Any):
        encoder, decoder = model.encoder, model.decoder
        self.mark = _mark(model)
        self.inward: list[Layer] = [
            Conv3(encoder.conv_in), *_levels(encoder.down, "downsample", _halve),
            *_middle(encoder.mid), _out(encoder), _point(model.quant_conv),
        ]  # fmt: skip
        self.outward: list[Layer] = [
            _point(model.post_quant_conv), Conv3(decoder.conv_in),
            *_middle(decoder.mid), *_levels(decoder.up, "upsample", _double),
            _out(decoder),
        ]  # fmt: skip

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any, last: Autoencoder | None = None) -> Autoencoder | None:
        """That of a model: `last` where it still holds; None where there is none: on a GPU, in
        another dtype, or of other layers than Janus has."""
        if model.device.type != "cpu" or model.dtype != torch.float32 or not _known(model):
            return None
        if last is not None and last.mark == _mark(model):
            return last
        return cls(model)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> latents (B, h, w, code width)."""
        return torch.stack([_through(self.inward, x.permute(1, 2, 0)) for x in pixels])

    def decode(self, vectors: torch.Tensor) -> torch.Tensor:
        """What codes stand for (B, h, w, code width) -> (B, C, H, W)."""
        drawn = torch.stack([_through(self.outward, x) for x in vectors])
        return drawn.permute(0, 3, 1, 2).contiguous()


def _point(layer: Any) -> Layer:
    """A 1x1 convolution."""
    return lambda x: F.linear(x, layer.weight.flatten(1), layer.bias)


def _through(layers: list[Layer], x: torch.Tensor) -> torch.Tensor:
    x = x.contiguous()
    for layer in layers:
        x = layer(x)
    return x


def _known(model: Any) -> bool:
    """Whether all residual blocks skip by a 1x1 convolution or by nothing."""
    return not any(name.endswith("conv_shortcut") for name, _ in model.named_modules())


def _mark(model: Any) -> tuple[tuple[int, int], ...]:
    """What was built from the weights holds while this stays."""
    return tuple((p.data_ptr(), p._version) for p in model.parameters())
