"""Muon: momentum, orthogonalized, for the matrices of transformer blocks and for convolutions.

https://kellerjordan.github.io/posts/muon/, scaled as in https://arxiv.org/abs/2502.16982. As
`torch.optim.Muon`, but that one always multiplies in bfloat16, which a CPU without such
instructions emulates at a hundredth of the speed; and matrices of one shape are turned together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

from unified.precision import fast_bf16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic Newton-Schulz iteration


def orthogonalize(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """(N, rows, columns) -> the same singular vectors with singular values of about one."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if fast_bf16(matrices.device) else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)  # spectral norm at most one
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """For matrices, and convolutions as matrices of (out, in * height * width).

    Args:
        lr: the update of every matrix has a root mean square of 0.2 lr, as AdamW's about has, so
            that one learning rate serves both.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for shape, members in alike.items():
                updates = torch.stack(
                    [self._momentum(p, group["momentum"]).flatten(1) for p in members]
                )
                updates = orthogonalize(updates)
                rate = group["lr"] * 0.2 * max(updates.shape[1:]) ** 0.5
                for p, update in zip(members, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update.view(shape), alpha=-rate)

    def _momentum(self, p: torch.Tensor, momentum: float) -> torch.Tensor:
        """Nesterov's."""
        state: dict[str, Any] = self.state[p]
        buffer = state.setdefault("momentum_buffer", torch.zeros_like(p))
        assert p.grad is not None
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)
