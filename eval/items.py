"""One thing to ask or to have drawn, and the files it comes from.

A `Data` is what a user downloaded: a folder, or one file. It finds files by the names that the
benchmark's authors gave them, reads tables of any common kind, and opens pictures lazily. Whatever
is missing or damaged ends as one sentence. Knows nothing of models or scores.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from unified.media import picture
from unified.media.picture import MediaError, named

ENDINGS = (".jpg", ".png", ".jpeg", ".webp")


class DataError(ValueError):
    """Data of a benchmark that is missing or not in its format."""


@dataclass(frozen=True)
class Picture:
    """A picture that is opened when it is asked about: a file, encoded bytes, or one in memory."""

    name: str
    path: Path | None = None
    data: bytes | str | None = None  # encoded, or that as base64
    image: Image.Image | None = None

    def open(self) -> Image.Image:
        """RGB.

        Raises:
            MediaError: missing, cut short or no picture.
        """
        if self.image is not None:
            return self.image
        if self.path is not None:
            return picture.read(self.path)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "picture"
            file.write_bytes(self._bytes())
            try:
                return picture.read(file)
            except MediaError as error:
                reason = str(error).removeprefix(named(file))
                raise MediaError(f"{self.name}{reason}") from None

    def _bytes(self) -> bytes:
        if isinstance(self.data, bytes):
            return self.data
        try:
            return base64.b64decode(self.data or "", validate=True)
        except binascii.Error:
            raise MediaError(f"{self.name}: not base64; get the file again") from None

    def digest(self) -> str:
        """SHA-256 of what it is made of; "missing" where that cannot be read."""
        if self.image is not None:
            return hashlib.sha256(self.image.tobytes()).hexdigest()
        try:
            data = self.path.read_bytes() if self.path is not None else self._bytes()
        except (OSError, MediaError):
            return "missing"
        return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Sample:
    """One question, or one prompt to draw.

    Attributes:
        id: unique in its benchmark.
        prompt: exactly what the model is given, its template filled.
        skill, split: the row it counts for.
        pictures: shown before the prompt.
        facts: JSON-able; what its scorer needs, never shown to the model.
        group: samples that are scored as one (MME's pairs, MMBench's rotations); its id if none.
        chance: of guessing right; None: the benchmark's.
    """

    id: str
    prompt: str
    skill: str = "overall"
    split: str = "test"
    pictures: tuple[Picture, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    group: str = ""
    chance: float | None = None

    @property
    def unit(self) -> str:
        return self.group or self.id

    def fingerprint(self) -> str:
        """SHA-256 of all of it, pictures included."""
        parts = [self.id, self.prompt, self.skill, self.split, self.unit, self.facts]
        text = json.dumps([*parts, [p.digest() for p in self.pictures]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Data:
    """What the user has of a benchmark.

    Attributes:
        root: a folder or a file.
        expects: what to look for and where to get it, for error messages.
    """

    root: Path
    expects: str

    def __post_init__(self) -> None:
        if not self.root.exists():
            raise DataError(f"{named(self.root)}: no such file or folder; it needs {self.expects}")

    @property
    def folder(self) -> Path:
        return self.root if self.root.is_dir() else self.root.parent

    def find(self, *patterns: str) -> list[Path]:
        """Files of the first pattern that matches any, at any depth; or the file that was named.

        Raises:
            DataError: there is none.
        """
        found = self.maybe(*patterns)
        if not found:
            raise DataError(f"{named(self.root)}: no {patterns[0]} there; it needs {self.expects}")
        return found

    def maybe(self, *patterns: str) -> list[Path]:
        if self.root.is_file():
            return [self.root]
        for pattern in patterns:
            found = sorted(path for path in self.root.rglob(pattern) if path.is_file())
            if found:
                return found
        return []

    def beside(self, *patterns: str) -> Path:
        """A second file, beside the one that was named or in the folder."""
        for pattern in patterns:
            found = sorted(self.folder.rglob(pattern))
            if found:
                return found[0]
        raise DataError(f"{named(self.folder)}: no {patterns[0]} there; it needs {self.expects}")

    def picture(self, name: str, *folders: str) -> Picture:
        """The picture of a name: in the folder, in one of `folders` or in images/. One that is not
        there is found out when it is opened, and costs its own sample alone."""
        for folder in (*folders, ".", "images", "image", "val2014", "test"):
            base = self.folder / folder / name
            for path in (base, *(base.with_name(base.name + ending) for ending in ENDINGS)):
                if path.is_file():
                    return Picture(name, path)
        return Picture(name, self.folder / (folders[0] if folders else ".") / name)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{named(path)}: not readable as JSON ({_short(error)})") from None


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table: .jsonl, .json (a list, or JSON lines), .tsv, .csv or .parquet.

    Raises:
        DataError: unreadable, or a row that is none; says which.
    """
    kind = path.suffix.lower()
    if kind in (".tsv", ".csv"):
        yield from _separated(path, "\t" if kind == ".tsv" else ",")
    elif kind == ".parquet":
        yield from _parquet(path)
    elif kind == ".jsonl" or (kind == ".json" and not _is_list(path)):
        yield from _lines(path)
    elif kind == ".json":
        rows = read_json(path)
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise DataError(f"{named(path)}: entry {number} is no object")
            yield row
    else:
        raise DataError(f"{named(path)}: not a .jsonl, .json, .tsv, .csv or .parquet file")


def _is_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"[")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{named(path)}: line {number} is no JSON object")
                yield row
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{named(path)}: not readable as JSON lines ({_short(error)})") from None


def _separated(path: Path, separator: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # base64 pictures stand in fields
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file, delimiter=separator)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{named(path)}: not readable as a table ({_short(error)})") from None


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(64):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{named(path)}: not readable as parquet ({_short(error)})") from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def need(row: dict[str, Any], key: str, where: str) -> Any:
    """A field of a row.

    Raises:
        DataError: it is missing; lists those that are there.
    """
    if key not in row or row[key] is None:
        have = ", ".join(map(str, list(row)[:12]))
        raise DataError(f"{where}: no field {key!r} among {have}; is this the official file?")
    return row[key]
