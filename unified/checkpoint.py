"""Checkpoints that a kill cannot spoil: safetensors, a manifest of hashes, one atomic rename.

A checkpoint is a folder `step-N` with state*.safetensors (one for each process that wrote some),
state.json and manifest.json (written last).
Discovery trusts only a folder whose manifest is whole and true, and which holds nothing else.
Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

MANIFEST = "manifest.json"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # endings of files that hold such


class CheckpointError(ValueError):
    """A checkpoint or shipped weight that is missing, incomplete or altered."""


def sha256(path: Path) -> str:
    """Of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
    """List size and SHA-256 of every file below `folder` in its manifest, and sync all of them."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            files[path.relative_to(folder).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": sha256(path),
            }
            _sync(path)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"files": files}, indent=2) + "\n")
    _sync(manifest)
    _sync(folder)


def verify(folder: Path, only: tuple[str, ...] | None = None) -> None:
    """Check the files of a folder against its manifest.

    Args:
        only: check just files with these endings.

    Raises:
        CheckpointError: names the first file that is missing or altered, or weights that the
            manifest does not list.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise CheckpointError(f"{folder}: no {MANIFEST}; not a complete checkpoint")
    try:
        listed = json.loads(manifest.read_text())["files"].items()
        files = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in listed}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{manifest}: not a readable manifest") from None
    for name, (size, digest) in files.items():
        path = folder / name
        if only and not name.endswith(only):
            continue
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; fetch or train the weights again")
        if path.stat().st_size != size or sha256(path) != digest:
            raise CheckpointError(
                f"{path}: does not match its SHA-256 in {MANIFEST} (damaged or altered);"
                " fetch or train the weights again"
            )
    if only:
        return
    places = {folder, *((folder / name).parent for name in files)}
    for path in (path for place in sorted(places) for path in sorted(place.iterdir())):
        if path.suffix in WEIGHTS and path.relative_to(folder).as_posix() not in files:
            raise _foreign(path)


def save(
    root: Path,
    step: int,
    tensors: dict[str, torch.Tensor],
    state: dict[str, Any],
    *,
    rank: int = 0,
    of: int = 1,
    wait: Callable[[], None] = lambda: None,
) -> Path:
    """Write checkpoint `root/step-N` so that a kill at any moment leaves it whole or absent.

    Args:
        rank, of: which of several processes this is; each writes its own tensors to a file of its
            own, and the first one the rest.
        wait: returns when every process has called it.

    Raises:
        CheckpointError: it cannot be written, or does not read back as it was written.
    """
    target = root / f"step-{step}"
    temporary = root / f"step-{step}.tmp"
    try:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        wait()
        name = "state" if of == 1 else f"state-{rank + 1:05d}-of-{of:05d}"
        own = {k: v.detach().contiguous() for k, v in tensors.items()}
        if own or of == 1:
            save_file(own, temporary / f"{name}.safetensors")
        wait()
        if rank == 0:
            (temporary / "state.json").write_text(json.dumps(state))
            write_manifest(temporary)
            if target.exists():
                shutil.rmtree(target)
            os.replace(temporary, target)
            _sync(root)
            verify(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)  # gives its room back
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CheckpointError(
            f"{target}: cannot be written: {reason}; the checkpoint before it stands, and the same "
            "command goes on from there"
        ) from None
    wait()
    return target


def load(folder: Path, *, verified: bool = False) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the state of one checkpoint, which is verified unless it has been just now.

    Files that the manifest does not list are not read.
    """
    if not verified:
        verify(folder)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted(files):
        if name.startswith("state") and name.endswith(".safetensors"):
            try:
                tensors |= load_file(folder / name)
            except SafetensorError as error:
                raise _no_safetensors(folder / name, error) from None
    return tensors, json.loads((folder / "state.json").read_text())


def latest(root: Path) -> Path | None:
    """The newest checkpoint below `root` that can be trusted; broken ones are passed over."""
    return survey(root)[0]


def survey(root: Path) -> tuple[Path | None, list[CheckpointError]]:
    """The newest checkpoint below `root` that can be trusted, and what is wrong with newer ones."""
    broken: list[CheckpointError] = []
    for folder in reversed(_checkpoints(root)):
        try:
            trust(folder)
        except CheckpointError as error:
            broken.append(error)
        else:
            return folder, broken
    return None, broken


def trust(folder: Path) -> None:
    """See that a checkpoint is what its run wrote, and nothing else.

    Raises:
        CheckpointError: names the first file that is missing, altered, foreign, or no safetensors.
    """
    verify(folder)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (*files, MANIFEST) and not path.name.startswith("."):
            raise _foreign(path)
        if name.endswith(".safetensors"):
            try:
                with safe_open(path, "pt"):
                    pass
            except SafetensorError as error:
                raise _no_safetensors(path, error) from None


def rotate(root: Path, keep: int, newest: int) -> None:
    """Remove all but `keep` checkpoints up to step `newest`, which has been verified just now; and
    those beyond it, which the run passed over and has not come to again."""
    found = _checkpoints(root)
    beyond = [folder for folder in found if _step(folder) > newest]
    for folder in beyond + found[: len(found) - len(beyond)][:-keep]:
        shutil.rmtree(folder)


def _checkpoints(root: Path) -> list[Path]:
    """Whole or broken, the oldest first."""
    return sorted((p for p in root.glob("step-*") if p.name[5:].isdigit()), key=_step)


def _step(folder: Path) -> int:
    return int(folder.name[5:])


def _foreign(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: {MANIFEST} does not list it; a foreign file, which is "
                           "not read: take it out of the checkpoint")  # fmt: skip


def _no_safetensors(path: Path, error: SafetensorError) -> CheckpointError:
    return CheckpointError(f"{path}: not readable as safetensors: {error}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
