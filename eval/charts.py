"""Two plots as SVG: bars of skills with their intervals, and bars of what is seen and drawn.

Colours are classes, which the page's style fills in for light, dark and paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LEFT, BAR, ROW, WIDTH = 230, 14, 24, 420  # pixels
PANEL = LEFT + WIDTH + 70


@dataclass(frozen=True)
class Bar:
    """A value with its 95% interval and chance, all between 0 and 1."""

    label: str
    kind: str  # "understanding" or "generation"
    value: float
    low: float
    high: float
    chance: float


def _x(share: float) -> float:
    return round(LEFT + WIDTH * min(1.0, max(0.0, share)), 1)


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    chosen = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{chosen}>{escape(text)}</text>'


def _frame(height: int, body: str, label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PANEL} {height}" width="{PANEL}"'
        f' height="{height}" role="img" aria-label="{escape(label, quote=True)}">{body}</svg>'
    )


def _axis(bottom: int) -> str:
    out = ""
    for tenth in (0, 25, 50, 75, 100):
        x = _x(tenth / 100)
        out += f'<line class="axis" x1="{x}" y1="8" x2="{x}" y2="{bottom}"/>'
        out += _text(x, bottom + 14, f"{tenth}%", "middle", "soft")
    return out


def bars(items: Sequence[Bar], label: str) -> str:
    """Horizontal bars; bars of one label stand together."""
    groups: dict[str, list[Bar]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    y, body = 12, ""
    for name, members in groups.items():
        middle = y + BAR * len(members) / 2 + 4
        body += _text(LEFT - 8, middle, name[:36], "end")
        for item in members:
            width = round(_x(item.value) - LEFT, 1)
            body += (
                f'<rect class="{item.kind}" x="{LEFT}" y="{y}" width="{width}" height="{BAR - 2}">'
                f"<title>{escape(f'{name}, {item.kind}: {item.value:.3f}')}</title></rect>"
            )
            centre = y + BAR / 2 - 1
            body += (
                f'<line class="whisker" x1="{_x(item.low)}" y1="{centre}" x2="{_x(item.high)}"'
                f' y2="{centre}"/>'
            )
            if item.chance > 0:
                at = _x(item.chance)
                body += (
                    f'<line class="chance" x1="{at}" y1="{y - 1}" x2="{at}" y2="{y + BAR - 1}"/>'
                )
            body += _text(LEFT + WIDTH + 8, y + BAR - 4, f"{100 * item.value:.1f}")
            y += BAR
        y += ROW - BAR
    return _frame(y + 18, _axis(y) + body, label)


PAIRED = ("both", "seen", "drawn", "neither")
PAIRED_WORDS = ("both right", "only seen", "only drawn", "neither")


def stacked(rows: Sequence[tuple[str, Sequence[int]]], label: str) -> str:
    """Of each row the shares of PAIRED, side by side, with a legend."""
    body, x = "", LEFT
    for kind, words in zip(PAIRED, PAIRED_WORDS, strict=True):
        body += f'<rect class="{kind}" x="{x}" y="2" width="10" height="10"/>'
        body += _text(x + 14, 11, words)
        x += 100
    y = 24
    for name, counts in rows:
        total = max(1, sum(counts))
        body += _text(LEFT - 8, y + 12, name[:36], "end")
        start = 0.0
        for kind, words, count in zip(PAIRED, PAIRED_WORDS, counts, strict=True):
            share = count / total
            if count:
                width = round(WIDTH * share, 1)
                body += (
                    f'<rect class="{kind}" x="{_x(start)}" y="{y}" width="{width}" height="{BAR}">'
                    f"<title>{escape(f'{name}, {words}: {count} of {total}')}</title></rect>"
                )
            start += share
        body += _text(LEFT + WIDTH + 8, y + 12, f"n = {sum(counts)}", kind="soft")
        y += ROW
    return _frame(y + 4, body, label)
