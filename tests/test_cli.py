"""The command line, with a small stand-in for the model: what is typed, what comes out."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import standin
from tests.standin import Model, error_of, files
from unified import cli, handle, options, sampling
from unified.media import picture
from unified.toybox.scene import render, sample_scene
from unified.verbs.talk import default_name

model, run = standin.model, standin.run  # fixtures

VERBS = [
    ["chat"], ["generate"], ["ask"], ["train"], ["doctor"], ["tokenizer"], ["tokenizer", "train"],
    ["tokenizer", "eval"], ["tokenizer", "encode"], ["tokenizer", "decode"], ["eval"],
    ["eval", "toybox"], ["data"], ["data", "check"], ["data", "tokenize"],
    ["finetune"], ["merge"], ["bench"], ["bench", "train"], ["bench", "decode"], ["bench", "serve"],
    ["convert"],
]  # fmt: skip


# Help and what is refused


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_has_an_example(verb: list[str], run: Any) -> None:
    ran = run(*verb, "--help")
    assert ran.status == 0 and f"Example: unified {' '.join(verb)}" in ran.out


def test_verbs_are_listed_in_order(run: Any) -> None:
    out = run("--help").out
    words = [line.strip("│ ").partition(" ")[0] for line in out.splitlines()]
    assert [word for word in words if word in cli.Verbs.order] == list(cli.Verbs.order)
    assert run().out.strip() == out.strip()
    assert run("--version").out.startswith("unified ")


def test_schedules_are_the_sampling_module_s() -> None:
    assert tuple(options.Schedule) == sampling.SCHEDULES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["paint"], "No such command 'paint'; one of chat, generate, ask, finetune"),
        (["eval", "imagenet"], "No such command 'imagenet'; one of "),
        (["generate", "x", "--size", "3"], "No such option: --size; one of --out, --n, --seed"),
        (["--size"], "No such option: --size; one of --version"),
        (["generate"], "Missing argument 'PROMPT'; see unified generate --help"),
        (["generate", "x", "--n", "0"], "greater than or equal to 1"),
        (["generate", "x", "--n", "many"], "valid integer"),
        (["generate", "x", "--seed", "-1"], "not a whole number"),
        (["generate", "x", "--top-p", "1.5"], "less than or equal to 1"),
        (["generate", "x", "--schedule", "steep"], "parametrised-cosine"),
        (["generate", " "], "the prompt is empty"),
        (["generate", "x", "-o", "none/x.png"], "none does not exist; create it"),
        (["generate", "x", "-o", "/proc/x/x.png"], "does not exist; create it"),
        (["generate", "x", "-o", "."], "give a name that ends in .png"),
        (["generate", "x", "-o", "x.jpg"], "give a name that ends in .png"),
        (["generate", "too long"], "reads at most 512"),
        (["ask", "none.png", "what?"], "none.png: no such file"),
        (["ask", "text.png", "what?"], "text.png: not a picture"),
        (["ask", "empty.png", "what?"], "empty.png: the file is empty"),
        (["ask", "red.png", ""], "the question is empty"),
        (["ask", "red.png"], "Missing argument 'QUESTION'"),
        (["chat", "--resume", "none.json"], "no such transcript"),
        (["chat", "--resume", "text.json"], "not a transcript"),
        (["train"], "which recipe? One of audio, janus_pro, pixels, seed, seed_llama, toybox"),
        (["train", "nothing"], "unknown recipe 'nothing'; one of audio, janus_pro, pixels, seed"),
        (["train", "audio", "--stage", "chat"], "the recipe 'audio' has no stage 'chat'"),
        (["train", "toybox", "--set", "scale"], "--set takes key=value"),
        (
            ["train", "toybox", "--set", "scale=odd"],
            "unknown scale 'odd'; one of vq, short, wavefront, tiny",
        ),
        (["train", "toybox", "--stage", "odd"], "unknown stage 'odd'; one of text, tokenizer"),
        (["tokenizer", "train", "nothing"], "unknown recipe 'nothing'"),
        (["tokenizer", "encode", "text.png"], "not a picture"),
        (["tokenizer", "decode", "none.json", "-o", "x.png"], "none.json: No such file"),
        (["tokenizer", "decode", "text.json", "-o", "x.png"], "no JSON"),
        (["tokenizer", "decode", "few.json", "-o", "x.png"], "a picture has 33"),
        (["tokenizer", "decode", "large.json", "-o", "x.png"], "out of range"),
        (["tokenizer", "decode", "words.json", "-o", "x.png"], "no list of codes"),
        (["tokenizer", "eval", "nothing"], "no tokenizer there"),
        (["eval", "toybox", "--json", "none/x.json"], "none does not exist; create it"),
        (["eval", "toybox", "--limit", "0"], "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(arguments: list[str], words: str, run: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "text.json").write_text("not a transcript")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "few.json").write_text("[1, 2]")
    (tmp_path / "large.json").write_text(json.dumps([2**40] * 64))
    (tmp_path / "words.json").write_text('{"codes": ["a"]}')
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    before = files()
    assert words in error_of(run(*arguments))
    assert files() == before


def test_whatever_goes_wrong_below_is_one_line(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[BaseException] = []

    def fail(*_: object, **__: object) -> None:
        raise raised[-1]

    monkeypatch.setattr(handle, "load", fail)
    for error, words in [
        (handle.checkpoint.CheckpointError("w: does not match its SHA-256"), "match its SHA-256"),
        (OSError(28, "No space left on device", "w"), "w: No space left on device"),
        (RuntimeError("two\nlines"), "RuntimeError: two lines"),
    ]:
        raised.append(error)
        assert words in error_of(run("generate", "x"))
    monkeypatch.setenv("UNIFIED_DEBUG", "1")
    with pytest.raises(RuntimeError):
        run("generate", "x")
    raised.append(KeyboardInterrupt())
    assert run("generate", "x").status == 130


@pytest.mark.parametrize(
    "arguments",
    [["ask", "/none.png", "what?"], ["generate", "--odd"], ["chat", "--resume", "/none.json"]],
)
def test_a_real_command_refuses_without_a_traceback(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unified", *arguments]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_closed_pipe_is_no_traceback() -> None:
    root = Path(__file__).resolve().parent.parent
    command = f"{sys.executable} -m unified generate --help | true"
    done = subprocess.run(command, shell=True, cwd=root, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


# generate, ask


def test_generate_writes_what_it_says(run: Any) -> None:
    ran = run("generate", "a red circle", "-o", "x.png", "--seed", "7", "--top-p", "0.5")
    assert (ran.status, ran.out) == (0, "x.png\n")
    made = picture.metadata("x.png")
    assert (made["prompt"], made["seed"]) == ("a red circle", 7)
    assert made["settings"]["top_p"] == 0.5 and made["model"] == "unified/toybox 0123abcd"
    assert picture.read("x.png").getpixel((0, 0)) == (7, 0, 0)


def test_generate_replaces_only_the_file_it_was_given(run: Any) -> None:
    run("generate", "x", "-o", "x.png", "--n", "2")
    run("generate", "x", "-o", "x.png", "--n", "2", "--seed", "9")
    assert files() == ["x-1.png", "x-2.png", "x.png"]
    seeds = [picture.metadata(name)["seed"] for name in ("x.png", "x-1.png", "x-2.png")]
    assert seeds == [9, 1, 10]


def test_generate_names_after_the_prompt_and_never_replaces(run: Any) -> None:
    for _ in range(2):
        run("generate", "A red circle, please!", "--seed", "3")
    assert files() == ["a-red-circle-please-seed3-1.png", "a-red-circle-please-seed3.png"]
    assert default_name("../../etc", 0) == "etc-seed0.png"
    assert default_name("猫" * 300, 0).startswith("猫猫")
    assert len(default_name("猫" * 300, 0).encode()) < 200
    assert default_name("?!", 0) == "picture-seed0.png"


def test_generate_as_json(run: Any) -> None:
    found = json.loads(run("generate", "x", "-n", "2", "-o", "x.png", "--json").out)
    assert found["files"] == [{"path": "x.png", "seed": 0}, {"path": "x-1.png", "seed": 1}]
    assert found["prompt"] == "x" and "guidance_scale" in found["settings"]


def test_a_reply_without_a_picture_takes_no_other_pictures_seed(run: Any) -> None:
    found = json.loads(run("generate", "seldom", "-n", "3", "-o", "x.png", "--json").out)
    assert [file["seed"] for file in found["files"]] == [1, 2]
    for file in found["files"]:
        assert picture.read(file["path"]).getpixel((0, 0)) == (file["seed"], 0, 0)
        assert picture.metadata(file["path"])["seed"] == file["seed"]


def test_generate_says_what_it_does_not_know(run: Any) -> None:
    ran = run("generate", "a zebra", "-o", "x.png")
    assert ran.status == 2 and "I don't know how to draw a zebra." in ran.err and not files()
    assert run("generate", "a zebra", "-o", "x.png", "--force").status == 0
    assert run("generate", "partly", "-o", "x.png").out == "Only part of it.\nx.png\n"
    assert json.loads(run("generate", "partly", "--json").out)["text"] == "Only part of it."


def test_ask_answers(run: Any) -> None:
    Image.new("RGB", (30, 20), "red").save("red.png")
    assert run("ask", "red.png", "how wide?").out == "30 wide\n"
    found = json.loads(run("ask", "red.png", "how wide?", "--json").out)
    assert found["answer"] == "30 wide" and found["question"] == "how wide?"


# train, tokenizer, eval, doctor


def test_train_hands_over_what_was_typed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from unified.train import recipe

    seen: list[Any] = []

    def train(*arguments: Any) -> Path:
        seen.append(arguments)
        return Path("runs/toybox")

    monkeypatch.setattr(recipe, "run", train)
    ran = run("train", "toybox", "--set", "scale=tiny", "--set", "a.b=1", "--stage", "chat",
              "--out", "o", "--seed", "5", "--device", "cpu")  # fmt: skip
    assert (ran.status, ran.out) == (0, "runs/toybox\n")
    run("tokenizer", "train", "toybox", "--json")
    assert seen == [
        ("toybox", ["chat"], ["scale=tiny", "a.b=1"], Path("o"), 5, "cpu", True),
        ("toybox", ["tokenizer"], [], None, None, None, False),
    ]

    def interrupted(*_: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "run", interrupted)
    ran = run("train", "toybox")
    assert ran.status == 130 and "goes on from the last checkpoint" in ran.err


def test_codes_there_and_back(run: Any) -> None:
    Image.fromarray(render(sample_scene(random.Random(0)))).save("scene.png")
    assert run("tokenizer", "encode", "scene.png", "-o", "scene.json").status == 0
    found = json.loads(Path("scene.json").read_text())
    assert found["medium"] == "image" and len(found["codes"]) == 33
    assert json.loads(run("tokenizer", "encode", "scene.png").out) == found
    assert run("tokenizer", "decode", "scene.json", "-o", "back.png").out == "back.png\n"
    apart = np.asarray(picture.read("back.png"), int) - np.asarray(picture.read("scene.png"), int)
    assert np.abs(apart).max() < 40 and np.abs(apart).mean() < 2

    assert run("tokenizer", "encode", "scene.png", "-o", "few.json", "--model", "seed").status == 0
    ran = run("tokenizer", "decode", "few.json", "-o", "few.png")
    assert ran.status == 2 and "few.json: written with codebooks of [1000] codes" in ran.err
    assert run("tokenizer", "decode", "few.json", "-o", "few.png", "--model", "seed").status == 0


def test_tokenizer_eval_prints_scores(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from unified.eval import rebuilt
    from unified.eval import tokenizer as judge
    from unified.tokenizers.image import ImageTokenizer, VQConfig

    rows = [{"metric": "psnr", "value": 30.25, "stderr": 0.5, "n": 9}]
    seen: dict[str, Any] = {}

    def evaluate(codec: Any, **given: Any) -> list[dict[str, Any]]:
        seen.update(given, size=codec.spec.codebook_size)
        return rows

    small = VQConfig(codebook_size=8, encoder_width=8, decoder_width=8, decoder_layers=1,
                     decoder_heads=1)  # fmt: skip
    ImageTokenizer(small).save(tmp_path / "codec")
    monkeypatch.setattr(judge, "evaluate_tokenizer", evaluate)
    monkeypatch.setattr(rebuilt, "grid", lambda codec, path, **_: Path(path).write_text("grid"))
    ran = run("tokenizer", "eval", "codec", "--limit", "9", "--grid", "g.png")
    assert ran.status == 0 and "psnr" in ran.out and "30.25 ± 0.5  (n = 9)\ng.png" in ran.out
    given = {"count": 9, "seed": 0, "probe": False, "features": None, "given": None}
    assert seen == {**given, "size": 8} and Path("g.png").exists()
    assert json.loads(run("tokenizer", "eval", "codec", "--json").out) == rows


def test_eval_writes_rows(run: Any, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from unified.eval import toybox

    rows = [{"task": "toybox", "side": "generation", "skill": "overall", "split": "seen",
             "metric": "accuracy", "value": 0.5, "stderr": 0.1, "n": 9, "chance": 0.0,
             "settings": {}}]  # fmt: skip
    seen: dict[str, Any] = {}

    def evaluate(handle: Any, **given: Any) -> list[dict[str, Any]]:
        given.pop("on_progress")(1, 2, "drawing")
        seen.update(given, model=handle)
        return rows

    monkeypatch.setattr(toybox, "evaluate", evaluate)
    given = ("--limit", "9", "--json", "rows.json", "--top-k", "5", "--seed", "2")
    ran = run("eval", "toybox", *given, "--guidance-interval", "0.1", "0.5")
    assert ran.status == 0 and "overall" in ran.out
    assert json.loads(Path("rows.json").read_text()) == rows
    chosen = {"top_k": 5, "guidance_start": 0.1, "guidance_end": 0.5}
    assert seen == {"model": model, "limit": 9, "seed": 2, "sampling": chosen}
    assert json.loads(run("eval", "toybox", "--json", "-").out) == rows


@pytest.mark.parametrize(
    "verb", [("bench", "decode"), ("bench", "serve"), ("bench", "tokenizer"), ("eval", "toybox")]
)
def test_rows_that_cannot_be_written_are_refused_before_the_work(run: Any, verb: Any) -> None:
    ran = run(*verb, "--json", "nowhere/rows.json")
    assert ran.status == 2 and "nowhere" in ran.err and "does not exist" in ran.err


def test_doctor_finds_the_weights_and_uses_them(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    handle.checkpoint.write_manifest(weights)
    monkeypatch.setattr(handle, "DEFAULT", weights)
    monkeypatch.setattr(Model, "generate", lambda *_, **__: [Image.new("RGB", (64, 64))])
    monkeypatch.setattr(Model, "ask", lambda *_: "A circle.")
    ran = run("doctor")
    assert ran.status == 0, ran
    assert 'answered "A circle."' in ran.out and "FAIL" not in ran.out
    found = json.loads(run("doctor", "--json").out)
    assert found["ok"] and {"weights", "drawing", "asking", "terminal"} <= {
        check["name"] for check in found["checks"]
    }

    (weights / "config.json").write_text("[]")
    ran = run("doctor")
    assert ran.status == 1 and "FAIL weights" in ran.out and "SHA-256" in ran.out
    assert "drawing" not in ran.out
    assert run("doctor", "--model", "nothing").status == 1

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(handle, "load", fail)
    handle.checkpoint.write_manifest(weights)
    ran = run("doctor")
    assert ran.status == 1 and "FAIL loading: RuntimeError: no memory" in ran.out
