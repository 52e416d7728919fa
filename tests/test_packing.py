"""Samples that share a row: nothing is lost, nothing is seen across, little is padded."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unified.handle import Unified
from unified.toybox.samples import sample
from unified.train.batches import Batch, Batcher, packed
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


def test_little_of_a_packed_row_is_padding(tiny: Unified) -> None:
    """The toybox mix, 192 samples in rows of 512."""
    pad = tiny.layout.vocabulary.control("pad")
    ids = [part.ids for parts in batches(tiny, 512, 48, 4) for part in parts]
    useful = sum(int((x != pad).sum()) for x in ids) / sum(x.numel() for x in ids)
    assert useful >= 0.97


def test_too_few_rows_for_a_step_are_refused(tiny: Unified) -> None:
    with pytest.raises(ValueError, match="lower micro_batch or pack, or raise batch_size"):
        batches(tiny, 512, 2, 16)


def test_padding_is_random_in_no_way(tiny: Unified) -> None:
    one, two = (batches(tiny, 512, 8, 2)[0][0] for _ in range(2))
    assert torch.equal(one.ids, two.ids) and torch.equal(one.labels, two.labels)
    assert one.positions is not None
    assert int((one.positions == 0).sum()) > len(one.ids)  # several samples a row
