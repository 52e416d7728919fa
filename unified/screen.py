"""A chat in a terminal: streamed text, a bar while drawing, pictures inline, Ctrl-C, completion."""

from __future__ import annotations

import glob
import os
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.status import Status
from rich.text import Text

from unified import terminal, transcript
from unified.chat import COMMANDS, Chat, Display, leave
from unified.media.picture import named

YOU, MODEL = "you: ", "unified: "


class Screen(Display):
    """A display on a terminal. At most one live part (spinner or bar) is shown at a time."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False)
        self.ability = terminal.ability(sys.stdout)
        self.live: Status | Progress | None = None
        self.open = False  # whether the cursor stands behind text of a reply

    def said(self, text: str, pictures: list[str]) -> None:
        self._show(Status("[dim]thinking", console=self.console))

    def text(self, text: str) -> None:
        self._clear()
        if not self.open:
            text = text.lstrip()
            if not text:
                return
            self.console.print(Text(MODEL, "bold green"), end="")
        self.console.print(Text(terminal.printable(text)), end="", soft_wrap=True)
        self.open = True

    def drawing(self, done: int, total: int | None) -> None:
        if not isinstance(self.live, Progress):
            self.rest()
            columns = (TextColumn("drawing"), BarColumn(30), MofNCompleteColumn())
            bar = Progress(*columns, console=self.console, transient=True)
            bar.add_task("", total=None)
            self._show(bar)
        assert isinstance(self.live, Progress)
        self.live.update(self.live.task_ids[0], completed=done, total=total)

    def picture(self, image: Image.Image, path: Path | None) -> None:
        self.rest()
        self.console.file.write(terminal.picture(image, self.ability))
        self.console.file.flush()
        if path is not None:
            self.saved("picture", path)
        self._show(Status("[dim]thinking", console=self.console))

    def ended(self, message: dict[str, Any]) -> None:
        self.rest()
        if message.get("stopped"):
            self.note("stopped")

    def note(self, text: str) -> None:
        self.rest()
        line = f"[{terminal.printable(text)}]"
        self.console.print(Text(line, "dim"), soft_wrap=True)

    def error(self, text: str) -> None:
        self.rest()
        self.console.print(Text(f"error: {text}", "red"), soft_wrap=True)

    def past(self, messages: list[transcript.Message]) -> None:
        """The turns of a resumed conversation."""
        for message in messages:
            who, style = (YOU, "bold cyan") if message["role"] == "user" else (MODEL, "bold green")
            for part in transcript.parts(message):
                shown = part.get("text") or f"[picture: {named(part.get('path', ''))}]"
                line = Text.assemble((who, style), terminal.printable(shown))
                self.console.print(line, soft_wrap=True)

    def rest(self) -> None:
        """End what is live, and the line that is open."""
        self._clear()
        if self.open:
            self.console.print()
            self.open = False

    def _show(self, live: Status | Progress) -> None:
        self._clear()
        self.live = live
        live.start()

    def _clear(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


def run_screen(chat: Chat, screen: Screen) -> int:
    """Talk until /quit, Ctrl-D, or Ctrl-C twice at the prompt; the exit status."""
    _line_editing()
    title = f"{chat.model.source} {chat.model.revision}".strip()
    screen.console.print(Text(f"Talking to {title}. /help lists the commands, Ctrl-D leaves."))
    screen.past(chat.messages)
    warned = False
    try:
        while True:
            try:
                line = input(_prompt(screen.console))
            except EOFError:
                screen.console.print()
                return 0
            except KeyboardInterrupt:
                screen.console.print()
                if warned:
                    return 0
                warned = True
                screen.note("Ctrl-C again or Ctrl-D to leave")
                continue
            warned = False
            try:
                if not chat.take(line):
                    return 0
            except KeyboardInterrupt:  # the reply is stopped and kept; the chat goes on
                screen.rest()
    finally:
        screen.rest()
        leave(chat)


def _prompt(console: Console) -> str:
    """The prompt; its colour is marked as taking no room."""
    if not console.is_terminal or console.no_color:
        return YOU
    return f"\001\x1b[1;36m\002{YOU}\001\x1b[0m\002"


def _line_editing() -> None:
    """Arrow keys, history and Tab for commands and file names, where readline is there."""
    try:
        import readline
    except ImportError:
        return
    readline.set_completer_delims("")
    readline.set_completer(complete)
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")


def complete(line: str, state: int) -> str | None:
    """The `state`-th way to complete a line: a command, or the path behind it."""
    command, space, path = line.partition(" ")
    if not space:
        found = [f"{name} " for name in COMMANDS if line and name.startswith(line)]
    elif command in ("/image", "/save"):
        paths = sorted(glob.glob(glob.escape(os.path.expanduser(path)) + "*"))
        found = [f"{command} {p}{'/' if Path(p).is_dir() else ''}" for p in paths]
    else:
        found = []
    return found[state] if state < len(found) else None
