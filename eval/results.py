"""What a run leaves behind: rows that carry all their settings, and one file of samples a task.

    RUN/results.json      rows, and the tasks that could not be run
    RUN/TASK.yaml         the benchmark as it was run
    RUN/TASK.jsonl        its settings, then one record a sample; only ever appended to
    RUN/TASK.part-K.jsonl  what process K has asked, until it is joined to the others'
    RUN/TASK/             what was drawn or answered, in the benchmark's own layout

Several models each have such a folder, and beside these stands in which order they were named:

    RUNS/order.json       the model first, then its twins

Every field of a row is required: a row without one of its settings is refused when it is read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from unified.eval.benchmark import explained
from unified.media.picture import named, write_atomic

FILE, ORDER = "results.json", "order.json"
VERSION = 1


class ResultsError(ValueError):
    """Results that are missing, incomplete, damaged or of other settings."""


class Settings(BaseModel):
    """Everything that a score depends on.

    Attributes:
        model, revision: where it was loaded from and the hash of its weights.
        adapter, adapter_revision: name and hash of the LoRA adapter that was on; "" for none.
        recipe: hash of the recipe that trained it, "" where it is not known.
        template, sampling: how it was asked, and how it chose.
        judge, judge_revision: "" for none.
        data, data_hash: path ("" where samples are made), and hash over the samples asked.
        limit: units asked at most, None for all; batch: pictures or questions at once.
        device, dtype, threads: of the arithmetic; "" and 0 where the model does not say.
        weights: how the decoder's are held, "float" or packed; "" where the model does not say.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    revision: str
    adapter: str
    adapter_revision: str
    recipe: str
    toolkit: str
    benchmark: str
    template: str
    sampling: dict[str, Any]
    judge: str
    judge_source: str
    judge_revision: str
    data: str
    data_hash: str
    seed: int
    limit: int | None
    batch: int
    device: str
    dtype: str
    threads: int
    weights: str


class Row(BaseModel):
    """One number of one task.

    Attributes:
        n: units that it is the statistic of.
        unscored: samples of the task that could not be scored; they count as wrong, but for
        left_out of them, which the benchmark's file or the judge's knowledge leaves out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    side: Literal["understanding", "generation"]
    modality: Literal["image", "film", "sound"]
    skill: str
    split: str
    metric: str
    value: float
    stderr: float
    ci: tuple[float, float]
    n: int
    unscored: int
    left_out: int
    chance: float
    higher_is_better: bool
    protocol: Literal["official", "proxy"]
    settings: Settings


class Results(BaseModel):
    """All rows of a run, and why tasks are missing from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1]
    rows: list[Row]
    failed: dict[str, str]


def load(path: Path) -> Results:
    """Results from their file, or from the folder that has it.

    Raises:
        ResultsError: missing, damaged, or a field is missing; says which.
    """
    file = path / FILE if path.is_dir() else path
    try:
        return Results.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ResultsError(f"{named(file)}: {explained(error, Results)}") from None
    except OSError:
        raise ResultsError(
            f"{named(file)}: no such file; name a folder that `unified eval run` wrote"
        ) from None


def save(folder: Path, results: Results) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / FILE, (results.model_dump_json(indent=1) + "\n").encode())


def save_order(folder: Path, runs: Sequence[Path]) -> None:
    """Write in which order the models of several runs below a folder were named."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [run.relative_to(folder).as_posix() for run in runs]
    write_atomic(folder / ORDER, (json.dumps(names) + "\n").encode())


def inner(folder: Path) -> list[Path]:
    """The runs below a folder, as their models were named; any others after them, by name."""
    found = sorted(path.parent for path in folder.glob(f"*/{FILE}"))
    try:
        names = json.loads((folder / ORDER).read_text(encoding="utf-8"))
        places = {str(name): place for place, name in enumerate(names)}
    except (OSError, ValueError, TypeError):
        return found
    return sorted(found, key=lambda run: places.get(run.name, len(places)))


class Store:
    """The file of samples of one task: its settings in the first line, then records.

    A record is whole or absent: it is appended in one write with its line's end, and what a kill
    left of a line is cut off when the file is opened again. One process at a time.

    Args:
        patience: seconds to wait for another process that has the file.
    """

    def __init__(self, path: Path, settings: dict[str, Any], patience: float = 0.0):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock(patience)
            self._mend()
            lines = list(_lines(path))
            self.records = {record["id"]: record for record in _records(lines, path)}
            if not lines:
                self._append([{"settings": settings}])
            else:
                _check_same(lines[0].get("settings"), settings, path)
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self, patience: float) -> None:
        try:
            import fcntl
        except ImportError:  # where there are no locks
            return
        until = time.monotonic() + patience
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() >= until:
                    raise ResultsError(f"{named(self.path)}: another run is writing it") from None
            time.sleep(0.05)

    def _mend(self) -> None:
        """Cut off a line that was not written to its end."""
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.ftruncate(self._file, data.rfind(b"\n") + 1)

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        """Append records; they are on disk when this returns."""
        fresh = [record for record in records if record["id"] not in self.records]
        self._append(fresh)
        self.records |= {record["id"]: record for record in fresh}

    def _append(self, values: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(v, ensure_ascii=False, sort_keys=True) + "\n" for v in values)
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The records of a file of samples, in the order in which they were written.

    Raises:
        ResultsError: missing or damaged.
    """
    if not path.is_file():
        raise ResultsError(f"{named(path)}: no such file; the samples of a task belong there")
    return _records(list(_lines(path)), path)


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    whole = path.read_bytes().split(b"\n")[:-1]  # what follows the last end of a line is no record
    for number, line in enumerate(whole, 1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ResultsError(
                f"{named(path)}: line {number} is damaged; remove the file and run the task again"
            )
        yield value


def _records(lines: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    if lines and "settings" not in lines[0]:
        raise ResultsError(f"{named(path)}: it does not begin with settings; not a run's samples")
    for number, record in enumerate(lines[1:], 2):
        if "id" not in record:
            raise ResultsError(f"{named(path)}: line {number} is no sample's record")
    return lines[1:]


def _check_same(found: Any, wanted: dict[str, Any], path: Path) -> None:
    """Refuse to go on with samples of other settings."""
    wanted = json.loads(json.dumps(wanted))
    if found == wanted:
        return
    keys = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
    if keys and isinstance(found, dict):
        was, now = found.get(keys[0]), wanted[keys[0]]
        change = f"{keys[0]} was {str(was)[:60]!r} and is {str(now)[:60]!r} now"
    else:
        change = "its settings are not these"
    raise ResultsError(
        f"{named(path)}: begun with other settings ({change}); choose another folder with -o"
    )
