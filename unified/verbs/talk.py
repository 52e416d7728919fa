"""`unified chat`, `generate` and `ask`: talk to a model, have it draw, have it look."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from unified import terminal
from unified.chat import facts
from unified.media import picture
from unified.media.picture import free_names, named
from unified.options import (
    Adapters,
    AsJson,
    ChatSeed,
    Device,
    Guidance,
    GuidanceInterval,
    GuidanceSchedule,
    InParallel,
    MinP,
    Model,
    Packed,
    Seed,
    Temperature,
    TopK,
    TopP,
    Weights,
    Window,
    parallel_options,
    sampling_options,
)
from unified.terminal import printable
from unified.verbs.common import bar, load, print_json, say, status

SHOWN = 4  # pictures of one command that a terminal shows


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
    weights: Packed = Weights.plain,
    guidance_scale: Guidance = None,
    schedule: GuidanceSchedule = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    guidance_interval: GuidanceInterval = None,
) -> int:
    """Talk: ask, show pictures, have some drawn and changed.

    In the chat, /image PATH shows it a picture, /help lists the commands, Ctrl-C stops a reply and
    Ctrl-D leaves. Pictures and the transcript are saved as you go.

    When standard input is no terminal, each of its lines is a turn, and the conversation is
    written as text: lines "you: …", "unified: …" and "[picture saved: FILE]".
    """
    from unified.chat import Chat, JsonLines, Lines, run_lines, standard_input

    sampling = sampling_options(
        guidance_scale, schedule, temperature, top_k, top_p, min_p, guidance_interval
    )
    if resume is not None:
        from unified import transcript

        transcript.load(resume)  # a bad one is refused before the model is loaded
    handle = load(model, device, adapter, weights)
    options: dict[str, Any] = {"seed": seed, "sampling": sampling, "folder": save}
    options["resumed"] = resume
    if not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        from unified.screen import Screen, run_screen

        screen = Screen()
        return run_screen(Chat(handle, screen, **options), screen)
    display = JsonLines() if as_json else Lines()
    return run_lines(Chat(handle, display, **options), standard_input())


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
    weights: Packed = Weights.plain,
    parallel: InParallel = None,
    window: Window = None,
    guidance_scale: Guidance = None,
    schedule: GuidanceSchedule = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    guidance_interval: GuidanceInterval = None,
) -> None:
    """Draw a picture from words and save it as PNG.

    What the model says to the prompt is printed. Where it knows nothing of what is asked, it says
    so and draws nothing, unless --force is given. The prompt, seed, settings and model are kept in
    the PNG's metadata. Of several pictures (--n), the first has this seed, the second the next
    one, and so on.
    """
    prompt = _text(prompt, "the prompt", "say what to draw")
    how = parallel_options(parallel, window)
    sampling = sampling_options(
        guidance_scale, schedule, temperature, top_k, top_p, min_p, guidance_interval
    )
    target = out or Path(default_name(prompt, seed))
    picture.check_target(target)
    handle = load(model, device, adapter, weights)
    settings = handle.settings(**sampling).settings()
    with bar("Drawing") as step:
        if force:
            images = handle.generate(prompt, n=n, seed=seed, on_step=step, **how, **sampling)
            drawn, said = [*zip(range(seed, seed + n), images, strict=True)], ""
        else:
            replies = handle.draw(prompt, n=n, seed=seed, on_step=step, **how, **sampling)
            drawn, said = _drawn(replies, seed)
    if not drawn:
        raise ValueError(f"nothing was drawn. The model says: {said or '(nothing)'}")
    if said and not as_json:
        print(printable(said))
    files: list[dict[str, Any]] = []
    for own, image in drawn:
        made = {"prompt": prompt, **facts(handle, own, settings)}
        if out is not None and not files:
            path = picture.save_png(image, out, made)
        else:
            path = picture.save_new(image, target, made)
        passes = {"passes": image.info["passes"]} if how else {}
        files.append({"path": str(path), "seed": own, **passes})
        if how and not as_json:
            codes = handle.layout.image_length
            say(f"{codes} codes in {image.info['passes']} passes")
        if not as_json:
            if len(drawn) <= SHOWN and sys.stdout.isatty():
                print(terminal.picture(image, terminal.ability(sys.stdout)), end="")
            print(named(path), flush=True)
    if as_json:
        print_json(
            {"files": files, "text": said, "prompt": prompt, **facts(handle, seed, settings)}
        )


def _drawn(replies: list[dict[str, Any]], seed: int) -> tuple[list[tuple[int, Any]], str]:
    """The pictures of several replies, each with the seed of its own, and what the first reply
    says."""
    drawn = [(seed + k, part["image"]) for k, reply in enumerate(replies)
             for part in reply["content"] if part["type"] == "image"]  # fmt: skip
    words = [part["text"] for part in replies[0]["content"] if part["type"] == "text"]
    return drawn, "".join(words).strip()


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
    weights: Packed = Weights.plain,
) -> None:
    """Ask a question about a picture."""
    question = _text(question, "the question", "ask something about the picture")
    image = picture.read(file)
    handle = load(model, device, adapter, weights)
    with status("Looking"):
        answer = handle.ask(image, question, seed=seed)
    if as_json:
        asked = {"file": str(file), "question": question, "answer": answer}
        made = facts(handle, seed, {})
        print_json({**asked, "model": made["model"], "weights": made["weights"]})
    else:
        print(printable(answer))


def default_name(prompt: str, seed: int) -> str:
    """`a-red-circle-seed3.png`, or the first such name with -1, -2, … that is free."""
    words = "-".join(re.findall(r"\w+", prompt.lower()))[:48].strip("-_") or "picture"
    while len(words.encode()) > 150:
        words = words[:-1]
    names = free_names(Path(f"{words}-seed{seed}.png"))
    return str(next(name for name in names if not os.path.lexists(name)))


def _text(text: str, what: str, advice: str) -> str:
    """Words from the command line; bytes that are no text are replaced."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if not text.strip():
        raise ValueError(f"{what} is empty; {advice}")
    return text
