"""Text tokenizers, any UTF-8 string <-> ids: our own, and that of a published model.

`TextTokenizer` is SentencePiece with byte fallback (https://arxiv.org/abs/1808.06226). It holds no
control token at all: their ids lie in another range (`unified.vocabulary`), so text that spells one
stays text. `PublishedTokenizer` is a tokenizer.json, in which they are tokens like others; it does
not read them in text.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

SPACE = "\u2581"  # how SentencePiece spells a space inside its pieces
# what phones and word processors write for plain characters, beside what Unicode itself calls alike
PLAIN = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
    **dict.fromkeys("\u00ad\u200b\u2060\ufeff", ""),  # they cannot be seen
}


def train(lines: Iterable[str], path: Path, size: int) -> None:
    """Train a byte-pair model of `size` pieces and write it to `path`.

    Raises:
        ValueError: the text is too little for so many pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=size,
            model_type="bpe",
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            split_digits=True,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            unk_id=0,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"cannot train {size} pieces: {str(error).splitlines()[0]}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.getvalue())


class TextTokenizer(PreTrainedTokenizer):
    """A SentencePiece model in Hugging Face's clothes, without special tokens.

    `ids` and `text` are the exact pair used by this toolkit: text(ids(s)) == s for every string.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, **kwargs: Any):
        self.vocab_file = vocab_file
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocab_file))
        self._bytes = [self.pieces.piece_to_id(f"<0x{value:02X}>") for value in range(256)]
        self._value = {token: value for value, token in enumerate(self._bytes)}
        super().__init__(**kwargs)

    def ids(self, text: str) -> list[int]:
        """Ids of a string, all below `vocab_size`."""
        out: list[int] = []
        for index, part in enumerate(text.split(SPACE)):
            if index:  # a literal U+2581 would come back as a space: spell its bytes
                out += [self._bytes[value] for value in SPACE.encode()]
            for k, piece in enumerate(part.split("\0")):
                if k:  # SentencePiece ends a string at NUL
                    out.append(self._bytes[0])
                out += self.pieces.encode(piece)
        return out

    def text(self, ids: Iterable[int]) -> str:
        """Inverse of `ids`; bytes that are no UTF-8 (a cut-off reply) become U+FFFD."""
        out = bytearray()
        for token in ids:
            if token in self._value:
                out.append(self._value[token])
            elif token == self.pieces.unk_id():  # never encoded; an untrained model may write it
                out += b"\xff"
            else:
                out += self.pieces.id_to_piece(int(token)).replace(SPACE, " ").encode()
        return out.decode("utf-8", errors="replace")

    def plain(self, text: str) -> str:
        """A text without the typography that this tokenizer has nothing but bytes for: curly
        quotes, dashes, an ellipsis, wide letters, spaces that do not break. Where that has plain
        characters to stand for it, they do; all else is left as it is."""
        return "".join(c if c.isascii() or c in self._own else _plain(c) for c in text)

    @cached_property
    def _own(self) -> frozenset[str]:
        """The characters that have a piece of their own."""
        spelt = (self.pieces.id_to_piece(i) for i in range(self.vocab_size))
        return frozenset(piece for piece in spelt if len(piece) == 1)

    @property
    def vocab_size(self) -> int:
        return int(self.pieces.get_piece_size())

    def get_vocab(self) -> dict[str, int]:
        return {self.pieces.id_to_piece(i): i for i in range(self.vocab_size)}

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [self.pieces.id_to_piece(i) for i in self.ids(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return int(self.pieces.piece_to_id(token))

    def _convert_id_to_token(self, index: int) -> str:
        return str(self.pieces.id_to_piece(index))

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self.text(self.pieces.piece_to_id(t) for t in tokens)

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str]:
        name = (f"{filename_prefix}-" if filename_prefix else "") + "tokenizer.model"
        target = Path(save_directory) / name
        if target.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)


def _plain(character: str) -> str:
    """The ASCII that a character stands for, itself where it stands for none."""
    alike = PLAIN.get(character, unicodedata.normalize("NFKC", character))
    return alike if alike.isascii() else character


class PublishedTokenizer(PreTrainedTokenizerFast):
    """A tokenizer.json of Hugging Face's library, with the interface of `TextTokenizer`.

    `ids` never gives a special token, whatever the text spells. Its normalizer may change a text,
    so text(ids(s)) == s holds as far as the published tokenizer lets it.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json"}
    model_input_names = ["input_ids", "attention_mask"]

    # no __init__: transformers rebuilds the tokenizer of a class that has one, by guesses

    @cached_property
    def special(self) -> dict[str, int]:
        """Ids of the special tokens by their spelling."""
        return {t["content"]: t["id"] for t in self._values["added_tokens"] if t["special"]}

    @cached_property
    def _values(self) -> dict[str, Any]:
        """tokenizer.json, every token that the configuration names marked as special."""
        values: dict[str, Any] = json.loads(self.backend_tokenizer.to_str())
        named = set(self.all_special_tokens)
        for token in values["added_tokens"]:
            token["special"] = token["special"] or token["content"] in named
        return values

    @cached_property
    def _plain(self) -> Tokenizer:
        """The tokenizer that reads no special token."""
        plain = Tokenizer.from_str(json.dumps(self._values))
        plain.encode_special_tokens = True
        return plain

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        spelt = sorted(self.special, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, spelt)) or '(?!)'})")

    def ids(self, text: str) -> list[int]:
        """Ids of a string, no special token among them."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def written(self, pieces: Iterable[tuple[str, bool]]) -> list[int]:
        """Ids of pieces written one after the other as one text. Special tokens are read only in
        those marked True: the words of a prompt template."""
        out: list[int] = []
        plain = ""
        for text, trusted in pieces:
            for part in self._marks.split(text) if trusted else [text]:
                if trusted and part in self.special:
                    out += [*(self.ids(plain) if plain else ()), self.special[part]]
                    plain = ""
                else:
                    plain += part or ""
        return out + (self.ids(plain) if plain else [])

    def text(self, ids: Iterable[int]) -> str:
        """Inverse of `ids`; special tokens are left out, bytes that are no UTF-8 become U+FFFD."""
        text: str = self._plain.decode([int(token) for token in ids], skip_special_tokens=True)
        return text


def load_tokenizer(folder: Path) -> TextTokenizer | PublishedTokenizer:
    """The tokenizer saved in a model directory.

    Raises:
        ValueError: there is none.
    """
    if (folder / "tokenizer.model").is_file():
        return TextTokenizer(str(folder / "tokenizer.model"))
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} has neither tokenizer.model nor tokenizer.json")
    loaded: PublishedTokenizer = PublishedTokenizer.from_pretrained(
        str(folder), local_files_only=True
    )
    return loaded
