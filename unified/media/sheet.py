"""Contact sheets: pictures in rows with their captions."""

from __future__ import annotations

from PIL import Image, ImageDraw

LINE = 13  # pixels of a line of caption
LETTER = 6  # pixels of a letter, about
LINES = 3


def captioned(
    pictures: list[Image.Image], captions: list[str], *, columns: int = 4, zoom: int = 3
) -> Image.Image:
    """Pictures of one size in rows, each enlarged `zoom` times with its caption under it."""
    width, height = (length * zoom for length in pictures[0].size)
    cell = (width + 8, height + LINE * LINES + 6)
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * cell[0], rows * cell[1]), "white")
    draw = ImageDraw.Draw(canvas)
    for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = (k % columns) * cell[0], (k // columns) * cell[1]
        canvas.paste(picture.resize((width, height), Image.Resampling.NEAREST), (x + 4, y))
        for line, words in enumerate(_wrapped(caption, width // LETTER)[:LINES]):
            draw.text((x + 4, y + height + 2 + LINE * line), words, fill="black")
    return canvas


def _wrapped(caption: str, letters: int) -> list[str]:
    lines = [""]
    for word in caption.encode("latin-1", "replace").decode("latin-1").split():
        if lines[-1] and len(lines[-1]) + len(word) + 1 > letters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
