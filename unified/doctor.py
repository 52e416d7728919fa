"""Is this installation well? Each check says what it found and, if need be, what to do."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from unified import __version__, terminal
from unified.media.picture import named
from unified.terminal import explain

MARKS = {"ok": " ok ", "warn": "warn", "fail": "FAIL"}
PACKAGES = ("torch", "transformers", "safetensors", "sentencepiece", "pillow")
SLOW = 60.0  # seconds for one picture or answer that call for a word


@dataclass(frozen=True)
class Check:
    """One finding; status is ok, warn or fail, advice what to do, next what is looked at then."""

    name: str
    status: str
    found: str
    advice: str = ""
    next: str = "Checking"

    def row(self) -> dict[str, str]:
        keys = ("name", "status", "found", "advice")
        return {key: getattr(self, key) for key in keys}


def examine(
    model: str | None = None, device: str | None = None, pictures: str = "none"
) -> Iterator[Check]:
    """All checks, as they are done; those that need what failed before are left out.

    Args:
        model: a model directory; by default the shipped weights.
        device: as for `unified.handle.load`.
        pictures: what the terminal can show, one of `terminal.ABILITIES`.
    """
    yield _python()
    packages = _packages()
    yield packages
    yield _terminal(pictures)
    yield _place()
    if packages.status == "fail":
        return
    found = _device(device)
    yield found
    if found.status != "fail" and not _on_gpu(device):
        yield _decoding()
    weights = _weights(model)
    yield weights
    if weights.status != "fail":
        yield from _work(model, device)


def _python() -> Check:
    found = f"unified {__version__}, Python {platform.python_version()}, {platform.system()}"
    return Check("versions", "ok", found)


def _packages() -> Check:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {installed(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        advice = f"Install them: pip install {' '.join(missing)}"
        return Check("packages", "fail", f"missing: {', '.join(missing)}", advice)
    return Check("packages", "ok", ", ".join(found))


def _terminal(ability: str) -> Check:
    found = {
        "kitty": "shows pictures (kitty graphics)",
        "iterm2": "shows pictures (iTerm2 inline images)",
        "blocks": "shows pictures as half blocks in 24-bit colour",
        "blocks256": "shows pictures as half blocks in 256 colours",
        "none": "shows file names instead of pictures",
    }[ability]
    columns = shutil.get_terminal_size().columns
    if ability == "none":
        if not os.isatty(1):
            return Check("terminal", "ok", f"{found}: output is no terminal")
        advice = f"Pictures are saved all the same. {terminal.SETTING}=blocks shows them anyway."
        return Check("terminal", "warn", found, advice)
    if ability.startswith("blocks") and columns < terminal.COLUMNS:
        advice = f"Widen the terminal to {terminal.COLUMNS} columns for whole pictures."
        return Check("terminal", "warn", f"{found}, {columns} columns wide", advice)
    return Check("terminal", "ok", found)


def _place() -> Check:
    here = named(Path.cwd())
    following = "Loading torch"
    if not os.access(".", os.W_OK):
        advice = "Pictures need --out, chats --save, or start in a folder you may write to."
        return Check("folder", "warn", f"{here} may not be written", advice, following)
    return Check("folder", "ok", f"{here} may be written", next=following)


def _device(device: str | None) -> Check:
    import torch

    following = "Checking the weights"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{torch.get_num_threads()} threads on {cores} CPU cores"
    if torch.cuda.is_available():
        found = f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda}), {found}"
    elif device and device.startswith("cuda"):
        advice = "Leave --device out, or install torch with CUDA on a machine with a GPU."
        return Check("device", "fail", f"no CUDA device; {found}", advice, following)
    return Check("device", "ok", found, next=following)


def _on_gpu(device: str | None) -> bool:
    from unified.device import placed

    return placed(device).startswith("cuda")


def _decoding() -> Check:
    from unified import native

    following = "Checking the weights"
    try:
        native.library()
    except ValueError as error:
        advice = "Decoding by torch is two to three times slower, and takes no --weights."
        return Check("decoding", "warn", explain(error), advice, following)
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return Check("decoding", "ok", f"in C, compiled for {capability}", next=following)


def _weights(model: str | None) -> Check:
    from unified import checkpoint, families, handle

    folder, following = handle.DEFAULT, "Loading the model"
    try:
        folder = families.folder_of(model or folder)
    except checkpoint.CheckpointError:
        advice = "Train them (unified train toybox) or name a model directory with --model."
        return Check("weights", "fail", f"{named(Path(model or folder))} is not there", advice)
    try:
        listed = (folder / checkpoint.MANIFEST).is_file()
        if not listed and families.model_type(folder) in families.FAMILIES:
            found = f"{named(folder)}, a published model: there is no manifest to check it by"
            return Check("weights", "ok", found, next=following)
        checkpoint.verify(folder)
    except (ValueError, OSError) as error:
        return Check("weights", "fail", explain(error), "Get the weights again, or train them.")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    found = f"{named(folder)}, {size / 1e6:.1f} MB, every SHA-256 as in the manifest"
    return Check("weights", "ok", found, next=following)


def _work(model: str | None, device: str | None) -> Iterator[Check]:
    """Load, draw one picture, ask about it."""
    from unified import handle

    name, advice = "loading", "Run again with UNIFIED_DEBUG=1 for the details."
    try:
        began = time.perf_counter()
        loaded = handle.load(model, device)
        yield _timed(name, "the model", began, "Drawing a picture")
        name, began = "drawing", time.perf_counter()
        images: list[Any] = loaded.generate("a red circle", n=1, seed=0)
        width, height = images[0].size
        yield _timed(name, f"a picture of {width}x{height} pixels", began, "Asking about it")
        name, began = "asking", time.perf_counter()
        answer = loaded.ask(images[0], "What is in the picture?")
        yield _timed(name, f'a red circle, answered "{terminal.printable(answer)}"', began)
    except Exception as error:
        if os.environ.get("UNIFIED_DEBUG") == "1":
            raise
        yield Check(name, "fail", explain(error), advice)


def _timed(name: str, what: str, began: float, following: str = "Checking") -> Check:
    seconds = time.perf_counter() - began
    found = f"{what}, {seconds:.1f} s"
    if seconds > SLOW:
        advice = "That is slow: close other programs, or use a machine with more cores or a GPU."
        return Check(name, "warn", found, advice, following)
    return Check(name, "ok", found, next=following)
