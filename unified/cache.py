"""Key/value cache that grows in blocks: a decode step writes in place instead of copying."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

BLOCK = 128  # positions


class BlockLayer(DynamicLayer):
    """One layer's keys and values, (B, heads, length, head_dim), a view of a larger buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self.buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[-2]
        if self.buffers is None or end > self.buffers[0].shape[-2]:
            capacity = -(-end // BLOCK) * BLOCK
            grown = tuple(
                states.new_empty(*states.shape[:-2], capacity, states.shape[-1])
                for states in (key_states, value_states)
            )
            if self.buffers is not None:
                for new, old in zip(grown, self.buffers, strict=True):
                    new[..., :start, :] = old[..., :start, :]
            self.buffers = (grown[0], grown[1])
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[..., start:end, :] = states
        self.length = end
        self.keys, self.values = (buffer[..., :end, :] for buffer in self.buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length


def block_cache(layers: int) -> Cache:
    """An empty cache for a decoder of so many layers."""
    return Cache(layers=[BlockLayer() for _ in range(layers)])
