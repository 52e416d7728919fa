"""A reply while it is written: ids -> events, and the message that they grow into.

Knows the layout of ids and how text is spelt, and nothing of what chooses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from unified import jacobi
from unified.engine import Reply
from unified.processing import UnifiedImageProcessor
from unified.sequence import Layout
from unified.tokenizers.text import PublishedTokenizer, TextTokenizer


@dataclass(frozen=True)
class TextDelta:
    """Some more text of the reply."""

    text: str


@dataclass(frozen=True)
class ImageStart:
    """The model opened a picture."""


@dataclass(frozen=True)
class ImageProgress:
    """done of total codes are written."""

    done: int
    total: int


@dataclass(frozen=True)
class ImageDone:
    """A picture is drawn: RGB, of the codec's size."""

    image: Image.Image


@dataclass(frozen=True)
class Notice:
    """Something the user should know, in a sentence."""

    text: str


@dataclass(frozen=True)
class End:
    """The reply is whole; reason: "end" or "length"."""

    reason: str


Event = TextDelta | ImageStart | ImageProgress | ImageDone | Notice | End


def read(
    written: Iterable[tuple[int, Reply]],
    layout: Layout,
    tokenizer: TextTokenizer | PublishedTokenizer,
    on_image: Callable[[Image.Image, list[int]], None],
) -> Iterator[Event]:
    """Ids as they are written -> events. Text is given out when its bytes are whole.

    Args:
        written: each id with the reply so far, whose `pictures` hold (3, H, W) of all that are
            whole.
        on_image: told of each picture and its codes in raster order, before its `ImageDone`.
    """
    vocabulary = layout.vocabulary
    opening, closing = vocabulary.control("image"), vocabulary.control("image_end")
    pending: list[int] = []
    codes: list[int] = []
    drawn, reply = 0, Reply()
    reading, seen = False, vocabulary.controls.get("view_end")  # what was drawn is read back
    drawing = False
    for token, reply in written:
        if not drawing and vocabulary.kind(token) == "text":
            pending.append(token)
            text = tokenizer.text(pending)
            if not text.endswith("\ufffd"):
                yield TextDelta(text)
                pending = []
            continue
        if pending:
            yield TextDelta(tokenizer.text(pending))
            pending = []
        if token == opening and not reading:
            drawing = True
            yield ImageStart()
        elif token >= vocabulary.image_start:
            codes.append(token - vocabulary.image_start)
            yield ImageProgress(len(codes), layout.image_length)
        elif token == closing and codes:
            image = counted(UnifiedImageProcessor.picture(reply.pictures[drawn]), reply)
            drawn += 1
            on_image(image, layout.order.read(codes))
            codes, drawing, reading = [], False, layout.reread
            yield ImageDone(image)
        elif token == seen:
            reading = False
    yield End(reply.reason)


def add_event(parts: list[dict[str, Any]], event: Event) -> None:
    """Grow a message's content by an event."""
    if isinstance(event, TextDelta):
        if parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += event.text
        else:
            parts.append({"type": "text", "text": event.text})
    elif isinstance(event, ImageDone):
        parts.append({"type": "image", "image": event.image})


def counted(image: Image.Image, reply: Reply) -> Image.Image:
    """A picture that says how many passes it took, where it was drawn in parallel."""
    if isinstance(reply, jacobi.Drawn):
        image.info["passes"] = reply.passes
    return image
