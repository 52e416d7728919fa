"""`unified bench …`: how fast it is, beside what else there is, on this machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from unified.options import Device, Model, Seed
from unified.verbs.common import load, print_json, status

bench_app = typer.Typer(
    help="Measure speed, interleaved with what it is compared to, medians and ratios.",
    epilog="Example: unified bench train --against transformers --json train.json",
    no_args_is_help=True,
)


class Rival(StrEnum):
    transformers = "transformers"


@bench_app.callback()
def bench() -> None:
    pass


@bench_app.command("train", epilog="Example: unified bench train --against transformers")
def bench_train(
    against: Annotated[Rival | None, typer.Option(help="Beside whose training loop.")] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Rounds that count.")] = 5,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="Pools of four steps in a round.")
    ] = 1,
    batch_size: Annotated[int, typer.Option(metavar="N", min=4, help="Samples of a step.")] = 48,
    out: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write rows.")] = None,
    seed: Seed = 0,
    model: Model = None,
    device: Device = None,
) -> None:
    """Useful tokens a second in training on the toybox's chat mix, padding not counted."""
    handle = load(model, device)
    from unified.eval import speed as clock
    from unified.train import speed
    from unified.train.recipe import read

    stage = read("toybox").chat
    assert stage is not None
    with status("Making samples"):
        data = speed.samples(handle, stage.mix, limit * 4 * batch_size, seed)
    ways = {"unified": speed.ours(handle, data, batch_size, 16)}
    if against is not None:
        ways["transformers"] = speed.trainer(handle, data, batch_size)
    with status("Training in turns"):
        found = clock.interleaved(ways, rounds)
    facts = {"batch_size": batch_size, "samples": len(data), "model": handle.source,
             "tokens_a_sample": sum(map(len, data)) / len(data), "seed": seed}  # fmt: skip
    rows = clock.rows("train", "useful tokens", found, facts)
    if out is not None:
        print_json(rows, None if str(out) == "-" else out)
    if out is None or str(out) != "-":
        table = Table("way", "tokens a second", "ratio", "peak memory")
        for row in rows:
            table.add_row(row["way"], f"{row['rate']:.0f}", f"{row['ratio']:.2f}",
                          f"{row['peak_bytes'] / 2**30:.2f} GiB")  # fmt: skip
        Console().print(table)
