"""Messages <-> ids: the Hugging Face processor of the model.

A message is {"role", "content"}; content is a string or parts {"type": "text", "text"} and
{"type": "image", "image": PIL.Image}. Text never becomes a control token: every part is encoded
on its own and control ids are put between by the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    ProcessorMixin,
)
from transformers.image_processing_utils import BaseImageProcessor

from unified.configuration import UnifiedConfig
from unified.media.picture import square
from unified.sequence import Layout, Picture, Text, Turn
from unified.tokenizers.text import TextTokenizer
from unified.vocabulary import Vocabulary


class UnifiedImageProcessor(BaseImageProcessor):
    """A picture of any size -> (C, side, side) in [-1, 1].

    A picture that is not square is padded with the mean colour of its border, then resized by
    area, so that a toybox picture shown enlarged comes back exactly.
    """

    model_input_names = ["pixel_values"]

    def __init__(self, image_size: int = 64, **kwargs: Any):
        super().__init__(**kwargs)
        self.image_size = image_size

    def preprocess(self, images: Any, **kwargs: Any) -> BatchFeature:
        images = images if isinstance(images, list | tuple) else [images]
        pixels = torch.stack([self.pixels(image) for image in images])
        return BatchFeature({"pixel_values": pixels})

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """One picture, (3, side, side)."""
        image = square(image.convert("RGB"))
        side = self.image_size
        if image.width != side:
            method = Image.Resampling.BOX if image.width > side else Image.Resampling.BICUBIC
            image = image.resize((side, side), method)
        array = np.asarray(image, np.float32) / 127.5 - 1
        return torch.from_numpy(array).permute(2, 0, 1).contiguous()

    @staticmethod
    def picture(pixels: torch.Tensor) -> Image.Image:
        """Inverse of `pixels`, (3, H, W) -> RGB."""
        array = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return Image.fromarray(array.permute(1, 2, 0).cpu().numpy())


@dataclass(frozen=True)
class Prompt:
    """ids of a conversation with the reply opened; its views (N, C, H, W), None without any."""

    ids: tuple[int, ...]
    views: torch.Tensor | None


class UnifiedProcessor(ProcessorMixin):
    """Text tokenizer and picture preprocessing of one model, and the layout of its sequences."""

    def __init__(
        self,
        image_processor: UnifiedImageProcessor,
        tokenizer: TextTokenizer,
        codebooks: Sequence[int] = (2048,),
        books: Sequence[int] = (0,) * 64,
        view_length: int = 16,
        chat_template: str | None = None,
        **kwargs: Any,
    ):
        self.codebooks, self.books = list(codebooks), list(books)
        self.view_length = view_length
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def of(cls, config: UnifiedConfig, tokenizer: TextTokenizer) -> UnifiedProcessor:
        """The processor of a model."""
        layout = config.layout
        return cls(
            UnifiedImageProcessor(config.vision_config.image_size),
            tokenizer,
            codebooks=layout.codebooks,
            books=layout.books,
            view_length=layout.view_length,
        )

    @property
    def layout(self) -> Layout:
        vocabulary = Vocabulary(self.tokenizer.vocab_size, sum(self.codebooks))
        return Layout(vocabulary, tuple(self.codebooks), tuple(self.books), self.view_length)

    def prompt(
        self,
        messages: list[dict[str, Any]],
        encode: Callable[[torch.Tensor], list[int]],
        user_picture: str = "codes+view",
    ) -> Prompt:
        """Flatten messages for a reply.

        Args:
            encode: one picture's pixels (C, H, W) -> its codes; for pictures that stand as codes.
            user_picture: "codes+view" or "view".

        Raises:
            ValueError: a message is malformed; it is named by its place.
        """
        turns, views = [], []
        for place, message in enumerate(messages):
            parts: list[Text | Picture] = []
            role, content = read_message(message, place)
            for part in content:
                if isinstance(part, str):
                    parts.append(Text(tuple(self.tokenizer.ids(part))))
                    continue
                pixels = self.image_processor.pixels(part)
                as_codes = role == "assistant" or user_picture == "codes+view"
                parts.append(Picture(tuple(encode(pixels)) if as_codes else None))
                views.append(pixels)
            turns.append(Turn(role, tuple(parts)))
        ids = self.layout.flatten(turns, reply=True).ids
        return Prompt(tuple(ids), torch.stack(views) if views else None)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Plain pieces: text(s) -> input_ids (lists), picture(s) -> pixel_values."""
        out: dict[str, Any] = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            out["input_ids"] = [self.tokenizer.ids(t) for t in texts]
        if images is not None:
            out |= self.image_processor.preprocess(images)
        return BatchFeature(out)


def read_message(message: dict[str, Any], place: int = 0) -> tuple[str, list[str | Image.Image]]:
    """Role and parts of one message.

    Raises:
        ValueError: unknown role, part type or value.
    """
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant"):
        raise ValueError(f"message {place}: role is {role!r}; one of user, assistant")
    if isinstance(content, str):
        return role, [content]
    if not isinstance(content, list):
        given = type(content).__name__
        raise ValueError(f"message {place}: content is a {given}, not text or parts")
    parts: list[str | Image.Image] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif kind == "image" and isinstance(part.get("image"), Image.Image):
            parts.append(part["image"])
        else:
            raise ValueError(
                f"message {place}: a part is {str(part)[:80]!r};"
                ' use {"type": "text", "text": …} or {"type": "image", "image": PIL.Image}'
            )
    return role, parts


AutoTokenizer.register(UnifiedConfig, TextTokenizer)
AutoImageProcessor.register(UnifiedConfig, image_processor_classes={"pil": UnifiedImageProcessor})
AutoProcessor.register(UnifiedConfig, UnifiedProcessor)
