"""A corpus as shards of tokens on disk: written once by several processes, read by memory map.

Shard k holds the records k·size to (k+1)·size, whoever writes it, so that any number of processes
and any number of kills give the same bytes. Arrow through Hugging Face `datasets`; of each shard a
note with its SHA-256 is written last, and only shards that agree with their note are kept.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unified.checkpoint import MANIFEST, sha256, verify, write_manifest
from unified.media.picture import named, write_atomic
from unified.train.encoding import Encoded, Encoder
from unified.train.inspection import check_modalities, conversations_of, fault
from unified.train.readers import TOKENIZED, Records
from unified.train.records import DataError

SIZE = 1000  # records of a shard
ROWS = 32  # written at once
PATIENCE = 30  # tenths of a second that a killed run's processes may take to end
MARKS = {"layout": "vocabulary or layout", "words": "text tokenizer",
         "pictures": "preparation of pictures", "codec": "codec"}  # fmt: skip
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """All that a process needs to write a shard."""

    records: Records
    encoder: Encoder
    folder: Path
    size: int
    skip: int

    @property
    def shards(self) -> int:
        return -(-len(self.records) // self.size)

    def write(self, shard: int) -> None:
        """Write a shard and its note.

        Raises:
            DataError: more of its records than `skip` cannot be learnt from; the last is named.
        """
        from datasets.arrow_writer import ArrowWriter

        target = arrow(self.folder, shard)
        temporary = target.with_suffix(".tmp")
        skipped: list[dict[str, Any]] = []
        rows = 0
        with (
            one_thread(),
            ArrowWriter(path=str(temporary), features=features(), writer_batch_size=ROWS) as writer,
        ):
            for index in range(shard * self.size, min((shard + 1) * self.size, len(self.records))):
                try:
                    writer.write(row(self.records, self.encoder, index))
                    rows += 1
                except DataError as error:
                    skipped.append({"record": index, "reason": str(error)})
                    if len(skipped) > self.skip:
                        raise
            writer.finalize()
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        entry = {"rows": rows, "bytes": target.stat().st_size, "sha256": sha256(target)}
        text = json.dumps({**entry, "skipped": skipped}, ensure_ascii=False)
        write_atomic(note(self.folder, shard), f"{text}\n".encode())


def row(records: Records, encoder: Encoder, index: int) -> dict[str, Any]:
    """One record as a row of a shard; what `tokenize` and Ray do to every record.

    Raises:
        DataError: it cannot be learnt from: unreadable, too long, or without loss.
    """
    record = records[index]
    conversations = conversations_of(record, encoder)
    wrong = fault(record, conversations, encoder)
    if wrong is not None:
        raise DataError(wrong[1])
    out: dict[str, Any] = {"record": index, "id": record.id}
    for prefix, k in (("", 0), ("rejected_", 1)):
        encoded = conversations[k] if k < len(conversations) else None
        out[f"{prefix}ids"] = encoded.ids if encoded else None
        out[f"{prefix}loss"] = encoded.loss if encoded else None
        out[f"{prefix}views"] = _bytes(encoded.views) if encoded else None
    return out


def features() -> Any:
    import datasets

    columns: dict[str, Any] = {"record": datasets.Value("int64"), "id": datasets.Value("string")}
    for prefix in ("", "rejected_"):
        columns[f"{prefix}ids"] = datasets.List(datasets.Value("int32"))
        columns[f"{prefix}loss"] = datasets.List(datasets.Value("bool"))
        columns[f"{prefix}views"] = datasets.Value("binary")
    return datasets.Features(columns)


def tokenize(
    records: Records,
    encoder: Encoder,
    out: Path,
    *,
    processes: int = 1,
    size: int = SIZE,
    skip: int = 0,
    on_progress: Progress | None = None,
) -> Shards:
    """Write all records as shards in the folder `out`, or what is missing of them there.

    Args:
        processes: each writes whole shards; more than one only where the codec is on a CPU.
        size: records of a shard.
        skip: so many records may be left out because they cannot be learnt from; they are listed.

    Raises:
        ModalityError: a medium that the model does not take; before any other work.
        DataError: more records than `skip` cannot be learnt from.
        ValueError: `out` holds something else, another run is writing there, a process died.
    """
    if processes < 1 or size < 1 or skip < 0:
        raise ValueError(f"processes {processes}, size {size}, skip {skip}: too small")
    if processes > 1 and encoder.codec.device.type != "cpu":
        raise ValueError("several processes need the tokenizer on the CPU: --device cpu")
    job = Job(records, encoder, out, size, skip)

    def work(todo: list[int]) -> None:
        done = job.shards - len(todo)
        steps = map(job.write, todo) if processes == 1 else _spread(job, todo, processes)
        for _ in steps:
            done += 1
            if on_progress is not None:
                on_progress(done, job.shards)

    return _run(job, work)


def tokenize_ray(
    records: Records, encoder: Encoder, out: Path, *, size: int = SIZE, skip: int = 0
) -> Shards:
    """`tokenize` by the workers of Ray Data, which may be on several machines that share `out`.

    Raises:
        ValueError: Ray is not installed; and as for `tokenize`.
    """
    try:
        import ray.data
    except ImportError:
        raise ValueError("Ray is not installed: pip install 'unified[ray]'") from None
    job = Job(records, encoder, out, size, skip)

    def work(todo: list[int]) -> None:
        shards = ray.data.from_items([{"shard": k} for k in todo], override_num_blocks=len(todo))
        try:
            for done in shards.map(_ray_row, fn_kwargs={"job": ray.put(job)}).iter_rows():
                if done["fault"]:
                    raise DataError(done["fault"])
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise ValueError(f"Ray: {last}; the same command goes on from here") from None

    return _run(job, work)


def _ray_row(row: dict[str, Any], job: Any) -> dict[str, Any]:
    """Write a shard; what is wrong with its data comes back as a value, for Ray would give its
    words within a traceback."""
    import ray

    whole = ray.get(job) if isinstance(job, ray.ObjectRef) else job
    try:
        whole.write(int(row["shard"]))
    except DataError as error:
        return {**row, "fault": str(error)}
    return {**row, "fault": ""}


def _run(job: Job, work: Callable[[list[int]], None]) -> Shards:
    """Let `work` write the shards that are not there yet, then seal the folder."""
    if not len(job.records):
        raise DataError(f"{job.records.path}: no records in it; give data that has some")
    check_modalities(job.records, job.encoder)
    settings = {
        "data": job.records.fingerprint,
        "encoder": job.encoder.marks,
        "context": job.encoder.context,
        "tasks": list(job.records.tasks),
        "records": len(job.records),
        "size": job.size,
        "side": job.encoder.processor.image_processor.image_size,
    }
    with _claimed(job.folder, settings):
        todo = [k for k in range(job.shards) if not _whole(job.folder, k)]
        if todo:
            (job.folder / MANIFEST).unlink(missing_ok=True)
            work(todo)
        skipped = [entry for k in range(job.shards) for entry in _note(job.folder, k)["skipped"]]
        if len(skipped) > job.skip:
            raise DataError(f"{len(skipped)} records cannot be learnt from, and {job.skip} may be "
                            f"left out; the first: {skipped[0]['reason']}")  # fmt: skip
        for stray in [*job.folder.glob("*.tmp"), *job.folder.glob(".*.tmp")]:
            stray.unlink()
        if not (job.folder / MANIFEST).is_file():
            write_manifest(job.folder)
    return Shards(job.folder)


@contextmanager
def _claimed(folder: Path, settings: dict[str, Any]) -> Iterator[None]:
    """The folder to ourselves, holding nothing but shards of these settings.

    Raises:
        ValueError: another run is writing there, or it holds something else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / TOKENIZED
        if not path.exists() and any(folder.iterdir()):
            raise ValueError(f"{named(folder)}: not empty; choose a new folder")
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ValueError(f"{named(folder)}: cannot be written ({error.strerror})") from None
    try:
        _lock(file)
        text = json.dumps(settings, indent=2) + "\n"
        found = path.read_text(encoding="utf-8")
        if not found:  # as a kill left it, or ours
            os.write(file, text.encode())
            os.fsync(file)
        elif found != text:
            raise ValueError(f"{named(folder)}: holds shards of {_difference(found, settings)}; "
                             "choose a new folder")  # fmt: skip
        yield
    except BlockingIOError:
        raise ValueError(f"{named(folder)}: another run is writing there; wait for it") from None
    finally:
        os.close(file)


def _lock(file: int) -> None:
    """Raise BlockingIOError where another run has the lock; one that was killed lets go of it."""
    for _ in range(PATIENCE):
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _difference(found: str, settings: dict[str, Any]) -> str:
    try:
        other = json.loads(found)
        changed = [key for key in settings if other.get(key) != settings[key]]
    except (ValueError, AttributeError):
        return "unknown settings"
    what = {"data": "other data", "encoder": "another model", "context": "another model",
            "tasks": "other data", "records": "other data", "size": "another size",
            "side": "another model"}  # fmt: skip
    return what[changed[0]] if changed else "other settings"


def arrow(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.arrow"


def note(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.json"


def _note(folder: Path, shard: int) -> dict[str, Any]:
    """A shard's note; empty where it is missing or damaged."""
    try:
        value = json.loads(note(folder, shard).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _whole(folder: Path, shard: int) -> bool:
    """Whether a shard is there as its note has it."""
    path, entry = arrow(folder, shard), _note(folder, shard)
    if not path.is_file() or path.stat().st_size != entry.get("bytes"):
        return False
    return sha256(path) == entry.get("sha256")


# --- several processes ---------------------------------------------------------------------------

_JOB: list[Job] = []  # of a worker process


def _start(job: Job, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    _JOB[:] = [job]
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    """End this process when its parent was killed; until then it holds the folder's lock, too."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _write(shard: int) -> None:
    _JOB[0].write(shard)


def _spread(job: Job, todo: list[int], processes: int) -> Iterator[None]:
    """The shards as they are written by several processes."""
    context = multiprocessing.get_context()
    count = min(processes, len(todo))
    pool = ProcessPoolExecutor(count, context, initializer=_start, initargs=(job, os.getpid()))
    try:
        for future in as_completed([pool.submit(_write, shard) for shard in todo]):
            future.result()
            yield
    except BrokenProcessPool:
        raise ValueError("a process died, perhaps for want of memory; the same command with fewer "
                         "processes goes on from here") from None  # fmt: skip
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch: sums do not depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# --- reading -------------------------------------------------------------------------------------


class Shards:
    """Tokenized records, memory-mapped.

    Attributes:
        fingerprint: SHA-256 of the manifest: of every byte.
        skipped: records that were left out: {"record": its number, "reason"}.
        marks: of the model that they were made for (`Encoder.marks`).
        tasks: as of the records that they were made of.
    """

    def __init__(self, folder: Path):
        """Raises ValueError: missing, incomplete or altered; names the file."""
        import datasets

        if not (folder / TOKENIZED).is_file():
            raise ValueError(f"{named(folder)}: no tokenized data; name what `data tokenize` wrote")
        verify(folder)
        self.folder = folder
        settings = json.loads((folder / TOKENIZED).read_text(encoding="utf-8"))
        self.side, marks = int(settings["side"]), settings["encoder"]
        self.marks: dict[str, str] = marks if isinstance(marks, dict) else {}
        self.tasks: tuple[str, ...] = tuple(settings.get("tasks", ()))
        shards = range(-(-settings["records"] // settings["size"]))
        notes = [_note(folder, shard) for shard in shards]
        self.skipped = [entry for found in notes for entry in found["skipped"]]
        files = [arrow(folder, k) for k in shards if notes[k]["rows"]]
        parts = [datasets.Dataset.from_file(str(file)) for file in files]
        self.table = datasets.concatenate_datasets(parts) if parts else None
        self.fingerprint = sha256(folder / MANIFEST)

    @property
    def path(self) -> str:
        return str(self.folder)

    @property
    def paired(self) -> bool:
        """As of the records that they were made of."""
        return self.rejected(0) is not None

    def where(self, index: int) -> str:
        """How errors call a record."""
        return f"{self.folder}: record {self._row(index)['record']}"

    def check(self, encoder: Encoder) -> None:
        """Raise ValueError where they were made for another model than this encoder's."""
        for name, mark in encoder.marks.items():
            if self.marks.get(name) != mark:
                theirs = str(self.marks.get(name, "none"))[:12]
                raise ValueError(
                    f"{named(self.folder)}: tokenized for a model with another {MARKS[name]} "
                    f"({theirs}, here {mark[:12]}); tokenize the data for this one"
                )

    def __len__(self) -> int:
        return 0 if self.table is None else len(self.table)

    def __getitem__(self, index: int) -> Encoded:
        """A record with its reply, in preference data the better one."""
        return self._encoded(index, "")

    def rejected(self, index: int) -> Encoded | None:
        """A record with its rejected reply; None where it has none."""
        return self._encoded(index, "rejected_") if self._row(index)["rejected_ids"] else None

    def id(self, index: int) -> str:
        return str(self._row(index)["id"])

    def _row(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        assert self.table is not None
        row: dict[str, Any] = self.table[index]
        return row

    def _encoded(self, index: int, prefix: str) -> Encoded:
        row = self._row(index)
        data = row[f"{prefix}views"]
        views = None
        if data:
            pixels = np.frombuffer(data, np.uint8).reshape(-1, 3, self.side, self.side)
            views = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1)
        return Encoded(row[f"{prefix}ids"], row[f"{prefix}loss"], views)


def _bytes(views: torch.Tensor | None) -> bytes | None:
    """Views (N, 3, H, W) as their eight bits; exact for pictures, and to half a level for what a
    codec gives back."""
    if views is None:
        return None
    levels = ((views.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.numpy().tobytes()
