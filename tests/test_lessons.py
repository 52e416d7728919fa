"""The toybox's lessons: true captions, a judge that knows right from wrong, data that is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from unified.eval.benchmark import load
from unified.eval.formats import read
from unified.eval.judge import check, judge
from unified.toybox.lessons import LESSONS, PICTURES, lesson, write
from unified.toybox.scene import render
from unified.train import readers


@pytest.mark.parametrize("name", LESSONS)
def test_the_judge_knows_a_lesson_from_another(name: str) -> None:
    (other,) = set(LESSONS) - {name}
    for index in range(10):
        made = lesson(name, 0, index, "seen")
        assert made == lesson(name, 0, index, "seen")
        assert check(judge(render(made.scene)), made.facts)
        assert not check(judge(render(lesson(other, 0, index).scene)), made.facts)


def test_a_style_is_tried_on_other_things() -> None:
    taught, tried = (
        {lesson("wallpaper", 0, k, split).scene.things[0].name for k in range(60)}
        for split in ("train", "seen")
    )
    assert not taught & tried


def test_unknown_lessons_are_refused() -> None:
    with pytest.raises(ValueError, match="no lesson 'zab' of split 'train'; one of zib, wallpaper"):
        lesson("zab", 0, 0)


def test_lessons_are_data_and_a_benchmark(tmp_path: Path) -> None:
    write("zib", tmp_path / "zib")
    records = readers.read(str(tmp_path / "zib"))
    assert len(records) == 2 * PICTURES  # each is drawn and described
    samples = read(load("toybox_lessons"), None, limit=6)
    assert [sample.skill for sample in samples] == ["zib"] * 3 + ["wallpaper"] * 3
    assert samples[0].prompt.startswith("Draw a zib ")
