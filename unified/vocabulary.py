"""One id space: a range of ids for each kind of token.

    [ text | control | image ]

Text ids are the text tokenizer's own, so text can never spell a control token: no string encodes
to an id outside the text range. Nobody else adds offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

CONTROL = (
    "pad",
    "bos",  # a conversation begins
    "user",  # a turn begins
    "assistant",
    "end",  # a turn ends
    "image",  # codes of a picture begin: emitting it is the decision to draw
    "image_end",
    "view",  # features of the understanding encoder begin
    "view_end",
    "slot",  # one feature; its embedding is filled in by the encoder
)


@cache
def book_ranges(sizes: tuple[int, ...]) -> tuple[range, ...]:
    """Codebooks numbered through: sizes (8, 3) -> 0..7, 8..10."""
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return tuple(range(start, start + size) for start, size in zip(starts, sizes, strict=True))


@dataclass(frozen=True)
class Vocabulary:
    """Sizes of the ranges and the ids that follow from them.

    Attributes:
        text_size: pieces of the text tokenizer.
        image_size: codes of the picture codebook.
    """

    text_size: int
    image_size: int

    def __post_init__(self) -> None:
        if self.text_size < 1 or self.image_size < 1:
            raise ValueError(f"empty range: text {self.text_size}, image {self.image_size}")

    def __len__(self) -> int:
        return self.image_start + self.image_size

    def control(self, name: str) -> int:
        """Id of a control token, by its name in CONTROL."""
        return self.text_size + CONTROL.index(name)

    @property
    def image_start(self) -> int:
        return self.text_head

    @property
    def text_head(self) -> int:
        """Outputs of the text head: text and control ids, 0..text_head."""
        return self.text_size + len(CONTROL)

    def image_ids(self, codes: list[int]) -> list[int]:
        """Codes 0..image_size -> ids."""
        for code in codes:
            if not 0 <= code < self.image_size:
                raise ValueError(f"picture code {code} is outside 0..{self.image_size - 1}")
        return [self.image_start + code for code in codes]

    def image_codes(self, ids: list[int]) -> list[int]:
        """Inverse of `image_ids`."""
        for token in ids:
            if self.kind(token) != "image":
                raise ValueError(f"id {token} is no picture code but {self.name(token)}")
        return [token - self.image_start for token in ids]

    def kind(self, token: int) -> str:
        """ "text", "control" or "image"."""
        if not 0 <= token < len(self):
            raise ValueError(f"id {token} is outside the vocabulary of {len(self)}")
        if token < self.text_size:
            return "text"
        return "control" if token < self.text_head else "image"

    def name(self, token: int) -> str:
        """How an id is called in errors: "<image>", "text 17", "image 3"."""
        kind = self.kind(token)
        if kind == "control":
            return f"<{CONTROL[token - self.text_size]}>"
        return f"{kind} {token - (self.image_start if kind == 'image' else 0)}"
