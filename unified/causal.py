"""Layers that never look ahead in time, whole or chunk by chunk with the same result.

Every layer takes (B, T, ..., D) and the state its past left, None at the beginning, and returns
its output and the state for what follows: `whole(x) == chunks of x one after the other`. Only what
stands between the first axis and the last one differs between sound (nothing) and film (places).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unified.layers import MLP, Block

State = Any  # of a layer: a tensor, or a list of its parts' states; None before the first step


class CausalConv(nn.Module):
    """Depthwise convolution over time: each step sees itself and `kernel - 1` steps before.

    Before the first step there are zeros. A sum of shifted products instead of a convolution
    kernel: at these sizes it is as fast on a CPU and takes any axes between time and width.
    """

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.randn(kernel, width) * kernel**-0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor, past: State = None) -> tuple[torch.Tensor, State]:
        if past is None:
            past = x.new_zeros(x.shape[0], self.kernel - 1, *x.shape[2:])
        length = x.shape[1]
        whole = torch.cat([past, x], 1)
        out = self.bias + whole[:, :length] * self.weight[0]
        for k in range(1, self.kernel):
            out = torch.addcmul(out, whole[:, k : k + length], self.weight[k])
        return out, whole[:, length:]


class CausalBlock(nn.Module):
    """ConvNeXt block (https://arxiv.org/abs/2201.03545), causal, over (B, T, D)."""

    def __init__(self, width: int, kernel: int = 7, ratio: int = 3):
        super().__init__()
        self.mix = CausalConv(width, kernel)
        self.norm = nn.LayerNorm(width)
        self.mlp = MLP(width, ratio * width, width)

    def forward(self, x: torch.Tensor, past: State = None) -> tuple[torch.Tensor, State]:
        mixed, past = self.mix(x, past)
        return x + self.mlp(self.norm(mixed)), past


class FilmBlock(nn.Module):
    """Attention among the places of a frame, then a causal convolution over time, (B, T, N, D)."""

    def __init__(self, width: int, heads: int, kernel: int = 3, ratio: int = 3):
        super().__init__()
        self.within = Block(width, heads, ratio)
        self.norm = nn.LayerNorm(width)
        self.across = CausalConv(width, kernel)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, past: State = None) -> tuple[torch.Tensor, State]:
        batch, steps = x.shape[:2]
        x = self.within(x.flatten(0, 1)).unflatten(0, (batch, steps))
        mixed, past = self.across(self.norm(x), past)
        return x + self.out(F.gelu(mixed)), past


class CausalStack(nn.Module):
    """Causal blocks one after the other; its state is the list of theirs."""

    def __init__(self, blocks: list[nn.Module]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor, past: State = None) -> tuple[torch.Tensor, State]:
        states = []
        for k, block in enumerate(self.blocks):
            x, state = block(x, None if past is None else past[k])
            states.append(state)
        return x, states
