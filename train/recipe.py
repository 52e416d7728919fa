"""Recipes: one YAML file names stages, sizes and schedules; `run` carries them out in order.

    text -> tokenizer -> vision -> pretrain -> chat -> refine -> polish -> model

Each stage writes to its own folder below the run's and is skipped when it is finished, so that a
killed run goes on where it stopped. The resolved recipe is saved with the run.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from unified.train.distributed import own_device, team
from unified.train.model import ModelConfig, StageConfig
from unified.train.settings import checked, merge, pair, put, read_yaml
from unified.train.tokenizer import TokenizerConfig
from unified.train.vision import VisionConfig

RECIPES = Path(__file__).parent / "recipes"
PIECES, CODEC = Path("text/tokenizer.model"), Path("tokenizer/model")  # below a run's folder
TOKENIZERS = ("text", "tokenizer")
STAGES = ("text", "tokenizer", "vision", "pretrain", "chat", "refine", "polish")


class TextConfig(BaseModel):
    """The text tokenizer stage."""

    model_config = ConfigDict(extra="forbid")

    size: int = 2048
    lines: int = 100_000


class Recipe(BaseModel):
    """A whole training run: the stages that it has a section for, in the order of STAGES. Unknown
    keys are refused and the known ones listed."""

    model_config = ConfigDict(extra="forbid")

    name: str
    seed: int = 0
    text: TextConfig | None = None
    tokenizer: TokenizerConfig
    model: ModelConfig | None = None
    vision: VisionConfig | None = None
    pretrain: StageConfig | None = None
    chat: StageConfig | None = None
    refine: StageConfig | None = None
    polish: StageConfig | None = None
    sampling: dict[str, Any] = {}

    @property
    def stages(self) -> tuple[str, ...]:
        """Those of STAGES that this recipe has."""
        return tuple(name for name in STAGES if getattr(self, name) is not None)


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
    values = read_yaml(path)
    scales = values.pop("scales", {})
    pairs = [pair(text) for text in overrides or []]
    for scale in [value for key, value in pairs if key == "scale"]:
        if scale not in scales:
            known = ", ".join(scales) or "none here"
            raise ValueError(f"unknown scale {scale!r}; one of {known}")
        merge(values, scales[scale])
    for key, value in pairs:
        if key != "scale":
            put(values, key, value)
    return checked(Recipe, values)


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
        The model directory when the last stage ran, else the run's folder.

    Raises:
        ValueError: unknown names, or a stage whose predecessor has not run.
    """
    plan = read(recipe, overrides)
    for name in stages or []:
        if name not in STAGES:
            raise ValueError(f"unknown stage {name!r}; one of {', '.join(STAGES)}")
        if name not in plan.stages:
            raise ValueError(f"the recipe {plan.name!r} has no stage {name!r}, only "
                             f"{', '.join(plan.stages)}")  # fmt: skip
    if seed is not None:
        plan.seed = seed
    import torch  # after the cheap checks

    where = own_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    folder = out or Path("runs") / plan.name
    crew = team()
    if crew.leads:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(plan.model_dump(), sort_keys=False))
    for name in stages or plan.stages:
        began = time.perf_counter()
        if name in TOKENIZERS and crew.size > 1:
            _need_one_process(plan.name, folder)
        elif name == "text":
            _text(plan, folder)
        elif name == "tokenizer":
            _tokenizer(plan, folder, where, progress)
        else:
            _model(plan, name, folder, where, progress)
        if crew.leads:
            row = {"stage": name, "seconds": round(time.perf_counter() - began, 1)}
            with (folder / "times.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
    return folder / "model" if (folder / "model").is_dir() else folder


def _need_one_process(recipe: str, folder: Path) -> None:
    """Codebooks are fitted by one process; several may only use what it left."""
    if not ((folder / PIECES).is_file() and (folder / CODEC / "config.json").is_file()):
        stages = " ".join(f"--stage {name}" for name in TOKENIZERS)
        raise ValueError(
            f"{folder}: no tokenizers there yet, and they are trained by one process; run "
            f"`unified train {recipe} {stages}` first"
        )


def _text(plan: Recipe, folder: Path) -> None:
    from unified.tokenizers.text import train
    from unified.toybox.samples import corpus

    assert plan.text is not None
    if not (folder / PIECES).is_file():
        train(corpus(plan.seed, plan.text.lines), folder / PIECES, plan.text.size)


def _tokenizer(plan: Recipe, folder: Path, device: str, progress: bool) -> None:
    from unified.tokenizers.text import TextTokenizer
    from unified.train.tokenizer import train_tokenizer

    text = None
    if plan.tokenizer.kind == "seed":  # learns from words, too
        if plan.text is None:
            raise ValueError("a tokenizer of kind 'seed' learns from words: give it a section text")
        _text(plan, folder)
        text = TextTokenizer(str(folder / PIECES))
    common: dict[str, Any] = {"seed": plan.seed, "device": device, "progress": progress}
    train_tokenizer(plan.tokenizer, folder / "tokenizer", text=text, **common)


def _model(plan: Recipe, name: str, folder: Path, device: str, progress: bool) -> None:
    """A stage of the model, from where the stage before it ended."""
    from unified.tokenizers.kinds import load_codec
    from unified.tokenizers.text import TextTokenizer
    from unified.train.model import assemble, build, train_stage
    from unified.train.vision import train_vision

    if plan.model is None:
        raise ValueError(f"the stage {name!r} needs a section model in the recipe")
    _need(folder / PIECES, "text")
    _need(folder / CODEC / "config.json", "tokenizer")
    text, codec = TextTokenizer(str(folder / PIECES)), load_codec(folder / CODEC).to(device)
    model = build(plan.model, text, codec, plan.seed, device)
    own = [stage for stage in plan.stages if stage not in TOKENIZERS]
    if name != own[0]:
        before = own[own.index(name) - 1]
        _need(folder / before / "model" / "config.json", before)
        attention = model.config._attn_implementation
        start = folder / before / "model"
        model = type(model).from_pretrained(start, attn_implementation=attention).to(device)
    common: dict[str, Any] = {"seed": plan.seed, "device": device, "progress": progress}
    if name == "vision":
        assert plan.vision is not None
        train_vision(plan.vision, model, text, folder / name, **common)
    else:
        train_stage(name, getattr(plan, name), model, text, codec, folder / name, **common)
    crew = team()
    if crew.leads:
        model.save_pretrained(folder / name / "model")
        if name == own[-1]:
            summary = {"recipe": plan.name, "seed": plan.seed, "stages": plan.model_dump()}
            assemble(model, text, codec, plan.sampling, summary, folder / "model")
    crew.wait()


def _need(path: Path, stage: str) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is not there; run the stage {stage!r} first")
