"""The conversation behind `unified chat`: lines in, events out, everything kept.

    line -> command, or a turn -> model.stream -> events -> a display -> the transcript

`Chat` holds the messages and knows the commands. A display shows them: `Lines` for pipes and
files, `JsonLines` for programs, `Screen` for a person. Nothing a person types ends the chat but
/quit, and nothing is lost: each reply is saved when it ends, stopped ones with what there was.
Knows nothing about how the model works.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from unified import transcript
from unified.media import picture
from unified.media.picture import MediaError, free_names, named
from unified.terminal import explain, printable

LONGEST = 1024  # pixels of an attached picture's longer side: models see far fewer
FOLDER = Path("unified-chat")
COMMANDS = {
    "/image": ("PATH [question]", "show it a picture, with the next message or this question"),
    "/draw": ("WORDS", "a picture for sure, of whatever the words are"),
    "/save": ("PATH", "the last picture where PATH ends in .png, else the transcript"),
    "/seed": ("N", "chance of the next reply: another number, another picture"),
    "/adapter": ("NAME", "switch to a LoRA adapter (--adapter), or to none"),
    "/new": ("", "start afresh; the conversation so far stays saved"),
    "/help": ("", "this list"),
    "/quit": ("", "leave; so does Ctrl-D"),
}
PICTURE_END = re.compile(r"\.(png|jpe?g|webp|gif|bmp)(?=\s|$)", re.IGNORECASE)
MAX_SEED = 2**53  # whole in any JSON reader


class Display:
    """What a chat tells the outside; every method may do nothing."""

    def said(self, text: str, pictures: list[str]) -> None:
        """A turn of the user's, with the names of its pictures."""

    def text(self, text: str) -> None:
        """Some more of the reply."""

    def drawing(self, done: int, total: int | None) -> None:
        """A picture is begun (done 0) or `done` of `total`."""

    def picture(self, image: Image.Image, path: Path | None) -> None:
        """A drawn picture and where it is saved."""

    def ended(self, message: dict[str, Any]) -> None:
        """The reply is whole or stopped."""

    def note(self, text: str) -> None:
        """Something worth knowing, not part of the conversation."""

    def saved(self, kind: str, path: Path) -> None:
        """A picture or transcript was written."""
        self.note(f"{kind} saved: {named(path)}")

    def help(self, lines: list[str]) -> None:
        """The commands, one a line."""
        print(*lines, sep="\n", flush=True)

    def error(self, text: str) -> None:
        """One line; the chat goes on."""
        print(f"error: {text}", file=sys.stderr, flush=True)


class Chat:
    """One conversation with a model handle.

    Args:
        model: has `stream`, `settings` and `revision`.
        seed: of the next reply; each reply takes one and leaves the next number.
        sampling: options of the sampling, None or absent for the model's own.
        folder: where pictures and the transcript go; by default unified-chat/DATE-TIME, made when
            there is something to save.
        resumed: a transcript file to go on with, in its own folder unless `folder` says otherwise;
            its seed and sampling options hold where none are given.

    Raises:
        ValueError: the transcript is damaged, or an option unknown or out of range.
    """

    def __init__(
        self,
        model: Any,
        display: Display,
        *,
        seed: int | None = None,
        sampling: dict[str, Any] | None = None,
        folder: Path | None = None,
        resumed: Path | None = None,
    ):
        self.model, self.display, self.folder = model, display, folder
        self.sampling = {k: v for k, v in (sampling or {}).items() if v is not None}
        self.messages: list[transcript.Message] = []
        self.attached: list[tuple[str, Image.Image]] = []
        self.file: Path | None = None
        self.drawn = 0  # number of the last picture's file
        self.trouble = ""  # with saving, as last told
        self.told: set[str] = set()  # notices of the model's, each told once
        kept: Any = 0
        if resumed is not None:
            old = transcript.load(resumed)
            self.messages, kept = old.messages, old.facts.get("seed", 0)
            options = old.facts.get("sampling")
            self.sampling = {**(options if isinstance(options, dict) else {}), **self.sampling}
            if folder is None:
                self.file = transcript.file_of(resumed)
                self.folder = self.file.parent
        if not isinstance(kept, int) or not 0 <= kept <= MAX_SEED:
            kept = 0
        self.seed: int = kept if seed is None else seed
        self.settings: dict[str, Any] = model.settings(**self.sampling).settings()

    def take(self, line: str) -> bool:
        """Do what a line says; False when it says to leave. Bad lines are told and passed over."""
        try:
            line = line.encode("utf-8", "replace").decode("utf-8").strip()
            if line.startswith("/"):
                return self.command(line)
            if line or self.attached:
                self.turn(line)
        except BrokenPipeError:  # who read our output is gone
            raise
        except Exception as error:
            if os.environ.get("UNIFIED_DEBUG") == "1":
                raise
            self.display.error(explain(error))
        return True

    def command(self, line: str) -> bool:
        """Carry out a line that begins with a slash."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        match name.lower():
            case "/image":
                self.attach(rest)
            case "/draw":
                if not rest:
                    raise ValueError("/draw needs words: /draw a red circle")
                self.turn(rest, draw="only")
            case "/save":
                self.save_as(rest)
            case "/seed":
                if not rest.isdecimal() or int(rest) > MAX_SEED:
                    raise ValueError(f"/seed takes a whole number, not {rest!r}: /seed 7")
                self.seed = int(rest)
                self.display.note(f"seed of the next reply: {self.seed}")
            case "/adapter":
                self.model.use(None if rest == "none" else rest)
                self.display.note(f"adapter: {self.model.adapter or 'none'}")
            case "/new":
                self.save()
                self.messages, self.attached, self.file = [], [], None
                self.display.note("new conversation")
            case "/help":
                lines = ((f"{name} {takes}", what) for name, (takes, what) in COMMANDS.items())
                self.display.help([f"{left:23}{what}" for left, what in lines])
            case "/quit" | "/exit":
                return False
            case _:
                raise ValueError(f"unknown command {name}; one of {', '.join(COMMANDS)}")
        return True

    def attach(self, rest: str) -> None:
        """`PATH`, or `PATH question`: read a picture for the next message, or ask at once."""
        if not rest:
            raise ValueError("/image needs a path: /image PATH, or /image PATH question")
        path, question = split_path(rest)
        self.attached.append((named(path), picture.read(path, longest=LONGEST)))
        if question:
            self.turn(question)
        else:
            self.display.note(f"picture attached: {named(path)}")

    def save_as(self, rest: str) -> None:
        """The last picture as PNG, or the transcript.

        Raises:
            ValueError: no path; no picture yet; the ending of another kind of picture.
        """
        if not rest:
            raise ValueError("/save needs a path: /save PATH.png, or /save FOLDER")
        path = Path(unquoted(rest)).expanduser()
        if path.suffix.lower() != ".png" and not PICTURE_END.fullmatch(path.suffix):
            self.display.saved("transcript", transcript.save(self._transcript(), path))
            return
        drawn = [m for m in self.messages if m["role"] == "assistant"]
        found = transcript.pictures_of(drawn) or transcript.pictures_of(self.messages)
        if not found:
            raise ValueError("no picture to save yet; ask for one")
        part = found[-1]
        made = picture.metadata(part["path"]) if Path(part.get("path", "")).is_file() else {}
        self.display.saved("picture", picture.save_png(part["image"], path, made))

    def turn(self, text: str, draw: str = "auto") -> None:
        """Say something and take in the reply.

        Args:
            draw: whether the model may or must draw: see `Request`.

        Raises:
            ValueError: the model cannot read this; the turn is taken back, pictures stay attached.
            KeyboardInterrupt: after the reply was stopped and kept.
        """
        pictures = self.attached
        content: list[dict[str, Any]] = [{"type": "image", "image": im} for _, im in pictures]
        if text:
            content.append({"type": "text", "text": text})
        self.display.said(text, [name for name, _ in pictures])
        self.messages.append({"role": "user", "content": content})
        self.attached = []
        reply: transcript.Message = {"role": "assistant", "content": [], "seed": self.seed}
        stopped = False
        try:
            self._reply(text, reply, draw)
        except KeyboardInterrupt:
            stopped = reply["stopped"] = True
        except BaseException:
            if not reply["content"]:
                self.messages.pop()
                self.attached = pictures
                self.display.ended(reply)
                raise
            reply["stopped"] = True
            self._end(reply)
            raise
        self._end(reply)
        if stopped:
            raise KeyboardInterrupt

    def save(self) -> None:
        """Save the transcript where it belongs, under a name of its own."""
        if not self.messages:
            return
        if self.file is not None:
            transcript.save(self._transcript(), self.file)
            return
        for candidate in free_names(self._place() / transcript.NAME):
            try:
                self.file = transcript.save(self._transcript(), candidate, overwrite=False)
                return
            except FileExistsError:  # another chat's
                continue

    def _reply(self, prompt: str, reply: transcript.Message, draw: str) -> None:
        from unified import events

        content = reply["content"]
        stream = self.model.stream(self._for_model(), seed=self.seed, draw=draw, **self.sampling)
        for event in stream:
            if isinstance(event, events.TextDelta):
                if not content or content[-1]["type"] != "text":
                    content.append({"type": "text", "text": ""})
                content[-1]["text"] += event.text
                self.display.text(event.text)
            elif isinstance(event, events.ImageStart):
                self.display.drawing(0, None)
            elif isinstance(event, events.ImageProgress):
                self.display.drawing(event.done, event.total)
            elif isinstance(event, events.ImageDone):
                content.append({"type": "image", "image": event.image})
                self.display.picture(event.image, self._keep(content[-1], prompt))
            elif isinstance(event, events.Notice):
                if event.text not in self.told:
                    self.display.note(event.text)
                self.told.add(event.text)
            elif isinstance(event, events.End) and event.reason == "length":
                self.display.note("the reply was cut at its longest")

    def _end(self, reply: transcript.Message) -> None:
        self.messages.append(reply)
        self.display.ended(reply)
        self.seed = min(self.seed + 1, MAX_SEED)
        try:
            self.save()
        except (MediaError, OSError) as error:
            self._complain(error)

    def _keep(self, part: dict[str, Any], prompt: str) -> Path | None:
        """Save a drawn picture under a name of its own; where it cannot be, say so and go on."""
        made = {"prompt": prompt, **facts(self.model, self.seed, self.settings)}
        try:
            place = self._place()
            while True:
                self.drawn += 1
                try:
                    path = place / f"chat-{self.drawn}.png"
                    picture.save_png(part["image"], path, made, overwrite=False)
                except FileExistsError:  # another chat's, or ours of before
                    continue
                part["path"] = str(path)
                return path
        except (MediaError, OSError) as error:
            self._complain(error)
            return None

    def _complain(self, error: Exception) -> None:
        """Tell what hinders saving, once; the chat goes on."""
        if explain(error) != self.trouble:
            self.trouble = explain(error)
            self.display.error(self.trouble)

    def _place(self) -> Path:
        """The folder of this chat, made now if it is not there."""
        try:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                return self.folder
            for folder in free_names(FOLDER / time.strftime("%Y-%m-%d-%H%M%S")):
                try:
                    folder.mkdir(parents=True)
                except FileExistsError:
                    if FOLDER.exists() and not FOLDER.is_dir():
                        raise
                    continue
                self.folder = folder
                return folder
        except OSError as error:
            where = named(self.folder or FOLDER)
            reason = error.strerror or "unknown error"
            raise MediaError(
                f"{where}: cannot be made a folder ({reason}); choose another with --save"
            ) from None
        raise AssertionError("names do not end")

    def _for_model(self) -> list[transcript.Message]:
        """The messages with nothing but role, text and pixels; turns never answered left out."""
        out: list[transcript.Message] = []
        for message in self.messages:
            content = [
                {key: part[key] for key in ("type", "text", "image") if key in part}
                for part in transcript.parts(message)
            ]
            if message["role"] == "assistant" and not content:
                del out[-1:]
            else:
                out.append({"role": message["role"], "content": content})
        return out

    def _transcript(self) -> transcript.Transcript:
        made = facts(self.model, self.seed, self.settings)
        return transcript.Transcript(self.messages, {**made, "sampling": self.sampling})


def facts(model: Any, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """How a picture came about, for its metadata: seed, settings, model, weights, software."""
    from unified import __version__

    adapter = getattr(model, "adapter", None)
    used = f"+ {adapter}" if adapter else ""
    name = " ".join(filter(None, (str(model.source), str(model.revision), used)))
    return {
        "seed": seed,
        "settings": settings,
        "model": name,
        "weights": getattr(model, "weights", "float"),
        "software": f"unified {__version__}",
    }


def split_path(rest: str) -> tuple[Path, str]:
    """`PATH question` -> path, question. The path may have spaces: quoted, escaped or as they are.

    Of the ways to cut, the longest that names something that exists is taken.
    """
    quoted = re.match(r"""(["'])(.*?)\1(?:\s+|$)""", rest)
    if quoted:
        return Path(quoted[2]).expanduser(), rest[quoted.end() :].strip()
    ends = [m.start() for m in re.finditer(r"\s", rest)] + [len(rest)]
    for end in reversed(ends):
        path = Path(unquoted(rest[:end])).expanduser()
        try:
            if path.exists():
                return path, rest[end:].strip()
        except (OSError, ValueError):  # too long for a name, or no name at all
            continue
    ending = PICTURE_END.search(rest)
    end = ending.end() if ending else ends[0]
    return Path(unquoted(rest[:end])).expanduser(), rest[end:].strip()


def unquoted(text: str) -> str:
    """A path as a shell or a terminal that a file was dropped on writes it -> the path."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text.replace("\\ ", " ")


class Lines(Display):
    """`you: …`, `unified: …`, `[picture saved: …]`: one line each, on standard output."""

    def __init__(self) -> None:
        self.pending = ""

    def said(self, text: str, pictures: list[str]) -> None:
        self._line("you", "".join(f"[picture: {name}] " for name in pictures) + text)

    def text(self, text: str) -> None:
        self.pending += text

    def picture(self, image: Image.Image, path: Path | None) -> None:
        self._flush()
        if path is not None:
            self.saved("picture", path)

    def ended(self, message: dict[str, Any]) -> None:
        self._flush()
        if message.get("stopped"):
            self.note("stopped")

    def note(self, text: str) -> None:
        self._flush()
        print(f"[{printable(text)}]", flush=True)

    def _flush(self) -> None:
        text, self.pending = self.pending.strip(), ""
        if text:
            self._line("unified", text)

    def _line(self, who: str, text: str) -> None:
        # further lines of one turn are indented, so that no turn can pass for another
        print(f"{who}: " + printable(text).rstrip().replace("\n", "\n  "), flush=True)


class JsonLines(Display):
    """One JSON object a line: the messages, with file names for pictures; notes and errors."""

    def said(self, text: str, pictures: list[str]) -> None:
        content: list[dict[str, str]] = [{"type": "image", "path": name} for name in pictures]
        if text:
            content.append({"type": "text", "text": text})
        self._write({"role": "user", "content": content})

    def ended(self, message: dict[str, Any]) -> None:
        if message["content"] or message.get("stopped"):
            keys = ("type", "text", "path")
            content = [{k: part[k] for k in keys if k in part} for part in message["content"]]
            self._write({**message, "content": content})

    def note(self, text: str) -> None:
        self._write({"note": text})

    def saved(self, kind: str, path: Path) -> None:
        self._write({"saved": kind, "path": str(path)})

    def help(self, lines: list[str]) -> None:
        self._write({"help": lines})

    def error(self, text: str) -> None:
        self._write({"error": text})

    def _write(self, value: dict[str, Any]) -> None:
        print(json.dumps(value, ensure_ascii=False), flush=True)


def run_lines(chat: Chat, lines: Iterable[str]) -> int:
    """Take turns from `lines`, one each; the exit status."""
    try:
        for line in lines:
            if not chat.take(line):
                break
        return 0
    except KeyboardInterrupt:
        return 130
    finally:
        leave(chat)


def leave(chat: Chat) -> None:
    """The last save, and where it is."""
    try:
        chat.save()
    except (ValueError, OSError) as error:
        chat.display.error(explain(error))
    else:
        if chat.file is not None and chat.messages:
            chat.display.saved("transcript", chat.file)


def standard_input() -> Iterator[str]:
    """Lines of standard input as they come; bytes that are no text are replaced."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    yield from iter(sys.stdin.readline, "")
