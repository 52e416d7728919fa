"""Text tokenizer: SentencePiece with byte fallback, any UTF-8 string <-> ids.

It holds no control token at all: their ids lie in another range (`unified.vocabulary`), so text
that spells one stays text. SentencePiece: https://arxiv.org/abs/1808.06226.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
from transformers import PreTrainedTokenizer

SPACE = "\u2581"  # how SentencePiece spells a space inside its pieces


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
