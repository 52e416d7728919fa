"""Key/value cache in buffers that stay: a decode step writes one column in place, copies nothing.

Keys lie (B, heads, head_dim, capacity) in memory on a CPU, values (B, heads, capacity, head_dim):
one query reads both as plain matrices, in two thirds of the time that keys laid the other way take.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

BLOCK = 128  # positions


class BlockLayer(DynamicLayer):
    """One layer's keys and values, (B, heads, length, head_dim), views of larger buffers.

    Args:
        reserve: positions that the first buffers hold; they grow by half when these are full.
    """

    def __init__(self, reserve: int = 0) -> None:
        super().__init__()
        self.reserve, self.length = reserve, 0
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
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.length = end
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return (key_states, value_states) if start == 0 else (self.keys, self.values)

    def _grown(
        self, keys: torch.Tensor, values: torch.Tensor, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Buffers with room for `end` positions, and what was written so far."""
        room = max(end, self.reserve, 0 if self.buffers is None else self.length * 3 // 2)
        capacity = -(-room // BLOCK) * BLOCK
        batch, heads, _, width = keys.shape
        if keys.device.type == "cpu":
            grown = keys.new_empty(batch, heads, width, capacity).transpose(2, 3)
        else:
            grown = keys.new_empty(batch, heads, capacity, width)
        pair = grown, values.new_empty(batch, heads, capacity, values.shape[-1])
        if self.buffers is not None:
            for new, old in zip(pair, self.buffers, strict=True):
                new[:, :, : self.length] = old[:, :, : self.length]
        return pair

    def get_seq_length(self) -> int:
        return self.length


def block_cache(layers: int, reserve: int = 0) -> Cache:
    """An empty cache for a decoder of so many layers, with room for `reserve` positions."""
    return Cache(layers=[BlockLayer(reserve) for _ in range(layers)])
