"""Fine-tuning: an adapter in peft's format, saved, attached, switched, merged and refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file

from unified import cli
from unified.adapters import CONFIG, WEIGHTS, AdapterError, linears, names
from unified.handle import Unified, load
from unified.media import picture
from unified.toybox.scene import render, sample_scene
from unified.train.finetune import check, estimated, finetune, prepare, prompts
from unified.train.mixture import Epochs, Mixture
from unified.train.optimize import optimizers
from unified.train.prefer import Pairs, PreferenceStage, log_probabilities
from unified.train.quarantine import UnreadableError
from unified.train.readers import read
from unified.train.records import DataError
from unified.train.tuning import TuningConfig, read_config

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed (the extra deepspeed)"
)
FAST = ["loop.steps=4", "loop.batch_size=4", "micro_batch=2", "loop.save_every=2",
        "loop.log_every=1"]  # fmt: skip


# --- order -------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=1),
    st.integers(0, 10**6),
)
def test_no_sample_is_lost_or_repeated(weights: dict[str, int], seed: int) -> None:
    mixture, length = Mixture(weights, seed), sum(weights.values())
    picked = [mixture.pick(number) for number in range(40 * length)]
    for name, weight in weights.items():
        assert [own for source, own in picked if source == name] == list(range(40 * weight))
    assert picked[7 * length + 1] == Mixture(weights, seed).pick(7 * length + 1)


def test_a_million_samples_each_once() -> None:
    epochs = Epochs(250_000, 0)
    drawn = np.array([epochs.index(number) for number in range(1_000_000)])
    for epoch in range(4):
        own = drawn[drawn[:, 0] == epoch, 1]
        assert np.array_equal(np.sort(own), np.arange(250_000))
    assert not np.array_equal(drawn[:250_000, 1], drawn[250_000:500_000, 1])


# --- training ----------------------------------------------------------------------------------


def pictures(folder: Path, count: int = 6) -> Path:
    """A folder of pictures with captions beside them."""
    import random

    folder.mkdir()
    for k in range(count):
        scene = sample_scene(random.Random(k))
        Image.fromarray(render(scene)).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(f"a picture of number {k}")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "cats")


def tuned(source: Path, data: Path, out: Path, *overrides: str, **lora: Any) -> Path:
    config = read_config(None, [*FAST, *overrides])
    stage = prepare(load(source, device="cpu"), read(str(data)), config)
    return finetune(stage, out, progress=False)


@pytest.fixture(scope="module")
def adapter(tiny_run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(tiny_run / "model", data, tmp_path_factory.mktemp("run") / "first")


def logits(handle: Unified) -> torch.Tensor:
    ids = torch.randint(0, 300, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        hidden = handle.model(ids).hidden
        return torch.cat([handle.model.text_head(hidden), handle.model.image_head(hidden)], -1)


def test_an_adapter_is_attached_switched_and_merged(
    tiny_run: Path, adapter: Path, tmp_path: Path
) -> None:
    source = tiny_run / "model"
    plain = load(source, device="cpu")
    base = logits(plain)
    handle = load(source, device="cpu", adapters=[adapter])
    assert handle.adapters == ("adapter",)
    adapted = logits(handle)
    assert not torch.allclose(adapted, base, atol=1e-5)
    handle.use(None)
    torch.testing.assert_close(logits(handle), base)
    handle.use("adapter")
    torch.testing.assert_close(logits(handle), adapted)
    assert handle.generate("a cat", seed=1)[0].size == (64, 64)
    # peft reads it by itself
    torch.testing.assert_close(logits_of_peft(plain, adapter), adapted)
    with pytest.raises(ValueError, match="adapters are attached .adapter.: merge"):
        handle.save(tmp_path / "half")
    handle.merge()
    torch.testing.assert_close(logits(handle), adapted, atol=1e-4, rtol=1e-4)
    handle.save(tmp_path / "merged")
    torch.testing.assert_close(logits(load(tmp_path / "merged", device="cpu")), logits(handle))


def logits_of_peft(handle: Unified, adapter: Path) -> torch.Tensor:
    PeftModel.from_pretrained(handle.model, str(adapter))
    return logits(handle)


def test_two_adapters_on_one_base(tiny_run: Path, adapter: Path, tmp_path: Path) -> None:
    other = shutil.copytree(adapter, tmp_path / "other")
    weights = load_file(other / WEIGHTS)
    save_file({name: value * 2 for name, value in weights.items()}, other / WEIGHTS)
    handle = load(tiny_run / "model", device="cpu", adapters=[adapter, other])
    assert handle.adapters == ("adapter", "other")
    first = logits(handle)
    handle.use("other")
    assert not torch.allclose(logits(handle), first, atol=1e-5)
    handle.use("adapter")
    torch.testing.assert_close(logits(handle), first)
    with pytest.raises(AdapterError, match="no adapter 'third' here; adapter, other"):
        handle.use("third")


def test_adapters_are_called_as_their_folders_or_their_runs(tmp_path: Path) -> None:
    runs = [tmp_path / name / "adapter" for name in ("cats", "dogs-1.5")]
    assert names([runs[0]]) == ["adapter"]
    assert names(runs) == ["cats", "dogs-1-5"]
    assert names([*runs, tmp_path / "birds"]) == ["cats", "dogs-1-5", "birds"]
    with pytest.raises(AdapterError, match="two adapters are called 'cats'"):
        names([runs[0], tmp_path / "more" / "cats" / "adapter"])


def test_a_stopped_run_goes_on_to_the_same_weights(
    tiny_run: Path, data: Path, adapter: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    again = tuned(tiny_run / "model", data, out)
    assert (again / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    shutil.rmtree(out / "checkpoints" / "step-4")
    shutil.rmtree(again)
    again = tuned(tiny_run / "model", data, out)
    assert (again / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    # the frozen base is not written over and over
    assert (out / "checkpoints" / "step-4" / "state.safetensors").stat().st_size < sum(
        file.stat().st_size for file in (tiny_run / "model").glob("*.safetensors")
    )
    with pytest.raises(ValueError, match="a run on other data stands there"):
        tuned(tiny_run / "model", pictures(tmp_path / "dogs", 5), out)


@pytest.mark.parametrize(
    "overrides",
    [
        ["lora.dora=true"],
        ["lora.rslora=true"],
        ["lora.whole=[code_aligner]"],
        ["lora=null"],
        ["pack=200", "micro_batch=1"],
        ["toybox={draw: 1, ask: 2}", "loop.batch_size=1", "micro_batch=8"],
        pytest.param(["loop.zero=3", "loop.offload=true"], marks=needs_deepspeed),
    ],
)
def test_every_way_to_tune_trains(
    overrides: list[str], tiny_run: Path, data: Path, tmp_path: Path
) -> None:
    out = tuned(tiny_run / "model", data, tmp_path / "run", "loop.steps=2", *overrides)
    base = logits(load(tiny_run / "model", device="cpu"))
    source = out if overrides == ["lora=null"] else tiny_run / "model"
    attached = [] if overrides == ["lora=null"] else [out]
    assert not torch.allclose(logits(load(source, device="cpu", adapters=attached)), base)


def test_parts_are_frozen_and_rated_by_their_own_names_beneath_an_adapter(
    tiny_run: Path, data: Path
) -> None:
    settings = ["loop.freeze=[encoder, text_head]", "loop.rates={image_head: 0.5, decoder.norm: 2}"]
    stage = prepare(load(tiny_run / "model", device="cpu"), read(str(data)),
                    read_config(None, [*settings, "lora.whole=[norm]"]))  # fmt: skip
    loop = stage.config.loop
    shares = {
        id(p): group["share"]
        for stepper in optimizers(stage.model, loop)
        for group in stepper.param_groups
        for p in group["params"]
    }
    found = {name: shares.get(id(p)) for name, p in stage.model.named_parameters()}
    for part, share in (("encoder", None), ("text_head", None), ("image_head", 0.5),
                        ("decoder.layers", 1.0), ("decoder.norm", 2)):  # fmt: skip
        own = {found[name] for name in found if f".model.{part}." in name and (
            "lora_" in name or "modules_to_save" in name)}  # fmt: skip
        assert own == {share}, part
    loop = loop.model_copy(update={"freeze": ["tail"]})
    with pytest.raises(ValueError, match="no part 'tail'; its parts are decoder, .*image_head"):
        optimizers(stage.model, loop)


def test_what_it_draws_of_the_data_is_laid_down(tiny_run: Path, data: Path, tmp_path: Path) -> None:
    out = tuned(tiny_run / "model", data, tmp_path / "run", "loop.sample_every=2")
    sheets = sorted((out.parent / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == ["step-000002.png", "step-000004.png"]
    with Image.open(sheets[0]) as sheet:  # six prompts, four in a row, 64 pixels three times larger
        assert sheet.size[0] == 4 * (192 + 8) and sheet.size[1] > 2 * 192
    assert prompts(read(str(data)), 3) == [f"a picture of number {k}" for k in (0, 1, 2)]
    assert prompts(read(str(data), tasks=("describe",))) == []
    tuned(tiny_run / "model", data, tmp_path / "none", "loop.sample_every=0", "loop.steps=2")
    assert not (tmp_path / "none" / "samples").exists()


def test_what_would_be_done_is_said_before_it_is(tiny: Unified, tiny_run: Path, data: Path) -> None:
    config = read_config(None, ["epochs=2", "loop.batch_size=4", "micro_batch=2"])
    stage = prepare(load(tiny_run / "model", device="cpu"), read(str(data)), config)
    found, taken = check(stage), estimated(stage)
    assert taken.trained == found["parameters"] and taken.frozen > taken.trained
    assert taken.activations > 0 and taken.seconds > 0 and taken.flops > 2 * taken.frozen
    assert found["records"] == len(read(str(data))) and 0 < found["learnt"] < 1
    assert found["steps"] == -(-2 * found["records"] // 4)
    assert 0 < found["share"] < 0.5


def test_a_torn_picture_is_set_aside_and_the_run_goes_on_to_the_same_weights(
    tiny_run: Path, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "cats")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"3\.png"):
        check(prepare(load(tiny_run / "model", device="cpu"), read(str(folder)), TuningConfig()))
    with pytest.raises(UnreadableError, match="1 of 12 records cannot be read"):
        tuned(tiny_run / "model", folder, tmp_path / "strict")
    out = tmp_path / "run"
    made = tuned(tiny_run / "model", folder, out, "loop.unreadable=0.2")
    lines = (out / "quarantine.jsonl").read_text().splitlines()  # to be drawn and to be told of
    assert len(lines) == 2 and all("3.png" in json.loads(line)["reason"] for line in lines)
    whole = (made / WEIGHTS).read_bytes()
    shutil.rmtree(out / "checkpoints" / "step-4")
    shutil.rmtree(made)
    again = tuned(tiny_run / "model", folder, out, "loop.unreadable=0.2")
    assert (again / WEIGHTS).read_bytes() == whole


# --- preference --------------------------------------------------------------------------------


def preferences(path: Path, folder: Path, count: int = 6) -> Path:
    """Pairs: drawings of which another is worse, and answers."""
    pictures(folder, count)
    lines = []
    for k in range(count):
        files = (f"{folder.name}/{j}.png" for j in (k, (k + 1) % count))
        drawn: list[Any] = [[{"type": "image", "path": file}] for file in files]
        contents = ["yes", "no"] if k % 2 else drawn
        better, worse = ({"role": "assistant", "content": content} for content in contents)
        told = [{"role": "user", "content": f"number {k}"}, better]
        lines.append({"messages": told, "rejected": [worse]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_replys_probability_is_the_sum_over_its_tokens(tiny_run: Path, tmp_path: Path) -> None:
    data = read(str(preferences(tmp_path / "pairs.jsonl", tmp_path / "pictures")))
    config = read_config(None, ["loop.batch_size=3", "micro_batch=6", "anchor=0"])
    stage = prepare(load(tiny_run / "model", device="cpu"), data, config)
    assert isinstance(stage, PreferenceStage)
    (part,) = stage.batch(0)
    assert isinstance(part, Pairs)
    model = stage.handle.model.eval()
    with torch.inference_mode():
        sums = log_probabilities(model, part.batch)
        for k, row in enumerate(sums):
            view = stage.handle.layout.vocabulary.control("view")
            seen, own = (
                int((ids == view).sum()) for ids in (part.batch.ids[:k], part.batch.ids[k])
            )
            assert part.batch.views is not None
            views = part.batch.views[seen : seen + own] if own else None
            alone = model.target_losses(
                part.batch.ids[k : k + 1], views, part.batch.labels[k : k + 1]
            )
            torch.testing.assert_close(row, -torch.cat(alone).sum(), atol=1e-3, rtol=1e-4)
    loss, values = stage.loss(part, 0)  # the adapter changes nothing yet
    assert loss.item() == pytest.approx(np.log(2), rel=1e-4) and values["margin"] == 0


def test_what_is_preferred_becomes_more_likely(tiny_run: Path, tmp_path: Path) -> None:
    data = preferences(tmp_path / "pairs.jsonl", tmp_path / "pictures")
    overrides = ["loop.steps=12", "loop.learning_rate=0.01", "loop.batch_size=6"]
    out = tuned(tiny_run / "model", data, tmp_path / "run", *overrides)
    rows = map(json.loads, (out.parent / "log.jsonl").read_text().splitlines())
    logged = [row for row in rows if "margin" in row]
    assert logged[0]["margin"] == 0 < logged[-1]["margin"] and logged[-1]["preferred"] > 0.8
    kept = tuned(tiny_run / "model", data, tmp_path / "kept", *overrides, "toybox={draw: 1}")
    rows = map(json.loads, (kept.parent / "log.jsonl").read_text().splitlines())
    assert all({"margin", "image_loss"} <= set(row) for row in rows if "loss" in row)
    with pytest.raises(ValueError, match="by an adapter"):
        tuned(tiny_run / "model", data, tmp_path / "whole", "lora=null")


# --- what is refused ---------------------------------------------------------------------------


def changed(adapter: Path, target: Path, **values: Any) -> Path:
    folder = shutil.copytree(adapter, target)
    config = json.loads((folder / CONFIG).read_text()) | values
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def test_adapters_that_do_not_fit_are_refused(
    tiny_run: Path, adapter: Path, tmp_path: Path
) -> None:
    source = tiny_run / "model"
    bad = changed(adapter, tmp_path / "other-base", revision="0123456789ab")
    with pytest.raises(AdapterError, match="made for weights 0123456789ab"):
        load(source, device="cpu", adapters=[bad])
    with pytest.raises(AdapterError, match="with another rank than it says"):
        load(source, device="cpu", adapters=[changed(adapter, tmp_path / "rank", r=3)])
    nan = changed(adapter, tmp_path / "nan")
    weights = load_file(nan / WEIGHTS)
    name = next(iter(weights))
    weights[name][0, 0] = float("nan")
    save_file(weights, nan / WEIGHTS)
    with pytest.raises(AdapterError, match=f"{name} holds values that are not numbers"):
        load(source, device="cpu", adapters=[nan])
    with pytest.raises(AdapterError, match="not an adapter folder"):
        load(source, device="cpu", adapters=[tmp_path])
    kind = changed(adapter, tmp_path / "kind", peft_type="IA3")
    with pytest.raises(AdapterError, match="of the kind 'IA3'; only LORA is read"):
        load(source, device="cpu", adapters=[kind])
    parts = changed(adapter, tmp_path / "parts", target_modules=["tail"])
    with pytest.raises(AdapterError, match="parts: does not fit this model: .*tail"):
        load(source, device="cpu", adapters=[parts])
    for change, words in (
        ({name: None}, f"lacks {name}"),
        ({"foreign": torch.ones(1)}, "holds fo"),
    ):
        folder = changed(adapter, tmp_path / words.split()[0])
        held = {k: v for k, v in (load_file(adapter / WEIGHTS) | change).items() if v is not None}
        save_file(held, folder / WEIGHTS)
        with pytest.raises(AdapterError, match=words):
            load(source, device="cpu", adapters=[folder])
    (nan / WEIGHTS).unlink()
    (nan / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(AdapterError, match="only safetensors are read"):
        load(source, device="cpu", adapters=[nan])


def test_data_and_settings_are_checked_before_any_weight(
    tiny: Unified, tiny_run: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"unknown key 'lora.rnk'; one of rank, alpha"):
        read_config(None, ["lora.rnk=3"])
    with pytest.raises(ValueError, match="no task 'sing'; one of render"):
        read_config(None, ["toybox={sing: 1}"])
    with pytest.raises(ValueError, match="no linear map in a part 'tail'"):
        linears(tiny.model, ["tail"])
    lines = [{"messages": [{"role": "user", "content": "hello"}]}] * 3
    silent = tmp_path / "silent.jsonl"
    silent.write_text("".join(json.dumps(line) + "\n" for line in lines))
    stage = prepare(load(tiny_run / "model", device="cpu"), read(str(silent)), TuningConfig())
    with pytest.raises(DataError, match="silent.jsonl:1: nothing of it is learnt; the assistant"):
        check(stage)
    long = tmp_path / "long.jsonl"
    told = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "word " * 600}]
    long.write_text(json.dumps({"messages": told}) + "\n")
    stage = prepare(load(tiny_run / "model", device="cpu"), read(str(long)), TuningConfig())
    with pytest.raises(DataError, match="tokens; the model reads at most 512"):
        check(stage)
    short = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "word"}]
    told[1]["content"] = "word " * 30
    late = tmp_path / "late.jsonl"  # behind the first ones
    rows = [short] * 150 + [told] * 20
    late.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    settings = TuningConfig(
        pack=32, loop=TuningConfig().loop.model_copy(update={"unreadable": 0.02})
    )
    stage = prepare(load(tiny_run / "model", device="cpu"), read(str(late)), settings)
    with pytest.raises(DataError, match=r"late.jsonl:1[56]\d: \d+ tokens, and a row has 32 .pack."):
        check(stage)


# --- the command line --------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.run(list(arguments))
    return (status, *capsys.readouterr())


def test_tuned_used_and_merged_from_the_command_line(
    tiny_run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    model = ["--model", str(tiny_run / "model")]
    fast = [part for value in FAST for part in ("--set", value)]
    status, out, told = said(capsys, "finetune", str(data), *model, *fast, "--dry-run")
    assert status == 0 and "records of" in told and "M parameters are trained" in told
    assert "memory about" in told and "tokens in 4 steps" in told
    assert not (tmp_path / "runs").exists()
    status, out, told = said(capsys, "finetune", str(data), *model, *fast, "-o", "cats")
    assert status == 0 and out.strip() == "cats/adapter", told
    adapter = ["--adapter", "cats/adapter"]
    assert said(capsys, "generate", "a cat", "-o", "a.png", "--force", *model, *adapter)[0] == 0
    assert "+ adapter" in picture.metadata(Path("a.png"))["model"]
    # and nothing beside it, whatever libraries have to say
    assert said(capsys, "merge", "cats/adapter", "-o", "cats-model", *model)[:2] == (
        0,
        "cats-model\n",
    )
    assert said(capsys, "ask", "a.png", "What is it?", "--model", "cats-model")[0] == 0
    for arguments, words in (
        (["merge", "cats/adapter", "-o", "cats-model", *model], "there is something already"),
        (["generate", "a cat", *model, "--adapter", "nowhere"], "not an adapter folder"),
        (["generate", "a cat", "--adapter", "cats/adapter"], "made for weights"),
        (["finetune", str(data), *model, "--set", "lora.rank=0"], "lora.rank"),
        (["finetune", str(data), *model, "--set", "lora={"], "not readable as YAML"),
        (["finetune", str(data), *model, "--config", "none.yaml"], "none.yaml: not readable"),
        (["finetune", "nowhere", *model], "nowhere"),
    ):
        status, out, told = said(capsys, *arguments)
        assert status == 2 and words in told and len(told.strip().splitlines()) == 1, told
