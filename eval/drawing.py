"""Readers of generation benchmarks: prompts and what must be true of the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unified.eval.benchmark import Benchmark
from unified.eval.items import Data, DataError, Sample, need, read_json, records
from unified.eval.understanding import coco_pictures
from unified.media.picture import named


def geneval(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """evaluation_metadata.jsonl: {"tag", "include": [{"class", "count", "color", "position"}],
    "exclude", "prompt"}; prompt number k is written to a folder of that number."""
    path = data.find("evaluation_metadata.jsonl", "*metadata*.jsonl")[0]
    for number, row in enumerate(records(path)):
        where = f"{named(path)}, line {number + 1}"
        for wanted in need(row, "include", where):
            need(wanted, "class", where), need(wanted, "count", where)
        yield Sample(
            id=f"{number:05d}",
            prompt=spec.ask(prompt=need(row, "prompt", where)),
            skill=str(need(row, "tag", where)).replace("_", " "),
            split=spec.data.split,
            facts={"metadata": row},
        )


def dpg(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """prompts/NAME.txt, and dpg_bench.csv with the questions to each and what they depend on."""
    table = data.find("dpg_bench.csv", "*.csv")[0]
    questions: dict[str, dict[str, Any]] = {}
    texts: dict[str, str] = {}
    for row in records(table):
        item = str(need(row, "item_id", named(table)))
        where = f"{named(table)}, {item}"
        try:
            parents = [int(part) for part in str(need(row, "dependency", where)).split(",")]
            number = int(need(row, "proposition_id", where))
        except ValueError:
            raise DataError(f"{where}: dependency {row['dependency']!r} is no list of numbers"
                            ) from None  # fmt: skip
        questions.setdefault(item, {})[str(number)] = {
            "question": need(row, "question_natural_language", where),
            "parents": [str(parent) for parent in parents if parent],
            "category": str(row.get("category_broad") or "overall"),
        }
        texts.setdefault(item, str(row.get("text") or ""))
    files = {path.stem: path for path in data.folder.rglob("*.txt")}
    for item, asked in questions.items():
        prompt = files[item].read_text(encoding="utf-8") if item in files else texts[item]
        if not prompt.strip():
            raise DataError(f"{named(data.folder)}: no prompts/{item}.txt; it needs {data.expects}")
        yield Sample(item, spec.ask(prompt=prompt.strip()), split=spec.data.split,
                     facts={"questions": asked})  # fmt: skip


def compbench(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """examples/dataset/{color,shape,texture,spatial,non_spatial,complex}_val.txt: a prompt a line,
    what follows a tab is not of it."""
    wanted = str(spec.data.options.get("files", "*_val.txt"))
    for path in data.find(wanted):
        category = path.stem.removesuffix("_val").replace("_", " ")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            prompt = line.split("\t")[0].strip()
            if prompt:
                yield Sample(f"{path.stem}/{number:04d}", spec.ask(prompt=prompt), category,
                             spec.data.split, facts={"text": prompt})  # fmt: skip


def tifa(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """tifa_v1.0_text_inputs.json [{id, caption}] and tifa_v1.0_question_answers.json [{id,
    question, choices, answer, element_type}]."""
    inputs = data.find("tifa*text_inputs.json", "*text_inputs.json")[0]
    answers = data.beside("tifa*question_answers.json", "*question_answers.json")
    asked: dict[str, list[dict[str, Any]]] = {}
    for row in read_json(answers):
        where = f"{named(answers)}, {row.get('id')}"
        asked.setdefault(str(need(row, "id", where)), []).append({
            "question": need(row, "question", where), "choices": need(row, "choices", where),
            "answer": need(row, "answer", where), "type": row.get("element_type") or "overall",
        })  # fmt: skip
    for row in read_json(inputs):
        identity = str(need(row, "id", named(inputs)))
        if identity not in asked:
            raise DataError(f"{named(answers)}: no questions about {identity!r}")
        prompt = spec.ask(prompt=need(row, "caption", f"{named(inputs)}, {identity}"))
        yield Sample(identity, prompt, identity.split("_")[0], spec.data.split,
                     facts={"questions": asked[identity]})  # fmt: skip


def genai(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """genai_image.json {"00000": {"prompt"}} and genai_skills.json {skill: [numbers]}."""
    path = data.find("genai_image.json")[0]
    skills = data.maybe("genai_skills.json") if data.root.is_dir() else []
    of: dict[int, list[str]] = {}
    for skill, numbers in read_json(skills[0]).items() if skills else ():
        for number in numbers:
            of.setdefault(int(number), []).append(skill)
    for identity, row in read_json(path).items():
        prompt = need(row, "prompt", f"{named(path)}, {identity}")
        found = of.get(int(identity), []) if identity.isdigit() else []
        kind = "advanced" if "advanced" in found else "basic" if "basic" in found else "overall"
        yield Sample(identity, spec.ask(prompt=prompt), kind, spec.data.split,
                     facts={"text": prompt, "skills": sorted(found)})  # fmt: skip


def wise(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """data/{cultural_common_sense,spatio-temporal_reasoning,natural_science}.json:
    [{prompt_id, Prompt, Explanation, Category, Subcategory}]; picture N.png is prompt_id N."""
    for path in data.find("*.json"):
        rows = read_json(path)
        if not isinstance(rows, list) or not rows or "prompt_id" not in rows[0]:
            continue
        for row in rows:
            where = f"{named(path)}, prompt {need(row, 'prompt_id', named(path))}"
            facts = {"explanation": need(row, "Explanation", where), "text": row["Prompt"]}
            yield Sample(str(row["prompt_id"]), spec.ask(prompt=need(row, "Prompt", where)),
                         str(row.get("Category") or "overall"), spec.data.split,
                         facts=facts)  # fmt: skip


def vbench(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """VBench_full_info.json: [{prompt_en, dimension: [...]}]."""
    path = data.find("VBench_full_info.json", "*full_info.json")[0]
    for number, row in enumerate(read_json(path)):
        where = f"{named(path)}, entry {number}"
        prompt = need(row, "prompt_en", where)
        dimensions = list(need(row, "dimension", where))
        yield Sample(f"{number:04d}", spec.ask(prompt=prompt), dimensions[0].replace("_", " "),
                     spec.data.split, facts={"text": prompt, "dimensions": dimensions})  # fmt: skip


def captions_to_draw(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """COCO's captions as prompts, one a picture, with that picture to compare with."""
    path = data.find("dataset_coco.json", "captions_val*.json", "captions*.json")[0]
    for identity, name, captions in coco_pictures(path, spec.data.split):
        yield Sample(identity, spec.ask(prompt=captions[0].strip()), split=spec.data.split,
                     pictures=(data.picture(name, "val2014", "val2017"),),
                     facts={"text": captions[0].strip()})  # fmt: skip
