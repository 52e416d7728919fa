"""Settings of a run: a YAML mapping, changed by key=value pairs, checked by a pydantic model whose
unknown keys are refused with the known ones; and those of the loop, which every stage has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

M = TypeVar("M", bound=BaseModel)


class LoopConfig(BaseModel):
    """How long and how fast. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=100, ge=0)
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay: int = Field(default=0, ge=0)  # last steps of a wsd schedule
    final_rate: float = 0.05  # of the peak, at the end
    optimizer: Literal["adamw", "muon"] = "adamw"
    freeze: list[str] = []  # modules or parameters that stay as they are, by name
    rates: dict[str, float] = {}  # of modules or parameters, beside the learning rate
    recompute: bool = False  # activations of the decoder's blocks: less memory, a third more time
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    # of the matrix products; weights and moments stay fp32. "auto": bf16 where it is native
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    workers: int = Field(default=0, ge=0)  # processes that make batches; on a GPU 0: a thread does
    save_every: int = Field(default=250, gt=0)
    log_every: int = Field(default=10, gt=0)
    sample_every: int = Field(default=500, ge=0)  # 0: never
    keep: int = Field(default=2, ge=1)  # checkpoints
    ema: float | None = Field(default=None, ge=0, lt=1)  # decay of the weights' moving average
    zero: Literal[0, 1, 2, 3] = 0  # DeepSpeed's ZeRO: what the processes share out (docs)
    offload: bool = False  # with zero: moments, and at stage 3 weights, in the host's memory
    unreadable: float = Field(default=0.01, ge=0, lt=1)  # share of records that may be set aside
    loggers: list[Literal["tensorboard", "trackio"]] = ["tensorboard"]  # beside log.jsonl

    @model_validator(mode="after")
    def _fits_together(self) -> LoopConfig:
        if self.offload and not self.zero:
            raise ValueError("offload is a part of ZeRO: choose zero=1, 2 or 3 with it")
        if self.zero and self.optimizer == "muon":
            raise ValueError("muon needs whole matrices, which ZeRO splits: use optimizer=adamw")
        return self


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a file.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not readable as YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: settings are a mapping of keys to values")
    return values


def pair(text: str) -> tuple[str, Any]:
    """key=value, the value read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set takes key=value, not {text!r}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"--set {key.strip()}: {value!r} is not readable as YAML") from None


def merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Lay `changes` over `values`, mapping by mapping."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            merge(values[key], value)
        else:
            values[key] = value


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key."""
    *path, last = key.split(".")
    for name in path:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ValueError(f"{key}: {name} is a value and has no keys below it")
    values[last] = value


def checked(kind: type[M], values: dict[str, Any]) -> M:
    """The settings as their model.

    Raises:
        ValueError: the first key that is unknown, with the known ones, or whose value is wrong.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(_plain(error, kind)) from None


def _plain(error: ValidationError, kind: type[BaseModel]) -> str:
    first = error.errors()[0]
    where = [str(step) for step in first["loc"]]
    if first["type"] == "extra_forbidden":
        model: Any = kind
        for step in where[:-1]:
            kinds = get_args(model.model_fields[step].annotation)  # of an optional section
            model = kinds[0] if kinds else model.model_fields[step].annotation
        known = ", ".join(model.model_fields)
        return f"unknown key {'.'.join(where)!r}; one of {known}"
    return f"{'.'.join(where)}: {first['msg'].removeprefix('Value error, ')}"
