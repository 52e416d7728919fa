"""A benchmark of one's own: one file and a table of any kind, and nothing else."""

from __future__ import annotations

import csv
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.official import Model, encoded, lines, put
from unified.eval import benchmark, formats, results, runner
from unified.eval.benchmark import BenchmarkError
from unified.eval.items import DataError

README = Path(benchmark.FOLDER) / "README.md"
ROWS = [
    {"q": "What stands there?", "right": "stop", "file": "a.jpg", "kind": "red"},
    {"q": "Which way?", "right": "left", "file": "b", "kind": "blue"},
    {"q": "How fast?", "right": "30", "file": "gone.jpg", "kind": "red"},
]
SPEC: dict[str, Any] = {
    "name": "mine", "about": "x", "side": "understanding", "modality": "image",
    "skills": ["red", "blue"], "prompt": "{question}", "scorer": "exact", "chance": 0,
    "higher_is_better": True, "protocol": "official", "unscored": "wrong",
    "data": {"reader": "table", "files": "signs.*", "options":
             {"question": "q", "answer": "right", "picture": "file", "skill": "kind"}},
}  # fmt: skip


def described(folder: Path, **changes: Any) -> benchmark.Benchmark:
    """A benchmark's file, loaded; `options` changes those of its table."""
    spec = {**SPEC, "data": {**SPEC["data"]}, **changes}
    if "options" in spec:
        spec["data"]["options"] = spec.pop("options")
    return benchmark.load(str(put(folder / "mine.yaml", yaml.safe_dump(spec))))


def pictures(folder: Path) -> Path:
    put(folder / "images" / "a.jpg", encoded())
    put(folder / "images" / "b.png", encoded("PNG"))
    return folder


def written(folder: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = folder / f"signs.{kind}"
    if kind in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    elif kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        put(path, lines(rows) if kind == "jsonl" else rows)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_file_and_a_table_are_a_benchmark(kind: str, tmp_path: Path) -> None:
    """Asked, scored by skill, a picture that is not there named: with no line of code."""
    written(pictures(tmp_path), kind, ROWS)
    spec = described(tmp_path / "spec")
    model = Model({"What": "Stop.", "Which": "right", "How": "30"})
    found = runner.run(model, [runner.Task(spec, tmp_path)], tmp_path / "out")
    assert not found.failed
    rows = {r.skill: (r.value, r.n, r.unscored) for r in found.rows}
    assert rows == {"overall": (1 / 3, 3, 1), "red": (0.5, 2, 1), "blue": (0, 1, 1)}
    assert model.shown == [("What stands there?", 1), ("Which way?", 1)]
    lost = results.read_samples(tmp_path / "out" / "mine.jsonl")[2]
    assert "gone.jpg" in lost["unscored"]


def test_the_benchmark_of_the_readme_runs(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8").partition("of one's own, whole:\n\n")[2]
    block = text[: text.index("\n\n")]
    spec = benchmark.load(str(put(tmp_path / "own.yaml", textwrap.dedent(block))))
    written(pictures(tmp_path), "csv", ROWS[:1])
    found = runner.run(Model({"What": "stop"}), [runner.Task(spec, tmp_path)], tmp_path / "out")
    assert found.rows[0].value == 1 and found.rows[0].task == "street_signs"
    (record,) = results.read_samples(tmp_path / "out" / "street_signs.jsonl")
    assert record["prompt"] == "What stands there?\nAnswer in one word."


@pytest.mark.parametrize(
    ("options", "row"),
    [
        ({"choices": ["A", "B", "C"]}, {"A": "cat", "B": "dog", "C": "fox", "answer": "B"}),
        ({"choices": ["A", "B", "C"]}, {"A": "cat", "B": "dog", "C": "", "answer": "dog"}),
        ({}, {"choices": ["cat", "dog"], "answer": 1}),
        ({"choices": "all"}, {"all": "['cat', 'dog']", "answer": "b"}),
    ],
)
def test_choices_are_columns_or_a_list(
    options: dict[str, Any], row: dict[str, Any], tmp_path: Path
) -> None:
    """The right one is its text, its letter or its number; chance is one of so many."""
    put(tmp_path / "x.jsonl", lines([{"question": "Who?", **row}]))
    spec = described(tmp_path, options=options, scorer="choice", prompt="{question}\n{options}")
    (sample,) = formats.read(spec, tmp_path)
    asked = sample.facts["options"]
    assert asked[sample.facts["answer"]] == "dog" and sample.chance == 1 / len(asked)
    assert "B. dog" in sample.prompt
    found = runner.run(Model({"Who": "(B)"}), [runner.Task(spec, tmp_path)], tmp_path / "out")
    assert found.rows[0].value == 1


@pytest.mark.parametrize(
    ("scorer", "needs"), [("choice", "options"), ("pope", "label"), ("wer", "transcript")]
)
@pytest.mark.parametrize("shown", [True, False])
def test_a_scorer_that_does_not_fit_is_named(
    scorer: str, needs: str, shown: bool, tmp_path: Path
) -> None:
    """Whether samples are answered or all of them lost; other benchmarks of the run go on."""
    put(tmp_path / "x.jsonl", lines([{"question": "Who?", "answer": "Ann", "picture": "a.jpg"}]))
    if shown:
        pictures(tmp_path)
    wrong = described(tmp_path / "1", options={}, scorer=scorer)
    fits = described(tmp_path / "2", options={}, name="fits")
    given = [runner.Task(spec, tmp_path) for spec in (wrong, fits)]
    found = runner.run(Model({"": "Ann"}), given, tmp_path / "out")
    assert "fits" in {row.task for row in found.rows}
    if not shown and scorer == "choice":  # a lost reply is wrong, whatever the options
        assert found.rows[0].value == 0 and found.rows[0].unscored == 1
        return
    reason = f"mine: the scorer '{scorer}' needs '{needs}' of every sample, which the reader"
    assert found.failed["mine"].startswith(reason) and len(found.rows) == 1


class Chooser(Model):
    """Finds one of what it may choose from likeliest."""

    def option_likelihoods(self, images: Any, question: str, options: Any) -> list[float]:
        self.shown.append((" ".join(options), len(images)))
        return [float(option in ("dog", "B")) for option in options]


@pytest.mark.parametrize("scorer", ["choice", "mmmu"])
@pytest.mark.parametrize(("answer", "chosen_from"), [("likelihood", "cat dog"), ("letter", "A B")])
def test_answers_may_be_chosen(scorer: str, answer: str, chosen_from: str, tmp_path: Path) -> None:
    """By an option's words, or by its letter alone; what has no options is answered freely."""
    rows = [{"question": "Who?", "choices": ["cat", "dog"], "answer": "dog"},
            {"question": "What?", "choices": [], "answer": "bone"}]  # fmt: skip
    for k, row in enumerate(rows[: 1 if scorer == "choice" else 2]):
        put(tmp_path / f"{k}.jsonl", lines([{"id": k, **row}]))
    spec = described(tmp_path, options={}, scorer=scorer, answer=answer)
    model = Chooser({"What": "It is a bone"})
    found = runner.run(model, [runner.Task(spec, tmp_path)], tmp_path / "out")
    assert found.rows[0].value == 1 and found.rows[0].unscored == 0
    assert (chosen_from, 0) in model.shown


def test_prompts_of_a_table_are_drawn(tmp_path: Path) -> None:
    put(tmp_path / "x.csv", "id,prompt\nfirst,a cat\nsecond,a dog\n")
    spec = described(tmp_path, side="generation", prompt="Draw {prompt}", scorer="shows",
                     judge="self", layout="numbered", options={})  # fmt: skip
    model = Model({'"a cat"': "yes", '"a dog"': "no"})
    found = runner.run(model, [runner.Task(spec, tmp_path)], tmp_path / "out")
    assert not found.failed and found.rows[0].value == 0.5
    drawn = sorted(p.name for p in (tmp_path / "out" / "mine").iterdir())
    assert drawn == ["first.png", "second.png"]


def test_yes_and_no_of_a_table_are_pope_s(tmp_path: Path) -> None:
    put(tmp_path / "x.jsonl", lines([{"question": "A?", "answer": "Yes"},
                                     {"question": "B?", "answer": "no"}]))  # fmt: skip
    spec = described(tmp_path, scorer="pope", options={})
    found = runner.run(Model({"": "Yes."}), [runner.Task(spec, tmp_path)], tmp_path / "out")
    assert {r.metric: r.value for r in found.rows}["precision"] == 0.5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"colour": "x"}, "mine: unknown option 'colour' of table; one of id, question,"),
        ({"question": "words"}, "x.jsonl, row 1: no field 'words' among question, answer"),
        ({"skill": "kind"}, "x.jsonl, row 1: no field 'kind' among"),
        ({"choices": ["a", "b"]}, "row 1: the answer 'dog' is none of its 2 choices"),
        ({"answer": "none"}, "row 1: no answer"),
        ({"file": "*.csv"}, r"no \*.csv there; it needs signs"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(
    options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    row = {"question": "Who?", "answer": "dog", "a": "cat", "b": "fox", "none": ""}
    put(tmp_path / "x.jsonl", json.dumps(row) + "\n")
    with pytest.raises((BenchmarkError, DataError), match=reason):
        formats.read(described(tmp_path / "spec", options=options), tmp_path)
