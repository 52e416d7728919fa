"""Configuration of the model: decoder, understanding encoder, generation side, sequence layout."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from unified.sequence import Layout
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


class UnifiedImageConfig(PreTrainedConfig):
    """The generation side: codes as input (embedding, aligner) and as output (head).

    Attributes:
        codebooks, books: sizes of the codec's codebooks, and the one of each code of a picture.
        place_embedding: add a learnt embedding of a code's place in the picture, so that a place
            can be attended to whatever its distance in the sequence (editing copies by place).
    """

    model_type = "unified_image"

    codebooks: list[int] | tuple[int, ...] = (2048,)
    books: list[int] | tuple[int, ...] = (0,) * 64
    embedding_size: int = 128
    head_size: int = 256
    place_embedding: bool = True

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
    (Llama, Qwen3), named by its `model_type`.

    Attributes:
        text_size: pieces of the text tokenizer; control ids follow them.
        user_picture: how a user's picture stands in chat: "view" or "codes+view", as trained.
        training: what the recipe did, kept beside the weights.
    """

    model_type = "unified"
    sub_configs = {
        "text_config": AutoConfig,
        "vision_config": UnifiedVisionConfig,
        "image_config": UnifiedImageConfig,
    }

    text_config: Any = None
    vision_config: Any = None
    image_config: Any = None
    text_size: int = 2048
    user_picture: str = "codes+view"
    training: dict | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        text = self.text_config
        if not isinstance(text, PreTrainedConfig):
            values = dict(text or {})
            kind = values.pop("model_type", "qwen3")
            if kind not in ("llama", "qwen3"):
                raise ValueError(f"decoder model_type {kind!r} is not supported; llama or qwen3")
            self.text_config = AutoConfig.for_model(kind, **values)
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = UnifiedVisionConfig(**(self.vision_config or {}))
        if not isinstance(self.image_config, PreTrainedConfig):
            self.image_config = UnifiedImageConfig(**(self.image_config or {}))
        self.text_config.vocab_size = self.vocabulary.text_head
        self.text_config.tie_word_embeddings = False
        super().__post_init__(**kwargs)

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.text_size, self.image_config.codebook_size)

    @property
    def layout(self) -> Layout:
        """The declared spec of this model's sequences."""
        image = self.image_config
        return Layout(
            self.vocabulary,
            tuple(image.codebooks),
            tuple(image.books),
            self.vision_config.slots,
        )


AutoConfig.register("unified", UnifiedConfig)
