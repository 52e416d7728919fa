"""Two plots as SVG: bars of skills with their intervals, and bars of what is seen and drawn.

Colours are classes, which the page's style fills in for light, dark and paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

BAR, ROW, WIDTH = 14, 24, 300  # pixels
LETTER, LONGEST = 8.0, 32  # pixels of a letter, about; letters of a label
LEGEND, TOP = 14, 26  # where the legend's squares are, and where rows begin


@dataclass(frozen=True)
class Bar:
    """A value with its 95% interval and chance, all between 0 and 1."""

    label: str
    kind: str  # "understanding" or "generation"
    value: float
    low: float
    high: float
    chance: float


class _Scale:
    """Where shares lie, right of the longest label."""

    def __init__(self, labels: Sequence[str]):
        longest = max([12, *(min(LONGEST, len(label)) for label in labels)])
        self.left = round(longest * LETTER) + 10
        self.panel = self.left + WIDTH + 62

    def __call__(self, share: float) -> float:
        return round(self.left + WIDTH * min(1.0, max(0.0, share)), 1)

    def label(self, y: float, name: str) -> str:
        short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
        return _text(self.left - 8, y, short, "end")

    def frame(self, height: int, body: str, label: str) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.panel} {height}"'
            f' width="{self.panel}" height="{height}" role="img"'
            f' aria-label="{escape(label, quote=True)}">{body}</svg>'
        )

    def axis(self, bottom: int) -> str:
        out = ""
        for percent in (0, 25, 50, 75, 100):
            x = self(percent / 100)
            out += f'<line class="axis" x1="{x}" y1="{TOP - 4}" x2="{x}" y2="{bottom}"/>'
            out += _text(x, bottom + 15, f"{percent}%", "middle", "soft")
        return out

    def legend(self, items: Sequence[tuple[str, str]]) -> str:
        """(class, words), from the left of the plot."""
        out, x = "", 4.0
        for kind, words in items:
            if kind == "chance":
                out += _line(kind, x + 5, LEGEND - 10, x + 5, LEGEND + 2)
            else:
                out += f'<rect class="{kind}" x="{x}" y="{LEGEND - 9}" width="10" height="10"/>'
            out += _text(x + 15, LEGEND, words)
            x = round(x + 15 + LETTER * len(words) + 14, 1)
        return out


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    chosen = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{chosen}>{escape(text)}</text>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def bars(items: Sequence[Bar], label: str) -> str:
    """Horizontal bars; bars of one label stand together."""
    groups: dict[str, list[Bar]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    x = _Scale(list(groups))
    y, body = TOP, ""
    for name, members in groups.items():
        body += x.label(y + BAR * len(members) / 2 + 4, name)
        for item in members:
            body += _bar(x, item, y)
            y += BAR
        y += ROW - BAR
    kinds = [kind for kind in ("understanding", "generation") if kind in {i.kind for i in items}]
    legend: list[tuple[str, str]] = [(kind, kind) for kind in kinds]
    if any(item.chance > 0 for item in items):
        legend.append(("chance", "chance"))
    return x.frame(y + 18, x.axis(y - 4) + x.legend(legend) + body, label)


def _bar(x: _Scale, item: Bar, y: int) -> str:
    words = f"{item.label}, {item.kind}: {item.value:.3f} ({item.low:.3f} to {item.high:.3f})"
    width = round(x(item.value) - x.left, 1)
    out = (
        f'<rect class="{item.kind}" x="{x.left}" y="{y}" width="{width}" height="{BAR - 2}">'
        f"<title>{escape(words)}</title></rect>"
    )
    low, high, middle = x(item.low), x(item.high), y + BAR / 2 - 1
    if high > low:
        for kind in ("halo", "whisker"):
            out += _line(kind, low, middle, high, middle)
            for end in (low, high):
                out += _line(kind, end, middle - 3, end, middle + 3)
    if item.chance > 0:
        at = x(item.chance)
        out += _line("halo", at, y - 1, at, y + BAR - 1) + _line(
            "chance", at, y - 1, at, y + BAR - 1
        )
    return out + _text(x.left + WIDTH + 8, y + BAR - 3, f"{100 * item.value:.1f}%")


PAIRED = ("both", "seen", "drawn", "neither")
PAIRED_WORDS = ("both right", "only seen", "only drawn", "neither")


def stacked(rows: Sequence[tuple[str, Sequence[int]]], label: str) -> str:
    """Of each row the shares of PAIRED, side by side, with a legend."""
    x = _Scale([name for name, _ in rows])
    body = x.legend(list(zip(PAIRED, PAIRED_WORDS, strict=True)))
    y = TOP
    for name, counts in rows:
        total = max(1, sum(counts))
        body += x.label(y + 12, name)
        start = 0.0
        for kind, words, count in zip(PAIRED, PAIRED_WORDS, counts, strict=True):
            share = count / total
            if count:
                width = round(WIDTH * share, 1)
                body += (
                    f'<rect class="{kind}" x="{x(start)}" y="{y}" width="{width}" height="{BAR}">'
                    f"<title>{escape(f'{name}, {words}: {count} of {total}')}</title></rect>"
                )
            start += share
        body += _text(x.left + WIDTH + 8, y + 12, f"n = {sum(counts)}", kind="soft")
        y += ROW
    return x.frame(y + 4, body, label)
