"""`unified VERB …`: the command line. Knows what people type; the work is done elsewhere.

Nothing heavy is imported before a verb needs it. Results go to standard output; what is going on,
and errors of one line each, go to standard error.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from unified import __version__
from unified.terminal import explain, printable
from unified.verbs import eval as eval_verbs
from unified.verbs.bench import bench_app
from unified.verbs.common import say
from unified.verbs.convert import convert
from unified.verbs.data import data_app
from unified.verbs.doctor import doctor
from unified.verbs.finetune import finetune, merge
from unified.verbs.talk import ask, chat, generate
from unified.verbs.tokenizer import tokenizer_app
from unified.verbs.toybox import eval_toybox
from unified.verbs.train import train

FAILED, INTERRUPTED = 2, 130
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
eval_app = typer.Typer(
    help="Score a model on benchmarks, and report what came out.",
    epilog="Example: unified eval toybox --limit 50",
    no_args_is_help=True,
)
app.add_typer(tokenizer_app, name="tokenizer")
eval_verbs.register(eval_app)
eval_app.command("toybox", epilog="Example: unified eval toybox --limit 100 --json scores.json")(
    eval_toybox
)
app.add_typer(eval_app, name="eval")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.command("chat", epilog="Example: unified chat --save holiday")(chat)
app.command(
    "generate",
    epilog='Example: unified generate "a red circle left of a cat" -o cat.png --seed 3',
)(generate)
app.command("ask", epilog='Example: unified ask cat.png "How many cats are there?"')(ask)
app.command("train", epilog="Example: unified train toybox --set scale=tiny")(train)
app.command("doctor", epilog="Example: unified doctor")(doctor)
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


def run(arguments: list[str] | None = None) -> int:
    """Carry out a command line; the exit status. Whatever goes wrong is one line."""
    debug = os.environ.get("UNIFIED_DEBUG") == "1"
    if not debug:
        warnings.simplefilter("ignore")
        logging.getLogger("DeepSpeed").disabled = True  # speaks where results go
    for stream in (sys.stdout, sys.stderr):  # a terminal of few letters is no reason to fail
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        done = app(arguments, prog_name="unified", standalone_mode=False)
        sys.stdout.flush()
        return done if isinstance(done, int) else 0
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
        say(f"error: {explain(error)}")
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
    say(f"error: {printable(text)}")
    return FAILED


def main(arguments: list[str] | None = None) -> NoReturn:
    """The console script."""
    sys.exit(run(arguments))
