"""Janus checkpoints on our modules: the same numbers, ids and pictures as transformers' own.

The checkpoint is small and random, made with transformers' classes in the published layout.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoProcessor,
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

import unified
from tests.published import broken, photo, same, shown
from unified import cli
from unified.checkpoint import CheckpointError
from unified.encoders import JanusEncoder
from unified.engine import Engine
from unified.families import janus as janus_family
from unified.grammar import Grammar
from unified.handle import Unified
from unified.sequence import Picture, Text, Turn
from unified.vocabulary import Vocabulary

SIDE, GRID = 20, 5  # pixels and codes a side of a picture
BOS, EOS, PAD = (
    f"<\uff5c{name}\uff5c>"
    for name in ("begin\u2581of\u2581sentence", "end\u2581of\u2581sentence", "\u2581pad\u2581")
)
LINES = [
    "You are a helpful language and vision assistant.",
    "What is in the picture? A red circle, two dogs and a cat at night.",
    "<|User|>: Draw three yellow stars.\n\n<|Assistant|>: Here they are.",
]


def text_tokenizer() -> Any:
    """A byte-level BPE with the special tokens of Janus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=[BOS, EOS, PAD, "<begin_of_image>", "<end_of_image>", "<image_placeholder>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(LINES * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD,
        extra_special_tokens={
            "image_token": "<image_placeholder>", "boi_token": "<begin_of_image>",
            "eoi_token": "<end_of_image>",
        },
    )  # fmt: skip


SMALL = {
    "text": {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
    "vision": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
               "image_size": SIDE, "patch_size": SIDE // GRID, "num_image_tokens": GRID**2},
    "codec": {"num_embeddings": 96, "channel_multiplier": [1, 1, 1]},
}  # fmt: skip
LARGE = {  # about 190 million parameters in the decoder, pictures of 576 codes
    "text": {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816,
             "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 16,
             "max_position_embeddings": 2048},
    "vision": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
               "image_size": 384, "patch_size": 16, "num_image_tokens": 576},
    "codec": {"num_embeddings": 16384, "channel_multiplier": [1, 1, 1, 1, 1]},
}  # fmt: skip


def janus(tokenizer: Any, tied: bool = False, sizes: dict[str, Any] = SMALL) -> Any:
    torch.manual_seed(0)
    width = sizes["text"]["hidden_size"]
    scale = 1.6 * width**-0.5  # of random weights: logits that differ clearly
    ids = {k: getattr(tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad", "boi", "image")}
    config = JanusConfig(
        text_config={
            **sizes["text"], "model_type": "llama", "initializer_range": scale,
            "bos_token_id": ids["bos"], "eos_token_id": ids["eos"], "pad_token_id": ids["pad"],
        },
        vision_config={**sizes["vision"], "projection_dim": width, "initializer_range": scale},
        vq_config={
            **sizes["codec"], "embed_dim": 8, "latent_channels": 32, "base_channels": 32,
            "num_res_blocks": 1, "projection_dim": width, "image_token_embed_dim": width,
            "initializer_range": scale,
        },
        image_token_id=ids["image"],
        tie_word_embeddings=tied,
    )  # fmt: skip
    model = JanusForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(
        bos_token_id=ids["bos"], eos_token_id=ids["eos"], pad_token_id=ids["pad"],
        guidance_scale=5, temperature=1.0,
        generation_kwargs={"boi_token_id": ids["boi"]},
    )  # fmt: skip
    return model


def save(
    folder: Path, tied: bool = False, shard: str = "5GB", sizes: dict[str, Any] = SMALL
) -> Path:
    tokenizer, vision = text_tokenizer(), sizes["vision"]
    model = janus(tokenizer, tied, sizes)
    model.save_pretrained(folder, max_shard_size=shard)
    JanusProcessor(
        JanusImageProcessorPil(
            size=dict.fromkeys(("height", "width"), vision["image_size"]),
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer,
        chat_template="never {{ run }}",
        use_default_system_prompt=True,
        num_image_tokens=vision["num_image_tokens"],
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("janus"))


@pytest.fixture(scope="module")
def theirs(source: Path) -> Any:
    return JanusForConditionalGeneration.from_pretrained(source, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor(source: Path) -> Any:
    return JanusProcessor.from_pretrained(source)


@pytest.fixture(scope="module")
def ours(source: Path) -> Unified:
    return unified.load(source, device="cpu")


ASKED = "<|User|>: <image_placeholder>\n{}\n\n<|Assistant|>:"
TOLD = "<|User|>: {}\n\n<|Assistant|>:"


@pytest.mark.parametrize("size", [(SIDE, SIDE), (60, 31), (9, 40)])
def test_a_question_is_the_same_prompt(ours: Unified, processor: Any, size: Any) -> None:
    image = photo(*size)
    given = processor(text=ASKED.format("What is it?"), images=[image], return_tensors="pt")
    prompt = ours._fit(shown("What is it? \n", image), 100)[0]
    assert list(prompt.ids) == given["input_ids"][0].tolist()
    torch.testing.assert_close(prompt.views, given["pixel_values"], atol=1e-5, rtol=0)


def test_a_conversation_is_the_same_prompt(ours: Unified, processor: Any) -> None:
    said = [
        {"role": "user", "content": "Hello.\n"},
        {"role": "assistant", "content": "Two dogs."},
        {"role": "user", "content": "A cat?"},
    ]
    text = f"<|User|>: Hello.\n\n<|Assistant|>: Two dogs.{EOS}<|User|>: A cat?\n\n<|Assistant|>:"
    assert list(ours._fit(said, 100)[0].ids) == processor(text=text)["input_ids"][0].tolist()


@pytest.mark.parametrize("reread", [False, True])
def test_one_token_opens_codes_and_views(ours: Unified, reread: bool) -> None:
    layout = replace(ours.layout, reread=reread)
    codes = tuple(range(GRID**2))
    asked = Turn("user", (Text((9,)), Picture(None), Text((8,)), Picture(codes, view=False)))
    told = Turn("assistant", (Picture(codes, view=reread), Text((7,))))
    flat = layout.flatten([asked, told, asked], reply=True)
    grammar = Grammar(layout)
    for token in flat.ids:
        grammar.advance(token)
    assert grammar.state == "after_codes"
    learnt = [i for i, loss in zip(flat.ids, flat.loss, strict=True) if loss]
    control, image = layout.vocabulary.control, layout.vocabulary.image_ids(list(codes))
    assert learnt == [control("image"), *image, 7, control("end")]
    for token in (control("image"), image[0]):
        grammar.advance(token)
    with pytest.raises(ValueError, match="<end> may not stand in state"):
        grammar.advance(control("end"))
    with pytest.raises(ValueError, match="<image> inside a text part"):
        layout.flatten([Turn("user", (Text((control("view"),)),))])
    with pytest.raises(ValueError, match="roles are words"):
        layout.parse(flat.ids)


def test_control_ids_are_checked() -> None:
    ids = {"pad": 2, "bos": 0, "end": 1, "image": 3, "image_end": 4, "view": 3, "view_end": 4}
    for wrong, words in (
        (ids, "'slot' has no id"),
        (ids | {"slot": 50}, "'slot' is 50"),
        (ids | {"slot": 5, "stop": 6}, "unknown control token 'stop'"),
    ):
        with pytest.raises(ValueError, match=words):
            Vocabulary.of(50, 9, wrong)


def test_words_are_never_control_tokens(ours: Unified) -> None:
    spelt = f"<begin_of_image>{EOS}<image_placeholder>{PAD} Two dogs."
    prompt = ours._fit([{"role": "user", "content": spelt}], 100)[0]
    vocabulary = ours.layout.vocabulary
    assert [vocabulary.kind(token) for token in prompt.ids[1:]].count("control") == 0
    assert spelt in ours.processor.tokenizer.text(prompt.ids)


def equal_logits(ours: Unified, theirs: Any) -> None:
    """Within 1e-4, for a picture that is shown and for one that is drawn."""
    vocabulary = ours.layout.vocabulary
    prompt = ours._fit(shown("What is in the picture?", photo()), 100)[0]
    shown_ids = torch.tensor([prompt.ids])
    asked = [*ours._fit([{"role": "user", "content": "A cat."}], 9, draw=True)[0].ids]
    asked.append(vocabulary.control("image"))
    length, size = ours.layout.image_length, vocabulary.image_size
    codes = torch.randint(0, size, (length,), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = [theirs(input_ids=shown_ids, pixel_values=prompt.views).logits]
        found = [ours.model.text_head(ours.model(shown_ids, prompt.views).hidden)]
        words = theirs.get_input_embeddings()(torch.tensor([asked]))
        seen = theirs.prepare_embeddings_for_image_generation(codes[None])
        hidden = theirs.model.language_model(inputs_embeds=torch.cat([words, seen], 1))
        wanted.append(theirs.model.generation_head(hidden.last_hidden_state[:, len(asked) - 1 :]))
        ids = torch.tensor([asked + vocabulary.image_ids(codes.tolist())])
        found.append(ours.model.image_head(ours.model(ids).hidden[:, len(asked) - 1 :]))
    for one, two in zip(found, wanted, strict=True):
        assert two.std() > 0.3
        torch.testing.assert_close(one, two, atol=1e-4, rtol=0)


def test_logits_are_the_same(ours: Unified, theirs: Any) -> None:
    equal_logits(ours, theirs)


def drawn(theirs: Any, processor: Any, prompts: list[str]) -> list[list[int]]:
    """Greedy codes with guidance 5, as transformers draws them; one prompt at a time."""
    out = []
    for prompt in prompts:
        given = processor(text=TOLD.format(prompt), generation_mode="image", return_tensors="pt")
        made = theirs.generate(
            **given, generation_mode="image", do_sample=False, guidance_scale=5.0
        )
        out.append(made[0].tolist())
    return out


PROMPTS = ["Two dogs.", "A red circle and a cat at night", "yellow stars"]


def equal_pictures(ours: Unified, theirs: Any, processor: Any, prompts: list[str]) -> None:
    """The same codes, drawn greedily with guidance 5, and the same pixels within 1e-4."""
    wanted = drawn(theirs, processor, prompts)
    assert len({tuple(codes) for codes in wanted}) == len(prompts)
    assert all(len(set(codes)) > 3 for codes in wanted)
    replies = ours._draw("only", prompts, 1, 0, 32, None, {"temperature": 0.0})
    vocabulary = ours.layout.vocabulary
    for reply, codes in zip(replies, wanted, strict=True):
        marks = vocabulary.control("image"), vocabulary.control("image_end")
        assert (reply.ids[0], reply.ids[-1]) == marks
        assert vocabulary.image_codes(reply.ids[1:-1]) == codes
        pixels = theirs.decode_image_tokens(torch.tensor([codes]))[0].permute(2, 0, 1)
        torch.testing.assert_close(reply.pictures[0], pixels.clamp(-1, 1), atol=1e-4, rtol=0)


def test_drawing_gives_the_same_codes_and_pixels(
    ours: Unified, theirs: Any, processor: Any
) -> None:
    equal_pictures(ours, theirs, processor, PROMPTS)


def equal_answers(ours: Unified, theirs: Any, processor: Any, most: int) -> None:
    """The same greedy ids and words; the longest answer has `most` ids."""
    vocabulary = ours.layout.vocabulary
    never = [[i] for name, i in vocabulary.controls.items() if name != "end"]
    lengths = []
    for question in ("What is in the picture?", "How many dogs?", "Where is the cat?"):
        given = processor(text=ASKED.format(question), images=[photo()], return_tensors="pt")
        made = theirs.generate(**given, max_new_tokens=most, do_sample=False, bad_words_ids=never)
        wanted = made[0, given["input_ids"].shape[1] :].tolist()
        prompt = ours._fit(shown(question, photo()), most + 9, "view")[0]
        request = replace(ours._request(prompt, 0, most + 9, {}), draw="never")
        found = ours.engine.run([request])[0].ids
        assert found[: len(wanted)] == wanted
        text = processor.decode(found, skip_special_tokens=True)
        assert ours.ask(photo(), question, most=most + 9) == text.strip()
        lengths.append(len(wanted))
        if lengths[-1] == most:
            return
    raise AssertionError(f"answers of {lengths} ids")


def test_answers_are_the_same(ours: Unified, theirs: Any, processor: Any) -> None:
    equal_answers(ours, theirs, processor, 40)


@pytest.mark.slow
@pytest.mark.skipif("UNIFIED_LARGE" not in os.environ, reason="minutes: set UNIFIED_LARGE=1")
def test_a_large_one_is_the_same(tmp_path: Path) -> None:
    """UNIFIED_LARGE=1 pytest tests/test_family_janus.py -k large"""
    folder = save(tmp_path / "large", shard="200MB", sizes=LARGE)
    theirs = JanusForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    ours, processor = unified.load(folder, device="cpu"), JanusProcessor.from_pretrained(folder)
    equal_logits(ours, theirs)
    equal_pictures(ours, theirs, processor, PROMPTS[:1])
    equal_answers(ours, theirs, processor, 128)


def test_shards_and_tied_heads_load(tmp_path: Path, ours: Unified) -> None:
    same(ours, unified.load(save(tmp_path / "shards", shard="100KB"), device="cpu"))
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    model = unified.load(save(tmp_path / "tied", tied=True), device="cpu").model
    assert "lm_head.weight" not in load_file(tmp_path / "tied/model.safetensors")
    assert torch.equal(model.text_head.weight, model.get_input_embeddings().weight)


def test_a_chat_draws_what_is_demanded(
    source: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("/draw a cat\n"))
    assert cli.run(["chat", "--model", str(source), "--save", str(tmp_path)]) == 0
    assert "picture saved" in capsys.readouterr().out
    forced = ["generate", "a cat", "--force", "--model", str(source), "-o", str(tmp_path / "x.png")]
    assert cli.run(forced) == 0
    one, other = (Image.open(tmp_path / name).tobytes() for name in ("chat-1.png", "x.png"))
    assert one == other


def test_the_doctor_looks_at_a_published_model(source: Path, capsys: Any) -> None:
    cli.run(["doctor", "--model", str(source), "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["weights"]["status"] == "ok" and "published" in checks["weights"]["found"]
    assert checks["drawing"]["status"] == "ok", checks["drawing"]


def test_converted_and_exported_it_is_the_same(
    source: Path, ours: Unified, theirs: Any, processor: Any, tmp_path: Path, capsys: Any
) -> None:
    own, back, beside = tmp_path / "own", tmp_path / "back", tmp_path / "own.tmp"
    beside.mkdir()
    (beside / "notes").write_text("mine")
    assert cli.run(["convert", str(source), str(own)]) == 0
    assert (beside / "notes").read_text() == "mine"
    same(ours, unified.load(own, device="cpu"))
    assert cli.run(["convert", str(own), str(back), "--to", "transformers"]) == 0
    again = JanusForConditionalGeneration.from_pretrained(back).eval()
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    theirs_again = JanusProcessor.from_pretrained(back)
    assert drawn(again, theirs_again, PROMPTS) == drawn(theirs, processor, PROMPTS)
    asked = {"text": ASKED.format("Two?"), "images": [photo(50, 30)], "return_tensors": "pt"}
    for key, value in processor(**asked).items():
        assert torch.equal(value, theirs_again(**asked)[key]), key
    assert theirs_again.chat_template == processor.chat_template
    same(ours, unified.load(back, device="cpu"))
    capsys.readouterr()
    assert cli.run(["convert", str(source), str(own)]) == 2
    assert "there is something already" in capsys.readouterr().err


def test_auto_classes_open_what_was_converted(source: Path, ours: Unified, tmp_path: Path) -> None:
    ours.save(tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    assert isinstance(model.encoder, JanusEncoder)
    found = AutoProcessor.from_pretrained(tmp_path)
    assert found.layout == ours.layout
    assert found.tokenizer.ids("Two dogs.") == ours.processor.tokenizer.ids("Two dogs.")
    assert torch.equal(
        found.image_processor.pixels(photo(9, 40)),
        ours.processor.image_processor.pixels(photo(9, 40)),
    )


def original(source: Path, folder: Path) -> Path:
    """The same checkpoint in the layout of the original repository."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    state = {}
    for key, value in load_file(source / "model.safetensors").items():
        for new, old in BACK:
            key = re.sub(new, old, key)
        if key.endswith("pos_embed"):
            value = value[None]
        state[key] = value.contiguous()
    for key in [key for key in state if ".attn.q_proj." in key]:
        parts = [state.pop(key.replace("q_proj", f"{x}_proj")) for x in "qkv"]
        state[key.replace("q_proj", "qkv")] = torch.cat(parts)
    state["vision_model.vision_tower.attn_pool.latent"] = torch.zeros(1, 1, 32)
    state["gen_vision_model.quantize.codebook_used"] = torch.zeros(9)
    state["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    save_file(state, folder / "model.safetensors")
    text = json.loads((source / "config.json").read_text())["text_config"]
    config = {
        "model_type": "multi_modality",
        "language_config": text,
        "vision_config": {"params": {"model_name": "siglip_tiny", "image_size": SIDE}},
        "aligner_config": {"params": {"depth": 2, "n_embed": 64}},
        "gen_vision_config": {"cls": "VQ-tiny", "params": {"image_token_size": 96, "n_embed": 8}},
        "gen_aligner_config": {"params": {"depth": 2, "n_embed": 64}},
        "gen_head_config": {"params": {"image_token_embed": 64}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


BACK = (
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.vision_model\.embeddings\.position_embedding\.weight",
     "vision_model.vision_tower.pos_embed"),
    (r"^model\.vision_model\.embeddings\.patch_embedding",
     "vision_model.vision_tower.patch_embed.proj"),
    (r"^model\.vision_model\.post_layernorm", "vision_model.vision_tower.norm"),
    (r"^model\.vision_model\.encoder\.layers\.", "vision_model.vision_tower.blocks."),
    (r"\.self_attn\.projection_layer\.", ".attn.proj."),
    (r"^(vision_model.*)\.self_attn\.", r"\1.attn."),
    (r"^(vision_model.*)\.layer_norm", r"\1.norm"),
    (r"^model\.aligner\.fc1", "aligner.layers.0"),
    (r"^model\.aligner\.hidden_layers\.0", "aligner.layers.2"),
    (r"^model\.generation_embeddings", "gen_embed"),
    (r"^model\.generation_aligner\.fc1", "gen_aligner.layers.0"),
    (r"^model\.generation_aligner\.hidden_layers\.0", "gen_aligner.layers.2"),
    (r"^model\.generation_head\.proj_out", "gen_head.output_mlp_projector"),
    (r"^model\.generation_head\.", "gen_head."),
    (r"^model\.vqmodel\.", "gen_vision_model."),
    (r"^(gen_vision_model\.\w+)\.(?:down|up)\.(\d+)\.block\.", r"\1.conv_blocks.\2.res."),
    (r"^(gen_vision_model\.\w+)\.(?:down|up)\.", r"\1.conv_blocks."),
    (r"\.mid\.block_1\.", ".mid.0."),
    (r"\.mid\.attn_1\.", ".mid.1."),
    (r"\.mid\.block_2\.", ".mid.2."),
)  # fmt: skip


@pytest.fixture
def tiny_parts(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original configuration only names its encoder and codec: small ones have names, too."""
    made = JanusConfig.from_pretrained(source)
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    tower = {key: getattr(made.vision_config, key) for key in keys}
    codec = {
        key: getattr(made.vq_config, key)
        for key in ("latent_channels", "base_channels", "channel_multiplier", "num_res_blocks")
    }
    monkeypatch.setitem(janus_family.TOWERS, "siglip_tiny", tower)
    monkeypatch.setitem(janus_family.CODECS, "VQ-tiny", codec)


@pytest.mark.usefixtures("tiny_parts")
def test_the_original_layout_is_the_same(source: Path, ours: Unified, tmp_path: Path) -> None:
    same(ours, unified.load(original(source, tmp_path / "original"), device="cpu"))


@pytest.mark.usefixtures("tiny_parts")
def test_the_files_beside_the_original_weights_say_the_same(
    source: Path, ours: Unified, tmp_path: Path
) -> None:
    """The original processor does not name its system prompt, nor the id that guidance pads with:
    its own code does, by <pad>'s spelling, whatever the tokenizer's pad_token is."""
    folder = original(source, tmp_path / "original")
    for name in ("generation_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    pixels = {"image_processor_type": "VLMImageProcessor", "image_size": SIDE, "min_size": 14,
              "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": True}  # fmt: skip
    words = {"processor_class": "VLChatProcessor", "sft_format": "deepseek"}
    marks = {"tokenizer_class": "LlamaTokenizerFast", "bos_token": BOS, "eos_token": EOS,
             "pad_token": EOS}  # fmt: skip
    files = {"preprocessor": pixels, "processor": words, "tokenizer": marks}
    for name, values in files.items():
        (folder / f"{name}_config.json").write_text(json.dumps(values))
    same(ours, unified.load(folder, device="cpu"))


def pickled(source: Path, folder: Path, shards: int) -> Path:
    """The same checkpoint with its weights as pickles, as old checkpoints are."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    state = load_file(source / "model.safetensors")
    (folder / "training_args.bin").write_bytes(b"of whom it was tuned by; never read")
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    keys = sorted(state)
    placed: dict[str, str] = {}
    for number in range(shards):
        name = f"pytorch_model-{number}.bin"
        part = {key: state[key] for key in keys[number::shards]}
        torch.save(part, folder / name)
        placed |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": placed}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_pickles_are_rewritten_where_asked_for(
    source: Path, ours: Unified, tmp_path: Path, shards: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pickled(source, tmp_path / "old", shards)
    assert cli.run(["convert", str(folder), str(tmp_path / "out")]) == 2
    assert "--from-pickles" in capsys.readouterr().err
    assert cli.run(["convert", str(folder), str(tmp_path / "out"), "--from-pickles"]) == 0
    same(ours, unified.load(tmp_path / "out", device="cpu"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "out"]
    assert not [*(tmp_path / "out").glob("*.bin")]


class Hostile:
    """Unpickled by the ordinary way, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_hostile_pickle_is_refused_and_not_run(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pickled(source, tmp_path / "old", 1)
    torch.save({"weight": Hostile(tmp_path / "ran")}, folder / "pytorch_model.bin")
    out = tmp_path / "out"
    assert cli.run(["convert", str(folder), str(out), "--from-pickles"]) == 2
    assert "pytorch_model.bin: refused" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert not out.exists()


def test_a_hub_name_is_looked_up_in_the_cache(
    source: Path, ours: Unified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--Janus-tiny"
    shutil.copytree(source, repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    same(ours, unified.load("someone/Janus-tiny", device="cpu"))
    with pytest.raises(CheckpointError, match="someone/else: no such model directory"):
        unified.load("someone/else")


@pytest.mark.parametrize(
    ("unconditional", "reread"), [("padded", False), ("padded", True), ("fresh", False)]
)
def test_cached_equals_naive_and_batched_equals_alone(
    source: Path, unconditional: str, reread: bool
) -> None:
    ours = unified.load(source, device="cpu")
    ours.model.config.reread, ours.model.config.unconditional = reread, unconditional
    mark = ours.layout.vocabulary.control("image")

    def often(head: object, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., mark] = logits.logsumexp(-1) - 0.5
        return logits

    ours.model.text_head.register_forward_hook(often)
    ours.engine = Engine(ours.model, ours.codec)
    most = 2 * ours.layout.drawn_length + 12
    prompts = [ours._fit(shown("A cat?", photo()), most, draw=True)[0]]
    prompts.append(ours._fit([{"role": "user", "content": "Hi"}], most)[0])
    batch = [ours._request(p, k, most, {"text_temperature": 1.0}) for k, p in enumerate(prompts)]
    replies = ours.engine.run(batch)
    assert max(len(reply.pictures) for reply in replies) > 1
    assert ours.engine.naive(batch[0]).ids == replies[0].ids
    for request, reply in zip(batch, replies, strict=True):
        assert ours.engine.run([request])[0].ids == reply.ids
        slots = [i for i in reply.ids if i == ours.layout.vocabulary.control("slot")]
        assert len(slots) == (GRID**2 * len(reply.pictures) if reread else 0)
        message = ours._message(reply)
        shown_parts = [part for part in message["content"] if part["type"] == "image"]
        assert len(shown_parts) == len(reply.pictures)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits_read_and_draw(source: Path, ours: Unified, dtype: torch.dtype) -> None:
    half, pixels = unified.load(source, device="cpu", dtype=dtype), ours.processor.image_processor
    assert half.model.dtype == dtype == next(half.codec.parameters()).dtype
    pictures = torch.stack([pixels.pixels(photo(seed=k)) for k in range(4)])
    agree = (half.codec.encode(pictures) == ours.codec.encode(pictures)).float().mean()
    assert agree > 0.8  # of codes; what lies between two may be either
    assert half.generate("A cat.")[0].size == (SIDE, SIDE)
    assert isinstance(half.ask(photo(), "What?", most=4), str)


def test_a_shown_picture_counts_when_drawing(ours: Unified) -> None:
    options: dict[str, Any] = {"temperature": 0.0}
    pictures = [ours.generate("The same at night.", image=i, **options)[0].tobytes()
                for i in (None, photo(), photo(seed=1))]  # fmt: skip
    assert len(set(pictures)) == 3


def test_what_was_drawn_is_seen_in_the_next_turn(ours: Unified) -> None:
    asked = {"role": "user", "content": "Draw a cat."}
    reply = ours.chat([asked], draw="now")
    assert [part["type"] for part in reply["content"]] == ["image"]
    prompt = ours._fit([asked, reply, {"role": "user", "content": "What is it?"}], 100)[0]
    assert prompt.views is not None and len(prompt.views) == 1
    again = ours.chat_batch([[asked, reply, asked], [asked]], most=40, text_temperature=1.0)
    assert len(again) == 2


@pytest.mark.usefixtures("tiny_parts")
def test_what_the_original_configuration_does_not_say_is_named(
    source: Path, tmp_path: Path
) -> None:
    folder = original(source, tmp_path / "original")
    values = json.loads((folder / "config.json").read_text())
    for part, change, words in (
        ("gen_vision_config", {}, r"config\.json: gen_vision_config\.cls is ''; .* VQ-16"),
        ("vision_config", {"params": {"model_name": "vit"}},
         r"config\.json: vision_config\.params\.model_name is 'vit'; .* siglip_large"),
        ("aligner_config", {"params": {}}, r"config\.json: no 'n_embed'"),
    ):  # fmt: skip
        (folder / "config.json").write_text(json.dumps(values | {part: change}))
        with pytest.raises(CheckpointError, match=words):
            unified.load(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "bert"}, r"config\.json: model_type 'bert' .* known are janus"),
        ({"model_type": "Emu3"}, r"config\.json: model_type 'Emu3' .*; BAAI/Emu3-Chat-hf"),
        ({"image_token_id": 7}, r"tokenizer\.json: .* has id 5; .*image_token_id is 7"),
        ({"text_config__vocab_size": 300}, r"tokenizer\.json: token .* has id 3[0-9]+; .* 300"),
        ({"text_config__vocab_size": 420},
         r"model\.safetensors: \S+ has shape \(400, 64\), .* \(420, 64\)"),
        ({"vision_config__num_hidden_layers": 1},
         r"model\.safetensors: \S+layers\.1\S+ has no place"),
        ({"text_config__num_hidden_layers": 4}, r"model\.safetensors: no tensor '\S+layers\.3"),
        ({"text_config__model_type": "gpt2"}, r"config\.json: .* 'gpt2' is not supported"),
        ({"vision_config__depth": 3}, r"config\.json: an aligner of depth 3"),
        ({"vision_config__num_image_tokens": 9}, r"config\.json: vision_config\.num_image_tokens"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    source: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        unified.load(broken(source, tmp_path / "broken", **changes))


def test_missing_files_are_named(source: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "shards", shard="100KB")
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    shard = folder / names[1]
    shard.rename(folder / "away")
    with pytest.raises(CheckpointError, match=rf"{names[1]}: missing; .* places \S+ and others"):
        unified.load(folder)
    shard.write_bytes((folder / "away").read_bytes()[:99])
    with pytest.raises(CheckpointError, match=f"{names[1]}: damaged"):
        unified.load(folder)
    plain = broken(source, tmp_path / "plain")
    (plain / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="neither model.safetensors nor"):
        unified.load(plain)
    (plain / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pytorch_model.bin: a pickle.*as safetensors"):
        unified.load(plain)
    meta = tmp_path / "meta"
    meta.mkdir()
    (meta / "consolidated.00.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match="consolidated weights without a config.json"):
        unified.load(meta)
    bare = broken(source, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer.json: missing"):
        unified.load(bare)


def test_only_a_family_is_exported(ours: Unified, tmp_path: Path) -> None:
    ours.model.config.family = None
    try:
        with pytest.raises(CheckpointError, match="of no published family"):
            ours.export(tmp_path / "out")
    finally:
        ours.model.config.family = "janus"
