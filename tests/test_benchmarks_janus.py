"""Every benchmark on its fixture, asked of a small random model in the layout of Janus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.official import FIXTURES, clip
from tests.test_family_janus import save
from unified.eval import benchmark, formats, results, runner
from unified.eval.report import write
from unified.handle import load

FILMS_AND_SOUND = {"vbench", "librispeech", "film_questions"}  # what no Janus does


@pytest.fixture(scope="module")
def janus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(save(tmp_path_factory.mktemp("janus")), device="cpu")


@pytest.mark.slow
def test_every_benchmark_runs_through_a_janus(janus: Any, tmp_path: Path) -> None:
    """Random weights: what is said is nonsense, and all of it is scored or named."""
    judges = {"coco_similarity": str(clip(tmp_path / "tiny-clip"))}
    tasks = []
    for name in benchmark.names():
        spec, data = benchmark.load(name), tmp_path / "data" / name
        if formats.needs_data(spec):
            if name not in FIXTURES:
                assert name in FILMS_AND_SOUND
                continue
            FIXTURES[name](data)
        tasks.append(runner.Task(spec, data, judges.get(name, "")))
    found = runner.run(janus, tasks, tmp_path / "out", runner.Plan(limit=6, batch=8))
    assert set(found.failed) == FILMS_AND_SOUND & {task.spec.name for task in tasks}
    assert all("makes no films" in reason for reason in found.failed.values())
    names = {task.spec.name for task in tasks} - FILMS_AND_SOUND
    assert {row.task for row in found.rows} == names
    for name in names:
        for record in results.read_samples(tmp_path / "out" / f"{name}.jsonl"):
            said = str(record["unscored"] or "")  # a judge's nonsense, not a model that failed
            assert not said.startswith(("not drawn", "not answered", "picture not")), (name, said)
            assert all((tmp_path / "out" / file).is_file() for file in record["files"])
    report = tmp_path / "report.html"
    write([tmp_path / "out"], report, validate=0)
    words = report.read_text(encoding="utf-8")
    assert all(name in words for name in names) and "SELF-JUDGED" in words
