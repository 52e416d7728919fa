"""Asks a model what a task's samples ask, and marks what it gives.

What goes wrong with a sample costs that sample alone and is named in its record. Knows a model only
as something that has `generate`, `animate`, `ask`, `chat_batch` and a picture tokenizer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unified.eval.answers import LETTERS
from unified.eval.benchmark import Benchmark, BenchmarkError, lacking
from unified.eval.items import Sample
from unified.eval.judges import Unscored
from unified.eval.layouts import LAYOUTS
from unified.eval.likelihood import option_likelihoods
from unified.eval.plan import Plan, Ready, seed_of
from unified.eval.rebuilding import rebuilt
from unified.eval.scorers import scorer
from unified.eval.scoring import Reply
from unified.media.picture import MediaError
from unified.terminal import explain


def records(
    model: Any, ready: Ready, batch: list[Sample], folder: Path, plan: Plan
) -> list[dict[str, Any]]:
    """Ask a batch and mark it; what goes wrong with a sample costs that sample alone."""
    spec = ready.task.spec
    answer = _drawn if spec.side == "generation" else _answered
    if spec.answer == "rebuilt":
        answer = _rebuilt
    replies = answer(model, spec, batch, plan)
    return [
        _record(ready, sample, reply, folder, plan)
        for sample, reply in zip(batch, replies, strict=True)
    ]


def _record(
    ready: Ready, sample: Sample, reply: Reply | str, folder: Path, plan: Plan
) -> dict[str, Any]:
    spec = ready.task.spec
    record: dict[str, Any] = {
        "id": sample.id, "group": sample.unit, "skill": sample.skill, "split": sample.split,
        "chance": sample.chance, "prompt": sample.prompt,
        "seed": seed_of(plan.seed, spec.name, sample.id), "reply": None, "files": [],
        "digest": "", "marks": {}, "unscored": None, "outside": False,
    }  # fmt: skip
    if isinstance(reply, str):
        return record | {"unscored": reply}
    if spec.side == "generation":
        shown = [*reply.pictures, *reply.given]
        record["digest"] = _digest(shown)
        write = LAYOUTS[spec.layout].write
        if write is not None:
            made_by = f"{ready.settings.model} {ready.settings.revision}".strip()
            facts = {"prompt": sample.prompt, "seed": record["seed"], "model": made_by}
            paths = write(folder / spec.name, sample, shown, facts)
            record["files"] = [path.relative_to(folder).as_posix() for path in paths]
    else:
        record["reply"] = reply.text if reply.likelihoods is None else None
        if reply.likelihoods is not None:
            record["likelihoods"] = reply.likelihoods
    try:
        record["marks"] = scorer(spec.scorer).mark(sample, reply, ready.judge)
    except KeyError as error:
        raise BenchmarkError(lacking(spec, error)) from None
    except Unscored as error:
        record |= {"unscored": str(error), "outside": error.outside}
    except MediaError as error:
        record["unscored"] = str(error)
    except RuntimeError as error:  # of a judge that is a model: out of memory, a shape it cannot
        record["unscored"] = f"not judged: {explain(error)}"
    return record


def _digest(pictures: Sequence[Any]) -> str:
    found = hashlib.sha256()
    for picture in pictures:
        array = np.asarray(picture)
        found.update(f"{array.shape}".encode() + array.tobytes())
    return found.hexdigest()


Asked = Callable[[list[Any], list[int]], list[Any]]


def _each(ask: Asked, items: list[Any], seeds: list[int]) -> list[Any]:
    """Ask all at once; where that fails, one by one, so that one bad item costs itself alone."""
    try:
        replies = ask(items, seeds)
        if len(replies) == len(items):
            return replies
    except (ValueError, RuntimeError):
        pass
    out: list[Any] = []
    for item, seed in zip(items, seeds, strict=True):
        try:
            replies = ask([item], [seed])
            out.append(replies[0] if len(replies) == 1 else f"{len(replies)} replies to one")
        except (ValueError, RuntimeError) as error:
            out.append(_Failed(explain(error)))
    return out


class _Failed(str):
    """Why there is no reply."""


def _drawn(model: Any, spec: Benchmark, batch: list[Sample], plan: Plan) -> list[Reply | str]:
    sampling = {**spec.sampling, **plan.sampling}
    verb = model.animate if spec.modality == "film" else model.generate

    def ask(items: list[Any], seeds: list[int]) -> list[Any]:
        made: list[Any] = verb(list(items), seed=seeds, **sampling)
        return made

    places = [(sample, k) for sample in batch for k in range(spec.pictures)]
    seeds = [seed_of(plan.seed, spec.name, sample.id, k) for sample, k in places]
    found = _each(ask, [sample.prompt for sample, _ in places], seeds)
    replies: list[Reply | str] = []
    for number in range(len(batch)):
        pictures = found[number * spec.pictures : (number + 1) * spec.pictures]
        failed = [str(p) for p in pictures if isinstance(p, str)]
        replies.append(f"not drawn: {failed[0]}" if failed else Reply(pictures=pictures))
    return replies


def _rebuilt(model: Any, spec: Benchmark, batch: list[Sample], plan: Plan) -> list[Reply | str]:
    replies, shown = _opened(batch)

    def ask(places: list[Any], seeds: list[int]) -> list[Any]:
        pairs = rebuilt(model, [shown[k][0] for k in places])
        return [Reply(pictures=[made], given=[given]) for given, made in pairs]

    places = list(shown)
    seeds = [seed_of(plan.seed, spec.name, batch[k].id) for k in places]
    for place, reply in zip(places, _each(ask, places, seeds) if places else [], strict=True):
        replies[place] = f"not rebuilt: {reply}" if isinstance(reply, str) else reply
    return replies


def _opened(batch: list[Sample]) -> tuple[list[Reply | str], dict[int, list[Image.Image]]]:
    """The pictures of each sample by its place, and why those that are not there are not."""
    replies: list[Reply | str] = ["" for _ in batch]
    shown: dict[int, list[Image.Image]] = {}
    for place, sample in enumerate(batch):
        try:
            shown[place] = [picture.open() for picture in sample.pictures]
        except MediaError as error:
            replies[place] = f"picture not readable: {error}"
    return replies, shown


def _answered(model: Any, spec: Benchmark, batch: list[Sample], plan: Plan) -> list[Reply | str]:
    sampling = {**spec.sampling, **plan.sampling}
    replies, shown = _opened(batch)
    ways: dict[str, list[int]] = {"one": [], "chat": [], "likelihood": []}
    for place, pictures in shown.items():
        way = "one" if len(pictures) == 1 else "chat"
        chosen = spec.answer != "text" and "options" in batch[place].facts
        ways["likelihood" if chosen else way].append(place)

    def one(places: list[Any], seeds: list[int]) -> list[Any]:
        pictures = [shown[k][0] for k in places]
        said: list[str] = model.ask(pictures, [batch[k].prompt for k in places],
                                    seed=seeds, **sampling)  # fmt: skip
        return [Reply(text) for text in said]

    def chat(places: list[Any], seeds: list[int]) -> list[Any]:
        talks = [_message(shown[k], batch[k].prompt) for k in places]
        return [Reply(_text(reply)) for reply in model.chat_batch(talks, seed=seeds, **sampling)]

    def likelihood(places: list[Any], seeds: list[int]) -> list[Any]:
        found = [
            option_likelihoods(model, shown[k], batch[k].prompt, _options(spec, batch[k]))
            for k in places
        ]
        if not all(map(math.isfinite, (value for values in found for value in values))):
            raise ValueError("a likelihood that is no number")
        return [Reply(likelihoods=values) for values in found]

    for way, ask in (("one", one), ("chat", chat), ("likelihood", likelihood)):
        places = ways[way]
        seeds = [seed_of(plan.seed, spec.name, batch[k].id) for k in places]
        for place, reply in zip(places, _each(ask, places, seeds) if places else [], strict=True):
            replies[place] = f"not answered: {reply}" if isinstance(reply, str) else reply
    return replies


def _options(spec: Benchmark, sample: Sample) -> list[str]:
    """What a model chooses from: the options, or their letters."""
    options: list[str] = sample.facts["options"]
    return list(LETTERS[: len(options)]) if spec.answer == "letter" else options


def _message(pictures: list[Image.Image], text: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")
