"""Recipes of published models, each on a configuration so small that nothing is learnt; decoders
that start from a language model; twins of one side."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from unified.checkpoint import CheckpointError
from unified.configuration import CAUSAL_LMS
from unified.engine import Request
from unified.handle import DEFAULT, Unified, load
from unified.modeling import UnifiedForConditionalGeneration
from unified.processing import UnifiedProcessor
from unified.sequence import Text, Turn
from unified.tokenizers.codec import Codec
from unified.tokenizers.kinds import new_codec
from unified.toybox.samples import TASKS, sample
from unified.toybox.scene import Scene, render, sample_scene
from unified.train.ability import perplexity, text_ids
from unified.train.corpora import TOYBOX
from unified.train.model import ModelConfig, build
from unified.train.pretrained import CausalLM, causal_lm
from unified.train.recipe import ABILITY, check, read, run
from unified.train.records import DataError

WORDS = "a cat sat on the mat and the dog saw the red circle <image> again"
LMS: dict[str, dict[str, Any]] = dict.fromkeys(CAUSAL_LMS, {}) | {
    "llama": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 8},
}
ROWS = 300


def language_model(folder: Path, kind: str, **saved: Any) -> Any:
    """A random causal LM of transformers' own classes, saved with a tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=ROWS, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, **LMS[kind],
    )  # fmt: skip
    lm = AutoModelForCausalLM.from_config(config)
    torch.nn.init.normal_(lm.get_input_embeddings().weight)
    lm.save_pretrained(folder, **saved)
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    words.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=ROWS - 8, special_tokens=["<s>", "</s>"], initial_alphabet=letters
    )
    words.train_from_iterator([WORDS] * 3, trainer)
    words.save(str(folder / "tokenizer.json"))
    return lm.eval()


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.manual_seed(0)
    small = {"codebook_size": 32, "encoder_width": 16, "decoder_width": 16, "decoder_layers": 1,
             "decoder_heads": 2, "patch": 32}  # fmt: skip
    return new_codec("vq", small).eval()


SEES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def extended(folder: Path, codec: Codec, **settings: Any) -> UnifiedForConditionalGeneration:
    config = ModelConfig(decoder={"from": str(folder)}, vision=SEES, **settings)
    return build(config, causal_lm(folder).tokenizer(), codec, 0, "cpu").eval()


# --- a language model as the decoder -----------------------------------------------------------


@pytest.mark.parametrize("kind", list(LMS))
def test_text_logits_are_those_of_the_language_model(
    kind: str, codec: Codec, tmp_path: Path
) -> None:
    lm = language_model(tmp_path, kind, max_shard_size="30KB" if kind == "llama" else "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (kind == "llama")
    ids = torch.randint(0, ROWS, (2, 24))
    with torch.inference_mode():
        wanted = lm(ids).logits
        for settings in ({}, {"shared_codes": True}, {"decoupled": False}):
            model = extended(tmp_path, codec, **settings)
            logits = model.text_logits(model(ids).hidden)
            torch.testing.assert_close(logits[..., :ROWS], wanted, atol=2e-6, rtol=1e-5)
            vocabulary = model.config.vocabulary
            assert len(vocabulary) > ROWS and vocabulary.kind(ROWS - 1) == "text"
            state = model.state_dict()
            for rows in (state["decoder.embed_tokens.weight"], state["text_head.weight"]):
                mean = rows[:ROWS].mean(0).expand(len(rows) - ROWS, -1)
                assert len(rows) == vocabulary.text_head
                torch.testing.assert_close(rows[ROWS:], mean)


@pytest.mark.parametrize("kind", ["mistral", "olmo2", "phi3"])
def test_any_decoder_draws_the_same_step_by_step_and_anew(
    kind: str, codec: Codec, tmp_path: Path
) -> None:
    """One whose layers see a window, one with norms behind them, one with joined projections."""
    language_model(tmp_path, kind)
    model, text = extended(tmp_path, codec), causal_lm(tmp_path).tokenizer()
    engine = Unified(model, UnifiedProcessor.of(model.config, text), codec).engine
    turn = Turn("user", (Text(tuple(text.ids(WORDS))),))
    ids = engine.layout.flatten([turn], reply=True).ids
    request = Request(tuple(ids), draw="only", most=30)
    wanted = engine.naive(request).ids
    assert all(engine.run([request])[0].ids == wanted for _ in range(2))  # its prompt is known then
    assert engine.prefixes.counts.found == 1


def test_codes_may_be_rows_of_the_language_model(codec: Codec, tmp_path: Path) -> None:
    language_model(tmp_path, "llama")
    model = extended(tmp_path, codec, shared_codes=True, decoupled=False)
    assert model.image_head is None and model.encoder is None
    vocabulary = model.config.vocabulary
    assert vocabulary.shared_ids == range(ROWS, ROWS + 32)
    assert vocabulary.text_ranges == (range(ROWS),)
    assert min(vocabulary.controls.values()) == ROWS + 32 and vocabulary.image_start == ROWS + 39


def test_no_text_gives_a_control_id(codec: Codec, tmp_path: Path) -> None:
    language_model(tmp_path, "qwen3")
    tokenizer = causal_lm(tmp_path).tokenizer()
    vocabulary = extended(tmp_path, codec).config.vocabulary
    for text in (WORDS, "<s> <image> </s> <assistant>", "\u00df\u6f22\U0001f600", ""):
        ids = tokenizer.ids(text)
        assert all(vocabulary.kind(token) == "text" for token in ids)
        assert not set(ids) & set(tokenizer.special.values())
        assert tokenizer.text(ids) == text


def test_a_sentencepiece_model_is_read(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS] * 20), model_writer=model, vocab_size=290, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = CausalLM(tmp_path, {}, ROWS).tokenizer()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    for text in ("the cat sat", "on </s> the mat", "red\n\u6f22"):
        assert tokenizer.text(tokenizer.ids(text)) == text
        assert not set(tokenizer.ids(text)) & {0, 1, 2}
    assert tokenizer.ids("the cat sat") == pieces.encode("the cat sat")


def test_text_ability_is_the_language_models_own(codec: Codec, tmp_path: Path) -> None:
    lm = language_model(tmp_path, "llama")
    model = extended(tmp_path, codec)
    file = tmp_path / "words.txt"
    file.write_text(WORDS * 4)
    ids = text_ids(file, causal_lm(tmp_path).tokenizer())
    with torch.inference_mode():
        row = torch.tensor([ids])
        wanted = float(lm(row, labels=row).loss.exp())
    assert perplexity(model, ids) == pytest.approx(wanted, rel=1e-4)
    assert perplexity(model, ids, window=10) != pytest.approx(wanted, rel=1e-4)
    file.write_text("")
    with pytest.raises(ValueError, match="holds 0 ids of text"):
        text_ids(file, causal_lm(tmp_path).tokenizer())


def altered(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_what_cannot_be_a_decoder_is_named(codec: Codec, tmp_path: Path) -> None:
    language_model(tmp_path / "whole", "llama")
    language_model(tmp_path / "parts", "llama", max_shard_size="30KB")
    shard = sorted((tmp_path / "parts").glob("model-*"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name}: missing; .* places"):
        extended(tmp_path / "parts", codec)

    def refused(name: str, change: Any, message: str) -> None:
        folder = shutil.copytree(tmp_path / "whole", tmp_path / name)
        altered(folder, change)
        with pytest.raises(CheckpointError, match=message):
            extended(folder, codec)

    norm = "model.layers.1.input_layernorm.weight"
    refused("short", lambda w: w.update({norm: torch.ones(7)}),
            rf"model\.safetensors: {norm} has shape \(7,\)")  # fmt: skip
    refused("lacks", lambda w: w.pop(norm), f"no tensor '{norm}'")
    refused("headless", lambda w: w.pop("lm_head.weight"), "no tensor 'lm_head.weight'")
    refused("more", lambda w: w.update({"model.extra": torch.ones(1)}),
            "model.extra has no place in this model")  # fmt: skip
    other = shutil.copytree(tmp_path / "whole", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(CheckpointError, match="family 'gpt2' cannot be .* llama, qwen2, .* can"):
        causal_lm(other)
    (other / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    with pytest.raises(CheckpointError, match="of the tokenizer has id 2.* vocab_size is 100"):
        causal_lm(other).tokenizer()
    with pytest.raises(CheckpointError, match="no such directory"):
        causal_lm(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"model\.decoder\.hidden_size: .* says it"):
        config = ModelConfig(decoder={"from": str(tmp_path / "whole"), "hidden_size": 8})
        build(config, causal_lm(tmp_path / "whole").tokenizer(), codec, 0, "cpu")


def test_the_encoder_may_start_from_siglip(codec: Codec, tmp_path: Path) -> None:
    torch.manual_seed(1)
    siglip = SiglipVisionModel(
        SiglipVisionConfig(image_size=64, patch_size=16, intermediate_size=64, **SEES)
    ).eval()
    siglip.save_pretrained(tmp_path)
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 64}  # fmt: skip
    config = ModelConfig(decoder=sizes, vision={"from": str(tmp_path)})
    model = build(config, _Words(), codec, 0, "cpu").eval()  # type: ignore[arg-type]
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        seen = model.encoder.tower(pixels).last_hidden_state
        torch.testing.assert_close(seen, siglip(pixels).last_hidden_state)
        assert model.features(pixels).shape == (2, 16, 48)
    assert model.config.layout.view_length == 16
    larger = json.loads((tmp_path / "config.json").read_text()) | {"image_size": 96}
    (tmp_path / "config.json").write_text(json.dumps(larger))
    with pytest.raises(ValueError, match="sees 96 pixels a side, the codec draws 64"):
        build(config, _Words(), codec, 0, "cpu")  # type: ignore[arg-type]


class _Words:
    """The size of a text tokenizer, which is all that `build` asks of one."""

    vocab_size = 100


# --- the recipes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of source that the recipes name, in formats of the field."""
    folder = tmp_path_factory.mktemp("data")
    pictures = folder / "captions"
    pictures.mkdir()
    for k in range(6):
        Image.fromarray(render(sample_scene(random.Random(k)))).save(pictures / f"{k}.png")
        (pictures / f"{k}.txt").write_text(f"a picture of number {k}")
    files = [f"captions/{k}.png" for k in range(6)]

    def lines(name: str, rows: list[Any]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    lines("text.jsonl", [{"text": f"{WORDS} {k}"} for k in range(6)])
    lines("chat.jsonl", [
        {"image": file, "conversations": [{"from": "human", "value": "<image>\nHow many?"},
                                          {"from": "gpt", "value": f"There are {k}."}]}
        for k, file in enumerate(files)
    ])  # fmt: skip
    lines("dialogues.jsonl", [
        {"messages": [{"role": "user", "content": "Hello"},
                      {"role": "assistant", "content": f"Hello, {k}."}]} for k in range(4)
    ])  # fmt: skip
    lines("obelics.jsonl", [
        {"images": [file, None], "texts": [None, f"number {k}"]} for k, file in enumerate(files)
    ])  # fmt: skip
    lines("mmc4.jsonl", [
        {"text_list": [f"number {k}", "and more"],
         "image_info": [{"image_name": file, "matched_text_index": 1}]}
        for k, file in enumerate(files)
    ])  # fmt: skip
    lines("editing.jsonl", [
        {"messages": [{"role": "user", "content": [{"type": "image", "path": files[k]},
                                                   {"type": "text", "text": "Make it blue."}]},
                      {"role": "assistant", "content": [{"type": "image", "path": files[k + 1]}]}]}
        for k in range(4)
    ])  # fmt: skip
    return folder


def given(data: Path, **names: str) -> list[str]:
    return [f"data.{name}={data / file}" for name, file in names.items()]


def janus(data: Path) -> list[str]:
    pictures = dict.fromkeys(("captions", "classes", "seen", "pictures", "drawings"), "captions")
    return given(data, text="text.jsonl", visual_chat="chat.jsonl", dialogues="dialogues.jsonl",
                 **pictures)  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def moved(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> set[str]:
    """Parts of the model in which weights differ."""
    return {".".join(name.split(".")[:2]) for name in one if not torch.equal(one[name], two[name])}


def test_janus_pro_trains_in_three_stages(data: Path, tmp_path: Path) -> None:
    overrides = ["scale=tiny", f"ability={data / 'text.jsonl'}", "align.loop.save_every=2",
                 *janus(data)]  # fmt: skip
    made = run("janus_pro", None, overrides, tmp_path, device="cpu", progress=False)
    handle = load(made, device="cpu")
    stages = [weights(tmp_path / name) for name in ("align", "pretrain", "sft")]
    first = moved(stages[0], stages[1])
    assert "encoder.tower" not in first and {"decoder.layers", "encoder.aligner"} <= first
    assert "encoder.tower" in moved(stages[1], stages[2])
    plan = read("janus_pro", overrides)
    assert plan.model is not None
    words, codec_ = handle.processor.tokenizer, handle.codec
    new = build(plan.model, words, codec_, plan.seed, "cpu").state_dict()
    assert moved(stages[0], new) == {
        "encoder.aligner", "code_embedding.weight", "code_aligner.up", "code_aligner.down",
        "image_head.up", "image_head.down",
    }  # fmt: skip
    ability = json.loads((tmp_path / ABILITY).read_text())
    assert list(ability) == [f"{when} {name}" for name in ("align", "pretrain", "sft")
                             for when in ("before", "after")]  # fmt: skip
    values = [row["text_perplexity"] for row in ability.values()]
    assert values[0] == pytest.approx(values[1])  # decoder and head of text were frozen
    assert values[2] != pytest.approx(values[3])
    logged = (tmp_path / "sft" / "log.jsonl").read_text()
    assert '"text_perplexity"' in logged
    picture = handle.generate("a red circle", seed=1)[0]
    assert picture.size == (64, 64)
    assert isinstance(handle.ask(picture, "What is it?", most=4), str)
    check_resuming(overrides, data, tmp_path)


def check_resuming(overrides: list[str], data: Path, out: Path) -> None:
    """A killed stage goes on to the same weights, and only with the same data."""
    whole = weights(out / "align")
    shutil.rmtree(out / "align" / "checkpoints" / "step-4")
    shutil.rmtree(out / "align" / "model")
    run("janus_pro", ["align"], overrides, out, device="cpu", progress=False)
    assert not moved(whole, weights(out / "align"))
    changed = [*overrides, f"data.captions={data / 'chat.jsonl'}"]
    with pytest.raises(ValueError, match=r"data\.captions: .*align was begun with other data"):
        run("janus_pro", ["align"], changed, out, device="cpu", progress=False)
    silent = out / "silent.jsonl"
    silent.write_text(json.dumps({"messages": [{"role": "user", "content": "Hello"}]}) + "\n")
    with pytest.raises(DataError, match="silent.jsonl:1: nothing of it is learnt"):
        changed = [*overrides, f"data.captions={silent}"]
        run("janus_pro", ["align"], changed, out, device="cpu", progress=False)


def test_seed_llama_starts_from_a_language_model(data: Path, tmp_path: Path) -> None:
    lm, seed = tmp_path / "lm", tmp_path / "seed"
    language_model(lm, "llama")
    section = read("seed_llama", ["scale=tiny"]).tokenizer
    assert section is not None  # training it is tests/test_codec_training.py's business
    new_codec("seed", section.model).save(seed)
    overrides = [
        "scale=tiny", f"model.decoder={{from: {lm}}}", f"codec={seed}", "sft.lora=null",
        *given(data, mmc4="mmc4.jsonl", obelics="obelics.jsonl", text="text.jsonl",
               editing="editing.jsonl", stories="obelics.jsonl", conversations="chat.jsonl",
               questions="chat.jsonl", captions="captions", told="captions", drawings="captions"),
    ]  # fmt: skip
    out = tmp_path / "run"
    made = run("seed_llama", None, overrides, out, device="cpu", progress=False)
    handle = load(made, device="cpu")
    assert handle.model.encoder is None and handle.model.config.layout.view_length == 0
    picture = handle.generate("a red circle", seed=1)[0]
    assert picture.size == (64, 64)
    assert isinstance(handle.ask(picture, "What is it?", most=4), str)
    adapter = load_file(out / "pretrain" / "adapter" / "adapter_model.safetensors")
    assert any("lora_A" in name for name in adapter)
    assert {"embed_tokens.weight", "text_head.weight"} <= {
        ".".join(name.split(".")[-2:]) for name in adapter
    }
    start = load_file(lm / "model.safetensors")
    merged = weights(out / "pretrain")
    assert set(merged) == set(weights(out / "sft"))  # no trace of the adapter
    query = "layers.0.self_attn.q_proj.weight"
    change = merged[f"decoder.{query}"] - start[f"model.{query}"]
    assert 0 < torch.linalg.matrix_rank(change, tol=1e-7) <= 16
    rows = merged["decoder.embed_tokens.weight"][ROWS : ROWS + 32]
    assert len(rows.unique(dim=0)) > 1  # codes are learnt apart


def test_what_a_recipe_lacks_is_said_before_any_work(data: Path, tmp_path: Path) -> None:
    def refused(overrides: list[str], message: str, name: str = "janus_pro") -> None:
        out = tmp_path / "out"
        with pytest.raises(ValueError, match=message):
            run(name, None, overrides, out, device="cpu", progress=False)
        assert not out.exists()

    refused([], r"model\.decoder\.from: name the directory")
    refused(["model.decoder.from=/nowhere"], "no such directory")
    tiny = ["scale=tiny"]
    refused(tiny, r"where the data lie: --set data\.captions=PATH --set data\.classes=PATH")
    refused([*tiny, *janus(data), "codec=/nowhere"], "no folder of a picture tokenizer")
    sound = DEFAULT.parent / "audio"
    refused(
        [*tiny, *janus(data), f"codec={sound}"], "turns audio into codes; name a tokenizer of p"
    )
    refused([*tiny, *janus(data), "tokenizer=null"], "needs a picture tokenizer")
    refused([*tiny, *janus(data), "text=null"], "needs a text tokenizer")
    refused([*tiny, *janus(data), "ability=/nowhere"], "/nowhere is no file")
    refused([*tiny, *janus(data), "sft.mix.other=1"], r"sft\.mix: no source 'other'; one of cap")
    refused([*tiny, "data.draw=x"], "data.draw: a toybox task is called so")
    refused(["data.text.pth=x"], "unknown key 'pth'; one of path, format")
    apart = read("seed_llama", ["sft.lora.rank=4"])  # of two that one anchor writes
    assert apart.pretrain and apart.sft and apart.pretrain.lora and apart.sft.lora
    assert (apart.pretrain.lora.rank, apart.sft.lora.rank) == (16, 4)
    refused(["sft.lora.rnk=1"], r"unknown key 'sft\.lora\.rnk'; one of rank", "seed_llama")


# --- twins -------------------------------------------------------------------------------------


def test_sides_of_tasks_are_those_of_their_samples() -> None:
    for task in TASKS:
        turns = [turn for k in range(40) for turn in sample(task, 0, k).turns]
        shown = {
            role: [any(isinstance(part, Scene) for part in turn.parts)
                   for turn in turns if turn.role == role]
            for role in ("user", "assistant")
        }  # fmt: skip
        draws, sees = shown["assistant"], shown["user"]
        side = TOYBOX.get(task)
        assert (all(draws) and not any(sees)) == (side == "generation"), task
        assert (any(sees) and not any(draws)) == (side == "understanding"), task


@pytest.mark.parametrize("side", ["understanding", "generation"])
def test_a_twin_has_the_same_size_steps_and_samples(side: str) -> None:
    joint, twin = read("toybox"), read("toybox", [f"sides={side}"])
    assert twin.model == joint.model
    for name in ("pretrain", "chat", "refine", "polish"):
        whole, part = joint.stage(name), twin.stage(name)
        assert part.loop == whole.loop
        assert part.mix and {TOYBOX[task] for task in part.mix} == {side}
        assert all(whole.mix[task] == weight for task, weight in part.mix.items())
    assert ("vision" in twin.stages) == (side == "understanding")


def test_sides_of_named_sources(data: Path) -> None:
    plan = read("janus_pro", ["scale=tiny", "sides=understanding"])
    assert plan.stage("pretrain").mix == {"seen": 2, "text": 3}
    with pytest.raises(ValueError, match=r"align\.no source of the side|no source of the side"):
        read("janus_pro", ["sides=generation", "align.mix={captions: 1}"]).stage("align")
    with pytest.raises(ValueError, match=r"data\.seen=PATH --set data\.text=PATH$"):
        check(plan, ["pretrain"])  # what the twin does not read needs no path


SMALL = ["scale=tiny", "text.size=500", "text.lines=500", "vision.loop.steps=2",
         "pretrain.loop.steps=4", "pretrain.loop.save_every=4", "chat=null", "refine=null",
         "polish=null"]  # fmt: skip


@pytest.mark.parametrize("shared", [False, True])
def test_twins_train(shared: bool, codec: Codec, tmp_path: Path) -> None:
    codec.save(tmp_path / "codec")
    change = ["sides=generation", "model.decoupled=false"] if shared else ["sides=understanding"]
    overrides = [*SMALL, f"codec={tmp_path / 'codec'}", *change]
    made = run("toybox", None, overrides, tmp_path / "run", device="cpu", progress=False)
    handle = load(made, device="cpu")
    logged = [json.loads(line) for line in
              (tmp_path / "run" / "pretrain" / "log.jsonl").read_text().splitlines()]  # fmt: skip
    losses = [row["image_loss"] for row in logged if "image_loss" in row]
    assert losses and all((loss > 0) == shared for loss in losses)
    assert (tmp_path / "run" / "vision").is_dir() == (not shared)
    if shared:
        check_shared_path(handle)
    else:
        assert handle.model.encoder is not None


def check_shared_path(handle: Unified) -> None:
    """A picture that is asked about stands as the codes that would draw it."""
    layout, vocabulary = handle.layout, handle.layout.vocabulary
    assert handle.model.encoder is None and not layout.reread
    picture = Image.fromarray(render(sample_scene(random.Random(0))))
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]
    prompt = handle.processor.prompt([{"role": "user", "content": content}], handle.encode, "view")
    assert prompt.views is None
    start = vocabulary.image_start
    codes = [token - start for token in prompt.ids if token >= start]
    assert codes == handle.encode(handle.processor.image_processor.pixels(picture))
    reply = handle.chat([{"role": "user", "content": "draw a cat"}], draw="only", most=40)
    assert any(part["type"] == "image" for part in reply["content"])
