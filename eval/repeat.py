"""The same again: run what stands in a results.json and say whether it agrees, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unified.eval import benchmark, results
from unified.eval.results import Row, Settings
from unified.eval.runner import Plan, Progress, Task, prepare, run


def repeat(
    path: Path,
    folder: Path,
    load_model: Callable[[Settings], Any],
    data: Path | None = None,
    on_progress: Progress | None = None,
) -> list[str]:
    """Run what stands in a results.json again, into `folder`; what differs, nothing if it agrees.

    Args:
        load_model: the model that the settings name.
        data: instead of where the data was.
    """
    before = results.load(path)
    home = path if path.is_dir() else path.parent
    first = {row.task: row.settings for row in reversed(before.rows)}
    if not first:
        raise results.ResultsError(f"{path}: no rows to repeat")
    differences: list[str] = []
    model = load_model(next(iter(first.values())))
    for name in dict.fromkeys(row.task for row in before.rows):
        was = first[name]
        place = data if data is not None else (Path(was.data) if was.data else None)
        task = Task(benchmark.load(str(home / f"{name}.yaml")), place, was.judge_source)
        plan = Plan(was.seed, was.limit, was.batch, was.sampling)
        ready = prepare(model, task, plan)
        differences += _settings_changed(name, was, ready.settings)
        after = run(model, [task], folder, plan, on_progress)
        if name in after.failed:
            differences.append(f"{name}: {after.failed[name]}")
            continue
        differences += _samples_changed(name, home, folder)
        differences += _rows_changed(
            [row for row in before.rows if row.task == name],
            [row for row in after.rows if row.task == name],
        )
    return differences


def _settings_changed(name: str, was: Settings, now: Settings) -> list[str]:
    """What is not as it was, where things lie aside: data is known by its hash, and a model and a
    judge by their revisions where they have one."""
    old, new = was.model_dump(), now.model_dump()
    moved = {"data"}
    if was.revision and was.revision == now.revision:
        moved |= {"model"} if now.recipe else {"model", "recipe"}  # a recipe lies beside its model
        if was.judge_source == now.judge_source and was.judge_revision == now.judge_revision != "":
            moved |= {"judge"}
    return [
        f"{name}: {key} was {str(old[key])[:80]!r}, is {str(new[key])[:80]!r}"
        for key in old if old[key] != new[key] and key not in moved
    ]  # fmt: skip


def _samples_changed(name: str, home: Path, folder: Path) -> list[str]:
    file = f"{name}.jsonl"
    if not (home / file).is_file():
        return [f"{name}: {file} is not beside the results, so only the rows are compared"]
    old, new = (
        {record["id"]: record for record in results.read_samples(where / file)}
        for where in (home, folder)
    )
    if set(old) != set(new):
        return [f"{name}: {len(old)} samples, now {len(new)}, or others"]
    changed = [key for key in old if old[key] != new[key]]
    if not changed:
        return []
    return [f"{name}: {len(changed)} of {len(old)} samples differ, {changed[0]!r} first"]


def _rows_changed(before: Sequence[Row], after: Sequence[Row]) -> list[str]:
    def keyed(rows: Sequence[Row]) -> dict[tuple[str, str, str], Row]:
        return {(row.skill, row.split, row.metric): row for row in rows}

    old, new = keyed(before), keyed(after)
    out = []
    for key in old.keys() | new.keys():
        one, two = old.get(key), new.get(key)
        if one is None or two is None or one.value != two.value or one.ci != two.ci:
            values = [row.value if row is not None else "missing" for row in (one, two)]
            task = (before or after)[0].task
            out.append(f"{task}: {', '.join(key)}: {values[0]}, now {values[1]}")
    return sorted(out)
