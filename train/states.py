"""States of a run: written by all of its processes as one checkpoint, and taken up again.

The format says nothing of how many processes wrote it: a run goes on with another number of them,
and with or without ZeRO.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from unified import checkpoint
from unified.train.distributed import Team
from unified.train.optimize import trained_state

Order = dict[str, int]


class Saved(Protocol):
    """What has a state: `optimize.Replica`, `zero.Sharded`."""

    def state(self) -> dict[str, torch.Tensor]: ...


def save(
    trainer: Saved, root: Path, step: int, crew: Team, device: str, order: Order | None = None
) -> None:
    """Write checkpoint `root/step-N`; every process its share.

    Args:
        order: what decides, beside the step, which samples come next.
    """
    rngs = crew.gather(_rng(device))
    tensors = trainer.state()
    if crew.leads:
        tensors |= {_rng_name(rank): rng for rank, rng in enumerate(rngs)}
    checkpoint.save(root, step, _apart(tensors), {"step": step, **(order or {})}, rank=crew.rank,
                    of=crew.size, wait=crew.wait)  # fmt: skip


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors in the host's memory, those that share some (tied weights) as copies, for
    safetensors refuses them; others are not copied once more."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        host = value.detach().cpu()
        place = host.untyped_storage().data_ptr()
        found[name] = host.clone() if place in seen else host
        seen.add(place)
    return found


def resume(
    model: nn.Module, root: Path, crew: Team, order: Order | None = None
) -> tuple[int, dict[str, torch.Tensor]]:
    """Load the newest valid checkpoint's weights into the model; newer ones that are broken are
    named on standard error.

    Returns:
        The step to go on from, and the whole state; 0 and nothing without a checkpoint.

    Raises:
        ValueError: it trains another set of weights, draws samples in another order, or not every
            process sees it.
    """
    found, broken = checkpoint.survey(root) if crew.leads else (None, [])
    for error in broken:
        instead = "from the start" if found is None else f"from {found.name}"
        print(f"warning: {error}; going on {instead}", file=sys.stderr, flush=True)
    step = crew.told(-1 if found is None else int(found.name[5:]))
    if step < 0:
        return 0, {}
    folder = root / f"step-{step}"
    if not folder.is_dir():
        raise ValueError(f"{folder}: not seen by process {crew.rank}; the run's folder must be on "
                         "a file system that all machines share")  # fmt: skip
    tensors, state = checkpoint.load(folder, verified=True)
    for name, value in (order or {}).items():
        if state.get(name, value) != value:
            raise ValueError(
                f"{folder}: begun with {name}={state[name]}, not {value}: samples would be lost or "
                "repeated; give this run another folder (--out)"
            )
    weights = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    own = {name: tuple(value.shape) for name, value in trained_state(model).items()}
    differing = {name for name in shapes | own if shapes.get(name) != own.get(name)}
    if differing:
        name = min(differing)
        sizes = f"{shapes.get(name, 'none')} there, {own.get(name, 'none')} here"
        raise ValueError(
            f"{folder}: trains another set of weights than this run ({name}: {sizes}); give this "
            "one another folder (--out)"
        )
    model.load_state_dict(weights, strict=False)
    return int(state["step"]), tensors


def put(folder: Path, model: nn.Module) -> None:
    """Lay the weights of a checkpoint into a model, their average where there is one.

    Raises:
        CheckpointError: a file is missing or altered.
    """
    tensors, _ = checkpoint.load(folder)
    weights = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
    first = {p: name for name, p in reversed(list(model.named_parameters()))}
    for name, p in model.named_parameters(remove_duplicate=False):
        if f"average.{first[p]}" in tensors:
            weights[name] = tensors[f"average.{first[p]}"]
    model.load_state_dict(weights, strict=False)


def set_rng(tensors: dict[str, Any], crew: Team, device: str) -> None:
    """Go on with this process's random numbers; a process that is new keeps its own."""
    state = tensors.get(_rng_name(crew.rank))
    if state is None:
        return
    cpu = len(torch.get_rng_state())
    torch.set_rng_state(state[:cpu])
    if len(state) > cpu and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state[cpu:], device)


def _rng(device: str) -> torch.Tensor:
    """The generator's state, and behind it that of a GPU."""
    state = torch.get_rng_state()
    if torch.device(device).type == "cuda":
        return torch.cat([state, torch.cuda.get_rng_state(device)])
    return state


def _rng_name(rank: int) -> str:
    return f"rng.{rank}" if rank else "rng"
