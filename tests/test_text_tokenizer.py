"""The text tokenizer: every string round-trips and none reaches a control id."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified.tokenizers.text import TextTokenizer, train
from unified.vocabulary import CONTROL

WORDS = (
    "draw a red blue green circle square cat dog on the left of beach night please what is".split()
)
LINES = [" ".join(random.Random(k).choices(WORDS, k=6)) for k in range(500)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path = tmp_path_factory.mktemp("text") / "tokenizer.model"
    train(LINES, path, 300)
    return TextTokenizer(str(path))


@given(text=st.text())
def test_any_string_round_trips(tokenizer: TextTokenizer, text: str) -> None:
    ids = tokenizer.ids(text)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.text(ids) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  spaces ",
        "\n\t",
        "\0",
        "a\0b",
        "\u2581",
        "▁▁a ▁",
        "<0x41>",
        "<unk>",
        "<s>",
        "</s>",
        "日本語 🐱",
        "\r\n",
        "e\u0301",
        *(f"<{name}>" for name in CONTROL),
    ],
)
def test_awkward_strings_stay_literal(tokenizer: TextTokenizer, text: str) -> None:
    ids = tokenizer.ids(text)
    assert tokenizer.text(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.pieces.unk_id() not in ids


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("\u201cDon\u2019t draw a cat\u2026\u201d", '"Don\'t draw a cat..."'),
        ("a\u00a0red\u2009dog \u2014 and\u200b a cat", "a red dog - and a cat"),
        ("\uff44\uff52\uff41\uff57 \u2461 dogs", "draw 2 dogs"),
        ("\u63cf\u304f \u00e9 \u00bd \U0001f436\u200d \u2581", None),
        ("<image>\n\t</s>", None),
    ],
)
def test_typography_that_has_no_piece_is_read_as_what_it_stands_for(
    tokenizer: TextTokenizer, typed: str, read: str | None
) -> None:
    assert tokenizer.plain(typed) == (typed if read is None else read)


def test_typography_that_was_learnt_stays(tmp_path: Path) -> None:
    train([f"{line}\u2026 \u201c{line}\u201d" for line in LINES], tmp_path / "tokenizer.model", 300)
    learnt = TextTokenizer(str(tmp_path / "tokenizer.model"))
    assert learnt.plain("\u201ccat\u2026\u201d \u2019") == "\u201ccat\u2026\u201d '"


@given(text=st.text())
def test_plain_text_stays_plain(tokenizer: TextTokenizer, text: str) -> None:
    once = tokenizer.plain(text)
    assert tokenizer.plain(once) == once
    assert [c for c in once if c.isascii()] or not any(c.isascii() for c in text)


@given(text=st.text(max_size=20))
def test_hugging_face_calls_agree(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.encode(text, add_special_tokens=False) == tokenizer.ids(text)


def test_saved_is_loaded(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = TextTokenizer.from_pretrained(tmp_path)
    assert again.ids(LINES[0]) == tokenizer.ids(LINES[0])


def test_too_little_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot train 5000 pieces"):
        train(LINES, tmp_path / "m", 5000)
