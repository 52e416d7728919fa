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
