"""Preference pairs from a model's own drawings, ranked by the independent judge.

    python -m unified.eval.pairs wallpaper pairs --model runs/wallpaper-model

Every request of a skill is drawn several times; where some drawings are right and some wrong, each
right one is set against a wrong one while both last. `unified finetune pairs/pairs.jsonl` learns
from them. "edits" are the changes asked for in dialogues; a skill of the benchmark or a lesson is
asked for in one prompt. The requests are not those of the benchmarks: their seeds are others, and
their lessons show other things.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from unified.eval.judge import Judged, check, judge
from unified.eval.toybox import edited, pictures_of
from unified.toybox.lessons import LESSONS, lesson
from unified.toybox.questions import SKILLS
from unified.toybox.samples import benchmark_dialogue, benchmark_prompt

SEED = 1000  # of the requests; the benchmark's are 0 and few above
EACH = 8  # drawings of a request
AT_ONCE = 16  # requests

Message = dict[str, Any]
Rank = tuple[Message, Message]


def ranked(replies: list[Message], right: Callable[[Image.Image], bool]) -> list[Rank]:
    """Right replies beside wrong ones, each in one pair at most; none where all are alike."""
    found = [len(drawn) == 1 and right(drawn[0]) for drawn in map(pictures_of, replies)]
    better = [reply for reply, is_right in zip(replies, found, strict=True) if is_right]
    worse = [reply for reply, is_right in zip(replies, found, strict=True) if not is_right]
    return list(zip(better, worse, strict=False))


def collect(
    model: Any,
    skill: str,
    folder: Path,
    *,
    requests: int = 200,
    seed: int = SEED,
    temperature: float = 1.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write folder/pairs.jsonl and its pictures; how many pairs there are.

    Args:
        model: has `chat_batch(conversations, seed=, temperature=)` -> messages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for start in range(0, requests, AT_ONCE):
        numbers = range(start, min(requests, start + AT_ONCE))
        asked = _edits if skill == "edits" else _prompts
        for name, told, pair in asked(model, skill, numbers, seed, temperature):
            better, worse = (
                _saved(reply, folder, f"{name}-{kind}")
                for reply, kind in zip(pair, ("better", "worse"), strict=True)
            )
            before = [_saved(turn, folder, f"{name}-before{k}") for k, turn in enumerate(told)]
            for turn in before:
                turn["loss"] = False
            lines.append({"id": name, "messages": [*before, better], "rejected": [worse]})
        if on_progress is not None:
            on_progress(numbers[-1] + 1, requests)
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return len(lines)


Found = Iterator[tuple[str, list[Message], Rank]]  # a name, what was said before, two replies


def _prompts(model: Any, skill: str, numbers: range, seed: int, temperature: float) -> Found:
    asked = [_asked(skill, seed, number) for number in numbers]
    told = [[_said(text)] for text, _ in asked]
    tried = _tried(model, told, seed + numbers.start * EACH, temperature)
    for number, before, replies, (_, facts) in zip(numbers, told, tried, asked, strict=True):
        for k, pair in enumerate(ranked(replies, partial(_shows, facts))):
            yield f"{number:04}-{k}", before, pair


def _asked(skill: str, seed: int, number: int) -> tuple[str, dict[str, Any]]:
    """A prompt, and the facts of what it asks for."""
    if skill in LESSONS:
        made = lesson(skill, seed, number)
        return f"Draw {made.caption}.", made.facts
    return benchmark_prompt(skill, seed, number, "seen")


def _edits(model: Any, skill: str, numbers: range, seed: int, temperature: float) -> Found:
    """The last change of each dialogue; what the model says before it is said as it usually is."""
    scripts = [benchmark_dialogue(seed, number, "seen") for number in numbers]
    ends = [max(k for k, turn in enumerate(script) if turn["kind"] == "edit") for script in scripts]
    told: list[list[Message]] = [[] for _ in scripts]
    for step in range(max(ends) + 1):
        for conversation, script, end in zip(told, scripts, ends, strict=True):
            if step <= end:
                conversation.append(_said(script[step]["text"]))
        going = [k for k, end in enumerate(ends) if step < end]
        if going:
            first = seed + 1000 * step + numbers.start
            replies = model.chat_batch([told[k] for k in going], seed=first)
            for k, reply in zip(going, replies, strict=True):
                told[k].append(reply)
    tried = _tried(model, told, seed + numbers.start * EACH, temperature)
    for number, before, replies, script, end in zip(
        numbers, told, tried, scripts, ends, strict=True
    ):
        drawn = [picture for turn in before for picture in pictures_of(turn)]
        stood = judge(drawn[-1]) if drawn else None
        for k, pair in enumerate(ranked(replies, partial(_shows_edit, script[end], stood))):
            yield f"{number:04}-{k}", before, pair


def _shows(facts: dict[str, Any], drawn: Image.Image) -> bool:
    return check(judge(drawn), facts)


def _shows_edit(turn: dict[str, Any], before: Judged | None, drawn: Image.Image) -> bool:
    return edited(before, judge(drawn), turn)


def _said(text: str) -> Message:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def _tried(
    model: Any, told: list[list[Message]], seed: int, temperature: float
) -> list[list[Message]]:
    """EACH replies to every conversation."""
    every = [conversation for conversation in told for _ in range(EACH)]
    replies = model.chat_batch(every, seed=seed, temperature=temperature)
    return [replies[k : k + EACH] for k in range(0, len(replies), EACH)]


def _saved(message: Message, folder: Path, name: str) -> Message:
    content = []
    for part in message["content"]:
        if part["type"] == "image":
            image: Image.Image = part["image"]
            image.save(folder / f"{name}.png")
            part = {"type": "image", "path": f"{name}.png"}
        content.append(part)
    return {"role": message["role"], "content": content}


def main() -> None:
    parser = argparse.ArgumentParser(description="Preference pairs from a model's own drawings.")
    parser.add_argument("skill", choices=(*SKILLS, *LESSONS, "edits"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=None, help="model directory; the shipped one by default")
    parser.add_argument("--requests", type=int, default=200)
    given = parser.parse_args()
    from unified.handle import load

    count = collect(load(given.model), given.skill, given.folder, requests=given.requests)
    print(f"{count} pairs of {given.requests} requests: {given.folder / 'pairs.jsonl'}")


if __name__ == "__main__":
    main()
