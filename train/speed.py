"""Ways to train the same model on the same samples, for comparing their speed.

Ours is a step of the loop: samples of similar length together, one update a step. The other is
transformers' `Trainer` with its usual collator: samples as they come, padded to the longest.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from unified.handle import Unified
from unified.modeling import IGNORE
from unified.toybox.samples import sample
from unified.train.batches import Batcher, Encoded
from unified.train.conversations import POOL, Conversations, mixed
from unified.train.distributed import Team
from unified.train.loop import LoopConfig, optimizers, update
from unified.train.model import next_token_loss

Way = Callable[[], tuple[int, float]]


def samples(handle: Unified, mix: dict[str, float], count: int, seed: int) -> list[Encoded]:
    """So many conversations of the toybox, encoded, in the order in which they are drawn."""
    drawn, rng = mixed(lambda task, index: sample(task, seed, index), mix, 0, count, seed)
    codec = handle.codec
    made = Conversations(handle.layout, handle.processor.tokenizer, codec, device=str(codec.device))
    return made.encode(drawn, rng)


def ours(handle: Unified, data: list[Encoded], batch_size: int, micro_batch: int) -> Way:
    """One pass over the samples by our loop's step."""
    config = LoopConfig(steps=1, batch_size=batch_size, learning_rate=1e-5)
    device = str(handle.model.device)
    batcher = Batcher(handle.layout.vocabulary, micro_batch, None, device)
    steppers = optimizers(handle.model, config)
    size = batch_size * POOL
    pools = [data[first : first + size] for first in range(0, len(data), size)]

    def way() -> tuple[int, float]:
        handle.model.train()
        began = time.perf_counter()
        for pool in pools:
            for parts in batcher.deal(pool, POOL):
                for part in parts:
                    loss, _ = next_token_loss(handle.model, part, 1.0)
                    loss.backward()
                update(handle.model, steppers, 1e-5, config.clip, Team())
        return sum(map(len, data)), time.perf_counter() - began

    return way


def trainer(handle: Unified, data: list[Encoded], batch_size: int) -> Way:
    """One pass over the samples by transformers' Trainer; its own set-up is not counted."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    pad = handle.layout.vocabulary.control("pad")

    def collate(items: list[Encoded]) -> dict[str, Any]:
        length = max(map(len, items))
        ids = torch.full((len(items), length), pad)
        labels = torch.full((len(items), length), IGNORE)
        for k, item in enumerate(items):
            tokens, loss = torch.tensor(item.ids), torch.tensor(item.loss[1:])
            ids[k, : len(item)] = tokens
            labels[k, : len(item) - 1] = tokens[1:].masked_fill(~loss, IGNORE)
        views = [item.views for item in items if item.views is not None]
        found = {"input_ids": ids, "labels": labels}
        return found | ({"pixel_values": torch.cat(views)} if views else {})

    class Clock(TrainerCallback):
        began = ended = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = self.began or time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ended = time.perf_counter()

    def way() -> tuple[int, float]:
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, per_device_train_batch_size=batch_size, num_train_epochs=1, seed=0,
                learning_rate=1e-5, use_cpu=handle.model.device.type == "cpu", report_to=[],
                save_strategy="no", logging_strategy="no", disable_tqdm=True,
                remove_unused_columns=False,
            )  # fmt: skip
            shuffled = random.Random(0).sample(data, len(data))
            rival = Trainer(handle.model, arguments, data_collator=collate, train_dataset=shuffled,
                            callbacks=[clock])  # fmt: skip
            rival.remove_callback(PrinterCallback)  # its summary is no row of ours
            rival.train()
        return sum(map(len, data)), clock.ended - clock.began

    return way
