"""What every family gives and needs: the parts of a model, and tensors by name with their files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from unified.checkpoint import CheckpointError
from unified.modeling import UnifiedForConditionalGeneration
from unified.processing import UnifiedProcessor
from unified.sampling import Sampling
from unified.tokenizers.codec import Codec

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth")

Prefixes = tuple[tuple[str, str], ...]  # (published, ours), both ending at a dot


@dataclass(frozen=True)
class Made:
    """A model on our modules.

    Attributes:
        revision: the first hex digits of the SHA-256 of its manifest, "" without one.
    """

    model: UnifiedForConditionalGeneration
    processor: UnifiedProcessor
    codec: Codec
    sampling: Sampling
    revision: str = ""


@dataclass(frozen=True)
class Weights:
    """Tensors of a checkpoint by name, and the file that each was in."""

    tensors: dict[str, torch.Tensor]
    files: dict[str, Path]
    source: Path  # the file that says which there are

    def fitted(self, wanted: Mapping[str, Iterable[int]]) -> dict[str, torch.Tensor]:
        """The tensors of these names.

        Raises:
            CheckpointError: names the file and key of what is missing or of another shape.
        """
        out = {}
        for key, shape in wanted.items():
            if key not in self.tensors:
                raise CheckpointError(f"{self.source}: no tensor {key!r}")
            tensor = self.tensors[key]
            if tuple(tensor.shape) != tuple(shape):
                raise CheckpointError(
                    f"{self.files[key]}: {key} has shape {tuple(tensor.shape)}, the configuration"
                    f" wants {tuple(shape)}"
                )
            out[key] = tensor
        return out

    def refuse_others(self, wanted: Iterable[str]) -> None:
        """Raise CheckpointError for a tensor of another name: the model would differ."""
        for key in sorted(set(self.tensors) - set(wanted)):
            raise CheckpointError(f"{self.files[key]}: {key} has no place in this model")


def read_weights(folder: Path) -> Weights:
    """All tensors of a directory's safetensors, whole or in shards.

    Raises:
        CheckpointError: a shard is missing or damaged, a key is not in its shard, or there are
            only pickles, which are never read.
    """
    source = folder / INDEX
    if source.is_file():
        try:
            found: dict[str, str] = json.loads(source.read_text())["weight_map"]
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(f"{source}: not a readable index of shards") from None
        names = sorted(set(found.values()))
    else:
        source, found, names = folder / WHOLE, {}, [WHOLE]
        if not source.is_file():
            raise _without_weights(folder)
    tensors: dict[str, torch.Tensor] = {}
    files: dict[str, Path] = {}
    for name in names:
        path = folder / name
        if Path(name).name != name:
            raise CheckpointError(f"{source}: {name!r} is no name of a file beside it")
        if not path.is_file():
            first = next(key for key, file in found.items() if file == name)
            raise CheckpointError(f"{path}: missing; {source.name} places {first} and others there")
        try:
            with safe_open(path, "pt") as file:
                for key in file.keys():
                    tensors[key], files[key] = file.get_tensor(key), path
        except SafetensorError as error:
            raise CheckpointError(f"{path}: damaged: {error}") from None
    for key, name in found.items():
        if key not in tensors:
            raise CheckpointError(f"{folder / name}: no tensor {key!r}, which {source.name} names")
    return Weights(tensors, files, source)


def _without_weights(folder: Path) -> CheckpointError:
    pickles = sorted(path.name for kind in PICKLES for path in folder.glob(kind))
    if pickles:
        return CheckpointError(
            f"{folder / pickles[0]}: a pickle, which can run code and is never read here; take the"
            " same weights as safetensors (for Janus: the hub's deepseek-community/Janus-…), or"
            " convert them in an environment that you trust"
        )
    return CheckpointError(f"{folder}: neither {WHOLE} nor {INDEX}")


def ours(name: str, table: Prefixes) -> str | None:
    """Our name of a published tensor, None where the table has none."""
    for theirs, own in table:
        if name.startswith(theirs):
            return own + name.removeprefix(theirs)
    return None


def published(name: str, table: Prefixes) -> str:
    """Inverse of `ours`."""
    return next(theirs + name.removeprefix(own) for theirs, own in table if name.startswith(own))
