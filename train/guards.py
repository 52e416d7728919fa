"""What keeps a run from harm: one run a folder, a clean end when it is asked to stop."""

from __future__ import annotations

import fcntl
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STOPPED = 143  # exit status of a run that SIGTERM ended: 128 + 15, as shells have it


class Stopped(RuntimeError):
    """SIGTERM came: the run was saved and ended; the same command goes on from there."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system drops it when the process ends, however it ends.

    Raises:
        ValueError: another run holds it.
    """
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"{folder}: another run is training here; wait for it, or give this one another "
                "folder (--out)"
            ) from None
        yield


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
