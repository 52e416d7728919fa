"""The report of runs: understanding beside generation, never one blended number.

What a model sees and what it draws stand in two groups of columns; the same fact asked both ways is
counted as seen, drawn, both or neither; a model is compared with its twins on the samples that
both answered. Reads what `unified eval run` wrote, and nothing else but the data for its sheets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from unified.eval import benchmark, judge, results
from unified.eval.blocks import Block, Heading, Plot, Report, Sheet, Table, Text, html, markdown
from unified.eval.charts import Bar, bars, stacked
from unified.eval.formats import read
from unified.eval.metrics import mcnemar
from unified.eval.results import Results, Row
from unified.media import picture
from unified.media.picture import MediaError, write_atomic

SIDES = ("understanding", "generation")
RIGHT = 0.5  # a sample is right where its score is above this
SHOWN = 12  # failures on a sheet
THUMB = 128  # pixels
SCALES = ("CIDEr-D", "files written")  # metrics that are no shares
CLEAR = 0.05  # p below which a difference is called one


@dataclass(frozen=True)
class Run:
    """One run: its name in the report, rows, and records by task and id."""

    name: str
    folder: Path
    results: Results
    samples: dict[str, dict[str, dict[str, Any]]]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(row.task for row in self.results.rows))

    def rows(self, task: str) -> list[Row]:
        return [row for row in self.results.rows if row.task == task]

    def spec(self, task: str) -> benchmark.Benchmark:
        return benchmark.load(str(self.folder / f"{task}.yaml"))


def load(paths: Sequence[Path]) -> list[Run]:
    """Runs from their folders; a folder of several models' runs stands for all of them.

    Raises:
        ResultsError: no results there.
    """
    folders: list[Path] = []
    for path in paths:
        path = path.parent if path.name == results.FILE else path
        inner = sorted(p.parent for p in path.glob(f"*/{results.FILE}"))
        folders += [path] if (path / results.FILE).is_file() or not inner else inner
    runs: list[Run] = []
    for folder in folders:
        found = results.load(folder)
        names = dict.fromkeys(row.task for row in found.rows)
        samples = {
            task: {r["id"]: r for r in results.read_samples(folder / f"{task}.jsonl")}
            for task in names
        }
        name = folder.resolve().name
        taken = sum(run.name == name or run.name.startswith(f"{name} (") for run in runs)
        runs.append(Run(f"{name} ({taken + 1})" if taken else name, folder, found, samples))
    return runs


def write(paths: Sequence[Path], out: Path, validate: int = 60) -> list[Path]:
    """The report of runs as HTML at `out` and as Markdown beside it.

    Args:
        validate: scenes that the toybox judge is tried on, where it judged anything.
    """
    found = report(load(paths), validate)
    beside = out.with_suffix(".md")
    write_atomic(out, html(found).encode("utf-8", "replace"))
    write_atomic(beside, markdown(found).encode("utf-8", "replace"))
    return [out, beside]


def report(runs: Sequence[Run], validate: int = 0) -> Report:
    """All blocks of the report; the first run is the model, the others its twins."""
    found = Report("Understanding beside generation")
    found.add(*_models(runs), *_warnings(runs))
    for run in runs:
        found.add(Heading(f"Scores of {run.name}" if len(runs) > 1 else "Scores"))
        found.add(*_scores(run))
    for run in runs:
        found.add(*_paired(run, len(runs) > 1))
    if len(runs) > 1:
        found.add(*_interference(runs))
    for run in runs:
        found.add(*_failures(run, len(runs) > 1))
    if validate and any(
        row.settings.judge_source == "toybox" for run in runs for row in run.results.rows
    ):
        found.add(*_judge(validate))
    found.add(*_settings(runs))
    return found


# --- what was run ------------------------------------------------------------------------------


def _models(runs: Sequence[Run]) -> Iterator[Block]:
    rows = []
    for run in runs:
        if run.results.rows:
            s = run.results.rows[0].settings
            adapter = f"{s.adapter} {s.adapter_revision}".strip() or "none"
            rows.append([run.name, s.model, s.revision or "unsaved", adapter,
                         s.recipe or "not known", s.toolkit, str(s.seed)])  # fmt: skip
    head = ("run", "model", "revision", "adapter", "recipe", "toolkit", "seed")
    yield Table(head, rows)


def _warnings(runs: Sequence[Run]) -> Iterator[Block]:
    for run in runs:
        for task, reason in run.results.failed.items():
            yield Text(f"{run.name}: {task} was not run: {reason}", loud=True)
        for task in run.tasks:
            row = run.rows(task)[0]
            where = f"{run.name}: {task}"
            if row.settings.judge_source == "self":
                yield Text(
                    f"{where}: {row.settings.judge}. The model scored its own drawings;"
                    " such a score may not be compared with any other.",
                    loud=True,
                )
            elif row.protocol == "proxy":
                by = row.settings.judge or "a rule of this toolkit"
                yield Text(f"{where} is a proxy, scored by {by} {row.settings.judge_revision}; the"
                           " official scorer runs on the files that were written.")  # fmt: skip
            if row.unscored:
                total = len(run.samples[task])
                reasons = [r["unscored"] for r in run.samples[task].values() if r["unscored"]]
                wrong = row.unscored - row.left_out
                yield Text(
                    f"{where}: {row.unscored} of {total} samples were not scored; {wrong} count as"
                    f" wrong, {row.left_out} are left out. The first: {reasons[0]}",
                    loud=True,
                )


# --- scores ------------------------------------------------------------------------------------


def _scores(run: Run) -> Iterator[Block]:
    """One table with a group of columns for each side, and a plot."""
    places: dict[tuple[str, str, str, str], dict[str, Row]] = {}
    for row in run.results.rows:
        name = run.spec(row.task).suite or row.task
        places.setdefault((name, row.skill, row.split, row.metric), {})[row.side] = row
    lines = []
    for (name, skill, split, metric), sides in places.items():
        line = [f"{name}: {skill}" if skill != "overall" else name, split, metric]
        for side in SIDES:
            line += _cells(sides.get(side))
        lines.append(line)
    one = ("value", "95% interval", "chance", "n")
    yield Table(
        ("benchmark", "split", "metric", *one, *one),
        lines,
        [("", 3), ("understanding", 4), ("generation", 4)],
    )
    plotted = [row for row in run.results.rows if _share(row) and _first(run, row)]
    several = len({run.spec(row.task).suite or row.task for row in plotted}) > 1
    for split in dict.fromkeys(row.split for row in plotted):
        items = [
            Bar(f"{run.spec(row.task).suite or row.task}: {row.skill}" if several else row.skill,
                row.side, row.value, row.ci[0], row.ci[1], row.chance)
            for side in SIDES for row in plotted if row.side == side and row.split == split
        ]  # fmt: skip
        words = f"{run.name}, {split.replace('_', ' ')}: 95% bootstrap intervals, dashes at chance"
        yield Plot(bars(items, words), words)


def _share(row: Row) -> bool:
    """Whether a row's value is a share, which a bar from 0 to 100% can show."""
    return row.higher_is_better and row.ci[1] <= 1 and row.chance <= 1 and row.metric not in SCALES


def _cells(row: Row | None) -> list[str]:
    if row is None:
        return [""] * 4
    low, high = row.ci
    arrow = "" if row.higher_is_better else " ↓"
    return [f"{row.value:.4g} ± {row.stderr:.2g}{arrow}", f"{low:.4g} to {high:.4g}",
            f"{row.chance:.3g}", str(row.n)]  # fmt: skip


def _first(run: Run, row: Row) -> bool:
    """Whether a row is of its task's first metric."""
    return row.metric == run.rows(row.task)[0].metric


# --- the same fact both ways -------------------------------------------------------------------


def pairs(run: Run) -> dict[str, dict[str, dict[str, tuple[bool, bool]]]]:
    """{suite: {split: {group: (seen, drawn)}}} of the facts that both sides of a suite asked."""
    suites: dict[str, dict[str, list[str]]] = {}
    for task in run.tasks:
        spec = run.spec(task)
        if spec.suite:
            suites.setdefault(spec.suite, {}).setdefault(spec.side, []).append(task)
    out: dict[str, dict[str, dict[str, tuple[bool, bool]]]] = {}
    for suite, sides in suites.items():
        if set(sides) != set(SIDES):
            continue
        seen, drawn = (
            {r["group"]: r for task in sides[side] for r in run.samples[task].values()}
            for side in SIDES
        )
        for group in seen.keys() & drawn.keys():
            split = seen[group]["split"]
            both = _right(seen[group]), _right(drawn[group])
            out.setdefault(suite, {}).setdefault(split, {})[group] = both
    return out


def _right(record: dict[str, Any]) -> bool:
    return bool((record["marks"].get("score") or 0) > RIGHT)


def quadrants(both: Sequence[tuple[bool, bool]]) -> tuple[int, int, int, int]:
    """How many are right both ways, only seen, only drawn, neither."""
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    one, two, three, four = (sum(pair == kind for pair in both) for kind in kinds)
    return one, two, three, four


def _paired(run: Run, several: bool) -> Iterator[Block]:
    for suite, splits in pairs(run).items():
        yield Heading(f"The same fact, asked and drawn: {suite}" + (f", {run.name}" * several))
        yield Text("Each fact stands once as a question about a picture and once as a prompt. The"
                   " p is of McNemar's exact test whether seeing and drawing differ.")  # fmt: skip
        task = next(t for t in run.tasks if run.spec(t).suite == suite)
        skills = {r["group"]: r["skill"] for r in run.samples[task].values()}
        for split in sorted(splits, key=lambda s: s != "seen"):
            lines, shares = [], []
            for skill in ("overall", *dict.fromkeys(skills.values())):
                both = [
                    pair for group, pair in splits[split].items()
                    if skill in ("overall", skills.get(group))
                ]  # fmt: skip
                if both:
                    counts = quadrants(both)
                    shares.append((skill, counts))
                    p = mcnemar(counts[1], counts[2])
                    lines.append([skill, *map(str, counts), str(len(both)), f"{p:.3g}"])
            head = ("skill", "both right", "only seen", "only drawn", "neither", "facts", "p")
            yield Table(head, lines, caption=split.replace("_", " "))
            words = f"{run.name}, {split.replace('_', ' ')}: what is seen and what is drawn"
            yield Plot(stacked(shares, words), words)


# --- against twins -----------------------------------------------------------------------------


def compare(one: Run, two: Run, task: str) -> dict[str, tuple[int, int, int, int]]:
    """{split: (both right, only one, only two, neither)} over the units that both answered."""
    units: list[dict[str, tuple[str, bool]]] = []
    for run in (one, two):
        found: dict[str, tuple[str, bool]] = {}
        for record in run.samples[task].values():
            if "score" in record["marks"] or record["unscored"]:
                before = found.get(record["group"], (record["split"], True))[1]
                found[record["group"]] = record["split"], before and _right(record)
        units.append(found)
    out: dict[str, list[tuple[bool, bool]]] = {}
    for group in units[0].keys() & units[1].keys():
        split = units[0][group][0]
        out.setdefault(split, []).append((units[0][group][1], units[1][group][1]))
    return {split: quadrants(both) for split, both in sorted(out.items(), reverse=True)}


def _interference(runs: Sequence[Run]) -> Iterator[Block]:
    model = runs[0]
    yield Heading("Interference")
    yield Text(f"{model.name} against its twins on the units that both answered; a unit is right"
               f" where its score is above {RIGHT:g}. The p is of McNemar's exact test, not"
               " corrected for the number of rows.")  # fmt: skip
    for side in SIDES:
        lines = []
        for twin in runs[1:]:
            for task in model.tasks:
                if task not in twin.tasks or model.spec(task).side != side:
                    continue
                if not _same_data(model, twin, task):
                    reason = "not the same samples"
                    lines.append([task, twin.name, "", "", "", "", "", "", "", reason])
                    continue
                for split, counts in compare(model, twin, task).items():
                    lines.append(_compared(task, twin.name, split, counts))
        if lines:
            head = ("benchmark", "twin", "split", "units", f"{model.name} right", "twin right",
                    f"only {model.name}", "only twin", "p", "finding")  # fmt: skip
            yield Table(head, lines, caption=side)


def _compared(task: str, twin: str, split: str, counts: tuple[int, int, int, int]) -> list[str]:
    both, first, second, _ = counts
    n, p = sum(counts), mcnemar(first, second)
    finding = "no clear difference"
    if p < CLEAR:
        finding = "better than the twin" if first > second else "worse than the twin"
    return [task, twin, split, str(n), f"{(both + first) / n:.3f}", f"{(both + second) / n:.3f}",
            str(first), str(second), f"{p:.3g}", finding]  # fmt: skip


def _same_data(one: Run, two: Run, task: str) -> bool:
    hashes = [run.rows(task)[0].settings.data_hash for run in (one, two)]
    return hashes[0] == hashes[1]


# --- what went wrong ---------------------------------------------------------------------------


def _failures(run: Run, several: bool) -> Iterator[Block]:
    """A sheet a task: the first wrong ones of each skill in turn."""
    heading = Heading("Failures" + (f" of {run.name}" if several else ""))
    for task in run.tasks:
        wrong = [r for r in run.samples[task].values()
                 if r["unscored"] is None and "score" in r["marks"] and not _right(r)]  # fmt: skip
        if not wrong:
            continue
        shown = _pictures(run, task, _in_turn(wrong))
        if heading is not None:
            yield heading
            heading = None  # type: ignore[assignment]
        if not shown:
            yield Text(f"{task}: {len(wrong)} wrong; their pictures are no longer there.")
            continue
        words = f"{task}: {len(shown)} of {len(wrong)} wrong"
        yield Sheet(_sheet(shown), words)


def _in_turn(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_skill: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_skill.setdefault(record["skill"], []).append(record)
    longest = max(map(len, by_skill.values()))
    turned = [group[k] for k in range(longest) for group in by_skill.values() if k < len(group)]
    return turned[:SHOWN]


def _pictures(run: Run, task: str, records: list[dict[str, Any]]) -> list[tuple[Image.Image, str]]:
    """The picture of each record that can still be had, and words under it."""
    samples: dict[str, Any] = {}
    if run.spec(task).side == "understanding":
        settings = run.rows(task)[0].settings
        place = Path(settings.data) if settings.data else None
        try:
            asked = read(run.spec(task), place, seed=settings.seed, limit=settings.limit)
        except ValueError:
            asked = []
        samples = {sample.id: sample for sample in asked}
    out = []
    for record in records:
        try:
            if record["files"]:
                image = picture.read(run.folder / record["files"][0])
            elif record["id"] in samples and samples[record["id"]].pictures:
                image = samples[record["id"]].pictures[0].open()
            else:
                continue
        except MediaError:
            continue
        said = f" - {record['reply']}" if record["reply"] else ""
        out.append((image, f"{record['prompt']}{said}"))
    return out


def _sheet(shown: list[tuple[Image.Image, str]]) -> Image.Image:
    from unified.media.sheet import captioned

    thumbs = []
    for image, _ in shown:
        square = picture.square(image)
        method = Image.Resampling.BOX if square.width > THUMB else Image.Resampling.NEAREST
        thumbs.append(square.resize((THUMB, THUMB), method))
    return captioned(thumbs, [words for _, words in shown], columns=6, zoom=1)


# --- the judge and the settings ----------------------------------------------------------------


def _judge(count: int) -> Iterator[Block]:
    rows = judge.validate(count)
    yield Heading("The toybox judge")
    yield Text(f"Tried on {count} scenes whose facts are known: true renders must be accepted,"
               " soft ones as well, and renders of something else rejected.")  # fmt: skip
    lines = [[f"{r['condition']}: {r['fact']}", r["metric"], f"{r['value']:.4f}", str(r["n"])]
             for r in rows]  # fmt: skip
    yield Table(("pictures and fact", "metric", "value", "n"), lines)


def _settings(runs: Sequence[Run]) -> Iterator[Block]:
    yield Heading("Settings")
    yield Text("unified eval repeat RUN runs the same again and says whether it agrees.")
    for run in runs:
        for task in run.tasks:
            settings = run.rows(task)[0].settings.model_dump()
            lines = [[key, str(value)] for key, value in settings.items()]
            yield Table(("setting", "value"), lines, caption=f"{run.name}: {task}", folded=True)
