"""What a reader of a format is, and the pieces that readers share.

A reader says which samples are of its format and turns one into records. Adding one takes a class
with `@register`, in a file that `unified.train.readers` imports. Placeholders in text are bound to
files by position, and only as many as there are files: any other stays the text that it is.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from unified.train.records import (
    DataError,
    Message,
    Part,
    Record,
    loss_of,
    media_of,
    part_from,
    shown,
)
from unified.train.sources import Sample

MEDIA = ("image", "audio", "video")
MARK = re.compile(r"<(image|audio|video)>")
UNSUPPORTED = {"tools": "tool calls", "objects": "grounding", "kto_tag": "unpaired preference"}

Values = Mapping[str, Any]
Files = dict[str, list[Part]]  # by kind, in order


class Reader(ABC):
    """A format. `per_sample`: how many records each of its samples gives."""

    name: ClassVar[str]
    per_sample: int = 1

    @abstractmethod
    def detects(self, values: Values) -> bool:
        """Whether a sample with these columns is of this format."""

    @abstractmethod
    def records(self, sample: Sample) -> list[Record]:
        """The records of a sample, `per_sample` of them.

        Raises:
            DataError: names the column that is missing or malformed.
        """


READERS: dict[str, Reader] = {}  # in the order in which they are asked
Kind = TypeVar("Kind", bound=type[Reader])


def register(reader: Kind) -> Kind:
    READERS[reader.name] = reader()
    return reader


@dataclass(frozen=True)
class Turn:
    """A message as a format has it; content is text, or parts in JSON."""

    role: str
    content: Any
    loss: bool | None = None


def turns_of(
    values: Any,
    column: str,
    roles: Mapping[str, str] | None = None,
    keys: tuple[str, str] = ("role", "content"),
) -> list[Turn]:
    """Messages of a column.

    Args:
        roles: the format's names of roles -> ours; None where they are ours.
        keys: of the role and of the content.

    Raises:
        DataError: names the column and the message.
    """
    if not isinstance(values, list):
        raise DataError(f"column {column!r} is {shown(values)}, not a list of messages")
    turns = []
    for k, value in enumerate(values, 1):
        where = f"column {column!r}, message {k}"
        if not isinstance(value, dict) or any(value.get(key) is None for key in keys):
            raise DataError(f"{where}: {shown(value)} has no {keys[0]!r} and {keys[1]!r}")
        role, content = (value[key] for key in keys)
        if roles is not None:
            if role not in roles:
                raise DataError(f"{where}: role {shown(role)}; one of {', '.join(roles)}")
            role = roles[role]
        turns.append(Turn(role, content, loss_of(value)))
    return turns


def listed(value: Any) -> list[Any]:
    """A column that holds one thing or several, as a list."""
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def files_of(sample: Sample, prefix: str = "") -> Files:
    """The files in the columns image(s), audio(s) and video(s), behind `prefix`."""
    files: Files = {}
    for kind in MEDIA:
        for column in (f"{prefix}{kind}s", f"{prefix}{kind}"):
            for k, value in enumerate(listed(sample.get(column)), 1):
                files.setdefault(kind, []).append(file_part(sample, kind, value, column, k))
    return files


def file_part(sample: Sample, kind: str, value: Any, column: str, entry: int = 1) -> Part:
    """The part that a value of a column is.

    Raises:
        DataError: it is no file.
    """
    try:
        media, name = media_of(value, sample.place)
        return Part(kind, media=media, name=name)
    except DataError as error:
        raise DataError(f"column {column!r}, entry {entry}: {error}") from None


class Binder:
    """Puts files where messages have a place for them, in order.

    Args:
        marks: whether "<image>" and the like in text are such places. A newline beside one belongs
            to it.
    """

    def __init__(self, sample: Sample, files: Files, marks: bool = True):
        self.sample, self.marks = sample, marks
        self.left = {kind: deque(files.get(kind, [])) for kind in MEDIA}
        self.taken = dict.fromkeys(MEDIA, 0)

    def take(self, kind: str) -> Part:
        self.taken[kind] += 1
        return self.left[kind].popleft()

    def turn(self, turn: Turn) -> Message:
        if isinstance(turn.content, str):
            parts = self.text(turn.content) if self.marks else [Part("text", turn.content)]
        elif isinstance(turn.content, list):
            parts = [self.part(value) for value in turn.content]
        else:
            raise DataError(f"content is {shown(turn.content)}, not text or parts")
        own = [replace(part, loss=turn.loss) if part.loss is None else part for part in parts]
        return Message(turn.role, tuple(own))

    def text(self, text: str) -> list[Part]:
        parts, at = [], 0
        for mark in MARK.finditer(text):
            if not self.left[mark[1]]:
                continue
            parts.append(Part("text", text[at : mark.start()].removesuffix("\n")))
            parts.append(self.take(mark[1]))
            at = mark.end() + text.startswith("\n", mark.end())
        parts.append(Part("text", text[at:]))
        return [part for part in parts if part.media is not None or part.text]

    def part(self, value: Any) -> Part:
        if not bare(value):
            return part_from(value, self.sample.place)
        kind = value["type"]
        if not self.left[kind]:
            raise DataError(f"a part of type '{kind}', but column '{kind}s' has no more files")
        return replace(self.take(kind), loss=loss_of(value))

    def messages(self, turns: Iterable[Turn], spare: bool = False) -> list[Message]:
        """The messages with their files. Files without any place stand first in what the user
        says first.

        Args:
            spare: files may be left over.

        Raises:
            DataError: names the message; or there are fewer places than files.
        """
        out = []
        for k, turn in enumerate(turns, 1):
            try:
                out.append(self.turn(turn))
            except DataError as error:
                raise DataError(f"message {k}: {error}") from None
        if spare:
            return out
        front: list[Part] = []
        for kind, files in self.left.items():
            if files and self.taken[kind]:
                count = self.taken[kind]
                raise DataError(f"{len(files) + count} files in column '{kind}s', but places for "
                                f"{count}; write <{kind}> once for each")  # fmt: skip
            front += files
        if front and out:
            users = [k for k, message in enumerate(out) if message.role == "user"]
            first = users[0] if users else 0
            out[first] = replace(out[first], parts=(*front, *out[first].parts))
        return out


def bare(part: Any) -> bool:
    """Whether a part in JSON is a place for a file that is named elsewhere."""
    if not isinstance(part, dict) or part.get("type") not in MEDIA:
        return False
    return all(part.get(key) is None for key in ("path", "url", "base64", "bytes", part["type"]))


def places(turns: Iterable[Turn], kind: str, marks: bool) -> int:
    """Places for files of a kind."""
    count = 0
    for turn in turns:
        if isinstance(turn.content, str):
            count += turn.content.count(f"<{kind}>") if marks else 0
        elif isinstance(turn.content, list):
            count += sum(bare(part) and part["type"] == kind for part in turn.content)
    return count


def refuse_unsupported(sample: Sample) -> None:
    """Raise DataError where ignoring a column would change what is learnt."""
    for column, what in UNSUPPORTED.items():
        if sample.get(column) not in (None, "", "[]", [], {}):
            raise DataError(f"column {column!r}: {what} cannot be learnt here; leave it out")
    if isinstance(sample.get("label"), bool):
        raise DataError("column 'label': unpaired preference cannot be learnt here; keep good ones")


def conversation(sample: Sample, turns: list[Turn], marks: bool = True) -> list[Record]:
    """Turns and the sample's files as a record."""
    refuse_unsupported(sample)
    messages = Binder(sample, files_of(sample), marks).messages(turns)
    return [record(sample, messages)]


def preference(
    sample: Sample,
    prompt: list[Turn],
    chosen: list[Turn],
    rejected: list[Turn],
    marks: bool = True,
) -> list[Record]:
    """A record with a better and a worse reply; nothing of the prompt is learnt.

    Columns rejected_images and so on hold the files of the rejected conversation, or those of its
    reply alone. Where there are none, they stand behind all others in the column images and so on;
    or the rejected reply has those of the better one.
    """
    refuse_unsupported(sample)
    if not rejected:
        raise DataError("nothing is rejected that differs from what is chosen")
    files, own = files_of(sample), files_of(sample, "rejected_")
    for kind in MEDIA:
        first, behind = (places(turns, kind, marks) for turns in ([*prompt, *chosen], rejected))
        if kind not in own and behind and len(files.get(kind, [])) == first + behind:
            files[kind], own[kind] = files[kind][:first], files[kind][first:]
    better = Binder(sample, files, marks).messages([*prompt, *chosen])
    asked = [part.type for message in better[: len(prompt)] for part in message.parts]
    for kind in MEDIA:
        wanted, before = places(rejected, kind, marks), asked.count(kind)
        theirs = own.get(kind)
        if theirs is None:
            own[kind] = files.get(kind, [])[before : before + wanted]
        elif len(theirs) == before + wanted:
            own[kind] = theirs[before:]
        elif len(theirs) != wanted:
            raise DataError(f"column 'rejected_{kind}s' has {len(theirs)} files; what is rejected "
                            f"has places for {wanted}, and the prompt for {before}")  # fmt: skip
    worse = Binder(sample, own, marks).messages(rejected)
    asking = [silent(message) for message in better[: len(prompt)]]
    return [record(sample, [*asking, *better[len(prompt) :]], worse)]


def silent(message: Message) -> Message:
    """The same, and nothing of it is learnt."""
    return replace(message, parts=tuple(replace(part, loss=False) for part in message.parts))


def record(
    sample: Sample, messages: list[Message], rejected: list[Message] | None = None, part: str = ""
) -> Record:
    """A record of a sample; `part` tells those of one sample apart."""
    known = sample.get("id")
    name = sample.id if known is None else str(known)
    worse = None if rejected is None else tuple(rejected)
    return Record(f"{name}/{part}" if part else name, tuple(messages), worse, sample.source)
