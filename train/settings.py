"""Settings of a run: a YAML mapping, changed by key=value pairs, checked by a pydantic model whose
unknown keys are refused with the known ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a file.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not readable as YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: settings are a mapping of keys to values")
    return values


def pair(text: str) -> tuple[str, Any]:
    """key=value, the value read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set takes key=value, not {text!r}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"--set {key.strip()}: {value!r} is not readable as YAML") from None


def merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Lay `changes` over `values`, mapping by mapping."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            merge(values[key], value)
        else:
            values[key] = value


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key."""
    *path, last = key.split(".")
    for name in path:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ValueError(f"{key}: {name} is a value and has no keys below it")
    values[last] = value


def checked(kind: type[M], values: dict[str, Any]) -> M:
    """The settings as their model.

    Raises:
        ValueError: the first key that is unknown, with the known ones, or whose value is wrong.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(_plain(error, kind)) from None


def _plain(error: ValidationError, kind: type[BaseModel]) -> str:
    first = error.errors()[0]
    where = [str(step) for step in first["loc"]]
    if first["type"] == "extra_forbidden":
        model: Any = kind
        for step in where[:-1]:
            kinds = get_args(model.model_fields[step].annotation)  # of an optional section
            model = kinds[0] if kinds else model.model_fields[step].annotation
        known = ", ".join(model.model_fields)
        return f"unknown key {'.'.join(where)!r}; one of {known}"
    return f"{'.'.join(where)}: {first['msg']}"
