"""Emu3 checkpoints on our own modules: the same numbers, ids and pictures as transformers' own.

The checkpoint is small and random, made with transformers' classes in the published layout.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoProcessor,
    Emu3Config,
    Emu3ForConditionalGeneration,
    Emu3ImageProcessor,
    Emu3Processor,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

import unified
from tests.published import broken, photo, same, shown
from unified import cli
from unified.checkpoint import CheckpointError
from unified.engine import Engine
from unified.grammar import Grammar
from unified.handle import Unified
from unified.sequence import Frame, Layout, Picture, Text, Turn
from unified.vocabulary import Vocabulary

SIDE, GRID, CODES = 32, 4, 40  # pixels and codes a side of a picture; codes of the codebook
EXTRA = {
    "image_token": "<image>", "boi_token": "<|image start|>", "eoi_token": "<|image end|>",
    "image_wrapper_token": "<|image token|>", "eof_token": "<|extra_201|>",
}  # fmt: skip
PAD, EOL, BOS, EOS = "<|endoftext|>", "<|extra_200|>", "<|extra_203|>", "<|extra_204|>"
LINES = ["You are a helpful assistant. USER: What is in the picture? ASSISTANT: Two dogs, a cat."]


SMALL: dict[str, Any] = {
    "text": {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
             "initializer_range": 0.2},
    "side": SIDE, "grid": GRID, "codes": CODES,
}  # fmt: skip
LARGE: dict[str, Any] = {  # about 190 million parameters in the decoder, pictures of 576 codes
    "text": {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816,
             "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 16,
             "max_position_embeddings": 2048, "initializer_range": 0.05},
    "side": 192, "grid": 24, "codes": 4096,
}  # fmt: skip


def text_tokenizer(count: int = CODES) -> Any:
    """A byte-level BPE with the special tokens of Emu3; codes are in another order, to see it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    codes = [f"<|visual token {c:06d}|>" for c in random.Random(0).sample(range(count), count)]
    trainer = trainers.BpeTrainer(
        vocab_size=350 + count,
        special_tokens=[PAD, EOL, BOS, EOS, *EXTRA.values(), *codes],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(LINES * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD,
        extra_special_tokens=EXTRA,
    )  # fmt: skip


def emu3(tokenizer: Any, tied: bool = False, sizes: dict[str, Any] = SMALL) -> Any:
    torch.manual_seed(0)
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = Emu3Config(
        text_config={**sizes["text"], **ids},
        vq_config={
            "codebook_size": sizes["codes"], "channel_multiplier": [1, 1, 1, 1],
            "base_channels": 32, "num_res_blocks": 1, "hidden_size": 32, "attn_resolutions": [],
        },
        vocabulary_map=tokenizer.get_vocab(),
        tie_word_embeddings=tied,
    )  # fmt: skip
    model = Emu3ForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(**ids, guidance_scale=3.0)
    return model


def save(
    folder: Path, shard: str = "5GB", tied: bool = False, sizes: dict[str, Any] = SMALL
) -> Path:
    tokenizer, area = text_tokenizer(sizes["codes"]), sizes["side"] ** 2
    emu3(tokenizer, tied, sizes).save_pretrained(folder, max_shard_size=shard)
    Emu3Processor(
        Emu3ImageProcessor(min_pixels=area, max_pixels=area),
        tokenizer,
        chat_template="never {{ run }}",
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("emu3"))


@pytest.fixture(scope="module")
def theirs(source: Path) -> Any:
    return Emu3ForConditionalGeneration.from_pretrained(source, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor(source: Path) -> Any:
    return Emu3Processor.from_pretrained(source)


@pytest.fixture(scope="module")
def ours(source: Path) -> Unified:
    return unified.load(source, device="cpu")


def rows(theirs: Any) -> list[int]:
    """The published id of every code, by transformers."""
    ids: list[int] = theirs.vocabulary_mapping.img2bpe_mapping_tensor.tolist()
    return ids


def in_theirs(ours: Unified, theirs: Any, ids: Any) -> list[int]:
    """Our ids in the published numbering."""
    start = ours.layout.vocabulary.image_start
    return [rows(theirs)[i - start] if i >= start else i for i in ids]


ASKED = "You are a helpful assistant. USER: <image>{} ASSISTANT:"


@pytest.mark.parametrize("side", [SIDE, 70, 17])
def test_a_question_is_the_same_prompt(
    ours: Unified, theirs: Any, processor: Any, side: int
) -> None:
    image = photo(side, side)
    given = processor(text=ASKED.format("What is it?"), images=[image], return_tensors="pt")
    prompt = ours._fit(shown("What is it? \n", image), 100)[0]
    assert prompt.views is None
    wanted = given["input_ids"][0].clone()
    slots = wanted == processor.image_token_id
    found = theirs.model.get_image_tokens(given["pixel_values"], given["image_sizes"])
    wanted[slots] = found.to(wanted.dtype)
    assert len(set(found.tolist())) > 4
    assert in_theirs(ours, theirs, prompt.ids) == wanted.tolist()


def test_a_picture_demanded_is_the_same_prompt(ours: Unified, processor: Any) -> None:
    given = processor(text="A cat.", return_for_image_generation=True, image_area=SIDE**2)
    prompt = ours._fit([{"role": "user", "content": "A cat."}], 9, draw=True)[0]
    control, frame = ours.layout.vocabulary.control, ours.layout.frame
    assert [*prompt.ids, control("image"), *frame.opening] == given["input_ids"][0]


def test_pictures_have_a_frame(ours: Unified) -> None:
    layout, codes = ours.layout, tuple(range(GRID**2))
    control = layout.vocabulary.control
    flat = layout.flatten([Turn("assistant", (Picture(codes, view=False), Text((350,))))])
    assert [i for i, loss in zip(flat.ids, flat.loss, strict=True) if loss] == [
        control("image"), *layout.vocabulary.image_ids(list(codes)), 350, control("end")
    ]  # fmt: skip
    assert flat.ids.count(control("row_end")) == GRID
    assert len(flat) == layout.drawn_length + 3
    grammar = Grammar(layout)
    for token in flat.ids:
        if grammar.due is not None:
            with pytest.raises(ValueError, match="where .* is due in a picture"):
                grammar.advance(layout.vocabulary.image_start)
            assert grammar.head is None and grammar.forced == token
            assert grammar.choices() == [range(token, token + 1)]
        elif grammar.head == "image":
            with pytest.raises(ValueError, match="<row_end> may not stand in state 'codes'"):
                grammar.advance(control("row_end"))
        grammar.advance(token)
    assert grammar.is_complete
    with pytest.raises(ValueError, match="6 codes do not make rows of 4"):
        Frame(row=4).written(6)


def test_a_frame_round_trips_where_roles_are_tokens() -> None:
    frame = Frame(opening=(7, 8), row=2, row_end=(9,), closing=(7,))
    layout = Layout(Vocabulary(10, 5), (5,), (0,) * 4, 2, frame=frame)
    turns = [
        Turn("user", (Text((1,)), Picture((1, 2, 3, 4)))),
        Turn("assistant", (Picture((0, 0, 0, 0), view=False), Text((2,)))),
    ]
    assert layout.parse(layout.flatten(turns).ids) == turns


def equal_logits(ours: Unified, theirs: Any, side: int = SIDE) -> None:
    """Within 1e-4, of codes and of words."""
    prompt = ours._fit(shown("What is in the picture?", photo(side, side)), 100)[0]
    ids = list(prompt.ids)
    with torch.inference_mode():
        wanted = theirs(input_ids=torch.tensor([in_theirs(ours, theirs, ids)])).logits
        found = ours.model(torch.tensor([ids])).hidden
        image, text = ours.model.image_logits(found), ours.model.text_logits(found)
    assert wanted.std() > 0.3
    torch.testing.assert_close(image, wanted[..., rows(theirs)], atol=1e-4, rtol=0)
    for part in ours.layout.vocabulary.text_ranges:
        one, two = (logits[..., part.start : part.stop] for logits in (text, wanted))
        torch.testing.assert_close(one, two, atol=1e-4, rtol=0)


def test_logits_are_the_same(ours: Unified, theirs: Any) -> None:
    equal_logits(ours, theirs)


def equal_answers(ours: Unified, theirs: Any, processor: Any, most: int, side: int = SIDE) -> None:
    """Greedy answers to questions about a picture, until one has all but a tenth of `most` ids."""
    vocabulary, lengths = ours.layout.vocabulary, []
    never = [[i] for name, i in vocabulary.controls.items() if name != "end"]
    never += [[i] for i in rows(theirs)]
    for question in ("What is in the picture?", "How many dogs?", "Where is the cat?", "Why?"):
        given = processor(
            text=ASKED.format(question), images=[photo(side, side)], return_tensors="pt"
        )
        made = theirs.generate(
            **given, max_new_tokens=most, do_sample=False, bad_words_ids=never, guidance_scale=None
        )
        wanted = made[0, given["input_ids"].shape[1] :].tolist()
        prompt = ours._fit(shown(question, photo(side, side)), most + 9, "view")[0]
        request = replace(ours._request(prompt, 0, most + 9, {}), draw="never")
        found = ours.engine.run([request])[0].ids
        assert found[: len(wanted)] == wanted
        lengths.append(len(wanted))
        if lengths[-1] >= 0.9 * most:
            return
    raise AssertionError(f"answers of {lengths} ids")


def test_answers_are_the_same(ours: Unified, theirs: Any, processor: Any) -> None:
    equal_answers(ours, theirs, processor, 40)


PROMPTS = ["Two dogs.", "A red circle and a cat at night"]


def drawn(theirs: Any, processor: Any, prompt: str, scale: float, grid: int = GRID) -> list[int]:
    """Greedy ids of a picture as transformers draws it: the published use, its grammar by hand."""
    area, codes, length = (grid * SIDE // GRID) ** 2, rows(theirs), (grid + 1) * grid
    extra = {"return_for_image_generation": True, "image_area": area, "return_tensors": "pt"}
    given, empty = (processor(text=text, **extra) for text in (prompt, ""))
    marks = [EOL, EXTRA["eof_token"], EXTRA["eoi_token"]]
    end, last, over = processor.tokenizer.convert_tokens_to_ids(marks)
    start = given["input_ids"].shape[1]

    def may(_: int, ids: torch.Tensor) -> list[int]:
        place = len(ids) - start
        if place >= length:
            return [last] if place == length else [over]
        return [end] if place % (grid + 1) == grid else codes

    made = theirs.generate(
        given["input_ids"], max_new_tokens=length + 2, do_sample=False,
        prefix_allowed_tokens_fn=may, guidance_scale=scale,
        negative_prompt_ids=empty["input_ids"],
        negative_prompt_attention_mask=empty["attention_mask"],
    )  # fmt: skip
    return made[0, start:].tolist()  # type: ignore[no-any-return]


def equal_pictures(
    ours: Unified, theirs: Any, processor: Any, prompts: list[str], scale: float, grid: int = GRID
) -> None:
    """The same ids, and pixels within 1e-4."""
    wanted = [drawn(theirs, processor, prompt, scale, grid) for prompt in prompts]
    assert wanted[0] != wanted[-1] or len(prompts) == 1
    assert all(len(set(ids)) > 6 for ids in wanted)
    options = {"temperature": 0.0, "guidance_scale": scale}
    replies = ours._draw("only", prompts, 1, 0, 32, None, options)
    opening = 1 + len(ours.layout.frame.opening)
    for reply, ids in zip(replies, wanted, strict=True):
        assert in_theirs(ours, theirs, reply.ids[opening:]) == ids
        whole = torch.tensor([[*ids, 0]])  # it cuts off three: the frame's last, and <end>
        out = theirs.model.decode_image_tokens(whole, height=grid, width=grid)[0].detach()
        mean, std = (torch.tensor(getattr(processor.image_processor, key))[:, None, None]
                     for key in ("image_mean", "image_std"))  # fmt: skip
        pixels = (2 * (out * std + mean) - 1).clamp(-1, 1)
        torch.testing.assert_close(reply.pictures[0], pixels, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_drawing_gives_the_same_ids_and_pixels(
    ours: Unified, theirs: Any, processor: Any, scale: float
) -> None:
    equal_pictures(ours, theirs, processor, PROMPTS, scale)


@pytest.mark.slow
@pytest.mark.skipif("UNIFIED_LARGE" not in os.environ, reason="minutes: set UNIFIED_LARGE=1")
def test_a_large_one_is_the_same(tmp_path: Path) -> None:
    """UNIFIED_LARGE=1 pytest tests/test_family_emu3.py -k large"""
    folder = save(tmp_path / "large", shard="200MB", sizes=LARGE)
    theirs = Emu3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    ours, processor = unified.load(folder, device="cpu"), Emu3Processor.from_pretrained(folder)
    equal_logits(ours, theirs, LARGE["side"])
    equal_answers(ours, theirs, processor, 128, LARGE["side"])
    equal_pictures(ours, theirs, processor, PROMPTS[:1], 5.0, LARGE["grid"])


@pytest.mark.parametrize("unconditional", ["fresh", "padded"])
def test_cached_equals_naive_and_batched_equals_alone(source: Path, unconditional: str) -> None:
    ours = unified.load(source, device="cpu")
    ours.model.config.unconditional = unconditional
    mark = ours.layout.vocabulary.control("image")

    def likely(head: object, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., mark] = logits.logsumexp(-1) - 0.5
        return logits

    ours.model.text_head.register_forward_hook(likely)
    ours.engine = Engine(ours.model, ours.codec)
    most = 2 * ours.layout.drawn_length + 12
    prompts = [ours._fit(shown("A cat?", photo(SIDE, SIDE)), most, draw=True)[0]]
    prompts.append(ours._fit([{"role": "user", "content": "Hi"}], most)[0])
    batch = [ours._request(p, k, most, {"text_temperature": 1.0}) for k, p in enumerate(prompts)]
    replies = ours.engine.run(batch)
    assert max(len(reply.pictures) for reply in replies) > 1
    assert ours.engine.naive(batch[0]).ids == replies[0].ids
    frame = ours.processor.tokenizer.text(ours.layout.frame.opening)
    assert frame == f"{GRID}*{GRID}"
    for request, reply in zip(batch, replies, strict=True):
        assert ours.engine.run([request])[0].ids == reply.ids
        parts = ours._message(reply)["content"]
        assert [p["type"] for p in parts].count("image") == len(reply.pictures)
        words = "".join(part["text"] for part in parts if part["type"] == "text")
        assert frame not in words


def test_half_precision_reads_and_draws(source: Path) -> None:
    ours = unified.load(source, device="cpu", dtype=torch.bfloat16)
    assert isinstance(ours.ask(photo(SIDE, SIDE), "What?", most=5), str)
    (picture,) = ours.generate("A cat.", image=photo(SIDE, SIDE))
    assert picture.size == (SIDE, SIDE)


def test_shards_tied_heads_and_older_names_load(
    source: Path, tmp_path: Path, ours: Unified
) -> None:
    same(ours, unified.load(save(tmp_path / "shards", shard="100KB"), device="cpu"))
    model = unified.load(save(tmp_path / "tied", tied=True), device="cpu").model
    assert torch.equal(model.text_head.weight, model.get_input_embeddings().weight)
    older = broken(source, tmp_path / "older")
    state = {}
    for key, value in load_file(source / "model.safetensors").items():
        for new, old in (("lm_head.", "text_model.lm_head."), ("model.vqmodel.", "vqmodel."),
                         ("model.text_model.", "text_model.model.")):  # fmt: skip
            key = old + key.removeprefix(new) if key.startswith(new) else key
        state[key] = value
    save_file(state, older / "model.safetensors")
    same(ours, unified.load(older, device="cpu"))


def test_converted_and_exported_it_is_the_same(
    source: Path, ours: Unified, theirs: Any, processor: Any, tmp_path: Path
) -> None:
    own, back = tmp_path / "own", tmp_path / "back"
    assert cli.run(["convert", str(source), str(own)]) == 0
    same(ours, unified.load(own, device="cpu"))
    assert AutoProcessor.from_pretrained(own).layout == ours.layout
    assert cli.run(["convert", str(own), str(back), "--to", "transformers"]) == 0
    again = Emu3ForConditionalGeneration.from_pretrained(back).eval()
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    theirs_again = Emu3Processor.from_pretrained(back)
    assert drawn(again, theirs_again, "A", 3.0) == drawn(theirs, processor, "A", 3.0)
    asked = {"text": ASKED.format("Two?"), "images": [photo(50, 30)], "return_tensors": "pt"}
    for key, value in processor(**asked).items():
        assert torch.equal(value, theirs_again(**asked)[key]), key
    assert theirs_again.chat_template == processor.chat_template
    same(ours, unified.load(back, device="cpu"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocabulary_map": None}, r"config\.json: no full set of picture codes"),
        ({"vq_config__codebook_size": 30}, r"config\.json: 40 codes .* vq_config has 30"),
        ({"text_config__vocab_size": 300}, r"tokenizer\.json: token .* has id 3[0-9]+; .* 300"),
        ({"text_config__num_hidden_layers": 4}, r"model\.safetensors: no tensor '\S+layers\.3"),
        ({"text_config__num_hidden_layers": 1}, r"model\.safetensors: \S+layers\.1\S+ has no"),
        (
            {"vq_config__channel_multiplier": [1, 1, 1]},
            r"spatial_factor of pictures is 8; .* has 4",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    source: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        unified.load(broken(source, tmp_path / "broken", **changes))
