"""Fine-tune a model on people's own data: LoRA on understanding and drawing together, or all of it.

Records with a worse reply are learnt from by preference, others as they stand. What is written is
an adapter folder in peft's format, or a whole model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import PeftModel

from unified import adapters
from unified.handle import Unified
from unified.media.picture import write_atomic
from unified.media.sheet import captioned
from unified.train.distributed import team
from unified.train.examples import Data
from unified.train.loop import fit
from unified.train.meter import Estimate, estimate
from unified.train.prefer import PreferenceStage
from unified.train.readers import Records
from unified.train.records import DataError
from unified.train.settings import read_yaml
from unified.train.supervised import SupervisedStage
from unified.train.tuning import TuningConfig

TuningStage = SupervisedStage | PreferenceStage
DRAWN, SIDE = 8, 192  # pictures of a sheet of samples, and pixels of each if it is small


def check(stage: TuningStage, most: int = 64) -> dict[str, float]:
    """Look at records from all over the data before any weight is touched.

    Returns:
        records, unreadable (of those looked at), tokens (mean of a record), learnt (share of them),
        parameters (trained), share (of all parameters), steps.

    Raises:
        DataError: more cannot be encoded, or carry no loss, than may be set aside, as far as this
            can be told from those that are looked at.
    """
    looked, failed = [], []
    for index in spread(len(stage.data), most):
        try:
            looked.append(stage.record(index))
        except (ValueError, OSError) as error:
            failed.append(error)
    share = stage.config.loop.unreadable
    if len(failed) > share * len(stage.data) or len(failed) > max(
        2, share * (len(looked) + len(failed))
    ):
        raise failed[0]
    learnt = sum(sum(encoded.loss[1:]) for encoded in looked)
    tokens = sum(map(len, looked))
    trained = sum(p.numel() for p in stage.model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in stage.handle.model.parameters())
    return {
        "records": len(stage.data), "unreadable": len(failed), "tokens": tokens / len(looked),
        "learnt": learnt / tokens, "parameters": trained, "share": trained / whole,
        "steps": stage.config.loop.steps,
    }  # fmt: skip


def spread(length: int, count: int) -> list[int]:
    """So many places, evenly over all."""
    count = min(count, length)
    return [k * length // count for k in range(count)]


def prompts(data: Data, most: int = DRAWN, looked_at: int = 64) -> list[str]:
    """Words that the data have pictures drawn from, each once; none where they are tokens."""
    found: dict[str, None] = {}
    if not isinstance(data, Records):
        return []
    for index in spread(len(data), looked_at):
        try:
            record = data[index]
        except DataError:
            continue  # named by those who need it
        asked = [part for message in record.prompt for part in message.parts]
        drawn = any(part.type == "image" for message in record.reply for part in message.parts)
        if drawn and len(record.prompt) == 1 and all(part.type == "text" for part in asked):
            found["".join(part.text for part in asked)] = None
        if len(found) == most:
            break
    return list(found)


def estimated(stage: TuningStage) -> Estimate:
    """What the tuning will take, measured on one micro-batch."""
    began = time.perf_counter()
    batch = stage.batch(0)
    making = time.perf_counter() - began
    return estimate(stage, stage.config.loop, batch, stage.device, processes=team().size,
                    making=making)  # fmt: skip


def prepare(
    handle: Unified, data: Data, config: TuningConfig, *, seed: int = 0, device: str = "cpu"
) -> TuningStage:
    """Settle the steps, and put an adapter on the model, in place.

    Raises:
        ValueError: no records, or settings that do not fit the model or the data.
    """
    if not len(data):
        raise DataError(f"{data.path}: no records in it; there is nothing to learn from")
    if config.epochs is not None:
        each = len(data) * stage_share(config) / config.loop.batch_size
        loop = config.loop.model_copy(update={"steps": math.ceil(config.epochs * each)})
        config = config.model_copy(update={"loop": loop})
    torch.manual_seed(seed)
    model: torch.nn.Module = handle.model.to(device).requires_grad_(True)
    if config.lora is not None:
        lora = config.lora
        model = adapters.create(
            handle.model, lora.targets, lora.whole, handle.revision, r=lora.rank,
            lora_alpha=lora.alpha, lora_dropout=lora.dropout, use_dora=lora.dora,
            use_rslora=lora.rslora,
        )  # fmt: skip
    if not data.paired:
        return SupervisedStage(handle, model, data, config, seed, device)
    if not isinstance(model, PeftModel):
        raise ValueError("preference data are learnt by an adapter: set lora")
    if config.loop.zero and team().size > 1:
        raise ValueError("preference data are learnt by several processes without ZeRO: zero=0")
    return PreferenceStage(handle, model, data, config, seed, device)


def finetune(stage: TuningStage, folder: Path, *, progress: bool = True) -> Path:
    """Tune the model of a prepared stage; a stopped run goes on where it stands.

    Every `sample_every` steps and at the end, what it draws for prompts of the data is laid down in
    folder/samples.

    Returns:
        The folder of the adapter (folder/adapter) or of the whole model (folder/model).
    """
    handle, config, data = stage.handle, stage.config, stage.data
    settings = {**config.model_dump(), "data": data.path, "fingerprint": data.fingerprint,
                "model": handle.source, "revision": handle.revision,
                "seed": stage.seed}  # fmt: skip
    crew = team()
    with crew.leader_first():
        if crew.leads:
            folder.mkdir(parents=True, exist_ok=True)
        _same(folder / "finetune.yaml", settings, crew.leads)
    stage.quarantine.keep(folder / "quarantine.jsonl", crew.leads)
    words = prompts(data) if handle.codec.decodes else []

    def show(step: int) -> dict[str, float]:
        target = folder / "samples" / f"step-{step:06d}.png"
        target.parent.mkdir(exist_ok=True)
        pictures = handle.generate(words, seed=stage.seed)
        captioned(pictures, words, zoom=max(1, SIDE // pictures[0].width)).save(target)
        return {}

    fit(stage, config.loop, folder, name="finetune", seed=stage.seed, device=stage.device,
        on_sample=show if words else None, progress=progress)  # fmt: skip
    made = folder / ("model" if config.lora is None else "adapter")
    if crew.leads and isinstance(stage.model, PeftModel):
        adapters.save(stage.model, made, handle.source)
    elif crew.leads:
        handle.save(made)
    crew.wait()
    return made


def _same(path: Path, settings: dict[str, Any], writes: bool) -> None:
    """Write the settings of a run, or see that a run that is gone on with had the same data and
    model.

    Raises:
        ValueError: the folder holds a run on other data or another model.
    """
    if path.is_file():
        before = read_yaml(path)
        for key in ("fingerprint", "revision"):
            if before.get(key) != settings[key]:
                what = "other data" if key == "fingerprint" else "another model"
                raise ValueError(f"{path.parent}: a run on {what} stands there; name "
                                 "another folder with --out")  # fmt: skip
    if writes:
        write_atomic(path, yaml.safe_dump(settings, sort_keys=False).encode())


def stage_share(config: TuningConfig) -> float:
    """Samples that are drawn for each of the data's."""
    return (config.weight + sum(config.toybox.values())) / config.weight


def described(values: dict[str, float]) -> Iterator[str]:
    """What `check` found, in lines for people."""
    yield f"{values['records']:.0f} records of {values['tokens']:.0f} tokens, of which " \
          f"{values['learnt']:.0%} are learnt"  # fmt: skip
    if values["unreadable"]:
        yield f"{values['unreadable']:.0f} of those looked at cannot be learnt from: set aside"
    yield f"{values['parameters'] / 1e6:.2f}M parameters are trained, {values['share']:.1%} of " \
          f"all, for {values['steps']:.0f} steps"  # fmt: skip
