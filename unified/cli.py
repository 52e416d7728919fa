"""`unified VERB …`: the command line. Knows what people type; the work is done elsewhere.

Nothing heavy is imported before a verb needs it. Results go to standard output; what is going on,
and errors of one line each, go to standard error.
"""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core
from rich.console import Console

from unified import __version__, terminal
from unified.chat import facts
from unified.media import picture
from unified.media.picture import free_names, named
from unified.options import (
    Adapters,
    AsJson,
    ChatSeed,
    Device,
    Guidance,
    GuidanceSchedule,
    MinP,
    Model,
    Out,
    Overrides,
    RecipeSeed,
    Seed,
    Temperature,
    Tokenizer,
    TopK,
    TopP,
    sampling_options,
)
from unified.terminal import explain, printable
from unified.verbs import eval as eval_verbs
from unified.verbs.bench import bench_app
from unified.verbs.common import bar as _bar
from unified.verbs.common import load as _load
from unified.verbs.common import print_json as _json
from unified.verbs.common import say as _say
from unified.verbs.common import status as _status
from unified.verbs.convert import convert
from unified.verbs.data import data_app
from unified.verbs.finetune import finetune, merge

FAILED, INTERRUPTED = 2, 130
SHOWN = 4  # pictures of one command that a terminal shows
# typer carries its own copy of click in some versions; the base of its errors is found by name
CLICK_ERROR: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


class Verbs(typer.core.TyperGroup):
    """The verbs in the order in which a newcomer needs them."""

    order = (
        *("chat", "generate", "ask", "finetune", "merge", "data"),
        *("train", "tokenizer", "eval", "bench", "convert", "doctor"),
    )

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=self.order.index)


app = typer.Typer(
    name="unified",
    cls=Verbs,
    help="One model that reads and looks, writes and draws: talk to it, train it, judge it.",
    epilog="Start with: unified chat",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
tokenizer_app = typer.Typer(
    help="Turn pictures into codes and back; train and judge what does it.",
    epilog="Example: unified tokenizer encode cat.png",
    no_args_is_help=True,
)
eval_app = typer.Typer(
    help="Score a model on benchmarks with exact answers.",
    epilog="Example: unified eval toybox --limit 50",
    no_args_is_help=True,
)
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(eval_app, name="eval")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.command("convert", epilog="Example: unified convert Janus-Pro-1B janus")(convert)
app.command("finetune", epilog="Example: unified finetune cats -o runs/cats")(finetune)
app.command("merge", epilog="Example: unified merge runs/cats/adapter -o cats-model")(merge)


def version(wanted: bool) -> None:
    if wanted:
        print(f"unified {__version__}")
        raise typer.Exit()


@app.callback()
def start(
    _: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: unified chat --save holiday")
def chat(
    model: Model = None,
    adapter: Adapters = None,
    seed: ChatSeed = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where all is saved; by default a new folder in unified-chat."
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Go on with a saved transcript.")
    ] = None,
    as_json: AsJson = False,
    device: Device = None,
    guidance_scale: Guidance = None,
    schedule: GuidanceSchedule = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
) -> int:
    """Talk: ask, show pictures, have some drawn and changed.

    In the chat, /image PATH shows it a picture, /help lists the commands, Ctrl-C stops a reply and
    Ctrl-D leaves. Pictures and the transcript are saved as you go.

    When standard input is no terminal, each of its lines is a turn, and the conversation is
    written as text: lines "you: …", "unified: …" and "[picture saved: FILE]".
    """
    from unified.chat import Chat, JsonLines, Lines, run_lines, standard_input

    sampling = sampling_options(guidance_scale, schedule, temperature, top_k, top_p, min_p)
    if resume is not None:
        from unified import transcript

        transcript.load(resume)  # a bad one is refused before the model is loaded
    handle = _load(model, device, adapter)
    options: dict[str, Any] = {"seed": seed, "sampling": sampling, "folder": save}
    options["resumed"] = resume
    if not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        from unified.screen import Screen, run_screen

        screen = Screen()
        return run_screen(Chat(handle, screen, **options), screen)
    display = JsonLines() if as_json else Lines()
    return run_lines(Chat(handle, display, **options), standard_input())


@app.command(epilog='Example: unified generate "a red circle left of a cat" -o cat.png --seed 3')
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw, in plain words.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.png",
            help="Replace this file; by default, a new one named after the prompt.",
        ),
    ] = None,
    n: Annotated[
        int, typer.Option("--n", "-n", metavar="N", min=1, max=256, help="How many pictures.")
    ] = 1,
    seed: Seed = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Draw even what the model would decline.")
    ] = False,
    model: Model = None,
    adapter: Adapters = None,
    as_json: AsJson = False,
    device: Device = None,
    guidance_scale: Guidance = None,
    schedule: GuidanceSchedule = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
) -> None:
    """Draw a picture from words and save it as PNG.

    What the model says to the prompt is printed. Where it knows nothing of what is asked, it says
    so and draws nothing, unless --force is given. The prompt, seed, settings and model are kept in
    the PNG's metadata. Of several pictures (--n), the first has this seed, the second the next
    one, and so on.
    """
    prompt = _text(prompt, "the prompt", "say what to draw")
    sampling = sampling_options(guidance_scale, schedule, temperature, top_k, top_p, min_p)
    target = out or Path(default_name(prompt, seed))
    picture.check_target(target)
    handle = _load(model, device, adapter)
    settings = handle.settings(**sampling).settings()
    with _bar("Drawing") as step:
        if force:
            images, said = handle.generate(prompt, n=n, seed=seed, on_step=step, **sampling), ""
        else:
            replies = handle.draw(prompt, n=n, seed=seed, on_step=step, **sampling)
            images, said = _drawn(replies)
    if not images:
        raise ValueError(f"nothing was drawn. The model says: {said or '(nothing)'}")
    if said and not as_json:
        print(printable(said))
    files = []
    for k, image in enumerate(images):
        made = {"prompt": prompt, **facts(handle, seed + k, settings)}
        if out is not None and k == 0:
            path = picture.save_png(image, out, made)
        else:
            path = picture.save_new(image, target, made)
        files.append({"path": str(path), "seed": seed + k})
        if not as_json:
            if len(images) <= SHOWN and sys.stdout.isatty():
                print(terminal.picture(image, terminal.ability(sys.stdout)), end="")
            print(named(path), flush=True)
    if as_json:
        _json({"files": files, "text": said, "prompt": prompt, **facts(handle, seed, settings)})


def _drawn(replies: list[dict[str, Any]]) -> tuple[list[Any], str]:
    """The pictures of several replies, and what the first of them says."""
    parts = [part for reply in replies for part in reply["content"]]
    words = [part["text"] for part in replies[0]["content"] if part["type"] == "text"]
    return [part["image"] for part in parts if part["type"] == "image"], "".join(words).strip()


@app.command(epilog='Example: unified ask cat.png "How many cats are there?"')
def ask(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A PNG, JPEG, WEBP, GIF or BMP picture.")
    ],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In plain words.")],
    seed: Seed = 0,
    model: Model = None,
    adapter: Adapters = None,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Ask a question about a picture."""
    question = _text(question, "the question", "ask something about the picture")
    image = picture.read(file)
    handle = _load(model, device, adapter)
    with _status("Looking"):
        answer = handle.ask(image, question, seed=seed)
    if as_json:
        asked = {"file": str(file), "question": question, "answer": answer}
        _json({**asked, "model": facts(handle, seed, {})["model"]})
    else:
        print(printable(answer))


@app.command(epilog="Example: unified train toybox --set scale=tiny")
def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A recipe's name, or a .yaml file.")
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option("--stage", metavar="NAME", help="Only this stage; repeat it for several."),
    ] = None,
    overrides: Overrides = None,
    out: Out = None,
    seed: RecipeSeed = None,
    device: Device = None,
    as_json: AsJson = False,
) -> int:
    """Train a model by a recipe, from nothing to a chat.

    A stopped run goes on where it was when the same command is given again. The recipe "toybox"
    makes the shipped weights; scale=tiny tries all its stages in about a minute. Several processes
    train one model under torchrun: torchrun --nproc-per-node 2 -m unified train toybox
    """
    with _status("Loading torch"):
        from unified.train import recipe as recipes
        from unified.train.guards import STOPPED, Stopped
    if recipe is None:
        raise ValueError(f"which recipe? One of {', '.join(recipes.recipes())}: unified train NAME")
    try:
        folder = recipes.run(recipe, stage or None, overrides or [], out, seed, device, not as_json)
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from the last checkpoint")
        raise
    except Stopped as error:
        _say(str(error))
        return STOPPED
    if os.environ.get("RANK", "0") == "0":
        _json({"folder": str(folder)}) if as_json else print(folder)
    return 0


@tokenizer_app.command("train", epilog="Example: unified tokenizer train toybox --out runs/vq")
def tokenizer_train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A recipe's name, or a .yaml file.")
    ] = None,
    overrides: Overrides = None,
    out: Out = None,
    seed: RecipeSeed = None,
    device: Device = None,
    as_json: AsJson = False,
) -> int:
    """Train a tokenizer alone: the tokenizer stage of a recipe (pixels, seed, video, audio, or
    toybox for the one that is shipped)."""
    return train(recipe, ["tokenizer"], overrides, out, seed, device, as_json)


@tokenizer_app.command("eval", epilog="Example: unified tokenizer eval --grid grid.png")
def tokenizer_eval(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Model or tokenizer directory; by default the shipped one."
        ),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Save originals above their reconstructions."),
    ] = None,
    prefixes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Save pictures drawn from 1, 2, 4 … all of their codes (seed)."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many held-out items.")] = 512,
    probe: Annotated[
        bool,
        typer.Option(help="Also train probes: how predictable the codes are, what they hold."),
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Judge a tokenizer on pictures, films or sound that it never saw: what comes back, and how
    the codes are used."""
    saved = [path for path in (grid, prefixes) if path is not None]
    for path in saved:
        picture.check_target(path)
    from unified.eval import tokenizer as judge

    codec = _codec(model)
    if prefixes is not None:
        judge.strip(codec, prefixes, seed=seed)
    with _status("Judging the tokenizer"):
        rows = judge.evaluate_tokenizer(codec, count=limit, seed=seed, probe=probe)
        if grid is not None:
            judge.grid(codec, grid, seed=seed)
    if as_json:
        _json(rows)
        return
    for row in rows:
        spread = f" ± {row['stderr']:.2g}" if row["stderr"] else ""
        print(f"{row['metric']:18}{row['value']:.4g}{spread}  (n = {row['n']})")
    for path in saved:
        print(named(path))


@tokenizer_app.command("encode", epilog="Example: unified tokenizer encode cat.png -o cat.json")
def tokenizer_encode(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A picture, a film or sound.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="CODES.json", help="Standard output if left out."),
    ] = None,
    model: Tokenizer = None,
    device: Device = None,
) -> None:
    """Turn a picture, a film or sound into codes, by a tokenizer of that medium."""
    if out is not None:
        _check_json(out)
    codec = _codec(model, device)
    from unified.media.tensors import read_media

    media = read_media(file, codec.spec)
    spec = codec.spec
    value = {
        "medium": spec.medium,
        "codebooks": list(spec.codebooks),
        "time": media.shape[2] if spec.medium != "image" else 1,
        "codes": codec.encode(media.to(codec.device))[0].tolist(),
    }
    _json(value, out)
    if out is not None:
        print(named(out))


@tokenizer_app.command("decode", epilog="Example: unified tokenizer decode cat.json -o cat.png")
def tokenizer_decode(
    file: Annotated[Path, typer.Argument(metavar="CODES.json", help="What encode wrote.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="Where the picture, film or sound goes."),
    ],
    model: Tokenizer = None,
    device: Device = None,
) -> None:
    """Turn codes back into a picture, a film or sound."""
    codes, time = read_codes(file)
    codec = _codec(model, device)
    import torch

    from unified.media.tensors import check_target, write_media

    check_target(out, codec.spec)
    media = codec.decode(torch.tensor([codes], device=codec.device))
    if time and codec.spec.medium != "image":
        media = media[:, :, :time]
    write_media(out, media, codec.spec)
    print(named(out))


@eval_app.command("toybox", epilog="Example: unified eval toybox --limit 100 --json scores.json")
def eval_toybox(
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Prompts a side and split; 300 if left out."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the rows there; - is standard output."),
    ] = None,
    seed: Seed = 0,
    model: Model = None,
    adapter: Adapters = None,
    device: Device = None,
    guidance_scale: Guidance = None,
    schedule: GuidanceSchedule = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
) -> None:
    """Score looking and drawing on the toybox, where every answer is exactly known.

    Drawings are judged by a program that knows nothing of the model. Scores come per skill, for
    combinations seen in training and for held-out ones.
    """
    sampling = sampling_options(guidance_scale, schedule, temperature, top_k, top_p, min_p)
    if out is not None and str(out) != "-":
        _check_json(out)
    handle = _load(model, device, adapter)
    with _status("Loading the benchmark"):
        from unified.eval import toybox
    with _bar("Scoring") as step:
        rows = toybox.evaluate(handle, limit=limit, seed=seed, sampling=sampling, on_progress=step)
    if out is not None:
        _json(rows, None if str(out) == "-" else out)
    if str(out) != "-":
        Console().print(toybox.table(rows), markup=False, highlight=False)


eval_verbs.register(eval_app)


@app.command(epilog="Example: unified doctor")
def doctor(model: Model = None, device: Device = None, as_json: AsJson = False) -> int:
    """Check that all is well here: packages, device, weights, a drawing, a question.

    Each line says ok, warn or FAIL and, where need be, what to do. Exit status 1 when one fails.
    """
    from unified.doctor import MARKS, examine

    findings = examine(model, device, terminal.ability(sys.stdout))
    checks, doing = [], "Checking"
    while True:
        with _status(doing):
            check = next(findings, None)
        if check is None:
            break
        checks.append(check)
        doing = check.next
        if not as_json:
            print(f"{MARKS[check.status]} {check.name}: {check.found}", flush=True)
            if check.advice:
                print(f"     {check.advice}", flush=True)
    failed = any(check.status == "fail" for check in checks)
    if as_json:
        _json({"ok": not failed, "checks": [check.row() for check in checks]})
    return int(failed)


def default_name(prompt: str, seed: int) -> str:
    """`a-red-circle-seed3.png`, or the first such name with -1, -2, … that is free."""
    words = "-".join(re.findall(r"\w+", prompt.lower()))[:48].strip("-_") or "picture"
    while len(words.encode()) > 150:
        words = words[:-1]
    names = free_names(Path(f"{words}-seed{seed}.png"))
    return str(next(name for name in names if not os.path.lexists(name)))


def read_codes(path: Path) -> tuple[list[int], int]:
    """The codes in a file that `tokenizer encode` wrote, and the frames or samples they stand for
    (0 where it does not say).

    Raises:
        ValueError: it is no such file.
    """
    try:
        if path.stat().st_size > 2**24:
            raise ValueError(f"{named(path)}: too large for the codes of one item")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"{named(path)}: no JSON; give what `tokenizer encode` wrote") from None
    codes = data.get("codes") if isinstance(data, dict) else data
    if not isinstance(codes, list) or not all(type(code) is int for code in codes):
        raise ValueError(f"{named(path)}: it has no list of codes; give what `encode` wrote")
    if any(abs(code) >= 2**31 for code in codes):
        raise ValueError(f"{named(path)}: a code is out of range; give what `encode` wrote")
    time = data.get("time", 0) if isinstance(data, dict) else 0
    return codes, time if type(time) is int and time > 0 else 0


def _codec(model: str | None, device: str | None = None) -> Any:
    """The tokenizer in a model directory, or in a directory of its own, ours or published."""
    with _status("Loading the tokenizer"):
        codec = _load_codec(model)
        import torch

        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return codec.to(place)
        except (RuntimeError, AssertionError):
            raise ValueError(f"no device {place!r} here; leave --device out") from None


def _load_codec(model: str | None) -> Any:
    from unified import checkpoint, handle
    from unified.tokenizers.kinds import load_codec

    folder = Path(model) if model is not None else handle.DEFAULT
    if (folder / checkpoint.MANIFEST).is_file():
        checkpoint.verify(folder)
    if (folder / handle.CODEC).is_dir():
        folder = folder / handle.CODEC
    if not (folder / "config.json").is_file():
        raise ValueError(f"{named(folder)}: no tokenizer there; name a directory that has one")
    if "kind" in json.loads((folder / "config.json").read_text()):
        return load_codec(folder)
    from unified.tokenizers.published import load_published

    return load_published(folder)


def _text(text: str, what: str, advice: str) -> str:
    """Words from the command line; bytes that are no text are replaced."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if not text.strip():
        raise ValueError(f"{what} is empty; {advice}")
    return text


def _check_json(path: Path) -> None:
    """Refuse a place for JSON that cannot be written, before the work rather than after it."""
    if path.is_dir():
        raise ValueError(f"{named(path)}: this is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        folder = named(path.parent)
        raise ValueError(f"{named(path)}: the folder {folder} does not exist; create it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{named(path)}: may not be written; choose a place you may write to")


def run(arguments: list[str] | None = None) -> int:
    """Carry out a command line; the exit status. Whatever goes wrong is one line."""
    debug = os.environ.get("UNIFIED_DEBUG") == "1"
    if not debug:
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):  # a terminal of few letters is no reason to fail
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        status = app(arguments, prog_name="unified", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # who read our output is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except CLICK_ERROR as error:
        return _usage(error)
    except typer.Abort:
        return INTERRUPTED
    except Exception as error:
        if debug:
            raise
        _say(f"error: {explain(error)}")
        return FAILED


def _usage(error: Any) -> int:
    """A command line that is none: what is wrong and what could stand there, in one line."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # making it has shown the help
        return FAILED
    text = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    if context is not None:
        command = context.command
        if type(error).__name__ == "NoSuchOption":
            options = [o for p in command.params for o in p.opts if o.startswith("--")]
            text = f"No such option: {error.option_name}; one of {', '.join([*options, '--help'])}"
        elif text.startswith("No such command"):
            verbs = ", ".join(command.list_commands(context))
            text = f"{text.partition('. Did you mean')[0]}; one of {verbs}"
        else:
            text += f"; see {context.command_path} --help"
    _say(f"error: {printable(text)}")
    return FAILED


def main(arguments: list[str] | None = None) -> NoReturn:
    """The console script."""
    sys.exit(run(arguments))
