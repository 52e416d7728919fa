"""Learning from replies as they stand: records, and toybox conversations beside them, as batches.

Everything is a pure function of (seed, step).
"""

from __future__ import annotations

import random
from itertools import islice

import torch

from unified.handle import Unified
from unified.sequence import Picture, Turn
from unified.train.batches import Batch, Batcher, Encoded
from unified.train.conversations import POOL, Conversations
from unified.train.distributed import team
from unified.train.encoding import Encoder
from unified.train.examples import Data, Examples
from unified.train.mixture import Epochs, Mixture
from unified.train.model import next_token_loss
from unified.train.quarantine import Quarantine
from unified.train.tuning import TuningConfig


class SupervisedStage:
    """Next-token loss over records, and over toybox conversations beside them."""

    def __init__(
        self, handle: Unified, model: torch.nn.Module, data: Data, config: TuningConfig,
        seed: int, device: str,
    ):  # fmt: skip
        self.handle, self.model, self.data, self.config = handle, model, data, config
        self.seed, self.device = seed, device
        self.examples = Examples(data, Encoder(handle), config.pack)
        self.mixture = Mixture({"data": config.weight, **config.toybox}, seed)
        self.epochs = Epochs(len(data), seed)
        self.quarantine = Quarantine(len(data), config.loop.unreadable, data.where)
        self.toybox = Conversations.of(handle, device)
        rows = team().rows(config.loop.batch_size, config.micro_batch)
        self.batcher = Batcher(handle.layout.vocabulary, rows, config.pack, device)
        self._pool: tuple[int, list[list[Batch]]] = (-1, [])

    pool = POOL

    def batch(self, step: int) -> list[Batch]:
        pool, place = divmod(step, POOL)
        if self._pool[0] != pool:
            size = self.config.loop.batch_size * POOL
            numbers = range(pool * size, (pool + 1) * size)
            self._pool = pool, self.batcher.deal([self.sample(n) for n in numbers], POOL)
        return self._pool[1][place]

    def loss(self, part: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return next_token_loss(self.handle.model, part, self.config.text_weight)

    def sample(self, number: int) -> Encoded:
        name, own = self.mixture.pick(number)
        if name != "data":
            return self.toybox.drawn(name, own, self.seed, number)
        encoded = self.quarantine.draw(self.epochs, own, self.record)
        rng = random.Random(f"{self.seed}/sample/{number}")
        return self._unconditional(encoded) if rng.random() < self.config.dropout else encoded

    def record(self, index: int) -> Encoded:
        """A record as the model reads it.

        Raises:
            DataError: it is longer than the model's context, or its media cannot be read.
        """
        return self.examples.reply(index)

    def _unconditional(self, encoded: Encoded) -> Encoded:
        """The first picture that is learnt, alone; the sample as it is where there is none."""
        layout = self.handle.layout
        start, length = layout.vocabulary.image_start, layout.image_length
        learnt = (token - start for token, loss in zip(encoded.ids, encoded.loss, strict=True)
                  if loss and token >= start)  # fmt: skip
        written = list(islice(learnt, length))
        if not written:
            return encoded
        codes = tuple(layout.order.read(written))
        sequence = layout.flatten([Turn("assistant", (Picture(codes, view=False),))])
        return Encoded(sequence.ids, sequence.loss, None)
