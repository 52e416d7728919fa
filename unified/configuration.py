"""Configuration of the model: decoder, understanding encoder, generation side, sequence layout."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, JanusVisionConfig, PreTrainedConfig

from unified.pattern import SLOPE, check, pictured
from unified.sequence import Frame, Layout
from unified.vocabulary import Vocabulary


class UnifiedVisionConfig(PreTrainedConfig):
    """The understanding encoder: a ViT whose patches are merged `merge` x `merge` into slots."""

    model_type = "unified_vision"

    image_size: int = 64
    patch_size: int = 8
    num_channels: int = 3
    hidden_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    merge: int = 2

    @property
    def slots(self) -> int:
        """Features of one picture, as the decoder sees them."""
        return (self.image_size // self.patch_size // self.merge) ** 2


# causal LMs whose logits are their head's of their decoder's output, and nothing else
CAUSAL_LMS = (
    *("llama", "qwen2", "qwen3", "mistral", "olmo", "olmo2", "phi3", "smollm3", "stablelm"),
    "starcoder2",
)
DECODERS = (*CAUSAL_LMS, "chameleon")
ENCODERS: dict[str, type[PreTrainedConfig]] = {
    UnifiedVisionConfig.model_type: UnifiedVisionConfig,
    JanusVisionConfig.model_type: JanusVisionConfig,
}


class UnifiedImageConfig(PreTrainedConfig):
    """The generation side: codes as input (embedding, aligner) and as output (head).

    Attributes:
        codebooks, books: sizes of the codec's codebooks, and the one of each code of a picture.
        place_embedding: add a learnt embedding of a code's place in the picture, so that a place
            can be attended to whatever its distance in the sequence (editing copies by place).
        pattern: the order in which codes are written, one of `unified.pattern.PATTERNS`; in all but
            raster several a step.
        slope: of the wavefront (`unified.pattern.wavefront`).
        grid: rows and columns of the tiles that the codes belong to, None where there are none.
        shared: first of the rows of the decoder's own embedding and head that are the codes'; then
            there is no embedding, aligner or head besides. See `Vocabulary`.
    """

    model_type = "unified_image"

    codebooks: list[int] | tuple[int, ...] = (2048,)
    books: list[int] | tuple[int, ...] = (0,) * 64
    embedding_size: int = 128
    head_size: int = 256
    place_embedding: bool = True
    pattern: str = "raster"
    slope: int = SLOPE
    grid: list[int] | tuple[int, int] | None = None
    shared: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check(self.pattern, self.slope)
        super().__post_init__(**kwargs)

    @property
    def codebook_size(self) -> int:
        """Codes of all codebooks together."""
        return sum(self.codebooks)

    @property
    def length(self) -> int:
        """Codes of one picture."""
        return len(self.books)


class UnifiedConfig(PreTrainedConfig):
    """The whole model. `text_config` is a configuration of transformers' own decoder family
    (Llama, Qwen2, Qwen3, Chameleon), and `vision_config` of our encoder or of Janus', each named by
    its `model_type`.

    Attributes:
        text_size: ids of the text range: pieces of the text tokenizer.
        user_picture: how a user's picture stands in chat: "view" or "codes+view", as trained;
            "codes" where the control ids have no view, and there is no encoder.
        training: what the recipe did, kept beside the weights.
        family: the published family these weights come from.
        control_ids: where the control tokens lie in the text range; after it if not given.
        template: the words around a conversation where roles are no tokens (`Template`).
        reread, unconditional, frame: see `Layout`; frame by the names of `Frame`.
        draws_at_once: a picture that is demanded comes without words before it.
    """

    model_type = "unified"
    sub_configs = {
        "text_config": AutoConfig,
        "vision_config": AutoConfig,
        "image_config": UnifiedImageConfig,
    }

    text_config: Any = None
    vision_config: Any = None
    image_config: Any = None
    text_size: int = 2048
    user_picture: str = "codes+view"
    training: dict | None = None
    family: str | None = None
    control_ids: dict[str, int] | None = None
    template: dict[str, Any] | None = None
    reread: bool = True
    unconditional: str = "fresh"
    frame: dict[str, Any] | None = None
    draws_at_once: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        text = self.text_config
        if not isinstance(text, PreTrainedConfig):
            values = dict(text or {})
            kind = values.pop("model_type", "qwen3")
            if kind not in DECODERS:
                raise ValueError(
                    f"decoder model_type {kind!r} is not supported; {' or '.join(DECODERS)}"
                )
            self.text_config = AutoConfig.for_model(kind, **values)
        vision = self.vision_config
        if not isinstance(vision, PreTrainedConfig):
            values = dict(vision or {})
            kind = values.pop("model_type", UnifiedVisionConfig.model_type)
            if kind not in ENCODERS:
                raise ValueError(f"encoder {kind!r} is not supported; {' or '.join(ENCODERS)}")
            self.vision_config = ENCODERS[kind](**values)
        if not isinstance(self.image_config, PreTrainedConfig):
            self.image_config = UnifiedImageConfig(**(self.image_config or {}))
        self.text_config.vocab_size = self.vocabulary.text_head
        self.text_config.tie_word_embeddings = False
        super().__post_init__(**kwargs)

    @property
    def vocabulary(self) -> Vocabulary:
        """The id space of this model."""
        image = self.image_config
        return Vocabulary.of(self.text_size, image.codebook_size, self.control_ids, image.shared)

    @property
    def layout(self) -> Layout:
        """The declared spec of this model's sequences."""
        image, vision, vocabulary = self.image_config, self.vision_config, self.vocabulary
        slots = getattr(vision, "slots", None) or vision.num_image_tokens
        return Layout(
            vocabulary,
            tuple(image.codebooks),
            tuple(image.books),
            slots if "view" in vocabulary.controls else 0,
            reread=self.reread,
            unconditional=self.unconditional,
            frame=framed(self.frame),
            pattern=pictured(image.pattern, image.length, image.grid, image.slope),
        )


def framed(values: dict[str, Any] | None) -> Frame:
    """A frame from the lists of a configuration."""
    given: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in (values or {}).items()
    }
    return Frame(**given)


AutoConfig.register("unified", UnifiedConfig)
AutoConfig.register("unified_vision", UnifiedVisionConfig)
