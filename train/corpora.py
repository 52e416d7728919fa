"""Named sources of a recipe: where they lie, what is learnt from them, on which side they teach;
and a stage over several of them, with toybox tasks beside.

Records are those of `readers`, and each source goes through its own epochs as in fine-tuning. Knows
nothing of stages, files of weights or what a recipe is called.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict

from unified.handle import Unified
from unified.media.picture import write_atomic
from unified.toybox.samples import TASKS
from unified.train import documents, finetune
from unified.train.batches import Encoded
from unified.train.examples import Data, open_data
from unified.train.mixture import Mixture
from unified.train.model import ModelStage, StageConfig, conversations
from unified.train.readers import Records
from unified.train.records import Message, Record
from unified.train.shards import Shards
from unified.train.supervised import SupervisedStage
from unified.train.tuning import TuningConfig

LOOKED_AT = 16  # records of a source, before any weight is touched
Side = Literal["understanding", "generation", "text", "both"]
# of toybox tasks; all others have samples of both sides
TOYBOX: dict[str, Side] = {
    "render": "generation",
    "draw": "generation",
    "study": "generation",
    "describe": "understanding",
    "ask": "understanding",
    "caption": "understanding",
    "quiz": "understanding",
}


class CorpusConfig(BaseModel):
    """A named source of a recipe.

    Attributes:
        path: of the data, in any format that `unified data check` knows, or of the shards that
            `unified data tokenize` made of them; to be given, with `--set data.NAME=PATH`.
        format, media, split: see `unified.train.readers.read`.
        tasks: what is learnt from a picture and its caption: "draw", "describe" or both.
        learn: "reply", what the assistant says, or "all" tokens.
        side: what it teaches; "text" is of neither side, and kept with each.
    """

    model_config = ConfigDict(extra="forbid")

    path: str | None = None
    format: str | None = None
    media: str | None = None
    split: str | None = None
    tasks: tuple[Literal["draw", "describe"], ...] = ("draw", "describe")
    learn: Literal["reply", "all"] = "reply"
    side: Side = "both"

    def open(self, name: str) -> Data:
        """Its records.

        Raises:
            ValueError: no path was given, no data that can be read lie there, or shards that were
                made for something else.
        """
        if self.path is None:
            raise ValueError(without_path([name]))
        media = Path(self.media) if self.media else None
        tasks: tuple[str, ...] = self.tasks or documents.TASKS
        try:
            data = open_data(self.path, self.format, media=media, split=self.split, tasks=tasks)
        except ValueError as error:
            raise ValueError(f"data.{name}: {error}") from None
        if self.learn == "reply":
            return data
        if isinstance(data, Shards):
            raise ValueError(f"data.{name}: tokens that carry already what is learnt of them; for "
                             "learn=all name the data that they were made of")  # fmt: skip
        return Whole(data)


class Whole(Records):
    """Records of which every token is learnt, the user's too."""

    def __init__(self, records: Records):
        super().__init__(records.source, records.reader)
        self.fingerprint = f"{records.fingerprint} all"

    def __getitem__(self, index: int) -> Record:
        record = super().__getitem__(index)
        return replace(record, messages=tuple(_learnt(message) for message in record.messages))


def _learnt(message: Message) -> Message:
    return Message(message.role, tuple(replace(part, loss=True) for part in message.parts))


def without_path(names: list[str]) -> str:
    sets = " ".join(f"--set data.{name}=PATH" for name in names)
    return f"say where the data lie: {sets}"


def of_side(
    mix: Mapping[str, float], data: Mapping[str, CorpusConfig], side: str
) -> dict[str, float]:
    """The sources of a mixture that teach one side, and those of text. One of "both" sides keeps
    all.

    Raises:
        ValueError: nothing of that side is in it.
    """
    if side == "both":
        return dict(mix)
    sides = {name: data[name].side if name in data else TOYBOX.get(name, "both") for name in mix}
    if side not in sides.values():
        told = ", ".join(f"{name} ({which})" for name, which in sides.items())
        raise ValueError(f"no source of the side {side!r} in the mixture: {told}")
    return {name: weight for name, weight in mix.items() if sides[name] in (side, "text")}


def check_names(mix: Mapping[str, float], data: Mapping[str, CorpusConfig]) -> None:
    """Raise ValueError for a source of a mixture that is neither a toybox task nor in the data."""
    for name in mix:
        if name not in data and name not in TASKS:
            known = ", ".join((*data, *TASKS))
            raise ValueError(f"mix: no source {name!r}; one of {known}")


class CorporaStage(SupervisedStage):
    """Next-token loss over named sources in exact proportion, each in epochs of its own.

    Raises:
        DataError: the first records of a source hold nothing to learn, or cannot be encoded.
    """

    def __init__(
        self,
        config: StageConfig,
        handle: Unified,
        model: torch.nn.Module,
        corpora: Mapping[str, Data],
        seed: int,
        device: str,
    ):
        tuning = TuningConfig(
            loop=config.loop, micro_batch=config.micro_batch, pack=config.pack,
            text_weight=config.text_weight, dropout=config.dropout, lora=config.lora,
        )  # fmt: skip
        super().__init__(handle, model, next(iter(corpora.values())), tuning, seed, device)
        self.mixture = Mixture(_whole(config.mix), seed)
        seeds = random.Random(f"{seed}/corpora")
        self.corpora = {
            name: SupervisedStage(
                handle, model, corpora[name], tuning, seeds.randrange(2**31), device
            )
            for name in sorted(corpora)
        }
        for part in self.corpora.values():
            finetune.check(part, LOOKED_AT)
        self.first = config.first_sample
        self.toybox = conversations(config, handle.model, handle.processor.tokenizer, handle.codec,
                                    device)  # fmt: skip

    def keep_aside(self, folder: Path, writes: bool) -> None:
        """Go on from what was set aside before, in a file below `folder` for each source."""
        for name, part in self.corpora.items():
            part.quarantine.keep(folder / f"quarantine-{name}.jsonl", writes)

    def sample(self, number: int) -> Encoded:
        name, own = self.mixture.pick(number)
        if name in self.corpora:
            return self.corpora[name].sample(own)
        return self.toybox.drawn(name, self.first + own, self.seed, number)


def _whole(mix: Mapping[str, float]) -> dict[str, int]:
    for name, weight in mix.items():
        if weight != int(weight):
            raise ValueError(f"mix.{name}: {weight}; weights beside data are whole numbers")
    return {name: int(weight) for name, weight in mix.items()}


def same_data(path: Path, corpora: Mapping[str, Data]) -> None:
    """Write down what a stage learns from, or see that one that is gone on with had the same.

    Raises:
        ValueError: names the source that has changed.
    """
    marks = {name: records.fingerprint for name, records in corpora.items()}
    before = json.loads(path.read_text()) if path.is_file() else marks
    for name in marks.keys() | before.keys():
        if marks.get(name) != before.get(name):
            raise ValueError(f"data.{name}: {path.parent} was begun with other data; give this run"
                             " another folder (--out)")  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(marks, indent=2) + "\n").encode())


def stage_of(
    config: StageConfig,
    handle: Unified,
    model: torch.nn.Module,
    corpora: Mapping[str, Data],
    seed: int,
    device: str,
) -> ModelStage | CorporaStage:
    """What trains `model`, a handle's or an adapter on it, on the stage's mixture."""
    if not corpora:
        text, codec = handle.processor.tokenizer, handle.codec
        return ModelStage(config, handle.model, text, codec, seed, device, model)
    return CorporaStage(config, handle, model, corpora, seed, device)
