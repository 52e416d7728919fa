"""Runs benchmarks on models: batched, resumable, every sample kept, every trouble named.

A task's samples are cut into the same batches whatever was done before, so that a run that was
killed goes on to the same bytes. A batch is asked again as a whole where a sample of it is missing.
Knows a model only as something that has `generate`, `ask` and `chat_batch`.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

import unified
from unified.eval import judges, results
from unified.eval.benchmark import Benchmark
from unified.eval.formats import needs_data, read
from unified.eval.items import Sample
from unified.eval.judges import Unscored
from unified.eval.layouts import LAYOUTS
from unified.eval.likelihood import option_likelihoods
from unified.eval.results import Results, Row, Settings, Store
from unified.eval.scorers import scorer
from unified.eval.scoring import Context, Reply, Value
from unified.media.picture import MediaError, write_atomic
from unified.terminal import explain

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


class _Ready(NamedTuple):
    """A task whose samples are read and whose judge is made."""

    task: Task
    samples: list[Sample]
    judge: Any
    settings: Settings


def run(
    model: Any,
    tasks: Sequence[Task],
    folder: Path,
    plan: Plan = Plan(),
    on_progress: Progress | None = None,
) -> Results:
    """Run tasks on a model and write all of it below `folder`; go on where a run was broken off.

    A task that cannot be run is named in `failed`, and the others are run.

    Args:
        on_progress: called with (done, total, what) over the samples of all tasks.

    Raises:
        ResultsError: the folder holds samples of other settings.
    """
    folder = Path(folder)
    old = results.load(folder) if (folder / results.FILE).is_file() else None
    names = {task.spec.name for task in tasks}
    rows = [row for row in old.rows if row.task not in names] if old else []
    failed = {k: v for k, v in old.failed.items() if k not in names} if old else {}
    ready: list[_Ready] = []
    for task in tasks:
        try:
            ready.append(prepare(model, task, plan))
        except ValueError as error:
            failed[task.spec.name] = explain(error)
    done, total = 0, sum(len(one.samples) for one in ready)

    def step(count: int, what: str) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, total, what)

    for one in ready:
        step(0, one.task.spec.name)
        try:
            rows += run_task(model, one, folder, plan, step)
        except results.ResultsError:
            raise
        except ValueError as error:
            failed[one.task.spec.name] = explain(error)
        results.save(folder, Results(version=1, rows=rows, failed=failed))
    found = Results(version=1, rows=rows, failed=failed)
    results.save(folder, found)
    return found


def prepare(model: Any, task: Task, plan: Plan) -> _Ready:
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
    return _Ready(task, samples, judge, _settings(model, task, plan, samples, judge, source))


def check_model(model: Any, spec: Benchmark) -> None:
    """Whether a model can take part at all.

    Raises:
        ValueError: it has no such sense or hand.
    """
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
    given = {**spec.sampling, **plan.sampling}
    whole = getattr(model, "settings", None)
    sampling = whole(**given).settings() if callable(whole) else given
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
        threads=torch.get_num_threads() if torch is not None else 0,
    )


def _recipe(source: str) -> str:
    """The hash of the recipe beside a model or above it."""
    for folder in (Path(source), Path(source).parent):
        path = folder / "recipe.yaml"
        if source and path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return ""


def run_task(
    model: Any, ready: _Ready, folder: Path, plan: Plan, step: Callable[[int, str], None]
) -> list[Row]:
    """Ask what is not yet asked, and score all of it."""
    spec = ready.task.spec
    folder.mkdir(parents=True, exist_ok=True)
    described = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
    write_atomic(folder / f"{spec.name}.yaml", described.encode())
    store = Store(folder / f"{spec.name}.jsonl", ready.settings.model_dump(mode="json"))
    try:
        for batch in _batches(ready.samples, max(1, plan.batch // spec.pictures)):
            if any(sample.id not in store.records for sample in batch):
                store.add(_records(model, ready, batch, folder, plan))
            step(len(batch), spec.name)
        records = [store.records[sample.id] for sample in ready.samples]
    finally:
        store.close()
    finish = LAYOUTS[spec.layout].finish
    if finish is not None:
        finish(folder / spec.name, records, {r["id"]: r["files"] for r in records})
    return score(ready, records, folder)


def _batches(samples: list[Sample], size: int) -> Iterator[list[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def score(ready: _Ready, records: list[dict[str, Any]], folder: Path) -> list[Row]:
    """Rows of all records of a task."""
    spec, scoring = ready.task.spec, scorer(ready.task.spec.scorer)
    samples = {sample.id: sample for sample in ready.samples}
    counted = []
    for record in records:
        if record["unscored"] is None:
            counted.append(record)
        elif spec.unscored == "wrong" and not record["outside"]:
            counted.append({**record, "marks": scoring.wrong(samples[record["id"]])})
    if not counted:
        reason = next((r["unscored"] for r in records if r["unscored"]), "")
        raise ValueError(f"{spec.name}: no sample could be scored: {reason}")
    unscored = sum(record["unscored"] is not None for record in records)
    lost = unscored, len(records) - len(counted)
    context = Context(folder, samples, ready.judge, ready.settings.seed)
    return [_row(spec, value, lost, ready.settings) for value in scoring.rows(counted, context)]


def _row(spec: Benchmark, value: Value, lost: tuple[int, int], settings: Settings) -> Row:
    higher = value.higher_is_better
    return Row(
        task=spec.name,
        side=spec.side,
        modality=spec.modality,
        skill=value.skill,
        split=value.split,
        metric=value.metric,
        value=value.value,
        stderr=value.stderr,
        ci=value.ci,
        n=value.n,
        unscored=lost[0],
        left_out=lost[1],
        chance=spec.chance if value.chance is None else value.chance,
        higher_is_better=spec.higher_is_better if higher is None else higher,
        protocol=spec.protocol,
        settings=settings,
    )


# --- asking ------------------------------------------------------------------------------------


def _records(
    model: Any, ready: _Ready, batch: list[Sample], folder: Path, plan: Plan
) -> list[dict[str, Any]]:
    """Ask a batch and mark it; what goes wrong with a sample costs that sample alone."""
    spec = ready.task.spec
    answer = _drawn if spec.side == "generation" else _answered
    replies = answer(model, spec, batch, plan)
    return [
        _record(ready, sample, reply, folder, plan)
        for sample, reply in zip(batch, replies, strict=True)
    ]


def _record(
    ready: _Ready, sample: Sample, reply: Reply | str, folder: Path, plan: Plan
) -> dict[str, Any]:
    spec = ready.task.spec
    record: dict[str, Any] = {
        "id": sample.id, "group": sample.unit, "skill": sample.skill, "split": sample.split,
        "chance": sample.chance, "prompt": sample.prompt,
        "seed": seed_of(plan.seed, spec.name, sample.id), "reply": None, "files": [],
        "digest": "", "marks": {}, "unscored": None, "outside": False,
    }  # fmt: skip
    if isinstance(reply, str):
        return record | {"unscored": reply}
    if spec.side == "generation":
        record["digest"] = _digest(reply.pictures)
        write = LAYOUTS[spec.layout].write
        if write is not None:
            made_by = f"{ready.settings.model} {ready.settings.revision}".strip()
            facts = {"prompt": sample.prompt, "seed": record["seed"], "model": made_by}
            paths = write(folder / spec.name, sample, reply.pictures, facts)
            record["files"] = [path.relative_to(folder).as_posix() for path in paths]
    else:
        record["reply"] = reply.text if reply.likelihoods is None else None
        if reply.likelihoods is not None:
            record["likelihoods"] = reply.likelihoods
    try:
        record["marks"] = scorer(spec.scorer).mark(sample, reply, ready.judge)
    except Unscored as error:
        record |= {"unscored": str(error), "outside": error.outside}
    except MediaError as error:
        record["unscored"] = str(error)
    return record


def _digest(pictures: Sequence[Any]) -> str:
    found = hashlib.sha256()
    for picture in pictures:
        array = np.asarray(picture)
        found.update(f"{array.shape}".encode() + array.tobytes())
    return found.hexdigest()


Asked = Callable[[list[Any], list[int]], list[Any]]


def _each(ask: Asked, items: list[Any], seeds: list[int]) -> list[Any]:
    """Ask all at once; where that fails, one by one, so that one bad item costs itself alone."""
    try:
        replies = ask(items, seeds)
        if len(replies) == len(items):
            return replies
    except (ValueError, RuntimeError):
        pass
    out: list[Any] = []
    for item, seed in zip(items, seeds, strict=True):
        try:
            replies = ask([item], [seed])
            out.append(replies[0] if len(replies) == 1 else f"{len(replies)} replies to one")
        except (ValueError, RuntimeError) as error:
            out.append(_Failed(explain(error)))
    return out


class _Failed(str):
    """Why there is no reply."""


def _drawn(model: Any, spec: Benchmark, batch: list[Sample], plan: Plan) -> list[Reply | str]:
    sampling = {**spec.sampling, **plan.sampling}
    verb = model.animate if spec.modality == "film" else model.generate

    def ask(items: list[Any], seeds: list[int]) -> list[Any]:
        made: list[Any] = verb(list(items), seed=seeds, **sampling)
        return made

    places = [(sample, k) for sample in batch for k in range(spec.pictures)]
    seeds = [seed_of(plan.seed, spec.name, sample.id, k) for sample, k in places]
    found = _each(ask, [sample.prompt for sample, _ in places], seeds)
    replies: list[Reply | str] = []
    for number in range(len(batch)):
        pictures = found[number * spec.pictures : (number + 1) * spec.pictures]
        failed = [str(p) for p in pictures if isinstance(p, str)]
        replies.append(f"not drawn: {failed[0]}" if failed else Reply(pictures=pictures))
    return replies


def _answered(model: Any, spec: Benchmark, batch: list[Sample], plan: Plan) -> list[Reply | str]:
    sampling = {**spec.sampling, **plan.sampling}
    replies: list[Reply | str] = ["" for _ in batch]
    shown: list[list[Image.Image]] = []
    ways: dict[str, list[int]] = {"one": [], "chat": [], "likelihood": []}
    for place, sample in enumerate(batch):
        try:
            shown.append([picture.open() for picture in sample.pictures])
        except MediaError as error:
            shown.append([])
            replies[place] = f"picture not readable: {error}"
            continue
        way = "one" if len(shown[-1]) == 1 else "chat"
        ways["likelihood" if spec.answer == "likelihood" else way].append(place)

    def one(places: list[Any], seeds: list[int]) -> list[Any]:
        pictures = [shown[k][0] for k in places]
        said: list[str] = model.ask(pictures, [batch[k].prompt for k in places],
                                    seed=seeds, **sampling)  # fmt: skip
        return [Reply(text) for text in said]

    def chat(places: list[Any], seeds: list[int]) -> list[Any]:
        talks = [_message(shown[k], batch[k].prompt) for k in places]
        return [Reply(_text(reply)) for reply in model.chat_batch(talks, seed=seeds, **sampling)]

    def likelihood(places: list[Any], seeds: list[int]) -> list[Any]:
        return [
            Reply(likelihoods=option_likelihoods(
                model, shown[k], batch[k].prompt, batch[k].facts["options"]))
            for k in places
        ]  # fmt: skip

    for way, ask in (("one", one), ("chat", chat), ("likelihood", likelihood)):
        places = ways[way]
        seeds = [seed_of(plan.seed, spec.name, batch[k].id) for k in places]
        for place, reply in zip(places, _each(ask, places, seeds) if places else [], strict=True):
            replies[place] = f"not answered: {reply}" if isinstance(reply, str) else reply
    return replies


def _message(pictures: list[Image.Image], text: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")
