"""Options that several verbs share: their names, limits and help, written once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from unified.chat import MAX_SEED

SAMPLING = "How pictures are sampled (by default, as the model was tuned)"


class Schedule(StrEnum):
    """How guidance moves over the codes of a picture; the sampling module defines them."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"
    clamped_linear = "clamped-linear"
    parametrised_cosine = "parametrised-cosine"


class Weights(StrEnum):
    """How the decoder's weights are held; the packing module defines all but the first."""

    plain = "float"
    half = "half"
    int8 = "int8"
    int4 = "int4"


class Parallel(StrEnum):
    """How many codes of a picture are drawn at once; the module of that name defines it."""

    jacobi = "jacobi"


def whole(seed: int | None) -> int | None:
    """A seed as it is, refused where a JSON reader would round it."""
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise typer.BadParameter(f"{seed} is not a whole number from 0 to 2^53")
    return seed


Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="SOURCE", help="Model directory; by default the shipped weights."
    ),
]
Adapters = Annotated[
    list[Path] | None,
    typer.Option(
        "--adapter",
        metavar="FOLDER",
        help="A LoRA adapter on the model; repeat it for several, the first is switched on.",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="DIR",
        help="A shipped tokenizer (toybox, audio, video, seed), or a directory of one, a model or a"
        " run; by"
        " default the shipped one of the medium.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="NAME", help="cpu, cuda or cuda:1; by default a GPU if there is one."
    ),
]
Packed = Annotated[
    Weights,
    typer.Option(
        "--weights",
        metavar="KIND",
        help="Of the decoder and the heads: float, or packed for a CPU as half, int8 or int4; on a"
        " GPU half (bf16) alone.",
    ),
]
InParallel = Annotated[
    Parallel | None,
    typer.Option(
        "--parallel",
        metavar="METHOD",
        help="jacobi: the same pictures, one after the other, many codes in a pass.",
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        metavar="N",
        min=1,
        max=4096,
        help="With --parallel: codes that a pass looks at.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        callback=whole,
        help="Chance: the same seed, the same result.",
    ),
]
ChatSeed = Annotated[
    int | None,
    typer.Option(
        "--seed", metavar="N", callback=whole, help="Chance of the first reply; 0 by default."
    ),
]
RecipeName = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="A recipe's name, or a .yaml file.")
]
RecipeSeed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", callback=whole, help="Instead of the recipe's, or of 0."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale",
        metavar="X",
        min=0,
        max=100,
        rich_help_panel=SAMPLING,
        help="How closely to follow the words; 1 is none and twice as fast.",
    ),
]
GuidanceSchedule = Annotated[
    Schedule | None,
    typer.Option(
        "--schedule",
        metavar="NAME",
        rich_help_panel=SAMPLING,
        help=f"How guidance moves over a picture: {', '.join(Schedule)}.",
    ),
]
GuidanceInterval = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--guidance-interval",
        metavar="FROM UNTIL",
        rich_help_panel=SAMPLING,
        help="Shares of a picture between which guidance counts, as 0 0.8; elsewhere it costs"
        " nothing.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        metavar="X",
        min=0,
        max=100,
        rich_help_panel=SAMPLING,
        help="0 always takes the likeliest; more is more varied.",
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        "--top-k",
        metavar="K",
        min=0,
        rich_help_panel=SAMPLING,
        help="Choose among the k likeliest; 0: all.",
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        "--top-p",
        metavar="X",
        min=0,
        max=1,
        rich_help_panel=SAMPLING,
        help="Choose among the likeliest that together reach this probability.",
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        "--min-p",
        metavar="X",
        min=0,
        max=1,
        rich_help_panel=SAMPLING,
        help="Leave out what has less than this share of the likeliest.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, as loop.steps=100; of a stage of a recipe chat.loop.steps=100.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="Folder of the run; by default runs/RECIPE."),
]


def parallel_options(parallel: Parallel | None, window: int | None) -> dict[str, Any]:
    """The options that were given.

    Raises:
        ValueError: a window without a method.
    """
    if parallel is None and window is not None:
        raise ValueError(f"--window {window} is of --parallel jacobi; add that, or leave it out")
    options = {"parallel": parallel.value if parallel else None, "window": window}
    return {name: value for name, value in options.items() if value is not None}


def sampling_options(
    guidance_scale: float | None,
    schedule: Schedule | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    interval: tuple[float, float] | None,
) -> dict[str, Any]:
    """The options that were given."""
    start, end = interval or (None, None)
    options = {
        "guidance_scale": guidance_scale,
        "schedule": schedule.value if schedule else None,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "guidance_start": start,
        "guidance_end": end,
    }
    return {name: value for name, value in options.items() if value is not None}
