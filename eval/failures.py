"""What a run got wrong, as sheets: what was asked, what was wanted, what came instead.

Reads a run's records and files; questions are read again from their data for their pictures and
right answers. Knows nothing of scores but which samples are below them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from unified.eval.blocks import Shown
from unified.eval.formats import read
from unified.eval.items import Sample
from unified.eval.results import Settings
from unified.media import picture
from unified.media.picture import MediaError

SHOWN = 12  # failures on a sheet
THUMB = 160  # pixels
LONGEST = 160  # letters of a prompt or a reply
ANSWERS = 3  # right answers that are named


def in_turn(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of each skill, then the second of each, up to SHOWN."""
    by_skill: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_skill.setdefault(record["skill"], []).append(record)
    longest = max(map(len, by_skill.values()))
    turned = [group[k] for k in range(longest) for group in by_skill.values() if k < len(group)]
    return turned[:SHOWN]


def asked(spec: Any, settings: Settings) -> dict[str, Sample]:
    """The questions of a task by their ids; none where their data is gone."""
    if spec.side != "understanding":
        return {}
    place = Path(settings.data) if settings.data else None
    try:
        samples = read(spec, place, seed=settings.seed, limit=settings.limit)
    except ValueError:
        return {}
    return {sample.id: sample for sample in samples}


def pictures(
    folder: Path, records: Sequence[dict[str, Any]], samples: dict[str, Sample]
) -> list[Shown]:
    """The picture of each record that can still be had, and words under it."""
    out = []
    for record in records:
        sample = samples.get(record["id"])
        try:
            if record["files"]:
                image = picture.read(folder / record["files"][0])
            elif sample is not None and sample.pictures:
                image = sample.pictures[0].open()
            else:
                continue
        except MediaError:
            continue
        out.append(Shown(_thumb(image), _lines(record, sample)))
    return out


def _lines(record: dict[str, Any], sample: Sample | None) -> list[tuple[str, str]]:
    skill = record["skill"] if record["skill"] != "overall" else ""
    lines = [("skill", skill)] if skill else []
    lines.append(("prompt" if record["files"] else "question", _short(record["prompt"])))
    if record["reply"] is not None:
        lines.append(("said", _short(record["reply"]) or "nothing"))
    wanted = right_answer(sample.facts) if sample is not None else ""
    if wanted:
        lines.append(("right", _short(wanted)))
    if record["files"] and len(record["marks"].get("pictures", ())) > 1:
        lines.append(("score", f"{record['marks']['score']:.2f}"))
    return lines


def right_answer(facts: dict[str, Any]) -> str:
    """What would have been right, in words; "" where the facts do not say."""
    answer = facts.get("answer")
    if "options" in facts and isinstance(answer, int):
        return str(facts["options"][answer])
    if isinstance(facts.get("label"), bool):
        return "yes" if facts["label"] else "no"
    for key in ("answers", "references"):
        if facts.get(key):
            return " / ".join(dict.fromkeys(map(str, facts[key][:ANSWERS])))
    return str(facts.get("transcript") or (answer if isinstance(answer, str) else ""))


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= LONGEST else f"{flat[: LONGEST - 1]}…"


def _thumb(image: Image.Image) -> Image.Image:
    square = picture.square(image)
    if square.width <= THUMB:
        return square
    return square.resize((THUMB, THUMB), Image.Resampling.BOX)
