"""Where samples lie: JSON lines, JSON, tables, tars, a folder of media. A sample is a row as it
was written, and the place that finds the files it names.

Large files are indexed and read row by row. Knows nothing about what the columns mean.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tarfile
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unified.media.picture import named
from unified.train.records import DataError, shown

ENDINGS = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"),
    "video": (".mp4", ".webm", ".mov", ".mkv", ".avi"),
}
WORDS = (".txt", ".caption")
LISTS = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")
FILE_COLUMNS = ("file_name", "file", "image", "audio", "video")
LARGEST = 2**29  # bytes of one file in a tar
SMALL = 2**28  # bytes of a file that is hashed whole


@dataclass(frozen=True)
class Place:
    """Finds the files that a sample names: inside it (a tar's), else in the folders, in order."""

    folders: tuple[Path, ...]
    members: dict[str, bytes] = field(default_factory=dict)

    def __call__(self, name: str) -> Path | bytes:
        base = os.path.basename(name)
        if name in self.members or base in self.members:
            return self.members[name if name in self.members else base]
        paths = [folder / name for folder in self.folders]
        return next((path for path in paths if path.exists()), paths[0])


@dataclass(frozen=True)
class Sample:
    """One row. `source` is how errors call it, as "data.jsonl:12"."""

    values: dict[str, Any]
    place: Place
    id: str
    source: str

    def get(self, column: str) -> Any:
        """The value of a column; None where there is none."""
        return self.values.get(column)

    def need(self, column: str, kind: type | None = None) -> Any:
        """The value of a column that must be there, and of that type if one is named.

        Raises:
            DataError: names the column.
        """
        value = self.values.get(column)
        if value is None:
            there = ", ".join(sorted(self.values)) or "none"
            raise DataError(f"no column {column!r}; there are: {there}")
        if kind is not None and not isinstance(value, kind):
            raise DataError(f"column {column!r} is {shown(value)}, not a {kind.__name__}")
        return value


class Source(ABC):
    """Samples in a fixed order. `kind` is the container; `fingerprint` a hash of what is in it."""

    kind = ""
    fingerprint = ""

    def __init__(self, path: Path | str, media: Path | None = None):
        self.path = path
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        here = (folder, folder / "images", Path.cwd())
        self.folders = (media,) if media is not None else here

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def values(self, index: int) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The row, and the files that it brings along by their names."""

    @abstractmethod
    def where(self, index: int) -> str:
        """How errors call a row."""

    def key(self, index: int) -> str:
        return str(index)

    def sample(self, index: int) -> Sample:
        """Raises DataError: the row cannot be read; named."""
        try:
            values, members = self.values(index)
        except DataError as error:
            raise DataError(f"{self.where(index)}: {error}") from None
        given = {column: value for column, value in values.items() if value is not None}
        return Sample(given, Place(self.folders, members), self.key(index), self.where(index))


class Lines(Source):
    """JSON lines, by an index of where each begins: 16 bytes a line are kept."""

    kind = "jsonl"

    def __init__(self, path: Path, media: Path | None = None):
        super().__init__(path, media)
        starts, numbers, hashed, offset = array("q"), array("q"), hashlib.sha256(), 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    starts.append(offset)
                    numbers.append(number)
                offset += len(line)
                hashed.update(line)
        self.starts, self.numbers = starts, numbers
        self.fingerprint = hashed.hexdigest()
        self._file: tuple[int, BinaryIO] | None = None  # of the process with this id

    def __len__(self) -> int:
        return len(self.starts)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def values(self, index: int) -> tuple[dict[str, Any], dict[str, bytes]]:
        if self._file is None or self._file[0] != os.getpid():
            self._file = (os.getpid(), Path(self.path).open("rb"))
        self._file[1].seek(self.starts[index])
        return parsed(self._file[1].readline()), {}

    def where(self, index: int) -> str:
        return f"{named(self.path)}:{self.numbers[index]}"


class Rows(Source):
    """Rows in memory: a JSON array, the list beside a folder's pictures."""

    kind = "json"

    def __init__(self, path: Path, rows: list[Any], media: Path | None = None):
        super().__init__(path, media)
        self.rows, self.fingerprint = rows, digest(path)

    def __len__(self) -> int:
        return len(self.rows)

    def values(self, index: int) -> tuple[dict[str, Any], dict[str, bytes]]:
        if not isinstance(self.rows[index], dict):
            raise DataError(f"{shown(self.rows[index])} is no JSON object")
        return self.rows[index], {}

    def where(self, index: int) -> str:
        return f"{named(self.path)}, record {index + 1}"


class Table(Source):
    """A dataset of Hugging Face `datasets`; media are left as they are stored."""

    kind = "table"

    def __init__(self, path: Path | str, table: Any, fingerprint: str, media: Path | None = None):
        super().__init__(path, media)
        self.table = table.with_format(None)  # a copy
        self.table.info.features = undecoded(table.features)
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.table)

    def values(self, index: int) -> tuple[dict[str, Any], dict[str, bytes]]:
        return self.table[index], {}

    def where(self, index: int) -> str:
        return f"{named(self.path)}, row {index + 1}"


class Tar(Source):
    """WebDataset (https://github.com/webdataset/webdataset): files that share a basename up to its
    first dot are one sample. Those of .json are its columns, .txt its "text", media "image",
    "audio" and "video" (or "images" and so on where there are several)."""

    kind = "webdataset"

    def __init__(self, path: Path, media: Path | None = None):
        super().__init__(path, media)
        self.keys: list[str] = []
        self.files: list[list[tuple[str, int, int]]] = []  # (ending, offset, bytes)
        hashed = hashlib.sha256()
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    folder, base = os.path.split(member.name)
                    if not member.isreg() or base.startswith("."):
                        continue
                    hashed.update(member.tobuf())
                    stem, _, ending = base.partition(".")
                    key = os.path.join(folder, stem)
                    if not self.keys or self.keys[-1] != key:
                        self.keys.append(key)
                        self.files.append([])
                    self.files[-1].append((ending.lower(), member.offset_data, member.size))
        except tarfile.TarError as error:
            raise DataError(
                f"{named(path)}: not a plain tar ({error}); unpack a compressed or damaged one"
            ) from None
        self.fingerprint = hashed.hexdigest()

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> str:
        return self.keys[index]

    def where(self, index: int) -> str:
        return f"{named(self.path)}/{self.keys[index]}"

    def values(self, index: int) -> tuple[dict[str, Any], dict[str, bytes]]:
        members: dict[str, bytes] = {}
        media: dict[str, list[dict[str, Any]]] = {}
        row: dict[str, Any] = {}
        with Path(self.path).open("rb") as file:
            for ending, offset, size in self.files[index]:
                if size > LARGEST:
                    raise DataError(f".{ending} has {size} bytes; {LARGEST} is the limit")
                file.seek(offset)
                data = file.read(size)
                if len(data) < size:
                    raise DataError(f".{ending} is cut short; get the tar again")
                last = f".{ending.rpartition('.')[2]}"
                kind = next((k for k, endings in ENDINGS.items() if last in endings), None)
                if last == ".json":
                    row |= parsed(data)
                elif last in WORDS:
                    row["text"] = words(data)
                elif kind is not None:
                    name = f"{os.path.basename(self.keys[index])}.{ending}"
                    members[name] = members[ending] = data
                    media.setdefault(kind, []).append({"path": name, "bytes": data})
        for kind, files in media.items():
            if kind not in row and f"{kind}s" not in row:
                row[kind if len(files) == 1 else f"{kind}s"] = (
                    files[0] if len(files) == 1 else files
                )
        return row, members


class Folder(Source):
    """Media files with captions: cat.png beside cat.txt, or one list (metadata.jsonl,
    captions.csv, …) with a column `file_name`, as Hugging Face's imagefolder has it."""

    kind = "folder"

    def __init__(self, path: Path, media: Path | None = None):
        super().__init__(path, media)
        lists = [path / name for name in LISTS if (path / name).is_file()]
        self.rows = self._listed(lists[0]) if lists else self._beside()
        self.list = lists[0] if lists else None
        hashed = hashlib.sha256(digest(lists[0]).encode() if lists else b"")
        for row in self.rows:
            for name in (row["file"], *([row["words"]] if "words" in row else [])):
                file = path / name
                size = file.stat().st_size if file.is_file() else -1
                hashed.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
                if file.suffix in WORDS:
                    hashed.update(file.read_bytes())
        self.fingerprint = hashed.hexdigest()

    def _listed(self, path: Path) -> list[dict[str, Any]]:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                found: list[Any] = list(csv.DictReader(file))
        else:
            lines = Lines(path)
            found = [lines.sample(k).values for k in range(len(lines))]
        rows = []
        for number, values in enumerate(found, 1):
            column = next((c for c in FILE_COLUMNS if isinstance(values.get(c), str)), None)
            if column is None:
                there = ", ".join(map(str, values))
                raise DataError(
                    f"{named(path)}, record {number}: no column 'file_name'; there are: {there}"
                )
            rest = {key: value for key, value in values.items() if key != column}
            rows.append({"file": values[column], "values": rest})
        return rows

    def _beside(self) -> list[dict[str, Any]]:
        rows = []
        for file in sorted(Path(self.path).rglob("*")):
            if media_kind(file) is None or file.name.startswith("."):
                continue
            row: dict[str, Any] = {"file": str(file.relative_to(self.path)), "values": {}}
            beside = [file.with_suffix(ending) for ending in WORDS]
            caption = next((path for path in beside if path.is_file()), None)
            if caption is not None:
                row["words"] = str(caption.relative_to(self.path))
            rows.append(row)
        return rows

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        return str(self.rows[index]["file"])

    def where(self, index: int) -> str:
        if self.list is not None:
            return f"{named(self.list)}, record {index + 1}"
        return named(Path(self.path) / self.rows[index]["file"])

    def values(self, index: int) -> tuple[dict[str, Any], dict[str, bytes]]:
        row = self.rows[index]
        file = Path(row["file"])
        kind = media_kind(file)
        if kind is None:
            raise DataError(f"{named(file)} is no picture, sound or film by its ending")
        values = {kind: row["file"], **row["values"]}
        if "words" in row:
            values["text"] = words((Path(self.path) / row["words"]).read_bytes())
        elif self.list is None:
            raise DataError(f"no caption; write one into {named(file.with_suffix('.txt'))}")
        return values, {}


class Joined(Source):
    """Several sources, one after the other."""

    def __init__(self, path: Path, sources: Iterable[Source]):
        super().__init__(path)
        self.sources = list(sources)
        self.ends = np.cumsum([len(source) for source in self.sources])
        self.kind = self.sources[0].kind
        marks = "".join(source.fingerprint for source in self.sources)
        self.fingerprint = hashlib.sha256(marks.encode()).hexdigest()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _at(self, index: int) -> tuple[Source, int]:
        which = bisect_right(self.ends, index)
        return self.sources[which], index - (int(self.ends[which - 1]) if which else 0)

    def values(self, index: int) -> tuple[dict[str, Any], dict[str, bytes]]:
        source, index = self._at(index)
        return source.values(index)

    def where(self, index: int) -> str:
        source, index = self._at(index)
        return source.where(index)

    def sample(self, index: int) -> Sample:
        source, at = self._at(index)
        return source.sample(at)


def parsed(data: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: it is none.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error.msg} at column {error.colno})") from None
    except (UnicodeDecodeError, RecursionError):
        raise DataError("not JSON (no UTF-8, or nested too deep)") from None
    if not isinstance(value, dict):
        raise DataError(f"{shown(value)} is no JSON object")
    return value


def words(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise DataError("the caption is no UTF-8 text") from None


def media_kind(file: Path) -> str | None:
    """What a file is by its ending: "image", "audio", "video" or None."""
    ending = file.suffix.lower()
    return next((kind for kind, endings in ENDINGS.items() if ending in endings), None)


def digest(path: Path) -> str:
    """SHA-256 of a file; of a large one, its size and 64 pieces spread over it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= SMALL:
            return hashlib.file_digest(file, "sha256").hexdigest()
        hashed = hashlib.sha256(str(size).encode())
        for k in range(64):
            file.seek((size - 2**20) * k // 63)
            hashed.update(file.read(2**20))
        return hashed.hexdigest()


def undecoded(features: Any) -> Any:
    """Features of `datasets` whose media stay bytes and paths."""
    import datasets

    def plain(feature: Any) -> Any:
        if isinstance(feature, datasets.Image | datasets.Audio | datasets.Video):
            return replace(feature, decode=False)
        if isinstance(feature, dict):
            return {key: plain(value) for key, value in feature.items()}
        if isinstance(feature, datasets.List | datasets.LargeList):
            return replace(feature, feature=plain(feature.feature))
        return feature

    return datasets.Features({key: plain(value) for key, value in features.items()})
