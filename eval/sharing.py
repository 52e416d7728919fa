"""Several processes share a run: each asks every so many-th batch into a file of its own.

The batches are those of one process, so what is asked does not depend on how many there are. The
files are joined in the order of the samples by whoever has all of them; a run that was killed goes
on from them with as many processes as it likes. A process whose parent is gone ends itself.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

from unified.eval.asking import records
from unified.eval.plan import Plan, Ready, Task, prepare
from unified.eval.results import ResultsError, Settings, Store, read_samples
from unified.terminal import explain

Load = Callable[[], Any]  # that can be sent to a process: a function of a module, or its partial
Step = Callable[[int, str], None]
PATIENCE = 10.0  # seconds in which the processes of a killed run end


def ask(
    model: Any, ready: Sequence[Ready], folder: Path, plan: Plan, others: Sequence[Load], step: Step
) -> None:
    """Ask all batches of tasks, this process and one for each of `others`.

    Raises:
        ResultsError: a process broke off; what was asked is kept.
    """
    for one in ready:  # refuses samples of other settings before anything is asked
        Store(_whole(folder, one), one.settings.model_dump(mode="json"), PATIENCE).close()
    context = multiprocessing.get_context("spawn")
    news: Any = context.Queue()
    count = len(others) + 1
    work = [(one.task, one.settings) for one in ready]
    processes = [
        context.Process(
            target=_work, args=(load, work, folder, plan, number, count, news), daemon=True
        )
        for number, load in enumerate(others, 1)
    ]
    troubles: list[str] = []

    def listen(seconds: float) -> None:
        while True:
            try:
                asked, words = news.get(timeout=seconds) if seconds else news.get_nowait()
            except queue.Empty:
                return
            if asked:
                step(asked, words)
            else:
                troubles.append(words)

    def both(asked: int, what: str) -> None:
        step(asked, what)
        listen(0)

    try:
        for process in processes:
            process.start()
        for one in ready:
            _try(model, one, folder, plan, 0, count, both)
        while any(process.is_alive() for process in processes):
            listen(0.1)
        listen(0)
        for number, process in enumerate(processes, 2):
            if process.exitcode and not troubles:
                troubles.append(f"process {number} of {count} ended (status {process.exitcode})")
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
    if troubles:
        raise ResultsError(f"{troubles[0]}; the same command goes on from here")


def _work(
    load: Load, work: Sequence[tuple[Task, Settings]], folder: Path, plan: Plan, number: int,
    count: int, news: Any,
) -> None:  # fmt: skip
    """What another process does."""
    _end_with_parent()
    try:
        model = load()
        torch, threads = sys.modules.get("torch"), max((s.threads for _, s in work), default=0)
        if torch is not None and threads:
            torch.set_num_threads(threads)  # sums, and so answers, depend on it
        for task, settings in work:
            one = prepare(model, task, plan)
            _check_same(one.settings, settings)
            one = one._replace(settings=settings)
            _try(model, one, folder, plan, number, count, lambda *asked: news.put(asked))
    except Exception as error:
        reason = explain(error) if isinstance(error, ValueError) else repr(error)
        news.put((0, f"process {number + 1} of {count}: {reason}"))


def _check_same(mine: Settings, theirs: Settings) -> None:
    """The same but for the device, of which every process may have its own."""
    changed = [
        key for key, value in mine.model_dump().items()
        if key != "device" and value != getattr(theirs, key)
    ]  # fmt: skip
    if changed:
        was, now = getattr(theirs, changed[0]), getattr(mine, changed[0])
        raise ResultsError(f"{changed[0]} is {now!r} here and {was!r} in the first process")


def _try(
    model: Any, one: Ready, folder: Path, plan: Plan, number: int, count: int, step: Step
) -> None:
    """Ask a share; a task that cannot be asked is left to who joins the shares, who names it."""
    try:
        ask_share(model, one, folder, plan, number, count, step)
    except ResultsError:
        raise
    except ValueError:
        return


def ask_share(
    model: Any, one: Ready, folder: Path, plan: Plan, number: int, count: int, step: Step
) -> None:
    """Ask every count-th batch of a task from `number` on, where nobody has asked it yet."""
    known: set[str] = set()
    for path in (_whole(folder, one), *_parts(folder, one.task.spec.name)):
        known |= {record["id"] for record in read_samples(path)}
    path = folder / f"{one.task.spec.name}.part-{number}.jsonl"
    store = Store(path, one.settings.model_dump(mode="json"), PATIENCE)
    try:
        for batch in one.batches[number::count]:
            if any(s.id not in known and s.id not in store.records for s in batch):
                store.add(records(model, one, batch, folder, plan))
            step(len(batch), one.task.spec.name)
    finally:
        store.close()


def _whole(folder: Path, one: Ready) -> Path:
    return folder / f"{one.task.spec.name}.jsonl"


def _parts(folder: Path, task: str) -> list[Path]:
    return sorted(folder.glob(f"{task}.part-*.jsonl"))


def collected(folder: Path, one: Ready) -> dict[str, dict[str, Any]]:
    """The records of all shares of a task, by id.

    Raises:
        ResultsError: of other settings, damaged, or still being written.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in _parts(folder, one.task.spec.name):
        store = Store(path, one.settings.model_dump(mode="json"), PATIENCE)
        found |= store.records
        store.close()
    return found


def remove(folder: Path, task: str) -> None:
    """The shares, once they are joined."""
    for path in _parts(folder, task):
        path.unlink(missing_ok=True)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait(seconds: float | None = None) -> None:
        if connection.wait([parent.sentinel], seconds):
            os._exit(1)

    wait(0)  # it may have ended while this one began, and a thread would be too late to say so
    threading.Thread(target=wait, daemon=True).start()
