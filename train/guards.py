"""What keeps a run from harm: one run a folder, a clean end when it is asked to stop."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

STOPPED = 143  # exit status of a run that SIGTERM ended: 128 + 15, as shells have it
_LOCKS: set[int] = set()  # open files that hold a lock


class Stopped(RuntimeError):
    """SIGTERM came: the run was saved and ended; the same command goes on from there."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system drops it when the process ends, however it ends, and
    whatever processes it leaves behind.

    Raises:
        ValueError: another run holds it.
    """
    _let_go_when_forked()
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"{folder}: another run is training here; wait for it, or give this one another "
                "folder (--out)"
            ) from None
        _LOCKS.add(file.fileno())
        try:
            yield
        finally:
            _LOCKS.discard(file.fileno())


@cache
def _let_go_when_forked() -> None:
    """A data worker that outlives a killed run for some seconds must not hold the run's lock."""
    os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    for number in _LOCKS:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)
        os.close(nothing)
    _LOCKS.clear()


class Termination:
    """Whether SIGTERM came while this is entered; the signal does nothing else meanwhile."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_: object) -> None:
        self.asked = True
