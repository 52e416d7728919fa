"""The declared spec: ids, patterns, layout and grammar, over random interleavings."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified.grammar import Grammar
from unified.pattern import Pattern, delay, raster, wavefront
from unified.sequence import Layout, Picture, Text, Turn
from unified.vocabulary import CONTROL, Vocabulary

LAYOUT = Layout(
    Vocabulary(text_size=50, image_size=20),
    codebooks=(5, 12, 3),
    books=(0, 1, 2, 1, 2, 1),
    view_length=3,
)
texts = st.lists(st.integers(0, 49), min_size=1, max_size=5).map(lambda ids: Text(tuple(ids)))
first, second, third = st.integers(0, 4), st.integers(5, 16), st.integers(17, 19)
codes = st.tuples(first, second, third, second, third, second)
pictures = st.one_of(st.builds(Picture, codes, st.booleans()), st.just(Picture(None, view=True)))
turns = st.builds(
    Turn, st.sampled_from(("user", "assistant")), st.lists(texts | pictures, max_size=5).map(tuple)
)


def joined(turn: Turn) -> Turn:
    """Text parts that follow each other as one, and codes that meet a lone view as one picture:
    the two borders that ids cannot show."""
    parts: list[Text | Picture] = []
    for part in turn.parts:
        last = parts[-1] if parts else None
        if isinstance(part, Text) and isinstance(last, Text):
            parts[-1] = Text(last.ids + part.ids)
        elif (
            isinstance(part, Picture)
            and isinstance(last, Picture)
            and part.codes is None
            and not last.view
        ):
            parts[-1] = Picture(last.codes, view=True)
        else:
            parts.append(part)
    return Turn(turn.role, tuple(parts))


@given(st.lists(turns, max_size=5))
def test_any_interleaving_round_trips(conversation: list[Turn]) -> None:
    flat = LAYOUT.flatten(conversation)
    assert LAYOUT.parse(flat.ids) == [joined(turn) for turn in conversation]
    again = LAYOUT.flatten(LAYOUT.parse(flat.ids))
    assert (again.ids, again.loss) == (flat.ids, flat.loss)


@given(st.lists(turns, max_size=5))
def test_loss_falls_on_what_the_assistant_chooses(conversation: list[Turn]) -> None:
    flat = LAYOUT.flatten(conversation)
    grammar, role = Grammar(LAYOUT), ""
    for token, loss in zip(flat.ids, flat.loss, strict=True):
        name = LAYOUT.vocabulary.name(token)
        chosen = name in ("<image>", "<end>") or not name.startswith("<")
        assert loss == (role == "assistant" and chosen)
        grammar.advance(token)
        role = name[1:-1] if name in ("<user>", "<assistant>") else role
    assert grammar.is_complete


@given(st.lists(turns, min_size=1, max_size=4), st.data())
def test_a_damaged_sequence_is_named(conversation: list[Turn], data: st.DataObject) -> None:
    ids = LAYOUT.flatten(conversation).ids
    place = data.draw(st.integers(0, len(ids) - 1))
    with pytest.raises(ValueError, match="at 0|at |inside a turn"):
        LAYOUT.parse([*ids[:place], LAYOUT.vocabulary.control("pad"), *ids[place + 1 :]])


@given(st.integers(0, 2**32), st.booleans())
def test_random_sampler_under_the_grammar_is_parseable(seed: int, draw: bool) -> None:
    rng = random.Random(seed)
    ids = LAYOUT.flatten([Turn("user", (Text((1, 2)),))], reply=True).ids
    grammar = Grammar(LAYOUT)
    for token in ids:
        grammar.advance(token)
    while not grammar.is_complete:
        if grammar.head is None:
            token = grammar.forced
        elif len(ids) > 60 and grammar.head == "text":
            token = LAYOUT.vocabulary.control("end")
        else:
            allowed = [i for r in grammar.choices(draw) for i in r]
            logits = {i: rng.random() for i in allowed}
            token = max(logits, key=logits.__getitem__)
        grammar.advance(token)
        ids.append(token)
    reply = LAYOUT.parse(ids)[-1]
    drawn = [part for part in reply.parts if isinstance(part, Picture)]
    assert all(part.codes is not None and part.view for part in drawn)
    assert draw or not drawn


def test_ranges_partition_the_ids() -> None:
    vocabulary = LAYOUT.vocabulary
    kinds = [vocabulary.kind(i) for i in range(len(vocabulary))]
    assert kinds == ["text"] * 50 + ["control"] * len(CONTROL) + ["image"] * 20
    assert vocabulary.image_codes(vocabulary.image_ids(list(range(20)))) == list(range(20))
    for bad in (-1, len(vocabulary)):
        with pytest.raises(ValueError, match=str(bad)):
            vocabulary.kind(bad)
    with pytest.raises(ValueError, match="20 is outside"):
        vocabulary.image_ids([20])


def test_wrong_parts_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="<image> inside a text part"):
        LAYOUT.flatten([Turn("user", (Text((LAYOUT.vocabulary.control("image"),)),))])
    with pytest.raises(ValueError, match="2 codes; a picture has 6"):
        LAYOUT.flatten([Turn("user", (Picture((1, 2)),))])
    with pytest.raises(ValueError, match="unknown role 'system'"):
        Turn("system", ())
    with pytest.raises(ValueError, match="codes, a view or both"):
        Picture(None, view=False)


@given(st.permutations(range(12)), st.lists(st.integers(), min_size=12, max_size=12))
def test_patterns_are_bijections(order: list[int], grid: list[int]) -> None:
    pattern = Pattern(tuple(order))
    assert pattern.read(pattern.write(grid)) == grid == pattern.write(pattern.read(grid))
    assert raster(3, 4).write(grid) == grid


def test_a_pattern_that_loses_a_code_is_refused() -> None:
    with pytest.raises(ValueError, match="not a permutation"):
        Pattern((0, 0, 1))


def test_steps_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="do not write 3 codes"):
        Pattern((0, 1, 2), (1, 1))
    with pytest.raises(ValueError, match="slope of 0"):
        wavefront(2, 2, 0)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3))
def test_a_wavefront_writes_every_code_after_those_left_of_it_and_above(
    rows: int, columns: int, slope: int
) -> None:
    pattern = wavefront(rows, columns, slope)
    written = {index: k for k, step in enumerate(pattern.steps) for index in step}
    assert len(pattern.steps) <= columns + slope * (rows - 1)
    for index, step in written.items():
        row, column = divmod(index, columns)
        assert column == 0 or written[index - 1] < step
        assert row == 0 or written[index - columns] < step
    grid = list(range(rows * columns))
    assert pattern.read(pattern.write(grid)) == grid


@given(st.integers(1, 6), st.integers(1, 5))
def test_a_delay_writes_each_codebook_one_step_behind_the_one_before(
    steps: int, books: int
) -> None:
    pattern = delay(steps, books)
    assert len(pattern.steps) == steps + books - 1
    for k, step in enumerate(pattern.steps):
        assert all(sum(divmod(index, books)) == k for index in step)
    grid = list(range(steps * books))
    assert pattern.read(pattern.write(grid)) == grid
