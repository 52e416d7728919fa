"""Messages <-> ids: the Hugging Face processor of the model.

A message is {"role", "content"}; content is a string or parts {"type": "text", "text"} and
{"type": "image", "image": PIL.Image}. Text never becomes a control token: every part is encoded
on its own and control ids are put between by the layout.

Where roles are no tokens, a `Template` says which words stand around them: data, never a program.
Its words and a message's are tokenized as the one text that they are, and only in its own words
does a special token count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
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

from unified.configuration import UnifiedConfig, framed
from unified.media.picture import square
from unified.pattern import SLOPE, pictured
from unified.sequence import Layout, Picture, Text, Turn
from unified.tokenizers.text import PublishedTokenizer, TextTokenizer
from unified.vocabulary import Vocabulary

SMALLEST = 14  # pixels that a side keeps when it is resized, as in Janus
STRIP = 16  # times its width is as long as a picture counts, where its middle is cut out


class UnifiedImageProcessor(BaseImageProcessor):
    """A picture of any size -> (C, side, side) in [-1, 1].

    A picture that is not square is padded with the mean colour of its border, then resized by
    area, so that a toybox picture shown enlarged comes back exactly.

    Args:
        background: a colour to pad with instead, after a bicubic resize: the way of Janus.
        crop: cut out the middle instead, after a resize of the shorter side: "lanczos" or
            "bicubic", the way of Chameleon.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        image_size: int = 64,
        background: Sequence[int] | None = None,
        crop: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.image_size, self.background, self.crop = image_size, background, crop

    def preprocess(self, images: Any, **kwargs: Any) -> BatchFeature:
        """One picture or several -> {"pixel_values": (N, 3, side, side)} in [-1, 1]."""
        images = images if isinstance(images, list | tuple) else [images]
        pixels = torch.stack([self.pixels(image) for image in images])
        return BatchFeature({"pixel_values": pixels})

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """One picture, (3, side, side)."""
        side = self.image_size
        if self.background is not None:
            image = _padded(image.convert("RGB"), side, self.background)
        elif self.crop is not None:
            image = _cropped(image.convert("RGB"), side, Image.Resampling[self.crop.upper()])
        else:
            image = square(image.convert("RGB"))
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


def _padded(image: Image.Image, side: int, colour: Sequence[int]) -> Image.Image:
    """The longer side resized to `side`, the shorter one padded on both ends."""
    scale = side / max(image.size)
    width, height = (max(round(length * scale), SMALLEST) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    out = Image.new("RGB", (max(width, height),) * 2, tuple(colour))
    out.paste(image, ((out.width - width) // 2, (out.height - height) // 2))
    return out


def _cropped(image: Image.Image, side: int, method: Image.Resampling) -> Image.Image:
    """The shorter side resized to `side`, the middle of the longer one."""
    short = min(image.size)
    if max(image.size) > STRIP * short:  # resized whole it would take gigabytes
        width, height = (min(length, STRIP * short) for length in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    width, height = (int(side * length / short) for length in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    return image.resize((width, height), method).crop((left, top, left + side, top + side))


@dataclass(frozen=True)
class Template:
    """The words around a conversation.

    Attributes:
        system: what comes first, left out where a picture is demanded.
        user, assistant: before and after what each says. The assistant's `before` is in two: the
            end of the prompt, and what stands between it and words already said.
        beside: between a picture and what stands beside it; twice between two pictures.
        between: between two texts that follow each other.
        bare: where a picture is demanded, no words stand around what it shall show.
    """

    system: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    beside: str = ""
    between: str = ""
    bare: bool = False

    def said(self, parts: Sequence[Any]) -> list[Any]:
        """Parts of one message, strings stripped at both ends, joined by the template's words.
        What is a piece of text is (words, whether they are the template's)."""
        out: list[Any] = []
        for k, part in enumerate(parts):
            words = isinstance(part, str)
            if words and k == 0:
                part = part.lstrip()
            if words and k == len(parts) - 1:
                part = part.rstrip()
            if k:
                pictures = [words, isinstance(parts[k - 1], str)].count(False)
                out.append((self.beside * pictures or self.between, True))
            out.append((part, False) if words else part)
        return out

    def turns(
        self, messages: Sequence[tuple[str, list[Any]]], reply: bool, draw: bool
    ) -> list[tuple[str, list[Any]]]:
        """(role, pieces) of a conversation: in the user's all that is not the assistant's."""
        if draw and self.bare:
            return Template("", ("", ""), ("", ""), self.beside, self.between).turns(
                messages, reply, draw=True
            )
        out: list[tuple[str, list[Any]]] = []
        asked: list[Any] = [] if draw else [(self.system, True)]
        for role, parts in messages:
            if role == "user":
                asked += [(self.user[0], True), *self.said(parts), (self.user[1], True)]
                continue
            asked.append((self.assistant[0], True))
            out += [("user", asked), ("assistant", [(self.assistant[1], True), *self.said(parts)])]
            asked = []
        if reply:
            asked.append((self.assistant[0], True))
        return [*out, ("user", asked)] if asked else out


@dataclass(frozen=True)
class Prompt:
    """ids of a conversation with the reply opened; its views (N, C, H, W), None without any."""

    ids: tuple[int, ...]
    views: torch.Tensor | None


class UnifiedProcessor(ProcessorMixin):
    """Text tokenizer and picture preprocessing of one model, and the layout of its sequences.

    Args:
        text_size, control_ids, template, reread, unconditional, frame: as in `UnifiedConfig`.
        shared, pattern, slope, grid: as in `UnifiedImageConfig`.
        chat_template: that of a published model, kept for those who run it; never run here.
    """

    def __init__(
        self,
        image_processor: UnifiedImageProcessor,
        tokenizer: TextTokenizer | PublishedTokenizer,
        codebooks: Sequence[int] = (2048,),
        books: Sequence[int] = (0,) * 64,
        view_length: int = 16,
        chat_template: str | None = None,
        text_size: int | None = None,
        control_ids: dict[str, int] | None = None,
        template: dict[str, Any] | None = None,
        reread: bool = True,
        unconditional: str = "fresh",
        frame: dict[str, Any] | None = None,
        shared: int | None = None,
        pattern: str = "raster",
        slope: int = SLOPE,
        grid: Sequence[int] | None = None,
        **kwargs: Any,
    ):
        self.codebooks, self.books = list(codebooks), list(books)
        self.view_length, self.text_size = view_length, text_size
        self.control_ids, self.template = control_ids, template
        self.reread, self.unconditional = reread, unconditional
        self.frame, self.shared = frame, shared
        self.pattern, self.slope, self.grid = pattern, slope, grid
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def of(
        cls,
        config: UnifiedConfig,
        tokenizer: TextTokenizer | PublishedTokenizer,
        chat_template: str | None = None,
    ) -> UnifiedProcessor:
        """The processor of a model."""
        layout, vision = config.layout, config.vision_config
        return cls(
            UnifiedImageProcessor(
                vision.image_size,
                getattr(vision, "background", None),
                getattr(vision, "crop", None),
            ),
            tokenizer,
            codebooks=layout.codebooks,
            books=layout.books,
            view_length=layout.view_length,
            chat_template=chat_template,
            text_size=config.text_size,
            control_ids=config.control_ids,
            template=config.template,
            reread=config.reread,
            unconditional=config.unconditional,
            frame=config.frame,
            shared=config.image_config.shared,
            pattern=config.image_config.pattern,
            slope=config.image_config.slope,
            grid=config.image_config.grid,
        )

    @property
    def layout(self) -> Layout:
        """The layout of ids that follows from all settings."""
        size = self.text_size or self.tokenizer.vocab_size
        return Layout(
            Vocabulary.of(size, sum(self.codebooks), self.control_ids, self.shared),
            tuple(self.codebooks),
            tuple(self.books),
            self.view_length,
            reread=self.reread,
            unconditional=self.unconditional,
            frame=framed(self.frame),
            pattern=pictured(self.pattern, len(self.books), self.grid, self.slope),
        )

    def prompt(
        self,
        messages: list[dict[str, Any]],
        encode: Callable[[torch.Tensor], list[int]],
        user_picture: str = "codes+view",
        draw: bool = False,
    ) -> Prompt:
        """Flatten messages for a reply.

        Args:
            encode: one picture's pixels (C, H, W) -> its codes; for pictures that stand as codes.
            user_picture: "codes+view", "view" or "codes"; where there is no encoder, always codes.
            draw: the reply is a picture.

        Raises:
            ValueError: a message is malformed; it is named by its place.
        """
        turns, views = self.turns(messages, encode, user_picture, reply=True, draw=draw)
        ids = self.layout.flatten(turns, reply=True).ids
        return Prompt(tuple(ids), torch.stack(views) if views else None)

    def turns(
        self,
        messages: list[dict[str, Any]],
        encode: Callable[[torch.Tensor], list[int]],
        user_picture: str = "codes+view",
        *,
        reply: bool = False,
        draw: bool = False,
    ) -> tuple[list[Turn], list[torch.Tensor]]:
        """Messages as turns for the layout, and the pixels (C, H, W) of their views in order.

        A picture of the assistant's stands as it was written: as codes, and as the view where it
        was read back. A model that reads nothing back sees it as it sees a user's.
        """
        views: list[torch.Tensor] = []
        seen = self.layout.views

        def shown(image: Image.Image, role: str) -> Picture:
            pixels = self.image_processor.pixels(image)
            written = role == "assistant" and self.reread
            if seen:
                views.append(pixels)
            as_codes = written or not seen or user_picture == "codes+view"
            return Picture(tuple(encode(pixels)) if as_codes else None, view=seen)

        read = [read_message(message, place) for place, message in enumerate(messages)]
        said: list[tuple[str, list[Any]]] = [
            (role, [self.typed(p, role) if isinstance(p, str) else shown(p, role) for p in content])
            for role, content in read
        ]
        if self.template is not None:
            said = Template(**self.template).turns(said, reply, draw)
        return [Turn(role, tuple(self._parts(pieces))) for role, pieces in said], views

    def typed(self, text: str, role: str) -> str:
        """A text as the model reads it: a user's without the typography that our own tokenizer has
        only bytes for, in training and in chat; a reply, and all of a published model's, as it
        is."""
        own = isinstance(self.tokenizer, TextTokenizer)
        return self.tokenizer.plain(text) if own and role == "user" else text

    def _parts(self, pieces: list[Any]) -> list[Text | Picture]:
        """Strings, or runs of a template's words and a message's, become text."""
        parts: list[Text | Picture] = []
        for kind, run in groupby(pieces, type):
            if kind is str:
                parts += [Text(tuple(self.tokenizer.ids(text))) for text in run]
            elif kind is tuple:
                parts.append(Text(tuple(self.tokenizer.written(run))))
            else:
                parts += run
        return parts

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
        ValueError: no message at all; unknown role, part type or value.
    """
    if not isinstance(message, dict):
        raise ValueError(
            f'message {place} is {str(message)[:80]!r}; use {{"role": "user", "content": …}}'
        )
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


AutoTokenizer.register(UnifiedConfig, TextTokenizer, PublishedTokenizer)
AutoImageProcessor.register(UnifiedConfig, image_processor_classes={"pil": UnifiedImageProcessor})
AutoProcessor.register(UnifiedConfig, UnifiedProcessor)
