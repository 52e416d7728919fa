"""Checkpoints that exist only as pickles, rewritten as safetensors where a person asks for it.

The one place that reads a pickle, by torch's restricted unpickler, which makes tensors and plain
containers and refuses all else without running it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from unified.checkpoint import CheckpointError
from unified.families.made import INDEX, PICKLES, WHOLE, read_json

PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def rewrite(source: Path, folder: Path) -> None:
    """Copy a checkpoint directory to a new one, its pickled weights as safetensors, one file at a
    time.

    Raises:
        CheckpointError: there is no pickle, or one is missing, damaged, or more than tensors by
            name.
    """
    index = read_json(source / PICKLED_INDEX, optional=True).get("weight_map", {})
    names = sorted(set(index.values()))
    if not names and (source / PICKLED).is_file():  # beside it may lie states of its training
        names = [PICKLED]
    elif not names:
        names = sorted(path.name for kind in PICKLES for path in source.glob(kind))
        if len(names) != 1:
            found = ", ".join(names) or "none"
            raise CheckpointError(
                f"{source}: pickled weights wanted, one file or an index: {found}"
            )
    folder.mkdir(parents=True)
    placed: dict[str, str] = {}
    for number, name in enumerate(names, 1):
        if Path(name).name != name:
            raise CheckpointError(f"{source / PICKLED_INDEX}: {name!r} is no file beside it")
        target = f"model-{number:05d}-of-{len(names):05d}.safetensors" if index else WHOLE
        tensors = _tensors(source / name)
        save_file(tensors, folder / target, metadata={"format": "pt"})
        placed |= dict.fromkeys(tensors, target)
    if index:
        values = {"metadata": {}, "weight_map": placed}
        (folder / INDEX).write_text(json.dumps(values, indent=2))
    for path in source.iterdir():
        other = path.name in {*names, PICKLED_INDEX} or any(path.match(kind) for kind in PICKLES)
        if path.is_file() and not other:
            shutil.copy(path, folder)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; the index names it")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 asked for
    except Exception as error:  # whatever a damaged or a hostile file raises
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"{path}: refused; it holds more than tensors, or is damaged ({reason[0][:200]})"
        ) from None
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in found.items()
    ):
        raise CheckpointError(f"{path}: refused; it is no mapping of names to tensors")
    return {key: value.detach().contiguous().clone() for key, value in found.items()}
