"""Recipes: one YAML file names stages, sizes and schedules; `run` carries them out in order.

    text -> tokenizer -> vision -> pretrain -> chat -> model

Each stage writes to its own folder below the run's and is skipped when it is finished, so that a
killed run goes on where it stopped. The resolved recipe is saved with the run.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from unified.train.model import ModelConfig, StageConfig
from unified.train.tokenizer import TokenizerConfig
from unified.train.vision import VisionConfig

RECIPES = Path(__file__).parent / "recipes"
STAGES = ("text", "tokenizer", "vision", "pretrain", "chat")


class TextConfig(BaseModel):
    """The text tokenizer stage."""

    model_config = ConfigDict(extra="forbid")

    size: int = 2048
    lines: int = 100_000


class Recipe(BaseModel):
    """A whole training run. Unknown keys are refused and the known ones listed."""

    model_config = ConfigDict(extra="forbid")

    name: str
    seed: int = 0
    text: TextConfig
    tokenizer: TokenizerConfig
    model: ModelConfig
    vision: VisionConfig
    pretrain: StageConfig
    chat: StageConfig
    sampling: dict[str, Any] = {}


def recipes() -> list[str]:
    """Names of the recipes that come with the toolkit."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read(name: str, overrides: list[str] | None = None) -> Recipe:
    """A recipe by name or path, with `key=value` overrides (dotted keys; values are YAML).

    `scale=NAME` applies the recipe's own named set of overrides first.

    Raises:
        ValueError: unknown recipe, scale or key; the valid ones are listed.
    """
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            raise ValueError(f"unknown recipe {name!r}; one of {', '.join(recipes())}, or a .yaml")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not readable as YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a recipe is a mapping of keys to values")
    scales = values.pop("scales", {})
    pairs = [_pair(text) for text in overrides or []]
    for scale in [value for key, value in pairs if key == "scale"]:
        if scale not in scales:
            known = ", ".join(scales) or "none here"
            raise ValueError(f"unknown scale {scale!r}; one of {known}")
        _merge(values, scales[scale])
    for key, value in pairs:
        if key != "scale":
            _set(values, key, value)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ValueError(_plain(error)) from None


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set takes key=value, not {text!r}")
    return key.strip(), yaml.safe_load(value)


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for name in path:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ValueError(f"{key}: {name} is a value and has no keys below it")
    values[last] = value


def _plain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = [str(step) for step in first["loc"]]
    if first["type"] == "extra_forbidden":
        model: Any = Recipe
        for step in where[:-1]:
            model = model.model_fields[step].annotation
        known = ", ".join(model.model_fields)
        return f"unknown key {'.'.join(where)!r}; one of {known}"
    return f"{'.'.join(where)}: {first['msg']}"


def run(
    recipe: str,
    stages: list[str] | None = None,
    overrides: list[str] | None = None,
    out: Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Path:
    """Carry out a recipe, or some of its stages, below `out` (default runs/NAME).

    Returns:
        The model directory when the chat stage ran, else the run's folder.

    Raises:
        ValueError: unknown names, or a stage whose predecessor has not run.
    """
    plan = read(recipe, overrides)
    for name in stages or []:
        if name not in STAGES:
            raise ValueError(f"unknown stage {name!r}; one of {', '.join(STAGES)}")
    if seed is not None:
        plan.seed = seed
    import torch  # after the cheap checks

    from unified.tokenizers.image import load_codec
    from unified.tokenizers.text import TextTokenizer
    from unified.tokenizers.text import train as train_text
    from unified.toybox.samples import corpus
    from unified.train.model import assemble, build, train_stage
    from unified.train.tokenizer import train_tokenizer
    from unified.train.vision import train_vision

    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder = out or Path("runs") / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(plan.model_dump(), sort_keys=False))
    pieces, codec_folder = folder / "text" / "tokenizer.model", folder / "tokenizer" / "model"
    times: dict[str, float] = {}
    for name in stages or STAGES:
        began = time.perf_counter()
        if name == "text":
            if not pieces.is_file():
                train_text(corpus(plan.seed, plan.text.lines), pieces, plan.text.size)
        elif name == "tokenizer":
            train_tokenizer(
                plan.tokenizer,
                folder / "tokenizer",
                seed=plan.seed,
                device=where,
                progress=progress,
            )
        else:
            _need(pieces, "text")
            _need(codec_folder / "config.json", "tokenizer")
            text, codec = TextTokenizer(str(pieces)), load_codec(codec_folder).to(where)
            model = build(plan.model, text, codec, plan.seed, where)
            before = STAGES[STAGES.index(name) - 1]
            if name != "vision":
                start = folder / before / "model"
                _need(start / "config.json", before)
                attention = model.config._attn_implementation
                model = type(model).from_pretrained(start, attn_implementation=attention).to(where)
            common: dict[str, Any] = {"seed": plan.seed, "device": where, "progress": progress}
            if name == "vision":
                train_vision(plan.vision, model, text, folder / name, **common)
            else:
                settings = plan.pretrain if name == "pretrain" else plan.chat
                train_stage(name, settings, model, text, codec, folder / name, **common)
            model.save_pretrained(folder / name / "model")
            if name == "chat":
                summary = {"recipe": plan.name, "seed": plan.seed, "stages": plan.model_dump()}
                assemble(model, text, codec, plan.sampling, summary, folder / "model")
        times[name] = time.perf_counter() - began
        with (folder / "times.jsonl").open("a") as file:
            file.write(json.dumps({"stage": name, "seconds": round(times[name], 1)}) + "\n")
    return folder / "model" if (folder / "model").is_dir() else folder


def _need(path: Path, stage: str) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is not there; run the stage {stage!r} first")
