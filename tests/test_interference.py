"""Interference: a model against its twins, from result folders to a page, against direct counts,
an exhaustive permutation test and a direct bootstrap."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from unified.eval import benchmark, results
from unified.eval.interference import CLEAR, Counts, compare, holm, outcomes, quadrants
from unified.eval.report import load, write
from unified.eval.results import Results, Row, Settings, Store

ASK, DRAW = "toybox_paired_ask", "toybox_paired_draw"
Right = dict[str, bool]  # "seen/3" -> whether it is right


def record(unit: str, score: float, number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "id": f"{unit}+{number}", "group": unit, "skill": "counting", "split": unit.split("/")[0],
        "chance": None, "prompt": "How many?", "seed": 0, "reply": "two", "files": [], "digest": "",
        "marks": {"score": score}, "unscored": None, "outside": False, **more,
    }  # fmt: skip


def folder_of(home: Path, name: str, tasks: dict[str, Right], data: str = "same") -> Path:
    """A run's folder as `unified eval run` leaves it."""
    rows = []
    for task, right in tasks.items():
        spec = benchmark.load(task)
        given = Settings(
            model=name, revision="1", adapter="", adapter_revision="", recipe="abc", toolkit="0",
            benchmark="x", template=spec.prompt, sampling={}, judge="", judge_source="",
            judge_revision="", data="", data_hash=f"{data} {task}", seed=0, limit=2, batch=32,
            device="cpu", dtype="float32", threads=1, weights="float",
        )  # fmt: skip
        (home / name).mkdir(parents=True, exist_ok=True)
        described = yaml.safe_dump(spec.model_dump(mode="json"))
        (home / name / f"{task}.yaml").write_text(described)
        store = Store(home / name / f"{task}.jsonl", given.model_dump(mode="json"))
        store.add([record(unit, float(found)) for unit, found in right.items()])
        store.close()
        for split in dict.fromkeys(unit.split("/")[0] for unit in right):
            inside = [found for unit, found in right.items() if unit.startswith(split)]
            rows.append(Row(
                task=task, side=spec.side, modality="image", skill="overall", split=split,
                metric="accuracy", value=float(np.mean(inside)), stderr=0.1, ci=(0.0, 1.0),
                n=len(inside), unscored=0, left_out=0, chance=0.0, higher_is_better=True,
                protocol="official", settings=given,
            ))  # fmt: skip
    results.save(home / name, Results(version=1, rows=rows, failed={}))
    return home / name


def drawn(rng: random.Random, share: float, units: int = 11) -> Right:
    return {f"{s}/{k}": rng.random() < share for s in ("seen", "held_out") for k in range(units)}


def permuted(one: list[bool], two: list[bool]) -> float:
    """Two-sided p by trying every way to exchange the models' answers, unit by unit."""
    gaps = [a - b for a, b in zip(one, two, strict=True) if a != b]
    sums = [abs(sum(s * g for s, g in zip(signs, gaps, strict=True)))
            for signs in itertools.product((1, -1), repeat=len(gaps))]  # fmt: skip
    return float(np.mean([total >= abs(sum(gaps)) for total in sums]))


def lines(page: str, caption: str) -> list[list[str]]:
    """The cells of the table below a caption in a Markdown report."""
    section = page.partition("## Interference")[2].partition("\n## ")[0]
    table = re.search(rf"{caption}[^|]*((?:^\|.*\n)+)", section, re.MULTILINE)
    assert table is not None, section
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table[1].splitlines()]
    plain = [[re.sub(r"[\\*]", "", cell).strip() for cell in row] for row in rows]
    return [plain[0], *plain[2:]]


@pytest.mark.parametrize("seed", range(3))
def test_the_report_of_three_folders_is_the_direct_computation(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    sees, draws = drawn(rng, 0.8), drawn(rng, 0.7)
    runs = {
        "joint": {ASK: sees, DRAW: draws},
        "seer": {ASK: drawn(rng, 0.9), DRAW: drawn(rng, 0.05)},  # never learnt to draw
        "drawer": {DRAW: drawn(rng, 0.9)},  # and was not even asked
    }
    folders = [folder_of(tmp_path, name, tasks) for name, tasks in runs.items()]
    write(folders, tmp_path / "report.html", validate=0)
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    every: list[tuple[float, float, dict[str, str], bool]] = []  # p, Holm's, line, more are right
    for caption, task in (("understanding", ASK), ("generation", DRAW)):
        head, *table = lines(page, caption)
        assert head[-1] == "joint is" and "95% interval" in head and "p" in head
        for cells in table:
            line = dict(zip(head, cells, strict=True))
            split = line["split"].replace(" ", "_")
            units = [unit for unit in sees if unit.startswith(split)]
            one, two = ([runs[name][task][u] for u in units] for name in ("joint", line["twin"]))
            assert line["units"] == str(len(units)) == "11"
            assert line["joint right"] == f"{np.mean(one):.3f}"
            assert line["twin right"] == f"{np.mean(two):.3f}"
            assert line["difference"] == f"{np.mean(one) - np.mean(two):+.3f}"
            p = permuted(one, two)
            assert float(line["p"]) == pytest.approx(p, abs=0.005 * max(p, 0.01))
            every.append((p, float(line["Holm's p"]), line, sum(one) > sum(two)))
    assert len(every) == 2 + 4  # the drawer was asked nothing
    for rank, (p, corrected, line, more) in enumerate(sorted(every, key=lambda e: e[0])):
        steps = [(6 - k) * q for k, q in enumerate(sorted(e[0] for e in every)) if k <= rank]
        assert corrected == pytest.approx(min(1, max(steps)), rel=0.01)
        wanted = "not clearly different"
        if corrected < CLEAR:
            wanted = f"{'better' if more else 'worse'} than the twin"
        assert line["joint is"] == wanted and corrected >= p * 0.99
    again = write(list(reversed(folders[:2])), tmp_path / "back.html", validate=0)
    back = lines(again[1].read_text(encoding="utf-8"), "understanding")
    there = lines(page, "understanding")
    for cells, turned in zip(there[1:], back[1:], strict=True):
        assert float(cells[6]) == -float(turned[6]) and cells[10] == turned[10]  # the same p


def test_other_samples_are_not_compared(tmp_path: Path) -> None:
    rng = random.Random(0)
    folders = [folder_of(tmp_path, name, {ASK: drawn(rng, 0.5)}, name) for name in ("a", "b")]
    write(folders, tmp_path / "report.html", validate=0)
    ((*_, reason),) = lines((tmp_path / "report.md").read_text(), "understanding")[1:]
    assert reason == "not the same samples"
    assert [run.name for run in load(folders)] == ["a", "b"]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
@settings(deadline=None)
def test_p_is_that_of_all_permutations(pairs: list[tuple[bool, bool]]) -> None:
    counts, turned = quadrants(pairs), quadrants([(b, a) for a, b in pairs])
    assert counts.p == pytest.approx(permuted(*map(list, zip(*pairs, strict=True))))
    assert counts.n == len(pairs) and counts.p == turned.p
    assert counts.difference == pytest.approx(np.mean([a - b for a, b in map(tuple, np.array(
        pairs, int))]))  # fmt: skip
    low, high = counts.interval()
    assert -1 <= low <= counts.difference <= high <= 1 or counts.n < 3


@pytest.mark.parametrize("counts", [(40, 12, 3, 5), (0, 30, 0, 30), (9, 1, 1, 9), (5, 0, 0, 5)])
def test_the_interval_is_that_of_a_direct_bootstrap(counts: tuple[int, int, int, int]) -> None:
    kinds = [(1, 1), (1, 0), (0, 1), (0, 0)]
    units = np.array([k for k, n in zip(kinds, counts, strict=True) for _ in range(n)], float)
    rng = np.random.default_rng(1)
    draws = [np.subtract(*units[rng.integers(len(units), size=len(units))].mean(0))
             for _ in range(6000)]  # fmt: skip
    wanted = np.quantile(draws, [0.025, 0.975])
    assert Counts(*counts).interval() == pytest.approx(wanted, abs=1.5 / len(units))


def test_equal_models_are_seldom_called_different_and_unequal_ones_mostly() -> None:
    rng = np.random.default_rng(0)

    def called(first: float, second: float, n: int = 120) -> float:
        tries = [np.stack([rng.random(n) < first, rng.random(n) < second], 1) for _ in range(400)]
        counts = [quadrants([(bool(a), bool(b)) for a, b in found]) for found in tries]
        return float(np.mean([c.finding(c.p) != "not clearly different" for c in counts]))

    assert called(0.7, 0.7) <= CLEAR + 0.02 and called(0.85, 0.6) > 0.9


def test_of_many_comparisons_of_equal_models_seldom_is_any_called_a_difference() -> None:
    """Twenty lines of equal models: one in three reports would be wrong without the correction."""
    rng = np.random.default_rng(0)
    false, uncorrected = 0, 0
    for _ in range(200):
        counts = [quadrants([(bool(a), bool(b)) for a, b in rng.random((120, 2)) < 0.7])
                  for _ in range(20)]  # fmt: skip
        ps = [c.p for c in counts]
        false += any(
            c.finding(p) != "not clearly different" for c, p in zip(counts, holm(ps), strict=True)
        )
        uncorrected += min(ps) < CLEAR
    assert false / 200 <= CLEAR + 0.02 and uncorrected / 200 > 0.25


@given(st.lists(st.floats(0, 1), max_size=8))
@settings(deadline=None)
def test_holm_keeps_the_order_and_one_p_as_it_is(values: list[float]) -> None:
    found = holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, found, strict=True))
    for one, two in itertools.combinations(range(len(values)), 2):
        if values[one] < values[two]:
            assert found[one] <= found[two]
    if len(values) == 1:
        assert found == values
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_scores_of_other_judges_are_not_compared(tmp_path: Path) -> None:
    """Of models that judged themselves, say."""
    rng = random.Random(0)
    folders = [folder_of(tmp_path, name, {DRAW: drawn(rng, 0.5)}) for name in ("a", "b")]
    file = folders[1] / results.FILE
    file.write_text(file.read_text().replace('"judge": ""', '"judge": "SELF-JUDGED by b"'))
    write(folders, tmp_path / "report.html", validate=0)
    ((*_, reason),) = lines((tmp_path / "report.md").read_text(), "generation")[1:]
    assert reason == "not the same judge"


def test_units_are_right_where_all_of_their_samples_are() -> None:
    several = [record("seen/0", 1.0, k) for k in range(4)]
    turned = [record("seen/1", float(k != 3), k) for k in range(4)]
    assert outcomes([*several, *turned], "wrong") == {
        "seen/0": ("seen", True), "seen/1": ("seen", False)
    }  # fmt: skip
    assert outcomes([record("seen/0", 0.5)], "wrong") == {"seen/0": ("seen", False)}


@pytest.mark.parametrize("rule", ["wrong", "left out"])
def test_what_a_score_leaves_out_a_comparison_leaves_out(rule: str) -> None:
    """A sample that one model could not be asked counts as its benchmark counts it."""
    lost = record("seen/1", 0, unscored="not answered", marks={})
    outside = record("seen/2", 0, unscored="the toybox has no 'toaster'", marks={}, outside=True)
    one = outcomes([record("seen/0", 1), lost, outside, record("seen/3", 0)], rule)
    two = outcomes([record(f"seen/{k}", 1) for k in range(4)], rule)
    counts = compare(one, two)["seen"]
    assert counts == ((1, 0, 2, 0) if rule == "wrong" else (1, 0, 1, 0))
    pair = [record("seen/0", 1, 0), record("seen/0", 0, 1, unscored="gone", marks={})]
    assert outcomes(pair, rule) == ({"seen/0": ("seen", False)} if rule == "wrong" else {})
    scoreless = record("seen/0", 0, marks={"caption": "a cat"})
    assert outcomes([scoreless], rule) == {} and compare({}, {}) == {}
    json.dumps(counts)
