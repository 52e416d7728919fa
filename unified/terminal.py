"""Pictures among the lines of a terminal: half blocks everywhere, real pixels where it can.

A half block is one character with two pixels, the upper one its foreground and the lower one its
background, so 64x64 pixels take 64 columns and 32 rows. The kitty graphics protocol
(https://sw.kovidgoyal.net/kitty/graphics-protocol/) and iTerm2's inline images
(https://iterm2.com/documentation-images.html) are used where the terminal says that it has them.
Knows nothing about chats or models.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Mapping
from io import BytesIO
from typing import TextIO

from PIL import Image

ABILITIES = ("kitty", "iterm2", "blocks", "blocks256", "none")
SETTING = "UNIFIED_PICTURES"  # one of ABILITIES, whatever the terminal says
COLUMNS = 64  # at most, of half blocks
CELLS = 32  # columns of a picture in real pixels
UPPER_HALF = "\N{UPPER HALF BLOCK}"
KITTY_CHUNK = 4096
TURNING = "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"  # reorder what follows them


def ability(stream: TextIO, environment: Mapping[str, str] = os.environ) -> str:
    """How pictures can be shown on `stream`: one of ABILITIES; "none" where it is no terminal."""
    get = environment.get
    term, program = get("TERM", ""), get("TERM_PROGRAM", "")
    if get(SETTING) in ABILITIES:
        return get(SETTING, "")
    if get("NO_COLOR") or term in {"", "dumb"} or not stream.isatty() or not _has_blocks(stream):
        return "none"
    multiplexed = "TMUX" in environment or term.startswith(("screen", "tmux"))
    if not multiplexed:
        if get("KITTY_WINDOW_ID") or "kitty" in term or "ghostty" in (program + term).lower():
            return "kitty"
        if program in {"iTerm.app", "WezTerm", "mintty"} or get("LC_TERMINAL") == "iTerm2":
            return "iterm2"
    if get("COLORTERM", "").lower() in {"truecolor", "24bit"}:
        return "blocks"
    few = program == "Apple_Terminal" or term == "linux" or term.startswith("screen")
    return "blocks256" if few else "blocks"


def picture(image: Image.Image, kind: str, columns: int | None = None) -> str:
    """The text that shows `image`, ending in a newline; empty for the kind "none".

    Args:
        kind: one of ABILITIES.
        columns: the terminal's width; by default, as it is now.
    """
    width = columns or shutil.get_terminal_size().columns
    image = image.convert("RGB")
    match kind:
        case "none":
            return ""
        case "kitty":
            return kitty(image, min(CELLS, width))
        case "iterm2":
            return iterm2(image, min(CELLS, width))
        case "blocks":
            return half_blocks(image, min(COLUMNS, width))
        case "blocks256":
            return half_blocks(image, min(COLUMNS, width), colours=256)
    raise ValueError(f"unknown kind of picture {kind!r}; one of {', '.join(ABILITIES)}")


def half_blocks(image: Image.Image, columns: int, colours: int = 2**24) -> str:
    """One character for two pixels; the picture is shrunk to `columns`, never enlarged."""
    width = max(1, min(columns, image.width))
    height = max(1, round(image.height * width / image.width))
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    code = _code256 if colours == 256 else _code24
    pixels = image.tobytes()

    def at(x: int, y: int) -> str:
        start = 3 * (y * width + x)
        return code(*pixels[start : start + 3])

    lines = []
    for y in range(0, height, 2):
        line, last = [], ("", "")
        for x in range(width):
            pair = (at(x, y), at(x, y + 1) if y + 1 < height else "")
            if pair != last:
                line.append(f"\x1b[38;{pair[0]};{f'48;{pair[1]}' if pair[1] else '49'}m")
                last = pair
            line.append(UPPER_HALF)
        lines.append("".join(line) + "\x1b[0m\n")
    return "".join(lines)


def kitty(image: Image.Image, columns: int) -> str:
    """PNG in base64, in chunks, scaled to `columns` cells; q=2 asks for no answer."""
    data = base64.standard_b64encode(_png(image)).decode()
    chunks = [data[i : i + KITTY_CHUNK] for i in range(0, len(data), KITTY_CHUNK)]
    parts = []
    for number, chunk in enumerate(chunks):
        more = int(number + 1 < len(chunks))
        keys = f"a=T,f=100,q=2,c={columns},r={_rows(image, columns)},m={more}"
        parts.append(f"\x1b_G{keys if number == 0 else f'm={more}'};{chunk}\x1b\\")
    return "".join(parts) + "\n"


def iterm2(image: Image.Image, columns: int) -> str:
    """PNG in base64, in one sequence."""
    data = _png(image)
    keys = f"inline=1;size={len(data)};width={columns};height={_rows(image, columns)}"
    return f"\x1b]1337;File={keys}:{base64.standard_b64encode(data).decode()}\a\n"


def printable(text: str) -> str:
    """Text that a model or a file wrote, without the characters that would command a terminal."""
    return "".join(c for c in text if c in "\n\t" or not _is_control(c))


LESS = (
    "Take less at a time (--batch-size; in training micro_batch, pack or loop.recompute=true),"
    " let other programs free it, or take --device cpu"
)


def explain(error: BaseException) -> str:
    """An error as one line for the person at the terminal."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            wanted = re.search(r"Tried to allocate ([\d.]+ \w+)", text)
            text = f"the GPU's memory is full{f': {wanted[1]} more were wanted' if wanted else ''}."
            text = f"{text} {LESS}"
        elif not isinstance(error, (ValueError, OSError)) or not text:
            text = f"{type(error).__name__}: {text}".rstrip(": ")
    return printable(" ".join(text.split()))


def _is_control(character: str) -> bool:
    code = ord(character)
    return code < 32 or 127 <= code < 160 or character in TURNING


def _has_blocks(stream: TextIO) -> bool:
    try:
        UPPER_HALF.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _rows(image: Image.Image, columns: int) -> int:
    """Rows of a picture `columns` wide: a cell is about twice as high as wide."""
    return max(1, round(image.height * columns / image.width / 2))


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _code24(red: int, green: int, blue: int) -> str:
    return f"2;{red};{green};{blue}"


def _code256(red: int, green: int, blue: int) -> str:
    """The nearest of the 6x6x6 cube, or of the 24 greys where the colour is nearly grey."""
    if max(red, green, blue) - min(red, green, blue) < 12:
        step = round(((red + green + blue) / 3 - 8) / 10)
        if 0 <= step < 24:
            return f"5;{232 + step}"
    cube = [0 if v < 48 else 1 if v < 115 else (v - 35) // 40 for v in (red, green, blue)]
    return f"5;{16 + 36 * cube[0] + 6 * cube[1] + cube[2]}"
