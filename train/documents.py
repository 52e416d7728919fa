"""Readers of documents and pairs: OBELICS and OmniCorpus, MMC4, captions, questions, plain text."""

from __future__ import annotations

from typing import Any

from unified.train import chats  # noqa: F401  (asked first: a caption is found in many a row)
from unified.train.formats import (
    MEDIA,
    Reader,
    Turn,
    Values,
    conversation,
    file_part,
    files_of,
    record,
    register,
)
from unified.train.records import DataError, Message, Part, Record, decoded, shown
from unified.train.sources import Sample

TASKS = ("draw", "describe")
DESCRIBE = "Describe."  # what the user asks where data have a caption alone
COLUMNS = {  # of a file, beside "image" and "images" and so on
    "image": ("img", "picture", "jpg", "jpeg", "png", "webp"),
    "audio": ("sound", "wav", "flac", "mp3", "ogg"),
    "video": ("mp4", "webm"),
}
CAPTIONS = ("text", "caption", "txt", "prompt", "description")
ANSWERS = ("answer", "answers", "response")


@register
class Obelics(Reader):
    """{"images": [file | null], "texts": [null | text]}, side by side: a document that is learnt as
    a whole; https://huggingface.co/datasets/HuggingFaceM4/OBELICS"""

    name = "obelics"

    def detects(self, values: Values) -> bool:
        return all(isinstance(values.get(key), list) for key in ("images", "texts"))

    def records(self, sample: Sample) -> list[Record]:
        images, texts = sample.need("images", list), sample.need("texts", list)
        if len(images) != len(texts):
            raise DataError(f"{len(images)} entries in column 'images', {len(texts)} in 'texts'; "
                            "they stand side by side")  # fmt: skip
        parts = []
        for k, (image, text) in enumerate(zip(images, texts, strict=True), 1):
            if bool(image) == bool(text):
                have = "both a picture and text" if image else "neither picture nor text"
                raise DataError(f"columns 'images' and 'texts', entry {k}: {have}; one of them")
            file = file_part(sample, "image", image, "images", k) if image else None
            parts.append(file or Part("text", text))
        return [document(sample, parts)]


@register
class Mmc4(Reader):
    """{"text_list": [text], "image_info": [{"image_name", "matched_text_index"}]}: each picture
    stands before the text it matches; https://github.com/allenai/mmc4"""

    name = "mmc4"

    def detects(self, values: Values) -> bool:
        return all(isinstance(values.get(key), list) for key in ("text_list", "image_info"))

    def records(self, sample: Sample) -> list[Record]:
        texts, pictures = sample.need("text_list", list), sample.need("image_info", list)
        before: dict[int, list[Part]] = {}
        for k, info in enumerate(pictures, 1):
            where = f"column 'image_info', entry {k}"
            index = info.get("matched_text_index") if isinstance(info, dict) else None
            if not isinstance(index, int) or not 0 <= index < len(texts):
                raise DataError(f"{where}: matched_text_index is {shown(index)}; there are "
                                f"{len(texts)} texts, numbered from 0")  # fmt: skip
            before.setdefault(index, []).append(self._picture(sample, info, k))
        parts: list[Part] = []
        for k, text in enumerate(texts):
            parts += before.get(k, [])
            follows = bool(parts) and parts[-1].type == "text"
            parts.append(Part("text", f" {text}" if follows else text))
        return [document(sample, parts)]

    def _picture(self, sample: Sample, info: dict[str, Any], entry: int) -> Part:
        name = info.get("image_name") or info.get("raw_url")
        if info.get("image_base64"):
            data = decoded(info["image_base64"])
            return Part("image", media=data, name=str(name or f"picture {entry}"))
        return file_part(sample, "image", name, "image_info", entry)


def document(sample: Sample, parts: list[Part]) -> Record:
    if not parts:
        raise DataError("the document is empty")
    return record(sample, [Message("assistant", tuple(parts))])


@register
class Questions(Reader):
    """{"question", "answer"} and a file: what many benchmarks and their training sets are."""

    name = "questions"

    def detects(self, values: Values) -> bool:
        return "question" in values and any(key in values for key in ANSWERS)

    def records(self, sample: Sample) -> list[Record]:
        column = next((key for key in ANSWERS if sample.get(key) is not None), ANSWERS[0])
        answer = sample.need(column)
        answer = answer[0] if isinstance(answer, list) and answer else answer
        if not isinstance(answer, str):
            raise DataError(f"column {column!r} is {shown(answer)}, not text")
        asked = sample.need("question", str)
        return conversation(sample, [Turn("user", asked), Turn("assistant", answer)])


@register
class Captions(Reader):
    """A file and its caption: what a folder, a WebDataset and many tables hold. Each is learnt both
    ways, drawn from its caption and described by it, or one of TASKS."""

    name = "captions"

    def __init__(self, tasks: tuple[str, ...] = TASKS):
        for task in tasks:
            if task not in TASKS:
                raise ValueError(f"unknown task {task!r}; one of {', '.join(TASKS)}")
        self.tasks, self.per_sample = tasks, len(tasks)

    def detects(self, values: Values) -> bool:
        return any(key in values for key in CAPTIONS) and any(
            key in values for kind in MEDIA for key in (kind, f"{kind}s", *COLUMNS[kind])
        )

    def records(self, sample: Sample) -> list[Record]:
        column = next((key for key in CAPTIONS if sample.get(key) is not None), CAPTIONS[0])
        caption = Part("text", sample.need(column, str).strip())
        if not caption.text:
            raise DataError(f"column {column!r} is empty; a caption is needed")
        files = files_in(sample)
        if not files:
            sample.need("image")
        out = []
        for task in self.tasks:
            if task == "draw":
                messages = [Message("user", (caption,)), Message("assistant", tuple(files))]
            else:
                asked = Message("user", (*files, Part("text", DESCRIBE)))
                messages = [asked, Message("assistant", (caption,))]
            out.append(record(sample, messages, part=task if len(self.tasks) > 1 else ""))
        return out


def files_in(sample: Sample) -> list[Part]:
    """The files in a row's own columns, whatever else is in it; none where they are in messages."""
    known = [part for parts in files_of(sample).values() for part in parts]
    for kind in MEDIA:
        for column in COLUMNS[kind] if not known else ():
            if sample.get(column) is not None:
                known.append(file_part(sample, kind, sample.get(column), column))
    return known


@register
class Plain(Reader):
    """{"text"}: a document that is learnt as a whole."""

    name = "text"

    def detects(self, values: Values) -> bool:
        return isinstance(values.get("text"), str)

    def records(self, sample: Sample) -> list[Record]:
        return [document(sample, [Part("text", sample.need("text", str))])]
