"""One id space: a range of ids for each kind of token.

    [ text | control | image ]                 a model of our own
    [ text, control ids among them | image ]   a published one, whose control ids are given

Where the published ids of the codes lie in the text range too, a code still has an id of its own
here; the ones in the text range (`shared`) never stand in a sequence. They only say which rows of
the decoder's embedding and head are the codes'.

Text ids are the text tokenizer's own. Text can never spell a control token: ours has none, and a
published one does not read them in text. Nobody else adds offsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Self

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
ROLES = ("user", "assistant")
VIEW = ("view", "view_end", "slot")
# of published models only, forced inside a picture: see `unified.sequence.Frame`
INSIDE = ("codes", "row_end", "codes_end")


@cache
def book_ranges(sizes: tuple[int, ...]) -> tuple[range, ...]:
    """Codebooks numbered through: sizes (8, 3) -> 0..7, 8..10."""
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return tuple(range(start, start + size) for start, size in zip(starts, sizes, strict=True))


@dataclass(frozen=True)
class Vocabulary:
    """Sizes of the ranges and the ids that follow from them.

    Attributes:
        text_size: ids of the text range.
        image_size: codes of the picture codebook.
        given: (name, id) of the control tokens that lie in the text range. Two names may share an
            id. `user` and `assistant` may be missing: those roles are words; and so may VIEW:
            there is no encoder, and pictures stand as codes alone.
        shared: first of the ids in the text range that codes have in the published numbering.
    """

    text_size: int
    image_size: int
    given: tuple[tuple[str, int], ...] = ()
    shared: int | None = None

    def __post_init__(self) -> None:
        if self.text_size < 1 or self.image_size < 1:
            raise ValueError(f"empty range: text {self.text_size}, image {self.image_size}")
        rows = self.shared_ids
        if rows and not 0 <= rows.start < rows.stop <= self.text_size:
            raise ValueError(f"ids {rows.start}..{rows.stop - 1} of codes, text {self.text_size}")
        if not self.given:
            return
        names = [name for name, _ in self.given]
        for name in names:
            if name not in (*CONTROL, *INSIDE):
                raise ValueError(f"unknown control token {name!r}; one of {', '.join(CONTROL)}")
        optional = (*ROLES, *(() if "view" in names else VIEW))
        for name in CONTROL:
            if name not in (*names, *optional):
                raise ValueError(f"control token {name!r} has no id")
        for name, token in self.given:
            if not 0 <= token < self.text_size:
                raise ValueError(f"control token {name!r} is {token}, not in 0..{self.text_size}")
            if token in rows:
                raise ValueError(f"control token {name!r} is {token}, which is a code's id")

    @classmethod
    def of(
        cls,
        text_size: int,
        image_size: int,
        ids: Mapping[str, int] | None,
        shared: int | None = None,
    ) -> Self:
        """With the control tokens at `ids`; after the text where there are none."""
        given = ids or {}
        order = sorted(given, key=lambda name: (*CONTROL, *INSIDE, name).index(name))
        return cls(text_size, image_size, tuple((name, given[name]) for name in order), shared)

    def __len__(self) -> int:
        return self.image_start + self.image_size

    @cached_property
    def controls(self) -> dict[str, int]:
        """Id of every control token by its name."""
        own = {name: self.text_size + k for k, name in enumerate(CONTROL)}
        return dict(self.given) or own

    @cached_property
    def _names(self) -> dict[int, tuple[str, ...]]:
        found: dict[int, tuple[str, ...]] = {}
        for name in (*CONTROL, *INSIDE):
            if name in self.controls:
                token = self.controls[name]
                found[token] = (*found.get(token, ()), name)
        return found

    @property
    def shared_ids(self) -> range:
        """Ids of the text range that are codes' in the published numbering; often empty."""
        first = self.shared
        return range(0) if first is None else range(first, first + self.image_size)

    @cached_property
    def text_ranges(self) -> tuple[range, ...]:
        """The ids of text: control ids and those of codes left out."""
        cuts = [(token, token + 1) for _, token in self.given]
        cuts = sorted({*cuts, *([(r.start, r.stop)] if (r := self.shared_ids) else [])})
        starts, stops = [0, *(stop for _, stop in cuts)], [*(a for a, _ in cuts), self.text_size]
        return tuple(range(a, b) for a, b in zip(starts, stops, strict=True) if a < b)

    def control(self, name: str) -> int:
        """Id of a control token, by its name in CONTROL."""
        return self.controls[name]

    @property
    def image_start(self) -> int:
        """The id of code 0."""
        return self.text_head

    @property
    def text_head(self) -> int:
        """Outputs of the text head: text and control ids, 0..text_head."""
        return self.text_size + (0 if self.given else len(CONTROL))

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
        """ "text", "control" or "image"; "row" for an id that codes have in other numbering."""
        if not 0 <= token < len(self):
            raise ValueError(f"id {token} is outside the vocabulary of {len(self)}")
        if token >= self.image_start:
            return "image"
        if token in self.shared_ids:
            return "row"
        return "control" if token in self._names else "text"

    def names(self, token: int) -> tuple[str, ...]:
        """What an id may be called in the grammar: names of CONTROL, "text", "code" or "row"."""
        kind = self.kind(token)
        return self._names[token] if kind == "control" else ("code" if kind == "image" else kind,)

    def name(self, token: int) -> str:
        """How an id is called in errors: "<image>", "text 17", "image 3"."""
        kind = self.kind(token)
        if kind == "control":
            return f"<{self._names[token][0]}>"
        return f"{kind} {token - (self.image_start if kind == 'image' else 0)}"
