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

from unified.eval import benchmark, failures, results, validation
from unified.eval.blocks import (
    Beside,
    Block,
    Heading,
    Plot,
    Report,
    Sheet,
    Table,
    Text,
    html,
    markdown,
)
from unified.eval.charts import Bar, bars, stacked
from unified.eval.interference import CLEAR, RIGHT, Counts, holm, outcomes, quadrants, right
from unified.eval.interference import compare as compare_outcomes
from unified.eval.results import Results, Row
from unified.media.picture import write_atomic

SIDES = ("understanding", "generation")
SCALES = ("CIDEr-D", "CLIPScore-like", "PSNR", "files written")  # metrics that are no shares


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
    """Runs from their folders; a folder of several models' runs stands for all of them, in the
    order in which the models were named.

    Raises:
        ResultsError: no results there.
    """
    folders: list[Path] = []
    for path in paths:
        path = path.parent if path.name == results.FILE else path
        inner = results.inner(path)
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
    several = len(runs) > 1
    names = ", ".join(run.name for run in runs[1:])
    title = f"{runs[0].name} against {names}" if several else runs[0].name
    found = Report(f"Understanding beside generation: {title}")
    found.add(*_models(runs), *_warnings(runs))
    if several:
        found.add(*_overview(runs), *_interference(runs))
    for run in runs:
        found.add(*_scores(run, several))
    for run in runs:
        found.add(*_paired(run, several))
    for run in runs:
        found.add(*_failures(run, several))
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
    yield Table(head, rows, words=6)
    changed = _changed(runs)
    if changed:
        above = ("setting", "benchmarks", *(run.name for run in runs))
        yield Table(above, changed, caption="Settings in which the runs differ", words=len(above))


SAID_ABOVE = ("model", "revision", "adapter", "adapter_revision", "recipe", "toolkit", "seed")


def _flat(settings: results.Settings) -> dict[str, str]:
    """Settings with what is inside them, as words."""
    out: dict[str, str] = {}
    for key, value in settings.model_dump().items():
        if isinstance(value, dict):
            out |= {f"{key}.{inner}": str(v) for inner, v in value.items()}
        else:
            out[key] = "all" if key == "limit" and value is None else str(value) or "none"
    return out


def _changed(runs: Sequence[Run]) -> list[list[str]]:
    """Settings of common tasks that are not the same in all runs: [key, tasks, value of each]."""
    found: dict[tuple[str, ...], list[str]] = {}
    for task in dict.fromkeys(task for run in runs for task in run.tasks):
        flat = [_flat(run.rows(task)[0].settings) if run.rows(task) else None for run in runs]
        there = [one for one in flat if one is not None]
        for key in dict.fromkeys(key for one in there for key in one):
            values = [one.get(key, "not set") if one is not None else "not run" for one in flat]
            if key not in SAID_ABOVE and len({one.get(key) for one in there}) > 1:
                found.setdefault((key, *values), []).append(task)
    return [[key, ", ".join(tasks), *values] for (key, *values), tasks in found.items()]


def _warnings(runs: Sequence[Run]) -> Iterator[Block]:
    """What must be known before a number is read: who judged, what is missing."""
    for run in runs:
        for task, reason in run.results.failed.items():
            yield Text(f"{run.name}: {task} was not run: {reason}", loud=True)
        first = {task: run.rows(task)[0] for task in run.tasks}
        own = [task for task, row in first.items() if row.settings.judge_source == "self"]
        if own:
            yield Text(
                f"{run.name}: {', '.join(own)}: {first[own[0]].settings.judge}. The model scored"
                " its own drawings; such a score may not be compared with any other.",
                loud=True,
            )
        proxies = [
            f"{task} by {f'{row.settings.judge} {row.settings.judge_revision}'.strip() or 'a rule'}"
            for task, row in first.items() if row.protocol == "proxy" and task not in own
        ]  # fmt: skip
        if proxies:
            yield Text(f"{run.name}: scored by a proxy: {'; '.join(proxies)}. The official scorers"
                       " run on the files that were written.")  # fmt: skip
        for task, row in first.items():
            if row.unscored:
                records = run.samples[task].values()
                reason = next(r["unscored"] for r in records if r["unscored"])
                yield Text(
                    f"{run.name}: {task}: {row.unscored} of {len(records)} samples were not scored"
                    f" ({row.unscored - row.left_out} count as wrong, {row.left_out} are left out)."
                    f" The first: {reason}",
                    loud=True,
                )


# --- scores ------------------------------------------------------------------------------------


WHOLE = ("overall", "perception", "cognition")  # skills that are all of a benchmark


def _named(run: Run, row: Row) -> tuple[str, str, str, str]:
    """(benchmark or suite, skill, split, metric): what the two sides of a line have in common."""
    own = ", SELF-JUDGED" if row.settings.judge_source == "self" else ""
    return run.spec(row.task).suite or row.task, row.skill, row.split, row.metric + own


def _overview(runs: Sequence[Run]) -> Iterator[Block]:
    """Every run's value over all skills, the runs beside each other on each side."""
    yield Heading("At a glance")
    yield Text("Over all skills of each benchmark; intervals and skills stand below.")
    lines: dict[tuple[str, str, str, str], dict[tuple[str, int], str]] = {}
    for place, run in enumerate(runs):
        for row in run.results.rows:
            if row.skill in WHOLE and _first(run, row):
                cell = f"{_number(row, row.value)}{_arrow(row)}"
                lines.setdefault(_named(run, row), {})[row.side, place] = cell
    names = [run.name for run in runs]
    rows = [
        [name if skill == "overall" else f"{name}: {skill}", _words(split), metric,
         *(cells.get((side, k), "") for side in SIDES for k in range(len(runs)))]
        for (name, skill, split, metric), cells in lines.items()
    ]  # fmt: skip
    groups = [("", 3), *((side, len(runs)) for side in SIDES)]
    yield Table(("benchmark", "split", "metric", *names, *names), rows, groups, words=3)


def _scores(run: Run, several: bool) -> Iterator[Block]:
    """One table with a group of columns for each side, and plots."""
    yield Heading(f"Scores of {run.name}" if several else "Scores")
    yield Text("Value ± standard error, and the 95% interval, are of a bootstrap over the n units"
               " (questions or prompts) of a line; without width where all are right or all wrong,"
               " however few they are. Chance is what guessing scores.")  # fmt: skip
    places: dict[tuple[str, str, str, str], dict[str, Row]] = {}
    for row in run.results.rows:
        places.setdefault(_named(run, row), {})[row.side] = row
    lines: list[list[str]] = []
    strong: list[int] = []
    for (name, skill, split, metric), sides in places.items():
        if skill in WHOLE:
            strong.append(len(lines))
        line = [f"{name}: {skill}" if skill != "overall" else name, _words(split), metric]
        for side in SIDES:
            line += _cells(sides.get(side))
        lines.append(line)
    one = ("value", "95% interval", "chance", "n")
    yield Table(
        ("benchmark", "split", "metric", *one, *one),
        lines,
        [("", 3), ("understanding", 4), ("generation", 4)],
        words=3,
        strong=strong if len(strong) < len(lines) else (),
    )
    plots = list(_plots(run))
    if plots:
        yield Beside(plots)


def _plots(run: Run) -> Iterator[Plot]:
    """All benchmarks over all their skills where there are several, then the skills of each."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(run.results.rows, key=lambda row: SIDES.index(row.side)):
        if _share(row) and _first(run, row):
            name, _, split, _ = _named(run, row)
            groups.setdefault((name, split), []).append(row)
    if len({name for name, _ in groups}) > 1:
        names = [name for name, _ in groups]
        items = [
            _bar(row, name if names.count(name) == 1 else f"{name}, {_words(split)}")
            for (name, split), rows in groups.items() for row in rows if row.skill == "overall"
        ]  # fmt: skip
        words = f"{run.name}: benchmarks over all skills, with 95% intervals"
        yield Plot(bars(items, words), words)
    for (name, split), rows in groups.items():
        if len({row.skill for row in rows}) > 2 or len(groups) == 1:
            words = f"{run.name}: {name}, {_words(split)}: values with their 95% intervals"
            yield Plot(bars([_bar(row, row.skill) for row in rows], words), words)


def _bar(row: Row, label: str) -> Bar:
    return Bar(label, row.side, row.value, row.ci[0], row.ci[1], row.chance)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _share(row: Row) -> bool:
    """Whether a row's value is a share, which a bar from 0 to 100% can show."""
    return row.higher_is_better and row.ci[1] <= 1 and row.chance <= 1 and row.metric not in SCALES


def _number(row: Row, value: float) -> str:
    """Shares with three decimals, whatever else with four digits."""
    return f"{value:.3f}" if _share(row) else f"{value:.4g}"


def _arrow(row: Row) -> str:
    return "" if row.higher_is_better else " ↓"


def _cells(row: Row | None) -> list[str]:
    if row is None:
        return [""] * 4
    low, high = (_number(row, end) for end in row.ci)
    spread = f"{row.stderr:.3f}" if _share(row) else f"{row.stderr:.2g}"
    chance = f"{row.chance:.3f}" if _share(row) else f"{row.chance:.3g}"
    interval = f"{low} – {high}" if row.ci[0] < 0 else f"{low}–{high}"
    value = f"{_number(row, row.value)} ± {spread}{_arrow(row)}"
    return [value, interval, chance, str(row.n)]


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
            both = right(seen[group]), right(drawn[group])
            out.setdefault(suite, {}).setdefault(split, {})[group] = both
    return out


def _paired(run: Run, several: bool) -> Iterator[Block]:
    for suite, splits in pairs(run).items():
        yield Heading(f"Seen against drawn: {suite}" + (f", {run.name}" * several))
        yield Text("Each fact stands once as a question about a picture and once as a prompt."
                   " Where p is small (McNemar's exact test), the two differ.")  # fmt: skip
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
                    lines.append([skill, *map(str, counts), str(len(both)), f"{counts.p:.3g}"])
            head = ("skill", "both right", "only seen", "only drawn", "neither", "facts", "p")
            words = f"{run.name}, {_words(split)}: shares of the facts"
            table = Table(head, lines, caption=_words(split), strong=(0,))
            yield Beside([table, Plot(stacked(shares, words), words)])


# --- against twins -----------------------------------------------------------------------------


def compare(one: Run, two: Run, task: str) -> dict[str, Counts]:
    """By split, over the units of a task that both answered."""
    rule = one.spec(task).unscored
    first, second = (outcomes(run.samples[task].values(), rule) for run in (one, two))
    return compare_outcomes(first, second)


def _interference(runs: Sequence[Run]) -> Iterator[Block]:
    model = runs[0]
    yield Heading("Interference")
    yield Text(f"{model.name} against each twin on the units that both answered; a unit is right"
               f" where its score is above {RIGHT:g}. The p is of McNemar's exact test on the units"
               " that only one of the two has right; Holm's p is corrected for all lines of this"
               f" section, and a difference is called one where it is below {CLEAR:g}. The 95%"
               " interval is of a paired bootstrap over the units.")  # fmt: skip
    lines: dict[str, list[list[str]]] = {side: [] for side in SIDES}
    made: list[tuple[list[str], Counts]] = []
    for side in SIDES:
        for twin in runs[1:]:
            for task in model.tasks:
                if task not in twin.tasks or model.spec(task).side != side:
                    continue
                reason = _incomparable(model, twin, task)
                if reason:
                    lines[side].append([task, twin.name, *[""] * 10, reason])
                    continue
                for split, counts in compare(model, twin, task).items():
                    made.append((_compared(task, twin.name, split, counts), counts))
                    lines[side].append(made[-1][0])
    for (line, counts), p in zip(made, holm([counts.p for _, counts in made]), strict=True):
        line += [f"{p:.3g}", counts.finding(p)]
    head = ("benchmark", "twin", "split", "units", f"{model.name} right", "twin right",
            "difference", "95% interval", f"only {model.name}", "only twin", "p", "Holm's p",
            f"{model.name} is")  # fmt: skip
    for side, rows in lines.items():
        if rows:
            clear = [k for k, line in enumerate(rows) if "than the twin" in line[-1]]
            yield Table(head, rows, caption=side, words=3, strong=clear)


def _compared(task: str, twin: str, split: str, counts: Counts) -> list[str]:
    low, high = counts.interval()
    shares = [(counts.both + alone) / counts.n for alone in (counts.first, counts.second)]
    return [task, twin, _words(split), str(counts.n), *(f"{share:.3f}" for share in shares),
            f"{counts.difference:+.3f}", f"{low:+.3f} – {high:+.3f}", str(counts.first),
            str(counts.second), f"{counts.p:.3g}"]  # fmt: skip


def _incomparable(one: Run, two: Run, task: str) -> str:
    """Why the scores of two models on a task may not be compared; "" where they may."""
    first, second = (run.rows(task)[0].settings for run in (one, two))
    if first.data_hash != second.data_hash:
        return "not the same samples"
    judges = [(s.judge, s.judge_revision) for s in (first, second)]
    if judges[0] != judges[1]:
        return "not the same judge"
    return "" if first.benchmark == second.benchmark else "not asked or scored alike"


# --- what went wrong ---------------------------------------------------------------------------


def _failures(run: Run, several: bool) -> Iterator[Block]:
    """A sheet a task: the first wrong ones of each skill in turn."""
    sheets: list[Block] = []
    for task in run.tasks:
        wrong = [r for r in run.samples[task].values()
                 if r["unscored"] is None and "score" in r["marks"] and not right(r)]  # fmt: skip
        if not wrong:
            continue
        samples = failures.asked(run.spec(task), run.rows(task)[0].settings)
        shown = failures.pictures(run.folder, failures.in_turn(wrong), samples)
        count = f"{task}: {len(wrong)} of {len(run.samples[task])} wrong"
        if shown:
            sheets.append(Sheet(shown, f"{count}, {len(shown)} shown"))
        else:
            sheets.append(Text(f"{count}; their pictures are no longer there."))
    if sheets:
        yield Heading("Failures" + (f" of {run.name}" if several else ""))
        yield from sheets


# --- the judge and the settings ----------------------------------------------------------------


def _judge(count: int) -> Iterator[Block]:
    rows = validation.validate(count)
    yield Heading("The toybox judge")
    yield Text(f"Tried on {count} scenes whose facts are known: true renders must be accepted,"
               " soft ones as well, and renders of something else rejected.")  # fmt: skip
    lines = [[f"{r['condition']}: {r['fact']}", r["metric"], f"{r['value']:.4f}", str(r["n"])]
             for r in rows]  # fmt: skip
    yield Table(("pictures and fact", "metric", "value", "n"), lines)


def _settings(runs: Sequence[Run]) -> Iterator[Block]:
    """Every setting of every run: once where all its tasks share it, else task by task."""
    yield Heading("Settings")
    yield Text("unified eval repeat RUN runs the same again and says whether it agrees.")
    for run in runs:
        flat = {task: _flat(run.rows(task)[0].settings) for task in run.tasks}
        lines = []
        for key in dict.fromkeys(key for one in flat.values() for key in one):
            values = {task: one.get(key, "not set") for task, one in flat.items()}
            if len(set(values.values())) == 1:
                lines.append([key, "all", next(iter(values.values()))])
            else:
                lines += [[key, task, value] for task, value in values.items()]
        yield Table(("setting", "benchmark", "value"), lines, caption=run.name, folded=True,
                    words=3)  # fmt: skip
