"""`unified finetune` and `unified merge`: adapters from people's own data, laid into a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unified.media.picture import named
from unified.options import AsJson, Device, Model, Overrides, RecipeSeed
from unified.verbs.common import load, print_json, say, status
from unified.verbs.data import Data, Format, Media, OnlyTask, Split, opened

Zero = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=3,
        help="DeepSpeed's ZeRO, under torchrun: share out moments (1), gradients (2) and weights "
        "(3) over the processes, with optimizer=adamw; docs/distributed.md.",
    ),
]
Offload = Annotated[
    bool, typer.Option("--offload", help="With --zero: what is shared lies in the host's memory.")
]


def sharing(zero: int | None, offload: bool, stage: str = "") -> list[str]:
    """The settings behind --zero and --offload, as far as they are given."""
    loop = f"{stage}.loop" if stage else "loop"
    chosen = [] if zero is None else [f"{loop}.zero={zero}"]
    return [*chosen, f"{loop}.offload=true"] if offload else chosen


def finetune(
    data: Data,
    model: Model = None,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the run, new or stopped."),
    ] = Path("runs/finetune"),
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE.yaml", help="Settings that differ from the defaults."
        ),
    ] = None,
    overrides: Overrides = None,
    format: Format = None,
    media: Media = None,
    split: Split = None,
    task: OnlyTask = None,
    zero: Zero = None,
    offload: Offload = False,
    dry: Annotated[
        bool,
        typer.Option(
            "--check",
            "--dry-run",
            help="Check data and settings, say what would be done and what it would take.",
        ),
    ] = False,
    seed: RecipeSeed = None,
    device: Device = None,
    as_json: AsJson = False,
) -> int:
    """Teach a model from your own data, looking and drawing together: a LoRA adapter.

    Any format of `unified data` will do, and the tokens that `unified data tokenize` made of it. A
    stopped run goes on when the same command is given again, and several processes tune one model
    under torchrun (docs/distributed.md). Talk to the result with: unified chat --adapter
    FOLDER/adapter
    """
    records = opened(data, format, media, split, task, tokens=True)
    with status("Loading torch"):
        from unified.train import finetune as tuning
        from unified.train.distributed import own_device, team
        from unified.train.guards import STOPPED, Stopped
        from unified.train.tuning import read_config

    settings = read_config(config, [*(overrides or []), *sharing(zero, offload)])
    crew, device = team(), own_device(device)
    handle = load(model, device)
    run = tuning.prepare(handle, records, settings, seed=seed or 0, device=device)
    found = tuning.check(run)
    if crew.leads:
        for line in tuning.described(found):
            say(line)
    if dry:
        taken = tuning.estimated(run)
        if crew.leads:
            for line in taken.lines():
                say(line)
            if as_json:
                print_json({**found, "estimate": taken.values()})
        return 0
    try:
        made = tuning.finetune(run, out, progress=not as_json)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from the last checkpoint")
        raise
    except Stopped as error:
        say(str(error))
        return STOPPED
    if crew.leads:
        print_json({"folder": str(made), **found}) if as_json else print(named(made))
    return 0


def merge(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="A new folder for the model.")
    ],
    model: Model = None,
) -> None:
    """Lay an adapter into the model that it was made for, and write the whole as a new model."""
    if out.exists():
        raise ValueError(f"{named(out)}: there is something already; name a new folder")
    handle = load(model, "cpu", [adapter])
    handle.merge()
    handle.save(out)
    print(named(out))
