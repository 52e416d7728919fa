"""Records that cannot be read are set aside, by name, and others take their places.

Which other follows from the place alone, so that the order is the same however often a run is
stopped, by however many processes and workers it is made. Knows nothing of what is in a record.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from unified.train.mixture import Epochs
from unified.train.records import DataError

T = TypeVar("T")


class UnreadableError(DataError):
    """More records cannot be read than may be."""


class Quarantine:
    """Records of one source that are set aside.

    Args:
        length: records of the source.
        most: the share of them that may be set aside.
        name: how a record is called.

    Attributes:
        aside: index of a record -> the first draw that could not read it. Before that draw it
            stays in its place: a run that goes on from there had read it.
    """

    def __init__(self, length: int, most: float, name: Callable[[int], str]):
        self.length, self.most, self.name = length, most, name
        self.aside: dict[int, int] = {}
        self.path: Path | None = None

    def keep(self, path: Path, writes: bool = True) -> None:
        """Go on from a file, a JSON line for each record, and add to it if this one `writes`."""
        if path.is_file():
            self.aside |= _read(path.read_text(encoding="utf-8"))
        self.path = path if writes else None

    def draw(self, epochs: Epochs, number: int, read: Callable[[int], T]) -> T:
        """The record of the `number`-th draw, or the next one that can be read.

        Raises:
            UnreadableError: too many cannot be.
        """
        _, index = epochs.index(number)
        for k in range(self.length):
            candidate = (index + k) % self.length
            if self.aside.get(candidate, number + 1) <= number:
                continue
            try:
                return read(candidate)
            except (ValueError, OSError) as error:
                self._set_aside(candidate, number, error)
        raise UnreadableError(f"none of the {self.length} records can be read")

    def _set_aside(self, index: int, number: int, error: Exception) -> None:
        self.aside[index] = number
        reason = " ".join(str(error).split())
        if self.path is not None:
            row = {"record": self.name(index), "index": index, "draw": number, "reason": reason}
            self.aside |= _add(self.path, row)
        count = len(self.aside)
        if count > self.most * self.length:
            named = f"; {self.path} names them" if self.path else ""
            raise UnreadableError(
                f"{count} of {self.length} records cannot be read, more than the share of "
                f"{self.most:g} that may be (loop.unreadable); the last: {reason}{named}"
            )


def _add(path: Path, row: dict[str, object]) -> dict[int, int]:
    """Add a line, unless it or an earlier draw's stands there; what stands there, others' lines
    (of data workers) included."""
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        found = _read(text)
        index, number = int(str(row["index"])), int(str(row["draw"]))
        if found.get(index, number + 1) > number:
            fresh = "" if not text or text.endswith("\n") else "\n"  # behind a line cut off
            file.write(fresh + json.dumps(row, ensure_ascii=False) + "\n")
            found[index] = number
    return found


def _read(text: str) -> dict[int, int]:
    """Records set aside, each with its earliest draw; a line cut off by a kill is left out."""
    found: dict[int, int] = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
            index, number = int(row["index"]), int(row["draw"])
        except (ValueError, KeyError, TypeError):
            continue
        found[index] = min(number, found.get(index, number))
    return found
