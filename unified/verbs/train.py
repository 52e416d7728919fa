"""`unified train`: a model by a recipe."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from unified.options import (
    AsJson,
    Device,
    Out,
    Overrides,
    RecipeName,
    RecipeSeed,
)
from unified.verbs.common import print_json, say, status
from unified.verbs.finetune import Offload, Zero, sharing


def train(
    recipe: RecipeName = None,
    stage: Annotated[
        list[str] | None,
        typer.Option("--stage", metavar="NAME", help="Only this stage; repeat it for several."),
    ] = None,
    overrides: Overrides = None,
    out: Out = None,
    seed: RecipeSeed = None,
    device: Device = None,
    as_json: AsJson = False,
    zero: Zero = None,
    offload: Offload = False,
) -> int:
    """Train a model by a recipe, from nothing to a chat.

    A stopped run goes on where it was when the same command is given again. The recipe "toybox"
    makes the shipped weights; scale=tiny tries all its stages in about a minute. Several processes
    train one model under torchrun, once one has trained its tokenizers (--stage text --stage
    tokenizer): torchrun --nproc-per-node 2 -m unified train toybox
    """
    with status("Loading torch"):
        from unified.train import recipe as recipes
        from unified.train.guards import STOPPED, Stopped
    if recipe is None:
        raise ValueError(f"which recipe? One of {', '.join(recipes.recipes())}: unified train NAME")
    overrides = overrides or []
    if zero is not None or offload:
        chosen = stage or recipes.read(recipe, overrides).stages
        names = [name for name in chosen if name not in recipes.TOKENIZERS]
        overrides = [*overrides, *(part for name in names for part in sharing(zero, offload, name))]
    try:
        folder = recipes.run(recipe, stage or None, overrides, out, seed, device, not as_json)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from the last checkpoint")
        raise
    except Stopped as error:
        say(str(error))
        return STOPPED
    if os.environ.get("RANK", "0") == "0":
        print_json({"folder": str(folder)}) if as_json else print(folder)
    return 0
