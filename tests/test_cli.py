"""The command line, with a small stand-in for the model: what is typed, what comes out."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from unified import cli, handle, options, sampling, screen, transcript
from unified.chat import COMMANDS, Chat, Lines, run_lines, split_path
from unified.handle import ContextError, End, ImageDone, ImageProgress, ImageStart, TextDelta
from unified.media import picture
from unified.processing import UnifiedImageProcessor
from unified.tokenizers.codec import CodecSpec
from unified.toybox.scene import render, sample_scene
from unified.verbs.talk import default_name

VERBS = [
    ["chat"], ["generate"], ["ask"], ["train"], ["doctor"], ["tokenizer"], ["tokenizer", "train"],
    ["tokenizer", "eval"], ["tokenizer", "encode"], ["tokenizer", "decode"], ["eval"],
    ["eval", "toybox"], ["data"], ["data", "check"], ["data", "tokenize"],
    ["finetune"], ["merge"], ["bench"], ["bench", "train"], ["bench", "decode"], ["bench", "serve"],
    ["convert"],
]  # fmt: skip


class Codec:
    spec = CodecSpec((16,), (0,) * 64, (64, 64))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        if codes.shape[1:] != (64,):
            raise ValueError(f"{tuple(codes.shape)} codes; a picture has 64")
        return torch.zeros(1, 3, 64, 64)


class Model:
    """Draws when told to, repeats what was said otherwise; some words make it fail."""

    source, revision = "unified/toybox", "0123abcd"
    codec, model = Codec(), SimpleNamespace(device="cpu")
    processor = SimpleNamespace(image_processor=UnifiedImageProcessor())

    def __init__(self) -> None:
        self.heard: list[list[dict[str, Any]]] = []
        self.seeds: list[int] = []

    def settings(self, **given: Any) -> sampling.Sampling:
        return replace(sampling.Sampling(), **given)

    def stream(
        self, messages: list[dict[str, Any]], *, seed: int = 0, draw: str = "auto", **_: Any
    ) -> Iterator[Any]:
        self.heard.append(messages)
        self.seeds.append(seed)
        text = transcript.text_of(messages[-1])
        if "too long" in text:
            raise ContextError("the message takes 900 tokens; this model reads at most 512")
        if "crash" in text:
            raise RuntimeError("a tensor\nof the wrong shape")
        if "forget" in text:
            yield handle.Notice("The oldest 2 messages were left out.")
        if draw == "only" or text.lower().startswith(("draw", "please draw")):
            yield from (TextDelta("Here is "), TextDelta("a circle."), ImageStart())
            yield from (ImageProgress(1, 2), ImageProgress(2, 2))
            yield ImageDone(Image.new("RGB", (64, 64), (seed % 256, 0, 0)))
            yield TextDelta(" Enjoy.")
        else:
            shown = len(transcript.pictures_of(messages[-1:]))
            yield TextDelta(f"You said: {text}")
            yield TextDelta(f" ({shown} pictures)" if shown else "")
        if "stop" in text:
            raise KeyboardInterrupt
        yield End("end")

    def generate(
        self, prompt: str, *, n: int, seed: int, on_step: Callable[[int, int], None], **_: Any
    ) -> list[Image.Image]:
        if "too long" in prompt:
            raise ContextError("the message takes 900 tokens; this model reads at most 512")
        on_step(1, 1)
        return [Image.new("RGB", (64, 64), (seed + k, 0, 0)) for k in range(n)]

    def draw(self, prompt: str, **settings: Any) -> list[dict[str, Any]]:
        if "zebra" in prompt:
            settings["on_step"](1, 1)
            said = {"type": "text", "text": "I don't know how to draw a zebra."}
            return [{"role": "assistant", "content": [said]}]
        said = {"type": "text", "text": "Only part of it. "}
        return [
            {
                "role": "assistant",
                "content": ([said] if "partly" in prompt else [])
                + ([{"type": "image", "image": image}] if "seldom" not in prompt or k else []),
            }
            for k, image in enumerate(self.generate(prompt, **settings))
        ]

    def ask(self, image: Image.Image, question: str, *, seed: int) -> str:
        return f"{image.width} wide"

    def encode(self, pixels: torch.Tensor) -> list[int]:
        assert pixels.shape == (3, 64, 64)
        return [7] * 64


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Model:
    model = Model()
    monkeypatch.setattr(handle, "load", lambda source=None, device=None, **_: model)
    monkeypatch.delenv("UNIFIED_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    return model


class Ran(SimpleNamespace):
    status: int
    out: str
    err: str


@pytest.fixture
def run(model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line in this process, in an empty folder; `stdin` is its standard input."""

    def run(*arguments: str, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        status = cli.run(list(arguments))
        out, err = capsys.readouterr()
        return Ran(status=status, out=out, err=err)

    return run


def error_of(ran: Ran) -> str:
    """The one line of a refused command."""
    assert ran.status == 2 and ran.out == "", ran
    (line,) = ran.err.splitlines()
    assert line.startswith("error: ")
    return line


def files(folder: Path | None = None) -> list[str]:
    return sorted(path.name for path in (folder or Path.cwd()).iterdir())


# Help and what is refused


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_has_an_example(verb: list[str], run: Any) -> None:
    ran = run(*verb, "--help")
    assert ran.status == 0 and f"Example: unified {' '.join(verb)}" in ran.out


def test_verbs_are_listed_in_order(run: Any) -> None:
    out = run("--help").out
    words = [line.strip("│ ").partition(" ")[0] for line in out.splitlines()]
    assert [word for word in words if word in cli.Verbs.order] == list(cli.Verbs.order)
    assert run().out.strip() == out.strip()
    assert run("--version").out.startswith("unified ")


def test_schedules_are_the_sampling_module_s() -> None:
    assert tuple(options.Schedule) == sampling.SCHEDULES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["paint"], "No such command 'paint'; one of chat, generate, ask, finetune"),
        (["eval", "imagenet"], "No such command 'imagenet'; one of "),
        (["generate", "x", "--size", "3"], "No such option: --size; one of --out, --n, --seed"),
        (["--size"], "No such option: --size; one of --version"),
        (["generate"], "Missing argument 'PROMPT'; see unified generate --help"),
        (["generate", "x", "--n", "0"], "greater than or equal to 1"),
        (["generate", "x", "--n", "many"], "valid integer"),
        (["generate", "x", "--seed", "-1"], "not a whole number"),
        (["generate", "x", "--top-p", "1.5"], "less than or equal to 1"),
        (["generate", "x", "--schedule", "steep"], "parametrised-cosine"),
        (["generate", " "], "the prompt is empty"),
        (["generate", "x", "-o", "none/x.png"], "none does not exist; create it"),
        (["generate", "x", "-o", "/proc/x/x.png"], "does not exist; create it"),
        (["generate", "x", "-o", "."], "give a name that ends in .png"),
        (["generate", "x", "-o", "x.jpg"], "give a name that ends in .png"),
        (["generate", "too long"], "reads at most 512"),
        (["ask", "none.png", "what?"], "none.png: no such file"),
        (["ask", "text.png", "what?"], "text.png: not a picture"),
        (["ask", "empty.png", "what?"], "empty.png: the file is empty"),
        (["ask", "red.png", ""], "the question is empty"),
        (["ask", "red.png"], "Missing argument 'QUESTION'"),
        (["chat", "--resume", "none.json"], "no such transcript"),
        (["chat", "--resume", "text.json"], "not a transcript"),
        (["train"], "which recipe? One of audio, janus_pro, pixels, seed, seed_llama, toybox"),
        (["train", "nothing"], "unknown recipe 'nothing'; one of audio, janus_pro, pixels, seed"),
        (["train", "audio", "--stage", "chat"], "the recipe 'audio' has no stage 'chat'"),
        (["train", "toybox", "--set", "scale"], "--set takes key=value"),
        (
            ["train", "toybox", "--set", "scale=odd"],
            "unknown scale 'odd'; one of vq, short, wavefront, tiny",
        ),
        (["train", "toybox", "--stage", "odd"], "unknown stage 'odd'; one of text, tokenizer"),
        (["tokenizer", "train", "nothing"], "unknown recipe 'nothing'"),
        (["tokenizer", "encode", "text.png"], "not a picture"),
        (["tokenizer", "decode", "none.json", "-o", "x.png"], "none.json: No such file"),
        (["tokenizer", "decode", "text.json", "-o", "x.png"], "no JSON"),
        (["tokenizer", "decode", "few.json", "-o", "x.png"], "a picture has 33"),
        (["tokenizer", "decode", "large.json", "-o", "x.png"], "out of range"),
        (["tokenizer", "decode", "words.json", "-o", "x.png"], "no list of codes"),
        (["tokenizer", "eval", "nothing"], "no tokenizer there"),
        (["eval", "toybox", "--json", "none/x.json"], "none does not exist; create it"),
        (["eval", "toybox", "--limit", "0"], "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(arguments: list[str], words: str, run: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "text.json").write_text("not a transcript")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "few.json").write_text("[1, 2]")
    (tmp_path / "large.json").write_text(json.dumps([2**40] * 64))
    (tmp_path / "words.json").write_text('{"codes": ["a"]}')
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    before = files()
    assert words in error_of(run(*arguments))
    assert files() == before


def test_whatever_goes_wrong_below_is_one_line(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[BaseException] = []

    def fail(*_: object, **__: object) -> None:
        raise raised[-1]

    monkeypatch.setattr(handle, "load", fail)
    for error, words in [
        (handle.checkpoint.CheckpointError("w: does not match its SHA-256"), "match its SHA-256"),
        (OSError(28, "No space left on device", "w"), "w: No space left on device"),
        (RuntimeError("two\nlines"), "RuntimeError: two lines"),
    ]:
        raised.append(error)
        assert words in error_of(run("generate", "x"))
    monkeypatch.setenv("UNIFIED_DEBUG", "1")
    with pytest.raises(RuntimeError):
        run("generate", "x")
    raised.append(KeyboardInterrupt())
    assert run("generate", "x").status == 130


@pytest.mark.parametrize(
    "arguments",
    [["ask", "/none.png", "what?"], ["generate", "--odd"], ["chat", "--resume", "/none.json"]],
)
def test_a_real_command_refuses_without_a_traceback(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unified", *arguments]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_closed_pipe_is_no_traceback() -> None:
    root = Path(__file__).resolve().parent.parent
    command = f"{sys.executable} -m unified generate --help | true"
    done = subprocess.run(command, shell=True, cwd=root, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


# generate, ask


def test_generate_writes_what_it_says(run: Any) -> None:
    ran = run("generate", "a red circle", "-o", "x.png", "--seed", "7", "--top-p", "0.5")
    assert (ran.status, ran.out) == (0, "x.png\n")
    made = picture.metadata("x.png")
    assert (made["prompt"], made["seed"]) == ("a red circle", 7)
    assert made["settings"]["top_p"] == 0.5 and made["model"] == "unified/toybox 0123abcd"
    assert picture.read("x.png").getpixel((0, 0)) == (7, 0, 0)


def test_generate_replaces_only_the_file_it_was_given(run: Any) -> None:
    run("generate", "x", "-o", "x.png", "--n", "2")
    run("generate", "x", "-o", "x.png", "--n", "2", "--seed", "9")
    assert files() == ["x-1.png", "x-2.png", "x.png"]
    seeds = [picture.metadata(name)["seed"] for name in ("x.png", "x-1.png", "x-2.png")]
    assert seeds == [9, 1, 10]


def test_generate_names_after_the_prompt_and_never_replaces(run: Any) -> None:
    for _ in range(2):
        run("generate", "A red circle, please!", "--seed", "3")
    assert files() == ["a-red-circle-please-seed3-1.png", "a-red-circle-please-seed3.png"]
    assert default_name("../../etc", 0) == "etc-seed0.png"
    assert default_name("猫" * 300, 0).startswith("猫猫")
    assert len(default_name("猫" * 300, 0).encode()) < 200
    assert default_name("?!", 0) == "picture-seed0.png"


def test_generate_as_json(run: Any) -> None:
    found = json.loads(run("generate", "x", "-n", "2", "-o", "x.png", "--json").out)
    assert found["files"] == [{"path": "x.png", "seed": 0}, {"path": "x-1.png", "seed": 1}]
    assert found["prompt"] == "x" and "guidance_scale" in found["settings"]


def test_a_reply_without_a_picture_takes_no_other_pictures_seed(run: Any) -> None:
    found = json.loads(run("generate", "seldom", "-n", "3", "-o", "x.png", "--json").out)
    assert [file["seed"] for file in found["files"]] == [1, 2]
    for file in found["files"]:
        assert picture.read(file["path"]).getpixel((0, 0)) == (file["seed"], 0, 0)
        assert picture.metadata(file["path"])["seed"] == file["seed"]


def test_generate_says_what_it_does_not_know(run: Any) -> None:
    ran = run("generate", "a zebra", "-o", "x.png")
    assert ran.status == 2 and "I don't know how to draw a zebra." in ran.err and not files()
    assert run("generate", "a zebra", "-o", "x.png", "--force").status == 0
    assert run("generate", "partly", "-o", "x.png").out == "Only part of it.\nx.png\n"
    assert json.loads(run("generate", "partly", "--json").out)["text"] == "Only part of it."


def test_ask_answers(run: Any) -> None:
    Image.new("RGB", (30, 20), "red").save("red.png")
    assert run("ask", "red.png", "how wide?").out == "30 wide\n"
    found = json.loads(run("ask", "red.png", "how wide?", "--json").out)
    assert found["answer"] == "30 wide" and found["question"] == "how wide?"


# chat from standard input


TALK = """Draw a red circle.
What did you draw?

/image red.png
Which colour?
/image red.png How many?
/save copy.png
/save talk.json
/seed 40
Draw another.
"""


def test_a_picture_can_be_demanded(run: Any, model: Model) -> None:
    ran = run("chat", "--save", "here", stdin="a zebra\n/draw a zebra\n")
    assert ran.out.splitlines()[1:4] == [
        "unified: You said: a zebra", "you: a zebra", "unified: Here is a circle.",
    ]  # fmt: skip
    assert picture.metadata("here/chat-1.png")["prompt"] == "a zebra"


def test_chat_reads_turns_and_writes_a_transcript(run: Any, model: Model) -> None:
    Image.new("RGB", (30, 20), "red").save("red.png")
    ran = run("chat", "--save", "here", stdin=TALK)
    assert ran.status == 0 and ran.err == ""
    assert ran.out.splitlines() == [
        "you: Draw a red circle.",
        "unified: Here is a circle.",
        "[picture saved: here/chat-1.png]",
        "unified: Enjoy.",
        "you: What did you draw?",
        "unified: You said: What did you draw?",
        "[picture attached: red.png]",
        "you: [picture: red.png] Which colour?",
        "unified: You said: Which colour? (1 pictures)",
        "you: [picture: red.png] How many?",
        "unified: You said: How many? (1 pictures)",
        "[picture saved: copy.png]",
        "[transcript saved: talk.json]",
        "[seed of the next reply: 40]",
        "you: Draw another.",
        "unified: Here is a circle.",
        "[picture saved: here/chat-2.png]",
        "unified: Enjoy.",
        "[transcript saved: here/transcript.json]",
    ]
    assert model.seeds == [0, 1, 2, 3, 40]
    made = picture.metadata("here/chat-1.png")
    assert made["prompt"] == "Draw a red circle." and made["seed"] == 0
    assert picture.metadata("copy.png") == made
    assert picture.metadata("here/chat-2.png")["seed"] == 40
    # the model hears roles, words and pixels, nothing of ours
    assert {key for m in model.heard[-1] for p in m["content"] for key in p} == {
        "type", "text", "image",
    }  # fmt: skip
    assert [m["role"] for m in model.heard[-1]] == ["user", "assistant"] * 4 + ["user"]


def test_chat_is_resumed(run: Any, model: Model) -> None:
    run("chat", "--save", "here", stdin="Draw a red circle.\n")
    ran = run("chat", "--resume", "here", stdin="Thanks.\n")
    assert ran.out.endswith("[transcript saved: here/transcript.json]\n")
    first, _, last = model.heard[-1]
    assert transcript.text_of(first) == "Draw a red circle."
    assert transcript.text_of(last) == "Thanks."
    assert model.seeds == [0, 1]
    assert files(Path("here")) == ["chat-1.png", "transcript.json"]
    assert len(transcript.load(Path("here")).messages) == 4


def test_chats_never_replace_each_other(run: Any) -> None:
    for _ in range(2):
        run("chat", "--save", "here", stdin="Draw a red circle.\n")
    assert files(Path("here")) == [
        "chat-1.png", "chat-2.png", "transcript-1.json", "transcript.json",
    ]  # fmt: skip
    for _ in range(2):
        run("chat", stdin="Hello.\n")
    assert len(files(Path("unified-chat"))) == 2


def test_a_chat_that_nobody_reads_ends(tmp_path: Path, model: Model) -> None:
    class Gone(Lines):
        def text(self, text: str) -> None:
            raise BrokenPipeError

    chat = Chat(model, Gone(), folder=tmp_path)
    with pytest.raises(BrokenPipeError):
        run_lines(chat, ["Hello.", "Still there?"])
    assert len(model.heard) == 1


def test_an_empty_chat_leaves_nothing(run: Any) -> None:
    assert run("chat", stdin="").out == ""
    assert run("chat", stdin="\n/quit\nhello\n").out == ""
    assert files() == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/image none.png", "none.png: no such file"),
        ("/image none.png What is it?", "none.png: no such file"),
        ("/image text.png", "text.png: not a picture"),
        ("/image .", "this is a folder"),
        ("/image", "/image needs a path"),
        ("/save", "/save needs a path"),
        ("/save none/x.png", "does not exist"),
        ("/save x.jpg", "pictures are saved as PNG"),
        ("/save /proc/x/talk.json", "cannot be written"),
        ("/draw", "/draw needs words: /draw a red circle"),
        ("/seed many", "/seed takes a whole number, not 'many'"),
        ("/seed -1", "/seed takes a whole number"),
        ("/seed ²", "/seed takes a whole number"),
        ("/paint", "unknown command /paint; one of /image, /draw, /save"),
        ("This is too long.", "reads at most 512"),
        ("Please crash.", "RuntimeError: a tensor of the wrong shape"),
    ],
)
def test_bad_input_leaves_the_chat_going(line: str, words: str, run: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    ran = run("chat", "--save", "here", stdin=f"Draw a cat.\n{line}\nStill there?\n")
    assert ran.status == 0 and "unified: You said: Still there?" in ran.out
    (error,) = ran.err.splitlines()
    assert error.startswith("error: ") and words in error
    # what the model could not read is not kept
    assert len(transcript.load(Path("here")).messages) == 4


def test_a_refused_message_keeps_its_picture_attached(run: Any) -> None:
    Image.new("RGB", (30, 20), "red").save("red.png")
    ran = run("chat", stdin="/image red.png\nThis is too long.\nShort.\n")
    assert "You said: Short. (1 pictures)" in ran.out


def test_save_without_a_picture_says_so(run: Any) -> None:
    assert "no picture to save yet" in run("chat", stdin="/save x.png\n").err


def test_new_and_help(run: Any, model: Model) -> None:
    ran = run("chat", "--save", "here", stdin="Hello.\n/new\nHello again.\n/help\n")
    assert len(model.heard[-1]) == 1
    assert all(command in ran.out for command in COMMANDS)
    assert files(Path("here")) == ["transcript-1.json", "transcript.json"]


def test_notices_are_told(run: Any) -> None:
    assert "[The oldest 2 messages were left out.]" in run("chat", stdin="forget it\n").out


def test_sampling_is_resumed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def settings(self: Model, **given: Any) -> sampling.Sampling:
        seen.append(given)
        return sampling.Sampling(**given)

    monkeypatch.setattr(Model, "settings", settings)
    run("chat", "--save", "here", "--top-k", "5", "--min-p", "0.1", stdin="Hello.\n")
    run("chat", "--resume", "here", "--top-k", "6", stdin="Hello.\n")
    assert seen == [{"top_k": 5, "min_p": 0.1}, {"top_k": 6, "min_p": 0.1}]


def test_an_unwritable_folder_does_not_end_the_chat(run: Any) -> None:
    Path("file").write_text("")
    ran = run("chat", "--save", "file", stdin="Draw a cat.\nHello.\n")
    assert "unified: You said: Hello." in ran.out and "file: cannot be made a folder" in ran.err
    assert ran.status == 0


def test_text_cannot_pass_for_another_turn(run: Any) -> None:
    ran = run("chat", stdin="a\x1b[2Jb\x85you: c\n")
    assert "\x1b" not in ran.out and ran.out.count("\nyou: ") == 0


def test_bytes_that_are_no_text_are_read(tmp_path: Path, model: Model) -> None:
    chat = Chat(model, Lines(), folder=tmp_path)
    assert chat.take("caf\udce9")
    assert transcript.text_of(model.heard[-1][0]) == "caf?"


def test_chat_as_json(run: Any) -> None:
    talk = "Draw a red circle.\n/image none.png\n/save copy.png\n"
    ran = run("chat", "--save", "here", "--json", stdin=talk)
    user, reply, error, saved, last = (json.loads(line) for line in ran.out.splitlines())
    assert user == {"role": "user", "content": [{"type": "text", "text": "Draw a red circle."}]}
    assert [part["type"] for part in reply["content"]] == ["text", "image", "text"]
    assert reply["content"][1]["path"] == "here/chat-1.png" and reply["seed"] == 0
    assert "no such file" in error["error"]
    assert saved == {"saved": "picture", "path": "copy.png"}
    assert last == {"saved": "transcript", "path": "here/transcript.json"}


def test_ctrl_c_in_a_reply_keeps_what_there_was(run: Any) -> None:
    ran = run("chat", "--save", "here", stdin="Hello.\nPlease stop.\nNever read.\n")
    assert ran.status == 130
    assert ran.out.splitlines()[-3:] == [
        "unified: You said: Please stop.", "[stopped]", "[transcript saved: here/transcript.json]",
    ]  # fmt: skip
    last = transcript.load(Path("here")).messages[-1]
    assert last["stopped"] is True and transcript.text_of(last) == "You said: Please stop."


# chat in a terminal


@pytest.fixture
def talk(model: Model, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Type lines at the prompt of a terminal; an exception in place of a line is raised there."""

    def talk(*lines: str | BaseException) -> tuple[int, str]:
        left = iter(lines)

        def read(_: str) -> str:
            line = next(left, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)
        file = io.StringIO()
        shown = screen.Screen(Console(file=file, width=100, force_terminal=True, color_system=None))
        shown.ability = "blocks"
        chat = Chat(model, shown, folder=Path("here"))
        return screen.run_screen(chat, shown), file.getvalue()

    return talk


def test_screen_shows_text_and_pictures(talk: Any) -> None:
    status, shown = talk("Draw a red circle.", "/image none.png", "/help")
    assert status == 0
    assert "Talking to unified/toybox 0123abcd" in shown
    assert "unified: Here is a circle." in shown and "unified: Enjoy." in shown
    assert shown.count("▀") == 64 * 32
    assert "[picture saved: here/chat-1.png]" in shown
    assert "error: none.png: no such file" in shown
    assert "[transcript saved: here/transcript.json]" in shown


def test_ctrl_c_stops_the_reply_and_the_chat_goes_on(talk: Any, model: Model) -> None:
    status, shown = talk("Please draw, then stop.", "Go on.")
    assert status == 0 and "[stopped]" in shown and "You said: Go on." in shown
    messages = transcript.load(Path("here")).messages
    assert [m.get("stopped", False) for m in messages] == [False, True, False, False]
    assert len(transcript.pictures_of(messages)) == 1
    assert len(model.heard[-1]) == 3


def test_ctrl_c_twice_leaves(talk: Any) -> None:
    interrupt = KeyboardInterrupt()
    status, shown = talk("Hello.", interrupt, "Hello again.", interrupt, interrupt, "Never read.")
    assert status == 0 and "Never read" not in shown
    assert shown.count("Ctrl-C again or Ctrl-D to leave") == 2
    assert len(transcript.load(Path("here")).messages) == 4


def test_a_turn_without_any_answer_is_not_heard_again(
    talk: Any, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: Model, messages: list[dict[str, Any]], **_: Any) -> Iterator[Any]:
        self.heard.append(messages)
        if len(self.heard) == 1:
            raise KeyboardInterrupt
        yield TextDelta("Now.")

    monkeypatch.setattr(Model, "stream", silent)
    talk("First.", "Second.")
    assert [transcript.text_of(m) for m in model.heard[-1]] == ["Second."]
    assert len(transcript.load(Path("here")).messages) == 4


def test_completion(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_text("")
    (tmp_path / "cats").mkdir()
    assert screen.complete("/im", 0) == "/image "
    assert screen.complete("/im", 1) is None
    assert screen.complete(f"/image {tmp_path}/ca", 0) == f"/image {tmp_path}/cat.png"
    assert screen.complete(f"/save {tmp_path}/ca", 1) == f"/save {tmp_path}/cats/"
    assert screen.complete("Hello", 0) is None


@pytest.mark.parametrize(
    ("rest", "path", "question"),
    [
        ("cat.png", "cat.png", ""),
        ("cat.png What is it?", "cat.png", "What is it?"),
        ("my cat.png What's it?", "my cat.png", "What's it?"),
        ("my\\ cat.png Is it?", "my cat.png", "Is it?"),
        ('"my cat.png" Is it?', "my cat.png", "Is it?"),
        ("'my cat.png'", "my cat.png", ""),
        ("a dog.png Is it?", "a dog.png", "Is it?"),
        ("picture Is it?", "picture", "Is it?"),
        ("x" * 5000, "x" * 5000, ""),
    ],
)
def test_paths_are_found_before_questions(
    rest: str, path: str, question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat.png", "my cat.png"):
        Path(name).write_text("")
    assert split_path(rest) == (Path(path), question)


# train, tokenizer, eval, doctor


def test_train_hands_over_what_was_typed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from unified.train import recipe

    seen: list[Any] = []

    def train(*arguments: Any) -> Path:
        seen.append(arguments)
        return Path("runs/toybox")

    monkeypatch.setattr(recipe, "run", train)
    ran = run("train", "toybox", "--set", "scale=tiny", "--set", "a.b=1", "--stage", "chat",
              "--out", "o", "--seed", "5", "--device", "cpu")  # fmt: skip
    assert (ran.status, ran.out) == (0, "runs/toybox\n")
    run("tokenizer", "train", "toybox", "--json")
    assert seen == [
        ("toybox", ["chat"], ["scale=tiny", "a.b=1"], Path("o"), 5, "cpu", True),
        ("toybox", ["tokenizer"], [], None, None, None, False),
    ]

    def interrupted(*_: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "run", interrupted)
    ran = run("train", "toybox")
    assert ran.status == 130 and "goes on from the last checkpoint" in ran.err


def test_codes_there_and_back(run: Any) -> None:
    Image.fromarray(render(sample_scene(random.Random(0)))).save("scene.png")
    assert run("tokenizer", "encode", "scene.png", "-o", "scene.json").status == 0
    found = json.loads(Path("scene.json").read_text())
    assert found["medium"] == "image" and len(found["codes"]) == 33
    assert json.loads(run("tokenizer", "encode", "scene.png").out) == found
    assert run("tokenizer", "decode", "scene.json", "-o", "back.png").out == "back.png\n"
    apart = np.asarray(picture.read("back.png"), int) - np.asarray(picture.read("scene.png"), int)
    assert np.abs(apart).max() < 40 and np.abs(apart).mean() < 2

    assert run("tokenizer", "encode", "scene.png", "-o", "few.json", "--model", "seed").status == 0
    ran = run("tokenizer", "decode", "few.json", "-o", "few.png")
    assert ran.status == 2 and "few.json: written with codebooks of [1000] codes" in ran.err
    assert run("tokenizer", "decode", "few.json", "-o", "few.png", "--model", "seed").status == 0


def test_tokenizer_eval_prints_scores(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from unified.eval import rebuilt
    from unified.eval import tokenizer as judge
    from unified.tokenizers.image import ImageTokenizer, VQConfig

    rows = [{"metric": "psnr", "value": 30.25, "stderr": 0.5, "n": 9}]
    seen: dict[str, Any] = {}

    def evaluate(codec: Any, **given: Any) -> list[dict[str, Any]]:
        seen.update(given, size=codec.spec.codebook_size)
        return rows

    small = VQConfig(codebook_size=8, encoder_width=8, decoder_width=8, decoder_layers=1,
                     decoder_heads=1)  # fmt: skip
    ImageTokenizer(small).save(tmp_path / "codec")
    monkeypatch.setattr(judge, "evaluate_tokenizer", evaluate)
    monkeypatch.setattr(rebuilt, "grid", lambda codec, path, **_: Path(path).write_text("grid"))
    ran = run("tokenizer", "eval", "codec", "--limit", "9", "--grid", "g.png")
    assert ran.status == 0 and "psnr" in ran.out and "30.25 ± 0.5  (n = 9)\ng.png" in ran.out
    given = {"count": 9, "seed": 0, "probe": False, "features": None, "given": None}
    assert seen == {**given, "size": 8} and Path("g.png").exists()
    assert json.loads(run("tokenizer", "eval", "codec", "--json").out) == rows


def test_eval_writes_rows(run: Any, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from unified.eval import toybox

    rows = [{"task": "toybox", "side": "generation", "skill": "overall", "split": "seen",
             "metric": "accuracy", "value": 0.5, "stderr": 0.1, "n": 9, "chance": 0.0,
             "settings": {}}]  # fmt: skip
    seen: dict[str, Any] = {}

    def evaluate(handle: Any, **given: Any) -> list[dict[str, Any]]:
        given.pop("on_progress")(1, 2, "drawing")
        seen.update(given, model=handle)
        return rows

    monkeypatch.setattr(toybox, "evaluate", evaluate)
    given = ("--limit", "9", "--json", "rows.json", "--top-k", "5", "--seed", "2")
    ran = run("eval", "toybox", *given, "--guidance-interval", "0.1", "0.5")
    assert ran.status == 0 and "overall" in ran.out
    assert json.loads(Path("rows.json").read_text()) == rows
    chosen = {"top_k": 5, "guidance_start": 0.1, "guidance_end": 0.5}
    assert seen == {"model": model, "limit": 9, "seed": 2, "sampling": chosen}
    assert json.loads(run("eval", "toybox", "--json", "-").out) == rows


@pytest.mark.parametrize(
    "verb", [("bench", "decode"), ("bench", "serve"), ("bench", "tokenizer"), ("eval", "toybox")]
)
def test_rows_that_cannot_be_written_are_refused_before_the_work(run: Any, verb: Any) -> None:
    ran = run(*verb, "--json", "nowhere/rows.json")
    assert ran.status == 2 and "nowhere" in ran.err and "does not exist" in ran.err


def test_doctor_finds_the_weights_and_uses_them(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    handle.checkpoint.write_manifest(weights)
    monkeypatch.setattr(handle, "DEFAULT", weights)
    monkeypatch.setattr(Model, "generate", lambda *_, **__: [Image.new("RGB", (64, 64))])
    monkeypatch.setattr(Model, "ask", lambda *_: "A circle.")
    ran = run("doctor")
    assert ran.status == 0, ran
    assert 'answered "A circle."' in ran.out and "FAIL" not in ran.out
    found = json.loads(run("doctor", "--json").out)
    assert found["ok"] and {"weights", "drawing", "asking", "terminal"} <= {
        check["name"] for check in found["checks"]
    }

    (weights / "config.json").write_text("[]")
    ran = run("doctor")
    assert ran.status == 1 and "FAIL weights" in ran.out and "SHA-256" in ran.out
    assert "drawing" not in ran.out
    assert run("doctor", "--model", "nothing").status == 1

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(handle, "load", fail)
    handle.checkpoint.write_manifest(weights)
    ran = run("doctor")
    assert ran.status == 1 and "FAIL loading: RuntimeError: no memory" in ran.out
