"""Pictures in a terminal: what it can do, and the characters that do it."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image

from unified import terminal


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


XTERM = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        (XTERM, "blocks"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({**XTERM, "NO_COLOR": "1"}, "none"),
        ({"TERM": "dumb"}, "none"),
        ({}, "none"),
        ({**XTERM, "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({**XTERM, "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({**XTERM, "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({**XTERM, "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({**XTERM, "KITTY_WINDOW_ID": "1", "TMUX": "1"}, "blocks"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, "blocks256"),
        ({"TERM": "linux"}, "blocks256"),
        ({**XTERM, "UNIFIED_PICTURES": "kitty"}, "kitty"),
        ({**XTERM, "UNIFIED_PICTURES": "nonsense"}, "blocks"),
    ],
)
def test_the_terminal_says_what_it_can(environment: dict[str, str], kind: str) -> None:
    assert terminal.ability(Terminal(), environment) == kind


def test_no_terminal_no_picture() -> None:
    assert terminal.ability(io.StringIO(), XTERM) == "none"
    ascii_only = Terminal()
    ascii_only.encoding = "ascii"  # type: ignore[misc]
    assert terminal.ability(ascii_only, XTERM) == "none"
    assert terminal.picture(Image.new("RGB", (4, 4)), "none") == ""


def cells(text: str) -> list[str]:
    """The visible characters, line by line."""
    return re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()


def test_half_blocks_take_a_column_a_pixel_and_a_row_for_two() -> None:
    lines = cells(terminal.picture(Image.new("RGB", (64, 64), "red"), "blocks", columns=120))
    assert len(lines) == 32 and {len(line) for line in lines} == {64}
    lines = cells(terminal.picture(Image.new("RGB", (64, 64)), "blocks", columns=40))
    assert len(lines) == 20 and {len(line) for line in lines} == {40}
    assert len(cells(terminal.half_blocks(Image.new("RGB", (3, 5)), 80))) == 3
    assert len(cells(terminal.half_blocks(Image.new("RGB", (900, 1)), 80))) == 1


def test_half_blocks_carry_every_colour() -> None:
    image = Image.new("RGB", (1, 2), (10, 20, 30))
    image.putpixel((0, 1), (40, 50, 60))
    assert terminal.half_blocks(image, 8) == "\x1b[38;2;10;20;30;48;2;40;50;60m▀\x1b[0m\n"
    assert "38;5;" in terminal.half_blocks(image, 8, colours=256)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 95)])
def test_256_colours_are_near(colour: tuple[int, int, int]) -> None:
    number = int(terminal._code256(*colour).split(";")[1])
    assert 16 <= number <= 255
    steps = (0, 95, 135, 175, 215, 255)
    if number >= 232:
        near = (8 + 10 * (number - 232),) * 3
    else:
        number -= 16
        near = steps[number // 36], steps[number // 6 % 6], steps[number % 6]
    assert max(abs(a - b) for a, b in zip(colour, near, strict=True)) <= 30


def test_kitty_and_iterm2_carry_the_picture_itself() -> None:
    image = Image.effect_noise((90, 90), 80).convert("RGB")
    shown = terminal.picture(image, "kitty", columns=80)
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", shown)
    assert len(chunks) > 1 and all(len(data) <= 4096 for _, data in chunks)
    assert [keys[-3:] for keys, _ in chunks] == ["m=1"] * (len(chunks) - 1) + ["m=0"]
    assert "c=32,r=16" in chunks[0][0]
    assert same(image, "".join(data for _, data in chunks))
    shown = terminal.picture(image, "iterm2", columns=80)
    assert shown.startswith("\x1b]1337;File=inline=1;") and shown.endswith("\a\n")
    assert same(image, shown[shown.index(":") + 1 : -2])


def same(image: Image.Image, data: str) -> bool:
    found = Image.open(io.BytesIO(base64.b64decode(data)))
    return found.convert("RGB").tobytes() == image.tobytes()


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="one of kitty, iterm2, blocks"):
        terminal.picture(Image.new("RGB", (4, 4)), "sixel")


def test_text_cannot_command_the_terminal() -> None:
    assert terminal.printable("a\x1b[31mb\x07\x9b\u202ec\td\n") == "a[31mbc\td\n"


def test_errors_are_one_line() -> None:
    assert terminal.explain(ValueError("two\nlines")) == "two lines"
    assert terminal.explain(OSError(2, "No such file", "a.png")) == "a.png: No such file"
    assert terminal.explain(RuntimeError("odd")) == "RuntimeError: odd"
    assert terminal.explain(MemoryError()) == "MemoryError"
