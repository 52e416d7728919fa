"""LoRA adapters in peft's own format: made on a model, checked, attached, switched and merged.

An adapter folder is what `PeftModel.save_pretrained` writes. Its configuration names the weights it
was trained on (`revision`), so that it is never put on others. Nothing is unpickled. Knows nothing
of training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class AdapterError(ValueError):
    """An adapter that is missing, damaged, or not made for this model."""


def linears(model: nn.Module, parts: Sequence[str]) -> list[str]:
    """Names of all linear maps in these parts of a model; a part that this model does without, as
    one without an encoder, has none.

    Raises:
        ValueError: a part that no model has, or that holds none.
    """
    found: list[str] = []
    for part in (part for part in parts if getattr(model, part, model) is not None):
        own = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and (name == part or name.startswith(f"{part}."))
        ]
        if not own:
            known = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"no linear map in a part {part!r} of the model; one of {known}")
        found += own
    return list(dict.fromkeys(found))


def create(
    model: nn.Module, targets: Sequence[str], whole: Sequence[str], revision: str, **settings: Any
) -> PeftModel:
    """Put a new adapter on a model, in place; all but it is frozen.

    Args:
        targets: parts whose linear maps get one.
        whole: parts that are trained and kept as a whole beside it.
        revision: of the weights it is made for.
        settings: of `peft.LoraConfig`.
    """
    config = LoraConfig(
        target_modules=linears(model, targets),
        modules_to_save=list(whole) or None,
        revision=revision,
        **settings,
    )
    return get_peft_model(model, config)


def save(adapted: PeftModel, folder: Path, source: str) -> None:
    """Write the adapter alone, as peft does."""
    adapted.peft_config["default"].base_model_name_or_path = source
    adapted.save_pretrained(str(folder), save_embedding_layers=False)


def check(folder: Path, model: nn.Module, revision: str) -> None:
    """Raise AdapterError unless the folder holds an adapter for exactly these weights."""
    if not (folder / CONFIG).is_file():
        raise AdapterError(f"{folder}: no {CONFIG}; not an adapter folder")
    if not (folder / WEIGHTS).is_file():
        raise AdapterError(f"{folder}: no {WEIGHTS}; only safetensors are read")
    try:
        config = json.loads((folder / CONFIG).read_text())
        weights = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise AdapterError(f"{folder}: not readable: {str(error).splitlines()[0]}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise AdapterError(f"{folder / CONFIG}: an adapter of the kind {kind!r}; only LORA is read")
    made_for = config.get("revision")
    if made_for and revision and made_for != revision:
        raise AdapterError(
            f"{folder}: made for weights {made_for} "
            f"({config.get('base_model_name_or_path') or 'unnamed'}), these are {revision}; "
            "name the model it was trained on"
        )
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{folder}: {name} holds values that are not numbers")
        _fits(folder, name, tuple(tensor.shape), shapes, config)


def _fits(
    folder: Path,
    name: str,
    shape: tuple[int, ...],
    shapes: dict[str, tuple[int, ...]],
    config: dict[str, Any],
) -> None:
    """Whether one tensor of an adapter belongs to a weight of the model and has its shape."""
    own = name.removeprefix("base_model.model.")
    for mark, side in ((".lora_A.", 1), (".lora_B.", 0)):
        if mark not in own:
            continue
        base = shapes.get(f"{own.partition(mark)[0]}.weight")
        ranks = config.get("rank_pattern") or {}
        rank = config.get("r")
        want = None if base is None else ((rank, base[1]) if side else (base[0], rank))
        if base is None or (shape != want and not ranks):
            raise AdapterError(
                f"{folder}: {own} is {shape}, this model wants {want or 'no such weight'}; it was "
                "made for a model of another size, or with another rank than it says"
            )


def attach(model: nn.Module, folders: Sequence[Path], revision: str) -> PeftModel:
    """Put adapters on a model, in place, each under its name (see `names`); the first is switched
    on.

    Raises:
        AdapterError: see `check`; or two of one name.
    """
    called = names(folders)
    for folder in folders:
        check(folder, model, revision)
    adapted: PeftModel | None = None
    for folder, name in zip(folders, called, strict=True):
        try:
            if adapted is None:
                adapted = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
            else:
                adapted.load_adapter(str(folder), adapter_name=name)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:  # what peft makes of it
            reason = " ".join(str(error).split())[:200]
            raise AdapterError(f"{folder}: does not fit this model: {reason}") from None
        _complete(folder, adapted, name)
    assert adapted is not None, "at least one folder"
    adapted.set_adapter(called[0])
    return adapted.eval()


def names(folders: Sequence[Path]) -> list[str]:
    """What adapters are called: as their folders; where that is said of several, as every run
    calls its own "adapter", as the folders that these are in.

    Raises:
        AdapterError: two are called alike even so.
    """
    places = [folder.resolve() for folder in folders]
    own = [place.name for place in places]
    called = [place.parent.name if own.count(place.name) > 1 else place.name for place in places]
    called = [name.replace(".", "-") for name in called]  # names of modules have no dots
    for name in called:
        if called.count(name) > 1:
            raise AdapterError(f"two adapters are called {name!r}; rename a folder")
    return called


def _complete(folder: Path, adapted: PeftModel, name: str) -> None:
    """Refuse an adapter that lacks weights, which peft would draw at random, or has others."""
    wanted = set(get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False))
    with safe_open(folder / WEIGHTS, "pt") as file:
        found = set(file.keys())
    for missing in sorted(wanted - found):
        raise AdapterError(f"{folder / WEIGHTS}: lacks {missing}, which {CONFIG} speaks of")
    for foreign in sorted(found - wanted):
        raise AdapterError(f"{folder / WEIGHTS}: holds {foreign}, of which {CONFIG} says nothing")


def use(adapted: PeftModel | None, name: str | None) -> None:
    """Switch to an adapter, or to the model as it is without any.

    Raises:
        AdapterError: no such adapter; the attached ones are listed.
    """
    known = () if adapted is None else tuple(adapted.peft_config)
    if name is not None and name not in known:
        raise AdapterError(f"no adapter {name!r} here; {', '.join(known) or 'none is attached'}")
    if adapted is None:
        return
    if name is None:
        adapted.base_model.disable_adapter_layers()
        return
    adapted.base_model.enable_adapter_layers()
    adapted.set_adapter(name)


def merge(adapted: PeftModel) -> nn.Module:
    """The model with the adapter in its weights, and no trace of it beside them."""
    merged: nn.Module = adapted.merge_and_unload()
    return merged
