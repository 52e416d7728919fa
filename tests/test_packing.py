"""Samples that share a row: nothing is lost, nothing is seen across, little is padded."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unified import attention, modeling
from unified.configuration import UnifiedConfig
from unified.handle import Unified
from unified.modeling import UnifiedForConditionalGeneration
from unified.toybox.samples import sample
from unified.train.batches import Batch, Batcher, Encoded, packed
from unified.train.conversations import POOL, Conversations, mixed
from unified.train.recipe import read


@given(st.lists(st.integers(1, 60), max_size=60))
def test_every_sample_stands_in_one_row_that_it_fits(lengths: list[int]) -> None:
    rows = packed(lengths, 60)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 60 for row in rows)
    # first fit: of two rows that follow each other, at most one is less than half full
    assert len(rows) <= 2 * sum(lengths) / 60 + 1


def test_a_sample_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="a sample of 61 tokens does not fit a row of 60"):
        packed([3, 61], 60)


def batches(tiny: Unified, pack: int | None, size: int, micro_batch: int) -> list[list[Batch]]:
    mix = read("toybox").chat
    assert mix is not None
    samples, rng = mixed(lambda task, k: sample(task, 0, k), mix.mix, 0, size * POOL, 0)
    made = Conversations(tiny.layout, tiny.processor.tokenizer, tiny.codec)
    batcher = Batcher(tiny.layout.vocabulary, micro_batch, pack, "cpu")
    return batcher.deal(made.encode(samples, rng), POOL)


def test_packed_losses_are_those_of_samples_alone(tiny: Unified) -> None:
    def losses(pack: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        text, image = [], []
        with torch.inference_mode():
            for part in (part for parts in batches(tiny, pack, 8, 2) for part in parts):
                found = tiny.model.target_losses(
                    part.ids, part.views, part.labels, positions=part.positions
                )
                text.append(found[0])
                image.append(found[1])
        return torch.cat(text).sort().values, torch.cat(image).sort().values

    for alone, shared in zip(losses(None), losses(512), strict=True):
        assert len(alone) == len(shared) > 50
        torch.testing.assert_close(alone, shared, atol=1e-4, rtol=1e-4)


def test_losses_in_chunks_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so are their gradients, though no more than three rows of logits are held."""
    model, (ids, positions) = small(), shared_rows(24)
    ids[0, 3:8] += model.config.vocabulary.image_start - ids.min()  # some of them codes
    found = {}
    for held in (2**26, 3 * model.config.vocabulary.text_head):
        monkeypatch.setattr(modeling, "LOGITS", held)
        calls: list[int] = []
        hook = model.text_head.register_forward_hook(lambda *x, c=calls: c.append(len(x[1][0])))
        found[held] = gradients(model, ids, positions)
        hook.remove()
        assert len(calls) == 1 if held == 2**26 else max(calls) == 3 and len(calls) > 10
    for one, two in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def test_little_of_a_packed_row_is_padding(tiny: Unified) -> None:
    """The toybox mix, 192 samples in rows of 512."""
    pad = tiny.layout.vocabulary.control("pad")
    ids = [part.ids for parts in batches(tiny, 512, 48, 4) for part in parts]
    useful = sum(int((x != pad).sum()) for x in ids) / sum(x.numel() for x in ids)
    assert useful >= 0.97


def test_rows_of_whole_blocks_teach_the_same(tiny: Unified) -> None:
    """As on a GPU: padded further, and no loss changes."""
    made = []
    for block in (1, 128):
        samples = [Encoded([5] * n, [True] * n, None) for n in (90, 70, 40, 30)]
        batcher = Batcher(tiny.layout.vocabulary, 4, 200, "cpu")
        batcher.block = block
        made.append(batcher.deal(samples, 1)[0][0])
    assert [part.ids.shape[1] for part in made] == [200, 256]
    with torch.inference_mode():
        losses = [
            tiny.model.target_losses(part.ids, None, part.labels, positions=part.positions)[0]
            for part in made
        ]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)


def test_too_few_rows_for_a_step_are_refused(tiny: Unified) -> None:
    with pytest.raises(ValueError, match="lower pack, or raise batch_size"):
        batches(tiny, 512, 2, 16)


def test_padding_is_random_in_no_way(tiny: Unified) -> None:
    one, two = (batches(tiny, 512, 8, 2)[0][0] for _ in range(2))
    assert torch.equal(one.ids, two.ids) and torch.equal(one.labels, two.labels)
    assert one.positions is not None
    assert int((one.positions == 0).sum()) > len(one.ids)  # several samples a row


# --- who sees whom, on other devices -------------------------------------------------------------


def small(kind: str = "qwen3", **settings: object) -> UnifiedForConditionalGeneration:
    """Two heads of keys for four of queries."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64}  # fmt: skip
    torch.manual_seed(0)
    config = UnifiedConfig(text_config={"model_type": kind, **sizes, **settings}, text_size=40)
    return UnifiedForConditionalGeneration(config)


def shared_rows(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and positions of two rows: three sequences and padding, and one sequence alone."""
    own = [torch.arange(n) for n in (length // 2, 1, length // 4)]
    rest = torch.zeros(length - sum(map(len, own)), dtype=torch.int64)
    positions = torch.stack([torch.cat([*own, rest]), torch.arange(length)])
    ids = torch.randint(0, 40, (2, length), generator=torch.Generator().manual_seed(0))
    return ids, positions


def test_where_sequences_end() -> None:
    _, positions = shared_rows(12)
    bounds = attention.ends(positions)
    assert bounds.dtype == torch.int32
    assert bounds.flatten().tolist() == [0, 6, 7, 10, 11, 12, 24]  # padding: each by itself


def test_a_cpu_chooses_by_itself() -> None:
    assert attention.implementation("cpu") == attention.PRODUCTS
    assert attention.implementation("cuda:1") == attention.KERNELS
    assert attention.documents(shared_rows(12)[1], torch.bfloat16) is None


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_sees_what_a_dense_mask_shows() -> None:
    """Uncompiled, which is how it runs on any CPU; and that without a mask it is not the same."""
    model, (ids, positions) = small().eval(), shared_rows(40)
    with torch.inference_mode():
        model.set_attn_implementation(attention.PRODUCTS)
        dense = model(ids, position_ids=positions).hidden
        model.set_attn_implementation(attention.KERNELS)
        mask = attention.block_mask(positions)
        shared = model.hidden(model.embed(ids, ids * 0), mask=mask, positions=positions)
        sdpa = model(ids, position_ids=positions).hidden
        alone = model(ids).hidden
    torch.testing.assert_close(shared, dense, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sdpa, dense, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone[0], dense[0], atol=1e-2)


def gradients(
    model: UnifiedForConditionalGeneration, ids: torch.Tensor, positions: torch.Tensor
) -> list[torch.Tensor]:
    """The loss, and after it the gradient of every weight that has one."""
    labels = ids.roll(-1, 1).masked_fill(positions.roll(-1, 1) == 0, -100)
    model.zero_grad()
    loss = model(ids, position_ids=positions, labels=labels).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.gpu
@pytest.mark.parametrize("recompute", [False, True])
def test_packed_training_by_flex_attention(
    recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled, of several lengths and numbers of rows: losses and gradients of the dense mask."""
    monkeypatch.setattr(attention, "find_spec", lambda name: None)  # though flash-attn be there
    model = small().to("cuda").train()
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for length, rows in ((256, 2), (512, 2), (640, 1), (300, 2)):
        ids, positions = (x[:rows].to("cuda") for x in shared_rows(length))
        made = attention.documents(positions, torch.float32)
        assert isinstance(made, attention.BlockMask)
        found = {}
        for name in (attention.KERNELS, attention.PRODUCTS):
            model.set_attn_implementation(name)
            with monkeypatch.context() as patch:
                if name == attention.PRODUCTS:
                    patch.setattr(attention, "documents", lambda *_: None)
                found[name] = gradients(model, ids, positions)
        for one, two in zip(found[attention.KERNELS], found[attention.PRODUCTS], strict=True):
            torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="needs flash-attn")
def test_packed_training_by_flash_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, to what its rounding allows."""
    model = small().to("cuda").train()
    ids, positions = (x.to("cuda") for x in shared_rows(300))
    with torch.autocast("cuda", torch.bfloat16):
        assert isinstance(attention.documents(positions, torch.float32), torch.Tensor)
        model.set_attn_implementation(attention.KERNELS)
        shared = gradients(model, ids, positions)
        monkeypatch.setattr(attention, "documents", lambda *_: None)  # SDPA, a dense mask
        dense = gradients(model, ids, positions)
    for one, two in zip(shared, dense, strict=True):
        torch.testing.assert_close(one, two, atol=2e-2, rtol=5e-2)


def test_layers_that_see_a_window_keep_their_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1).eval()

    def refused(*_: object) -> None:
        raise AssertionError("one mask for all layers")

    monkeypatch.setattr(attention, "documents", refused)
    ids, positions = shared_rows(16)
    assert model(ids, position_ids=positions).hidden.shape == (2, 16, 64)
    with pytest.raises(AssertionError, match="one mask"):
        small()(ids, position_ids=positions)
