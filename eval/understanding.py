"""Readers of understanding benchmarks, one function a format, as its authors publish it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unified.eval.answers import LETTERS
from unified.eval.benchmark import Benchmark
from unified.eval.items import Data, DataError, Picture, Sample, need, read_json, records
from unified.media.picture import named


def lettered(options: Sequence[str]) -> str:
    """A line for each option: "A. a cat"."""
    return "\n".join(f"{LETTERS[k]}. {option}" for k, option in enumerate(options))


def multiple_choice(
    spec: Benchmark, question: str, options: Sequence[str], answer: int, hint: str = ""
) -> tuple[str, dict[str, Any]]:
    """The prompt and the facts of a multiple-choice question."""
    prompt = spec.ask(
        question=question,
        hint=f"Hint: {hint}\n" if hint else "",
        options=lettered(options),
        letters=", ".join(LETTERS[: len(options)]),
    )
    return prompt, {"question": question, "options": list(options), "answer": answer}


def _letter(value: Any, count: int, where: str) -> int:
    """An answer's letter as an index."""
    letter = str(value).strip().upper()
    if len(letter) != 1 or letter not in LETTERS[:count]:
        raise DataError(f"{where}: the answer {value!r} is none of {', '.join(LETTERS[:count])}")
    return LETTERS.index(letter)


def pope(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """coco_pope_{random,popular,adversarial}.json: lines {question_id, image, text, label}."""
    for path in data.find("*pope*.json", "*pope*.jsonl", "*.jsonl"):
        kind = path.stem.split("_")[-1]
        for row in records(path):
            where = f"{named(path)}, question {need(row, 'question_id', named(path))}"
            label = str(need(row, "label", where)).lower()
            if label not in ("yes", "no"):
                raise DataError(f"{where}: the label {label!r} is neither yes nor no")
            yield Sample(
                id=f"{kind}/{row['question_id']}",
                prompt=spec.ask(question=need(row, "text", where)),
                skill=kind,
                split=spec.data.split,
                pictures=(data.picture(need(row, "image", where)),),
                facts={"label": label == "yes"},
            )


def mme(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """A folder for each task with pictures and, beside them or in questions_answers_YN/, a .txt of
    two lines for each: question, tab, Yes or No."""
    files = [p for p in data.find("*.txt") if "\t" in _first_line(p)]
    if not files:
        raise DataError(f"{named(data.root)}: no .txt with questions; it needs {data.expects}")
    for path in files:
        inner = path.parent.name == "questions_answers_YN"
        task = path.parent.parent if inner else path.parent
        shown = _sibling(task, path.stem)
        lines = [x for x in path.read_text(encoding="utf-8-sig").splitlines() if x.strip()]
        if len(lines) != 2:
            raise DataError(f"{named(path)}: {len(lines)} lines; MME asks two questions a picture")
        for number, line in enumerate(lines):
            question, _, answer = line.rpartition("\t")
            if answer.strip().lower() not in ("yes", "no"):
                raise DataError(f"{named(path)}: line {number + 1} does not end in Yes or No")
            yield Sample(
                id=f"{task.name}/{path.stem}/{number}",
                prompt=spec.ask(question=question.strip()),
                skill=task.name,
                split=spec.data.split,
                pictures=(shown,),
                facts={"label": answer.strip().lower() == "yes", "question": question},
                group=f"{task.name}/{path.stem}",
            )


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline()


def _sibling(task: Path, stem: str) -> Picture:
    for folder in (task, task / "images"):
        for ending in (".jpg", ".png", ".jpeg"):
            if (folder / f"{stem}{ending}").is_file():
                return Picture(f"{stem}{ending}", folder / f"{stem}{ending}")
    return Picture(f"{stem}.jpg", task / f"{stem}.jpg")


def mmbench(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """A TSV of index, question, hint, A to D, answer, category and the picture as base64, or the
    index of a row that has it. Every question is asked with its options in each rotation."""
    (path,) = data.find("*.tsv")[:1]
    rows = list(records(path))
    pictures = {str(row.get("index")): row.get("image") or "" for row in rows}
    indices = set(pictures)
    for row in rows:
        index = str(need(row, "index", named(path)))
        where = f"{named(path)}, index {index}"
        base = str(int(index) % 10**6) if index.isdigit() else index
        if base != index and base in indices:
            continue  # the file's own rotations of a row that is here
        encoded = row.get("image") or ""
        if len(encoded) < 64 and encoded in pictures:
            encoded = pictures[encoded]
        options = [
            row[letter] for letter in LETTERS[:8]
            if str(row.get(letter) or "").lower() not in ("", "nan")
        ]  # fmt: skip
        answer = _letter(need(row, "answer", where), len(options), where)
        hint = str(row.get("hint") or "")
        for turn in range(len(options)):
            turned = options[turn:] + options[:turn]
            prompt, facts = multiple_choice(
                spec, need(row, "question", where), turned, (answer - turn) % len(options),
                "" if hint.lower() == "nan" else hint,
            )  # fmt: skip
            yield Sample(
                id=f"{index}+{turn}",
                prompt=prompt,
                skill=str(row.get("category") or "overall"),
                split=str(row.get("split") or spec.data.split),
                pictures=(Picture(f"picture of {where}", data=encoded),),
                facts=facts,
                group=index,
                chance=float(len(options)) ** -len(options),
            )


def mmmu(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """Parquet or JSON of id, question with <image 1> …, options (a list as text), image_1 to
    image_7, question_type and answer; the subject stands in the id."""
    split = spec.data.split
    for path in data.find(f"*{split}*.parquet", "*.parquet", "*.jsonl", "*.json"):
        for row in records(path):
            identity = str(need(row, "id", named(path)))
            where = f"{named(path)}, {identity}"
            options = [str(option) for option in listed(row.get("options"), where)]
            question = str(need(row, "question", where))
            shown = [
                embedded(data, row[f"image_{k}"], where)
                for k in range(1, 8) if row.get(f"image_{k}")
            ]  # fmt: skip
            subject = identity.split("_", 1)[-1].rpartition("_")[0] or "overall"
            if options and row.get("question_type", "multiple-choice") == "multiple-choice":
                answer = _letter(need(row, "answer", where), len(options), where)
                prompt, facts = multiple_choice(spec, question, options, answer)
                chance = 1 / len(options)
            else:
                answers = [str(a) for a in listed(need(row, "answer", where), where)]
                prompt = spec.data.options["open_prompt"].replace("{question}", question)
                facts, chance = {"question": question, "answers": answers}, 0.0
            yield Sample(identity, prompt, subject.replace("_", " "), split, tuple(shown), facts,
                         chance=chance)  # fmt: skip


def listed(value: Any, where: str) -> list[Any]:
    """A list, a list written as text, or one value."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise DataError(f"{where}: {value[:60]!r} is no list of options") from None
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def embedded(data: Data, value: Any, where: str) -> Picture:
    """A picture of a parquet column ({bytes, path}), as base64, or as a file's name."""
    if isinstance(value, dict):
        if value.get("bytes"):
            return Picture(f"picture of {where}", data=value["bytes"])
        value = value.get("path") or ""
    return data.picture(str(value))


def mmvet(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """mm-vet.json: {"v1_0": {imagename, question, answer, capability: [...]}}."""
    (path,) = data.find("mm-vet.json", "mm*vet*.json")[:1]
    for identity, row in _mapping(path).items():
        where = f"{named(path)}, {identity}"
        yield Sample(
            id=identity,
            prompt=spec.ask(question=need(row, "question", where)),
            split=spec.data.split,
            pictures=(data.picture(need(row, "imagename", where), "images"),),
            facts={"answer": str(need(row, "answer", where)),
                   "skills": sorted(need(row, "capability", where))},
        )  # fmt: skip


def _mapping(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{named(path)}: no JSON object; is this the official file?")
    return found


def seed_bench(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """SEED-Bench.json: {"questions": [{question_id, data_id, data_type, question, choice_a…d,
    answer, question_type_id}], "question_type": {name: id}}; questions about films are left out."""
    (path,) = data.find("SEED-Bench*.json", "SEED*.json")[:1]
    whole = _mapping(path)
    kinds = {number: name for name, number in need(whole, "question_type", named(path)).items()}
    for row in need(whole, "questions", named(path)):
        if row.get("data_type", "image") != "image":
            continue
        where = f"{named(path)}, question {need(row, 'question_id', named(path))}"
        options = [str(need(row, f"choice_{letter}", where)) for letter in "abcd"]
        answer = _letter(need(row, "answer", where), 4, where)
        prompt, facts = multiple_choice(spec, need(row, "question", where), options, answer)
        yield Sample(
            id=str(row["question_id"]),
            prompt=prompt,
            skill=str(kinds.get(row.get("question_type_id"), "overall")),
            split=spec.data.split,
            pictures=(data.picture(str(need(row, "data_id", where)), "SEED-Bench-image"),),
            facts=facts,
        )


def vqav2(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """v2_OpenEnded_mscoco_val2014_questions.json and v2_mscoco_val2014_annotations.json."""
    questions = data.find("v2_OpenEnded*questions.json", "*questions.json")[0]
    annotations = data.beside("v2_mscoco*annotations.json", "*annotations.json")
    asked = {row["question_id"]: row for row in need(_mapping(questions), "questions",
                                                     named(questions))}  # fmt: skip
    for row in need(_mapping(annotations), "annotations", named(annotations)):
        number = need(row, "question_id", named(annotations))
        where = f"{named(annotations)}, question {number}"
        if number not in asked:
            raise DataError(f"{where}: {named(questions)} does not ask it")
        name = f"COCO_val2014_{int(need(row, 'image_id', where)):012d}.jpg"
        yield Sample(
            id=str(number),
            prompt=spec.ask(question=asked[number]["question"]),
            skill=str(row.get("answer_type") or "overall"),
            split=spec.data.split,
            pictures=(data.picture(name, "val2014"),),
            facts={"answers": [given["answer"] for given in need(row, "answers", where)]},
        )


def gqa(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """testdev_balanced_questions.json: {id: {question, imageId, answer, types: {structural}}}."""
    (path,) = data.find("testdev_balanced_questions.json", "*questions*.json")[:1]
    for identity, row in _mapping(path).items():
        where = f"{named(path)}, {identity}"
        yield Sample(
            id=identity,
            prompt=spec.ask(question=need(row, "question", where)),
            skill=str((row.get("types") or {}).get("structural") or "overall"),
            split=spec.data.split,
            pictures=(data.picture(f"{need(row, 'imageId', where)}.jpg", "images"),),
            facts={"answers": [need(row, "answer", where)]},
        )


def textvqa(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """TextVQA_0.5.1_val.json: {"data": [{question_id, image_id, question, answers: [ten]}]}."""
    (path,) = data.find("TextVQA*val.json", "TextVQA*.json")[:1]
    for row in need(_mapping(path), "data", named(path)):
        where = f"{named(path)}, question {need(row, 'question_id', named(path))}"
        name = f"{need(row, 'image_id', where)}.jpg"
        yield Sample(
            id=str(row["question_id"]),
            prompt=spec.ask(question=need(row, "question", where)),
            split=spec.data.split,
            pictures=(data.picture(name, "train_images", "train_val_images/train_images"),),
            facts={"answers": list(need(row, "answers", where))},
        )


def scienceqa(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """problems.json and pid_splits.json; pictures at SPLIT/ID/image.png. Some have none."""
    problems = data.find("problems.json")[0]
    splits = _mapping(data.beside("pid_splits.json"))
    rows, split = _mapping(problems), spec.data.split
    for identity in need(splits, split, "pid_splits.json"):
        where = f"{named(problems)}, problem {identity}"
        row = need(rows, str(identity), named(problems))
        options = [str(choice) for choice in need(row, "choices", where)]
        answer = int(need(row, "answer", where))
        prompt, facts = multiple_choice(
            spec, need(row, "question", where), options, answer, row.get("hint") or ""
        )
        facts["skills"] = _scienceqa_skills(row)
        picture = row.get("image")
        folder = f"{split}/{identity}"
        shown = (data.picture(picture, folder, f"images/{folder}"),) if picture else ()
        yield Sample(str(identity), prompt, str(row.get("subject") or "overall"), split, shown,
                     facts, chance=1 / len(options))  # fmt: skip


def _scienceqa_skills(row: dict[str, Any]) -> list[str]:
    """The official eight: subjects, contexts (of which a question may have two) and grades."""
    skills = [str(row["subject"])] if row.get("subject") else []
    context = {"text context": row.get("hint"), "image context": row.get("image")}
    skills += [name for name, there in context.items() if there] or ["no context"]
    grade = str(row.get("grade") or "").removeprefix("grade")
    if grade.isdigit():
        skills.append("grades 1-6" if int(grade) <= 6 else "grades 7-12")
    return skills


def coco_captions(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """captions_val2014.json: {"images": [{id, file_name}], "annotations": [{image_id, caption}]},
    or Karpathy's dataset_coco.json, of which the split is taken."""
    path = data.find("dataset_coco.json", "captions_val*.json", "captions*.json")[0]
    for identity, name, captions in coco_pictures(path, spec.data.split):
        yield Sample(
            id=identity,
            prompt=spec.ask(),
            split=spec.data.split,
            pictures=(data.picture(name, "val2014", "val2017"),),
            facts={"references": captions},
        )


def coco_pictures(path: Path, split: str) -> Iterator[tuple[str, str, list[str]]]:
    """Id, file and captions of each picture of COCO."""
    whole = _mapping(path)
    images = need(whole, "images", named(path))
    if "annotations" not in whole:  # Karpathy's
        for row in images:
            if row.get("split") == split:
                captions = [sentence["raw"] for sentence in need(row, "sentences", named(path))]
                yield str(row["cocoid"]), row["filename"], captions
        return
    captions_of: dict[int, list[str]] = {}
    for row in whole["annotations"]:
        captions_of.setdefault(row["image_id"], []).append(row["caption"])
    for row in images:
        if row["id"] in captions_of:
            yield str(row["id"]), row["file_name"], captions_of[row["id"]]


def librispeech(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt: lines of an id and its words; sound beside it."""
    for path in data.find("*.trans.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            identity, _, words = line.partition(" ")
            if not words.strip():
                raise DataError(f"{named(path)}: {identity!r} has no words")
            facts = {"transcript": words, "sound": str(path.parent / f"{identity}.flac")}
            yield Sample(identity, spec.ask(), split=spec.data.split, facts=facts)


def film_questions(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """JSON lines or a list of {question_id, video, question, options: [...], answer}: questions
    about films as short-film question answering asks them; the answer is a letter or an index."""
    for path in data.find("*.jsonl", "*.json"):
        for row in records(path):
            where = f"{named(path)}, question {need(row, 'question_id', named(path))}"
            options = [str(option) for option in need(row, "options", where)]
            given = need(row, "answer", where)
            answer = given if isinstance(given, int) else _letter(given, len(options), where)
            prompt, facts = multiple_choice(spec, need(row, "question", where), options, answer)
            facts["film"] = str(data.folder / need(row, "video", where))
            yield Sample(str(row["question_id"]), prompt, split=spec.data.split, facts=facts,
                         chance=1 / len(options))  # fmt: skip
