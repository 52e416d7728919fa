"""What goes wrong in a run: kills at any moment, damaged pictures, judges that talk nonsense; and
settings, each of which must stand in a row."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import official
from tests.official import FIXTURES
from tests.official import Model as Oracle
from tests.test_eval_runner import COUNT, Model, all_files, tasks
from tests.test_eval_runner import data as data  # a fixture
from unified.eval import benchmark, judges, results, runner
from unified.eval.report import write
from unified.eval.results import Row, Settings
from unified.eval.scorers import SCORERS
from unified.media import picture

UNDERSTANDING = [n for n in FIXTURES if benchmark.load(n).side == "understanding"]
ASKED = ("dpg", "tifa", "genai_bench", "wise")  # benchmarks whose judge is asked questions


class Killed(BaseException):
    """As SIGKILL: nobody catches it."""


class Clock:
    """Kills at one of the moments at which something is asked or written."""

    def __init__(self, at: int, rng: random.Random):
        self.at, self.rng, self.now = at, rng, 0

    def tick(self) -> bool:
        self.now += 1
        return self.now == self.at

    def patch(self, patched: pytest.MonkeyPatch, model: Any) -> None:
        write, replace = os.write, os.replace

        def written(file: int, content: Any) -> int:
            if self.tick():
                write(file, bytes(content)[: self.rng.randrange(len(content))])  # in mid-line
                raise Killed
            return write(file, content)

        def replaced(source: Any, target: Any) -> None:
            if self.tick():
                left = Path(target).with_name(f".{Path(target).name}.beef.tmp")
                left.write_bytes(Path(source).read_bytes()[:20])  # nobody is left to remove it
                raise Killed
            replace(source, target)

        def asked(verb: Callable[..., Any]) -> Callable[..., Any]:
            def ask(*given: Any, **more: Any) -> Any:
                if self.tick():
                    raise Killed
                return verb(*given, **more)

            return ask

        patched.setattr(os, "write", written)
        patched.setattr(os, "replace", replaced)
        for verb in ("ask", "generate"):
            patched.setattr(model, verb, asked(getattr(model, verb)), raising=False)


def killed_run(given: list[runner.Task], folder: Path, clock: Clock) -> Any:
    """The model of a run that is killed when the clock says so, or that ends before."""
    model = Model()
    with pytest.MonkeyPatch.context() as patched:
        clock.patch(patched, model)
        try:
            runner.run(model, given, folder, runner.Plan(batch=3))
        except Killed:
            pass
    return model


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_ten_moments_it_ends_as_if_it_never_was(
    seed: int, data: Path, tmp_path: Path
) -> None:
    """Ten kills, each while something is asked, written or put in its place."""
    given, rng = tasks(data), random.Random(seed)
    whole = Clock(-1, rng)
    killed_run(given, tmp_path / "whole", whole)
    assert whole.now > 60
    out, kills, questions = tmp_path / "killed", 0, 0
    for _ in range(10):
        clock = Clock(rng.randint(1, whole.now // 6), rng)
        model = killed_run(given, out, clock)
        kills += clock.now == clock.at
        questions += sum("Is there" in text for _, text in model.asked)
    assert kills == 10
    last = Model()
    found = runner.run(last, given, out, runner.Plan(batch=3))
    assert found == results.load(tmp_path / "whole")
    assert all_files(out) == all_files(tmp_path / "whole")
    questions += sum("Is there" in text for _, text in last.asked)
    assert COUNT <= questions <= COUNT + 3 * 10  # of each kill a batch again, at most


# Pictures


@pytest.mark.parametrize("name", UNDERSTANDING)
def test_damaged_pictures_are_named_in_every_benchmark(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files cut short, and the same inside of tables."""
    whole = official.encoded
    monkeypatch.setattr(official, "encoded", lambda *a, **k: whole(*a, **k)[:50])
    book = FIXTURES[name](tmp_path / "data")
    for path in (tmp_path / "data").rglob("*"):
        if path.suffix in (".png", ".jpg", ".jpeg"):
            path.write_bytes(path.read_bytes()[:50])
    model = Oracle(book)
    other = runner.Task(benchmark.load("wise"), tmp_path / "wise")
    official.wise(tmp_path / "wise")
    given = [runner.Task(benchmark.load(name), tmp_path / "data"), other]
    found = runner.run(model, given, tmp_path / "out")
    records = results.read_samples(tmp_path / "out" / f"{name}.jsonl")
    bad = [r for r in records if r["unscored"]]
    assert bad and all(r["unscored"].startswith("picture not readable: ") for r in bad)
    assert all(pictures == 0 for prompt, pictures in model.shown if "Does this" not in prompt)
    assert any(row.task == "wise" for row in found.rows) and not found.failed
    for row in (row for row in found.rows if row.task == name):
        assert (row.unscored, row.left_out) == (len(bad), 0)  # they all count as wrong
    if len(bad) == len(records) and name != "pope":
        assert next(row for row in found.rows if row.task == name).value == 0
    write([tmp_path / "out"], tmp_path / "report.html", validate=0)
    assert f"{name}: {len(bad)} of {len(records)} samples" in (tmp_path / "report.html").read_text()


class Mute(Oracle):
    """Has no answer to some questions."""

    def _say(self, prompt: str, pictures: int) -> str:
        if "two?" in prompt or "x?" in prompt:
            raise ValueError("the message takes 900 tokens")
        return "Yes"


@pytest.mark.parametrize("name", ["mme", "mmvet"])
def test_official_answers_are_complete_where_one_failed(name: str, tmp_path: Path) -> None:
    """Official scorers stop where an answer is missing, and MME's takes lines two by two."""
    FIXTURES[name](tmp_path / "data")
    given = [runner.Task(benchmark.load(name), tmp_path / "data")]
    runner.run(Mute(), given, tmp_path / "out")
    files = tmp_path / "out" / name
    if name == "mmvet":
        assert json.loads((files / "answers.json").read_text()) == {"v1_0": "", "v1_1": "Yes"}
        return
    for task in ("count", "OCR"):
        one, two = (files / f"{task}.txt").read_text().splitlines()
        assert one.split("\t")[2:] == ["Yes", "Yes"] and two.split("\t")[2:] == ["No", ""]


@pytest.mark.parametrize(
    ("name", "file"), [("vqav2", "answers"), ("gqa", "answers"), ("coco_captions", "captions")]
)
def test_a_picture_that_is_lost_has_an_empty_answer(name: str, file: str, tmp_path: Path) -> None:
    FIXTURES[name](tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.jpg"):
        path.write_bytes(b"cut")
    given = [runner.Task(benchmark.load(name), tmp_path / "data")]
    runner.run(Oracle(), given, tmp_path / "out")
    answers = json.loads((tmp_path / "out" / name / f"{file}.json").read_text())
    records = results.read_samples(tmp_path / "out" / f"{name}.jsonl")
    assert len(answers) == len(records) > 0
    assert all("" in row.values() for row in answers)


# Judges


@pytest.mark.parametrize("name", ASKED)
def test_a_judge_s_nonsense_is_no_score(name: str, tmp_path: Path) -> None:
    """Neither yes nor no nor any choice: named, counted as wrong, and the run goes on."""
    FIXTURES[name](tmp_path / "data")
    FIXTURES["gqa"](tmp_path / "gqa")
    given = [
        runner.Task(benchmark.load(n), tmp_path / f) for n, f in ((name, "data"), ("gqa",) * 2)
    ]
    found = runner.run(Oracle(), given, tmp_path / "out")
    assert not found.failed and {row.task for row in found.rows} == {name, "gqa"}
    records = results.read_samples(tmp_path / "out" / f"{name}.jsonl")
    for record in records:
        assert "SELF-JUDGED by oracle answered 'I do not know.' to " in record["unscored"]
        assert record["files"] and record["marks"] == {}  # the drawing is kept for others
    for row in (row for row in found.rows if row.task == name):
        assert row.value == 0 and (row.unscored, row.left_out) == (len(records), 0)


def test_a_judge_that_breaks_costs_its_task_alone(tmp_path: Path) -> None:
    """A directory that is no model, and one whose weights are not there."""
    FIXTURES["dpg"](tmp_path / "data")
    FIXTURES["gqa"](tmp_path / "gqa")
    broken = tmp_path / "judge"
    broken.mkdir()
    (broken / "config.json").write_text('{"architectures": ["LlavaForConditionalGeneration"]}')
    given = [runner.Task(benchmark.load("dpg"), tmp_path / "data", str(broken)),
             runner.Task(benchmark.load("gqa"), tmp_path / "gqa")]  # fmt: skip
    found = runner.run(Oracle(), given, tmp_path / "out")
    assert {row.task for row in found.rows} == {"gqa"} and list(found.failed) == ["dpg"]
    assert "cannot be loaded" in found.failed["dpg"] and "\n" not in found.failed["dpg"]


class Broken(judges.Questioner):
    """A judge that is out of memory at every second picture."""

    name, revision = "broken", "1"

    def __init__(self) -> None:
        self.asked = 0

    def says(self, images: list[Image.Image], questions: list[str]) -> list[str]:
        self.asked += 1
        if self.asked % 2:
            raise RuntimeError("CUDA out of memory.\nTried to allocate")
        return ["yes"] * len(questions)


def test_a_judge_that_gives_up_costs_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FIXTURES["genai_bench"](tmp_path / "data")
    monkeypatch.setattr(judges, "SelfJudge", lambda model: Broken())
    given = [runner.Task(benchmark.load("genai_bench"), tmp_path / "data")]
    found = runner.run(Oracle(), given, tmp_path / "out")
    one, two = results.read_samples(tmp_path / "out" / "genai_bench.jsonl")
    assert one["unscored"] == "not judged: RuntimeError: CUDA out of memory. Tried to allocate"
    assert two["unscored"] is None and found.rows[0].value == 0.5 and found.rows[0].unscored == 1


class Nameless:
    """Whatever it compares, it finds no number."""

    name, revision, short = "nameless", "1", "nameless"

    def cosines(self, images: Any, text: str) -> list[float]:
        return [float("nan")] * len(images)

    def features(self, images: Any) -> Any:
        return np.full((len(images), 4), np.nan)


@pytest.mark.parametrize("name", ["coco_similarity", "coco_fidelity", "rebuilt"])
def test_what_is_no_number_is_no_score(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would make the results of all the other benchmarks unreadable."""
    FIXTURES[name](tmp_path / "data")
    FIXTURES["gqa"](tmp_path / "gqa")
    make = judges.make
    monkeypatch.setattr(
        judges, "make", lambda judge, kind, model: Nameless() if kind else make(judge, kind, model)
    )
    given = [
        runner.Task(benchmark.load(n), tmp_path / f) for n, f in ((name, "data"), ("gqa",) * 2)
    ]
    found = runner.run(Oracle(), given, tmp_path / "out")
    assert results.load(tmp_path / "out") == found
    assert any(row.task == "gqa" for row in found.rows)
    if name == "coco_similarity":
        row = next(row for row in found.rows if row.task == name)
        assert row.value == 0 and row.unscored == row.n
    else:
        assert "features that are no numbers" in found.failed[name]


def test_likelihoods_that_are_no_numbers_choose_nothing(tmp_path: Path) -> None:
    FIXTURES["seed_bench"](tmp_path / "data")
    model = Oracle()
    model.option_likelihoods = lambda *_: [0.0, float("nan")]  # type: ignore[method-assign]
    given = [runner.Task(benchmark.load("seed_bench"), tmp_path / "data")]
    found = runner.run(model, given, tmp_path / "out")
    (record,) = results.read_samples(tmp_path / "out" / "seed_bench.jsonl")
    assert record["unscored"] == "not answered: a likelihood that is no number"
    assert found.rows[0].value == 0 and found.rows[0].unscored == 1


def test_a_scorer_s_nan_fails_its_task_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FIXTURES["vqav2"](tmp_path / "vqav2")
    FIXTURES["gqa"](tmp_path / "gqa")
    monkeypatch.setattr(SCORERS["vqa"], "score", lambda sample, reply: float("nan"))
    given = [runner.Task(benchmark.load(n), tmp_path / n) for n in ("vqav2", "gqa")]
    found = runner.run(Oracle(), given, tmp_path / "out")
    assert {row.task for row in found.rows} == {"gqa"}
    assert found.failed["vqav2"] == "vqav2: VQA accuracy of overall is nan, no number to be kept"
    assert results.load(tmp_path / "out") == found


def test_a_run_of_which_nothing_came_has_a_report(tmp_path: Path) -> None:
    given = [runner.Task(benchmark.load("gqa"), tmp_path / "none")]
    runner.run(Oracle(), given, tmp_path / "out")
    write([tmp_path / "out"], tmp_path / "report.html", validate=0)
    assert "gqa was not run" in (tmp_path / "report.html").read_text()


def test_a_model_that_lies_elsewhere_is_asked_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Results name a model as it was named, from a folder that may be another one now."""
    from unified import cli

    model = Model()  # not a directory of any kind
    model.source = "runs/a/model"
    runner.run(model, tasks(data)[:1], tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert cli.run(["eval", "repeat", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "runs/a/model: no such model directory" in line and "--model says where it is" in line


# Settings


SETTINGS = {
    "model", "revision", "adapter", "adapter_revision", "recipe", "toolkit", "benchmark",
    "template", "sampling", "judge", "judge_source", "judge_revision", "data", "data_hash", "seed",
    "limit", "batch", "device", "dtype", "threads", "weights",
}  # fmt: skip
ROW = {
    "task", "side", "modality", "skill", "split", "metric", "value", "stderr", "ci", "n",
    "unscored", "left_out", "chance", "higher_is_better", "protocol", "settings",
}  # fmt: skip


def test_a_row_has_every_field_that_it_is_to_have() -> None:
    """None may be dropped from the model of a row, nor be given a value by default."""
    assert set(Settings.model_fields) == SETTINGS and set(Row.model_fields) == ROW
    for model in (Settings, Row):
        assert all(found.is_required() for found in model.model_fields.values())


class Named(Oracle):
    """Has all that a row says of a model."""

    def __init__(self, **changes: Any):
        super().__init__()
        self.adapter, self.adapter_revision, self.source = "cats", "abc", "oracle"
        self.model = type("Weights", (), {"device": "cpu", "dtype": "torch.float32"})()
        for key, value in changes.items():
            setattr(self.model if key in ("device", "dtype") else self, key, value)


def settings_of(folder: Path, model: Any, data: Path, judge: str = "", **plan: Any) -> Any:
    spec = benchmark.load(str(data / "mine.yaml"))
    found = runner.run(model, [runner.Task(spec, data, judge)], folder, runner.Plan(**plan))
    assert found.rows, found.failed
    assert len({row.settings.model_dump_json() for row in found.rows}) == 1
    return found.rows[0].settings.model_dump()


def test_every_setting_is_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is changed about a run changes its setting in the row, and no other."""
    import torch
    import yaml

    import unified

    data = tmp_path / "data"
    official.wise(data)
    described = benchmark.load("wise").model_dump(mode="json") | {"name": "mine"}
    own = data / "mine.yaml"
    own.write_text(yaml.safe_dump(described))
    folders = (tmp_path / str(k) for k in range(99))
    base = settings_of(next(folders), Named(), data)
    assert set(base) == SETTINGS and base["threads"] == torch.get_num_threads()
    assert base["template"] == described["prompt"] and base["judge_source"] == "self"
    seen: set[str] = set()

    def changes(wanted: set[str], model: Any = None, judge: str = "", **plan: Any) -> None:
        found = settings_of(next(folders), model or Named(), data, judge, **plan)
        assert {key for key in SETTINGS if found[key] != base[key]} == wanted, found
        seen.update(wanted)

    changes(set())
    recipe = tmp_path / "trained"
    recipe.mkdir()
    (recipe / "recipe.yaml").write_text("name: x\n")
    changes({"model", "judge", "recipe"}, Named(source=str(recipe / "model")))
    changes({"revision", "judge_revision"}, Named(revision="2"))
    changes({"adapter"}, Named(adapter="dogs"))
    changes({"adapter_revision"}, Named(adapter_revision="abd"))
    changes({"device"}, Named(device="cuda:0"))
    changes({"dtype"}, Named(dtype="torch.bfloat16"))
    changes({"weights"}, Named(weights="int8"))
    changes({"seed"}, seed=1)
    changes({"limit", "data_hash"}, limit=1)
    changes({"batch"}, batch=2)
    changes({"sampling"}, sampling={"temperature": 0.5})
    with monkeypatch.context() as patched:
        patched.setattr(unified, "__version__", "9")
        changes({"toolkit"})
    with monkeypatch.context() as patched:
        patched.setattr(torch, "get_num_threads", lambda: 77)
        changes({"threads"})
    own.write_text(yaml.safe_dump(described | {"prompt": "Draw {prompt}"}))
    changes({"template", "benchmark", "data_hash"})
    own.write_text(yaml.safe_dump(described | {"scorer": "written", "judge": ""}))
    changes({"benchmark", "judge", "judge_source", "judge_revision"})
    own.write_text(yaml.safe_dump(described))
    moved = tmp_path / "moved"
    data.rename(moved)
    data = moved
    changes({"data"})
    assert seen == SETTINGS


def test_a_picture_in_a_row_is_that_of_its_seed(tmp_path: Path) -> None:
    """The seed that a record names gives its drawing again, whatever was drawn beside it."""
    official.wise(tmp_path / "data")
    model = Oracle(draw=lambda prompt, seed: Image.new("RGB", (4, 4), (seed % 251, 3, 4)))
    given = [runner.Task(benchmark.load("wise"), tmp_path / "data")]
    runner.run(model, given, tmp_path / "out", runner.Plan(seed=5))
    for record in results.read_samples(tmp_path / "out" / "wise.jsonl"):
        (file,) = record["files"]
        drawn = Image.open(tmp_path / "out" / file)
        assert drawn.getpixel((0, 0)) == (record["seed"] % 251, 3, 4)
        assert picture.metadata(tmp_path / "out" / file)["seed"] == record["seed"]
    json.dumps(record)
