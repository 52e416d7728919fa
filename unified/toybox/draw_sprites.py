"""Render the shipped sprite sheets once: `python -m unified.toybox.draw_sprites [FONT]`.

Needs the Noto Color Emoji font (Debian: fonts-noto-color-emoji). Its emoji images are Apache-2.0;
the licence and notice stand beside the sheets in assets/.
"""

from __future__ import annotations

import sys

from PIL import Image, ImageDraw, ImageFont

from unified.toybox.sprites import ASSETS, EMOJI, SIZES

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
STRIKE = 109  # the one bitmap size the font holds


def emoji(font: ImageFont.FreeTypeFont, text: str, side: int) -> Image.Image:
    """One emoji, cropped to its ink, centred in a (side, side) box with one clear pixel around."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((10, 10), text, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise ValueError(f"the font draws nothing for {text!r}")
    ink = canvas.crop(box)
    scale = (side - 2) / max(ink.size)
    width, height = (max(1, round(length * scale)) for length in ink.size)
    # premultiplied: otherwise the colour of clear pixels bleeds into the rim
    ink = ink.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    square = Image.new("RGBA", (side, side))
    square.paste(ink, ((side - width) // 2, (side - height) // 2))
    return square


def main(path: str = FONT) -> None:
    font = ImageFont.truetype(path, STRIKE)
    for size, side in SIZES.items():
        sheet = Image.new("RGBA", (side, side * len(EMOJI)))
        for row, (text, _) in enumerate(EMOJI.values()):
            sheet.paste(emoji(font, text, side), (0, row * side))
        sheet.save(ASSETS / f"sprites_{size}.png", optimize=True)
        print(f"{ASSETS.name}/sprites_{size}.png: {len(EMOJI)} objects of {side} pixels")


if __name__ == "__main__":
    main(*sys.argv[1:])
