"""The runner: killed and resumed, repeated, with bad samples; rows that carry every setting."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from unified.eval import benchmark, results, runner, sharing
from unified.eval.likelihood import option_likelihoods
from unified.eval.plan import prepare, seed_of
from unified.eval.repeat import repeat
from unified.eval.results import Results, ResultsError, Row, Settings, Store

ROOT = Path(__file__).resolve().parent.parent
# A model that answers and draws from its seed alone, fast or slowly.
MODEL = """
import hashlib, time
from PIL import Image

class Model:
    source, revision = "hash", "1"
    def __init__(self, pause=0.0, bad=""):
        self.pause, self.bad, self.asked = pause, bad, []
    def _number(self, seed, text):
        self.asked.append((seed, text))
        if self.bad and self.bad in text:
            raise ValueError("the message takes 900 tokens")
        return hashlib.sha256(f"{seed} {text}".encode()).digest()[0]
    def ask(self, image, question, *, seed, **_):
        time.sleep(self.pause)
        seed = [seed] * len(question) if isinstance(seed, int) else seed
        return ["yes" if self._number(seed[k], q) % 2 else "no" for k, q in enumerate(question)]
    def generate(self, prompt, *, seed, **_):
        time.sleep(self.pause)
        return [Image.new("RGB", (8, 8), (self._number(seed[k], p), 7, 7))
                for k, p in enumerate(prompt)]
"""
space: dict[str, Any] = {}
exec(MODEL, space)
Model: Any = space["Model"]
COUNT = 40


class Plain(Model):
    """The same, by a name that another process can import."""


def nothing() -> Any:
    raise ValueError("no model there")


def other() -> Any:
    model = Plain()
    model.revision = "2"
    return model


def gone() -> Any:
    os._exit(7)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """POPE's questions about pictures, and WISE-like prompts, in one folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [
        {"question_id": k, "image": f"{k % 3}.jpg", "text": f"Is there a thing {k}?",
         "label": ("yes", "no")[k % 2]}
        for k in range(COUNT)
    ]  # fmt: skip
    (folder / "coco_pope_random.json").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for k in range(3):
        Image.new("RGB", (9, 9), (k, k, k)).save(folder / f"{k}.jpg")
    draw = tmp_path / "draw"
    draw.mkdir()
    prompts = [{"prompt_id": k, "Prompt": f"thing {k}", "Explanation": "x", "Category": "c"}
               for k in range(12)]  # fmt: skip
    (draw / "x.json").write_text(json.dumps(prompts))
    return folder


def tasks(data: Path) -> list[runner.Task]:
    return [
        runner.Task(benchmark.load("pope"), data),
        runner.Task(benchmark.load("wise"), data.parent / "draw"),
    ]


def all_files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_file()}  # fmt: skip


# Seeds


def test_a_sample_s_seed_is_its_own(data: Path, tmp_path: Path) -> None:
    every, few = Model(), Model()
    runner.run(every, tasks(data)[:1], tmp_path / "a", runner.Plan(batch=7))
    runner.run(few, tasks(data)[:1], tmp_path / "b", runner.Plan(batch=3, limit=9))
    assert set(few.asked) <= set(every.asked) and len(few.asked) == 9
    assert len({seed for seed, _ in every.asked}) == COUNT
    other = Model()
    runner.run(other, tasks(data)[:1], tmp_path / "c", runner.Plan(seed=1))
    assert {s for s, _ in other.asked}.isdisjoint(s for s, _ in every.asked)
    record = results.read_samples(tmp_path / "a" / "pope.jsonl")[0]
    assert record["seed"] == seed_of(0, "pope", "random/0")


# Killed and resumed

KILLS = int(os.environ.get("UNIFIED_EVAL_KILLS", "3"))  # 10 for the full measure
SCRIPT = """
import sys
from functools import partial
from pathlib import Path
from unified.eval import benchmark, runner
if __name__ == "__main__":
    data, out, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    tasks = [runner.Task(benchmark.load("pope"), data),
             runner.Task(benchmark.load("wise"), data.parent / "draw")]
    others = [partial(Model, 0.1)] * (processes - 1)
    print("ready", flush=True)
    runner.run(Model(0.1), tasks, out, runner.Plan(batch=1), others=others)
"""


@pytest.mark.parametrize("processes", [1, 3])
def test_killed_at_random_and_resumed_it_is_the_same(
    processes: int, data: Path, tmp_path: Path
) -> None:
    runner.run(Model(), tasks(data), tmp_path / "whole", runner.Plan(batch=1))
    script = tmp_path / "script.py"
    script.write_text(MODEL + SCRIPT)
    out, rng = tmp_path / "killed", random.Random(processes)
    command = [sys.executable, str(script), str(data), str(out), str(processes)]
    watched = "*.jsonl" if processes == 1 else "*.part-[12].jsonl"  # the slowest to start

    def written() -> int:
        return sum(file.stat().st_size for file in out.glob(watched))

    kills = 0
    for number in range(KILLS):
        size = written()
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            while number and written() == size and process.poll() is None:
                time.sleep(0.005)  # the first is killed before it has written anything, perhaps
            time.sleep(rng.uniform(0, 0.1))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
    assert kills == KILLS
    before = {r["id"] for file in out.glob("pope*.jsonl") for r in results.read_samples(file)}
    assert before  # it had got somewhere
    model = Model()
    runner.run(model, tasks(data), out, runner.Plan(batch=1))
    assert all_files(out) == all_files(tmp_path / "whole")
    identities = [r["id"] for r in results.read_samples(out / "pope.jsonl")]
    assert len(identities) == len(set(identities)) == COUNT
    assert sum("Is there" in text for _, text in model.asked) <= COUNT - len(before)


# Shared by several processes


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_give_what_one_gives(processes: int, data: Path, tmp_path: Path) -> None:
    alone = runner.run(Plain(), tasks(data), tmp_path / "one", runner.Plan(batch=4))
    mine, shown = Plain(), []
    together = runner.run(
        mine, tasks(data), tmp_path / "many", runner.Plan(batch=4),
        lambda done, total, _: shown.append((done, total)), [Plain] * (processes - 1),
    )  # fmt: skip
    assert together == alone
    assert all_files(tmp_path / "many") == all_files(tmp_path / "one")
    questions = sum("Is there" in text for _, text in mine.asked)
    assert questions == 4 * len(range(0, COUNT // 4, processes))  # the others asked the rest
    assert shown[-1][0] == shown[-1][1] == COUNT + 12
    again = Plain()
    runner.run(again, tasks(data), tmp_path / "many", runner.Plan(batch=4), others=[Plain])
    assert again.asked == [] and all_files(tmp_path / "many") == all_files(tmp_path / "one")


def test_what_was_shared_is_finished_alone(data: Path, tmp_path: Path) -> None:
    """Shares that were never joined: of three processes one got through, one half-way."""
    runner.run(Plain(), tasks(data)[:1], tmp_path / "one", runner.Plan(batch=4))
    plan, folder = runner.Plan(batch=4), tmp_path / "many"
    ready = prepare(Plain(), tasks(data)[0], plan)
    Store(folder / "pope.jsonl", ready.settings.model_dump(mode="json")).close()
    sharing.ask_share(Plain(), ready, folder, plan, 1, 3, lambda *_: None)
    sharing.ask_share(Plain(), ready, folder, plan, 2, 3, lambda *_: None)
    part = folder / "pope.part-2.jsonl"
    part.write_bytes(part.read_bytes()[:-700])  # cut within a record
    model = Plain()
    runner.run(model, tasks(data)[:1], folder, plan, others=[Plain])
    assert all_files(folder) == all_files(tmp_path / "one")


def test_a_process_that_breaks_off_is_named(data: Path, tmp_path: Path) -> None:
    for broken, reason in (
        (nothing, "process 2 of 2: no model there; the same command goes on from here"),
        (other, "process 2 of 2: revision is '2' here and '1' in the first process"),
        (gone, r"process 2 of 2 ended \(status 7\); the same command goes on"),
    ):
        with pytest.raises(ResultsError, match=reason):
            runner.run(Plain(), tasks(data)[:1], tmp_path / "a", others=[broken])
    runner.run(Plain(), tasks(data)[:1], tmp_path / "a")
    runner.run(Plain(), tasks(data)[:1], tmp_path / "b")
    assert all_files(tmp_path / "a") == all_files(tmp_path / "b")


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_cut_anywhere_is_written_again(cut: int, data: Path, tmp_path: Path) -> None:
    runner.run(Model(), tasks(data)[:1], tmp_path / "a", runner.Plan(limit=9, batch=4))
    file = tmp_path / "a" / "pope.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    runner.run(Model(), tasks(data)[:1], tmp_path / "a", runner.Plan(limit=9, batch=4))
    assert file.read_bytes() == whole


def test_a_finished_run_asks_nothing(data: Path, tmp_path: Path) -> None:
    first = runner.run(Model(), tasks(data), tmp_path / "a")
    model = Model()
    assert runner.run(model, tasks(data), tmp_path / "a") == first
    assert model.asked == []


def test_runs_of_other_settings_are_not_mixed(data: Path, tmp_path: Path) -> None:
    runner.run(Model(), tasks(data)[:1], tmp_path / "a")
    with pytest.raises(ResultsError, match="seed was '0' and is '1' now.*another folder"):
        runner.run(Model(), tasks(data)[:1], tmp_path / "a", runner.Plan(seed=1))
    (data / "0.jpg").write_bytes(b"other")
    with pytest.raises(ResultsError, match="data_hash was"):
        runner.run(Model(), tasks(data)[:1], tmp_path / "a")


def test_tasks_of_several_runs_share_a_folder(data: Path, tmp_path: Path) -> None:
    one, two = tasks(data)
    runner.run(Model(), [one], tmp_path / "a")
    found = runner.run(Model(), [two], tmp_path / "a")
    assert {row.task for row in found.rows} == {"pope", "wise"}


def test_the_store_is_one_writer_s_and_notices_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    store = Store(path, {"seed": 0})
    store.add([{"id": "1"}, {"id": "2"}])
    store.add([{"id": "2"}, {"id": "3", "text": "a\nb \udc80 ü"}])
    with pytest.raises(ResultsError, match="another run is writing it"):
        Store(path, {"seed": 0})
    store.close()
    again = Store(path, {"seed": 0})
    assert list(again.records) == ["1", "2", "3"]
    again.close()
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b'{"id', *lines[2:]]))
    with pytest.raises(ResultsError, match="line 2 is damaged; remove the file"):
        Store(path, {"seed": 0})
    path.write_text('{"id": "1"}\n')
    with pytest.raises(ResultsError, match="does not begin with settings"):
        Store(path, {"seed": 0})


# What goes wrong


def test_bad_samples_are_named_and_count_as_wrong(data: Path, tmp_path: Path) -> None:
    (data / "1.jpg").write_bytes((data / "1.jpg").read_bytes()[:50])
    (data / "2.jpg").unlink()
    found = runner.run(Model(bad="thing 0?"), tasks(data)[:1], tmp_path / "a")
    records = {r["id"]: r for r in results.read_samples(tmp_path / "a" / "pope.jsonl")}
    assert "cut short or damaged" in records["random/1"]["unscored"]
    assert "no such file" in records["random/2"]["unscored"]
    assert records["random/0"]["unscored"] == "not answered: the message takes 900 tokens"
    bad = sum(r["unscored"] is not None for r in records.values())
    right = sum(r["marks"].get("score", 0) for r in records.values())
    row = found.rows[0]
    assert row.unscored == bad == 1 + sum(k % 3 > 0 for k in range(COUNT))
    assert row.left_out == 0 and row.n == COUNT and row.value == right / COUNT


def test_what_is_left_out_is_left_out(data: Path, tmp_path: Path) -> None:
    (data / "1.jpg").write_bytes(b"x")
    spec = benchmark.load("pope").model_copy(update={"unscored": "left out"})
    found = runner.run(Model(), [runner.Task(spec, data)], tmp_path / "a")
    assert found.rows[0].n == COUNT - found.rows[0].unscored < COUNT
    assert found.rows[0].left_out == found.rows[0].unscored


def test_one_bad_task_does_not_stop_the_others(data: Path, tmp_path: Path) -> None:
    one, _ = tasks(data)
    missing = runner.Task(benchmark.load("gqa"), tmp_path / "none")
    deaf = runner.Task(benchmark.load("librispeech"), data)
    film = runner.Task(benchmark.load("vbench"), data)
    found = runner.run(Model(), [missing, deaf, one, film], tmp_path / "a")
    assert {row.task for row in found.rows} == {"pope"}
    assert "no such file or folder; it needs testdev_balanced" in found.failed["gqa"]
    assert "hash takes no sound" in found.failed["librispeech"]
    assert "hash makes no films" in found.failed["vbench"]
    assert results.load(tmp_path / "a") == found


def test_nothing_scored_is_a_failure_not_a_zero(data: Path, tmp_path: Path) -> None:
    for picture in data.glob("*.jpg"):
        picture.unlink()
    spec = benchmark.load("pope").model_copy(update={"unscored": "left out"})
    found = runner.run(Model(), [runner.Task(spec, data)], tmp_path / "a")
    assert not found.rows and "no sample could be scored: picture" in found.failed["pope"]


# Results


def test_rows_carry_every_setting(data: Path, tmp_path: Path) -> None:
    runner.run(Model(), tasks(data), tmp_path / "a", runner.Plan(seed=4, limit=6))
    raw = json.loads((tmp_path / "a" / "results.json").read_text())
    settings = raw["rows"][0]["settings"]
    assert settings["seed"] == 4 and settings["limit"] == 6 and settings["revision"] == "1"
    assert (
        settings["template"] == benchmark.load("pope").prompt and len(settings["data_hash"]) == 64
    )
    for part in (raw, raw["rows"][0], settings):
        for field in list(part):
            value = part.pop(field)
            with pytest.raises(ValidationError, match="missing|required"):
                Results.model_validate(raw)
            part[field] = value
    assert {*raw["rows"][0]} == {*Row.model_fields} and {*settings} == {*Settings.model_fields}
    Results.model_validate(raw)
    raw["rows"][0]["colour"] = "red"
    with pytest.raises(ValidationError, match="Extra inputs"):
        Results.model_validate(raw)


def test_results_that_lack_a_field_are_refused_in_one_line(data: Path, tmp_path: Path) -> None:
    runner.run(Model(), tasks(data)[:1], tmp_path / "a")
    path = tmp_path / "a" / "results.json"
    raw = json.loads(path.read_text())
    del raw["rows"][0]["settings"]["seed"]
    path.write_text(json.dumps(raw))
    with pytest.raises(ResultsError, match="the field 'rows.0.settings.seed' is missing"):
        results.load(tmp_path / "a")
    with pytest.raises(ResultsError, match="no such file; name a folder"):
        results.load(tmp_path / "none")


def test_repeating_agrees_or_says_what_differs(data: Path, tmp_path: Path) -> None:
    runner.run(Model(), tasks(data), tmp_path / "a", runner.Plan(seed=2, limit=8))

    def again(model: Any, to: str) -> list[str]:
        return repeat(tmp_path / "a", tmp_path / to, lambda was: model)

    assert again(Model(), "b") == []
    other = Model()
    other.revision = "2"
    assert any("revision was '1', is '2'" in line for line in again(other, "c"))
    shy = Model(bad="thing 0?")
    with_adapter = Model()
    with_adapter.adapter, with_adapter.adapter_revision = "cats", "abc"
    assert any("adapter was '', is 'cats'" in line for line in again(with_adapter, "e"))
    moved = Model()
    moved.source = "elsewhere"  # what it is called is no difference where its revision is the same
    assert again(moved, "f") == []
    moved.revision = "3"
    assert any("model was 'hash', is 'elsewhere'" in line for line in again(moved, "g"))
    differences = again(shy, "d")
    assert any("1 of 8 samples differ, 'random/0' first" in line for line in differences)


def test_rows_are_recomputed_from_the_samples_alone(data: Path, tmp_path: Path) -> None:
    first = runner.run(Model(), tasks(data), tmp_path / "a")
    (tmp_path / "a" / "results.json").unlink()
    assert runner.run(Model(), tasks(data), tmp_path / "a").rows == first.rows


# With the real model


@pytest.fixture(scope="module")
def shipped() -> Any:
    from unified.handle import load

    return load(device="cpu")


def test_seeds_of_a_batch_are_those_of_its_samples(shipped: Any) -> None:
    prompts, seeds = ["a cat", "two dogs", "a red star"], [7, 2**40 + 1, 12]
    options = {"temperature": 1.0, "guidance_scale": 1.0}
    together = shipped.generate(prompts, seed=seeds, **options)
    alone = [shipped.generate(p, seed=s, **options)[0] for p, s in zip(prompts, seeds, strict=True)]
    assert [t.tobytes() for t in together] == [a.tobytes() for a in alone]


def test_likelihoods_prefer_what_is_there(shipped: Any) -> None:
    from unified.toybox.scene import Scene, Thing, render

    shown = Image.fromarray(render(Scene.of([Thing("cat", None, "big", 1, 1)], "white")))
    found = option_likelihoods(shipped, [shown], "What is in the picture?", ["A dog.", "A cat."])
    assert found[1] > found[0] and max(found) < 0
    (alone,) = option_likelihoods(shipped, [shown], "What is in the picture?", ["A cat."])
    assert alone == pytest.approx(found[1], abs=1e-4)
    with pytest.raises(ValueError, match="without words"):
        option_likelihoods(shipped, [shown], "What?", [""])
    with pytest.raises(ValueError, match="has no option_likelihoods"):
        option_likelihoods(Model(), [shown], "What?", ["a"])


def test_the_command_line_runs_repeats_and_lists(
    shipped: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from unified import cli, handle

    monkeypatch.setattr(handle, "load", lambda *_, **__: shipped)
    monkeypatch.chdir(tmp_path)
    common = ["--data", str(data), "--limit", "4", "-o", "out"]
    assert cli.run(["eval", "run", "pope", *common]) == 0
    out = capsys.readouterr().out
    assert "understanding:" in out and "pope, test: f1" in out and "generation:" not in out
    assert cli.run(["eval", "repeat", "out"]) == 0
    assert capsys.readouterr().out.startswith("agrees: ")
    assert cli.run(["eval", "run", "pope", *common, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["settings"]["model"] == "unified/toybox" and rows[0]["n"] == 4
    assert cli.run(["eval", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in benchmark.names())
    twice = ["eval", "run", "pope", "--data", str(data), "--limit", "2", "-o", "two"]
    assert cli.run([*twice, "--model", "runs/b/model", "--model", "runs/a/model"]) == 0
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["a", "b", "order.json"]
    assert cli.run(["eval", "report", "two", "-o", "two.html", "--validate", "0"]) == 0
    assert "b against a</h1>" in (tmp_path / "two.html").read_text()  # the first that was named


@pytest.mark.parametrize("verb", ["run", "list", "repeat", "report"])
def test_help_has_an_example(verb: str, capsys: Any) -> None:
    from unified import cli

    assert cli.run(["eval", verb, "--help"]) == 0
    assert f"Example: unified eval {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["run", "imagenet"], "unknown benchmark 'imagenet'; one of toybox_paired, toybox_tok"),
        (["run", "pope", "gqa", "--data", "x"], "whose is it. give NAME=PATH, NAME one of pope"),
        (["run", "pope", "--data", "none"], "none: no such file or folder; it needs coco_pope"),
        (["run", "pope"], "name its data with --data PATH"),
        (["run", "pope", "--limit", "0"], "greater than or equal to 1"),
        (["run"], "Missing argument"),
        (["run", "x.yaml"], "x.yaml: no such file"),
        (["run", "toybox_paired", "--judge", "nobody"], "unknown judge 'nobody'"),
        (["repeat", "none"], "none: no such file; name a folder that `unified eval run` wrote"),
        (["report", "none"], "none/results.json: no such file|none: no such file"),
        (["report", ".", "-o", "x.pdf"], "a report is HTML; give a name that ends in .html"),
        (["report", ".", "-o", "no/x.html"], "the folder no does not exist; create it"),
    ],
)
def test_bad_command_lines_are_refused_in_a_line(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import re

    from unified import cli, handle

    monkeypatch.setattr(handle, "load", lambda *_, **__: Model())
    monkeypatch.chdir(tmp_path)
    assert cli.run(["eval", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("error: ") for line in lines)
    assert re.search(reason, lines[0]), lines
