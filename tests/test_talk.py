"""`unified chat`, from pipes and in a terminal, with a stand-in for the model: nothing is lost."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from tests import standin
from tests.standin import Model, files
from unified import sampling, screen, transcript
from unified.chat import COMMANDS, Chat, Lines, run_lines, split_path
from unified.handle import TextDelta
from unified.media import picture

model, run = standin.model, standin.run  # fixtures

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
