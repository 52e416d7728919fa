"""Chameleon and Anole checkpoints on our own modules: numbers and ids as transformers' own.

The checkpoints are small and random, made with transformers' classes in the published layout;
Anole's has the codec's decoder beside it.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoProcessor,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonProcessor,
    DynamicCache,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

import unified
from tests.published import broken, photo, same, shown
from unified import cli
from unified.checkpoint import CheckpointError
from unified.engine import Engine
from unified.grammar import Grammar
from unified.handle import Unified
from unified.sequence import Layout, Picture, Text, Turn
from unified.tokenizers.chameleon import ChameleonVQ
from unified.tokenizers.published import ChameleonCodec
from unified.vocabulary import Vocabulary

SIDE, GRID, CODES = 20, 5, 24  # pixels and codes a side of a picture; codes of the codebook
SEP, BOI, EOI = "<reserved08706>", "<racm3:break>", "<eoss>"
LINES = ["What is in the picture? A red circle, two dogs and a cat at night.", "Here they are."]


SMALL: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "initializer_range": 0.2,
}  # fmt: skip
LARGE: dict[str, Any] = {  # about 190 million parameters in the decoder
    "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12,
    "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 2048,
    "initializer_range": 0.05,
}  # fmt: skip
LARGE_SIDE, LARGE_GRID = 96, 24  # pictures of 576 codes


def code_name(code: int) -> str:
    return "IMGIMG" + "".join("ABCDEFGHIJ"[int(digit)] for digit in str(code)) + "Z"


def text_tokenizer() -> Any:
    """A byte-level BPE with the special tokens of Chameleon, its codes in another order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    codes = [code_name(code) for code in random.Random(0).sample(range(CODES), CODES)]
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", *codes, EOI, BOI, SEP, "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(LINES * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", sep_token=SEP,
    )  # fmt: skip


def chameleon(tokenizer: Any, side: int = SIDE, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = ChameleonConfig(
        **{
            **SMALL, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
            "vq_config": {
                "num_embeddings": CODES, "channel_multiplier": [1, 1, 1], "embed_dim": 8,
                "latent_channels": 32, "base_channels": 32, "num_res_blocks": 1,
                "resolution": side, "initializer_range": 0.2,
            },
            "vocabulary_map": tokenizer.get_vocab(),
            **changes,
        }
    )  # fmt: skip
    model = ChameleonForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        if "_norm." in name and "self_attn" in name:  # each head has its own
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=2, pad_token_id=1)
    return model


def save(
    folder: Path, shard: str = "5GB", draws: bool = True, side: int = SIDE, **changes: Any
) -> Path:
    tokenizer = text_tokenizer()
    model = chameleon(tokenizer, side, **changes)
    if draws:
        model.config.vq_config.out_channels = 3
        codec = ChameleonVQ(model.config.vq_config).eval()
        codec.load_state_dict(model.model.vqmodel.state_dict(), strict=False)
        model.model.vqmodel = codec
    model.save_pretrained(folder, max_shard_size=shard)
    ChameleonProcessor(
        ChameleonImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer,
        image_seq_length=(side * GRID // SIDE) ** 2,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("anole"))


@pytest.fixture(scope="module")
def theirs(source: Path) -> Any:
    return ChameleonForConditionalGeneration.from_pretrained(source, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor(source: Path) -> Any:
    return processor_of(source)


def processor_of(folder: Path) -> Any:
    """transformers' own, with the picture processing that needs no torchvision."""
    made = ChameleonProcessor.from_pretrained(folder)
    made.image_processor = ChameleonImageProcessorPil.from_pretrained(folder)
    return made


@pytest.fixture(scope="module")
def ours(source: Path) -> Unified:
    return unified.load(source, device="cpu")


def order(theirs: Any) -> list[int]:
    """The published id of every code, by transformers."""
    codes = torch.arange(CODES)
    return theirs.model.vocabulary_mapping.img2bpe_mapping_tensor[codes].tolist()  # type: ignore


def in_theirs(ours: Unified, theirs: Any, ids: Any) -> list[int]:
    """Our ids in the published numbering."""
    start = ours.layout.vocabulary.image_start
    return [order(theirs)[i - start] if i >= start else i for i in ids]


@pytest.mark.parametrize("size", [(SIDE, SIDE), (61, 30), (9, 40)])
def test_a_question_is_the_same_prompt(
    ours: Unified, theirs: Any, processor: Any, size: Any
) -> None:
    image = photo(*size)
    given = processor(text="<image>What is it?", images=[image], return_tensors="pt")
    prompt = ours._fit(shown("What is it? \n", image), 100)[0]
    assert prompt.views is None
    wanted = given["input_ids"][0].clone()
    slots = wanted == theirs.model.vocabulary_mapping.image_token_id
    wanted[slots] = theirs.get_image_tokens(given["pixel_values"])[0].to(wanted.dtype)
    assert len(set(wanted[slots].tolist())) > 3
    assert in_theirs(ours, theirs, prompt.ids) == wanted.tolist()


def test_a_conversation_is_the_same_prompt(ours: Unified, processor: Any) -> None:
    said = [
        {"role": "user", "content": "Hello.\n"},
        {"role": "assistant", "content": "Two dogs."},
        {"role": "user", "content": "A cat?"},
    ]
    text = f"Hello.{SEP}Two dogs.</s>A cat?"
    assert list(ours._fit(said, 100)[0].ids) == processor(text=text)["input_ids"][0].tolist()


def test_codes_alone_and_their_published_ids(ours: Unified) -> None:
    layout, codes = ours.layout, tuple(range(CODES))
    vocabulary, control = layout.vocabulary, layout.vocabulary.control
    picture = Picture((codes * 2)[: GRID**2], view=False)
    flat = layout.flatten([Turn("assistant", (picture, Text((300,))))])
    grammar = Grammar(layout)
    for token in flat.ids:
        grammar.advance(token)
    assert grammar.is_complete and layout.view_length == 0
    for row in vocabulary.shared_ids:
        assert vocabulary.kind(row) == "row"
        assert not any(row in choice for choice in vocabulary.text_ranges)
    grammar.advance(control("image"))
    with pytest.raises(ValueError, match="<row> may not stand in state 'codes'"):
        grammar.advance(vocabulary.shared_ids.start)
    with pytest.raises(ValueError, match="row 4 inside a text part"):
        layout.flatten([Turn("user", (Text((4,)),))])
    with pytest.raises(ValueError, match="this layout has no view"):
        layout.flatten([Turn("user", (Picture(picture.codes),))])
    with pytest.raises(ValueError, match="has no encoder"):
        ours.model.features(torch.zeros(1, 3, SIDE, SIDE))
    with pytest.raises(ValueError, match="this layout has no view"):
        Layout(vocabulary, layout.codebooks, layout.books, 0, reread=True)
    ids = dict(vocabulary.given)
    with pytest.raises(ValueError, match="'pad' is 1, which is a code's id"):
        Vocabulary.of(400, CODES, ids, 0)
    with pytest.raises(ValueError, match=r"ids 390\.\.413 of codes"):
        Vocabulary.of(400, CODES, ids, 390)


@pytest.mark.parametrize("swin", [False, True])
def test_logits_are_the_same(tmp_path: Path, swin: bool) -> None:
    folder = save(tmp_path / "model", swin_norm=swin)
    theirs = ChameleonForConditionalGeneration.from_pretrained(folder).eval()
    equal_logits(unified.load(folder, device="cpu"), theirs)


def equal_logits(ours: Unified, theirs: Any) -> None:
    """Within 1e-4, of codes and of words."""
    prompt = ours._fit(shown("What is in the picture?", photo()), 100)[0]
    control = ours.layout.vocabulary.control
    length = ours.layout.image_length
    codes = ours.layout.vocabulary.image_ids([k % CODES for k in range(length)])
    ids = [*prompt.ids, control("image"), *codes, control("image_end")]
    rows = order(theirs)
    with torch.inference_mode():
        published = torch.tensor([in_theirs(ours, theirs, ids)])
        hidden = theirs.model(input_ids=published).last_hidden_state
        full = theirs.lm_head(hidden)  # its own logits leave out those of codes
        found = ours.model(torch.tensor([ids])).hidden
        image = ours.model.image_logits(found)
        text = ours.model.text_logits(found)
        wanted = theirs(input_ids=published).logits
    assert full.std() > 0.3
    torch.testing.assert_close(image, full[..., rows], atol=1e-4, rtol=0)
    torch.testing.assert_close(text, wanted, atol=1e-4, rtol=0)


QUESTIONS = ["What is in the picture?", "How many dogs?", "Where is the cat?", "Why?"]


def equal_answers(ours: Unified, theirs: Any, processor: Any, most: int) -> None:
    """By transformers' own prompt, picture and all; until one has all but a tenth of `most` ids."""
    vocabulary, lengths = ours.layout.vocabulary, []
    never = [[i] for name, i in vocabulary.controls.items() if name != "end"]
    for question in QUESTIONS:
        given = processor(text=f"<image>{question}", images=[photo()], return_tensors="pt")
        made = theirs.generate(**given, max_new_tokens=most, do_sample=False, bad_words_ids=never)
        wanted = made[0, given["input_ids"].shape[1] :].tolist()
        prompt = ours._fit(shown(question, photo()), most + 9, "view")[0]
        request = replace(ours._request(prompt, 0, most + 9, {}), draw="never")
        found = ours.engine.run([request])[0].ids
        assert found[: len(wanted)] == wanted
        assert ours.ask(photo(), question, most=most + 9) == ours._text(found)
        lengths.append(len(wanted))
        if lengths[-1] >= 0.9 * most:
            return
    raise AssertionError(f"answers of {lengths} ids")


def test_answers_are_the_same(ours: Unified, theirs: Any, processor: Any) -> None:
    equal_answers(ours, theirs, processor, 40)


PROMPTS = ["Two dogs.", "A red circle and a cat at night"]


def drawn(theirs: Any, tokenizer: Any, prompt: str, scale: float, length: int) -> list[int]:
    """Greedy codes of transformers' decoder, against those of a picture of nothing; its own
    `generate` bars them."""
    rows, boi = order(theirs), tokenizer.convert_tokens_to_ids(BOI)
    starts = [*tokenizer(f"{prompt}{SEP}")["input_ids"], boi], [tokenizer.bos_token_id, boi]
    caches, feeds = [DynamicCache(), DynamicCache()], [list(ids) for ids in starts]
    written: list[int] = []
    for _ in range(length):
        logits = []
        for cache, feed in zip(caches, feeds, strict=True):
            with torch.inference_mode():
                made = theirs.model(input_ids=torch.tensor([feed]), past_key_values=cache)
                logits.append(theirs.lm_head(made.last_hidden_state[0, -1])[rows])
        told, untold = logits
        written.append(int((untold + scale * (told - untold)).argmax()))
        feeds = [[rows[written[-1]]]] * 2
    return written


def equal_pictures(
    ours: Unified, theirs: Any, processor: Any, prompts: list[str], scale: float
) -> None:
    length, vocabulary = ours.layout.image_length, ours.layout.vocabulary
    wanted = [drawn(theirs, processor.tokenizer, prompt, scale, length) for prompt in prompts]
    assert wanted[0] != wanted[-1] or len(prompts) == 1
    assert all(len(set(codes)) > 2 for codes in wanted)
    options = {"temperature": 0.0, "guidance_scale": scale}
    replies = ours._draw("only", prompts, 1, 0, 32, None, options)
    for reply, codes in zip(replies, wanted, strict=True):
        assert reply.ids[0] == vocabulary.control("image")
        assert reply.ids[-1] == vocabulary.control("image_end")
        assert vocabulary.image_codes(reply.ids[1:-1]) == codes


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_drawing_gives_the_same_codes(
    ours: Unified, theirs: Any, processor: Any, scale: float
) -> None:
    equal_pictures(ours, theirs, processor, PROMPTS, scale)
    assert len(ours.generate(PROMPTS, temperature=0.0)) == 2


@pytest.mark.slow
@pytest.mark.skipif("UNIFIED_LARGE" not in os.environ, reason="minutes: set UNIFIED_LARGE=1")
def test_a_large_one_is_the_same(tmp_path: Path) -> None:
    """UNIFIED_LARGE=1 pytest tests/test_family_chameleon.py -k large"""
    folder = save(tmp_path / "large", shard="200MB", side=LARGE_SIDE, **LARGE)
    theirs = ChameleonForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    ours, processor = unified.load(folder, device="cpu"), processor_of(folder)
    assert ours.layout.image_length == LARGE_GRID**2
    equal_logits(ours, theirs)
    equal_answers(ours, theirs, processor, 128)
    equal_pictures(ours, theirs, processor, PROMPTS[:1], 5.0)


def test_the_codec_reads_and_draws(ours: Unified, source: Path) -> None:
    codec = ours.codec
    codes = torch.tensor([[*range(CODES), 0][: GRID**2]])
    picture = codec.decode(codes)
    assert picture.shape == (1, 3, SIDE, SIDE) and picture.abs().max() <= 1 and picture.std() > 0
    tensors = load_file(source / "model.safetensors")
    levels = {key.split(".")[4] for key in tensors if "decoder.up." in key and "upsample" in key}
    assert levels == {"1", "2"}  # named by resolution, as Anole's are


def test_half_precision_reads_and_draws(source: Path) -> None:
    ours = unified.load(source, device="cpu", dtype=torch.bfloat16)
    assert isinstance(ours.ask(photo(), "What?", most=5), str)
    (picture,) = ours.generate("A cat.", image=photo())
    assert picture.size == (SIDE, SIDE)


def test_shards_and_tied_heads_load(tmp_path: Path, ours: Unified) -> None:
    same(ours, unified.load(save(tmp_path / "shards", shard="100KB"), device="cpu"))
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    tied = unified.load(save(tmp_path / "tied", tie_word_embeddings=True), device="cpu")
    assert "lm_head.weight" not in load_file(tmp_path / "tied/model.safetensors")
    assert torch.equal(tied.model.text_head.weight, tied.model.get_input_embeddings().weight)
    tied.export(tmp_path / "back")
    assert "lm_head.weight" not in load_file(tmp_path / "back/model.safetensors")
    same(tied, unified.load(tmp_path / "back", device="cpu"))


@pytest.mark.parametrize("draws", [True, False])
def test_converted_and_exported_it_is_the_same(
    source: Path, theirs: Any, processor: Any, tmp_path: Path, draws: bool
) -> None:
    folder = source if draws else save(tmp_path / "source", draws=False)
    own, back = tmp_path / "own", tmp_path / "back"
    assert cli.run(["convert", str(folder), str(own)]) == 0
    ours, converted = (unified.load(path, device="cpu") for path in (folder, own))
    if draws:
        same(ours, converted)
    assert converted.ask(photo(), "What?") == ours.ask(photo(), "What?")
    assert cli.run(["convert", str(own), str(back), "--to", "transformers"]) == 0
    wanted, found = (load_file(path / "model.safetensors") for path in (folder, back))
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        assert torch.equal(value, found[key]), key
    again = ChameleonForConditionalGeneration.from_pretrained(back).eval()
    assert order(again) == order(theirs)
    asked = {"text": "<image>Two?", "images": [photo(50, 30)], "return_tensors": "pt"}
    for key, value in processor(**asked).items():
        assert torch.equal(value, processor_of(back)(**asked)[key]), key


def test_auto_classes_open_what_was_converted(ours: Unified, tmp_path: Path) -> None:
    ours.save(tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    assert model.encoder is None and model.image_head is None
    found = AutoProcessor.from_pretrained(tmp_path)
    assert found.layout == ours.layout
    one, two = (p.image_processor.pixels(photo(9, 40)) for p in (found, ours.processor))
    assert torch.equal(one, two)


def test_without_a_decoder_it_reads_and_never_draws(tmp_path: Path) -> None:
    ours = unified.load(save(tmp_path / "reads", draws=False), device="cpu")
    assert isinstance(ours.codec, ChameleonCodec) and not ours.codec.decodes
    with pytest.raises(ValueError, match="cannot draw: its picture tokenizer came without"):
        ours.generate("A cat.")
    with pytest.raises(ValueError, match="no decoder in transformers"):
        ours.codec.decode(torch.zeros(1, GRID**2, dtype=torch.long))
    often(ours)
    reply = ours.chat(shown("Draw it.", photo()), most=60)
    assert all(part["type"] == "text" for part in reply["content"])


def often(ours: Unified) -> None:
    """Make opening a picture likely."""
    mark = ours.layout.vocabulary.control("image")

    def likely(head: object, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., mark] = logits.logsumexp(-1) - 0.5
        return logits

    ours.model.text_head.register_forward_hook(likely)
    ours.engine = Engine(ours.model, ours.codec)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_cached_equals_naive_and_batched_equals_alone(source: Path, scale: float) -> None:
    ours = unified.load(source, device="cpu")
    often(ours)
    most = 2 * ours.layout.drawn_length + 12
    prompts = [ours._fit(shown("A cat?", photo()), most, draw=True)[0]]
    prompts.append(ours._fit([{"role": "user", "content": "Hi"}], most)[0])
    chosen = {"text_temperature": 1.0, "guidance_scale": scale}
    batch = [ours._request(p, k, most, chosen) for k, p in enumerate(prompts)]
    replies = ours.engine.run(batch)
    assert max(len(reply.pictures) for reply in replies) > 1
    assert ours.engine.naive(batch[0]).ids == replies[0].ids
    for request, reply in zip(batch, replies, strict=True):
        assert ours.engine.run([request])[0].ids == reply.ids
        parts = ours._message(reply)["content"]
        assert [p["type"] for p in parts].count("image") == len(reply.pictures)


def test_what_was_drawn_is_seen_in_the_next_turn(ours: Unified) -> None:
    asked = {"role": "user", "content": "Draw a cat."}
    reply = ours.chat([asked], draw="now")
    (codes,) = (r for r in ours._drawn.values())
    prompt = ours._fit([asked, reply, {"role": "user", "content": "What is it?"}], 100)[0]
    image = ours.layout.vocabulary.image_ids(codes)
    assert [i for i in prompt.ids if i >= ours.layout.vocabulary.image_start] == image


def test_losses_are_those_of_transformers(ours: Unified, theirs: Any) -> None:
    ids = torch.tensor([ours._fit(shown("What is in the picture?", photo()), 9)[0].ids])
    start = ours.layout.vocabulary.image_start
    labels = ids[:, 1:].masked_fill(ids[:, 1:] >= start, -100)
    published = torch.tensor([in_theirs(ours, theirs, ids[0].tolist())])
    wanted = theirs(input_ids=published, labels=published.masked_fill(ids >= start, -100)).loss
    torch.testing.assert_close(
        ours.model(ids[:, :-1], labels=labels).text_loss, wanted, atol=1e-4, rtol=0
    )


CODE_IDS = {code_name(code): 4 + code for code in range(CODES)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocabulary_map": {}}, r"config\.json: no full set of picture codes"),
        ({"vocabulary_map": {"IMGIMGAZ": 4, "IMGIMGBZ": 6}}, r"config\.json: the ids .* do not"),
        ({"vocabulary_map": CODE_IDS}, r"tokenizer\.json: picture codes have other ids than"),
        ({"vocab_size": 300}, r"tokenizer\.json: token .* has id 3[0-9]+; .* 300"),
        ({"vocab_size": 420}, r"model\.safetensors: \S+ has shape \(400, 64\), .* \(420, 64\)"),
        ({"num_hidden_layers": 4}, r"model\.safetensors: no tensor '\S+layers\.3"),
        ({"num_hidden_layers": 1}, r"model\.safetensors: \S+layers\.1\S+ has no place"),
        ({"vq_config__num_embeddings": 9}, r"config\.json: 24 codes .*vq_config has 9"),
        ({"vq_config__resolution": 40}, r"cut to .* vq_config\.resolution is 40"),
    ],
)
def test_what_does_not_fit_is_named(
    source: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        unified.load(broken(source, tmp_path / "broken", **changes))


def test_a_missing_token_is_named(source: Path, tmp_path: Path) -> None:
    folder = broken(source, tmp_path / "broken")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace(EOI, "<other>"))
    with pytest.raises(CheckpointError, match=f"no token '{EOI}', which is the eoi_token of"):
        unified.load(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text().replace("<other>", EOI).replace(SEP, "<another>")
        (folder / name).write_text(text.replace('"sep_token"', '"other_token"'))
    with pytest.raises(CheckpointError, match="sep_token of Chameleon, is no special"):
        unified.load(folder)
