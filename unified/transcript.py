"""A conversation on disk: one JSON file, its pictures as PNG files beside it.

In memory a conversation is a list of Hugging Face messages, `{"role", "content": [parts]}`, a part
being `{"type": "text", "text"}` or `{"type": "image", "image": PIL.Image}`. On disk a picture part
has a file name in place of the pixels. What is loaded is what was saved, to the pixel.
Knows nothing about models or terminals.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from unified.media.picture import (
    MediaError,
    free_names,
    metadata,
    named,
    read,
    save_png,
    write_atomic,
)

NAME = "transcript.json"
FORMAT = "unified transcript 1"
ROLES = ("user", "assistant")
MAX_BYTES = 32 * 2**20

Message = dict[str, Any]


@dataclass
class Transcript:
    """Messages, and facts about how they came about (model, seed, settings).

    A picture part may carry "path", the file it is saved in already; it is used again where that
    file lies beside the transcript and holds the same pixels.
    """

    messages: list[Message]
    facts: dict[str, Any] = field(default_factory=dict)


def save(transcript: Transcript, path: Path, overwrite: bool = True) -> Path:
    """Write the pictures, then the JSON; a kill leaves the transcript that was there before.

    Args:
        path: a .json file, or a folder (made if need be) that gets a transcript.json.
        overwrite: False leaves an existing transcript alone.

    Raises:
        FileExistsError: the file is there and `overwrite` is False.
        MediaError: the place cannot be written to, or holds something else, said in one sentence.
    """
    path = file_of(path)
    try:
        if overwrite and path.is_file() and not _ours(path):
            raise MediaError(f"{named(path)}: there is a file that is no transcript; name another")
        path.parent.mkdir(parents=True, exist_ok=True)
        messages = [
            {**message, "content": [_stored(part, path) for part in parts(message)]}
            for message in transcript.messages
        ]
        data = {"format": FORMAT, **transcript.facts, "messages": messages}
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        write_atomic(path, text.encode("utf-8", "replace"), overwrite)
    except OSError as error:
        if isinstance(error, FileExistsError) and path.is_file():
            raise
        reason = error.strerror or "unknown error"
        raise MediaError(
            f"{named(path)}: cannot be written ({reason}); choose another place"
        ) from None
    return path


def load(path: Path) -> Transcript:
    """Read what `save` wrote.

    Args:
        path: the .json file or its folder.

    Raises:
        ValueError: the file or one of its pictures is missing or damaged; one sentence.
    """
    path = file_of(path)
    name = named(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{name}: too large for a transcript; give the file a chat saved")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{name}: no such transcript; check the path") from None
    except OSError as error:
        raise ValueError(f"{name}: cannot be read ({error.strerror}); check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"{name}: not a transcript; give the file a chat saved") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{name}: not a transcript; give the file a chat saved")
    stored = data.get("messages")
    if not isinstance(stored, list):
        raise ValueError(f"{name}: damaged: it has no list of messages; start a new chat")
    messages = [_message(stored[i], i, path) for i in range(len(stored))]
    facts = {key: data[key] for key in data if key not in {"format", "messages"}}
    return Transcript(messages, facts)


def file_of(path: Path) -> Path:
    """The JSON file that `path`, a file or a folder, stands for."""
    return path if path.suffix.lower() == ".json" and not path.is_dir() else path / NAME


def _ours(path: Path) -> bool:
    """Whether a file is a transcript, or an empty one that may become one."""
    held = path.read_bytes()
    return not held.strip() or FORMAT.encode() in held


def parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The content parts of a message; a plain string is one part of text."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def text_of(message: Mapping[str, Any]) -> str:
    """The words of a message."""
    return " ".join(part["text"] for part in parts(message) if part["type"] == "text")


def pictures_of(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All picture parts, in order."""
    return [part for m in messages for part in parts(m) if part["type"] == "image"]


def _stored(part: dict[str, Any], path: Path) -> dict[str, Any]:
    """A part as it stands in the JSON; its picture is in a file beside `path` afterwards."""
    if part["type"] != "image":
        return part
    image: Image.Image = part["image"].convert("RGB")
    known = Path(part.get("path") or f"{path.stem}-picture.png")
    for candidate in free_names(path.with_name(known.name)):
        if _holds(candidate, image):
            break
        try:
            save_png(image, candidate, _made(known), overwrite=False)
            break
        except FileExistsError:  # another picture of that name
            continue
    part.setdefault("path", str(candidate))
    return {"type": "image", "path": candidate.name}


def _made(path: Path) -> dict[str, Any]:
    """What a picture's file says about how it was made, if it is there."""
    try:
        return metadata(path)
    except MediaError:
        return {}


def _holds(path: Path, image: Image.Image) -> bool:
    """Whether a file is there and has exactly these pixels."""
    if not path.is_file():
        return False
    try:
        found = read(path)
    except MediaError:
        return False
    return found.size == image.size and found.tobytes() == image.tobytes()


def _message(data: Any, index: int, path: Path) -> Message:
    where = f"{named(path)}: damaged at message {index + 1}"
    if not isinstance(data, dict) or data.get("role") not in ROLES:
        raise ValueError(f"{where}: its role is not one of {', '.join(ROLES)}; start a new chat")
    if not isinstance(data.get("content"), list):
        raise ValueError(f"{where}: it has no list of content; start a new chat")
    return {**data, "content": [_part(part, where, path) for part in data["content"]]}


def _part(data: Any, where: str, path: Path) -> dict[str, Any]:
    kind = data.get("type") if isinstance(data, dict) else None
    if kind == "text" and isinstance(data.get("text"), str):
        return {"type": "text", "text": data["text"]}
    if kind == "image" and isinstance(data.get("path"), str):
        # the name alone: a transcript points at nothing outside its own folder
        file = path.parent / Path(data["path"]).name
        return {"type": "image", "image": read(file), "path": str(file)}
    raise ValueError(f"{where}: a part is neither text nor a picture; start a new chat")
