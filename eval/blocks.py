"""A report as plain blocks, and the two ways to write them: Markdown, and one HTML page.

The page carries its pictures and drawings in itself, reads light or dark as the reader likes, and
prints. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO

from PIL import Image


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; loud where it must not be missed."""

    text: str
    loud: bool = False


@dataclass(frozen=True)
class Table:
    """head: names of the columns; groups: (name, columns) above them; the first column names."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    groups: Sequence[tuple[str, int]] = ()
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Plot:
    """An SVG, and what it says for those who do not see it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Sheet:
    image: Image.Image
    caption: str


Block = Heading | Text | Table | Plot | Sheet


@dataclass
class Report:
    title: str
    blocks: list[Block] = field(default_factory=list)

    def add(self, *blocks: Block) -> None:
        self.blocks += blocks


# --- Markdown ----------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    parts = [f"# {_inline(report.title)}"]
    for block in report.blocks:
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {_inline(block.text)}")
        elif isinstance(block, Text):
            text = _inline(block.text)
            parts.append(f"> **{text}**" if block.loud else text)
        elif isinstance(block, Table):
            parts += _markdown_table(block)
        elif isinstance(block, Sheet):
            parts.append(f"{_inline(block.caption)}; the pictures are in the page.")
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> list[str]:
    head = list(table.head)
    if table.groups:
        groups = [name for name, width in table.groups for _ in range(width)]
        head = [f"{g}: {h}" if g else h for g, h in zip(groups, head, strict=True)]
    lines = [head, ["---", *("---:" for _ in head[1:])], *table.rows]
    text = "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)
    return [f"{_inline(table.caption)}:", text] if table.caption else [text]


def _cell(text: str) -> str:
    return _inline(text).replace("|", "\\|")


def _inline(text: str) -> str:
    """One line in which nothing that a model or a file said is markup."""
    out = " ".join(text.split())
    for mark in "\\`*_<>[]#":
        out = out.replace(mark, f"\\{mark}")
    return out


# --- HTML --------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fdfdfc; --soft: #5c6670;
  --line: #d5d9dd; --band: #f1f3f4; --see: #1668b0; --draw: #b4540a; --loud: #a3122b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --paper: #16191c; --soft: #9aa5af;
  --line: #363c42; --band: #1f2429; --see: #6cb2f0; --draw: #f0a05c; --loud: #ff8496; } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 1rem }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .25rem }
p { max-width: 48rem; margin: .5rem 0; overflow-wrap: anywhere }
.loud { border-left: .3rem solid var(--loud); padding: .25rem .75rem; font-weight: 600 }
.wide { overflow-x: auto; margin: .75rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
caption { caption-side: top; text-align: left; color: var(--soft); padding: .25rem 0 }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; min-width: 9rem }
thead th { font-weight: 600; color: var(--soft) }
thead .group { text-align: center; color: var(--ink); border-left: 2px solid var(--line) }
.first { border-left: 2px solid var(--line) }
tbody tr:nth-child(even) { background: var(--band) }
figure { margin: 1rem 0 } figcaption { color: var(--soft); font-size: .9rem }
svg { max-width: 100%; height: auto; font: 12px system-ui, "DejaVu Sans", sans-serif }
svg text { fill: var(--ink) } svg .soft { fill: var(--soft) }
svg .axis { stroke: var(--line) } svg .whisker { stroke: var(--ink) }
svg .chance { stroke: var(--loud); stroke-dasharray: 2 2 }
svg .understanding, svg .seen { fill: var(--see) } svg .generation, svg .drawn { fill: var(--draw) }
svg .both { fill: #2e8b57 } svg .neither { fill: var(--line) }
img { max-width: 100%; height: auto; image-rendering: pixelated; border: 1px solid var(--line) }
details { margin: .75rem 0 } summary { cursor: pointer; color: var(--soft) }
@media print {
  :root { color-scheme: light; --ink: #000; --paper: #fff; --soft: #444; --line: #bbb;
    --band: #f4f4f4; --see: #1668b0; --draw: #b4540a; --loud: #a3122b }
  body { padding: 0; max-width: none; font-size: 10pt } h2, h3 { break-after: avoid }
  tr, figure { break-inside: avoid } .wide { overflow: visible }
  svg * { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
"""


def html(report: Report) -> str:
    """One page that needs nothing but itself."""
    body = "\n".join(_element(block) for block in report.blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<main>\n<h1>{escape(report.title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _element(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        kind = ' class="loud"' if block.loud else ""
        return f"<p{kind}>{escape(block.text)}</p>"
    if isinstance(block, Plot):
        return f"<figure>{block.svg}<figcaption>{escape(block.caption)}</figcaption></figure>"
    if isinstance(block, Sheet):
        source = f"data:image/png;base64,{_encoded(block.image)}"
        text = escape(block.caption, quote=True)
        width, height = block.image.size
        return (
            f'<figure><img alt="{text}" width="{width}" height="{height}" src="{source}">'
            f"<figcaption>{text}</figcaption></figure>"
        )
    return _html_table(block)


def _html_table(table: Table) -> str:
    starts, place = set(), 0
    above = ""
    for name, width in table.groups:
        if name:
            starts.add(place)
        kind = ' class="group"' if name else ""
        above += f'<th scope="colgroup" colspan="{width}"{kind}>{escape(name)}</th>'
        place += width

    def row(tag: str, cells: Sequence[str]) -> str:
        out = ""
        for k, cell in enumerate(cells):
            kind = ' class="first"' if k in starts else ""
            scope = ' scope="col"' if tag == "th" else ""
            out += f"<{tag}{kind}{scope}>{escape(cell)}</{tag}>"
        return f"<tr>{out}</tr>"

    head = (f"<tr>{above}</tr>" if above else "") + row("th", table.head)
    body = "".join(row("td", cells) for cells in table.rows)
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    inner = f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table>"
    out = f'<div class="wide">{inner}</div>'
    if table.folded:
        return f"<details><summary>{escape(table.caption)}</summary>{out}</details>"
    return out


def _encoded(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
