"""Several processes that train one model: who this one is, and sums over all of them.

Started by torchrun, which sets RANK, WORLD_SIZE and LOCAL_RANK; without it there is one process and
nothing here does anything. Every process holds the whole model and takes its share of a step's
micro-batches; gradients are added up. Knows tensors alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from unified.device import placed

T = TypeVar("T")
BUCKET = 2**25  # numbers that are sent at once: 128 MB of fp32


@dataclass(frozen=True)
class Team:
    """The processes of a run, `rank` being this one."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what is to be written."""
        return self.rank == 0

    def rows(self, batch_size: int, micro_batch: int) -> int:
        """Samples of a micro-batch: fewer than asked for where a process would have none."""
        return max(1, min(micro_batch, batch_size // self.size))

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """Of a step's micro-batches, those of this process.

        Raises:
            ValueError: there are fewer than processes.
        """
        if len(parts) < self.size:
            raise ValueError(
                f"a step of {len(parts)} micro-batches for {self.size} processes: set "
                "batch_size or pack so that there is at least one for each"
            )
        return parts[self.rank :: self.size]

    def add(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            distributed.all_reduce(flat)
            for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def add_values(self, values: dict[str, float]) -> dict[str, float]:
        """Named values summed over all processes; the names are the same everywhere."""
        if self.size == 1:
            return values
        sums = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64)
        distributed.all_reduce(sums)
        return dict(zip(sorted(values), sums.tolist(), strict=True))

    def told(self, value: int) -> int:
        """The leader's value."""
        if self.size == 1:
            return value
        box = torch.tensor([value])
        distributed.broadcast(box, 0)
        return int(box)

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every process's tensor, all of one size, in order."""
        if self.size == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(found, tensor)
        return found

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            distributed.barrier()

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leader does what follows, then the others, who find it done."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()


def team() -> Team:
    """This run's processes; joins them on the first call."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Team()
    if not distributed.is_initialized():
        own = int(os.environ.get("LOCAL_RANK", 0))
        if own < torch.cuda.device_count():
            torch.cuda.set_device(own)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        )
    return Team(distributed.get_rank(), distributed.get_world_size())


def own_device(device: str | None) -> str:
    """The device of this process, by default a GPU if there is one: "cuda" becomes the one that
    torchrun gave it.

    Raises:
        ValueError: it is not to be had here.
    """
    chosen = placed(device)
    return placed(f"cuda:{os.environ.get('LOCAL_RANK', 0)}") if chosen == "cuda" else chosen


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
