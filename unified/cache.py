"""Key/value cache in buffers that stay: a decode step writes one column in place, copies nothing.

Keys lie (rows, heads, head_dim, capacity) in memory on a CPU, values (rows, heads, capacity,
head_dim): one query reads both as plain matrices, in two thirds of the time that keys laid the
other way take.

    block_cache    all rows write the same columns
    RowCache       each row has a length of its own: rows join and leave, the rest stays in place

Knows nothing of what the rows stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from unified.attention import attend, attend_causal, attend_last

BLOCK = 128  # positions
FIRST = 8  # rows of the first buffers


def _whole(columns: int) -> int:
    """Columns of the blocks that hold so many."""
    return -(-columns // BLOCK) * BLOCK


def _later(start: int, stop: int, device: torch.device) -> torch.Tensor | None:
    """Hides from positions start..stop what comes after each, (1, 1, stop - start, stop); None on
    CUDA, whose kernels do."""
    if device.type == "cuda":
        return None
    shape, lowest = (1, 1, stop - start, stop), torch.finfo(torch.float32).min
    return torch.full(shape, lowest, device=device).triu_(start + 1)


def _repeated(numbers: range, width: int) -> list[int]:
    """So many of the numbers, the last one repeated."""
    return [*numbers, *[numbers[-1]] * (width - len(numbers))]


def _unlike(
    widths: Sequence[int], device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """`taken` and `left` of a `_Place`."""
    most = max(widths, default=1)
    if min(widths, default=1) == most:
        return None, None
    ends = accumulate(widths)
    taken = [_repeated(range(end - n, end), most) for end, n in zip(ends, widths, strict=True)]
    left = [row * most + k for row, n in enumerate(widths) for k in range(n)]
    return torch.tensor(taken, device=device), torch.tensor(left, device=device)


def _kept(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In the dtype of a cache: what is beyond its numbers becomes the largest of them."""
    if x.dtype == dtype:
        return x
    most = torch.finfo(dtype).max
    return x.clamp(-most, most).to(dtype)


def _buffers(
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: int,
    columns: int,
    dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Room for keys and values like these. Zeros: what is masked is multiplied by 0 all the same,
    and memory as it comes may hold NaN."""
    heads, width = keys.shape[1], keys.shape[3]
    capacity, dtype = _whole(columns), dtype or keys.dtype
    if keys.device.type == "cpu":
        made = keys.new_zeros(rows, heads, width, capacity, dtype=dtype).transpose(2, 3)
    else:
        made = keys.new_zeros(rows, heads, capacity, width, dtype=dtype)
    return made, values.new_zeros(rows, heads, capacity, values.shape[3], dtype=dtype)


class BlockLayer(DynamicLayer):
    """One layer's keys and values, (B, heads, length, head_dim), views of larger buffers.

    Args:
        reserve: positions that the first buffers hold; they grow by half when these are full.
        dtype: of the buffers; None: as keys and values come.
    """

    def __init__(self, reserve: int = 0, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.reserve, self.kept, self.length = reserve, dtype, 0
        self.buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[-2]
        if self.buffers is None or end > self.buffers[0].shape[-2]:
            self.buffers = self._grown(key_states, value_states, end)
        keys, values = self.buffers
        keys[:, :, start:end] = _kept(key_states, keys.dtype)
        values[:, :, start:end] = _kept(value_states, keys.dtype)
        self.length = end
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        if start == 0 and keys.dtype == key_states.dtype:
            return key_states, value_states
        return self.keys.to(key_states.dtype), self.values.to(key_states.dtype)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        """Write a column and attend to all there are: query (B, heads, head_dim), key and value
        (B, kv_heads, 1, head_dim), bias (B, length) -> (B, heads * head_dim)."""
        bias = None if bias is None else bias[:, None]
        return attend_last(query[:, :, None], *self.update(key, value), bias, scale)[:, 0]

    def _grown(
        self, keys: torch.Tensor, values: torch.Tensor, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Buffers with room for `end` positions, and what was written so far."""
        room = max(end, self.reserve, 0 if self.buffers is None else self.length * 3 // 2)
        pair = _buffers(keys, values, len(keys), room, self.kept)
        if self.buffers is not None:
            for new, old in zip(pair, self.buffers, strict=True):
                new[:, :, : self.length] = old[:, :, : self.length]
        return pair

    def get_seq_length(self) -> int:
        return self.length


def block_cache(layers: int, reserve: int = 0, dtype: torch.dtype | None = None) -> Cache:
    """An empty cache for a decoder of so many layers, with room for `reserve` positions."""
    return Cache(layers=[BlockLayer(reserve, dtype) for _ in range(layers)])


@dataclass
class _Place:
    """Where the next update writes, the same in every layer.

    Attributes:
        rows: that take part, one after the other.
        start, stop: columns that are written, and 0..stop that are read.
        count, width: positions of these rows together, and of the row that has the most.
        taken, left: where rows have unlike many positions: which of all stands at each of a row,
            (rows, width), one that has fewer repeating its last; and which of these those are,
            (count,). None where all have `width`.
        at: where each row writes columns of its own, their numbers as indices of keys and values,
            (rows, heads, width, head_dim); None: all write start..stop.
        blocks: of other rows, (row, start, stop) and what each position does not see, (1, 1,
            stop - start, stop), to be added to scores; None on CUDA: kernels hide what comes later.
        capacity: (rows, columns) that the buffers must hold.
        targets: row and column of each position of the rows, one after the other.
        dtype: of the buffers; None: as keys and values come.
    """

    rows: slice = field(default_factory=lambda: slice(0))
    start: int = 0
    stop: int = 0
    count: int = 0
    width: int = 1
    taken: torch.Tensor | None = None
    left: torch.Tensor | None = None
    at: tuple[torch.Tensor, torch.Tensor] | None = None
    blocks: tuple[tuple[int, int, int, torch.Tensor | None], ...] = ()
    capacity: tuple[int, int] = (0, 0)
    targets: tuple[tuple[int, int], ...] = ()
    dtype: torch.dtype | None = None

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """Positions of the rows one after the other, (count, …), -> (rows, width, …)."""
        return x.unflatten(0, (-1, self.width)) if self.taken is None else x[self.taken]

    def joined(self, x: torch.Tensor) -> torch.Tensor:
        """Inverse of `spread`."""
        flat = x.flatten(0, 1)
        return flat if self.left is None else flat[self.left]


class _RowLayer(DynamicLayer):
    """One layer of a `RowCache`."""

    def __init__(self, place: _Place) -> None:
        super().__init__()
        self.place, self.held = place, (0, 0)
        self.buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        place = self.place
        if self.held != place.capacity:
            self.make_room(key_states, value_states)
        assert self.buffers is not None
        keys = self.buffers[0][place.rows, :, : place.stop]
        values = self.buffers[1][place.rows, :, : place.stop]
        if place.at is not None:
            keys.scatter_(2, place.at[0], _kept(key_states, keys.dtype))
            values.scatter_(2, place.at[1], _kept(value_states, keys.dtype))
        else:
            keys[:, :, place.start :] = _kept(key_states, keys.dtype)
            values[:, :, place.start :] = _kept(value_states, keys.dtype)
            if not place.start and keys.dtype == key_states.dtype:
                return key_states, value_states
        return keys.to(key_states.dtype), values.to(key_states.dtype)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        """Write the columns of the rows and the blocks, and attend to what each sees.

        Args:
            query: (positions of the rows and of the blocks, heads, head_dim). key, value: (…,
                kv_heads, 1, head_dim). bias: (rows, width, stop), as in
                `unified.attention.attend_last`.

        Returns:
            (positions of the rows and of the blocks, heads * head_dim)
        """
        place = self.place
        first = place.count
        if not place.blocks:
            return self._attend_rows(query, key, value, bias, scale)
        if self.held != place.capacity:
            self.make_room(key, value)
        out = []
        if first:
            rows = (query[:first], key[:first], value[:first])
            out.append(self._attend_rows(*rows, bias, scale))
        for row, start, stop, hidden in place.blocks:
            last = first + stop - start
            parts = (query[first:last], key[first:last, :, 0], value[first:last, :, 0])
            out.append(self._attend_block(*parts, row, start, stop, hidden, scale))
            first = last
        return torch.cat(out)

    def _attend_rows(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        place = self.place
        parts = (place.spread(x).transpose(1, 2) for x in (query, key[:, :, 0], value[:, :, 0]))
        q, k, v = parts  # (rows, heads, width, head_dim)
        return place.joined(attend_last(q, *self.update(k, v), bias, scale))

    def _attend_block(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        row: int,
        start: int,
        stop: int,
        hidden: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        """Some positions of a row, each sees those before it; all (positions, heads, head_dim)."""
        assert self.buffers is not None
        keys, values = (buffer[row : row + 1, :, :stop] for buffer in self.buffers)
        keys[0, :, start:] = _kept(key.transpose(0, 1), keys.dtype)
        values[0, :, start:] = _kept(value.transpose(0, 1), keys.dtype)
        keys, values = keys.to(query.dtype), values.to(query.dtype)
        if hidden is None:
            return attend_causal(query, keys[0], values[0], scale)
        groups = query.shape[1] // keys.shape[1]
        if groups > 1:
            keys, values = (x.repeat_interleave(groups, 1) for x in (keys, values))
        mask = hidden.to(query.dtype)
        seen = attend(query.transpose(0, 1)[None], keys, values, mask, scale)
        return seen[0].transpose(0, 1).flatten(1)

    def make_room(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Buffers as large as they must be now, for keys and values like these."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        old, (rows, columns) = self.buffers, self.held
        self.held = self.place.capacity
        self.buffers = _buffers(keys, values, *self.held, self.place.dtype)
        if old is not None:
            for new, kept in zip(self.buffers, old, strict=True):
                new[:rows, :, :columns] = kept

    def get_seq_length(self) -> int:
        """Positions before the ones that are written next."""
        return self.place.start


class RowCache(Cache):
    """Rows of different lengths. Row r's position p is in column p: nothing is padded on the left,
    what stands beyond a row's end is hidden from it and overwritten as it goes on.

    Before the decoder runs, `block`, `column` or `target` says what it will write.
    """

    def __init__(self, layers: int, most: int = 2**20, dtype: torch.dtype | None = None) -> None:
        """most: rows that there will ever be. dtype: of keys and values; None: as they come."""
        self.place, self.most = _Place(dtype=dtype), most
        super().__init__(layers=[_RowLayer(self.place) for _ in range(layers)])

    def reserve(self, rows: int, columns: int) -> None:
        """Have room for so many. To grow is to copy: rows double, columns grow by half."""
        held = self.place.capacity
        if rows > held[0]:
            held = max(rows, min(self.most, max(FIRST, 2 * held[0]))), held[1]
        if columns > held[1]:
            held = held[0], _whole(max(columns, held[1] * 3 // 2))
        self.place.capacity = held

    def block(self, row: int, start: int, stop: int) -> None:
        """Next, a row alone writes columns start..stop."""
        self.reserve(row + 1, stop)
        place = self.place
        place.rows, place.start, place.stop = slice(row, row + 1), start, stop
        place.at, place.blocks, place.targets = None, (), ()

    def column(
        self,
        columns: Sequence[int],
        device: torch.device,
        blocks: Sequence[tuple[int, int, int]] = (),
        widths: Sequence[int] = (),
    ) -> torch.Tensor | None:
        """Next, rows 0, 1, … write from a column on, and other rows blocks: (row, start, stop).

        Args:
            widths: columns that each row writes, one where left out.

        Returns:
            Their columns as a tensor (rows, width of the widest), the last one repeated; None where
            all write one and the same: then every row sees all that is read.
        """
        place = self.place
        widths = widths or [1] * len(columns)
        written = [range(a, a + n) for a, n in zip(columns, widths, strict=True)]
        stop = max((own.stop for own in written), default=0)
        rows = [len(columns), *(row + 1 for row, _, _ in blocks)]
        self.reserve(max(rows), max([stop, *(end for _, _, end in blocks)]))
        place.count, place.width = sum(widths), max(widths, default=1)
        place.rows, place.start, place.stop = slice(0, len(columns)), stop - place.width, stop
        place.taken, place.left = _unlike(widths, device)
        place.at, place.blocks = None, tuple((*b, _later(*b[1:], device)) for b in blocks)
        place.targets = tuple((row, column) for row, own in enumerate(written) for column in own)
        if place.width == 1 and min(columns, default=-1) == stop - 1:
            return None
        at = torch.tensor([_repeated(own, place.width) for own in written], device=device)
        shapes = [buffer.shape for buffer in self.layers[0].buffers]
        keys, values = (at[:, None, :, None].expand(-1, s[1], -1, s[3]) for s in shapes)
        place.at = keys, values
        return at

    def target(self, targets: Sequence[tuple[int, int]]) -> None:
        """Next, C alone writes these (row, column), those of a row in order: each sees its row's
        up to its own. The columns of their rows before them have been written."""
        rows, columns = (max(own) + 1 for own in zip(*targets, strict=True))
        self.reserve(rows, columns)
        place = self.place
        place.at, place.blocks, place.targets = None, (), tuple(targets)

    def begin(self, heads: int, width: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Every layer's buffers on the CPU, of so many heads, made where there are none."""
        like = torch.empty(1, heads, 1, width, dtype=torch.float32, device="cpu")
        for layer in self.layers:
            if layer.buffers is None:
                layer.make_room(like, like)
        return self.settle(0, 0)

    def settle(self, rows: int, columns: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Every layer's buffers, with room for so many; there are some already."""
        self.reserve(rows, columns)
        for layer in self.layers:
            if layer.held != self.place.capacity:
                layer.make_room(*(buffer[:1, :, :1] for buffer in layer.buffers))
        return [layer.buffers for layer in self.layers]

    def copy(self, source: int, target: int, length: int) -> None:
        """Lay the first columns of a row into another."""
        for layer in self.layers:
            for buffer in layer.buffers:
                buffer[target, :, :length] = buffer[source, :, :length]

    def read(self, row: int, start: int, stop: int) -> torch.Tensor:
        """Keys and values of some columns of a row, (2 layers, heads, stop - start, head_dim)."""
        pairs = (layer.buffers for layer in self.layers)
        return torch.stack([buffer[row, :, start:stop] for pair in pairs for buffer in pair])

    def write(self, row: int, kept: torch.Tensor) -> None:
        """Put what `read` gave into the first columns of a row."""
        length = kept.shape[2]
        self.reserve(row + 1, length)
        for layer, pair in zip(self.layers, kept.unflatten(0, (-1, 2)), strict=True):
            if layer.held != self.place.capacity:
                layer.make_room(*pair[:, None])
            for buffer, columns in zip(layer.buffers, pair, strict=True):
                buffer[row, :, :length] = columns
