"""The toybox benchmark: a model that knows everything scores 1, one that guesses scores chance."""

from __future__ import annotations

import io
import json
import random
from functools import cache
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from unified.eval import toybox
from unified.eval.judge import Judged, check
from unified.eval.toybox import evaluate, sizes, table
from unified.toybox.conversation import Turn
from unified.toybox.language import NUMBERS, PLACE_NAMES
from unified.toybox.questions import SKILLS
from unified.toybox.samples import (
    benchmark_dialogue,
    benchmark_prompt,
    benchmark_question,
    benchmark_when,
)
from unified.toybox.scene import GRID, Scene, Thing, find_place, render, sample_scene
from unified.toybox.sprites import COLOURS, OBJECTS

SEED = 5
FIELDS = {
    "task", "side", "skill", "split", "metric", "value", "stderr", "n", "chance", "settings",
}  # fmt: skip


def draw_scene(facts: dict[str, Any], rng: random.Random) -> Scene:
    """Some scene that fulfils a request."""
    while True:
        things: list[Thing] = []
        for group in facts["things"]:
            for _ in range(group["count"]):
                size = group["size"] or "small"
                new = find_place(rng, things, group["name"], group["colour"], size)
                things += [new] if new else []
        scene = Scene.of(things, facts["background"] or "white")
        if check(Judged(scene.things, scene.background, 0.0), facts):
            return scene


def apply(scene: Scene, turn: dict[str, Any], rng: random.Random) -> Scene | None:
    """A scene after an edit of a script, with what it leaves open filled in at random."""
    things, target = list(scene.things), turn.get("target")
    if turn["edit"] == "background":
        return Scene(scene.things, turn["to"])
    assert target is not None
    size = target["size"] or "small"
    if turn["edit"] != "add":
        old = next(t for t in things if (t.name, t.colour) == (target["name"], target["colour"]))
        things.remove(old)
        size = old.size
    name, colour, place = target["name"], target["colour"], target["place"]
    if turn["edit"] == "remove":
        return Scene.of(things, scene.background)
    if turn["edit"] == "recolour":
        things.append(Thing(old.name, turn["to"], old.size, old.column, old.row))
    elif turn["edit"] == "replace":
        new_name, new_colour = turn["to"]["name"], turn["to"]["colour"]
        things.append(Thing(new_name, new_colour, old.size, old.column, old.row))
    else:
        place = turn["to"] if turn["edit"] == "move" else place
        spots = [
            thing for column in range(GRID) for row in range(GRID)
            for thing in [Thing(name, colour, size, column, row)]
            if place in (None, thing.place) and column + thing.tiles <= GRID
            and row + thing.tiles <= GRID and not any(thing.overlaps(t) for t in things)
        ]  # fmt: skip
        if not spots:
            return None
        things.append(rng.choice(spots))
    return Scene.of(things, scene.background)


def play(script: list[dict[str, Any]], rng: random.Random) -> list[Scene | None]:
    """A scene for each turn of a script that draws, such that all of it can be done."""
    for _ in range(500):
        scene = draw_scene(script[0]["request"], rng)
        scenes: list[Scene | None] = [scene]
        for turn in script[1:]:
            if turn["kind"] != "edit":
                scenes.append(None)
                continue
            after = apply(scene, turn, rng)
            before = Judged(scene.things, scene.background, 0.0)
            if after is None or not toybox.edited(
                before, Judged(after.things, after.background, 0.0), turn
            ):
                break
            scene = after
            scenes.append(scene)
        else:
            return scenes
    raise AssertionError(f"nobody could do this: {script}")


def picture(scene: Scene) -> Image.Image:
    return Image.fromarray(render(scene))


@cache
def answers() -> dict[str, Any]:
    """What the oracle knows: by the words of the user alone."""
    prompts, dialogues, when = sizes(None)
    known: dict[str, Any] = {}
    rng = random.Random(0)
    for split in toybox.SPLITS:
        for skill in SKILLS:
            for index in range(prompts // len(SKILLS)):
                text, facts = benchmark_prompt(skill, SEED, index, split)
                known[f"draw {text}"] = picture(draw_scene(facts, rng))
                scene, text, accepted, _ = benchmark_question(skill, SEED, index, split)
                known[f"ask {text} {render(scene).tobytes()!r}"] = accepted[0]
        for index in range(dialogues):
            script = benchmark_dialogue(SEED, index, split)
            texts: list[str] = []
            for turn, drawn in zip(script, play(script, rng), strict=True):
                texts.append(turn["text"])
                known[f"talk {texts}"] = picture(drawn) if drawn else turn["answers"][0]
    for index in range(when):
        turns, draws = benchmark_when(SEED, index)
        texts = [turn.text for turn in turns]
        known.setdefault(f"talk {texts}", picture(sample_scene(rng)) if draws else "No picture.")
    return known


class Oracle:
    revision, source = "abc", "oracle"

    def generate(self, prompt: list[str], *, seed: int, **sampling: Any) -> list[Image.Image]:
        return [answers()[f"draw {text}"] for text in prompt]

    def ask(
        self, image: list[Image.Image], question: list[str], *, seed: int, **sampling: Any
    ) -> list[str]:
        keys = [f"ask {q} {i.tobytes()!r}" for i, q in zip(image, question, strict=True)]
        return [answers()[key] for key in keys]

    def chat_batch(
        self, conversations: list[list[dict[str, Any]]], *, seed: int, **sampling: Any
    ) -> list[dict[str, Any]]:
        replies = []
        for messages in conversations:
            texts = [toybox.text_of(m) for m in messages if m["role"] == "user"]
            said = answers().get(f"talk {texts}", "I see.")
            kind = "text" if isinstance(said, str) else "image"
            replies.append({"role": "assistant", "content": [{"type": kind, kind: said}]})
        return replies


class Guesser:
    """Draws anything, and answers in words that fit the kind of question."""

    def __init__(self) -> None:
        self.rng = random.Random(0)

    def generate(self, prompt: list[str], *, seed: int, **sampling: Any) -> list[Image.Image]:
        return [picture(sample_scene(self.rng, "seen")) for _ in prompt]

    def answer(self, question: str) -> str:
        words = question.lower().split()
        family: tuple[str, ...] = tuple(OBJECTS)
        if words[0] in ("is", "are", "do", "does", "can") and " or " not in question:
            family = ("yes", "no")
        elif "how many" in question.lower() or "count" in words or "number" in words:
            family = NUMBERS[:5]
        elif "colour" in question or "color" in question:
            family = tuple(COLOURS)
        elif words[0] == "where":
            family = PLACE_NAMES
        return self.rng.choice(family)

    def ask(
        self, image: list[Image.Image], question: list[str], *, seed: int, **sampling: Any
    ) -> list[str]:
        return [self.answer(text) for text in question]

    def chat_batch(
        self, conversations: list[list[dict[str, Any]]], *, seed: int, **sampling: Any
    ) -> list[dict[str, Any]]:
        replies = []
        for messages in conversations:
            text = self.answer(toybox.text_of(messages[-1]) or "?")
            content: list[dict[str, Any]] = [{"type": "text", "text": text}]
            if self.rng.random() < 0.5:
                content.append({"type": "image", "image": self.generate([""], seed=0)[0]})
            replies.append({"role": "assistant", "content": content})
        return replies


@pytest.fixture(scope="module")
def oracle_rows() -> list[dict[str, Any]]:
    return evaluate(Oracle(), seed=SEED)


def test_an_oracle_is_always_right(oracle_rows: list[dict[str, Any]]) -> None:
    wrong = [(r["side"], r["skill"], r["split"], r["value"]) for r in oracle_rows if r["value"] < 1]
    assert not wrong


def test_rows(oracle_rows: list[dict[str, Any]]) -> None:
    keys = {(r["side"], r["skill"], r["split"]) for r in oracle_rows}
    assert len(keys) == len(oracle_rows)
    for side in ("understanding", "generation"):
        for split in ("seen", "held_out"):
            assert {(side, skill, split) for skill in (*SKILLS, "overall", "dialogue")} <= keys
    assert ("generation", "when to draw", "seen") in keys
    for row in oracle_rows:
        assert set(row) == FIELDS
        assert row["n"] > 0 and row["stderr"] == 0
        assert 0 <= row["chance"] < 1
        assert row["settings"]["seed"] == SEED
        assert row["settings"]["judge"] == "synthesis 1"
        assert row["settings"]["revision"] == "abc"
    json.dumps(oracle_rows)
    whole = {(r["side"], r["split"]): r["n"] for r in oracle_rows if r["skill"] == "overall"}
    assert whole["generation", "seen"] + whole["generation", "held_out"] >= 500
    assert whole["understanding", "seen"] + whole["understanding", "held_out"] >= 500


def test_guessing_scores_about_chance() -> None:
    for row in evaluate(Guesser(), seed=SEED, limit=240):
        slack = 0.15 if row["n"] >= 20 else 0.35
        if row["skill"] == "dialogue: kept":  # adding asks of a picture only what it holds already
            continue
        assert row["value"] <= row["chance"] + slack, row
        if row["skill"] == "when to draw":
            assert row["value"] >= 0.35


def test_limit_and_progress() -> None:
    calls: list[tuple[int, int, str]] = []

    def note(done: int, total: int, label: str) -> None:
        calls.append((done, total, label))

    rows = evaluate(Guesser(), seed=SEED, limit=8, on_progress=note)
    count = {(r["side"], r["split"]): r["n"] for r in rows if r["skill"] == "overall"}
    assert set(count.values()) == {8}
    assert calls[-1][0] == calls[-1][1]
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert evaluate(Guesser(), limit=1)
    with pytest.raises(ValueError, match="limit of 0"):
        evaluate(Guesser(), limit=0)


def test_the_prompts_are_part_of_the_settings() -> None:
    def prompts(**options: Any) -> str:
        return evaluate(Guesser(), **options)[0]["settings"]["prompts"]

    assert prompts(limit=6) == prompts(limit=6)
    assert prompts(limit=6) != prompts(limit=6, seed=1)


def test_table_shows_both_sides(oracle_rows: list[dict[str, Any]]) -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table(oracle_rows))
    text = console.export_text()
    assert "understanding" in text and "generation" in text
    for skill in (*SKILLS, "overall", "when to draw"):
        assert any(line.strip(" │┃").startswith(skill) for line in text.splitlines()), skill


def scene_of(*things: Thing, on: str = "white") -> Judged:
    return Judged(Scene.of(things, on).things, on, 0.0)


CAT = Thing("cat", None, "small", 0, 0)
RED = Thing("circle", "red", "small", 4, 4)
BLUE = Thing("circle", "blue", "small", 4, 4)


def facts(thing: Thing, **more: Any) -> dict[str, Any]:
    return {"name": thing.name, "colour": thing.colour, "size": None, "place": None, **more}


@pytest.mark.parametrize(
    ("turn", "before", "after", "right"),
    [
        ({"edit": "recolour", "target": facts(RED), "to": "blue",
          "things": {"cat": 1, "blue circle": 1}},
         scene_of(CAT, RED), scene_of(CAT, BLUE), True),
        ({"edit": "recolour", "target": facts(RED), "to": "blue",
          "things": {"cat": 1, "blue circle": 1}},
         scene_of(CAT, RED), scene_of(CAT, BLUE, on="night"), False),
        ({"edit": "move", "target": facts(CAT), "to": "bottom right",
          "things": {"cat": 1, "red circle": 1}},
         scene_of(CAT, RED), scene_of(CAT, RED), False),
        ({"edit": "move", "target": facts(CAT), "to": "top left",
          "things": {"cat": 1, "red circle": 1}},
         scene_of(CAT, RED), scene_of(CAT, RED), True),
        ({"edit": "add", "count": 1, "target": facts(RED), "relation": ["above", facts(CAT)],
          "things": {"cat": 1, "red circle": 1}},
         scene_of(CAT), scene_of(CAT, RED), False),
        ({"edit": "background", "from": "white", "to": "night", "things": {"cat": 1}},
         scene_of(CAT), scene_of(CAT, on="night"), True),
        ({"edit": "remove", "count": 1, "target": facts(RED), "things": {"cat": 1}},
         scene_of(CAT, RED), scene_of(RED), False),
    ],
)  # fmt: skip
def test_edits_are_judged(turn: dict[str, Any], before: Judged, after: Judged, right: bool) -> None:
    assert toybox.edited(before, after, turn) == right


def test_what_an_edit_does_not_name_stays() -> None:
    turn = {"edit": "recolour", "target": facts(RED), "to": "blue"}
    assert toybox.unchanged(scene_of(CAT, RED), scene_of(CAT, BLUE), turn)
    moved = Thing("cat", None, "small", 2, 0)
    assert not toybox.unchanged(scene_of(CAT, RED), scene_of(moved, BLUE), turn)


def test_messages_carry_pictures() -> None:
    message = toybox.user_message(Turn("user", (Scene((), "sand"), "What is this?")))
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    assert toybox.text_of(message) == "What is this?"
    assert toybox.pictures_of(message) == [picture(Scene((), "sand"))]
