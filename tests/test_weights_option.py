"""`--weights`: packed weights by every verb that uses a model, and where they are written down."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from unified import cli
from unified.eval import results
from unified.handle import load
from unified.media import picture
from unified.packed import KINDS


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("red") / "red.png"
    Image.new("RGB", (64, 64), (200, 30, 30)).save(path)
    return path


def test_generate_writes_its_weights_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = {}
    for kind in ("float", "int4"):
        path = tmp_path / f"{kind}.png"
        given = ["generate", "a red circle", "--force", "--device", "cpu", "-o", str(path)]
        assert cli.run([*given, "--weights", kind, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["weights"] == kind
        assert picture.metadata(path)["weights"] == kind
        drawn[kind] = Image.open(path).tobytes()
    assert drawn["float"] == load(None, "cpu").generate("a red circle")[0].tobytes()
    packed = load(None, "cpu", weights="int4")
    assert (
        packed.weights == "int4" and packed.generate("a red circle")[0].tobytes() == drawn["int4"]
    )


@pytest.mark.parametrize("kind", ["float", *KINDS])
def test_ask_takes_them_all(kind: str, red: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = "What colour is the background?"
    assert cli.run(["ask", str(red), question, "--weights", kind, "--device", "cpu", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["weights"] == kind and made["answer"]


def test_chat_writes_them_into_its_transcript(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hello\n")))
    assert cli.run(["chat", "--weights", "int8", "--device", "cpu", "--save", str(tmp_path)]) == 0
    (made,) = tmp_path.glob("*.json")
    assert json.loads(made.read_text())["weights"] == "int8"


def test_eval_keeps_them_in_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--limit", "1", "--weights", "int8", "--device", "cpu"]
    assert cli.run(["eval", "run", "toybox_paired_ask", *given, "-o", str(tmp_path)]) == 0
    rows = results.load(tmp_path).rows
    assert rows and {row.settings.weights for row in rows} == {"int8"}
    capsys.readouterr()
    assert cli.run(["eval", "repeat", str(tmp_path), "--device", "cpu"]) == 0
    assert "agrees" in capsys.readouterr().out
    assert cli.run(["eval", "run", "toybox_paired_ask", *given[:2], "-o", str(tmp_path)]) == 2
    assert "weights was 'int8' and is 'float' now" in capsys.readouterr().err
    assert cli.run(["eval", "toybox", *given, "--json", "-"]) == 0
    assert {row["settings"]["weights"] for row in json.loads(capsys.readouterr().out)} == {"int8"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["generate", "a cat", "--weights", "int3"], "'int3' is not one of"),
        (["generate", "a cat", "--weights", "int8", "--device", "cuda"], "are for a CPU; on cuda"),
        (["ask", "RED", "What?", "--weights", "half", "--adapter", "."], "takes no --adapter"),
        (["finetune", ".", "--weights", "int8"], "No such option: --weights"),
        (["merge", ".", "-o", "new", "--weights", "int8"], "No such option: --weights"),
    ],
)
def test_what_makes_no_sense_is_said(
    given: list[str], words: str, red: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([str(red) if part == "RED" else part for part in given]) == 2
    assert words in capsys.readouterr().err
