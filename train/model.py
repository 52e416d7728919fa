"""The model of a recipe: building it, a stage of its training, and assembling it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from unified import adapters, attention
from unified.configuration import UnifiedConfig
from unified.engine import Engine, Request
from unified.families.own import model_in
from unified.handle import Unified
from unified.media.sheet import captioned
from unified.modeling import UnifiedForConditionalGeneration
from unified.pattern import SLOPE, check
from unified.processing import UnifiedImageProcessor, UnifiedProcessor
from unified.sampling import Sampling
from unified.sequence import Text, Turn
from unified.tokenizers.codec import Codec
from unified.tokenizers.text import PublishedTokenizer, TextTokenizer
from unified.toybox.samples import sample
from unified.train.ability import perplexity
from unified.train.batches import Batch, Batcher
from unified.train.conversations import POOL, Conversations, mixed
from unified.train.distributed import team
from unified.train.loop import LoopConfig, Stage, fit
from unified.train.optimize import told
from unified.train.pretrained import fill_tower, settings_of, siglip_sizes, source_of
from unified.train.tuning import Lora
from unified.vocabulary import CONTROL, VIEW


class ModelConfig(BaseModel):
    """Sizes of the model; keys of the three parts are those of their configurations.

    Attributes:
        decoder: or {from: DIR}, a causal LM of transformers that it starts from, whose tokenizer is
            that of text, too.
        vision: or {from: DIR}, a SigLIP that the understanding encoder starts from.
        reread: what was drawn is read back as a view.
        decoupled: whether pictures are seen by an encoder of their own. If not, one path serves
            both sides: what is seen stands as the codes that would draw it.
        shared_codes: codes are rows of the decoder's own embedding and head, as in SEED-LLaMA, and
            have no embedding, aligner and head besides, as in Janus.
    """

    model_config = ConfigDict(extra="forbid")

    decoder: dict[str, Any]
    vision: dict[str, Any] = {}
    image: dict[str, Any] = {}
    user_picture: str = "codes+view"
    reread: bool = True
    decoupled: bool = True
    shared_codes: bool = False

    @field_validator("image")
    @classmethod
    def _patterned(cls, values: dict[str, Any]) -> dict[str, Any]:
        check(values.get("pattern", "raster"), values.get("slope", SLOPE))
        return values

    def ids(self, words: int, codes: int) -> dict[str, Any]:
        """How ids are numbered, by keys of `UnifiedConfig`: `words` of text, rows of shared codes,
        control tokens, then the codes."""
        size = words + codes if self.shared_codes else words
        if self.decoupled:
            return {"text_size": size, "reread": self.reread}
        names = [name for name in CONTROL if name not in VIEW]
        return {
            "text_size": size + len(names),
            "control_ids": {name: size + k for k, name in enumerate(names)},
            "reread": False,
        }


class StageConfig(BaseModel):
    """One stage of training the model.

    Attributes:
        pattern, slope: how codes are written from this stage on (`UnifiedImageConfig`); None: as
            before it.
    """

    model_config = ConfigDict(extra="forbid")

    loop: LoopConfig
    mix: dict[str, float]  # weight of each toybox task and of each named source of the recipe
    first_sample: int = 0  # of every task: a later stage goes on where an earlier one stopped
    micro_batch: int = 16  # rows that are computed at once
    pack: int | None = Field(default=None, ge=16)  # tokens of a row that several samples share
    text_weight: float = 3.0  # of a text target, beside a picture code
    dropout: float = 0.1  # share of drawings without their condition
    user_views: float = Field(default=0.6, ge=0, le=1)
    shift: int = 3
    lora: Lora | None = None  # train an adapter, which is merged at the end; else the weights
    pattern: str | None = None
    slope: int = SLOPE

    @model_validator(mode="after")
    def _patterned(self) -> Self:
        check(self.pattern or "raster", self.slope)
        return self


def build(
    config: ModelConfig,
    text: TextTokenizer | PublishedTokenizer,
    codec: Codec,
    seed: int,
    device: str,
) -> UnifiedForConditionalGeneration:
    """A new model for these tokenizers, its weights drawn from `seed` where no part brings its own.

    Raises:
        ValueError: sizes that do not fit, or a directory that a part cannot start from.
    """
    lm, sizes = settings_of(config.decoder)
    tower, seen = source_of("vision", config.vision)
    spec = codec.spec
    vision = {"image_size": spec.image_size[0], **seen}
    if tower is not None:
        width = sizes["hidden_size"]
        own = siglip_sizes(tower)
        if own["image_size"] != vision["image_size"]:
            raise ValueError(f"model.vision.from: {tower} sees {own['image_size']} pixels a side,"
                             f" the codec draws {vision['image_size']}")  # fmt: skip
        vision = {**own, **vision, "projection_dim": width}
    image = {
        "codebooks": list(spec.codebooks), "books": list(spec.books), "grid": spec.grid,
        **config.image,
    }  # fmt: skip
    words = lm.rows if lm is not None else text.vocab_size
    if config.shared_codes:
        image["shared"] = words
    torch.manual_seed(seed)
    unified = UnifiedConfig(
        text_config=sizes,
        vision_config=vision,
        image_config=image,
        user_picture=config.user_picture if config.decoupled else "codes",
        **config.ids(words, spec.codebook_size),
    )
    unified._attn_implementation = attention.implementation(device)
    model = UnifiedForConditionalGeneration(unified)
    if lm is not None:
        lm.fill(model)
    if tower is not None:
        fill_tower(model, tower)
    return model.to(device)


def taken_up(
    folder: Path, codec: Codec, device: str, pattern: str | None = None, slope: int = SLOPE
) -> UnifiedForConditionalGeneration:
    """The model that a stage left, its codes written by another pattern from now on if one is
    given.

    Raises:
        CheckpointError: weights are missing, or belong to no such model; names one.
    """
    config = UnifiedConfig.from_pretrained(folder)
    image, before = config.image_config, config.image_config.pattern
    if pattern is not None:
        image.pattern, image.slope, image.grid = pattern, slope, codec.spec.grid
    model = model_in(
        folder,
        "code_aim." if image.pattern != before else None,  # it begins, or is not needed now
        config=config,
        dtype=torch.float32,
        attn_implementation=attention.implementation(device),
    )
    return model.to(device)


def conversations(
    config: StageConfig,
    model: UnifiedForConditionalGeneration,
    text: TextTokenizer | PublishedTokenizer,
    codec: Codec,
    device: str,
) -> Conversations:
    """Toybox conversations as a stage has them."""
    return Conversations(
        model.config.layout,
        text,
        codec,
        user_views=config.user_views,
        shift=config.shift,
        dropout=config.dropout,
        device=device,
    )


class ModelStage:
    """Next-token loss over toybox conversations, codes and words in one mean.

    Args:
        trained: an adapter around `model`, where that is what learns.
    """

    def __init__(
        self,
        config: StageConfig,
        model: UnifiedForConditionalGeneration,
        text: TextTokenizer | PublishedTokenizer,
        codec: Codec,
        seed: int,
        device: str,
        trained: torch.nn.Module | None = None,
    ):
        self.config, self.base, self.seed, self.device = config, model, seed, device
        self.model = model if trained is None else trained
        self.conversations = conversations(config, model, text, codec, device)
        vocabulary = model.config.layout.vocabulary
        size = config.loop.batch_size
        rows = team().rows(size, config.micro_batch)
        self.batcher = Batcher(vocabulary, rows, config.pack, device)
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
        return next_token_loss(self.base, part, self.config.text_weight)


def next_token_loss(
    model: UnifiedForConditionalGeneration, part: Batch, text_weight: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """A micro-batch's share of the step's mean over all targets, a text's weighing `text_weight`
    times a code's; and its shares of the means of each kind."""
    text, image = model.target_losses(part.ids, part.views, part.labels, positions=part.positions)
    whole = text_weight * part.texts + part.codes
    loss = (text_weight * text.sum() + image.sum()) / whole
    return loss, {
        "text_loss": told(text.sum()) / max(1, part.texts),
        "image_loss": told(image.sum()) / max(1, part.codes),
    }


def adapted(
    config: StageConfig, model: UnifiedForConditionalGeneration, seed: int
) -> torch.nn.Module:
    """What a stage trains: the model, or an adapter that is put on it in place."""
    if config.lora is None:
        return model
    lora = config.lora
    torch.manual_seed(seed)
    return adapters.create(
        model, lora.targets, lora.whole, "", r=lora.rank, lora_alpha=lora.alpha,
        lora_dropout=lora.dropout, use_dora=lora.dora, use_rslora=lora.rslora,
    )  # fmt: skip


def train_stage(
    name: str,
    stage: Stage,
    config: StageConfig,
    engine: Engine,
    text: TextTokenizer | PublishedTokenizer,
    folder: Path,
    *,
    seed: int,
    device: str,
    words: list[int] | None = None,
    progress: bool = True,
) -> None:
    """Run one stage on its model, in place; `engine` draws samples with it.

    Args:
        words: ids of a text whose perplexity is logged beside the samples.
    """

    def show(step: int) -> dict[str, float]:
        if engine.codec.decodes:
            target = folder / "samples" / f"step-{step:06d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            sheet(engine, text, seed=seed).save(target)
        return {"text_perplexity": perplexity(engine.model, words)} if words else {}

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


def sheet(
    engine: Engine, text: TextTokenizer | PublishedTokenizer, *, seed: int, count: int = 12
) -> Image.Image:
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
    engine.fixed = None  # its cache and graphs would stay on the GPU while training goes on
    engine.model.train(training)
    return captioned([UnifiedImageProcessor.picture(r.pictures[0]) for r in replies], prompts)


def assemble(
    model: UnifiedForConditionalGeneration,
    text: TextTokenizer | PublishedTokenizer,
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
