"""`unified convert`: a published model in our format, and one of ours in that of its family."""

from __future__ import annotations

import os
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unified.media.picture import named
from unified.verbs.common import status


class Format(StrEnum):
    unified = "unified"
    transformers = "transformers"


def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="Model directory, or a hub name fetched before."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new directory.")],
    to: Annotated[
        Format,
        typer.Option(help="Our format, or that of transformers for what came from a family."),
    ] = Format.unified,
    from_pickles: Annotated[
        bool,
        typer.Option(
            "--from-pickles",
            help="Read weights that exist only as pickles, with torch's restricted unpickler.",
        ),
    ] = False,
) -> None:
    """Write a published model (Janus, Chameleon, Anole, Emu3) in our format, or one of ours back
    in that of transformers.

    The verbs that use a model take a published one as it is, too: --model SOURCE. Converted, it is
    checked against its hashes whenever it is opened, and carries its settings. Weights keep their
    precision.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{named(out)}: there is something already; name a new directory")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"{named(out)}: the folder around it does not exist; create it")
    place = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    unfinished, rewritten = place / "model", place / "safetensors"
    try:
        with status("Loading torch") as doing:
            from unified import families
            from unified.families import pickles
            from unified.handle import load

            if from_pickles:
                doing("Reading the pickles")
                pickles.rewrite(families.folder_of(source), rewritten)
            doing("Loading the model")
            model = load(rewritten if from_pickles else source, "cpu", dtype="auto")
        (model.save if to is Format.unified else model.export)(unfinished)
        if out.is_dir():
            out.rmdir()
        os.replace(unfinished, out)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(named(out))
