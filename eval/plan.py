"""What is to be run and how: tasks, plans, the seed of every sample, and all settings of a run.

Knows a model only by what it can do and what it says of itself.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import unified
from unified.eval import judges, rebuilding
from unified.eval.benchmark import Benchmark
from unified.eval.formats import needs_data, read
from unified.eval.items import Sample
from unified.eval.layouts import LAYOUTS
from unified.eval.results import Settings
from unified.eval.scorers import scorer

BATCH = 32  # pictures or questions that a model is given at once
Progress = Callable[[int, int, str], None]


def seed_of(seed: int, task: str, sample: str, place: int = 0) -> int:
    """The seed of one sample, below 2^48: the same whatever else is asked, and in what order."""
    text = f"{seed}/{task}/{sample}/{place}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


@dataclass(frozen=True)
class Task:
    """A benchmark to be run, and where its data is."""

    spec: Benchmark
    data: Path | None = None
    judge: str = ""


@dataclass(frozen=True)
class Plan:
    """How tasks are run.

    Attributes:
        limit: units of a task at most; None for all.
        sampling: settings that differ from the model's and the benchmark's.
    """

    seed: int = 0
    limit: int | None = None
    batch: int = BATCH
    sampling: Mapping[str, Any] = field(default_factory=dict)


DEFAULT = Plan()


class Ready(NamedTuple):
    """A task whose samples are read and whose judge is made."""

    task: Task
    samples: list[Sample]
    judge: Any
    settings: Settings

    @property
    def batches(self) -> list[list[Sample]]:
        """The samples as they are asked together, the same however the work is shared."""
        size = max(1, self.settings.batch // self.task.spec.pictures)
        starts = range(0, len(self.samples), size)
        return [self.samples[start : start + size] for start in starts]


def prepare(model: Any, task: Task, plan: Plan) -> Ready:
    """Read a task's samples and make its judge.

    Raises:
        ValueError: its data, its judge or the model does not allow it; says why.
    """
    spec = task.spec
    check_model(model, spec)
    scoring = scorer(spec.scorer)
    if spec.layout not in LAYOUTS:
        known = ", ".join(name for name in LAYOUTS if name)
        raise ValueError(f"{spec.name}: unknown layout {spec.layout!r}; one of {known}")
    source = task.judge if task.judge and scoring.needs else spec.judge
    judge = judges.make(source, scoring.needs, model)
    samples = read(spec, task.data, seed=plan.seed, limit=plan.limit)
    return Ready(task, samples, judge, _settings(model, task, plan, samples, judge, source))


def check_model(model: Any, spec: Benchmark) -> None:
    """Whether a model can take part at all.

    Raises:
        ValueError: it has no such sense or hand.
    """
    if spec.answer == "rebuilt":
        if not rebuilding.can_rebuild(model):
            name = getattr(model, "source", "") or type(model).__name__
            raise ValueError(f"{spec.name}: {name} has no picture tokenizer that gives them back")
        return
    if spec.side == "generation":
        verb, what = ("generate", "draws no pictures")
        if spec.modality == "film":
            verb, what = ("animate", "makes no films")
    elif spec.modality == "image":
        verb, what = ("ask", "answers no questions about pictures")
    else:
        verb, what = (f"ask_{spec.modality}", f"takes no {spec.modality}")
    if not callable(getattr(model, verb, None)):
        name = getattr(model, "source", "") or type(model).__name__
        raise ValueError(f"{spec.name}: {name} {what} (it has no `{verb}`)")


def _settings(
    model: Any, task: Task, plan: Plan, samples: list[Sample], judge: Any, source: str
) -> Settings:
    spec = task.spec
    sampling = _sampling(model, spec, plan)
    inner = getattr(model, "model", None)
    device, dtype = (str(getattr(inner, name, "") or "") for name in ("device", "dtype"))
    torch = sys.modules.get("torch")
    prints = hashlib.sha256()
    for sample in samples:
        prints.update(sample.fingerprint().encode())
    described = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:12]
    return Settings(
        model=str(getattr(model, "source", "") or type(model).__name__),
        revision=str(getattr(model, "revision", "")),
        adapter=str(getattr(model, "adapter", None) or ""),
        adapter_revision=str(getattr(model, "adapter_revision", "")),
        recipe=_recipe(str(getattr(model, "source", ""))),
        toolkit=unified.__version__,
        benchmark=described,
        template=spec.prompt,
        sampling=sampling,
        judge=judge.name if judge is not None else "",
        judge_source=source if judge is not None else "",
        judge_revision=judge.revision if judge is not None else "",
        data=str(task.data.resolve()) if task.data is not None and needs_data(spec) else "",
        data_hash=prints.hexdigest(),
        seed=plan.seed,
        limit=plan.limit,
        batch=plan.batch,
        device=device,
        dtype=dtype.removeprefix("torch."),
        threads=torch.get_num_threads() if torch is not None and device else 0,
        weights=str(getattr(model, "weights", "")),
    )


def _sampling(model: Any, spec: Benchmark, plan: Plan) -> dict[str, Any]:
    """Every setting by which the model chooses what it gives."""
    if spec.answer == "rebuilt":
        return rebuilding.settings(model)
    given = {**spec.sampling, **plan.sampling}
    whole = getattr(model, "settings", None)
    found: dict[str, Any] = whole(**given).settings() if callable(whole) else given
    return found


def _recipe(source: str) -> str:
    """The hash of the recipe beside a model or above it."""
    for folder in (Path(source), Path(source).parent):
        path = folder / "recipe.yaml"
        if source and path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return ""
