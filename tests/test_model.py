"""The model and its batches: losses, Hugging Face ways, messages."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from unified import attention
from unified.configuration import UnifiedConfig
from unified.handle import ContextError, Notice, Unified
from unified.layers import RMSNorm
from unified.modeling import IGNORE, UnifiedForConditionalGeneration, code_places
from unified.processing import UnifiedImageProcessor, UnifiedProcessor
from unified.sequence import Picture
from unified.toybox.samples import TASKS, Sample, sample
from unified.toybox.scene import render, sample_scene
from unified.train.batches import Batch, Batcher
from unified.train.conversations import POOL, Conversations, shifted


def dealt(tiny: Unified, samples: list[Sample], micro: int, **options: Any) -> list[list[Batch]]:
    made = Conversations(tiny.layout, tiny.processor.tokenizer, tiny.codec, **options)
    batcher = Batcher(tiny.layout.vocabulary, micro, None, "cpu")
    return batcher.deal(made.encode(samples, random.Random(0)), POOL)


def batches(tiny: Unified, micro: int, count: int = 8) -> list[list[Batch]]:
    samples = [sample(TASKS[k % len(TASKS)], 0, k) for k in range(count * POOL)]
    return dealt(tiny, samples, micro)


def test_loss_is_the_cross_entropy_of_each_head(tiny: Unified) -> None:
    model, start = tiny.model, tiny.layout.vocabulary.image_start
    batch = batches(tiny, 8)[0][0]
    with torch.inference_mode():
        out = model(batch.ids, batch.views, labels=batch.labels)
        hidden = model(batch.ids, batch.views).hidden
        total, count = 0.0, 0
        for row, labels in zip(hidden, batch.labels, strict=True):
            for state, label in zip(row, labels.tolist(), strict=True):
                if label == IGNORE:
                    continue
                head = model.image_head if label >= start else model.text_head
                target = torch.tensor(label - start if label >= start else label)
                total += float(F.cross_entropy(head(state), target))
                count += 1
    assert out.loss.item() == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fast_norm_is_the_decoders_own(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    reference = Qwen3RMSNorm(24).to(dtype)
    reference.weight.data.uniform_(0.5, 2)
    ours = RMSNorm(torch.nn.Parameter(reference.weight.detach().clone()), 1e-6)
    x, towards = torch.randn(2, 5, 24, dtype=dtype), torch.randn(2, 5, 24, dtype=dtype)
    grads = []
    for norm in (reference, ours):
        given = x.clone().requires_grad_()
        out = norm(given)
        out.backward(towards)
        grads.append((out, given.grad, norm.weight.grad))
    for theirs, mine in zip(*grads, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, theirs, atol=0.05 if dtype == torch.bfloat16 else 1e-5,
                                   rtol=0.02)  # fmt: skip


def test_micro_batches_add_up_to_the_whole(tiny: Unified) -> None:
    def loss(parts: list[Batch]) -> tuple[float, int]:
        total = 0.0
        with torch.inference_mode():
            for part in parts:
                text, image = tiny.model.target_losses(part.ids, part.views, part.labels)
                total += float(text.sum() + image.sum())
                assert len(text) <= part.texts and len(image) <= part.codes
        return total, parts[0].texts + parts[0].codes

    whole = [loss(parts) for parts in batches(tiny, 8)]
    cut = [loss(parts) for parts in batches(tiny, 2)]
    assert sum(t for t, _ in cut) == pytest.approx(sum(t for t, _ in whole), rel=1e-4)
    assert sum(n for _, n in cut) == sum(n for _, n in whole)


def test_labels_are_the_next_tokens_that_carry_loss(tiny: Unified) -> None:
    for parts in batches(tiny, 4):
        for part in parts:
            for ids, labels in zip(part.ids.tolist(), part.labels.tolist(), strict=True):
                end = (
                    ids.index(tiny.layout.vocabulary.control("pad"))
                    if (tiny.layout.vocabulary.control("pad") in ids)
                    else len(ids)
                )
                turns = tiny.layout.parse(ids[:end])
                flat = tiny.layout.flatten(turns)
                wanted = [
                    token if loss else IGNORE
                    for token, loss in zip(flat.ids[1:], flat.loss[1:], strict=True)
                ]
                assert labels[: end - 1] == wanted
                assert all(label == IGNORE for label in labels[end - 1 :])


def test_condition_dropout_leaves_the_codes_alone(tiny: Unified) -> None:
    samples = [sample("draw", 0, k) for k in range(POOL * 4)]
    made = dealt(tiny, samples, 4, dropout=1.0)
    for part in made[0]:
        assert part.views is None
        for ids in part.ids.tolist():
            turns = tiny.layout.parse(ids)
            assert [t.role for t in turns] == ["assistant"]
            assert isinstance(turns[0].parts[0], Picture) and not turns[0].parts[0].view


def test_padding_does_not_change_a_row(tiny: Unified) -> None:
    ids = torch.tensor([[701, 702, 5, 6, 7]])
    padded = F.pad(ids, (0, 9), value=tiny.layout.vocabulary.control("pad"))
    with torch.inference_mode():
        alone, longer = tiny.model(ids).hidden, tiny.model(padded).hidden
    torch.testing.assert_close(alone, longer[:, :5], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_products_equal_sdpa_with_and_without_padding(kind: str) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48}  # fmt: skip
    torch.manual_seed(0)
    model = UnifiedForConditionalGeneration(
        UnifiedConfig(text_config={"model_type": kind, **sizes}, text_size=40)
    ).eval()
    ids, mask = torch.randint(0, 40, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[1, :4] = 0
    found = {}
    for name in (attention.PRODUCTS, "sdpa"):
        model.set_attn_implementation(name)
        with torch.inference_mode():
            found[name] = [
                model(ids).hidden,
                model(ids, attention_mask=mask).hidden * mask[..., None],
            ]
    for one, two in zip(found[attention.PRODUCTS], found["sdpa"], strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_places_of_codes_start_again_with_each_picture() -> None:
    image, code = 3, 10
    ids = torch.tensor([[1, image, code, code, 4, 2, image, code, code, code]])
    assert code_places(ids, image, 10).tolist() == [[0, 0, 0, 1, 0, 0, 0, 0, 1, 2]]


def test_auto_classes_find_the_model(tiny_run: Path, tiny: Unified) -> None:
    folder = tiny_run / "model"
    assert isinstance(AutoConfig.from_pretrained(folder), UnifiedConfig)
    assert isinstance(AutoModel.from_pretrained(folder), UnifiedForConditionalGeneration)
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, UnifiedProcessor) and processor.layout == tiny.layout
    ids = tiny.processor.tokenizer.ids("a red circle")
    assert processor(text="a red circle")["input_ids"] == [ids]
    picture = Image.new("RGB", (128, 64), "red")
    assert processor(images=picture)["pixel_values"].shape == (1, 3, 64, 64)
    assert AutoTokenizer.from_pretrained(folder).ids("a red circle") == ids


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_the_decoder_is_chosen_by_configuration(kind: str, tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 48,
    }
    config = UnifiedConfig(text_config={"model_type": kind, **sizes}, text_size=40)
    model = UnifiedForConditionalGeneration(config).eval()
    assert model.decoder.config.model_type == kind
    model.save_pretrained(tmp_path)
    again = UnifiedForConditionalGeneration.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, 40, (1, 7))
    with torch.inference_mode():
        assert torch.equal(model(ids).hidden, again(ids).hidden)


def test_codes_of_a_new_model_are_heard_beside_their_places() -> None:
    sizes = {"hidden_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {"model_type": "llama", "num_key_value_heads": 4, "intermediate_size": 48, **sizes}
    torch.manual_seed(0)
    model = UnifiedForConditionalGeneration(UnifiedConfig(text_config=text, text_size=40))
    with torch.inference_mode():
        codes = model._codes(torch.arange(model.config.image_config.codebook_size))
    assert model.code_place is not None
    assert codes.std(dim=0).mean() > 0.5 * model.code_place.weight.std()


def test_an_unknown_decoder_is_named() -> None:
    with pytest.raises(ValueError, match="'gpt2' is not supported; llama or qwen2"):
        UnifiedConfig(text_config={"model_type": "gpt2"})


def test_an_enlarged_toybox_picture_comes_back_exactly() -> None:
    array = render(sample_scene(random.Random(3)))
    processor = UnifiedImageProcessor(64)
    image = Image.fromarray(array)
    for zoom in (1, 2, 5):
        big = image.resize((64 * zoom, 64 * zoom), Image.Resampling.NEAREST)
        assert np.array_equal(np.asarray(processor.picture(processor.pixels(big))), array)
    assert processor.pixels(Image.new("RGB", (300, 20), "red")).shape == (3, 64, 64)


def test_a_shifted_picture_keeps_its_size() -> None:
    array = render(sample_scene(random.Random(3)))
    assert shifted(array, 3, random.Random(0)).shape == array.shape
    assert np.array_equal(shifted(array, 0, random.Random(0)), array)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "no message"),
        ("hello", "message 0 is 'h'; use"),
        (["hello"], "message 0 is 'hello'; use"),
        ([{"role": "system", "content": "x"}], "role is 'system'"),
        ([{"role": "user", "content": 3}], "int, not text or parts"),
        ([{"role": "user", "content": [{"type": "video"}]}], "message 0: a part is"),
    ],
)
def test_malformed_messages_are_named(tiny: Unified, messages: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny.chat(messages)


def test_what_does_not_fit_is_said(tiny: Unified) -> None:
    long = "word " * 400
    with pytest.raises(ContextError, match="this model reads at most"):
        tiny.chat([{"role": "user", "content": long}])
    turn = {"role": "user", "content": "word " * 60}
    answer = {"role": "assistant", "content": "word " * 60}
    events = list(tiny.stream([turn, answer] * 8 + [turn], most=5))
    assert isinstance(events[0], Notice) and "oldest turns are left out" in events[0].text


def test_control_spellings_in_a_message_stay_text(tiny: Unified) -> None:
    text = "<image><end></s><pad>"
    prompt = tiny._fit([{"role": "user", "content": text}], 5)[0]
    turns = tiny.layout.parse([*prompt.ids[:-1]])
    assert tiny.processor.tokenizer.text(turns[0].parts[0].ids) == text


def test_unknown_sampling_options_are_listed(tiny: Unified) -> None:
    with pytest.raises(ValueError, match="'tempo'; one of guidance_scale"):
        tiny.generate("x", tempo=3)
