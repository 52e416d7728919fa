"""A report as plain blocks, and the two ways to write them: Markdown, and one HTML page.

The page carries its pictures and drawings in itself, reads light or dark as the reader likes, and
prints. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import base64
import re
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
    """head: names of the columns; groups: (name, columns) above them; the first column names.

    Attributes:
        words: columns from the left that hold words, the others hold numbers.
        strong: rows that stand out, by number.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    groups: Sequence[tuple[str, int]] = ()
    caption: str = ""
    folded: bool = False
    words: int = 1
    strong: Sequence[int] = ()


@dataclass(frozen=True)
class Plot:
    """An SVG, and what it says for those who do not see it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Shown:
    """A picture of a sheet: lines of (what it is, words), under it."""

    image: Image.Image
    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Sheet:
    """Pictures in rows, as many as there is room for."""

    pictures: Sequence[Shown]
    caption: str


@dataclass(frozen=True)
class Beside:
    """Blocks that stand beside each other where there is room."""

    blocks: Sequence[Heading | Text | Table | Plot | Sheet]


Block = Heading | Text | Table | Plot | Sheet | Beside


@dataclass
class Report:
    title: str
    blocks: list[Block] = field(default_factory=list)

    def add(self, *blocks: Block) -> None:
        self.blocks += blocks


# --- Markdown ----------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    parts = [f"# {_inline(report.title)}", *_parts(report.blocks)]
    return "\n\n".join(parts) + "\n"


def _parts(blocks: Sequence[Block]) -> list[str]:
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {_inline(block.text)}")
        elif isinstance(block, Text):
            text = _inline(block.text)
            parts.append(f"> **{text}**" if block.loud else text)
        elif isinstance(block, Table):
            parts += _markdown_table(block)
        elif isinstance(block, Beside):
            parts += _parts(block.blocks)
        elif isinstance(block, Sheet):
            lines = [
                "- " + "; ".join(f"{name}: {_inline(words)}" for name, words in shown.lines)
                for shown in block.pictures
            ]
            parts.append(f"{_inline(block.caption)} (pictures in the page):")
            parts.append("\n".join(lines))
    return parts


def _markdown_table(table: Table) -> list[str]:
    head = list(table.head)
    if table.groups:
        groups = [name for name, width in table.groups for _ in range(width)]
        head = [f"{g}: {h}" if g else h for g, h in zip(groups, head, strict=True)]
    rule = ["---" if k < table.words else "---:" for k in range(len(head))]
    lines = [head, rule, *table.rows]
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
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fdfdfc; --soft: #59636d;
  --line: #d5d9dd; --band: #f3f5f6; --see: #2a78bd; --draw: #cf6a1b; --both: #2e8b57;
  --neither: #c3c8cd; --loud: #a3122b }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --paper: #16191c; --soft: #9aa5af;
  --line: #363c42; --band: #1e2327; --see: #4f9be0; --draw: #e08a45; --both: #43a873;
  --neither: #4a5158; --loud: #ff8496 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 1rem }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .5rem; padding-bottom: .2rem;
  border-bottom: 1px solid var(--line) }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .25rem }
p { max-width: 48rem; margin: .5rem 0; overflow-wrap: anywhere }
nav { margin: 1rem 0; font-size: .9rem; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem }
a { color: var(--see) }
.loud { border-left: .3rem solid var(--loud); padding: .25rem .75rem; font-weight: 600 }
.wide { overflow-x: auto; margin: .75rem 0 }
.beside { display: grid; gap: 0 2.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 31rem), 1fr)) }
.beside > * { min-width: 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .875rem }
caption { caption-side: top; text-align: left; color: var(--soft); padding: .25rem 0 }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; background: var(--paper) }
.word { text-align: left; white-space: normal }
th:first-child, td:first-child { position: sticky; left: 0 }
thead th { font-weight: 600; color: var(--soft); vertical-align: bottom; white-space: normal }
thead .group { text-align: center; color: var(--ink) }
.first { border-left: 2px solid var(--line) }
tbody tr:nth-child(even) td { background: var(--band) }
.strong td { font-weight: 650; border-top: 2px solid var(--line) }
figure { margin: 1rem 0 } figcaption { color: var(--soft); font-size: .875rem }
svg { max-width: 100%; height: auto; font: 13px system-ui, "DejaVu Sans", sans-serif }
svg text { fill: var(--ink) } svg .soft { fill: var(--soft) }
svg .axis { stroke: var(--line) } svg .whisker { stroke: var(--ink); stroke-width: 1.5 }
svg .halo { stroke: var(--paper); stroke-width: 3.5; stroke-opacity: .65 }
svg .chance { stroke: var(--loud); stroke-width: 2 }
svg .understanding, svg .seen { fill: var(--see) } svg .generation, svg .drawn { fill: var(--draw) }
svg .both { fill: var(--both) } svg .neither { fill: var(--neither) }
.sheet > div { display: grid; gap: 1rem .9rem; margin: .5rem 0; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)) }
.sheet figure { margin: 0; break-inside: avoid } .sheet figure figcaption { line-height: 1.35;
  font-size: .8rem; color: var(--ink); overflow-wrap: anywhere }
.sheet span { color: var(--soft) }
img { width: 100%; max-width: 10rem; height: auto; image-rendering: pixelated; display: block;
  border: 1px solid var(--line); margin-bottom: .25rem }
details { margin: .75rem 0 } summary { cursor: pointer; color: var(--soft) }
@media print {
  :root { color-scheme: light; --ink: #000; --paper: #fff; --soft: #444; --line: #bbb;
    --band: #f4f4f4; --see: #2a78bd; --draw: #cf6a1b; --both: #2e8b57; --neither: #c3c8cd;
    --loud: #a3122b }
  @page { margin: 14mm }
  body { padding: 0; max-width: none; font-size: 9.5pt } nav { display: none }
  table { font-size: 7.5pt } th, td { padding: .15rem .35rem }
  h2, h3, caption { break-after: avoid } thead { display: table-header-group }
  tr, figure { break-inside: avoid } .sheet { break-inside: auto } .wide { overflow: visible }
  .beside { grid-template-columns: 1fr } svg { max-width: 12cm }
  .sheet > div { grid-template-columns: repeat(5, 1fr) }
  th:first-child, td:first-child { position: static }
  details::details-content { content-visibility: visible; block-size: auto }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
"""


def html(report: Report) -> str:
    """One page that needs nothing but itself."""
    headings = [block for block in report.blocks if isinstance(block, Heading) and block.level == 2]
    links = "\n".join(
        f'<a href="#part-{k}">{escape(heading.text)}</a>' for k, heading in enumerate(headings)
    )
    body = "\n".join(
        _heading(block, headings.index(block)) if block in headings else _element(block)
        for block in report.blocks
    )
    menu = f'<nav aria-label="Parts">\n{links}\n</nav>\n' if len(headings) > 1 else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<main>\n<h1>{escape(report.title)}</h1>\n{menu}{body}\n</main>\n</body>\n</html>\n"
    )


def _heading(heading: Block, number: int) -> str:
    assert isinstance(heading, Heading)
    return f'<h2 id="part-{number}">{escape(heading.text)}</h2>'


def _element(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        kind = ' class="loud"' if block.loud else ""
        return f"<p{kind}>{escape(block.text)}</p>"
    if isinstance(block, Plot):
        return f"<figure>{block.svg}<figcaption>{escape(block.caption)}</figcaption></figure>"
    if isinstance(block, Beside):
        inside = "\n".join(f"<div>{_element(one)}</div>" for one in block.blocks)
        return f'<div class="beside">{inside}</div>'
    if isinstance(block, Sheet):
        inside = "\n".join(map(_picture, block.pictures))
        caption = f"<figcaption>{escape(block.caption)}</figcaption>"
        return f'<figure class="sheet">{caption}<div>{inside}</div></figure>'
    return _html_table(block)


def _picture(shown: Shown) -> str:
    width, height = shown.image.size
    source = f"data:image/png;base64,{_encoded(shown.image)}"
    name = escape("; ".join(words for _, words in shown.lines), quote=True)
    lines = "<br>".join(
        f"<span>{escape(what)}:</span> {escape(words)}" for what, words in shown.lines
    )
    return (
        f'<figure><img alt="{name}" width="{width}" height="{height}" src="{source}">'
        f"<figcaption>{lines}</figcaption></figure>"
    )


def _html_table(table: Table) -> str:
    starts, place = set(), 0
    above = ""
    for name, width in table.groups:
        if name:
            starts.add(place)
        kind = ' class="group first"' if name else ""
        above += f'<th scope="colgroup" colspan="{width}"{kind}>{escape(name)}</th>'
        place += width

    def row(tag: str, cells: Sequence[str], strong: bool = False) -> str:
        out = ""
        for k, cell in enumerate(cells):
            kinds = ["first"] * (k in starts) + ["word"] * (k < table.words)
            kind = f' class="{" ".join(kinds)}"' if kinds else ""
            scope = ' scope="col"' if tag == "th" else ""
            text = _breakable(cell) if k < table.words else escape(cell)
            out += f"<{tag}{kind}{scope}>{text}</{tag}>"
        return f'<tr class="strong">{out}</tr>' if strong else f"<tr>{out}</tr>"

    head = (f"<tr>{above}</tr>" if above else "") + row("th", table.head)
    body = "".join(row("td", cells, k in table.strong) for k, cells in enumerate(table.rows))
    named = table.caption and not table.folded
    caption = f"<caption>{escape(table.caption)}</caption>" if named else ""
    inner = f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table>"
    out = f'<div class="wide">{inner}</div>'
    if table.folded:
        return f"<details><summary>{escape(table.caption)}</summary>{out}</details>"
    return out


def _breakable(text: str) -> str:
    """Words that may be cut after _ / and . and in what is too long for a line, nowhere else."""
    parts = re.split(r"(?<=[_/.])(?=[^\W\d])|(?<=\S{28})(?=\S{8})", text)
    return "<wbr>".join(map(escape, parts))


def _encoded(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
