"""What changes the weights: parameter groups, learning rates, updates, a moving average.

`Replica` trains with the whole model in every process; `zero.Sharded` does the same with its parts
shared out. Knows parameters and losses; nothing of files or batches.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from unified.precision import autocast
from unified.train.distributed import Team
from unified.train.muon import Muon
from unified.train.settings import LoopConfig

ADAPTED = "base_model.model."  # what peft puts before the names of the model it wraps


class Loss(Protocol):
    """What computes a micro-batch's loss with a model."""

    @property
    def model(self) -> nn.Module: ...

    def loss(self, part: Any, step: int) -> tuple[torch.Tensor, dict[str, float]]: ...


def told(value: torch.Tensor) -> Any:
    """A number to be logged: read at once on a CPU; else as it lies, as reading would wait for the
    device in the middle of a step."""
    return value.item() if value.device.type == "cpu" else value.detach()


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up, then cosine over the rest, or constant with a linear decay at the end.

    The constant one (WSD, https://arxiv.org/abs/2404.06395) is the same up to its decay however
    many steps are to come: a run can be made longer from a checkpoint before the decay.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "cosine":
        done = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
        share = 0.5 * (1 + math.cos(math.pi * done))
    else:
        share = min(1.0, (config.steps - step) / max(1, config.decay))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * share)


def optimizers(model: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon (https://arxiv.org/abs/2502.16982) for the matrices and convolutions
    of blocks and AdamW for the rest; weight decay on matrices only. Each group holds its share of
    the learning rate as "share".

    Raises:
        ValueError: `freeze` or `rates` name what the model does not have, or nothing is left.
    """
    freeze(model, config.freeze)
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            hidden = config.optimizer == "muon" and p.ndim in (2, 4) and _inside(name)
            decay = config.weight_decay if p.ndim >= 2 else 0.0
            groups.setdefault((hidden, decay, _share(name, config.rates)), []).append(p)
    if not groups:
        raise ValueError("nothing is left to train: every parameter is frozen")
    for name in config.rates:
        _known(name, model)
    groups = dict(sorted(groups.items(), key=lambda entry: (-entry[0][1], entry[0][2])))
    rate = config.learning_rate
    adamw: list[dict[str, Any]]
    muon: list[dict[str, Any]]
    adamw, muon = (
        [
            {"params": parameters, "weight_decay": decay, "share": share}
            for (hidden, decay, share), parameters in groups.items()
            if hidden == wanted
        ]
        for wanted in (False, True)
    )
    found: list[torch.optim.Optimizer] = []
    if adamw:
        # one pass over all of it: in the host's memory, or in one kernel
        on_gpu = not config.zero and all(p.is_cuda for p in model.parameters())
        fused = True if config.offload or on_gpu else None
        found.append(torch.optim.AdamW(adamw, lr=rate, betas=config.betas, fused=fused))
    if muon:
        found.append(Muon(muon, lr=rate, weight_decay=config.weight_decay))
    return found


def freeze(model: nn.Module, names: list[str]) -> None:
    """Train no parameter of these names, nor of the modules of these names.

    Raises:
        ValueError: the model has no such part.
    """
    for name in names:
        _known(name, model)
        for own, parameter in model.named_parameters():
            if _below(own, name):
                parameter.requires_grad_(False)


def recompute(model: nn.Module) -> None:
    """Keep no activations inside the decoder's blocks; the backward pass makes them again."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ValueError("recompute: this model's blocks cannot be computed twice")
    model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]


def _below(own: str, name: str) -> bool:
    """Whether a parameter is the one of that name or in the module of that name; an adapter's are
    in the module that it changes."""
    own = own.removeprefix(ADAPTED)
    return own == name or own.startswith(f"{name}.")


def _known(name: str, model: nn.Module) -> None:
    if not any(_below(own, name) for own, _ in model.named_parameters()):
        parts = (own.removeprefix(ADAPTED).split(".")[0] for own, _ in model.named_parameters())
        known = ", ".join(dict.fromkeys(parts))
        raise ValueError(f"the model has no part {name!r}; its parts are {known}")


def _share(own: str, rates: dict[str, float]) -> float:
    """Of the learning rate: that of the longest name that fits, 1 without any."""
    fitting = [name for name in rates if _below(own, name)]
    return rates[max(fitting, key=len)] if fitting else 1.0


def _inside(name: str) -> bool:
    """Whether a parameter belongs to a transformer block, and not to an embedding or a head."""
    return ".layers." in name or ".blocks." in name


def update(
    model: nn.Module, steppers: list[torch.optim.Optimizer], rate: float, clip: float, crew: Team
) -> float:
    """One update from the gradients that lie in the parameters; their norm before clipping."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if crew.size > 1:  # a process whose micro-batches lack a kind has no gradient for its part
        for p in trained:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        crew.add(p.grad for p in trained if p.grad is not None)
    norm = float(nn.utils.clip_grad_norm_(trained, clip))
    if math.isfinite(norm):
        for stepper in steppers:
            set_rate(stepper, rate)
            stepper.step()
    model.zero_grad(set_to_none=True)
    return norm


def set_rate(stepper: torch.optim.Optimizer, rate: float) -> None:
    for group in stepper.param_groups:
        group["lr"] = rate * group["share"]


def ema_weight(decay: float, step: int) -> float:
    """Of the newest weights in their moving average: large at first, so that the start fades."""
    return 1 - min(decay, (1 + step) / (10 + step))


class Average:
    """The moving average of the weights that are trained (EMA).

    Attributes:
        weights: by name.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self.weights = {name: p.detach().clone() for name, p in self._trained()}

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    @torch.no_grad()
    def update(self, step: int) -> None:
        weight = ema_weight(self.decay, step)
        for name, p in self._trained():
            self.weights[name].lerp_(p, weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their average; twice is nothing."""
        for name, p in self._trained():
            p.data, self.weights[name] = self.weights[name], p.data


class Replica:
    """Trains a model of which every process holds a copy; gradients are added up over them."""

    def __init__(self, stage: Loss, config: LoopConfig, crew: Team, device: str):
        self.stage, self.config, self.crew, self.device = stage, config, crew, device
        self.model = stage.model
        self.steppers = optimizers(self.model, config)
        self.average = None if config.ema is None else Average(self.model, config.ema)

    def learn(self, batch: Sequence[Any], step: int) -> Counter[str]:
        """Gradients of this process's share of a step; its share of the loss and named values, on
        a GPU as tensors (`told`)."""
        total: Counter[str] = Counter()
        for part in self.crew.share(batch):
            with autocast(self.device, self.config.precision):
                loss, values = self.stage.loss(part, step)
            loss.backward()
            total.update({"loss": told(loss), **values})
        return total

    def update(self, step: int, rate: float) -> float:
        """One update; the norm of the gradients before clipping. One that is not finite changes
        nothing."""
        norm = update(self.model, self.steppers, rate, self.config.clip, self.crew)
        if self.average is not None:
            self.average.update(step)
        return norm

    def state(self) -> dict[str, torch.Tensor]:
        """All that training changes, by name: what this process is to save."""
        if not self.crew.leads:
            return {}
        tensors = {f"model.{k}": v for k, v in trained_state(self.model).items()}
        for number, stepper in enumerate(self.steppers):
            for index, entry in stepper.state_dict()["state"].items():
                tensors |= {f"optimizer.{number}.{index}.{k}": v for k, v in entry.items()}
        if self.average is not None:
            tensors |= {f"average.{k}": v for k, v in self.average.weights.items()}
        return tensors

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from a saved state, whose weights the model has already."""
        moments = optimizer_states(tensors)
        for number, stepper in enumerate(self.steppers):
            groups = stepper.state_dict()["param_groups"]
            states = moments.get(number, {})
            stepper.load_state_dict({"state": states, "param_groups": groups})
        if self.average is not None:
            for name, value in self.average.weights.items():
                value.copy_(tensors.get(f"average.{name}", value))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The weights as they are used: their average where there is one."""
        if self.average is None:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    def finish(self) -> None:
        """Leave the model with the weights that are used."""
        if self.average is not None:
            self.average.swap()


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """All of a model that training changes: no frozen parameter."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def optimizer_states(
    tensors: dict[str, torch.Tensor],
) -> dict[int, dict[int, dict[str, torch.Tensor]]]:
    """optimizer.NUMBER.INDEX.KEY -> number -> index -> key -> tensor."""
    found: dict[int, dict[int, dict[str, torch.Tensor]]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, index, key = name.split(".")
            found.setdefault(int(number), {}).setdefault(int(index), {})[key] = value
    return found
