"""`unified bench …`: how fast it is, beside what else there is, on this machine."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from unified.options import Device, InParallel, Model, Seed, Window, parallel_options
from unified.verbs.common import check_json, load, print_json, status

bench_app = typer.Typer(
    help="Measure speed, interleaved with what it is compared to, medians and ratios.",
    epilog="Example: unified bench train --against transformers --json train.json",
    no_args_is_help=True,
)


class Rival(StrEnum):
    transformers = "transformers"


class Size(StrEnum):
    """Of the random model that is timed; the decoding benchmark defines them."""

    tiny = "tiny"
    large = "large"


class Kind(StrEnum):
    """How our weights are held."""

    fp32 = "fp32"
    bf16 = "bf16"
    half = "half"
    int8 = "int8"
    int4 = "int4"


Rounds = Annotated[int, typer.Option(metavar="N", min=1, help="Rounds that count.")]
Threads = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="By default as torch has them.")
]
Out = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write rows.", callback=check_json),
]


def _written(rows: list[dict[str, Any]], out: Path | None) -> bool:
    """Write rows where they are wanted; whether a table is to be shown, too."""
    to_standard = str(out) == "-"
    if out is not None:
        print_json(rows, None if to_standard else out)
    return not to_standard


@bench_app.callback()
def bench() -> None:
    pass


@bench_app.command("train", epilog="Example: unified bench train --against transformers")
def bench_train(
    against: Annotated[Rival | None, typer.Option(help="Beside whose training loop.")] = None,
    rounds: Rounds = 5,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="Pools of four steps in a round.")
    ] = 1,
    batch_size: Annotated[int, typer.Option(metavar="N", min=4, help="Samples of a step.")] = 48,
    out: Out = None,
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
        found = clock.interleaved(ways, rounds, str(handle.model.device))
    facts = {"batch_size": batch_size, "samples": len(data), "model": handle.source,
             "tokens_a_sample": sum(map(len, data)) / len(data), "seed": seed}  # fmt: skip
    rows = clock.rows("train", "useful tokens", found, facts, str(handle.model.device))
    if _written(rows, out):
        table = Table("way", "tokens a second", "ratio", "peak memory")
        for row in rows:
            table.add_row(row["way"], f"{row['rate']:.0f}", f"{row['ratio']:.2f}",
                          f"{row['peak_bytes'] / 2**30:.2f} GiB")  # fmt: skip
        Console().print(table)


@bench_app.command("decode", epilog="Example: unified bench decode --against transformers")
def bench_decode(
    context: typer.Context,
    against: Annotated[Rival | None, typer.Option(help="Beside whose generate.")] = None,
    weights: Annotated[
        list[Kind] | None,
        typer.Option(
            help="Of ours; repeat it for several. By default fp32, half, int8 and int4, on a GPU"
            " fp32 and bf16."
        ),
    ] = None,
    batches: Annotated[
        list[int] | None,
        typer.Option(
            "--batch", metavar="N", min=1, help="Pictures at once; repeat it for several."
        ),
    ] = None,
    size: Annotated[Size, typer.Option(help="Of the random model.")] = Size.large,
    rounds: Rounds = 3,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=4, help="Codes of the picture; by default all.")
    ] = None,
    unguided: Annotated[
        int, typer.Option(metavar="N", min=0, help="Codes that are drawn without guidance, too.")
    ] = 96,
    parallel: InParallel = None,
    window: Window = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="DIR",
            help="Whole pictures of this model instead; repeat it to compare several. A pattern"
            " (raster, wavefront) is the default size with random weights.",
        ),
    ] = None,
    threads: Threads = None,
    out: Out = None,
    seed: Seed = 0,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="cpu, cuda or cuda:1.")
    ] = "cpu",
) -> None:
    """Codes a second of guided pictures, of a Janus with random weights.

    With --parallel, Jacobi decoding beside one by one, of the random Janus and of the shipped
    model. On a GPU steps recorded as CUDA graphs stand beside steps that are not.
    With --model, whole pictures of each of these models, at their own guidance, without words.
    """
    how = parallel_options(parallel, window)
    if models:
        _refuse_others(context)
        return _bench_pictures(models, rounds, threads, out, seed)
    with status("Loading torch") as change:
        import torch

        from unified.device import placed
        from unified.eval import decoding, speed
        from unified.jacobi import WINDOW

        placed(device)
        if threads is not None:
            torch.set_num_threads(threads)
        looked = (window or WINDOW) if how else 0
        whole = decoding.SIZES[size]["vision"]["num_image_tokens"]
        codes = min(limit or whole, whole)
        usual = [Kind.fp32, Kind.half, Kind.int8, Kind.int4]
        if torch.device(device).type == "cuda":
            usual = [Kind.fp32, Kind.bf16]
        kinds = [kind.value for kind in weights or usual]
        facts = {"size": size.value, "codes": codes, "guidance": decoding.GUIDANCE, "seed": seed}
        tables = []
        with tempfile.TemporaryDirectory() as folder:
            change("Making a model")
            source = decoding.random_janus(Path(folder), size, seed)
            for batch in batches or [1]:
                change("Loading it")
                race = decoding.race(
                    source, kinds, codes, against is not None, unguided, looked, device, batch
                )
                before = speed.machine_facts(device)
                change("Drawing in turns")
                found = speed.interleaved(race.ways, rounds, device)
                tables.append(decoding.report(race, found, before, facts))
                del race, found
    rows = [row for table in tables for row in table]
    pictures: list[dict[str, Any]] = []
    if how:
        with status("Drawing by the shipped model"):
            pictures = decoding.shipped(looked, rounds, seed, device)
    if _written(rows + pictures, out):
        for table in tables:
            _print_decode(table)
        for row in pictures:
            line = f"{row['rate']:.1f} codes a second, {row['passes']:.1f} passes a picture"
            Console().print(f"{row['way']}: {line}, words before it counted in", highlight=False)


def _refuse_others(context: typer.Context) -> None:
    """Raise BadParameter for an option that --model would pass over."""
    own = {"models", "rounds", "threads", "out", "seed"}
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name not in own and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--model draws whole pictures as each model does, on the CPU;"
                                     f" leave {option.opts[0]} out")  # fmt: skip


def _bench_pictures(
    models: list[str], rounds: int, threads: int | None, out: Path | None, seed: int
) -> None:
    """Whole pictures of several models, turn by turn."""
    with status("Loading torch") as change:
        import torch

        from unified.eval import decoding

        if threads is not None:
            torch.set_num_threads(threads)
        change("Loading models")
        handles = {name: _patterned(name, seed) for name in models}
        change("Drawing in turns")
        rows = decoding.pictures(handles, rounds, seed)
    if _written(rows, out):
        table = Table("model", "seconds a picture", "ratio", "passes")
        for row in rows:
            table.add_row(row["way"], f"{row['each']:.3f}", f"{row['ratio']:.2f}",
                          f"{row['passes']:.0f}")  # fmt: skip
        Console().print(table)
        _print_machine(rows[0]["settings"], Console())


def _patterned(name: str, seed: int) -> Any:
    """A model by its directory; by the name of a pattern the default one, with random weights."""
    from unified.handle import Unified
    from unified.pattern import PATTERNS
    from unified.processing import UnifiedProcessor
    from unified.sampling import Sampling
    from unified.train.model import build
    from unified.train.recipe import read

    if name not in PATTERNS:
        return load(name, "cpu")
    shipped, plan = load(None, "cpu"), read("toybox", [f"model.image.pattern={name}"])
    assert plan.model is not None
    words = shipped.processor.tokenizer
    model = build(plan.model, words, shipped.codec, seed, "cpu")
    processor = UnifiedProcessor.of(model.config, words)
    return Unified(model, processor, shipped.codec, sampling=Sampling(**plan.sampling))


def _print_decode(rows: list[dict[str, Any]]) -> None:
    machine, first = rows[0]["settings"], rows[0]["way"]
    shown = [row for row in rows if not row["unguided"]]
    title = f"{machine['batch']} pictures at once" if machine["batch"] > 1 else None
    table = Table("way", "codes a second", "ratio", "ms a step", "the first", "the last",
                  title=title)  # fmt: skip
    for row in shown:
        times = (f"{row[key]:.2f}" for key in ("step_ms", "first_ms", "last_ms"))
        table.add_row(row["way"], f"{row['rate']:.1f}", f"{row['ratio']:.2f}", *times)
    console = Console()
    console.print(table)
    for row in shown:
        parts = []
        if "roofline_share" in row:
            parts.append(
                f"{row['gbytes_a_second']:.1f} GB/s, {row['bandwidth_share']:.0%} of what memory"
                f" gives, {row['roofline_share']:.0%} of the roofline"
            )
        if "guided_to_unguided" in row:
            parts.append(f"a guided step takes {row['guided_to_unguided']:.2f} of an unguided one")
        if row["passes"] < len(row["codes"]) or "jacobi" in row["way"]:
            parts.append(f"{row['passes']} passes, each a step here")
        if row["way"] != first:
            parts.append(f"{row['agrees'][first]} of {len(row['codes'])} codes as {first}")
        if "cuda" in machine:
            parts.append(f"{row['peak_bytes'] / 2**30:.2f} GiB at most")
            parts += [row["attention"]] if "attention" in row else []
        console.print(f"{row['way']}: {'; '.join(parts)}", highlight=False)
    _print_machine(machine, console)


@bench_app.command("tokenizer", epilog="Example: unified bench tokenizer --against transformers")
def bench_tokenizer(
    against: Annotated[Rival | None, typer.Option(help="Beside whose JanusVQVAE.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="DIR",
            help="A picture tokenizer instead of Janus' VQ autoencoder with random weights.",
        ),
    ] = None,
    size: Annotated[Size, typer.Option(help="Of the random one.")] = Size.large,
    rounds: Rounds = 3,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures at once.")] = 1,
    threads: Threads = None,
    out: Out = None,
    seed: Seed = 0,
) -> None:
    """Pictures a second that are turned into codes, and codes into pictures, on a CPU."""
    with status("Making a tokenizer") as change:
        import torch

        from unified.eval import coding
        from unified.verbs.tokenizer import opened

        if threads is not None:
            torch.set_num_threads(threads)
        codec = coding.random_codec(size, seed) if model is None else opened(model, "cpu")
        facts = {"size": size.value} if model is None else {"model": model}
        change("Coding in turns")
        rows = coding.race(codec, against is not None, rounds, batch, seed, facts)
    if _written(rows, out):
        table = Table("task", "way", "pictures a second", "ratio", "peak memory")
        for row in rows:
            table.add_row(row["task"], row["way"], f"{row['rate']:.3g}", f"{row['ratio']:.2f}",
                          f"{row['peak_bytes'] / 2**30:.2f} GiB")  # fmt: skip
        Console().print(table)


@bench_app.command("serve", epilog="Example: unified bench serve --requests 16 --rounds 5")
def bench_serve(
    count: Annotated[
        int, typer.Option("--requests", metavar="N", min=2, help="Half drawings, half questions.")
    ] = 16,
    rounds: Rounds = 5,
    gap: Annotated[
        float, typer.Option(metavar="STEPS", min=0, help="Mean time between two arrivals.")
    ] = 0.5,
    threads: Threads = None,
    out: Out = None,
    seed: Seed = 0,
    model: Model = None,
    device: Device = None,
    against: Annotated[
        Rival | None, typer.Option(help="Beside whose generate; of a Janus in its format.")
    ] = None,
) -> None:
    """Tokens a second of mixed requests that arrive at random, beside all of them in one batch.

    Counted from the first arrival to the last token, filling and emptying of the batch included.
    """
    handle = load(model, device)
    with status("Making requests") as change:
        import torch

        from unified.eval import serving, speed

        if threads is not None:
            torch.set_num_threads(threads)
        beside = None if against is None else serving.rival(handle)
        requests = serving.mixed(handle, count, seed)
        at = serving.arrivals(count, gap, seed)
        ways, last = serving.race(handle, requests, at, 2 * count)
        if beside is not None:
            ways[serving.THEIRS] = serving.theirs(beside, handle, requests, last)
        change("Serving in turns")
        found = speed.interleaved(ways, rounds, str(handle.model.device))
    facts = {"requests": count, "gap_steps": gap, "last_arrival_step": at[-1],
             "model": handle.source, "seed": seed}  # fmt: skip
    rows = serving.report(found, last, facts, str(handle.model.device))
    if _written(rows, out):
        _print_serve(rows)


def _print_serve(rows: list[dict[str, Any]]) -> None:
    table = Table("way", "tokens a second", "seconds", "steps", "requests at a time")
    for row in rows:
        table.add_row(row["way"], f"{row['rate']:.1f}", f"{row['seconds']:.2f}",
                      str(row.get("steps", "")), f"{row.get('mean_requests', 1):.1f}")  # fmt: skip
    arriving, full, *others = rows
    machine, console = full["settings"], Console()
    console.print(table)
    console.print(
        f"As they arrive, requests reach {full['ratio']:.0%} of one full batch (the median of"
        f" {full['rounds']} rounds); {arriving['same_replies']} of {machine['requests']} replies"
        " are the same.",
        highlight=False,
    )
    for row in others:
        console.print(f"That is {row['ratio']:.2f} times as many as {row['way']}.", highlight=False)
    _print_machine(machine, console)


def _print_machine(machine: dict[str, Any], console: Console) -> None:
    if "cuda" in machine:
        console.print(
            f"{machine['device']} (CUDA {machine['cuda']}, torch {machine['torch']}): memory moves"
            f" {machine['read_gbytes']} GB/s, products reach {machine['product_gflops'] / 1e3:.0f}"
            f" TFLOP/s in bf16, {machine['product_gflops_fp32'] / 1e3:.1f} in fp32.",
            highlight=False,
        )
        return
    console.print(
        f"Memory is read at {machine['read_gbytes']} GB/s, products reach"
        f" {machine['product_gflops']} GFLOP/s; {machine['threads']} threads on"
        f" {machine['cores']} cores, load {machine['load']}; set for threads:"
        f" {machine['environment'] or 'nothing'}.",
        highlight=False,
    )
