"""A sheet of drawings for the README: `python -m unified.eval.sheet OUT.png [--model DIR]`.

Prompts are those of the benchmark, two of each skill from the held-out split and from the seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from unified.media.sheet import captioned
from unified.toybox.questions import SKILLS
from unified.toybox.samples import benchmark_prompt


def prompts(seed: int = 0) -> list[str]:
    """The prompts of a sheet: twelve seen, twelve held out."""
    return [
        benchmark_prompt(skill, seed, index, split)[0]
        for split in ("seen", "held_out")
        for skill in SKILLS
        for index in (0, 1)
    ]


def sheet(model: Any, *, seed: int = 0) -> Any:
    """Draw the prompts, nothing chosen by hand: picture k of seed + k."""
    asked = prompts(seed)
    return captioned(model.generate(asked, seed=seed), asked, columns=6)


def main(out: Path, model: str | None = None, seed: int = 0) -> None:
    from unified.handle import load

    sheet(load(model), seed=seed).save(out)


if __name__ == "__main__":
    typer.run(main)
