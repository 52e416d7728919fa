"""Preference tuning: what is said or drawn better over what is worse (DPO).

https://arxiv.org/abs/2305.18290, on text and picture codes alike: a reply's log-probability is the
sum over its tokens of any kind. The reference is the model without its adapter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from peft import PeftModel

from unified.handle import Unified
from unified.modeling import UnifiedForConditionalGeneration
from unified.train.batches import Batch, Batcher, Encoded
from unified.train.conversations import Conversations
from unified.train.distributed import team
from unified.train.encoding import Encoder
from unified.train.examples import Data, Examples
from unified.train.mixture import Epochs, Mixture
from unified.train.model import next_token_loss
from unified.train.quarantine import Quarantine
from unified.train.tuning import TuningConfig


@dataclass(frozen=True)
class Pairs:
    """A micro-batch of pairs: rows 0, 2, 4 ... are better than the rows after them."""

    batch: Batch
    whole: int  # pairs in the whole step

    @property
    def tokens(self) -> int:
        return self.batch.tokens


def log_probabilities(model: UnifiedForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Of what is learnt in each row, summed: (B,)."""
    text, image = model.target_losses(batch.ids, batch.views, batch.labels)
    start = model.config.vocabulary.image_start
    is_code = batch.labels >= start
    is_text = (batch.labels >= 0) & ~is_code
    sums = text.new_zeros(len(batch.ids))
    for losses, places in ((text, is_text), (image, is_code)):
        sums = sums.index_add(0, places.nonzero()[:, 0], -losses)
    return sums


class PreferenceStage:
    """-log sigmoid(beta (change of the better - change of the worse)), where a change is that of
    the log-probability from the reference; and a little of the better one's own loss. Beside the
    pairs, in the proportion of `toybox` to `weight`, stand toybox conversations with their
    next-token loss: what the pairs do not speak of stays."""

    def __init__(
        self, handle: Unified, model: PeftModel, data: Data, config: TuningConfig, seed: int,
        device: str,
    ):  # fmt: skip
        self.handle, self.model, self.data, self.config = handle, model, data, config
        self.seed, self.device = seed, device
        self.examples = Examples(data, Encoder(handle))
        self.epochs = Epochs(len(data), seed)
        self.quarantine = Quarantine(len(data), config.loop.unreadable, data.where)
        self.rows = max(2, team().rows(2 * config.loop.batch_size, config.micro_batch) // 2 * 2)
        self.batcher = Batcher(handle.layout.vocabulary, self.rows, None, device)
        kept = sum(config.toybox.values()) * config.loop.batch_size
        self.kept = -(-kept // config.weight)  # conversations of a step
        self.mixture = Mixture(config.toybox, seed) if config.toybox else None
        self.toybox = Conversations.of(handle, device)
        rows = team().rows(self.kept, config.micro_batch)
        self.keeper = Batcher(handle.layout.vocabulary, rows, config.pack, device)

    def pair(self, index: int) -> tuple[Encoded, Encoded]:
        """A record's better and worse conversation.

        Raises:
            DataError: it has no worse one, or one that is longer than the model's context.
        """
        return self.examples.pair(index)

    def record(self, index: int) -> Encoded:
        return self.pair(index)[0]

    def batch(self, step: int) -> list[Pairs | Batch]:
        size = self.config.loop.batch_size
        numbers = range(step * size, (step + 1) * size)
        pairs = [self.quarantine.draw(self.epochs, number, self.pair) for number in numbers]
        pairs.sort(key=lambda pair: max(map(len, pair)))
        half = self.rows // 2
        cut = [pairs[first : first + half] for first in range(0, size, half)]
        return [*(Pairs(self.batcher.pad([[row] for pair in part for row in pair], 0, 0), size)
                  for part in cut), *self._known(step)]  # fmt: skip

    def _known(self, step: int) -> list[Batch]:
        if self.mixture is None:
            return []
        numbers = range(step * self.kept, (step + 1) * self.kept)
        samples = [
            self.toybox.drawn(*self.mixture.pick(number), self.seed, number) for number in numbers
        ]
        return self.keeper.deal(samples, 1)[0]

    def loss(self, part: Pairs | Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        model, config = self.handle.model, self.config
        if isinstance(part, Batch):
            return next_token_loss(model, part, config.text_weight)
        now = log_probabilities(model, part.batch)
        with torch.no_grad(), self.model.disable_adapter():
            before = log_probabilities(model, part.batch)
        better, worse = (now - before).view(-1, 2).unbind(1)
        margin = config.beta * (better - worse)
        learnt = (part.batch.labels[0::2] >= 0).sum(1)
        anchor = (-now[0::2] / learnt).sum()
        loss = (-F.logsigmoid(margin).sum() + config.anchor * anchor) / part.whole
        return loss, {
            "preferred": float((margin > 0).sum()) / part.whole,
            "margin": float(margin.detach().sum()) / part.whole,
        }
