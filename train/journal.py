"""What a run says of itself, by step: JSON lines, TensorBoard, trackio where asked for and, at the
end, curves. Only the leading process writes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from unified.media.picture import write_atomic
from unified.train.plots import curves

Row = dict[str, float]
Logger = Callable[[int, Row], None]


class Journal:
    """Named values by step. What a killed run wrote past its last checkpoint is dropped on resume.

    Args:
        first: the step that the run goes on from.
        loggers: "tensorboard", "trackio".

    Raises:
        ValueError: a logger is not installed.
    """

    def __init__(self, folder: Path, first: int, writes: bool, loggers: Sequence[str] = ()):
        self.folder, self.path, self.writes = folder, folder / "log.jsonl", writes
        self.held = ExitStack()
        self.loggers: list[Logger] = []
        if not writes:
            return
        for name in loggers:
            self.loggers.append(self.held.enter_context(LOGGERS[name](folder, first)))
        if self.path.exists():
            before = self.path.read_text()
            kept = [line for line in before.splitlines() if _step_of(line) <= first]
            text = "".join(line + "\n" for line in kept)
            if text != before:
                write_atomic(self.path, text.encode())

    def write(self, step: int, row: Row) -> None:
        if not self.writes or not row:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
        for log in self.loggers:
            log(step, row)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.held.close()
        if self.writes and kind is None and self.path.exists():
            curves(self.path, self.folder / "curves.png")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf  # a line cut off by the kill


@contextmanager
def _tensorboard(folder: Path, first: int) -> Iterator[Logger]:
    """Event files in folder/tensorboard."""
    from torch.utils.tensorboard import SummaryWriter  # a second to import: only when training

    board = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def log(step: int, row: Row) -> None:
        for key, value in row.items():
            board.add_scalar(key, value, step)

    try:
        yield log
    finally:
        board.close()


@contextmanager
def _trackio(folder: Path, first: int) -> Iterator[Logger]:
    """A local trackio project of the folder's name; `trackio show` shows it."""
    try:
        with redirect_stdout(sys.stderr):
            import trackio
    except ImportError:
        raise ValueError(
            "loggers: trackio is not installed; pip install 'unified[trackio]', or leave it out"
        ) from None
    where = folder.resolve()
    with redirect_stdout(sys.stderr):  # it speaks to standard output
        trackio.init(project=where.parent.name, name=where.name, resume="allow", embed=False,
                     auto_log_gpu=False, auto_log_cpu=False)  # fmt: skip
    try:
        yield lambda step, row: trackio.log(row, step=step)
    finally:
        with redirect_stdout(sys.stderr):
            trackio.finish()


LOGGERS = {"tensorboard": _tensorboard, "trackio": _trackio}
