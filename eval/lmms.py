"""Our models inside lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval): `--model unified`.

    python -m lmms_eval --model unified --model_args pretrained=runs/toybox/model --tasks pope

lmms-eval finds `manifest` by the entry point group `lmms_eval.models` and asks this module for
`UnifiedChat`, whose tasks give messages with text and pictures in any order, or with
`--force_simple` for `UnifiedSimple`, whose tasks give a text and pictures, and which also tells how
likely an answer is. Their base class is lmms-eval's own, so they are made when they are first asked
for: the package is not needed for anything else here, and this module does not import it.

Interface after its docs/guides/model_guide.md and lmms_eval/api/model.py. Knows nothing of tasks.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from unified.eval.layouts import plain_name
from unified.eval.likelihood import likelihoods
from unified.eval.plan import seed_of
from unified.media import picture
from unified.terminal import explain

MODEL = "unified"
PLACE = "<image>"  # where a picture belongs in the text of a simple task
DRAW = ("never", "auto", "first", "only")
FOLDER = "unified-lmms-eval"
ANSWER = 100  # ids of an answer where a task does not say

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")

Part = dict[str, Any]
Message = dict[str, Any]
log = logging.getLogger(__name__)


def manifest() -> Any:
    """What lmms-eval wants to know of a model: its name, and where its two classes are."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id=MODEL,
        chat_class_path=f"{__name__}.UnifiedChat",
        simple_class_path=f"{__name__}.UnifiedSimple",
    )


def __getattr__(name: str) -> Any:
    """The classes of the manifest, made of lmms-eval's base when they are asked for."""
    kinds: dict[str, type[Requests]] = {"UnifiedChat": Chat, "UnifiedSimple": Simple}
    if name not in kinds:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lmms_eval.api.model import lmms

    made = type(name, (kinds[name], lmms), {"__doc__": kinds[name].__doc__, "__module__": __name__})
    globals()[name] = made
    return made


class Unfit(ValueError):
    """A task that asks for what this model has no sense for: a zero would pass for a score."""


class Requests:
    """What both kinds of task have in common: a model of ours that answers requests.

    Arguments are those of `--model_args`, together with lmms-eval's `--device` and `--batch_size`.

    Args:
        pretrained: model directory, ours or of a published family; the shipped weights if left out.
        batch_size: questions about one picture each that are answered together.
        adapter: folder of a LoRA adapter.
        draw: "never": answers are text; "auto": the model decides, "only": it must draw. Answers
            are then JSON, {"text": …, "images": [paths]}, as lmms-eval's drawing tasks read them.
        image_folder: where drawings go.
        seed: of all; every request has its own, by its task and document.
        sampling: fields of `Sampling` that differ from the model's, such as guidance_scale.

    Raises:
        ValueError: an argument is unknown or out of its range, or the model cannot be loaded.
    """

    task_dict: Mapping[str, Any]
    is_simple = True

    def __init__(
        self,
        pretrained: str = "",
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
        adapter: str = "",
        draw: str = "never",
        image_folder: str = FOLDER,
        seed: int = 0,
        **sampling: Any,
    ):
        self.pretrained = str(pretrained) or "unified/toybox"  # lmms-eval's caches go by it
        super().__init__()
        from accelerate import Accelerator

        from unified.handle import load

        if draw not in DRAW:
            raise ValueError(f"draw={draw}: one of {', '.join(DRAW)}")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"batch_size={batch_size}: a whole number from 1 on")
        self.accelerator = Accelerator()
        self._rank, self._world_size = (
            self.accelerator.process_index, self.accelerator.num_processes,
        )  # fmt: skip
        if self._world_size > 1 and device in (None, "", "cuda"):
            device = str(self.accelerator.device)
        adapters = [adapter] if adapter else []
        self.handle = load(pretrained or None, device or None, adapters=adapters)
        self.handle.settings(**sampling)  # an unknown one is refused now
        self.batch_size, self.draw, self.sampling = int(batch_size), draw, sampling
        self.image_folder, self.seed = Path(image_folder).resolve(), int(seed)

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world_size(self) -> int:
        return self._world_size

    @property
    def device(self) -> Any:
        return self.handle.model.device

    # --- what lmms-eval asks for -----------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer to each request, up to its first stop word; "" where it cannot be given, with
        a warning that says why."""
        asked = list(self._read(requests))
        answers: list[str] = [""] * len(asked)
        together: dict[str, list[int]] = {}
        for place, one in enumerate(asked):
            if self.draw == "never" and one.single:
                together.setdefault(json.dumps(one.settings, sort_keys=True), []).append(place)
        for places in together.values():
            for start in range(0, len(places), self.batch_size):
                self._ask(asked, places[start : start + self.batch_size], answers)
        done = {place for places in together.values() for place in places}
        for place, one in enumerate(asked):
            if place not in done:
                answers[place] = self._reply(one)
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(loss, greedy) of each continuation: nats a token, and whether each of its tokens is the
        likeliest one. A loss, not its negative: lmms-eval takes the smallest for the best, as its
        own models give it. Infinite, with a warning, where there is none."""
        found = []
        for request in requests:
            context, target, *rest = request.args
            parts: list[Part] = [{"type": "text", "text": context}]
            if rest:
                visual, doc_id, task, split = rest
                doc = self.task_dict[task][split][doc_id]
                target = target(doc) if callable(target) else target
                parts = interleaved(context, _visuals(visual, doc))
            try:
                message = {"role": "user", "content": _opened(parts)}
                (one,) = likelihoods(self.handle, [message], [str(target).strip()])
                found.append((-one.mean, one.greedy))
            except Unfit:
                raise
            except ValueError as error:
                log.warning("%s: not scored: %s", rest[1:] or context[:60], explain(error))
                found.append((math.inf, False))
        return found

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError(
            "tasks of several rounds are not run on these models; leave the task out of --tasks"
        )

    # --- inside ----------------------------------------------------------------------------------

    def parts(self, request: Any) -> tuple[list[Message], Mapping[str, Any], Any, str, str]:
        """Messages, generation settings, document, task and split of a request."""
        raise NotImplementedError

    def _read(self, requests: Sequence[Any]) -> Iterator[_Asked]:
        before: Counter[tuple[str, str, str]] = Counter()
        for request in requests:
            messages, given, doc_id, task, split = self.parts(request)
            name = task, split, str(doc_id)
            seed = seed_of(self.seed, task, f"{split}/{doc_id}", before[name])
            before[name] += 1  # the same document again, for tasks that repeat, is another chance
            where = f"{task}, {split} {doc_id}"
            settings, stops = _generation(given, where)
            one = _Asked([], settings, stops, seed, where, name)
            try:
                one.messages = ours(messages)
            except Unfit as error:
                raise Unfit(f"{where}: {error}") from None
            except ValueError as error:
                self._lost(one, error)
            yield one

    def _ask(self, asked: list[_Asked], places: list[int], answers: list[str]) -> None:
        """Questions about one picture each, together; one by one where that fails."""
        batch = [asked[place] for place in places]
        content = [one.messages[0]["content"] for one in batch]
        try:
            said = self.handle.ask(
                [parts[0]["image"] for parts in content], [parts[1]["text"] for parts in content],
                seed=[one.seed for one in batch], batch_size=self.batch_size,
                **{**self.sampling, **batch[0].settings},
            )  # fmt: skip
        except ValueError as error:
            if len(batch) == 1:
                self._lost(batch[0], error)
                return
            for place in places:
                self._ask(asked, [place], answers)
            return
        for place, one, text in zip(places, batch, said, strict=True):
            answers[place] = one.cut(text)

    def _reply(self, one: _Asked) -> str:
        """To anything else: several pictures, several turns, or with a drawing of its own."""
        parts: list[Part] = []
        if one.messages:
            how, settings = self.draw, {**self.sampling, **one.settings}
            if how != "never":
                del settings["most"]  # a number of words; a drawing takes what it takes
            try:
                reply = self.handle.chat(one.messages, seed=one.seed, draw=how, **settings)
                parts = reply["content"]
            except ValueError as error:
                self._lost(one, error)
        text = one.cut(" ".join(part["text"] for part in parts if part["type"] == "text").strip())
        if self.draw == "never":
            return text
        images = [part["image"] for part in parts if part["type"] == "image"]
        return json.dumps({"text": text, "images": self._saved(images, one)}, ensure_ascii=False)

    def _saved(self, images: Sequence[Image.Image], one: _Asked) -> list[str]:
        task, split, doc_id = map(plain_name, one.name)
        folder = self.image_folder / task
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"seed": one.seed, "model": f"{self.handle.source} {self.handle.revision}".strip()}
        paths: list[str] = []
        for image in images:
            path = folder / f"{split}_{doc_id}_{one.seed:x}_{len(paths)}.png"
            paths.append(str(picture.save_png(image, path, facts)))
        return paths

    @staticmethod
    def _lost(one: _Asked, error: ValueError) -> None:
        log.warning("%s: not answered: %s", one.where, explain(error))


class Chat(Requests):
    """A model of ours for lmms-eval's chat tasks: messages with text and pictures in any order."""

    is_simple = False

    def parts(self, request: Any) -> tuple[list[Message], Mapping[str, Any], Any, str, str]:
        # the guide gives five arguments, the package puts the context before them
        to_messages, given, doc_id, task, split = request.args[-5:]
        return to_messages(self.task_dict[task][split][doc_id]), given, doc_id, task, split


class Simple(Requests):
    """A model of ours for lmms-eval's simple tasks: a text and pictures."""

    def parts(self, request: Any) -> tuple[list[Message], Mapping[str, Any], Any, str, str]:
        context, given, visual, doc_id, task, split = request.args
        parts = interleaved(context, _visuals(visual, self.task_dict[task][split][doc_id]))
        return [{"role": "user", "content": parts}], given, doc_id, task, split


class _Asked:
    """A request as it is asked of our model; without messages where they cannot be shown."""

    def __init__(
        self, messages: list[Message], settings: dict[str, Any], stops: list[str],
        seed: int, where: str, name: tuple[str, str, str],
    ):  # fmt: skip
        self.messages, self.settings, self.stops = messages, settings, stops
        self.seed, self.where, self.name = seed, where, name

    @property
    def single(self) -> bool:
        """Whether it is one picture and then one question."""
        if len(self.messages) != 1:
            return False
        return [part["type"] for part in self.messages[0]["content"]] == ["image", "text"]

    def cut(self, text: str) -> str:
        """What stands before the first stop word."""
        ends = [place for stop in self.stops if stop and (place := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text


def _generation(given: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """lmms-eval's generation settings as ours, and its stop words. Beams and filters of words are
    not ours, and said to be left out where a task wants them."""
    until = given.get("until") or []
    warm = float(given.get("temperature") or 0)
    sampled = warm > 0 and given.get("do_sample", True)
    most = given.get("max_new_tokens") or given.get("max_gen_toks") or ANSWER
    unlike = {"num_beams": (None, 0, 1), **({"top_p": (None, 0, 1), "top_k": (None, 0)} if sampled
              else {})}  # fmt: skip
    for key, usual in unlike.items():
        if given.get(key) not in usual:
            log.warning("%s: %s=%s is left out; this model has no such way", where, key, given[key])
    settings = {"most": int(most), "text_temperature": warm if sampled else 0.0}
    return settings, [until] if isinstance(until, str) else list(until)


def ours(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """lmms-eval's messages as ours: pictures opened, what the system says before the user.

    Raises:
        Unfit: a film or sound.
        ValueError: a picture that cannot be read.
    """
    out: list[Message] = []
    system: list[Part] = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        opened = _opened(parts)
        if message["role"] == "system":
            system += opened
            continue
        if message["role"] == "user":
            opened, system = [*system, *opened], []
        out.append({"role": message["role"], "content": opened})
    return out


def _opened(parts: Sequence[Mapping[str, Any]]) -> list[Part]:
    out: list[Part] = []
    for part in parts:
        if part["type"] == "text":
            if part["text"].strip():
                out.append({"type": "text", "text": part["text"]})
        elif part["type"] == "image":
            out.append({"type": "image", "image": _picture(part.get("url", part.get("image")))})
        else:
            raise Unfit(f"this model takes no {part['type']}; it reads text and pictures")
    return out


def _picture(source: Any) -> Image.Image:
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    if isinstance(source, str | Path):
        return picture.read(source)
    raise ValueError(f"a picture as {type(source).__name__}; give one in memory, or its path")


def _visuals(to_visual: Any, doc: Any) -> list[Any]:
    return list(to_visual(doc) or []) if callable(to_visual) else []


def interleaved(context: str, visuals: Sequence[Any]) -> list[Part]:
    """A text and its pictures in order: at the marks where there is one for each, else in front.

    A visual that is no picture (a film's path, a dict of sound) keeps its kind, to be refused.
    """
    shown: list[Part] = [{"type": _kind(visual), "url": visual} for visual in visuals]
    words = context.split(PLACE)
    if len(words) != len(shown) + 1:
        return [*shown, {"type": "text", "text": context.replace(PLACE, "").strip()}]
    texts: list[Part] = [{"type": "text", "text": text.strip()} for text in words]
    turned = [part for pair in zip(texts, [*shown, None], strict=True) for part in pair if part]
    return [part for part in turned if part.get("text", "x")]


def _kind(visual: Any) -> str:
    if isinstance(visual, Image.Image):
        return "image"
    if isinstance(visual, str | Path):
        return "image" if Path(visual).suffix.lower() in PICTURES else "video"
    return "audio"
