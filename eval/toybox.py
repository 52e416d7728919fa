"""The toybox benchmark: drawing judged by an independent judge, understanding by exact answers.

Six skills on both sides, dialogues whose drawn and changed pictures count as generation and whose
questions as understanding, and whether the model draws exactly when it is asked to. Knows nothing
about how a model works: it needs `generate`, `ask` and `chat_batch`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

from PIL import Image
from rich.table import Table

import unified
from unified.eval import judge as synthesis
from unified.eval.judge import Judged, check
from unified.toybox.conversation import Turn
from unified.toybox.questions import SKILLS
from unified.toybox.samples import (
    benchmark_dialogue,
    benchmark_prompt,
    benchmark_question,
    benchmark_when,
    matches,
)
from unified.toybox.scene import Scene, render

SPLITS = ("seen", "held_out")
PROMPTS, DIALOGUES, WHEN = 300, 100, 200  # a side and split; a split; in all
BATCH = 32
DIALOGUE_PARTS = ("drawing", "edits", "kept", "questions", "memory")

Row = dict[str, Any]
Message = dict[str, Any]
Progress = Callable[[int, int, str], None]
Judge = Callable[[Any], Judged]


class Model(Protocol):
    """What is benchmarked; pictures are PIL images, messages have content parts."""

    def generate(self, prompt: list[str], *, seed: int, **sampling: Any) -> list[Image.Image]:
        """One picture of each prompt."""
        ...

    def ask(
        self, image: list[Image.Image], question: list[str], *, seed: int, **sampling: Any
    ) -> list[str]:
        """One answer to each question about its picture."""
        ...

    def chat_batch(
        self, conversations: list[list[Message]], *, seed: int, **sampling: Any
    ) -> list[Message]:
        """The next message of each conversation."""
        ...


@dataclass
class _Tally:
    """Right and wrong of one row."""

    side: str
    skill: str
    split: str
    right: list[bool] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)

    def add(self, right: bool, chance: float) -> None:
        self.right.append(right)
        self.chances.append(chance)

    def row(self, settings: dict[str, Any]) -> Row:
        n = len(self.right)
        value = sum(self.right) / n
        return {
            "task": "toybox", "side": self.side, "skill": self.skill, "split": self.split,
            "metric": "accuracy", "value": value, "stderr": math.sqrt(value * (1 - value) / n),
            "n": n, "chance": sum(self.chances) / n, "settings": settings,
        }  # fmt: skip


class _Run:
    """One evaluation: what is asked, and the tallies."""

    def __init__(self, model: Model, seed: int, sampling: dict[str, Any], judge: Judge):
        self.model, self.seed, self.sampling, self.judge = model, seed, sampling, judge
        self.tallies: dict[tuple[str, str, str], _Tally] = {}
        self.fingerprint = hashlib.sha256()

    def asked(self, item: Any) -> None:
        self.fingerprint.update(json.dumps(item, sort_keys=True, default=list).encode())

    def add(self, side: str, skill: str, split: str, right: bool, chance: float = 0.0) -> None:
        key = (side, skill, split)
        self.tallies.setdefault(key, _Tally(*key)).add(right, chance)


def _spread(total: int, parts: int) -> list[int]:
    """`total` over `parts` as evenly as can be."""
    return [total // parts + (k < total % parts) for k in range(parts)]


def sizes(limit: int | None) -> tuple[int, int, int]:
    """Prompts a side and split, dialogues a split, conversations about when to draw in all.

    Raises:
        ValueError: a limit below one.
    """
    if limit is None:
        return PROMPTS, DIALOGUES, WHEN
    if limit < 1:
        raise ValueError(f"a limit of {limit}; it is the number of prompts and at least 1")
    return limit, math.ceil(limit * DIALOGUES / PROMPTS), max(2, math.ceil(limit * WHEN / PROMPTS))


def evaluate(
    model: Model,
    *,
    limit: int | None = None,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
    judge: Judge = synthesis.judge,
) -> list[Row]:
    """Score a model.

    Args:
        limit: prompts a side and split in all (300 by default), spread over the six skills;
            dialogues and conversations about when to draw shrink or grow in proportion.
        seed: of the prompts and of drawing.
        sampling: settings that differ from the model's own.
        on_progress: called with (done, total, what is being scored).
        judge: picture -> Judged.

    Returns:
        Rows {task, side, skill, split, metric, value, stderr, n, chance, settings}. Skill
        "overall" is the mean over the samples of the six skills; "dialogue" over all turns of its
        side, followed by its parts; "when to draw" is scored on split "seen" alone.
    """
    prompts, dialogues, when = sizes(limit)
    run = _Run(model, seed, dict(sampling or {}), judge)
    stages: list[Iterator[tuple[int, str]]] = []
    for split in SPLITS:
        stages += [_draw(run, split, prompts), _ask(run, split, prompts)]
        stages += [_talk(run, split, dialogues)]
    stages.append(_when(run, when))
    done, total = 0, 2 * (2 * prompts + dialogues) + when
    for count, label in chain.from_iterable(stages):
        done += count
        if on_progress is not None:
            on_progress(done, total, label)
    settings = _settings(run, limit)
    return [tally.row(settings) for tally in _ordered(run.tallies)]


def _ordered(tallies: dict[tuple[str, str, str], _Tally]) -> list[_Tally]:
    """With the overall rows first of each side and split."""
    skills = ["overall", *SKILLS, "dialogue", *(f"dialogue: {p}" for p in DIALOGUE_PARTS),
              "when to draw"]  # fmt: skip
    found = dict(tallies)
    for side in ("understanding", "generation"):
        for split in SPLITS:
            whole = _Tally(side, "overall", split)
            for skill in SKILLS:
                part = tallies.get((side, skill, split))
                if part:
                    whole.right += part.right
                    whole.chances += part.chances
            if whole.right:
                found[side, "overall", split] = whole
    return [
        found[side, skill, split]
        for side in ("understanding", "generation") for split in SPLITS for skill in skills
        if (side, skill, split) in found
    ]  # fmt: skip


def _settings(run: _Run, limit: int | None) -> dict[str, Any]:
    """Everything that a score depends on, JSON-able."""
    settings = getattr(run.model, "settings", None)
    sampling = settings(**run.sampling).settings() if callable(settings) else run.sampling
    inner = getattr(run.model, "model", None)
    device, dtype = (getattr(inner, name, None) for name in ("device", "dtype"))
    name = getattr(run.judge, "__qualname__", type(run.judge).__name__)
    judge = f"{synthesis.NAME} {synthesis.VERSION}" if run.judge is synthesis.judge else name
    return {
        "sampling": dict(sampling),
        "seed": run.seed,
        "limit": limit,
        "batch": BATCH,
        "judge": judge,
        "rule": "exact: nothing but what was asked for",
        "prompts": run.fingerprint.hexdigest()[:12],
        "model": str(getattr(run.model, "source", "")),
        "revision": str(getattr(run.model, "revision", "")),
        "adapter": str(getattr(run.model, "adapter_revision", "")),
        "toolkit": unified.__version__,
        "device": str(device) if device is not None else None,
        "dtype": str(dtype).removeprefix("torch.") if dtype is not None else None,
        "weights": getattr(run.model, "weights", "float"),
    }


def _batches(count: int) -> Iterator[range]:
    for start in range(0, count, BATCH):
        yield range(start, min(start + BATCH, count))


# --- the six skills ----------------------------------------------------------------------------


def _items(count: int) -> list[tuple[str, int]]:
    return [
        (skill, index)
        for skill, share in zip(SKILLS, _spread(count, len(SKILLS)), strict=True)
        for index in range(share)
    ]


def _draw(run: _Run, split: str, count: int) -> Iterator[tuple[int, str]]:
    items = _items(count)
    asked = [benchmark_prompt(skill, run.seed, index, split) for skill, index in items]
    run.asked(asked)
    for batch in _batches(count):
        pictures = run.model.generate(
            [asked[k][0] for k in batch], seed=run.seed + batch.start, **run.sampling
        )
        for k, picture in zip(batch, pictures, strict=True):
            right = check(run.judge(picture), asked[k][1])
            run.add("generation", items[k][0], split, right)
        yield len(batch), f"drawing, {split}"


def _ask(run: _Run, split: str, count: int) -> Iterator[tuple[int, str]]:
    items = _items(count)
    asked = [benchmark_question(skill, run.seed, index, split) for skill, index in items]
    run.asked([item[1:] for item in asked])
    for batch in _batches(count):
        replies = run.model.ask(
            [_picture(asked[k][0]) for k in batch], [asked[k][1] for k in batch],
            seed=run.seed + batch.start, **run.sampling,
        )  # fmt: skip
        for k, reply in zip(batch, replies, strict=True):
            _, _, answers, chance = asked[k]
            run.add("understanding", items[k][0], split, matches(reply, answers), chance)
        yield len(batch), f"questions, {split}"


# --- dialogues ---------------------------------------------------------------------------------


def _picture(scene: Scene) -> Image.Image:
    return Image.fromarray(render(scene))


def user_message(turn: Turn) -> Message:
    """A user's turn as a message with content parts."""
    parts = [
        {"type": "text", "text": part} if isinstance(part, str)
        else {"type": "image", "image": _picture(part)}
        for part in turn.parts
    ]  # fmt: skip
    return {"role": "user", "content": parts}


def _content(message: Message) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def text_of(message: Message) -> str:
    """The texts of a message as one."""
    return " ".join(part["text"] for part in _content(message) if part["type"] == "text")


def pictures_of(message: Message) -> list[Image.Image]:
    """The pictures of a message, in order."""
    return [part["image"] for part in _content(message) if part["type"] == "image"]


def _reply(run: _Run, conversations: Sequence[list[Message]], step: int) -> list[Message]:
    """The next message of each conversation, appended to it."""
    replies: list[Message] = []
    for batch in _batches(len(conversations)):
        replies += run.model.chat_batch(
            [conversations[k] for k in batch], seed=run.seed + 1000 * step + batch.start,
            **run.sampling,
        )  # fmt: skip
    for conversation, reply in zip(conversations, replies, strict=True):
        conversation.append(reply)
    return replies


def _talk(run: _Run, split: str, count: int) -> Iterator[tuple[int, str]]:
    """All dialogues in step, one user turn after the other."""
    scripts = [benchmark_dialogue(run.seed, index, split) for index in range(count)]
    run.asked(scripts)
    conversations: list[list[Message]] = [[] for _ in scripts]
    shown: list[Judged | None] = [None] * count  # the picture last drawn in each
    for step in range(max(map(len, scripts))):
        going = [k for k, script in enumerate(scripts) if step < len(script)]
        for k in going:
            text = {"type": "text", "text": scripts[k][step]["text"]}
            conversations[k].append({"role": "user", "content": [text]})
        replies = _reply(run, [conversations[k] for k in going], step)
        ended = 0
        for k, reply in zip(going, replies, strict=True):
            shown[k] = _score_turn(run, split, scripts[k][step], reply, shown[k])
            ended += step + 1 == len(scripts[k])
        yield ended, f"dialogues, {split}"


def _score_turn(
    run: _Run, split: str, turn: dict[str, Any], reply: Message, before: Judged | None
) -> Judged | None:
    """Score one reply; the picture that stands after it."""
    pictures = pictures_of(reply)
    if turn["kind"] == "question":
        right = not pictures and matches(text_of(reply), turn["answers"])
        part = "memory" if turn.get("skill") == "memory" else "questions"
        for skill in ("dialogue", f"dialogue: {part}"):
            run.add("understanding", skill, split, right, turn["chance"])
        return before
    now = run.judge(pictures[0]) if len(pictures) == 1 else None
    if turn["kind"] == "draw":
        part, right = "drawing", now is not None and check(now, turn["request"])
    else:
        part, right = "edits", now is not None and edited(before, now, turn)
        kept = now is not None and before is not None and unchanged(before, now, turn)
        run.add("generation", "dialogue: kept", split, kept)
    for skill in ("dialogue", f"dialogue: {part}"):
        run.add("generation", skill, split, right)
    return now or before


def edited(before: Judged | None, now: Judged, turn: Mapping[str, Any]) -> bool:
    """Whether a picture shows what an edit asked for: the things that must stand there after it,
    and nothing else; the place, size, relation or background that it names; any other background
    as it was."""
    if now.counts != turn["things"]:
        return False
    background = turn["to"] if turn["edit"] == "background" else before and before.background
    facts: dict[str, Any] = {"things": [], "background": background}
    target, goal = turn.get("target"), turn.get("to")
    if turn["edit"] in ("add", "move", "resize"):
        assert target is not None
        wanted = {"name": target["name"], "colour": target["colour"], "size": None, "place": None}
        if turn["edit"] == "add":
            wanted |= {"place": target["place"], "size": target["size"]}
        elif goal is not None:
            wanted["place" if turn["edit"] == "move" else "size"] = goal
        if not any(
            (t.name, t.colour) == (wanted["name"], wanted["colour"])
            and wanted["place"] in (None, t.place) and wanted["size"] in (None, t.size)
            for t in now.things
        ):  # fmt: skip
            return False
        if turn.get("relation"):
            name, anchor = turn["relation"]
            kinds = [{"name": x["name"], "colour": x["colour"],
                      "count": now.counts[_label(x)]} for x in (target, anchor)]  # fmt: skip
            facts |= {"things": kinds, "relation": [0, name, 1]}
    return check(now, facts, exact=False)


def _label(thing: Mapping[str, Any]) -> str:
    return f"{thing['colour']} {thing['name']}" if thing["colour"] else thing["name"]


def unchanged(before: Judged, now: Judged, turn: Mapping[str, Any]) -> bool:
    """Whether everything that an edit does not name stands where it stood, as big as it was."""
    changing = {"add": 0, "background": 0, "swap": 2}.get(
        turn["edit"], (turn.get("target") or {}).get("count") or turn.get("count") or 1
    )
    left = list(now.things)
    for thing in before.things:
        if thing in left:
            left.remove(thing)
        else:
            changing -= 1
    return changing >= 0


# --- when to draw ------------------------------------------------------------------------------


def _when(run: _Run, count: int) -> Iterator[tuple[int, str]]:
    items = [benchmark_when(run.seed, index) for index in range(count)]
    run.asked([[turn.text for turn in turns] for turns, _ in items])
    conversations: list[list[Message]] = [[] for _ in items]
    for step in range(max(len(turns) for turns, _ in items)):
        going = [k for k, (turns, _) in enumerate(items) if step < len(turns)]
        for k in going:
            conversations[k].append(user_message(items[k][0][step]))
        replies = _reply(run, [conversations[k] for k in going], step)
        ended = 0
        for k, reply in zip(going, replies, strict=True):
            turns, draws = items[k]
            if step + 1 == len(turns):
                right = bool(pictures_of(reply)) == draws
                run.add("generation", "when to draw", "seen", right, 0.5)
                ended += 1
        yield ended, "when to draw"


# --- the report --------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> Table:
    """Understanding beside generation, a line for each skill: seen, held out, in percent.

    Print it with rich; `str` of each cell is plain text.
    """
    found = {(r["side"], r["skill"], r["split"]): r for r in rows if r["metric"] == "accuracy"}
    skills = list(dict.fromkeys(r["skill"] for r in rows if r["side"] == "generation"))
    skills += [r["skill"] for r in rows if r["skill"] not in skills]
    grid = Table(title="toybox, % right ± standard error (chance)", title_justify="left")
    grid.add_column("skill")
    columns = [(side, split) for side in ("understanding", "generation") for split in SPLITS]
    for side, split in columns:
        grid.add_column(f"{side}\n{split.replace('_', ' ')}", justify="right")
    for skill in dict.fromkeys(skills):
        cells = [_cell(found.get((side, skill, split))) for side, split in columns]
        grid.add_row(skill, *cells, end_section=skill == "overall")
    return grid


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    chance = f" ({100 * row['chance']:.0f})" if row["chance"] >= 0.005 else ""
    return f"{100 * row['value']:.1f} ± {100 * row['stderr']:.1f}{chance}"
