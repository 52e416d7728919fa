"""Preference pairs from a model's own drawings, ranked by the independent judge.

    python -m unified.eval.pairs position pairs

Every prompt of a skill is drawn several times; where some drawings are right and some wrong, a
right one is set against a wrong one. `unified finetune pairs/pairs.jsonl` learns from them. The
prompts are not those of the benchmark, whose seed is another.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from unified.eval.judge import check, judge
from unified.toybox.questions import SKILLS
from unified.toybox.samples import benchmark_prompt

SEED = 1000  # of the prompts; the benchmark's are 0 and few above
EACH = 8  # drawings of a prompt
AT_ONCE = 16  # prompts

Message = dict[str, Any]


def ranked(replies: list[Message], facts: dict[str, Any]) -> tuple[Message, Message] | None:
    """The first right reply and the first wrong one, None where all are alike."""
    right = [_is_right(reply, facts) for reply in replies]
    if all(right) or not any(right):
        return None
    return replies[right.index(True)], replies[right.index(False)]


def _is_right(reply: Message, facts: dict[str, Any]) -> bool:
    pictures = [part["image"] for part in reply["content"] if part["type"] == "image"]
    return len(pictures) == 1 and check(judge(pictures[0]), facts)


def collect(
    model: Any,
    skill: str,
    folder: Path,
    *,
    prompts: int = 200,
    seed: int = SEED,
    temperature: float = 1.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write folder/pairs.jsonl and its pictures; how many pairs there are.

    Args:
        model: has `draw(prompts, n=, seed=, temperature=)` -> messages, n of each prompt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for start in range(0, prompts, AT_ONCE):
        numbers = range(start, min(prompts, start + AT_ONCE))
        asked = [benchmark_prompt(skill, seed, number, "seen") for number in numbers]
        replies = model.draw(
            [text for text, _ in asked], n=EACH, seed=seed + start * EACH, temperature=temperature
        )
        for k, (number, (text, facts)) in enumerate(zip(numbers, asked, strict=True)):
            pair = ranked(replies[k * EACH : (k + 1) * EACH], facts)
            if pair is not None:
                better, worse = (
                    _saved(reply, folder, f"{number:04}-{name}")
                    for reply, name in zip(pair, ("better", "worse"), strict=True)
                )
                messages = [{"role": "user", "content": text}, better]
                lines.append({"id": str(number), "messages": messages, "rejected": [worse]})
        if on_progress is not None:
            on_progress(numbers[-1] + 1, prompts)
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return len(lines)


def _saved(reply: Message, folder: Path, name: str) -> Message:
    content = []
    for part in reply["content"]:
        if part["type"] == "image":
            image: Image.Image = part["image"]
            image.save(folder / f"{name}.png")
            part = {"type": "image", "path": f"{name}.png"}
        content.append(part)
    return {"role": "assistant", "content": content}


def main() -> None:
    parser = argparse.ArgumentParser(description="Preference pairs from a model's own drawings.")
    parser.add_argument("skill", choices=SKILLS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=None, help="model directory; the shipped one by default")
    parser.add_argument("--prompts", type=int, default=200)
    given = parser.parse_args()
    from unified.handle import load

    count = collect(load(given.model), given.skill, given.folder, prompts=given.prompts)
    print(f"{count} pairs of {given.prompts} prompts: {given.folder / 'pairs.jsonl'}")


if __name__ == "__main__":
    main()
