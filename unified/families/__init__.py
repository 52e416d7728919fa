"""Published checkpoints on our own modules: which family a directory is of, and reading it.

A family is one file here. It maps configuration, names of weights, tokenizer and prompt template
onto our model, exactly, and back. It knows nothing of chat or decoding.

    config.json's model_type -> family -> Made(model, processor, codec, sampling)
"""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from unified.checkpoint import MANIFEST, CheckpointError
from unified.families import own
from unified.families.made import Made

# model_type in config.json -> the module that reads it
FAMILIES = {
    "janus": "janus",
    "multi_modality": "janus",
    "chameleon": "chameleon",
    "emu3": "emu3",
}
# what their authors also published in a layout that is not read here -> where it is to be had
ELSEWHERE = {
    "Emu3": "BAAI/Emu3-Chat-hf and BAAI/Emu3-Gen-hf hold the same with its picture tokenizer",
    "Emu3VisionVQ": "it comes with BAAI/Emu3-Chat-hf and BAAI/Emu3-Gen-hf",
}
OWN = "unified"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
FILES = ("*.json", "*.safetensors", "*.jinja", "*.model")


def folder_of(source: str | Path) -> Path:
    """The directory of a source: itself, or where the local cache holds a hub name.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if HUB_NAME.fullmatch(str(source)) and not str(source).startswith("."):
        from huggingface_hub import snapshot_download

        try:
            return Path(
                snapshot_download(str(source), local_files_only=True, allow_patterns=list(FILES))
            )
        except (OSError, ValueError):  # not in the cache
            pass
    raise CheckpointError(
        f"{source}: no such model directory; name one written by `unified train`, one of a"
        " published model, the hub name of one fetched before (`hf download NAME`), or leave"
        " --model out for the shipped weights"
    )


def model_type(folder: Path) -> str:
    """What config.json calls the model, "" without such a file.

    Raises:
        CheckpointError: it is no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        return ""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise CheckpointError(f"{path}: not readable as JSON") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return str(values.get("model_type", ""))


def family_of(folder: Path) -> Any:
    """The module that reads a directory: of its family, or of our own format.

    Raises:
        CheckpointError: it is of none that is known; they are listed.
    """
    if (folder / MANIFEST).is_file() or (kind := model_type(folder)) == OWN:
        return own
    if not kind and any(folder.glob("consolidated*.pth")):
        raise CheckpointError(
            f"{folder}: consolidated weights without a config.json, as Meta's and Anole's first"
            " files are; take the same model in transformers' format, such as facebook/chameleon-7b"
        )
    if not kind:
        return own
    if kind not in FAMILIES:
        hint = f"; {ELSEWHERE[kind]}" if kind in ELSEWHERE else ""
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type {kind!r} is of no known family; known are"
            f" {', '.join((*FAMILIES, OWN))}{hint}"
        )
    return import_module(f"unified.families.{FAMILIES[kind]}")


def read(folder: Path, attention: str, dtype: Any) -> Made:
    """The model in a directory.

    Args:
        attention: transformers' name of the implementation.
        dtype: of the weights, or "auto" for their own.

    Raises:
        CheckpointError: it is incomplete, altered or of an unknown family; a file, key or shape is
            not as the family has it.
    """
    family = family_of(folder)
    try:
        made: Made = family.read(folder, attention, dtype)
    except CheckpointError:
        raise
    except (ValueError, KeyError, StrictDataclassError) as error:  # a value that no part takes
        if family is own:
            raise
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise CheckpointError(f"{folder / 'config.json'}: {reason}") from None
    return made


def export(made: Made, folder: Path) -> None:
    """Write a model that came from a family in the format of that family.

    Raises:
        CheckpointError: it came from none.
    """
    family = made.model.config.family
    if family not in FAMILIES.values():
        raise CheckpointError(
            f"this model is of no published family ({', '.join(sorted(set(FAMILIES.values())))});"
            " it cannot be written as one"
        )
    import_module(f"unified.families.{family}").export(made, folder)
