"""Training on tokens that `unified data tokenize` wrote: the same as on the data they are made of,
and refused where they are another model's."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from unified import cli
from unified.adapters import WEIGHTS
from unified.handle import Unified, load
from unified.tokenizers.kinds import load_codec
from unified.toybox.scene import render, sample_scene
from unified.train.encoding import Encoder
from unified.train.examples import Data, Examples, open_data
from unified.train.finetune import check, finetune, prepare
from unified.train.prefer import PreferenceStage
from unified.train.readers import read
from unified.train.recipe import begun, run
from unified.train.records import DataError
from unified.train.shards import MARKS, Shards, tokenize
from unified.train.tuning import read_config

FAST = ["loop.steps=6", "loop.batch_size=4", "micro_batch=1", "pack=200", "loop.log_every=1",
        "loop.save_every=100"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures with captions: ten records."""
    folder = tmp_path_factory.mktemp("data") / "cats"
    folder.mkdir()
    for k in range(5):
        Image.fromarray(render(sample_scene(random.Random(k)))).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(f"a picture of number {k}")
    return folder


@pytest.fixture(scope="module")
def tokens(data: Path, tiny: Unified, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that the tests do not train."""
    folder = tmp_path_factory.mktemp("tokens") / "cats"
    tokenize(read(data), Encoder(tiny), folder, size=4)
    return folder


def losses(folder: Path) -> list[float]:
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def tuned(source: Path, data: Data, out: Path, *overrides: str) -> bytes:
    stage = prepare(load(source, device="cpu"), data, read_config(None, [*FAST, *overrides]))
    check(stage)
    return (finetune(stage, out, progress=False) / WEIGHTS).read_bytes()


def test_tuning_on_tokens_is_tuning_on_the_data(
    tiny_run: Path, data: Path, tokens: Path, tmp_path: Path
) -> None:
    """Two epochs and more, packed, with toybox samples beside: the losses and bytes of the data."""
    more = ("toybox={ask: 1}", "loop.batch_size=8")
    adapters = [
        tuned(tiny_run / "model", source, tmp_path / name, *more)
        for name, source in (("data", open_data(data)), ("tokens", open_data(tokens)))
    ]
    assert adapters[0] == adapters[1]
    assert losses(tmp_path / "data") == losses(tmp_path / "tokens")
    assert len(losses(tmp_path / "data")) == 6


def test_preferences_are_learnt_from_tokens(tiny_run: Path, tiny: Unified, tmp_path: Path) -> None:
    told = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]
    worse = [{"role": "assistant", "content": "no"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"messages": told, "rejected": worse}) + "\n")
    with path.open("a") as file:
        file.write(json.dumps({"messages": told}) + "\n")
    made = tokenize(read(path), Encoder(tiny), tmp_path / "tokens")
    assert made.paired and isinstance(open_data(tmp_path / "tokens"), Shards)
    stages = [
        prepare(load(tiny_run / "model", device="cpu"), source, read_config(None, []))
        for source in (open_data(path), made)
    ]
    for stage in stages:
        assert isinstance(stage, PreferenceStage)
        with pytest.raises(DataError, match="no rejected reply, and other records have one"):
            stage.pair(1)
    pairs = [stage.pair(0) for stage in stages if isinstance(stage, PreferenceStage)]
    assert pairs[0] == pairs[1] and pairs[0][0] != pairs[0][1]


SOURCES = ["scale=tiny", "pretrain.loop.steps=6", "pretrain.loop.batch_size=4", "chat.pack=200",
           "pretrain.loop.log_every=1", "chat.loop.steps=2", "chat.loop.batch_size=4",
           "chat.loop.log_every=1", "chat.micro_batch=1", "chat.mix={cats: 1, ask: 1}",
           "pretrain.mix={cats: 2, dogs: 1, draw: 1}", "pretrain.loop.sample_every=100",
           "pretrain.loop.save_every=100"]  # fmt: skip


def test_sources_of_a_recipe_may_be_tokens(tiny_run: Path, data: Path, tmp_path: Path) -> None:
    """Made for the run before its first step, with its tokenizers; one source of several."""
    for name in ("data", "tokens"):
        for stage in ("text", "tokenizer", "vision"):
            shutil.copytree(tiny_run / stage, tmp_path / name / stage)
    shutil.copy(tiny_run / "recipe.yaml", tmp_path / "tokens")
    command = ["data", "tokenize", str(data), "-o", str(tmp_path / "cats"), "--shard-size", "3"]
    assert cli.run([*command, "--model", str(tmp_path / "tokens")]) == 0
    for name, place in (("data", data), ("tokens", tmp_path / "cats")):
        own = [*SOURCES, f"data.cats={place}", f"data.dogs={data}"]
        run("toybox", ["pretrain", "chat"], own, tmp_path / name, device="cpu", progress=False)
    for stage, steps in (("pretrain", 6), ("chat", 2)):
        found = [losses(tmp_path / name / stage) for name in ("data", "tokens")]
        assert found[0] == found[1] and len(found[0]) == steps


def test_sources_that_were_made_for_something_else(
    tiny_run: Path, tokens: Path, data: Path, tmp_path: Path
) -> None:
    """Tokens are of the codec that made them, and of what they were made to teach."""
    for stage in ("text", "tokenizer", "vision"):
        shutil.copytree(tiny_run / stage, tmp_path / "run" / stage)
    place = tmp_path / "run" / "tokenizer" / "model"
    codec = load_codec(place)
    next(iter(codec.state_dict().values())).mul_(0.9)
    codec.save(place)

    def refused(words: str, *more: str) -> None:
        own = [*SOURCES, f"data.cats={tokens}", f"data.dogs={data}", *more]
        with pytest.raises(ValueError, match=words):
            run("toybox", ["pretrain"], own, tmp_path / "run", device="cpu", progress=False)

    refused("cats: tokenized for a model with another codec")
    refused(r"data\.cats: .*tokenized to draw and describe, and not to draw",
            "data.cats.tasks=[draw]")  # fmt: skip
    refused(r"data\.cats: tokens that carry already what is learnt", "data.cats.learn=all")
    with pytest.raises(ValueError, match="run the stage 'text' first"):
        (tmp_path / "empty").mkdir()
        shutil.copy(tiny_run / "recipe.yaml", tmp_path / "empty")
        begun(tmp_path / "empty")


def test_tokens_of_another_model_are_refused_by_what_differs(
    tiny: Unified, tokens: Path, tmp_path: Path
) -> None:
    shards = Shards(tokens)
    encoder = Encoder(tiny)
    assert len(Examples(shards, encoder).reply(0)) > 0
    for name, words in MARKS.items():
        folder = shutil.copytree(tokens, tmp_path / name)
        other = Shards(folder)
        other.marks = {**other.marks, name: "0123456789abcdef"}
        with pytest.raises(ValueError, match=rf"{name}: .*another {words} \(0123456789ab, here"):
            Examples(other, encoder)
    with pytest.raises(ValueError, match="another vocabulary or layout"):
        Examples(shards, Encoder(tiny, "view"))
    kept = {name: value.clone() for name, value in tiny.codec.state_dict().items()}
    with torch.no_grad():
        next(value for value in tiny.codec.state_dict().values() if value.ndim).view(-1)[0] += 1
    with pytest.raises(ValueError, match="another codec"):
        Examples(shards, encoder)
    tiny.codec.load_state_dict(kept)
    Examples(shards, encoder)
    encoder.context = 5
    with pytest.raises(DataError, match=r"cats: record 0: \d+ tokens; the model reads at most 5"):
        Examples(shards, encoder).reply(0)


def test_from_the_command_line(
    tiny_run: Path, data: Path, tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    fast = [part for value in FAST[:4] for part in ("--set", value)]
    model = ["--model", str(tiny_run / "model"), *fast]

    def said(*arguments: str) -> tuple[int, str, str]:
        status = cli.run(list(arguments))
        return (status, *capsys.readouterr())

    status, _, told = said("finetune", str(tokens), *model, "--dry-run")
    assert status == 0 and "10 records of" in told
    damaged = shutil.copytree(tokens, tmp_path / "damaged")
    arrow = damaged / "shard-00001.arrow"
    arrow.write_bytes(arrow.read_bytes()[:-1] + b"x")
    for arguments, words in (
        (["finetune", str(tokens), *model, "--task", "draw"], "tokenized to draw and describe"),
        (["finetune", str(tokens), *model, "--format", "llava"], "tokens already, so format says"),
        (["finetune", str(tokens), *fast], "another vocabulary or layout"),
        (["finetune", "damaged", *model], "shard-00001.arrow: does not match its SHA-256"),
        (["data", "check", str(tokens)], "tokens that `data tokenize` wrote"),
        (["data", "tokenize", str(tokens), "-o", "x"], "tokens that `data tokenize` wrote"),
        (
            ["data", "tokenize", str(data), "-o", "x", "--model", "n.yaml"],
            "unknown recipe 'n.yaml'",
        ),
    ):
        status, out, told = said(*arguments)
        assert status == 2 and words in told and len(told.strip().splitlines()) == 1, told
