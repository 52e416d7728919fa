"""What is written where, so that a benchmark's own scorer runs on it unchanged.

One function a layout: a sample and its pictures -> files; and for answers, one file of all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unified.eval.items import Sample
from unified.media.picture import save_png, write_atomic

Record = Mapping[str, Any]
Writer = Callable[[Path, Sample, Sequence[Any], Mapping[str, Any]], list[Path]]
NAME_BYTES = 240  # of a file's name, its ending included


def _png(image: Image.Image, path: Path, facts: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_png(image, path, facts)


def _json(value: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    write_atomic(path, text.encode())


def _safe(prompt: str, ending: str) -> str:
    """A prompt as a file's name: no slash, not too long."""
    text = prompt.replace("/", "_").replace("\0", "")
    while len((text + ending).encode()) > NAME_BYTES:
        text = text[:-1]
    return text + ending


def plain_name(identity: str) -> str:
    """An id as a file's name that stays in its folder."""
    return re.sub(r"[^\w.-]", "_", identity).lstrip(".") or "_"


def grid(images: Sequence[Image.Image]) -> Image.Image:
    """Four pictures as two rows of two; one stays as it is."""
    if len(images) == 1:
        return images[0]
    width, height = images[0].size
    canvas = Image.new("RGB", (2 * width, -(-len(images) // 2) * height), "white")
    for k, image in enumerate(images):
        canvas.paste(image.resize((width, height)), (k % 2 * width, k // 2 * height))
    return canvas


# --- pictures ----------------------------------------------------------------------------------


def geneval(folder: Path, sample: Sample, images: Sequence[Any], facts: Any) -> list[Path]:
    """00000/metadata.jsonl and 00000/samples/0000.png …"""
    home = folder / plain_name(sample.id)
    home.mkdir(parents=True, exist_ok=True)
    line = json.dumps(sample.facts["metadata"], ensure_ascii=False) + "\n"
    write_atomic(home / "metadata.jsonl", line.encode())
    return [_png(x, home / "samples" / f"{k:04d}.png", facts) for k, x in enumerate(images)]


def dpg(folder: Path, sample: Sample, images: Sequence[Any], facts: Any) -> list[Path]:
    """NAME.png, the four pictures of a prompt in one grid."""
    return [_png(grid(images), folder / f"{plain_name(sample.id)}.png", facts)]


def compbench(folder: Path, sample: Sample, images: Sequence[Any], facts: Any) -> list[Path]:
    """CATEGORY/samples/{prompt}_{000000}.png, pictures numbered through in each category. The
    official scorers take the prompt from the name, up to its first underscore."""
    category, _, number = sample.id.partition("/")
    start, home = int(number) * len(images), folder / category / "samples"
    text = sample.facts["text"].replace("/", " ")
    names = [_safe(text, f"_{start + k:06d}.png") for k in range(len(images))]
    return [_png(x, home / name, facts) for x, name in zip(images, names, strict=True)]


def by_id(folder: Path, sample: Sample, images: Sequence[Any], facts: Any) -> list[Path]:
    """ID.png; with several, ID-0.png …"""
    name = plain_name(sample.id)
    names = [name] if len(images) == 1 else [f"{name}-{k}" for k in range(len(images))]
    return [_png(x, folder / f"{n}.png", facts) for n, x in zip(names, images, strict=True)]


def genai(folder: Path, sample: Sample, images: Sequence[Any], facts: Any) -> list[Path]:
    """00000.jpeg"""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    images[0].convert("RGB").save(buffer, "JPEG", quality=95)
    path = folder / f"{plain_name(sample.id)}.jpeg"
    write_atomic(path, buffer.getvalue())
    return [path]


def vbench(folder: Path, sample: Sample, films: Sequence[Any], facts: Any) -> list[Path]:
    """{prompt}-{0..4}.mp4 from films, uint8 (T, H, W, 3)."""
    from unified.media.film import write_film

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k, frames in enumerate(films):
        path = folder / _safe(sample.facts["text"], f"-{k}.mp4")
        write_film(path, np.asarray(frames), 8)
        paths.append(path)
    return paths


def rebuilt(folder: Path, sample: Sample, images: Sequence[Any], facts: Any) -> list[Path]:
    """rebuilt/ID.png and originals/ID.png: two folders of the same names, as tools for rFID take
    them."""
    name = f"{plain_name(sample.id)}.png"
    homes = ("rebuilt", "originals")
    return [_png(x, folder / home / name, facts) for x, home in zip(images, homes, strict=True)]


# --- answers -----------------------------------------------------------------------------------


def _said(record: Record) -> str:
    """What was answered, "" where nothing was: official scorers want an answer to every question
    and stop, or pair what does not belong together, where one is missing."""
    return str(record.get("reply") or "")


def vqa_answers(folder: Path, records: Sequence[Record], files: Mapping[str, Any]) -> None:
    rows = [{"question_id": _number(r["id"]), "answer": _said(r)} for r in records]
    _json(rows, folder / "answers.json")


def gqa_answers(folder: Path, records: Sequence[Record], files: Mapping[str, Any]) -> None:
    rows = [{"questionId": r["id"], "prediction": _said(r)} for r in records]
    _json(rows, folder / "answers.json")


def captions(folder: Path, records: Sequence[Record], files: Mapping[str, Any]) -> None:
    rows = [{"image_id": _number(r["id"]), "caption": _said(r)} for r in records]
    _json(rows, folder / "captions.json")


def mmvet_answers(folder: Path, records: Sequence[Record], files: Mapping[str, Any]) -> None:
    _json({r["id"]: _said(r) for r in records}, folder / "answers.json")


def mme_answers(folder: Path, records: Sequence[Record], files: Mapping[str, Any]) -> None:
    """TASK.txt: picture, question, answer, reply, between tabs."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {}
    for r in records:
        name = r["group"].split("/", 1)[1]
        label = "Yes" if r["marks"]["label"] else "No"
        reply, prompt = (" ".join(text.split()) for text in (_said(r), r["prompt"]))
        lines.setdefault(r["skill"], []).append(f"{name}\t{prompt}\t{label}\t{reply}\n")
    for task, rows in lines.items():
        write_atomic(folder / f"{plain_name(task)}.txt", "".join(rows).encode())


def tifa_list(folder: Path, records: Sequence[Record], files: Mapping[str, Any]) -> None:
    """images.json: {id: path}, from where that file lies."""
    names = {identity: paths[0] for identity, paths in files.items() if paths}
    _json({identity: Path(name).relative_to(folder.name).as_posix()
           for identity, name in names.items()}, folder / "images.json")  # fmt: skip


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else text


@dataclass(frozen=True)
class Layout:
    """write: pictures of a sample -> files; finish: what is written once, of all records, those
    that could not be scored with the marks of a wrong reply, and of {sample's id: its files}."""

    write: Writer | None = None
    finish: Callable[[Path, Sequence[Record], Mapping[str, Any]], None] | None = None


LAYOUTS: dict[str, Layout] = {
    "": Layout(),
    "geneval": Layout(geneval),
    "dpg": Layout(dpg),
    "compbench": Layout(compbench),
    "tifa": Layout(by_id, tifa_list),
    "genai": Layout(genai),
    "wise": Layout(by_id),
    "vbench": Layout(vbench),
    "numbered": Layout(by_id),
    "rebuilt": Layout(rebuilt),
    "vqa": Layout(finish=vqa_answers),
    "gqa": Layout(finish=gqa_answers),
    "captions": Layout(finish=captions),
    "mmvet": Layout(finish=mmvet_answers),
    "mme": Layout(finish=mme_answers),
}
