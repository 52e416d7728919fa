"""The order of data: every sample as often as it is due, the same for any number of workers and
wherever a run goes on. Real stages and batches, samples that cost nothing."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from unified.handle import Unified
from unified.train.batches import Batch, Encoded
from unified.train.loop import _batches, _Ready
from unified.train.readers import Records, read
from unified.train.supervised import SupervisedStage
from unified.train.tuning import read_config

SAMPLES = int(os.environ.get("UNIFIED_SAMPLES", "40000"))  # 1000000 for the full measure
RECORDS, BATCH, BASE = 10_000, 500, 600


class Cheap(SupervisedStage):
    """Records whose tokens spell their numbers, of two to six tokens."""

    def record(self, index: int) -> Encoded:
        ids = [*divmod(index, BASE), *[0] * (index % 5)]
        return Encoded(ids, [False] + [True] * (len(ids) - 1), None)


def numbers(part: Batch) -> list[int]:
    """The records of a micro-batch, row by row."""
    assert part.positions is not None
    first = (part.positions == 0) & (part.positions.roll(-1, 1) == 1)  # padding starts nothing
    return (part.ids[first] * BASE + part.ids.roll(-1, 1)[first]).tolist()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    path = tmp_path_factory.mktemp("records") / "data.jsonl"
    line = json.dumps({"prompt": "a", "completion": "b"}) + "\n"
    path.write_text(line * RECORDS)
    return read(path)


def stage(tiny: Unified, records: Records) -> Cheap:
    sets = [f"loop.batch_size={BATCH}", f"loop.steps={SAMPLES // BATCH}", "micro_batch=2",
            "pack=200", "dropout=0"]  # fmt: skip
    return Cheap(tiny, tiny.model, records, read_config(None, sets), 0, "cpu")


def drawn(own: Cheap, first: int, workers: int, steps: int) -> Iterator[list[list[int]]]:
    """The records of every micro-batch of every step from `first` on, as the loop has them."""
    changes: dict[str, Any] = {"workers": workers, "steps": steps}
    config = own.config.loop.model_copy(update=changes)
    for step, batch in _batches(_Ready(own, first, steps), config, "cpu"):
        assert step >= first
        yield [numbers(part) for part in batch]


def test_every_sample_comes_as_often_as_it_is_due(tiny: Unified, records: Records) -> None:
    """Four epochs, or a hundred, packed; none is lost and none comes twice in between."""
    assert SAMPLES % RECORDS == 0
    own, counts, early = stage(tiny, records), Counter[int](), Counter[int]()
    for step, parts in enumerate(drawn(own, 0, 0, SAMPLES // BATCH)):
        counts.update(number for part in parts for number in part)
        if (step + 1) % 4 == 0:  # a pool is whole
            assert counts.total() == (step + 1) * BATCH
            early |= counts if counts.total() == RECORDS else Counter()
    assert counts == dict.fromkeys(range(RECORDS), SAMPLES // RECORDS)
    assert early == dict.fromkeys(range(RECORDS), 1)  # the first epoch by itself


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_and_stops_do_not_change_the_order(
    workers: int, tiny: Unified, records: Records
) -> None:
    """From the start, and gone on with in the midst of what is made together."""
    steps = 10
    plain = list(drawn(stage(tiny, records), 0, 0, steps))
    assert len(plain) == steps and len(plain[0]) > 1 and plain[0] != plain[1]
    state = torch.get_rng_state()
    assert list(drawn(stage(tiny, records), 0, workers, steps)) == plain
    assert torch.equal(torch.get_rng_state(), state)  # training's generator is not drawn from
    for first in (3, 5):
        assert list(drawn(stage(tiny, records), first, workers, steps)) == plain[first:]
        assert list(drawn(stage(tiny, records), first, 0, steps)) == plain[first:]
