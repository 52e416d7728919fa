"""Train the model: the stages `pretrain`, `chat` and `refine` of a recipe, and assembling it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from unified import attention
from unified.configuration import UnifiedConfig
from unified.engine import Engine, Request
from unified.handle import Unified
from unified.media.sheet import captioned
from unified.modeling import UnifiedForConditionalGeneration
from unified.processing import UnifiedImageProcessor, UnifiedProcessor
from unified.sampling import Sampling
from unified.sequence import Text, Turn
from unified.tokenizers.codec import Codec
from unified.tokenizers.text import TextTokenizer
from unified.toybox.samples import sample
from unified.train.batches import Batch, Batcher
from unified.train.conversations import POOL, Conversations, mixed
from unified.train.loop import LoopConfig, fit


class ModelConfig(BaseModel):
    """Sizes of the model; keys of the three parts are those of their configurations."""

    model_config = ConfigDict(extra="forbid")

    decoder: dict[str, Any]
    vision: dict[str, Any] = {}
    image: dict[str, Any] = {}
    user_picture: str = "codes+view"


class StageConfig(BaseModel):
    """One stage of training the model."""

    model_config = ConfigDict(extra="forbid")

    loop: LoopConfig
    mix: dict[str, float]  # weight of each toybox task
    first_sample: int = 0  # of every task: a later stage goes on where an earlier one stopped
    micro_batch: int = 16  # rows that are computed at once
    pack: int | None = Field(default=None, ge=16)  # tokens of a row that several samples share
    text_weight: float = 3.0  # of a text target, beside a picture code
    dropout: float = 0.1  # share of drawings without their condition
    user_views: float = Field(default=0.6, ge=0, le=1)
    shift: int = 3


def build(
    config: ModelConfig, text: TextTokenizer, codec: Codec, seed: int, device: str
) -> UnifiedForConditionalGeneration:
    """A new model for these tokenizers, its weights drawn from `seed`."""
    torch.manual_seed(seed)
    spec = codec.spec
    unified = UnifiedConfig(
        text_config=config.decoder,
        vision_config={"image_size": spec.image_size[0], **config.vision},
        image_config={
            "codebooks": list(spec.codebooks),
            "books": list(spec.books),
            **config.image,
        },
        text_size=text.vocab_size,
        user_picture=config.user_picture,
    )
    unified._attn_implementation = attention.implementation(device)
    return UnifiedForConditionalGeneration(unified).to(device)


class ModelStage:
    """Next-token loss over toybox conversations, codes and words in one mean."""

    def __init__(
        self,
        config: StageConfig,
        model: UnifiedForConditionalGeneration,
        text: TextTokenizer,
        codec: Codec,
        seed: int,
        device: str,
    ):
        self.config, self.model, self.seed, self.device = config, model, seed, device
        self.conversations = Conversations(
            model.config.layout,
            text,
            codec,
            user_views=config.user_views,
            shift=config.shift,
            dropout=config.dropout,
            device=device,
        )
        vocabulary = model.config.layout.vocabulary
        self.batcher = Batcher(vocabulary, config.micro_batch, config.pack, device)
        size = config.loop.batch_size
        if size % config.micro_batch:
            raise ValueError(
                f"batch_size {size} is no multiple of micro_batch {config.micro_batch}"
            )
        self._pool: tuple[int, list[list[Batch]]] = (-1, [])

    pool = POOL

    def batch(self, step: int) -> list[Batch]:
        pool, place = divmod(step, POOL)
        if self._pool[0] != pool:
            samples, rng = mixed(
                lambda task, index: sample(task, self.seed, self.config.first_sample + index),
                self.config.mix,
                pool,
                self.config.loop.batch_size * POOL,
                self.seed,
            )
            encoded = self.conversations.encode(samples, rng)
            self._pool = (pool, self.batcher.deal(encoded, POOL))
        return self._pool[1][place]

    def loss(self, part: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return next_token_loss(self.model, part, self.config.text_weight)


def next_token_loss(
    model: UnifiedForConditionalGeneration, part: Batch, text_weight: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """A micro-batch's share of the step's mean over all targets, a text's weighing `text_weight`
    times a code's; and its shares of the means of each kind."""
    text, image = model.target_losses(part.ids, part.views, part.labels, positions=part.positions)
    whole = text_weight * part.texts + part.codes
    loss = (text_weight * text.sum() + image.sum()) / whole
    return loss, {
        "text_loss": text.sum().item() / max(1, part.texts),
        "image_loss": image.sum().item() / max(1, part.codes),
    }


def train_stage(
    name: str,
    config: StageConfig,
    model: UnifiedForConditionalGeneration,
    text: TextTokenizer,
    codec: Codec,
    folder: Path,
    *,
    seed: int,
    device: str,
    progress: bool = True,
) -> None:
    """Run one stage on `model`, in place."""
    stage = ModelStage(config, model, text, codec, seed, device)
    engine = Engine(model, codec)

    def show(step: int) -> dict[str, float]:
        target = folder / "samples" / f"step-{step:06d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        sheet(engine, text, seed=seed).save(target)
        return {}

    fit(
        stage,
        config.loop,
        folder,
        name=name,
        seed=seed,
        device=device,
        on_sample=show,
        progress=progress,
    )


def sheet(engine: Engine, text: TextTokenizer, *, seed: int, count: int = 12) -> Image.Image:
    """Drawings for held-out prompts, the prompt under each picture."""
    prompts = []
    for index in range(count):
        turns = sample("draw", seed, index, "held_out").turns
        prompts.append(next(part for part in turns[0].parts if isinstance(part, str)))
    requests = []
    for index, prompt in enumerate(prompts):
        turn = Turn("user", (Text(tuple(text.ids(prompt))),))
        ids = engine.layout.flatten([turn], reply=True).ids
        requests.append(Request(tuple(ids), seed=index, draw="only"))
    training = engine.model.training
    replies = engine.run(requests)
    engine.model.train(training)
    return captioned([UnifiedImageProcessor.picture(r.pictures[0]) for r in replies], prompts)


def assemble(
    model: UnifiedForConditionalGeneration,
    text: TextTokenizer,
    codec: Codec,
    sampling: dict[str, Any],
    training: dict[str, Any],
    folder: Path,
) -> None:
    """Write what `unified.load` reads, at half the size of training's weights."""
    model.config.training = training
    processor = UnifiedProcessor.of(model.config, text)
    handle = Unified(model.cpu(), processor, codec.cpu(), sampling=Sampling(**sampling))
    handle.save(folder, half=True)
