"""Training: resume, recipes, checkpoints; on a recipe so small that nothing is learnt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers.utils import logging

from unified import checkpoint
from unified.handle import Unified, load
from unified.tokenizers.kinds import load_codec
from unified.train.loop import LoopConfig, learning_rate
from unified.train.muon import Muon, orthogonalize
from unified.train.recipe import read, recipes, run

FAST = [
    "scale=tiny",
    "pretrain.loop.steps=8",
    "pretrain.loop.save_every=4",
    "pretrain.loop.log_every=1",
    "pretrain.loop.batch_size=4",
]


def losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def prepared(source: Path, target: Path) -> Path:
    for stage in ("text", "tokenizer", "vision"):
        shutil.copytree(source / stage, target / stage)
    return target


def test_a_killed_run_resumes_to_the_same_losses_and_weights(
    tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logging.enable_progress_bar()
    capfd.readouterr()
    whole = prepared(tiny_run, tmp_path / "whole")
    run("toybox", ["pretrain"], FAST, whole, progress=False)
    assert "it/s" not in capfd.readouterr().err  # transformers' bars do not belong among ours
    killed = prepared(tiny_run, tmp_path / "killed")
    run("toybox", ["pretrain"], FAST, killed, progress=False)
    # as if killed after step 4 was saved and during the writing of another
    pretrain = killed / "pretrain"
    shutil.rmtree(pretrain / "checkpoints" / "step-8")
    (pretrain / "checkpoints" / "step-6.tmp").mkdir()
    with (pretrain / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    run("toybox", ["pretrain"], FAST, killed, progress=False)
    assert losses(pretrain) == losses(whole / "pretrain")
    assert list(losses(pretrain)) == list(range(1, 9))
    name = "pretrain/checkpoints/step-8/state.safetensors"
    assert checkpoint.sha256(killed / name) == checkpoint.sha256(whole / name)


def test_a_run_goes_on_from_a_model_and_its_tokenizers(tiny_run: Path, tmp_path: Path) -> None:
    start = tiny_run / "model"
    settings = [
        "scale=tiny", f"start={start}", "refine.loop.steps=2", "refine.loop.learning_rate=1e-30",
        "polish.loop.steps=2",
    ]  # fmt: skip
    run("toybox", ["refine", "polish"], settings, tmp_path, progress=False)
    begun, ended = load(start), load(tmp_path / "model")
    same, moved = (load_file(tmp_path / name / "model/model.safetensors")
                   for name in ("refine", "polish"))  # fmt: skip
    weights = begun.model.state_dict()
    assert all(torch.equal(same[key], weights[key]) for key in same)
    assert any(not torch.equal(moved[key], weights[key]) for key in moved)
    assert not (tmp_path / "text").exists() and not (tmp_path / "tokenizer").exists()
    text = "a red circle and a café"
    assert ended.processor.tokenizer.ids(text) == begun.processor.tokenizer.ids(text)
    for key, value in begun.codec.state_dict().items():
        assert torch.equal(ended.codec.state_dict()[key], value)


def test_what_a_run_cannot_go_on_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start: nowhere/x is no model directory"):
        run("toybox", ["polish"], ["scale=tiny", "start=nowhere/x"], tmp_path)
    (tmp_path / "janus").mkdir()
    (tmp_path / "janus/config.json").write_text('{"model_type": "janus"}')
    with pytest.raises(ValueError, match="unified convert"):
        run("toybox", ["polish"], ["scale=tiny", f"start={tmp_path / 'janus'}"], tmp_path)


def test_a_saved_model_gives_identical_logits(tiny_run: Path, tiny: Unified) -> None:
    again = load(tiny_run / "model", device="cpu")
    ids = torch.randint(0, 300, (2, 20))
    with torch.inference_mode():
        assert torch.equal(tiny.model(ids).hidden, again.model(ids).hidden)
    assert again.revision == tiny.revision
    assert (
        again.generate("a cat", seed=1)[0].tobytes() == tiny.generate("a cat", seed=1)[0].tobytes()
    )


def test_damaged_weights_are_refused_by_name(tiny_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_run / "model", tmp_path / "model")
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.safetensors.*SHA-256"):
        load(folder)
    foreign = folder / "pytorch_model.bin"
    foreign.write_bytes(b"anything")
    shutil.copy(tiny_run / "model" / weights.name, weights)
    with pytest.raises(checkpoint.CheckpointError, match=r"pytorch_model\.bin: .* does not list"):
        load(folder)
    foreign.unlink()
    weights.unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.safetensors: missing"):
        load(folder)
    with pytest.raises(checkpoint.CheckpointError, match="no such model directory"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("pretrain.loop.stepz=3", r"unknown key 'pretrain\.loop\.stepz'; one of steps, batch_size"),
        ("scale=huge", "unknown scale 'huge'; one of vq, short, wavefront, tiny"),
        ("pretrain.loop.steps=none", r"pretrain\.loop\.steps"),
        ("steps", "key=value"),
    ],
)
def test_wrong_recipe_settings_are_named(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read("toybox", [change])


def test_unknown_recipe_and_stage_list_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"one of {recipes()[0]}"):
        read("nonesuch")
    with pytest.raises(ValueError, match="one of text, tokenizer, vision, pretrain, chat"):
        run("toybox", ["dance"], out=tmp_path)
    with pytest.raises(ValueError, match="run the stage 'text' first"):
        run("toybox", ["pretrain"], ["scale=tiny"], out=tmp_path)


def test_a_tokenizer_of_each_kind_is_trained(tmp_path: Path) -> None:
    small = [
        "scale=vq",
        "tokenizer.scenes=64",
        "tokenizer.model={codebook_size: 64, encoder_width: 16, decoder_width: 16, "
        "decoder_layers: 1, decoder_heads: 2}",
        "tokenizer.loop={steps: 4, batch_size: 8, learning_rate: 1.0e-3}",
    ]
    run("toybox", ["tokenizer"], small, tmp_path, progress=False)
    assert load_codec(tmp_path / "tokenizer" / "model").kind == "vq"
    with pytest.raises(ValueError, match=r"tokenizer\.loop: a tokenizer of kind 'vq' needs one"):
        run("toybox", ["tokenizer"], [*small, "tokenizer.loop=null"], tmp_path / "b")


def test_muon_turns_updates_and_equals_the_library() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, 20, 50)))
    assert 0.6 < values.min() and values.max() < 1.3
    start = torch.randn(8, 6)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (
        Muon([ours], lr=0.1, weight_decay=0.01),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        gradient = torch.randn(8, 6)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)  # theirs multiplies in bf16


def test_learning_rates_rise_and_fall_as_scheduled() -> None:
    shared = {"steps": 100, "batch_size": 1, "learning_rate": 1.0, "warmup": 10, "final_rate": 0.1}
    cosine = LoopConfig(**shared)  # type: ignore[arg-type]
    wsd = LoopConfig(**shared, schedule="wsd", decay=20)  # type: ignore[arg-type]
    longer = wsd.model_copy(update={"steps": 200})
    for config in (cosine, wsd):
        rates = [learning_rate(config, step) for step in range(100)]
        assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert rates[-1] == pytest.approx(0.1, abs=0.05)
    before = range(80)
    assert [learning_rate(wsd, s) for s in before] == [learning_rate(longer, s) for s in before]
