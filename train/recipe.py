"""Recipes: one YAML file names stages, sizes and schedules; `run` carries them out in order.

    text -> tokenizer -> vision -> align -> pretrain -> chat -> refine -> polish -> wavefront
    -> sft -> model

Each stage writes to its own folder below the run's and is skipped when it is finished, so that a
killed run goes on where it stopped. The resolved recipe is saved with the run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, field_validator

from unified import families
from unified.checkpoint import CheckpointError, verify
from unified.media.picture import write_atomic
from unified.toybox.samples import TASKS
from unified.train.corpora import (
    CorporaStage,
    CorpusConfig,
    check_names,
    of_side,
    same_data,
    stage_of,
    without_path,
)
from unified.train.distributed import own_device, team
from unified.train.media import captions
from unified.train.model import ModelConfig, StageConfig
from unified.train.pretrained import settings_of, siglip_sizes, source_of
from unified.train.settings import checked, merge, pair, put, read_yaml
from unified.train.tokenizer import TokenizerConfig
from unified.train.vision import VisionConfig

if TYPE_CHECKING:
    from unified.handle import Unified

RECIPES = Path(__file__).parent / "recipes"
PIECES, CODEC = Path("text/tokenizer.model"), Path("tokenizer/model")  # below a run's folder
RECIPE, ABILITY = "recipe.yaml", "ability.json"
TOKENIZERS = ("text", "tokenizer")
STAGES = ("text", "tokenizer", "vision", "align", "pretrain", "chat", "refine", "polish",
          "wavefront", "sft")  # fmt: skip


class TextConfig(BaseModel):
    """The text tokenizer stage."""

    model_config = ConfigDict(extra="forbid")

    size: int = 2048
    lines: int = 100_000


class Recipe(BaseModel):
    """A whole training run: the stages that it has a section for, in the order of STAGES. Unknown
    keys are refused and the known ones listed.

    Attributes:
        start: a model directory in our format: the first stage that is run goes on from its
            weights, and all have its tokenizers. `model` says how a new one is built.
        codec: the folder of a picture tokenizer, one of ours or a published one, in place of the
            stage `tokenizer`.
        data: named sources that the mixtures of stages may hold beside toybox tasks.
        sides: of all mixtures, only what teaches understanding or only generation is trained: twins
            of equal size, steps and samples.
        ability: a text file; the model's perplexity on it is measured before and after each stage.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    seed: int = 0
    start: str | None = None
    text: TextConfig | None = None
    tokenizer: TokenizerConfig | None = None
    codec: str | None = None
    model: ModelConfig | None = None
    vision: VisionConfig | None = None
    align: StageConfig | None = None
    pretrain: StageConfig | None = None
    chat: StageConfig | None = None
    refine: StageConfig | None = None
    polish: StageConfig | None = None
    wavefront: StageConfig | None = None
    sft: StageConfig | None = None
    data: dict[str, CorpusConfig] = {}
    sides: Literal["both", "understanding", "generation"] = "both"
    ability: str | None = None
    sampling: dict[str, Any] = {}

    @field_validator("data", mode="before")
    @classmethod
    def _sources(cls, values: Any) -> Any:
        """Each by itself, so that an unknown key is named with the known ones."""
        return {name: checked(CorpusConfig, {"path": value} if isinstance(value, str) else value)
                for name, value in dict(values).items()}  # fmt: skip

    @property
    def stages(self) -> tuple[str, ...]:
        """Those of STAGES that this recipe has a section and a use for."""
        unused = {"tokenizer"} if self.codec else set()
        if self.start is not None:
            unused.update(TOKENIZERS)
        elif self.model is not None:
            words = self.tokenizer is not None and self.tokenizer.kind == "seed" and not self.codec
            if self.model.decoder.get("from") and not words:
                unused.add("text")
            if self.sides == "generation" or not self.model.decoupled:
                unused.add("vision")  # teaches an encoder to understand
        return tuple(name for name in STAGES if getattr(self, name) and name not in unused)

    def stage(self, name: str) -> StageConfig:
        """The settings of a stage of the model, its mixture cut down to `sides`.

        Raises:
            ValueError: a source of the mixture is unknown, or none is of the side.
        """
        config: StageConfig = getattr(self, name)
        try:
            check_names(config.mix, self.data)
            return config.model_copy(update={"mix": of_side(config.mix, self.data, self.sides)})
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from None


def recipes() -> list[str]:
    """Names of the recipes that come with the toolkit."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read(name: str, overrides: list[str] | None = None) -> Recipe:
    """A recipe by name or path, with `key=value` overrides (dotted keys; values are YAML).

    `scale=NAME` applies the recipe's own named set of overrides first; `data.NAME=PATH` says where
    a source lies.

    Raises:
        ValueError: unknown recipe, scale or key; the valid ones are listed.
    """
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            raise ValueError(f"unknown recipe {name!r}; one of {', '.join(recipes())}, or a .yaml")
    values = _apart(read_yaml(path))
    scales = values.pop("scales", {})
    pairs = [pair(text) for text in overrides or []]
    for scale in [value for key, value in pairs if key == "scale"]:
        if scale not in scales:
            known = ", ".join(scales) or "none here"
            raise ValueError(f"unknown scale {scale!r}; one of {known}")
        merge(values, _apart(scales[scale]))
    for key, value in pairs:
        if key != "scale":
            named = (key.startswith("data.") and key.count(".") == 1) or key == "tokenizer.data"
            source = named and isinstance(value, str)
            put(values, f"{key}.path" if source else key, value)
    return checked(Recipe, values)


def _apart(values: Any) -> Any:
    """A copy in which nothing is shared: what YAML's anchors name twice can be set apart."""
    if isinstance(values, dict):
        return {key: _apart(value) for key, value in values.items()}
    return [_apart(value) for value in values] if isinstance(values, list) else values


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
            raise ValueError(f"unknown stage {name!r}; one of {', '.join(plan.stages)}")
        if name not in plan.stages:
            raise ValueError(f"the recipe {plan.name!r} has no stage {name!r}, only "
                             f"{', '.join(plan.stages)}")  # fmt: skip
    chosen = stages or list(plan.stages)
    check(plan, chosen)
    if plan.start is not None:  # it is all that has been before
        plan = plan.model_copy(update={name: None for name in STAGES if name not in chosen})
    if seed is not None:
        plan.seed = seed
    where = own_device(device)
    folder = out or Path("runs") / plan.name
    crew = team()
    if crew.leads:
        folder.mkdir(parents=True, exist_ok=True)
        settings = plan.model_dump(mode="json")
        write_atomic(folder / RECIPE, yaml.safe_dump(settings, sort_keys=False).encode())
    for name in chosen:
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


def begun(place: Path) -> Unified:
    """The model of a recipe as its first stage finds it, on the CPU: what data may be tokenized for
    before any of it is trained.

    Args:
        place: a run's folder, whose tokenizers are trained; or a recipe's file, with those beside
            it that it does not name itself.

    Raises:
        ValueError: the recipe has no model, or a tokenizer is not there yet.
    """
    from unified.handle import Unified, load
    from unified.processing import UnifiedProcessor
    from unified.train.model import build

    file = place / RECIPE if place.is_dir() else place
    plan = read(str(file))
    if plan.start is not None:
        return load(plan.start, "cpu")
    if plan.model is None:
        raise ValueError(f"{file}: a recipe without a model; there is nothing to tokenize for")
    text, codec = _words(plan, file.parent), _codec(plan, file.parent)
    model = build(plan.model, text, codec, plan.seed, "cpu")
    return Unified(model, UnifiedProcessor.of(model.config, text), codec, source=str(place))


def check(plan: Recipe, stages: list[str]) -> None:
    """See before any work that what these stages read is there.

    Raises:
        ValueError: says what to give.
    """
    own = [name for name in stages if name not in TOKENIZERS]
    if not own:
        return
    if plan.start is None:
        _check_new(plan, own)
    else:
        try:
            folder = families.folder_of(plan.start)
        except CheckpointError:
            raise ValueError(f"start: {plan.start} is no model directory; name one written by "
                             "`unified train`") from None  # fmt: skip
        if families.family_of(folder) is not families.own:
            raise ValueError(f"start: {plan.start} is no model in our format; `unified convert`"
                             " makes one of a published model")  # fmt: skip
        verify(folder)
    _check_data(plan, own)


def _check_new(plan: Recipe, own: list[str]) -> None:
    if plan.model is None:
        raise ValueError(f"the stage {own[0]!r} needs a section model in the recipe")
    first = next(name for name in plan.stages if name not in TOKENIZERS)
    if getattr(getattr(plan, first), "pattern", None) is not None:
        raise ValueError(f"{first}.pattern: nothing is written before this stage; give the model "
                         "its pattern (--set model.image.pattern=wavefront)")  # fmt: skip
    lm, _ = settings_of(plan.model.decoder)
    if lm is None and plan.text is None:
        raise ValueError("the recipe needs a text tokenizer: a section text, or a causal LM that"
                         " has one (--set model.decoder.from=DIR)")  # fmt: skip
    if plan.model.decoupled:
        tower, _ = source_of("vision", plan.model.vision)
        if tower is not None:
            siglip_sizes(tower)
    if plan.tokenizer is None and plan.codec is None:
        raise ValueError("the recipe needs a picture tokenizer: a section tokenizer, or the folder"
                         " of one that is trained (--set codec=DIR)")  # fmt: skip
    if plan.codec is not None:
        if not (Path(plan.codec) / "config.json").is_file():
            raise ValueError(f"codec: {plan.codec} is no folder of a picture tokenizer; `unified "
                             "tokenizer train` writes one: its run's tokenizer/model")  # fmt: skip
        medium = _codec(plan, Path()).spec.medium
        if medium != "image":
            raise ValueError(f"codec: {plan.codec} turns {medium} into codes; name a tokenizer of"
                             " pictures")  # fmt: skip


def _check_data(plan: Recipe, own: list[str]) -> None:
    if plan.ability is not None and not Path(plan.ability).is_file():
        raise ValueError(f"ability: {plan.ability} is no file; name one of text")
    for name in plan.data:
        if name in TASKS:
            raise ValueError(f"data.{name}: a toybox task is called so; choose another name")
    mixed = [source for name in own if name != "vision" for source in plan.stage(name).mix]
    missing = [name for name in plan.data if name in mixed and plan.data[name].path is None]
    if missing:
        raise ValueError(without_path(missing))


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
    if (folder / PIECES).is_file():
        return
    lines: Iterable[str] = corpus(plan.seed, plan.text.lines)
    own = plan.tokenizer.data if plan.tokenizer is not None else None
    if own is not None and plan.tokenizer is not None and plan.tokenizer.kind == "seed":
        # few captions would not do for so many pieces: the toybox's words fill up
        lines = islice(chain(captions(own, plan.text.lines), lines), plan.text.lines)
    train(lines, folder / PIECES, plan.text.size)


def _tokenizer(plan: Recipe, folder: Path, device: str, progress: bool) -> None:
    from unified.tokenizers.text import TextTokenizer
    from unified.train.tokenizer import train_tokenizer

    assert plan.tokenizer is not None
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
    from unified.handle import quiet
    from unified.train.ability import text_ids
    from unified.train.model import assemble, build, taken_up
    from unified.train.vision import train_vision

    quiet()
    text, codec = _words(plan, folder), _codec(plan, folder).to(device)
    own = [stage for stage in plan.stages if stage not in TOKENIZERS]
    if name == own[0] and plan.start is None:
        assert plan.model is not None
        model = build(plan.model, text, codec, plan.seed, device)
    else:
        if name == own[0]:
            place = families.folder_of(str(plan.start))
        else:
            place = folder / own[own.index(name) - 1] / "model"
            _need(place / "config.json", own[own.index(name) - 1])
        written = getattr(plan, name).model_dump(include={"pattern", "slope"})
        model = taken_up(place, codec, device, **written)
    common: dict[str, Any] = {"seed": plan.seed, "device": device, "progress": progress}
    words = text_ids(Path(plan.ability), text) if plan.ability else None
    crew = team()
    if words and crew.leads:
        _measure(folder, f"before {name}", model, words)
    if name == "vision":
        assert plan.vision is not None
        train_vision(plan.vision, model, text, folder / name, **common)
    else:
        _mixture(plan, name, folder / name, model, text, codec, {**common, "words": words})
    if crew.leads:
        if words:
            _measure(folder, f"after {name}", model, words)
        model.save_pretrained(folder / name / "model")
        if name == own[-1]:
            settings = plan.model_dump(mode="json")
            summary = {"recipe": plan.name, "seed": plan.seed, "stages": settings}
            assemble(model, text, codec, plan.sampling, summary, folder / "model")
    crew.wait()


def _mixture(
    plan: Recipe, name: str, folder: Path, model: Any, text: Any, codec: Any, common: dict[str, Any]
) -> None:
    """Train `model`, in place, on the mixture of a stage; an adapter is kept and merged."""
    from unified import adapters
    from unified.handle import Unified
    from unified.processing import UnifiedProcessor
    from unified.train.model import adapted, train_stage

    config, leads = plan.stage(name), team().leads
    handle = Unified(model, UnifiedProcessor.of(model.config, text), codec)
    corpora = {source: plan.data[source].open(source) for source in config.mix
               if source in plan.data}  # fmt: skip
    trained = adapted(config, model, plan.seed)
    stage = stage_of(config, handle, trained, corpora, plan.seed, common["device"])
    if isinstance(stage, CorporaStage):
        if leads:
            same_data(folder / "data.json", corpora)
        stage.keep_aside(folder, leads)
    train_stage(name, stage, config, handle.engine, text, folder, **common)
    if config.lora is not None:
        if leads:
            adapters.save(trained, folder / "adapter", f"{plan.name} before {name}")
        adapters.merge(trained)


def _words(plan: Recipe, folder: Path) -> Any:
    """The text tokenizer: that of the model or causal LM which is gone on from, or of this run."""
    from unified.tokenizers.text import TextTokenizer, load_tokenizer

    if plan.start is not None:
        return load_tokenizer(families.folder_of(plan.start))
    assert plan.model is not None
    lm, _ = settings_of(plan.model.decoder)
    if lm is not None:
        return lm.tokenizer()
    _need(folder / PIECES, "text")
    return TextTokenizer(str(folder / PIECES))


def _codec(plan: Recipe, folder: Path) -> Any:
    """The picture tokenizer: a given one, or this run's."""
    from unified.tokenizers.published import load_either

    if plan.start is not None:
        return load_either(families.folder_of(plan.start) / families.own.CODEC)
    place = Path(plan.codec) if plan.codec else folder / CODEC
    _need(place / "config.json", "tokenizer")
    return load_either(place)


def _measure(folder: Path, when: str, model: Any, words: list[int]) -> None:
    """Write down what the model can do with text alone."""
    from unified.train.ability import perplexity

    path = folder / ABILITY
    rows = json.loads(path.read_text()) if path.is_file() else {}
    rows[when] = {"text_perplexity": perplexity(model, words), "ids": len(words)}
    path.write_text(json.dumps(rows, indent=2) + "\n")


def _need(path: Path, stage: str) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is not there; run the stage {stage!r} first")
