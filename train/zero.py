"""DeepSpeed's ZeRO: moments (1), gradients (2) and weights (3) shared out over the processes.

https://arxiv.org/abs/1910.02054; with offload, moments (and weights at stage 3) lie in the host's
memory. The counterpart of `optimize.Replica`, with the same checkpoints. DeepSpeed's own ones are
not used: they are unpickled. Its optimizers that need a compiler are not either: torch's serve.

Every process must run the same modules in the same order, for it is then that they exchange parts:
micro-batches are made alike (`batches.Ballast`), and each process computes as many of them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import distributed, nn

from unified.precision import autocast
from unified.train.batches import Ballast
from unified.train.distributed import Team
from unified.train.optimize import (
    Loss,
    ema_weight,
    optimizer_states,
    optimizers,
    set_rate,
    trained_state,
)
from unified.train.settings import LoopConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


def deepspeed(device: str) -> Any:
    """The package; what it has to say goes to standard error.

    Raises:
        ValueError: it is not installed.
    """
    if torch.device(device).type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    said = logging.getLogger("DeepSpeed")
    said.disabled = True  # its handler writes to standard output, also while it is imported
    try:
        import deepspeed as package
    except ImportError:
        raise ValueError(
            "zero: DeepSpeed is not installed; pip install 'unified[deepspeed]', or set zero=0"
        ) from None
    for handler in said.handlers:
        if type(handler) is logging.StreamHandler:  # its own; those who listen have others
            handler.setStream(sys.stderr)
    said.disabled = False
    # a sum in shared memory for inference, compiled on first use
    package.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return package


class _Shares(nn.Module):
    """A stage's loss as the module that DeepSpeed wants, times the processes it averages over."""

    def __init__(self, stage: Loss, config: LoopConfig, crew: Team, device: str):
        super().__init__()
        self.model = stage.model
        self.given = (stage, config, crew, device)  # no modules of this one
        self.values: dict[str, float] = {}

    def forward(self, part: Any, step: int, weight: float) -> torch.Tensor:
        stage, config, crew, device = self.given
        with autocast(device, config.precision):
            loss, values = stage.loss(part, step)
        self.values = {"loss": loss.item() * weight, **{k: v * weight for k, v in values.items()}}
        return loss * (crew.size * weight)


class Sharded:
    """Trains a model whose parts are shared out over the processes.

    The model is whole in every process before, and again after `finish`.
    """

    def __init__(self, stage: Loss, config: LoopConfig, crew: Team, device: str):
        self.config, self.crew, self.model = config, crew, stage.model
        package = deepspeed(device)
        self.package = package
        self.lone = "LOCAL_RANK" not in os.environ
        if self.lone:
            os.environ["LOCAL_RANK"] = "0"  # on which DeepSpeed insists
        if not distributed.is_initialized():
            store = distributed.HashStore()
            backend = "nccl" if torch.device(device).type == "cuda" else "gloo"
            distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        (stepper,) = optimizers(self.model, config)
        self.trained = [p for group in stepper.param_groups for p in group["params"]]
        self.ballast = Ballast.of(self.model) if crew.size > 1 else None
        self.shares = _Shares(stage, config, crew, device)
        self.engine, *_ = package.initialize(
            model=self.shares, optimizer=stepper, dist_init_required=False,
            config=_settings(config, torch.device(device).type == "cuda"),
        )  # fmt: skip
        self._make_states()

    @property
    def base(self) -> torch.optim.Optimizer:
        """Torch's optimizer, which sees flat parts of many parameters as one."""
        found: torch.optim.Optimizer = self.engine.optimizer.optimizer
        return found

    def _flats(self) -> list[torch.Tensor]:
        """This process's parts, in full precision."""
        zero = self.engine.optimizer
        if self.config.zero == 3:
            return list(zero.fp32_partitioned_groups_flat)
        return list(zero.single_partition_of_fp32_groups)

    def _make_states(self) -> None:
        """The moments, which are else made by the first step, and the average: to be loaded into
        and read by parameter."""
        for flat in self._flats():
            state = self.base.state[flat]
            state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
            state |= {key: torch.zeros_like(flat) for key in MOMENTS}
            if self.config.ema is not None:
                state["average"] = flat.detach().clone()
        if self.config.zero < 3:
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    @property
    def _keys(self) -> tuple[str, ...]:
        return MOMENTS if self.config.ema is None else (*MOMENTS, "average")

    def learn(self, batch: Sequence[Any], step: int) -> Counter[str]:
        """As `Replica.learn`."""
        own = [(part, 1.0) for part in self.crew.share(batch)]
        if self.ballast is not None:
            own = [(self.ballast.added(part, batch), weight) for part, weight in own]
        most = -(-len(batch) // self.crew.size)
        own += [(own[-1][0], 0.0)] * (most - len(own))  # as many in every process
        total: Counter[str] = Counter()
        for part, weight in own:
            self.engine.backward(self.engine(part, step, weight))
            total.update(self.shares.values)
        return total

    @torch.no_grad()
    def update(self, step: int, rate: float) -> float:
        """As `Replica.update`; DeepSpeed skips a step whose gradients are not finite."""
        set_rate(self.base, rate)
        if self.config.zero == 1:  # a part that no process used is no part that is missing
            for p in self.trained:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        self.engine.step()
        if self.config.ema is not None:
            for flat in self._flats():
                self.base.state[flat]["average"].lerp_(flat, ema_weight(self.config.ema, step))
        return float(self.engine.get_global_grad_norm())

    def _whole(self, p: nn.Parameter, key: str | None = None) -> torch.Tensor:
        """A parameter or one of its moments, from the parts of all processes, which all call."""
        utils = self.package.utils
        if key is None:
            found = utils.safe_get_full_fp32_param(p)
        else:
            found = utils.safe_get_full_optimizer_state(p, key)
        whole: torch.Tensor = found.detach().view(getattr(p, "ds_shape", p.shape))
        return whole

    def state(self) -> dict[str, torch.Tensor]:
        """As `Replica.state`; the parameters go round the processes, which save them whole."""
        names: dict[nn.Parameter, list[str]] = {}
        for name, p in self.model.named_parameters(remove_duplicate=False):
            names.setdefault(p, []).append(name)
        steps = self.base.state[self._flats()[0]]["step"]
        tensors: dict[str, torch.Tensor] = {}
        for index, p in enumerate(self.trained):
            found = {key: self._whole(p, key) for key in (None, *self._keys)}
            if index % self.crew.size != self.crew.rank:
                continue
            found = {key: value.cpu() for key, value in found.items()}
            tensors |= {f"model.{name}": found[None] for name in names[p]}
            tensors |= {f"optimizer.0.{index}.{key}": found[key] for key in MOMENTS}
            tensors[f"optimizer.0.{index}.step"] = steps
            if "average" in found:
                tensors[f"average.{names[p][0]}"] = found["average"]
        if self.crew.leads:
            own = {name for found in names.values() for name in found}
            buffers = trained_state(self.model)
            tensors |= {f"model.{k}": v for k, v in buffers.items() if k not in own}
        return tensors

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """As `Replica.load`."""
        moments = optimizer_states(tensors).get(0, {})
        if not moments:
            return
        names = {p: name for name, p in reversed(list(self.model.named_parameters()))}
        put = self.package.utils.safe_set_full_optimizer_state
        for index, p in enumerate(self.trained):
            found = dict(moments.get(index, {}))  # without: it never had a gradient
            if self.config.ema is not None and f"average.{names[p]}" in tensors:
                found["average"] = tensors[f"average.{names[p]}"]
            for key in self._keys:
                if key in found:
                    put(p, found[key].to(self._flats()[0].device), key)
        steps = [entry["step"] for entry in moments.values() if "step" in entry]
        for flat in self._flats():
            self.base.state[flat]["step"].fill_(max(map(float, steps), default=0.0))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The weights whole in every process, and as they are used: all processes enter."""
        with ExitStack() as held:
            if self.config.zero == 3:
                offload = self.engine.optimizer.parameter_offload
                self._drop_hooks(offload)
                held.callback(offload._register_deepspeed_module, offload.module)
                parameters = list(self.model.parameters())
                held.enter_context(self.package.zero.GatheredParameters(parameters))
            if self.config.ema is not None:
                held.enter_context(self._averaged())
            yield

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        kept = {p: p.data for p in self.trained}
        for p in self.trained:
            p.data = self._whole(p, "average").clone()
        try:
            yield
        finally:
            for p, value in kept.items():
                p.data = value

    @staticmethod
    def _drop_hooks(offload: Any) -> None:
        """A module that is used outside of training must not hand its weights back."""
        for p in offload.module.parameters():
            p.ds_active_sub_modules.clear()
        for hook in (*offload.forward_hooks, *offload.backward_hooks):
            hook.remove()
        offload.forward_hooks, offload.backward_hooks = [], []

    def finish(self) -> None:
        """Leave the model whole and its own, with the weights that are used."""
        with self.whole():
            fresh = {
                p: nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad)
                for p in self.model.parameters()
            }
        self.engine.destroy()
        for module in self.model.modules():
            own = {k: None if p is None else fresh[p] for k, p in module._parameters.items()}
            module._parameters = own
        self.trained = []
        if self.lone:  # to others the name means that there are several processes
            os.environ.pop("LOCAL_RANK", None)


def _settings(config: LoopConfig, cuda: bool) -> dict[str, Any]:
    """DeepSpeed's configuration: the loop decides when a step is whole (micro-batches are as long
    as the data are), the weights are of full precision, and autocast is ours."""
    zero: dict[str, Any] = {"stage": config.zero, "overlap_comm": cuda}
    if config.offload:
        place = {"device": "cpu", "pin_memory": cuda}
        zero["offload_optimizer"] = place
        if config.zero == 3:
            zero["offload_param"] = place
    return {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False, "gradient_clipping": config.clip,
        "zero_optimization": zero, "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
    }  # fmt: skip
