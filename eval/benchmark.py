"""A benchmark is one short file: what is asked, where the data is, how it is scored.

The files are in `eval/benchmarks/`; a path to another .yaml works wherever a name does. Adding a
benchmark is adding a file, where its reader and scorer exist. Knows nothing of models.
"""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from unified.media.picture import named

FOLDER = Path(__file__).parent / "benchmarks"
FIELDS = ("question", "hint", "options", "letters", "prompt")


class BenchmarkError(ValueError):
    """A benchmark that is unknown or wrongly described."""


class Source(BaseModel):
    """Where a benchmark's data comes from and how it is read.

    Attributes:
        reader: a name in `unified.eval.formats.READERS`.
        files: the official files to have, for people.
        url: where they are got.
        hub: name on the Hugging Face hub, downloaded where no path is given; "" if none.
        split: of the rows.
        options: what this reader takes besides.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reader: str
    files: str
    url: str = ""
    hub: str = ""
    split: str = "test"
    options: dict[str, Any] = Field(default_factory=dict)


class Benchmark(BaseModel):
    """One benchmark.

    Attributes:
        suite: a name under which several are run.
        prompt: template over FIELDS; what the model is given.
        answer: "text": the model answers freely; "likelihood": the option it finds likeliest;
            "letter": the option whose letter it does, as if it could say nothing else; "rebuilt":
            no question, the picture comes back through the model's own tokenizer. A question
            without options is answered freely.
        pictures: how many are drawn of a prompt.
        layout: of what is written, a name in `unified.eval.layouts.LAYOUTS`; "" for none.
        sampling: settings that differ from the model's own.
        scorer: a name in `unified.eval.scorers.SCORERS`.
        judge: the judge by default; "" where the scorer needs none.
        chance: the score of guessing.
        protocol: "official": its own rule, exactly; "proxy": a stand-in, named by the judge.
        unscored: whether what could not be scored counts as wrong or is left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    about: str
    side: Literal["understanding", "generation"]
    modality: Literal["image", "film", "sound"]
    skills: list[str]
    suite: str = ""
    data: Source
    prompt: str
    answer: Literal["text", "likelihood", "letter", "rebuilt"] = "text"
    pictures: int = Field(default=1, ge=1, le=64)
    layout: str = ""
    sampling: dict[str, Any] = Field(default_factory=dict)
    scorer: str
    judge: str = ""
    chance: float = Field(ge=0)
    higher_is_better: bool
    protocol: Literal["official", "proxy"]
    unscored: Literal["wrong", "left out"]

    @field_validator("prompt")
    @classmethod
    def _known_fields(cls, prompt: str) -> str:
        for _, name, _, _ in string.Formatter().parse(prompt):
            if name is not None and name not in FIELDS:
                raise ValueError(f"unknown field {{{name}}}; one of {', '.join(FIELDS)}")
        return prompt

    @model_validator(mode="after")
    def _answers_of_its_side(self) -> Self:
        sides = {"likelihood": "understanding", "letter": "understanding", "rebuilt": "generation"}
        if sides.get(self.answer, self.side) != self.side:
            raise ValueError(f"answer {self.answer!r} is of the side {sides[self.answer]}")
        if self.answer == "rebuilt" and (self.sampling or self.pictures > 1):
            raise ValueError("a rebuilt picture has no sampling, and there is one of each")
        return self

    def ask(self, **fields: str) -> str:
        """The template filled; fields that are not given are empty."""
        return self.prompt.format_map(dict.fromkeys(FIELDS, "") | fields).strip()


def names() -> list[str]:
    """The benchmarks that come with the toolkit."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Benchmark:
    """A benchmark by its name, or from a .yaml file.

    Raises:
        BenchmarkError: unknown, or its file is wrong: says which field, and lists the known ones.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        if name.endswith((".yaml", ".yml")):
            raise BenchmarkError(f"{named(path)}: no such file")
        known = ", ".join([*suites(), *names()])
        raise BenchmarkError(f"unknown benchmark {name!r}; one of {known}, or a .yaml file")
    return _parsed(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _parsed(path: Path, _: int) -> Benchmark:
    """The benchmark in a file as of a time."""
    try:
        return Benchmark.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise BenchmarkError(f"{named(path)}: not readable as YAML ({reason})") from None
    except ValidationError as error:
        raise BenchmarkError(f"{named(path)}: {explained(error, Benchmark)}") from None


def select(name: str) -> list[Benchmark]:
    """The benchmark of a name, or all of a suite."""
    if name in suites():
        return [found for found in map(load, names()) if found.suite == name]
    return [load(name)]


def suites() -> list[str]:
    return sorted({found.suite for found in map(load, names()) if found.suite})


def lacking(spec: Benchmark, error: KeyError) -> str:
    """Why a benchmark's scorer cannot mark what its reader reads."""
    return (
        f"{spec.name}: the scorer {spec.scorer!r} needs {error.args[0]!r} of every sample, which"
        f" the reader {spec.data.reader!r} does not give; name another scorer"
    )


def explained(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong, as a sentence; an unknown field lists the known ones."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        for key in first["loc"][:-1]:
            found = model.model_fields[str(key)].annotation if key in model.model_fields else None
            if isinstance(found, type) and issubclass(found, BaseModel):
                model = found
        return f"unknown field {place!r}; one of {', '.join(model.model_fields)}"
    if first["type"] == "missing":
        return f"the field {place!r} is missing"
    reason = first["msg"].removeprefix("Value error, ")
    if not place:
        return reason
    return f"{place}: {reason} (given {str(first['input'])[:60]!r})"
