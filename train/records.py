"""The one record that fine-tuning reads: messages of content parts in order, and what is learnt.

A record in JSON is {"id", "messages": [{"role", "content"}], "rejected"}, content a string or parts
{"type": "text", "text"} and {"type": "image" | "audio" | "video", "path" | "base64" | "url"}, each
with an optional "loss". Knows nothing about models, tokens or other people's formats.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from PIL import Image

KINDS = ("text", "image", "audio", "video")
ROLES = ("system", "user", "assistant")

Media = Path | str | bytes | Image.Image  # a file, a URL, a file's bytes, a picture
Find = Callable[[str], Path | bytes]  # the name of a file, as data gives it -> the file


class DataError(ValueError):
    """What is wrong with data, in one sentence: the file, its line or row, the column."""


@dataclass(frozen=True)
class Part:
    """One piece of a message.

    Attributes:
        type: one of KINDS.
        text: the words of a text part.
        media: of every other part.
        loss: whether its tokens are learnt; None where the role of its message says so.
        name: how errors call the media.
    """

    type: str
    text: str = ""
    media: Media | None = None
    loss: bool | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.type not in KINDS:
            raise DataError(f"a part of type {self.type!r}; one of {', '.join(KINDS)}")
        if not isinstance(self.text, str):
            raise DataError(f"a text part holds {shown(self.text)}, not text")
        if (self.media is None) != (self.type == "text"):
            what = "media in a text part" if self.media is not None else f"{self.type} without any"
            raise DataError(f"{what}; only the other parts carry media, and all of them do")
        if not self.name and isinstance(self.media, Path | str):
            object.__setattr__(self, "name", str(self.media))


@dataclass(frozen=True)
class Message:
    """A turn. Of its parts, those without a `loss` are learnt where the assistant says them."""

    role: str
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(f"role {self.role!r}; one of {', '.join(ROLES)}")
        own = self.role == "assistant"
        parts = (replace(p, loss=own) if p.loss is None else p for p in self.parts)
        object.__setattr__(self, "parts", tuple(parts))


@dataclass(frozen=True)
class Record:
    """A conversation to learn from.

    Attributes:
        rejected: in preference data, what is said worse in place of the reply: of all that stands
            after the last message of the user.
        source: where the record is from, as "data.jsonl:12".
    """

    id: str
    messages: tuple[Message, ...]
    rejected: tuple[Message, ...] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if not self.messages:
            raise DataError("column 'messages' is empty; a record needs at least one message")
        if self.rejected is None:
            return
        if not self.reply:
            raise DataError("a rejected reply but no reply; end the messages with the better one")
        if not self.rejected or any(m.role != "assistant" for m in self.rejected):
            raise DataError("what is rejected must be messages of the assistant alone")

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything up to the last message that is not the assistant's."""
        others = [k for k, message in enumerate(self.messages) if message.role != "assistant"]
        return self.messages[: others[-1] + 1] if others else ()

    @property
    def reply(self) -> tuple[Message, ...]:
        """What the assistant says last."""
        return self.messages[len(self.prompt) :]

    @property
    def rejected_messages(self) -> tuple[Message, ...]:
        """The conversation that ends in the rejected reply."""
        assert self.rejected is not None
        return self.prompt + self.rejected

    def parts(self) -> Iterator[Part]:
        """All parts in order, those that are rejected last."""
        for message in self.messages + (self.rejected or ()):
            yield from message.parts


def shown(value: Any) -> str:
    """A value as errors quote it."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def on_disk(folder: Path) -> Find:
    """Files by their names relative to `folder`."""
    return lambda name: folder / name


# --- JSON ----------------------------------------------------------------------------------------


def media_of(value: Any, find: Find) -> tuple[Media, str]:
    """What data give for a file, and how it is called: a path, a URL, a data: URL, bytes, a
    picture, or Hugging Face's {"path", "bytes"}.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(value, Image.Image):
        return value, "a picture"
    if isinstance(value, bytes | bytearray):
        return bytes(value), f"{len(value)} bytes"
    if isinstance(value, Path):
        return value, str(value)
    if isinstance(value, dict):
        name = value.get("path") or value.get("url")
        if value.get("bytes") is not None:
            return bytes(value["bytes"]), str(name or f"{len(value['bytes'])} bytes")
        value = name
    if not isinstance(value, str) or not value:
        raise DataError(f"{shown(value)} is no file; give a path")
    if value.startswith("data:"):
        return decoded(value.partition(",")[2]), value[:24]
    if value.startswith(("http://", "https://")):
        return value, value
    found = find(unquote(value[7:]) if value.startswith("file://") else value)
    return found, value if isinstance(found, bytes) else str(found)


def decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise DataError(f"{shown(text)} is not base64") from None


def part_from(value: Any, find: Find) -> Part:
    """A part of JSON; also OpenAI's `image_url` and `input_audio`.

    Raises:
        DataError: it is none, or media without a file.
    """
    if isinstance(value, str):
        return Part("text", value)
    if not isinstance(value, dict):
        raise DataError(f"a part is {shown(value)}, not an object with a type")
    kind, loss = value.get("type"), loss_of(value)
    if kind == "text":
        return Part("text", value.get("text") or "", loss=loss)
    if kind in ("image_url", "audio_url", "video_url"):
        link = value.get(kind)
        kind, value = kind[:5], {"url": link.get("url") if isinstance(link, dict) else link}
    elif kind == "input_audio" and isinstance(value.get("input_audio"), dict):
        kind, value = "audio", {"base64": value["input_audio"].get("data")}
    if kind not in KINDS:
        raise DataError(f"a part of type {shown(kind)}; one of {', '.join(KINDS)}")
    if value.get("base64") is not None:
        data = decoded(value["base64"])
        return Part(kind, media=data, loss=loss, name=f"{kind} of {len(data)} bytes")
    given = (value.get(key) for key in ("path", "url", "bytes", kind))
    found = next((item for item in given if item is not None), None)
    if found is None:
        raise DataError(f"a part of type '{kind}' names no file; give it a path")
    media, name = media_of(found, find)
    return Part(kind, media=media, loss=loss, name=name)


def loss_of(value: dict[str, Any]) -> bool | None:
    """The `loss` of a message or part: true or false, also as 1 or 0.

    Raises:
        DataError: it is something else.
    """
    loss = value.get("loss")
    if loss is None or isinstance(loss, bool):
        return loss
    if loss in (0, 1):
        return bool(loss)
    raise DataError(f"loss is {shown(loss)}; give true or false")


def messages_from(values: Any, find: Find, column: str = "messages") -> tuple[Message, ...]:
    """Messages of JSON; a `loss` of a message holds for those of its parts without their own.

    Raises:
        DataError: names the column and the message.
    """
    if not isinstance(values, list):
        raise DataError(f"column {column!r} is {shown(values)}, not a list of messages")
    return tuple(_message(value, find, f"column {column!r}, message {k + 1}: ")
                 for k, value in enumerate(values))  # fmt: skip


def _message(value: Any, find: Find, where: str) -> Message:
    try:
        if not isinstance(value, dict) or "role" not in value:
            raise DataError(f"{shown(value)} is no message with a role and content")
        content = value.get("content")
        if not isinstance(content, str | list):
            raise DataError(f"content is {shown(content)}, not text or parts")
        parts = [part_from(v, find) for v in ([content] if isinstance(content, str) else content)]
        loss = loss_of(value)
        return Message(
            value["role"], tuple(replace(p, loss=loss) if p.loss is None else p for p in parts)
        )
    except DataError as error:
        raise DataError(f"{where}{error}") from None


def record_from(value: Any, find: Find, id: str = "", source: str = "") -> Record:
    """Inverse of `to_json`.

    Raises:
        DataError: names the column that is missing, unknown or malformed.
    """
    if not isinstance(value, dict) or value.get("messages") is None:
        raise DataError("no column 'messages'")
    unknown = [key for key in value if key not in ("id", "messages", "rejected", "source")]
    if unknown:
        raise DataError(f"unknown column {unknown[0]!r}; one of id, messages, rejected")
    rejected = value.get("rejected")
    return Record(
        str(id if value.get("id") is None else value["id"]),
        messages_from(value["messages"], find),
        None if rejected is None else messages_from(rejected, find, "rejected"),
        source,
    )


def to_json(record: Record, folder: Path | None = None) -> dict[str, Any]:
    """A record as JSON; files below `folder` are named relative to it, inline media in base64."""
    value: dict[str, Any] = {"id": record.id, "messages": _to_json(record.messages, folder)}
    if record.rejected is not None:
        value["rejected"] = _to_json(record.rejected, folder)
    return value


def _to_json(messages: tuple[Message, ...], folder: Path | None) -> list[dict[str, Any]]:
    return [
        {"role": m.role, "content": [_part_to_json(part, m.role, folder) for part in m.parts]}
        for m in messages
    ]


def _part_to_json(part: Part, role: str, folder: Path | None) -> dict[str, Any]:
    value: dict[str, Any] = {"type": part.type}
    match part.media:
        case None:
            value["text"] = part.text
        case Path() as path:
            path = path.absolute()
            below = folder is not None and path.is_relative_to(folder.absolute())
            value["path"] = str(path.relative_to(folder.absolute()) if below and folder else path)
        case str() as url:
            value["url"] = url
        case bytes() as data:
            value["base64"] = base64.b64encode(data).decode()
        case Image.Image() as image:
            buffer = BytesIO()
            image.save(buffer, "PNG")
            value["base64"] = base64.b64encode(buffer.getvalue()).decode()
    if part.loss != (role == "assistant"):
        value["loss"] = part.loss
    return value


def write(records: Iterable[Record], path: Path) -> None:
    """Write records as JSON lines, whole or not at all; `unified.train.readers.read` reads them."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(to_json(record, path.parent), ensure_ascii=False) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
