"""Settings of fine-tuning: the adapter, the loop, what keeps the old knowledge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from unified.toybox.samples import TASKS
from unified.train.loop import LoopConfig
from unified.train.settings import checked, merge, pair, put, read_yaml

PARTS = ("decoder", "code_aligner", "image_head", "text_head", "encoder")


class Lora(BaseModel):
    """An adapter: low-rank changes of linear maps (https://arxiv.org/abs/2106.09685), by peft."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(default=8, ge=1)
    alpha: float = 16.0
    dropout: float = Field(default=0.0, ge=0, lt=1)
    # parts of the model whose linear maps get one
    targets: list[str] = Field(default=list(PARTS), min_length=1)
    whole: list[str] = []  # parts that are trained and kept as a whole
    dora: bool = False  # https://arxiv.org/abs/2402.09353
    rslora: bool = False  # https://arxiv.org/abs/2312.03732


class TuningConfig(BaseModel):
    """How a model is tuned. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")

    lora: Lora | None = Lora()  # null trains the whole model
    epochs: float | None = Field(default=None, gt=0)  # over the data; in place of loop.steps
    loop: LoopConfig = LoopConfig(
        steps=200, batch_size=16, learning_rate=1e-3, warmup=10, save_every=50, weight_decay=0.0
    )
    micro_batch: int = Field(default=16, ge=1)
    pack: int | None = Field(default=None, ge=16)
    text_weight: float = 3.0
    dropout: float = Field(default=0.1, ge=0, le=1)  # share of drawings without their condition
    weight: int = Field(default=1, ge=1)  # of the data, beside the toybox tasks
    toybox: dict[str, int] = {}  # tasks of the toybox that keep what the model knows, by weight
    beta: float = Field(default=0.1, gt=0)  # of preference data: how far the reference holds
    anchor: float = Field(default=1.0, ge=0)  # of preference data: of the better reply by itself


def read_config(path: Path | None, overrides: list[str]) -> TuningConfig:
    """The defaults, changed by a YAML file and then by key=value pairs.

    Raises:
        ValueError: an unreadable file, or a key or value that is none; the valid ones are listed.
    """
    values: dict[str, Any] = TuningConfig().model_dump()
    if path is not None:
        merge(values, read_yaml(path))
    for key, value in map(pair, overrides):
        put(values, key, value)
    config = checked(TuningConfig, values)
    unknown = set(config.toybox) - set(TASKS)
    if unknown:
        raise ValueError(f"toybox: no task {min(unknown)!r}; one of {', '.join(TASKS)}")
    return config
