"""`unified data …`: looking at data for fine-tuning, and tokenizing a corpus."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from unified.media.picture import named
from unified.options import AsJson, Device, Model
from unified.terminal import printable
from unified.verbs.common import bar, load, print_json, say, status

LEARNT = "bold green"

data_app = typer.Typer(
    help="Look at data for fine-tuning, of any common format, and tokenize a corpus.",
    epilog="Example: unified data check cats",
    no_args_is_help=True,
)


class Task(StrEnum):
    """What is learnt from a picture and its caption."""

    draw = "draw"
    describe = "describe"


Data = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="A file, a folder, or a dataset of the Hugging Face hub: owner/name, or "
        "owner/name:config.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help="The format; by default it is found out."),
]
Media = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="What file names are relative to; by default the data's folder."
    ),
]
Split = Annotated[str | None, typer.Option(metavar="NAME", help="Of a dataset in several splits.")]
OnlyTask = Annotated[
    Task | None,
    typer.Option(help="What to learn from a picture and its caption; by default both."),
]


def opened(
    path: str, format: str | None, media: Path | None, split: str | None, task: Task | None,
    tokens: bool = False,
) -> Any:  # fmt: skip
    """The records of data, or `tokens` made of them; whatever is wrong with all of it is said
    before a model is loaded."""
    with status("Reading the data"):
        from unified.train.documents import TASKS
        from unified.train.readers import read

        if media is not None and not media.is_dir():
            raise ValueError(f"{named(media)}: no such folder; check --media")
        tasks = None if task is None else (task.value,)
        if not tokens:
            return read(path, format, media=media, split=split, tasks=tasks or TASKS)
        from unified.train.examples import open_data

        return open_data(path, format, media=media, split=split, tasks=tasks)


@data_app.command("check", epilog="Example: unified data check cats --samples 2")
def data_check(
    path: Data,
    format: Format = None,
    samples: Annotated[
        int, typer.Option(metavar="N", min=0, help="Show so many records as the model sees them.")
    ] = 3,
    media: Media = None,
    split: Split = None,
    task: OnlyTask = None,
    model: Model = None,
    as_json: AsJson = False,
    device: Device = None,
) -> int:
    """Say what is in data: counts, tokens of each kind, lengths, and what is missing or damaged.

    A few records are shown as the model will see them; what it learns is green, or in brackets
    where there is no colour. Exit status 1 when some records cannot be learnt from.
    """
    records = opened(path, format, media, split, task)
    handle = load(model, device)
    from unified.train.encoding import Encoder
    from unified.train.inspection import check, conversations_of, plain, render
    from unified.train.records import DataError

    encoder = Encoder(handle)
    with bar("Checking") as step:
        report = check(records, encoder, step)
    shown: list[dict[str, Any]] = []
    for index in range(len(records)):
        if len(shown) == samples:
            break
        try:
            record = records[index]
            conversations = conversations_of(record, encoder, draft=True)
        except DataError:
            continue  # named above
        lines = [render(encoded, encoder) for encoded in conversations]
        shown.append({"id": record.id, "source": record.source, "conversations": lines})
    if as_json:
        for sample in shown:
            whole = sample["conversations"]
            sample["conversations"] = [[plain(line) for line in lines] for lines in whole]
        print_json({**report.row(), "samples": shown})
        return int(not report.well)
    console = Console()
    for line in report.lines():
        print(printable(line))
    for sample in shown:
        print(f"\n{printable(sample['source'])}")
        for k, lines in enumerate(sample["conversations"]):
            if k:
                print("rejected:")
            for line in lines:
                _print(console, line, plain(line))
    return int(not report.well)


def _print(console: Console, line: list[Any], words: str) -> None:
    """A line of tokens, what is learnt in colour, or in brackets where there is none."""
    if console.color_system is None:
        print(printable(words))
        return
    text = Text()
    for run in line:
        text.append(printable(run.shown), LEARNT if run.loss else "")
        text.append(" ")
    console.print(text, soft_wrap=True)


def _begun(model: str | None) -> Any:
    """The model of a recipe that is named by its run's folder or its file; None for any other."""
    if model is None:
        return None
    place = Path(model)
    run = (place / "recipe.yaml").is_file() and not (place / "config.json").is_file()
    if not run and place.suffix not in (".yaml", ".yml"):
        return None
    with status("Loading torch"):
        from unified.train.recipe import begun

        return begun(place)


@data_app.command("tokenize", epilog="Example: unified data tokenize corpus.jsonl -o tokens")
def data_tokenize(
    path: Data,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FOLDER", help="A new folder, or one to go on with."),
    ],
    format: Format = None,
    processes: Annotated[
        int, typer.Option(metavar="N", min=1, max=256, help="How many work at once.")
    ] = 1,
    size: Annotated[
        int, typer.Option("--shard-size", metavar="N", min=1, help="Records of a shard.")
    ] = 1000,
    skip: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="So many records may be unfit; they are left out."),
    ] = 0,
    ray: Annotated[
        bool, typer.Option("--ray", help="Let the workers of Ray Data do it; needs unified[ray].")
    ] = False,
    media: Media = None,
    split: Split = None,
    task: OnlyTask = None,
    model: Model = None,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Turn data into tokens once, in memory-mapped shards, for training on them many times.

    A stopped run goes on when the same command is given again. The number of processes makes no
    difference to what is written. `unified finetune FOLDER` trains on the tokens, and a recipe with
    --set data.NAME=FOLDER; for the latter --model is the folder of the recipe's run, whose stages
    `text` and `tokenizer` are done, or the recipe's file.
    """
    records = opened(path, format, media, split, task)
    handle = _begun(model) or load(model, device)
    from unified.train.encoding import Encoder
    from unified.train.shards import tokenize, tokenize_ray

    encoder = Encoder(handle)
    try:
        if ray:
            shards = tokenize_ray(records, encoder, out, size=size, skip=skip)
        else:
            with bar("Tokenizing") as step:
                shards = tokenize(
                    records,
                    encoder,
                    out,
                    processes=processes,
                    size=size,
                    skip=skip,
                    on_progress=step,
                )
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        raise
    for entry in shards.skipped:
        say(f"left out: {printable(entry['reason'])}")
    if as_json:
        found = {"folder": str(out), "records": len(shards), "fingerprint": shards.fingerprint}
        print_json({**found, "skipped": shards.skipped})
    else:
        print(named(out))
