"""The report: its numbers are those of the samples, its page stands alone and is well formed, and a
browser shows it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.official import FIXTURES
from unified.eval import benchmark, results, runner
from unified.eval.blocks import Report, Table, Text, html, markdown
from unified.eval.charts import WIDTH, Bar, bars, stacked
from unified.eval.interference import quadrants
from unified.eval.metrics import mcnemar
from unified.eval.paired import pair
from unified.eval.report import compare, load, pairs, write
from unified.toybox.questions import SKILLS
from unified.toybox.scene import Scene, render

SEED, PAIRS = 3, 24
VOID = {"meta", "img", "br", "hr", "link", "input", "wbr"}


class Half:
    """Knows the paired toybox, and fails where told to."""

    revision = "1"

    def __init__(self, source: str, blind: set[str], clumsy: set[str]):
        self.source, self.blind, self.clumsy = source, blind, clumsy
        self.scenes: dict[str, tuple[str, Scene]] = {}
        self.answers: dict[tuple[bytes, str], tuple[str, str]] = {}
        for split in ("seen", "held_out"):
            for skill in SKILLS:
                for index in range(3):
                    shown, question, prompt, _ = pair(skill, split, index, SEED)
                    name = f"{split}/{skill}/{index}".replace(" ", "_")
                    self.scenes[prompt] = name, shown
                    self.answers[render(shown).tobytes(), question.text] = name, question.answer

    def ask(self, image: list[Any], question: list[str], *, seed: int, **_: Any) -> list[str]:
        found = [
            self.answers[np.asarray(i).tobytes(), q] for i, q in zip(image, question, strict=True)
        ]
        return ["<b>nothing|at_all" if name in self.blind else said for name, said in found]

    def generate(self, prompt: list[str], *, seed: int, **_: Any) -> list[Image.Image]:
        empty = Scene((), "white")
        found = [self.scenes[text] for text in prompt]
        return [Image.fromarray(render(empty if name in self.clumsy else shown))
                for name, shown in found]  # fmt: skip


def made(model: Any, folder: Path, names: tuple[str, ...] = ("toybox_paired",)) -> Path:
    tasks = [runner.Task(spec) for name in names for spec in benchmark.select(name)]
    found = runner.run(model, tasks, folder, runner.Plan(seed=SEED, limit=PAIRS))
    assert not found.failed
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A joint model, one that draws badly and one that sees badly."""
    home = tmp_path_factory.mktemp("runs")
    every = [f"seen/{skill.replace(' ', '_')}/{k}" for skill in SKILLS for k in (0, 1)]
    joint = Half("joint", set(every[:3]), set(every[2:4]))
    seer = Half("<i>seer</i>", set(), set(every))
    drawer = Half("drawer", set(every), set())
    return [made(m, home / n) for m, n in ((joint, "joint"), (seer, "seer"), (drawer, "drawer"))]


class Page(HTMLParser):
    """The elements of a page, which must be closed as they were opened."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[str]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def written(three: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, str, str]:
    out = tmp_path_factory.mktemp("report") / "report.html"
    paths = write(three, out, validate=4)
    assert [path.suffix for path in paths] == [".html", ".md"]
    text = out.read_text(encoding="utf-8")
    return Page(text), text, paths[1].read_text(encoding="utf-8")


def test_the_page_stands_alone(written: tuple[Page, str, str]) -> None:
    page, text, _ = written
    assert text.startswith("<!doctype html>") and "<script" not in text
    for tag, attributes in page.tags:
        assert not {"onload", "onclick"} & set(attributes), tag
        assert attributes.get("href", "#").startswith("#")
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/png;base64,")
    assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)", re.sub(
        r'src="[^"]*"', "", text))  # fmt: skip
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert ("meta", {"charset": "utf-8"}) in page.tags
    places = {a["id"] for _, a in page.tags if "id" in a}
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert len(links) > 8 and {link.removeprefix("#") for link in links} == places
    assert sum(tag == "svg" for tag, _ in page.tags) == 3 * 2 + 3 * 2  # scores and pairs, by split
    assert all(a.get("aria-label") for tag, a in page.tags if tag == "svg")


def test_pictures_of_failures_are_in_it(written: tuple[Page, str, str], three: list[Path]) -> None:
    page, text, noted = written
    images = [a for tag, a in page.tags if tag == "img"]
    assert len(images) == 3 + 2 + 12 + 12
    for counts in ("ask: 3 of 24 wrong, 3 shown", "draw: 2 of 24 wrong, 2 shown",
                   "draw: 12 of 24 wrong, 12 shown", "ask: 12 of 24 wrong, 12 shown"):  # fmt: skip
        assert f"toybox_paired_{counts}" in text
        assert f"toybox\\_paired\\_{counts}" in noted
    for attributes in images:
        data = base64.b64decode(attributes["src"].partition(",")[2])
        found = Image.open(BytesIO(data))
        found.load()
        assert found.size == (int(attributes["width"]), int(attributes["height"]))
    shown, question, _, _ = pair(SKILLS[0], "seen", 0, SEED)
    first = images[0]["alt"].split("; ")  # what was asked, said and wanted
    assert first == [SKILLS[0], question.text, "<b>nothing|at_all", " / ".join(
        dict.fromkeys(question.answers[:3]))]  # fmt: skip
    drawn = base64.b64decode(images[0]["src"].partition(",")[2])
    assert np.array_equal(np.asarray(Image.open(BytesIO(drawn))), render(shown))


def test_settings_in_which_runs_differ_are_said(tmp_path: Path) -> None:
    for name, sampling in (("cool", {}), ("hot", {"temperature": 2.0})):
        tasks = [runner.Task(spec) for spec in benchmark.select("toybox_paired")]
        plan = runner.Plan(seed=SEED, limit=6, sampling=sampling)
        runner.run(Half("one", set(), set()), tasks, tmp_path / name, plan)
    write([tmp_path / "cool", tmp_path / "hot"], tmp_path / "r.html", validate=0)
    page = Page((tmp_path / "r.html").read_text())
    (table,) = [t for t in page.tables if t[0] == ["setting", "benchmarks", "cool", "hot"]]
    tasks_named = "toybox_paired_ask, toybox_paired_draw"
    assert table[1:] == [["sampling.temperature", tasks_named, "not set", "2.0"]]
    write([tmp_path / "cool"], tmp_path / "r.html", validate=0)
    assert "in which the runs differ" not in (tmp_path / "r.html").read_text()


def test_scores_are_those_of_the_results_side_by_side(
    written: tuple[Page, str, str], three: list[Path]
) -> None:
    page, _, _ = written
    glance, *scores = [t for t in page.tables if t[0] and "understanding" in t[0]]
    assert len(scores) == 3
    assert glance[1] == ["benchmark", "split", "metric", *["joint", "seer", "drawer"] * 2]
    for line in glance[2:]:
        values = []
        for side in ("understanding", "generation"):
            for folder in three:
                values += [
                    f"{r.value:.3f}" for r in results.load(folder).rows
                    if (r.side, r.skill, r.split) == (side, "overall", line[1].replace(" ", "_"))
                ]  # fmt: skip
        assert line[3:] == values
    for folder, table in zip(three, scores, strict=True):
        assert table[0] == ["", "understanding", "generation"]
        assert table[1][:3] == ["benchmark", "split", "metric"] and len(table[1]) == 3 + 4 + 4
        rows = {(str(r.side), r.skill, r.split): r for r in results.load(folder).rows}
        for line in table[2:]:
            skill = line[0].partition(": ")[2] or "overall"
            for place, side in ((3, "understanding"), (7, "generation")):
                row = rows[side, skill, line[1].replace(" ", "_")]
                assert line[place] == f"{row.value:.3f} ± {row.stderr:.3f}"
                assert line[place + 1] == f"{row.ci[0]:.3f}–{row.ci[1]:.3f}"
                assert line[place + 3] == str(row.n)
        assert len(table) - 2 == len(rows) / 2


def test_the_paired_view_counts_facts(written: tuple[Page, str, str], three: list[Path]) -> None:
    page, _, _ = written
    joint = load(three[:1])[0]
    both = list(pairs(joint)["toybox_paired"]["seen"].values())
    assert quadrants(both) == (8, 1, 2, 1) and len(both) == 12
    tables = [t for t in page.tables if "only drawn" in t[0]]
    (overall,) = [line for line in tables[0] if line[0] == "overall"]
    assert overall == ["overall", "8", "1", "2", "1", "12", f"{mcnemar(1, 2):.3g}"]
    held_out = tables[1][1]
    assert held_out[:6] == ["overall", "12", "0", "0", "0", "12"]


def test_interference_is_tested_on_the_same_samples(
    written: tuple[Page, str, str], three: list[Path]
) -> None:
    page, _, _ = written
    joint, seer, drawer = load(three)
    assert compare(joint, seer, "toybox_paired_draw")["seen"] == (0, 10, 0, 2)
    assert compare(joint, drawer, "toybox_paired_ask")["held_out"] == (12, 0, 0, 0)
    seen, drawn = [t for t in page.tables if "joint is" in t[0]]
    lines = {(t, line[1], line[2]): line for t, table in (("see", seen), ("draw", drawn))
             for line in table[1:]}  # fmt: skip
    line = lines["draw", "seer", "seen"]
    low, high = compare(joint, seer, "toybox_paired_draw")["seen"].interval()
    assert 0.5 < low < 10 / 12 < high <= 1
    many = len(seen) - 1 + len(drawn) - 1  # lines
    assert line[3:-2] == ["12", "0.833", "0.000", "+0.833", f"{low:+.3f} – {high:+.3f}", "10", "0",
                          f"{mcnemar(10, 0):.3g}"]  # fmt: skip
    assert mcnemar(10, 0) < float(line[-2]) <= many * mcnemar(10, 0) and many == 8
    assert line[-1] == "better than the twin"
    assert lines["see", "seer", "seen"][-1] == "not clearly different"  # three of twelve: p = 0.25
    assert lines["see", "drawer", "seen"][-1] == "better than the twin"


def test_the_judge_and_the_settings_are_in_it(
    written: tuple[Page, str, str], three: list[Path]
) -> None:
    page, _, text = written
    judged = next(t for t in page.tables if t[0][0] == "pictures and fact")
    assert {line[0].partition(":")[0] for line in judged[1:]} == {"render", "soft", "wrong"}
    folded = [t for t in page.tables if t[0] == ["setting", "benchmark", "value"]]
    assert len(folded) == 3 == sum(tag == "details" for tag, _ in page.tags)
    for table, folder in zip(folded, three, strict=True):
        lines = {(line[0], line[1]): line[2] for line in table[1:]}
        keys = {key.partition(".")[0] for key, _ in lines}
        assert keys | {"sampling"} == {*results.Settings.model_fields}  # of these none was given
        for row in results.load(folder).rows:
            assert lines["data_hash", row.task] == row.settings.data_hash
            assert lines["seed", "all"] == str(SEED)
    assert "data\\_hash" in text


def test_markdown_has_the_same_tables(written: tuple[Page, str, str]) -> None:
    page, _, text = written
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == len(page.tables)
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
    assert "understanding: value" in text and "generation: value" in text


def test_never_one_blended_number(written: tuple[Page, str, str]) -> None:
    page, _, text = written
    words = " ".join(page.text).lower() + text.lower()
    assert not re.search(r"combined|blended|total score|average of both", words)


def test_what_models_say_is_no_markup(written: tuple[Page, str, str]) -> None:
    page, text, noted = written
    assert "<i>seer</i>" not in text and "&lt;i&gt;seer&lt;/<wbr>i&gt;" in text
    assert "<i>" not in noted
    sly = Report("a<b>", [Text("<script>alert(1)</script> | `x`", loud=True),
                          Table(("a|b", "c"), [["<img src=x>", "1"]])])  # fmt: skip
    assert not [tag for tag, _ in Page(html(sly)).tags if tag in ("b", "script", "img")]
    assert "a\\|b" in markdown(sly) and "\\<script\\>" in markdown(sly)


def test_self_judging_and_proxies_are_said_aloud(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    prompts = [{"prompt_id": k, "Prompt": "x", "Explanation": "y", "Category": "c"}
               for k in range(4)]  # fmt: skip
    (data / "a.json").write_text(json.dumps(prompts))

    class Vain:
        source, revision = "vain", "9"

        def generate(self, prompt: list[str], *, seed: int, **_: Any) -> list[Image.Image]:
            return [Image.new("RGB", (8, 8)) for _ in prompt]

        def ask(self, image: list[Any], question: list[str], **_: Any) -> list[str]:
            return ["yes"] * len(question)

    tasks = [runner.Task(benchmark.load("wise"), data), runner.Task(benchmark.load("gqa"), data)]
    runner.run(Vain(), tasks, tmp_path / "run")
    out = tmp_path / "r.html"
    write([tmp_path / "run"], out, validate=0)
    page = Page(out.read_text())
    loud = out.read_text().count('class="loud"')
    words = " ".join(page.text)
    assert loud == 2 and "SELF-JUDGED by vain" in words and "gqa was not run" in words
    assert "may not be compared with any other" in (tmp_path / "r.md").read_text()
    (scores,) = [t for t in page.tables if t[1][:3] == ["benchmark", "split", "metric"]]
    assert scores[2][2] == "said to show it, SELF-JUDGED"  # beside every such number


def test_other_data_is_not_compared(three: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    model = Half("other", set(), set())
    tasks = [runner.Task(spec) for spec in benchmark.select("toybox_paired")]
    runner.run(model, tasks, other, runner.Plan(seed=SEED, limit=6))
    write([three[0], other], tmp_path / "r.html", validate=0)
    assert "not the same samples" in (tmp_path / "r.html").read_text()


def test_a_folder_of_runs_stands_for_all(three: list[Path]) -> None:
    assert [run.name for run in load([three[0].parent])] == ["drawer", "joint", "seer"]
    assert [run.name for run in load([three[0], three[0]])] == ["joint", "joint (2)"]


def test_plots_hold_their_values() -> None:
    svg = bars([Bar("counting", "understanding", 0.5, 0.4, 1.2, 0.25),
                Bar("counting", "generation", 0, 0, 0, 0)], "a & b")  # fmt: skip
    page = Page(svg)
    shown = [a for tag, a in page.tags if tag == "rect"]
    assert [a["class"] for a in shown[:2]] == ["understanding", "generation"]  # the legend
    assert [float(a["width"]) for a in shown[2:]] == [WIDTH / 2, 0.0] and "a &amp; b" in svg
    left = float(shown[2]["x"])
    whisker = next(a for tag, a in page.tags if a.get("class") == "whisker")
    assert float(whisker["x2"]) == left + WIDTH  # cut at the end of the scale
    chance = [a for _, a in page.tags if a.get("class") == "chance"]
    assert float(chance[-1]["x1"]) == left + WIDTH / 4 and len(chance) == 2  # and in the legend
    parts = [a for tag, a in Page(stacked([("x", (2, 1, 1, 0))], "y")).tags if tag == "rect"]
    assert [float(a["width"]) for a in parts[4:]] == [WIDTH / 2, WIDTH / 4, WIDTH / 4]
    long = Page(stacked([("a name that is much longer than there is room for", (1, 0, 0, 0))], "y"))
    assert "a name that is much longer than…" in "".join(long.text)


# In a browser

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


def browse(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page in headless Chromium."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
               "--enable-logging=stderr", "--log-level=0", f"--user-data-dir={folder / 'profile'}",
               *options, page.as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.browser
@pytest.mark.skipif(not BROWSER, reason="needs Chromium")
def test_a_browser_shows_it(three: list[Path], tmp_path: Path) -> None:
    """All of it is rendered, in light, dark and print, and nothing is wider than the window."""
    file = tmp_path / "report.html"
    write(three, file, validate=4)
    text = file.read_text(encoding="utf-8")
    # what only a browser knows: sizes, pictures decoded, what overflows
    probe = tmp_path / "probe.html"
    probe.write_text(text.replace("</body>", PROBE + "</body>"))
    for width in (1200, 500):
        done = browse(probe, tmp_path, "--dump-dom", f"--window-size={width},1000")
        assert "CONSOLE" not in done.stderr, done.stderr
        dom = Page(done.stdout)
        found = json.loads(next(a["data-found"] for tag, a in dom.tags if "data-found" in a))
        assert (
            found["tables"] == len(dom.tables) == len(Page(text).tables) > 10
            and found["flat"] == []
        )
        assert found["pictures"] == 29 and found["undecoded"] == 0
        assert found["page"] <= width and found["plots"] == 12
    pictures = {}
    for name, options in (("light", []), ("dark", ["--blink-settings=preferredColorScheme=0"])):
        shot = tmp_path / f"{name}.png"
        browse(file, tmp_path, f"--screenshot={shot}", "--window-size=1200,1600", *options)
        pictures[name] = np.asarray(Image.open(shot).convert("RGB"))
    light, dark = pictures["light"], pictures["dark"]
    assert light.shape[1] == 1200 and light[0, 0].min() > 240 and dark[0, 0].max() < 60
    for shown in (light, dark):
        inked = (abs(shown.astype(int) - shown[0, 0]).sum(2) > 60).mean()
        assert 0.01 < inked < 0.6  # neither blank nor covered
    paper = tmp_path / "report.pdf"
    browse(file, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    printed = paper.read_bytes()
    assert printed.startswith(b"%PDF-") and len(re.findall(rb"/Type\s*/Page\b", printed)) >= 4


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(not BROWSER, reason="needs Chromium")
def test_from_a_model_to_a_page_in_a_browser(tmp_path: Path) -> None:
    """The whole way with nothing made up: weights, official files, answers, drawings, the page."""
    from unified.handle import load as load_model

    names = ("pope", "mme", "scienceqa", "geneval", "tifa", "rebuilt")
    for name in names:
        FIXTURES[name](tmp_path / name)
    tasks = [runner.Task(benchmark.load(name), tmp_path / name) for name in names]
    tasks += [runner.Task(spec) for suite in ("toybox_paired", "toybox_tokenizer")
              for spec in benchmark.select(suite)]  # fmt: skip
    found = runner.run(load_model(device="cpu"), tasks, tmp_path / "run", runner.Plan(limit=4))
    assert not found.failed and {row.task for row in found.rows} == {t.spec.name for t in tasks}
    file = tmp_path / "report.html"
    write([tmp_path / "run"], file, validate=2)
    done = browse(file, tmp_path, "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    dom = Page(done.stdout)
    assert dom.tables == Page(file.read_text(encoding="utf-8")).tables
    words = " ".join(dom.text)
    assert all(name in words for name in (*names, "toybox_paired", "toybox_tokenizer"))
    assert "SELF-JUDGED" in words and "Fréchet distance (encoder)" in words


PROBE = """<script>
const all = (what) => [...document.querySelectorAll(what)];
const flat = all("table, svg, img").filter((e) => !e.closest("details") &&
  (e.getBoundingClientRect().width < 20 || e.getBoundingClientRect().height < 20));
document.body.dataset.found = JSON.stringify({
  tables: all("table").length, plots: all("svg").length, pictures: all("img").length,
  undecoded: all("img").filter((i) => !i.complete || !i.naturalWidth).length,
  flat: flat.map((e) => e.tagName), page: document.documentElement.scrollWidth});
</script>"""
