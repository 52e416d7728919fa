"""`unified eval toybox`: the default model's own benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unified.options import (
    Adapters,
    Device,
    Guidance,
    GuidanceInterval,
    GuidanceSchedule,
    MinP,
    Model,
    Packed,
    Seed,
    Temperature,
    TopK,
    TopP,
    Weights,
    sampling_options,
)
from unified.verbs.common import bar, check_json, load, print_json, status


def eval_toybox(
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Prompts a side and split; 300 if left out."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write the rows there; - is standard output.",
            callback=check_json,
        ),
    ] = None,
    seed: Seed = 0,
    model: Model = None,
    adapter: Adapters = None,
    device: Device = None,
    weights: Packed = Weights.plain,
    guidance_scale: Guidance = None,
    schedule: GuidanceSchedule = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    guidance_interval: GuidanceInterval = None,
) -> None:
    """Score looking and drawing on the toybox, where every answer is exactly known.

    Drawings are judged by a program that knows nothing of the model. Scores come per skill, for
    combinations seen in training and for held-out ones.
    """
    sampling = sampling_options(
        guidance_scale, schedule, temperature, top_k, top_p, min_p, guidance_interval
    )
    handle = load(model, device, adapter, weights)
    with status("Loading the benchmark"):
        from unified.eval import toybox
    with bar("Scoring") as step:
        rows = toybox.evaluate(handle, limit=limit, seed=seed, sampling=sampling, on_progress=step)
    if out is not None:
        print_json(rows, None if str(out) == "-" else out)
    if str(out) != "-":
        Console().print(toybox.table(rows), markup=False, highlight=False)
