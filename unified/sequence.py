"""Interleaved conversations <-> ids, with the loss mask. Pure: no tensors, no text, no pixels.

    <bos> (<user> part* <end> | <assistant> part* <end>)*
    picture part = [<image> code* <image_end>] [<view> <slot>* <view_end>]     at least one of both

A picture stands as *codes* (what generation writes), as a *view* (slots that the understanding
encoder fills), or both. Loss falls on what the assistant says by itself: text, <image>, codes and
<end>; never on what the grammar forces (<image_end>, the view) or on the user.

A published model may have no token for a role: then <user> and <assistant> are left out, the words
of its prompt template (`unified.processing`) stand inside the user's parts, and only the
assistant's turns end with <end>. It may open a view with the same token as codes, have no view at
all, and put ids of its own among the codes (`Frame`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise

from unified.pattern import Pattern, raster
from unified.vocabulary import ROLES, Vocabulary, book_ranges


@dataclass(frozen=True)
class Text:
    """loss: whether it is learnt; None: as its turn says."""

    ids: tuple[int, ...]
    loss: bool | None = None


@dataclass(frozen=True)
class Picture:
    """codes: in the codec's order, None where it stands as a view only. loss: whether the codes are
    learnt; None: as its turn says."""

    codes: tuple[int, ...] | None
    view: bool = True
    loss: bool | None = None

    def __post_init__(self) -> None:
        if self.codes is None and not self.view:
            raise ValueError("a picture needs codes, a view or both")


@dataclass(frozen=True)
class Turn:
    """loss: whether an assistant's turn is learnt; a user's is not. A part may say otherwise; of
    the turn, <end> is left."""

    role: str
    parts: tuple[Text | Picture, ...]
    loss: bool = True

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"unknown role {self.role!r}; one of {', '.join(ROLES)}")


@dataclass
class Sequence:
    """ids and, for each, whether it is a target of the loss (as the *next* token)."""

    ids: list[int] = field(default_factory=list)
    loss: list[bool] = field(default_factory=list)

    def add(self, ids: list[int] | tuple[int, ...], loss: bool) -> None:
        """Append ids that all carry loss, or none."""
        self.ids.extend(ids)
        self.loss.extend([loss] * len(ids))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Frame:
    """Ids that always stand inside a picture, between <image> and <image_end>.

        <image> opening (code * row, row_end)* closing <image_end>

    Attributes:
        opening, closing: before the first code and after the last.
        row: codes of a row.
        row_end: ids after every row.
    """

    opening: tuple[int, ...] = ()
    row: int = 1
    row_end: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()

    def written(self, length: int) -> tuple[int | None, ...]:
        """What stands in a picture of `length` codes, None for a code."""
        if length % self.row:
            raise ValueError(f"{length} codes do not make rows of {self.row}")
        rows = (*(None,) * self.row, *self.row_end) * (length // self.row)
        return (*self.opening, *rows, *self.closing)


@dataclass(frozen=True)
class Layout:
    """The spec of one model's sequences.

    Attributes:
        codebooks: sizes of the picture codebooks; together the vocabulary's image range.
        books: the codebook of each code of a picture, in the codec's order.
        view_length: slots of a view; 0 where there is no encoder.
        reread: what was drawn is read back as a view, in the reply and in later turns.
        unconditional: what guidance compares a picture with: "fresh", a reply to nothing, or
            "padded", the same prompt with <pad> for all but its first id.
        frame: what stands among the codes of a picture.
        pattern: in which order and steps they are written; None: one by one, in the codec's order.
    """

    vocabulary: Vocabulary
    codebooks: tuple[int, ...]
    books: tuple[int, ...]
    view_length: int
    reread: bool = True
    unconditional: str = "fresh"
    frame: Frame = Frame()
    pattern: Pattern | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.pattern is not None:
            if len(self.pattern.order) != len(self.books):
                raise ValueError(f"a pattern of {len(self.pattern.order)} codes; a picture has "
                                 f"{len(self.books)}")  # fmt: skip
            if self.frame != Frame():
                raise ValueError("ids that stand among codes want them one by one: pattern raster")
        if self.unconditional not in ("fresh", "padded"):
            raise ValueError(f"unconditional is {self.unconditional!r}; one of fresh, padded")
        if sum(self.codebooks) != self.vocabulary.image_size:
            raise ValueError(
                f"codebooks of {sum(self.codebooks)} codes, an image range of "
                f"{self.vocabulary.image_size}"
            )
        if self.reread and not self.views:
            raise ValueError("what was drawn cannot be read back: this layout has no view")

    @property
    def image_length(self) -> int:
        """Codes of a picture."""
        return len(self.books)

    @cached_property
    def order(self) -> Pattern:
        """Codes of a picture in the codec's order <-> as they are written."""
        return self.pattern or raster(1, self.image_length)

    @property
    def first_codes(self) -> tuple[int, ...]:
        """A picture: of every codebook its first code, in the codec's order."""
        ranges = book_ranges(self.codebooks)
        return tuple(ranges[book].start for book in self.books)

    @property
    def views(self) -> bool:
        """Whether a picture may stand as a view."""
        return "view" in self.vocabulary.controls

    @cached_property
    def written(self) -> tuple[int | None, ...]:
        """What stands between <image> and <image_end>: ids that are always the same, and None for
        each code."""
        return self.frame.written(self.image_length)

    @cached_property
    def places(self) -> tuple[int, ...]:
        """How many codes come before each of `written`."""
        out, place = [], 0
        for due in self.written:
            out.append(place)
            place += due is None
        return tuple(out)

    @property
    def drawn_length(self) -> int:
        """Ids that a drawn picture takes in a reply: codes, the view if it is read back, marks."""
        return len(self.written) + 2 + (self.view_length + 2 if self.reread else 0)

    @property
    def roles(self) -> bool:
        """Whether roles are tokens."""
        return "user" in self.vocabulary.controls

    @cached_property
    def steps(self) -> tuple[tuple[int | range, ...], ...]:
        """What stands between <image> and <image_end>, by the steps that write it: an id that is
        always the same, or the ids of which one is chosen."""
        pairs = zip(self.written, self.places, strict=True)
        ids = tuple(self.codes_at(place) if due is None else due for due, place in pairs)
        ends = accumulate(self.order.sizes or (1,) * len(ids), initial=0)
        return tuple(ids[start:end] for start, end in pairwise(ends))

    def codes_at(self, place: int) -> range:
        """Ids that may be written as the `place`-th code of a picture: those of its codebook."""
        start = self.vocabulary.image_start
        codes = book_ranges(self.codebooks)[self.books[self.order.order[place]]]
        return range(start + codes.start, start + codes.stop)

    def flatten(self, turns: list[Turn] | tuple[Turn, ...], reply: bool = False) -> Sequence:
        """Turns -> ids and loss mask. With `reply`, <assistant> is opened for the model to go on.

        Text parts that follow each other are joined: their border cannot be told from the ids.
        """
        control = self.vocabulary.control
        out = Sequence()
        out.add([control("bos")], False)
        for turn in turns:
            learn = turn.role == "assistant" and turn.loss
            if self.roles:
                out.add([control(turn.role)], False)
            for part in turn.parts:
                own = learn if part.loss is None else part.loss
                if isinstance(part, Text):
                    self._check_text(part.ids)
                    out.add(part.ids, own)
                else:
                    self._add_picture(out, part, own)
            if self.roles or turn.role == "assistant":
                out.add([control("end")], learn)
        if reply and self.roles:
            out.add([control("assistant")], False)
        return out

    def twin(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        """What the unconditional row of guidance sees in place of a prompt."""
        control = self.vocabulary.control
        if self.unconditional == "padded":
            return (*prompt[:1], *(control("pad"),) * (len(prompt) - 1))
        return (control("bos"), control("assistant")) if self.roles else (control("bos"),)

    def _check_text(self, ids: tuple[int, ...]) -> None:
        for token in ids:
            if self.vocabulary.kind(token) != "text":
                raise ValueError(f"{self.vocabulary.name(token)} inside a text part")

    def _add_picture(self, out: Sequence, picture: Picture, learn: bool) -> None:
        control = self.vocabulary.control
        if picture.codes is not None:
            if len(picture.codes) != self.image_length:
                raise ValueError(f"{len(picture.codes)} codes; a picture has {self.image_length}")
            out.add([control("image")], learn)
            ids = self.vocabulary.image_ids(self.order.write(picture.codes))
            for place, token in enumerate(ids):
                self.check_code(token, place)
            for due, place in zip(self.written, self.places, strict=True):
                out.add([ids[place] if due is None else due], learn and due is None)
            out.add([control("image_end")], False)
        if picture.view:
            if not self.views:
                raise ValueError("this layout has no view; a picture stands as codes alone")
            out.add(self.view_ids(), False)

    def check_code(self, token: int, place: int) -> None:
        """Raise ValueError for a code of another codebook than its place wants."""
        allowed = self.codes_at(place)
        if token not in allowed:
            raise ValueError(
                f"{self.vocabulary.name(token)} at place {place} of a picture, where codes "
                f"{allowed.start - self.vocabulary.image_start} to "
                f"{allowed.stop - 1 - self.vocabulary.image_start} stand"
            )

    def view_ids(self) -> list[int]:
        """A view: its marks around `view_length` slots."""
        control = self.vocabulary.control
        return [control("view"), *[control("slot")] * self.view_length, control("view_end")]

    def parse(self, ids: list[int] | tuple[int, ...]) -> list[Turn]:
        """Inverse of `flatten` for whole conversations.

        Raises:
            ValueError: names the first id that breaks the grammar and its place; or roles are no
                tokens, so that ids do not show where a turn begins.
        """
        if not self.roles:
            raise ValueError("roles are words in this layout; its ids do not show the turns")
        from unified.grammar import Grammar  # the automaton says what may follow

        grammar = Grammar(self)
        turns: list[Turn] = []
        text: list[int] = []
        codes: list[int] | None = None
        parts: list[Text | Picture] = []
        role = ""
        vocabulary, order = self.vocabulary, self.order
        for place, token in enumerate(ids):
            within = grammar.due is not None
            try:
                grammar.advance(token)
            except ValueError as error:
                raise ValueError(f"at {place}: {error}") from None
            if within:
                continue
            kind = vocabulary.kind(token)
            name = vocabulary.name(token)[1:-1] if kind == "control" else ""
            if kind == "text":
                if codes is not None:
                    parts.append(Picture(tuple(order.read(codes)), view=False))
                    codes = None
                text.append(token)
            elif kind == "image":
                assert codes is not None
                codes.append(token - vocabulary.image_start)
            elif name in ("image", "view", "end"):
                if text:
                    parts.append(Text(tuple(text)))
                    text = []
                if codes is not None and name != "view":
                    parts.append(Picture(tuple(order.read(codes)), view=False))
                    codes = None
                if name == "image":
                    codes = []
                elif name == "end":
                    turns.append(Turn(role, tuple(parts)))
                    parts = []
            elif name == "view_end":
                parts.append(Picture(None if codes is None else tuple(order.read(codes))))
                codes = None
            elif name in ROLES:
                role = name
        if not grammar.is_complete:
            raise ValueError(f"the sequence ends inside a turn, after {len(ids)} ids")
        return turns
