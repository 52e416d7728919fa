"""The toybox's lessons: true captions, a judge that knows right from wrong, data that is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unified.eval import pairs
from unified.eval.benchmark import load
from unified.eval.formats import read
from unified.eval.judge import check, judge
from unified.toybox.lessons import LESSONS, PICTURES, lesson, write
from unified.toybox.samples import benchmark_prompt
from unified.toybox.scene import Scene, Thing, render
from unified.train import readers


@pytest.mark.parametrize("name", LESSONS)
def test_the_judge_knows_a_lesson_from_another(name: str) -> None:
    others = set(LESSONS) - {name}
    for index in range(10):
        made = lesson(name, 0, index, "seen")
        assert made == lesson(name, 0, index, "seen")
        assert check(judge(render(made.scene)), made.facts)
        for other in others:
            assert not check(judge(render(lesson(other, 0, index).scene)), made.facts)


@pytest.mark.parametrize("style", ["valentine", "wallpaper"])
def test_a_style_is_tried_on_other_things(style: str) -> None:
    taught, tried = (
        {t.name for k in range(60) for t in lesson(style, 0, k, split).scene.things} - {"heart"}
        for split in ("train", "seen")
    )
    assert not taught & tried


def test_unknown_lessons_are_refused() -> None:
    with pytest.raises(
        ValueError, match="no lesson 'zab' of split 'train'; one of zib, valentine, wallpaper"
    ):
        lesson("zab", 0, 0)


def test_lessons_are_data_and_a_benchmark(tmp_path: Path) -> None:
    write("zib", tmp_path / "zib")
    records = readers.read(str(tmp_path / "zib"))
    assert len(records) == 2 * PICTURES  # each is drawn and described
    samples = read(load("toybox_lessons"), None, limit=9)
    assert [sample.skill for sample in samples] == [name for name in LESSONS for _ in range(3)]
    assert samples[0].prompt.startswith("Draw a zib ")


def test_drawings_are_ranked_by_the_judge(tmp_path: Path) -> None:
    """A painter that is right at every other drawing gives a pair of every prompt."""

    class Painter:
        def chat_batch(self, conversations: list[Any], *, seed: int, **_: Any) -> list[Any]:
            asked = [conversation[-1]["content"][0]["text"] for conversation in conversations]
            empty = Scene((), "white")
            drawn = [render(scenes[p] if k % 2 else empty) for k, p in enumerate(asked)]
            said = {"type": "text", "text": "Here."}
            return [
                {"role": "assistant",
                 "content": [said, {"type": "image", "image": Image.fromarray(picture)}]}
                for picture in drawn
            ]  # fmt: skip

    scenes: dict[str, Scene] = {}
    for number in range(5):
        prompt, facts = benchmark_prompt("single object", pairs.SEED, number, "seen")
        (thing,) = facts["things"]
        scenes[prompt] = Scene.of([Thing(thing["name"], thing["colour"], "big", 1, 1)], "white")
    assert pairs.collect(Painter(), "single object", tmp_path, requests=5) >= 4  # or a named place
    data = readers.read(str(tmp_path / "pairs.jsonl"))
    assert data[0].rejected is not None
    better = [part for part in data[0].messages[-1].parts if part.type == "image"]
    assert isinstance(better[0].media, Path) and better[0].media.is_file()
