"""Runs benchmarks on models: batched, resumable, every sample kept, every trouble named.

A task's samples are cut into the same batches whatever was done before, so that a run that was
killed goes on to the same bytes. A batch is asked again as a whole where a sample of it is missing.
Asking is `asking.py`'s, sharing among processes `sharing.py`'s. Knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from unified.eval import results, sharing
from unified.eval.asking import records
from unified.eval.benchmark import Benchmark, BenchmarkError, lacking
from unified.eval.layouts import LAYOUTS
from unified.eval.plan import DEFAULT, Plan, Progress, Ready, Task, prepare
from unified.eval.results import Results, Row, Settings, Store
from unified.eval.scorers import scorer
from unified.eval.scoring import Context, Value
from unified.media.picture import write_atomic
from unified.terminal import explain


def run(
    model: Any,
    tasks: Sequence[Task],
    folder: Path,
    plan: Plan = DEFAULT,
    on_progress: Progress | None = None,
    others: Sequence[sharing.Load] = (),
) -> Results:
    """Run tasks on a model and write all of it below `folder`; go on where a run was broken off.

    A task that cannot be run is named in `failed`, and the others are run.

    Args:
        on_progress: called with (done, total, what) over the samples of all tasks.
        others: of each process that shares the work, what loads the same model there.

    Raises:
        ResultsError: the folder holds samples of other settings, or a process broke off.
    """
    folder = Path(folder)
    old = results.load(folder) if (folder / results.FILE).is_file() else None
    names = {task.spec.name for task in tasks}
    rows = [row for row in old.rows if row.task not in names] if old else []
    failed = {k: v for k, v in old.failed.items() if k not in names} if old else {}
    ready: list[Ready] = []
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

    if others:
        sharing.ask(model, ready, folder, plan, others, step)
    for one in ready:
        step(0, one.task.spec.name)
        try:
            rows += run_task(model, one, folder, plan, (lambda *_: None) if others else step)
        except results.ResultsError:
            raise
        except ValueError as error:
            failed[one.task.spec.name] = explain(error)
        results.save(folder, Results(version=1, rows=rows, failed=failed))
    found = Results(version=1, rows=rows, failed=failed)
    results.save(folder, found)
    return found


def run_task(
    model: Any, ready: Ready, folder: Path, plan: Plan, step: Callable[[int, str], None]
) -> list[Row]:
    """Ask what is not yet asked, and score all of it."""
    spec = ready.task.spec
    folder.mkdir(parents=True, exist_ok=True)
    described = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
    write_atomic(folder / f"{spec.name}.yaml", described.encode())
    store = Store(folder / f"{spec.name}.jsonl", ready.settings.model_dump(mode="json"))
    try:
        asked = sharing.collected(folder, ready)
        for batch in ready.batches:
            if any(sample.id not in store.records for sample in batch):
                if all(sample.id in asked for sample in batch):
                    store.add([asked[sample.id] for sample in batch])
                else:
                    store.add(records(model, ready, batch, folder, plan))
            step(len(batch), spec.name)
        found = [store.records[sample.id] for sample in ready.samples]
    finally:
        store.close()
    sharing.remove(folder, spec.name)
    _sweep(folder, spec.name)
    finish = LAYOUTS[spec.layout].finish
    if finish is not None:
        finish(folder / spec.name, _marked(ready, found), {r["id"]: r["files"] for r in found})
    return score(ready, found, folder)


def _sweep(folder: Path, task: str) -> None:
    """Remove what a kill left half written: an official scorer may take every file for a drawing.
    Nobody else writes here now."""
    for stale in (*folder.glob(".*.tmp"), *(folder / task).rglob(".*.tmp")):
        stale.unlink(missing_ok=True)


def _marked(ready: Ready, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of which those that could not be scored have the marks of a wrong reply."""
    wrong = scorer(ready.task.spec.scorer).wrong
    samples = {sample.id: sample for sample in ready.samples}
    try:
        return [
            record if record["unscored"] is None
            else {**record, "marks": wrong(samples[record["id"]])}
            for record in found
        ]  # fmt: skip
    except KeyError as error:
        raise BenchmarkError(lacking(ready.task.spec, error)) from None


def score(ready: Ready, found: list[dict[str, Any]], folder: Path) -> list[Row]:
    """Rows of all records of a task."""
    spec, scoring = ready.task.spec, scorer(ready.task.spec.scorer)
    samples = {sample.id: sample for sample in ready.samples}
    counted = [
        record for record in _marked(ready, found)
        if record["unscored"] is None or (spec.unscored == "wrong" and not record["outside"])
    ]  # fmt: skip
    if not counted:
        reason = next((r["unscored"] for r in found if r["unscored"]), "")
        raise ValueError(f"{spec.name}: no sample could be scored: {reason}")
    unscored = sum(record["unscored"] is not None for record in found)
    lost = unscored, len(found) - len(counted)
    context = Context(folder, samples, ready.judge, ready.settings.seed)
    return [_row(spec, value, lost, ready.settings) for value in scoring.rows(counted, context)]


def _row(spec: Benchmark, value: Value, lost: tuple[int, int], settings: Settings) -> Row:
    higher = value.higher_is_better
    if not all(map(math.isfinite, (value.value, value.stderr, *value.ci))):
        raise ValueError(f"{spec.name}: {value.metric} of {value.skill} is {value.value}, no number"
                         " to be kept")  # fmt: skip
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
