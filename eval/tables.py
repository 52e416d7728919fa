"""A reader of any table, so that a benchmark of one's own is one file and nothing else.

    data:
      reader: table
      files: questions.csv and images/
      options: {id: number, question: text, answer: right, choices: [A, B, C, D], picture: file}

`options` says which column holds what; a column that has the name itself need not be said. Knows
nothing of scorers: what a row holds lies in the facts under every name that a scorer may look for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unified.eval.benchmark import Benchmark, BenchmarkError
from unified.eval.items import Data, DataError, Sample, need, records
from unified.eval.understanding import embedded, listed, multiple_choice
from unified.media.picture import named

KINDS = ("*.jsonl", "*.csv", "*.tsv", "*.parquet", "*.json")
COLUMNS = ("id", "question", "prompt", "answer", "choices", "picture", "skill", "hint",
           "explanation")  # fmt: skip


def table(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """Rows of JSON lines, JSON, CSV, TSV or Parquet; `options` names their columns.

    question: to be asked, or prompt: to be drawn. answer: one or a list; with choices (a column
    that holds a list, or a list of columns) it is a choice's text, its letter or its number from 0.
    picture: a column or several, of files' names or of a Parquet file's bytes. id: its row's number
    by default. file: which files to read, by a pattern.

    Raises:
        BenchmarkError: an option that is not known.
        DataError: a column that is not there, an answer that is no choice.
    """
    given = spec.data.options
    unknown = [key for key in given if key not in (*COLUMNS, "file")]
    if unknown:
        known = ", ".join((*COLUMNS, "file"))
        raise BenchmarkError(f"{spec.name}: unknown option {unknown[0]!r} of table; one of {known}")
    drawn = spec.side == "generation"
    number = 0
    for path in data.find(str(given["file"])) if "file" in given else data.find(*KINDS):
        for row in records(path):
            where = f"{named(path)}, row {number + 1}"
            text = str(need(row, _column(spec, "prompt" if drawn else "question"), where))
            identity = str(_field(row, spec, "id", where) or number)
            skill = str(_field(row, spec, "skill", where) or "overall")
            pictures = tuple(
                embedded(data, row[name], where)
                for name in _names(given.get("picture", "picture")) if row.get(name)
            )  # fmt: skip
            prompt, facts, chance = _asked(row, spec, text, where)
            yield Sample(identity, prompt, skill, spec.data.split, pictures, facts, chance=chance)
            number += 1


def _asked(
    row: dict[str, Any], spec: Benchmark, text: str, where: str
) -> tuple[str, dict[str, Any], float | None]:
    """The prompt, the facts, and the chance of guessing."""
    hint = str(_field(row, spec, "hint", where) or "")
    if spec.side == "generation":
        explanation = _field(row, spec, "explanation", where)
        drawn = {"text": text} | ({"explanation": str(explanation)} if explanation else {})
        return spec.ask(prompt=text), drawn, None
    columns = spec.data.options.get("choices", "choices")
    if isinstance(columns, list):
        options = [str(row[name]) for name in columns if row.get(name) not in (None, "")]
    else:
        options = [str(option) for option in listed(row.get(columns), where)]
    answer = need(row, _column(spec, "answer"), where)
    if options:
        right = _right(answer, options, where)
        return *multiple_choice(spec, text, options, right, hint), 1 / len(options)
    answers = [str(one) for one in listed(answer, where)]
    if not answers:
        raise DataError(f"{where}: no answer")
    facts: dict[str, Any] = {
        "question": text, "answers": answers, "answer": answers[0], "references": answers,
    }  # fmt: skip
    if answers[0].strip().lower() in ("yes", "no"):
        facts["label"] = answers[0].strip().lower() == "yes"
    return spec.ask(question=text, hint=f"Hint: {hint}\n" if hint else ""), facts, None


def _right(answer: Any, options: list[str], where: str) -> int:
    """Which option is right: by its text, its letter or its number."""
    text = str(answer).strip()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options)]
    if options.count(text) == 1:
        return options.index(text)
    if len(text) == 1 and text.upper() in letters:
        return letters.index(text.upper())
    if text.isdecimal() and int(text) < len(options):
        return int(text)
    raise DataError(f"{where}: the answer {text[:40]!r} is none of its {len(options)} choices")


def _column(spec: Benchmark, name: str) -> str:
    return str(spec.data.options.get(name, name))


def _field(row: dict[str, Any], spec: Benchmark, name: str, where: str) -> Any:
    """A field that need not be there, unless the benchmark's file names its column."""
    if name in spec.data.options:
        return need(row, _column(spec, name), where)
    return row.get(name)


def _names(columns: Any) -> list[str]:
    return [str(name) for name in columns] if isinstance(columns, list) else [str(columns)]
