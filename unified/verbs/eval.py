"""`unified eval run | list | repeat | report`: benchmarks from the command line.

Knows what people type; the work is `unified.eval.runner`'s and `unified.eval.report`'s, which are
imported when a verb is called.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from unified.media.picture import named
from unified.options import (
    Adapters,
    AsJson,
    Device,
    Guidance,
    GuidanceInterval,
    GuidanceSchedule,
    MinP,
    Packed,
    Seed,
    Temperature,
    TopK,
    TopP,
    Weights,
    sampling_options,
)
from unified.terminal import printable
from unified.verbs.common import bar, load, print_json, say, status

SHIPPED = "unified/toybox"  # how results name the weights that come with the toolkit
FAILED, DIFFERS = 2, 1


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `unified eval`."""
    app.command("run", epilog="Example: unified eval run toybox_paired --limit 60 -o joint")(run)
    app.command("list", epilog="Example: unified eval list")(list_)
    app.command("repeat", epilog="Example: unified eval repeat joint")(repeat)
    app.command("report", epilog="Example: unified eval report joint -o report.html")(report)


def run(
    benchmarks: Annotated[
        list[str],
        typer.Argument(metavar="BENCHMARK…", help="Names of `eval list`, or .yaml files."),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="The benchmark's official files, as downloaded; NAME=PATH for each of several.",
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="SOURCE", help="Model directory; several each get a folder of OUT."
        ),
    ] = None,
    adapters: Adapters = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where all of it goes.")
    ] = Path("unified-eval"),
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Questions or prompts of each benchmark at most."),
    ] = None,
    judge: Annotated[
        str,
        typer.Option(
            metavar="JUDGE",
            help="toybox, self, features, encoder, or the directory of an image-text or vision"
            " model.",
        ),
    ] = "",
    batch: Annotated[
        int, typer.Option(metavar="N", min=1, max=4096, help="Questions or pictures at once.")
    ] = 32,
    processes: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=256, help="Processes that share it, a model each."),
    ] = 1,
    seed: Seed = 0,
    as_json: AsJson = False,
    device: Device = None,
    weights: Packed = Weights.plain,
    guidance_scale: Guidance = None,
    schedule: GuidanceSchedule = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    guidance_interval: GuidanceInterval = None,
) -> int:
    """Run benchmarks on one model or several, and keep every answer and every drawing.

    A run that was stopped goes on when the same command is given again. Drawings are written in the
    layout of their benchmark's own scorer. What several processes do is what one does; where there
    are several GPUs, each process has its own.
    """
    from unified.eval import benchmark

    sampling = sampling_options(
        guidance_scale, schedule, temperature, top_k, top_p, min_p, guidance_interval
    )
    specs = {found.name: found for name in benchmarks for found in benchmark.select(name)}
    places = _places(data or [], list(specs), benchmarks)
    folders = _folders(models or [], out)
    from unified.eval import results, runner

    tasks = [runner.Task(spec, places.get(name), judge) for name, spec in specs.items()]
    plan = runner.Plan(seed=seed, limit=limit, batch=batch, sampling=sampling)
    if len(folders) > 1:
        results.save_order(out, list(folders.values()))
    code, found = 0, {}
    for source, folder in folders.items():
        handle = load(source or None, device, adapters, weights)
        others = [
            partial(loaded_there, source, device, adapters, number, weights)
            for number in range(1, processes)
        ]
        with bar("Asking") as step:
            found[folder] = runner.run(handle, tasks, folder, plan, step, others)
        for reason in found[folder].failed.values():
            say(printable(f"error: {reason}"))
            code = FAILED
    if as_json:
        print_json([row.model_dump() for one in found.values() for row in one.rows])
        return code
    for folder, one in found.items():
        if one.rows:
            _show(one.rows)
        print(named(folder / results.FILE))
    return code


def loaded_there(
    source: str,
    device: str | None,
    adapters: list[Path] | None,
    number: int,
    weights: Weights = Weights.plain,
) -> Any:
    """The same model in process `number`, on a GPU of its own where there are several."""
    import torch

    from unified.handle import load

    if device in (None, "cuda") and torch.cuda.device_count() > 1:
        device = f"cuda:{number % torch.cuda.device_count()}"
    kind = None if weights is Weights.plain else weights.value
    return load(source or None, device, adapters=adapters or (), weights=kind)


def _places(given: list[str], names: list[str], asked: list[str]) -> dict[str, Path]:
    """The data of each benchmark: NAME=PATH for one, PATH for the only one there is."""
    places: dict[str, Path] = {}
    for text in given:
        name, found, path = text.partition("=")
        if found and name in names:
            places[name] = Path(path)
        elif len(asked) == 1:
            places |= dict.fromkeys(names, Path(text))
        else:
            known = ", ".join(names)
            raise ValueError(f"--data {text}: whose is it? give NAME=PATH, NAME one of {known}")
    return places


def _folders(models: list[str], out: Path) -> dict[str, Path]:
    """Where each model's results go: OUT for one, OUT/NAME for several."""
    if len(models) <= 1:
        return {models[0] if models else "": out}
    folders: dict[str, Path] = {}
    for source in dict.fromkeys(models):
        parts = Path(source).resolve().parts
        name = parts[-2] if parts[-1] == "model" and len(parts) > 2 else parts[-1]
        taken = [folder.name for folder in folders.values()]
        number = sum(t == name or t.startswith(f"{name}-") for t in taken)
        folders[source] = out / (f"{name}-{number + 1}" if name in taken else name)
    return folders


def _show(rows: list[Any]) -> None:
    """The rows over all skills, the two sides apart."""
    for side in ("understanding", "generation"):
        inside = [
            row for row in rows
            if row.side == side and row.skill in ("overall", "perception", "cognition")
        ]  # fmt: skip
        if inside:
            print(f"{side}:")
        for row in inside:
            skill = "" if row.skill == "overall" else f", {row.skill}"
            lost = f", {row.unscored} not scored" if row.unscored else ""
            found = f"{row.metric} {row.value:.4g} ± {row.stderr:.2g}"
            facts = f"n = {row.n}{lost}, chance {row.chance:.3g}, {row.protocol}"
            print(f"  {row.task}{skill}, {row.split}: {found}  ({facts})")
    for judge in sorted({r.settings.judge for r in rows if r.settings.judge_source == "self"}):
        print(f"{judge}: the model scored its own drawings; compare with nothing else")


def list_(as_json: AsJson = False) -> None:
    """List the benchmarks: what each asks, and which files it needs."""
    from unified.eval import benchmark

    found = [benchmark.load(name) for name in benchmark.names()]
    if as_json:
        print_json([spec.model_dump() for spec in found])
        return
    for side in ("understanding", "generation"):
        print(f"{side}:")
        for spec in found:
            if spec.side == side:
                suite = f" (with {spec.suite})" if spec.suite else ""
                print(f"  {spec.name:20} {spec.about} [{spec.protocol}]{suite}")
                print(f"  {'':20} needs {spec.data.files}")


def repeat(
    path: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="results.json, or the folder that has it.")
    ],
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The data, where it is no longer there.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="SOURCE", help="Instead of the one named.")
    ] = None,
    adapters: Adapters = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Keep the second run there."),
    ] = None,
    device: Device = None,
) -> int:
    """Run the same again and say whether it agrees: settings, every sample, every number.

    Exit status 0 where it does, 1 where it does not.
    """
    from unified.eval import results
    from unified.eval.repeat import repeat as again

    before = results.load(path)
    if out is not None and out.resolve() == (path if path.is_dir() else path.parent).resolve():
        raise ValueError(f"{named(out)}: these are the results to repeat; name another folder")

    def loaded(was: Any) -> Any:
        if was.adapter and not adapters:
            raise ValueError(f"made with the adapter {was.adapter}; name its folder with --adapter")
        source = model if model is not None else was.model
        source = None if source == SHIPPED else source
        try:
            return load(source, device, adapters, Weights(was.weights or "float"))
        except ValueError as error:
            if model is not None or source is None:
                raise
            raise ValueError(
                f"{error} (so the results name it; --model says where it is)"
            ) from None

    with tempfile.TemporaryDirectory() as temporary, bar("Asking again") as step:
        differences = again(path, out or Path(temporary), loaded, data, step)
    for line in differences:
        print(printable(f"differs: {line}"))
    if not differences:
        print(f"agrees: {len(before.rows)} rows, and every sample")
    return DIFFERS if differences else 0


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN…", help="Folders of `eval run`: the model's, then its twins' to compare."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.html", help="A .md is written beside it.")
    ] = Path("report.html"),
    validate: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=10000, help="Scenes to try the toybox judge on; 0 for none."
        ),
    ] = 60,
) -> None:
    """Write a report: understanding beside generation, fact by fact, with failures to look at.

    The first run is the model; each other is compared with it on the samples that both answered.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{named(out)}: a report is HTML; give a name that ends in .html")
    if not out.parent.is_dir():
        folder = named(out.parent)
        raise ValueError(f"{named(out)}: the folder {folder} does not exist; create it")
    from unified.eval.report import write

    with status("Writing the report"):
        written = write(runs, out, validate)
    for path in written:
        print(named(path))
