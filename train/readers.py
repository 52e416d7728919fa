"""Fine-tuning data of any known format as records: `read(path)` finds out what it is.

A format is read by a class of `formats`, `chats` or `documents`; where rows lie is told by
`sources`. Media are named, not decoded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unified.media.picture import named
from unified.train.documents import TASKS, Captions
from unified.train.formats import READERS, Reader
from unified.train.records import DataError, Record, shown
from unified.train.sources import (
    LISTS,
    WORDS,
    Folder,
    Joined,
    Lines,
    Rows,
    Sample,
    Source,
    Table,
    Tar,
    digest,
    media_kind,
)

LOOKED_AT = 32  # samples that must agree on their format
TOKENIZED = "tokenized.json"  # in a folder of shards, which `examples` reads
CONTAINERS = (Tar.kind, Folder.kind)  # that are formats by themselves, whatever is in them
HUB = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")  # owner/name, or owner/name:part of it
LINES = (".jsonl", ".ndjson")
TABLES = {".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}


class Records:
    """Records of a source in a fixed order, each read when it is asked for.

    Attributes:
        format: the name of the format; "webdataset" or "folder" where the container says it.
        tasks: what is learnt from a picture and its caption, where records are made of these.
        fingerprint: a hash of what is there and how it is read; the same for a moved copy.
    """

    def __init__(self, source: Source, reader: Reader):
        self.source, self.reader = source, reader
        contained = source.kind in CONTAINERS and isinstance(reader, Captions)
        self.format = source.kind if contained else reader.name
        self.tasks = reader.tasks if isinstance(reader, Captions) else ()
        how = f"{source.fingerprint} {reader.name} {self.tasks} {len(self)}"
        self.fingerprint = hashlib.sha256(how.encode()).hexdigest()

    @property
    def path(self) -> str:
        return str(self.source.path)

    def __len__(self) -> int:
        return len(self.source) * self.reader.per_sample

    def __getitem__(self, index: int) -> Record:
        """A record.

        Raises:
            DataError: names the file, its line or row, and the column that is wrong.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        at, which = divmod(index % len(self), self.reader.per_sample)
        sample = self.source.sample(at)
        try:
            return self.reader.records(sample)[which]
        except DataError as error:
            raise DataError(f"{sample.source}: {error}") from None

    def __iter__(self) -> Iterator[Record]:
        for index in range(len(self)):
            yield self[index]

    @property
    def paired(self) -> bool:
        """Whether records have a worse reply beside the better one: the first one tells."""
        return self[0].rejected is not None

    def where(self, index: int) -> str:
        """How errors call a record."""
        return self.source.where(index // self.reader.per_sample)


def formats() -> list[str]:
    """The names that `read` takes."""
    return [*READERS, *CONTAINERS]


def read(
    path: str | Path,
    format: str | None = None,
    *,
    media: Path | None = None,
    split: str | None = None,
    tasks: tuple[str, ...] = TASKS,
) -> Records:
    """Open data.

    Args:
        path: a file (.jsonl, .json, .csv, .parquet, .arrow, .tar), a folder of such files, of
            pictures with captions or written by `datasets`, or the name of a dataset on the hub
            or in its local cache: owner/name, or owner/name:config where it has several.
        format: one of `formats()`; found out where it is left out.
        media: the folder that files are named relative to; by default the one of `path`, its
            subfolder images, or where the program runs.
        split: of a dataset that has several; "train" if there is one.
        tasks: what is learnt from a picture and its caption.

    Raises:
        DataError: nothing there, nothing in it, no known format, or columns missing; named.
        ValueError: an unknown format; the known ones are listed.
    """
    if format is not None and format not in formats():
        raise ValueError(f"unknown format {format!r}; one of {', '.join(formats())}")
    source = open_source(path, media, split)
    if format in CONTAINERS and source.kind != format:
        what = {"webdataset": "a tar or a folder of tars", "folder": "a folder of media files"}
        raise DataError(f"{named(path)} is not {what[format or '']}, as the format {format} is")
    if not len(source):
        raise DataError(f"{named(path)}: no records in it; give data that has some")
    reader = detect(source) if format in (None, *CONTAINERS) else READERS[format or ""]
    if isinstance(reader, Captions):
        reader = Captions(tasks)
    records = Records(source, reader)
    _try(records)
    return records


def detect(source: Source) -> Reader:
    """The first reader that knows the first samples, all of them.

    Raises:
        DataError: there is none; names the sample and its columns.
    """
    samples: list[Sample] = []
    unread = None
    for index in range(min(LOOKED_AT, len(source))):
        try:
            samples.append(source.sample(index))
        except DataError as error:
            unread = unread or error
    if not samples:
        assert unread is not None
        raise unread
    for reader in READERS.values():
        if all(reader.detects(sample.values) for sample in samples):
            return reader
    known = ", ".join(formats())
    for sample in samples:
        if not any(reader.detects(sample.values) for reader in READERS.values()):
            columns = ", ".join(sample.values) or "none"
            raise DataError(f"{sample.source}: no known format has the columns {columns}; "
                            f"rename them to those of one of {known}")  # fmt: skip
    raise DataError(f"{samples[0].source}: its first records are of several formats; "
                    f"name one of {known}, or keep them in several files")  # fmt: skip


def _try(records: Records) -> None:
    """Raise what is wrong with the first records where it is wrong with all of them."""
    first = None
    for index in range(min(LOOKED_AT, len(records))):
        try:
            records[index]
            return
        except DataError as error:
            first = first or error
    assert first is not None
    raise first


# --- opening -------------------------------------------------------------------------------------


def open_source(path: str | Path, media: Path | None = None, split: str | None = None) -> Source:
    """The samples below a path, or of a dataset on the hub.

    Raises:
        DataError: there are none, or the file is of an unknown kind.
    """
    place = Path(path)
    try:
        if place.is_file():
            return _file(place, media, split)
        if place.is_dir():
            return _folder(place, media, split)
    except OSError as error:
        raise DataError(f"{named(path)}: cannot be read ({error.strerror})") from None
    name = HUB.fullmatch(str(path))
    if name is not None:
        return _hub(name[1], name[2], media, split)
    raise DataError(f"{named(path)}: no such file or folder; check the path")


def _hub(name: str, part: str | None, media: Path | None, split: str | None) -> Source:
    """A dataset on the hub, or where that is out of reach what was loaded or downloaded before."""
    names = (name,) if part is None else (name, part)
    try:
        return _table(":".join(names), names, {}, media, split)
    except DataError:
        folder = _downloaded(name)
        if folder is None:
            raise
        try:
            if part is None:
                return _folder(folder, media, split)
            return _table(str(folder), (str(folder), part), {}, media, split)
        except DataError as error:
            raise DataError(str(error).replace(str(folder), name)) from None


def _downloaded(name: str) -> Path | None:
    """What `hf download --repo-type dataset` left of a dataset in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, repo_type="dataset", local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        return None


def _file(path: Path, media: Path | None, split: str | None) -> Source:
    ending = path.suffix.lower()
    if not path.stat().st_size:
        raise DataError(f"{named(path)}: the file is empty; give data that has records")
    if ending in LINES:
        return Lines(path, media)
    if ending == ".json":
        return _json(path, media)
    if ending == ".tar":
        return Tar(path, media)
    if ending in TABLES:
        return _table(str(path), (TABLES[ending],), {"data_files": [str(path)]}, media, split)
    known = ", ".join([*LINES, ".json", ".tar", *TABLES])
    raise DataError(f"{named(path)}: data are read from {known} or a folder; unpack what is packed")


def _json(path: Path, media: Path | None) -> Source:
    """A JSON array; JSON lines under the name .json, too."""
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] == b"{" and _parses(start.splitlines()[0]):
        return Lines(path, media)
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{named(path)}:{error.lineno}: not JSON ({error.msg})") from None
    except (UnicodeDecodeError, RecursionError):
        raise DataError(f"{named(path)}: not JSON (no UTF-8, or nested too deep)") from None
    if not isinstance(rows, list):
        raise DataError(f"{named(path)}: {shown(rows)} is no JSON array of records")
    return Rows(path, rows, media)


def _parses(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _folder(path: Path, media: Path | None, split: str | None) -> Source:
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    names = {file.name for file in files}
    if TOKENIZED in names:
        raise DataError(f"{named(path)}: tokens that `data tokenize` wrote; they are trained on as"
                        " they are, and what else is to be done starts from the data")  # fmt: skip
    if names & {"state.json", "dataset_dict.json"}:
        return _saved(path, media, split)
    tars = [file for file in files if file.suffix == ".tar"]
    if tars:
        return Joined(path, [Tar(file, media) for file in tars])
    if names & set(LISTS) or _captioned(path):
        return Folder(path, media)
    data = [f for f in files if f.suffix in (*LINES, ".json") and f.name != "dataset_info.json"]
    if data:
        sources = [_file(file, media, split) for file in data if file.stat().st_size]
        return Joined(path, sources) if sources else Rows(data[0], [])
    tables = [file for file in path.rglob("*") if file.suffix in TABLES]
    if tables:
        kinds = {TABLES[file.suffix] for file in files if file.suffix in TABLES}
        if len(kinds) == 1:
            own = [str(file) for file in files if file.suffix in TABLES]
            return _table(str(path), (kinds.pop(),), {"data_files": own}, media, split)
        return _table(str(path), (str(path),), {}, media, split)
    if any(media_kind(file) for file in path.rglob("*")):
        return Folder(path, media)
    raise DataError(f"{named(path)}: no data in this folder; give one with .jsonl, .json, .parquet,"
                    " .csv or .tar files, or pictures and their captions")  # fmt: skip


def _captioned(path: Path) -> bool:
    """Whether a picture, sound or film has its words beside it."""
    for file in path.rglob("*"):
        if media_kind(file) and any(file.with_suffix(ending).is_file() for ending in WORDS):
            return True
    return False


def _saved(path: Path, media: Path | None, split: str | None) -> Source:
    """A folder that `save_to_disk` wrote."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever a damaged folder makes of it
        raise DataError(f"{named(path)}: cannot be read as a saved dataset: "
                        f"{_first(error)}") from None  # fmt: skip
    table = _split(loaded, str(path), split)
    files = sorted(path.rglob("*.arrow"))
    marks = [f"{file.relative_to(path)} {digest(file)}" for file in files]
    return Table(path, table, hashlib.sha256(f"{split} {marks}".encode()).hexdigest(), media)


def _table(
    path: str,
    names: tuple[str, ...],
    options: dict[str, Any],
    media: Path | None,
    split: str | None,
) -> Source:
    """What `datasets.load_dataset` reads; no code of a dataset is run."""
    import datasets

    shown_bars = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(*names, **options)
    except Exception as error:  # of many libraries
        what = "neither a file here nor a dataset on the hub" if not Path(path).exists() else (
            "cannot be read")  # fmt: skip
        if "Config name is missing" in str(error):  # which ones there are stands further down
            known = ", ".join(re.findall(r"'([\w.-]+)'", str(error).splitlines()[1])[:16])
            raise DataError(f"{named(path)}: made of several parts; name one as {path}:PART, of "
                            f"{known}") from None  # fmt: skip
        raise DataError(f"{named(path)}: {what} ({_first(error)})") from None
    finally:
        if shown_bars:
            datasets.enable_progress_bars()
    table = _split(loaded, path, split)
    files = options.get("data_files") or sorted(map(str, Path(path).rglob("*")))
    files = [file for file in files if Path(file).suffix in TABLES]
    if files:
        marks = [digest(Path(file)) for file in files]
        mark = hashlib.sha256(f"{split} {marks}".encode()).hexdigest()
    else:
        mark = str(table._fingerprint)  # of the files on the hub and their revision
    return Table(path, table, mark, media)


def _split(loaded: Any, path: str, split: str | None) -> Any:
    if not isinstance(loaded, dict):
        if split is not None:
            raise DataError(f"{named(path)} has no splits; leave {split!r} out")
        return loaded
    wanted = split or ("train" if "train" in loaded else next(iter(loaded)))
    if wanted not in loaded or (split is None and "train" not in loaded and len(loaded) > 1):
        known = ", ".join(loaded)
        raise DataError(f"{named(path)}: name its split, one of {known}"
                        + (f"; not {split!r}" if split else ""))  # fmt: skip
    return loaded[wanted]


def _first(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
