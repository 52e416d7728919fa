"""What verbs share: loading a model, saying what is going on, printing results."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from unified.media import picture
from unified.media.picture import named
from unified.options import Weights


def load(
    model: str | None,
    device: str | None,
    adapters: list[Path] | None = None,
    weights: Weights = Weights.plain,
) -> Any:
    """The model of a directory, the shipped one where none is named, and adapters on it.

    Raises:
        ValueError: it cannot be loaded so; packed weights take no adapters, and a CPU.
    """
    if adapters and weights is not Weights.plain:
        raise ValueError(
            f"--weights {weights} takes no --adapter; leave one of them out, or merge the adapter"
            " into the model first: unified merge"
        )
    with status("Loading torch") as change:
        from unified.handle import load

        change("Loading the model")
        kind = None if weights is Weights.plain else weights.value
        return load(model, device, adapters=adapters or (), weights=kind)


def say(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any, path: Path | None = None) -> None:
    """JSON on standard output, or in a file."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    if path is None:
        print(text)
    elif path.exists() and not path.is_file():  # such as /dev/stdout
        path.write_text(text + "\n", encoding="utf-8")
    else:
        picture.write_atomic(Path(os.path.realpath(path)), (text + "\n").encode())


def check_json(path: Path | None) -> Path | None:
    """Of an option: refuse a place for JSON that cannot be written, before the work rather than
    after it. - is standard output."""
    if path is None or str(path) == "-":
        return path
    if path.is_dir():
        raise ValueError(f"{named(path)}: this is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        folder = named(path.parent)
        raise ValueError(f"{named(path)}: the folder {folder} does not exist; create it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{named(path)}: may not be written; choose a place you may write to")
    return path


@contextmanager
def status(text: str) -> Iterator[Any]:
    """A spinner on standard error; yields what changes its text. Silent where no one looks."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status(f"{text} …") as shown:
        yield lambda text: shown.update(f"{text} …")


@contextmanager
def bar(text: str) -> Iterator[Any]:
    """A bar with the time left on standard error; yields `step(done, total)`."""
    words = TextColumn("{task.description}")
    columns = (SpinnerColumn(), words, BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(text, total=None)

        def step(done: int, total: int | None = None, what: str = text) -> None:
            progress.update(task, completed=done, total=total, description=what or text)

        yield step
