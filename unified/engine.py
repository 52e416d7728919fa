"""Decoding: what each request writes next, by its grammar, its heads, guidance and chance.

Requests are served together (`unified.batch`), each in its own grammar state. A guided request has
a twin that sees the codes so far, and before them what the layout calls unconditional: nothing but
`<bos> <assistant> <image>`, or the row itself in pads, without what it drew before. Each request
draws from its own generator, a noise for each choice in the order of its ids, so its tokens do not
depend on its neighbours, save where two choices are equal to the last digits: products of several
rows are not rounded like those of one. `naive` is the same without cache or batch, for the tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch

from unified.batch import Lane, Session
from unified.cache import RowCache
from unified.capture import wanted
from unified.choices import Choice, by_torch
from unified.fixed import Fixed
from unified.grammar import Grammar
from unified.modeling import UnifiedForConditionalGeneration
from unified.prefixes import MEMORY, Prefixes
from unified.sampling import Sampling, chance, choose, exponential
from unified.step import Step, lasting, mark
from unified.tokenizers.codec import Codec

DRAW = ("auto", "never", "first", "only", "now")


@dataclass(frozen=True)
class Request:
    """One reply to write.

    Attributes:
        ids: the conversation so far, `<assistant>` opened last.
        views: (N, C, H, W) in [-1, 1], one for each view in `ids`.
        draw: "auto": the model decides; "never"; "first": as auto, over at its first picture;
            "only": as first, but where it would end without a picture it draws one all the same;
            "now": nothing but a picture.
        most: ids at most in the reply; it is ended there, a begun picture completed first.
    """

    ids: tuple[int, ...]
    views: torch.Tensor | None = None
    seed: int = 0
    sampling: Sampling = Sampling()
    draw: str = "auto"
    most: int = 400

    def __post_init__(self) -> None:
        if self.draw not in DRAW:
            raise ValueError(f"unknown draw {self.draw!r}; one of {', '.join(DRAW)}")


class Pictures(Sequence[torch.Tensor]):
    """Pictures (C, H, W) in [-1, 1]. One that is still on its way from codes to pixels is waited
    for when it is looked at."""

    def __init__(self) -> None:
        self._made: list[torch.Tensor | Future[torch.Tensor]] = []

    def append(self, picture: torch.Tensor | Future[torch.Tensor]) -> None:
        self._made.append(picture)

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        made = self._made[index]
        return made.result() if isinstance(made, Future) else made


@dataclass
class Reply:
    """ids written after the request's own; pictures drawn; why it ended: "end", "picture",
    "length", "cancelled", "" where it has not."""

    ids: list[int] = field(default_factory=list)
    pictures: Pictures = field(default_factory=Pictures)
    reason: str = ""


@dataclass
class Row:
    """Where one request stands.

    Attributes:
        lanes: of a batch that it may take: itself and its twin.
        lane, twin: those that it has. features: of the view being read back. reread: such views.
        fresh: ids of the reply that were chosen together, last.
        codes: of the picture that is being drawn, in written order.
    """

    request: Request
    grammar: Grammar
    generator: torch.Generator
    lanes: int = 1
    number: int = 0
    reply: Reply = field(default_factory=Reply)
    lane: Lane | None = None
    twin: Lane | None = None
    features: torch.Tensor | None = None
    reread: int = 0
    fresh: int = 1
    codes: list[int] = field(default_factory=list)
    at: int | None = None  # the next step of a picture, where one is being drawn
    picture: list[int] = field(default_factory=list)  # ids of the one being drawn, <image> first
    done: bool = False
    others: int = 0  # ids written outside of drawn pictures

    @property
    def drawing(self) -> bool:
        """Whether the last id is <image>, a code or what stands among codes."""
        return self.grammar.state in ("codes", "image_end")

    @property
    def guided(self) -> bool:
        return self.request.sampling.guided


class Engine:
    """Runs requests on one model. Tokens and pictures only: words are the handle's business.

    Args:
        memory: bytes that `prefixes` take at most.

    Attributes:
        prefixes: keys and values of prompts, for those that begin alike.
        captured: whether steps have fixed shapes and are recorded (`unified.capture.wanted`); None:
            on CUDA.
        aside: whether pixels are decoded by a thread beside the steps; None: where that pays, on a
            GPU, and on a CPU that has cores for a second team of threads.
    """

    def __init__(self, model: UnifiedForConditionalGeneration, codec: Codec, memory: int = MEMORY):
        self.model, self.codec = model, codec
        self.layout = model.config.layout
        self.vocabulary = self.layout.vocabulary
        self.context = model.config.text_config.max_position_embeddings
        self.step: Step | None = None
        self.fixed: Fixed | None = None
        self.captured: bool | None = None
        self.prefixes = Prefixes(memory)
        self.aside: bool | None = None
        self._beside: ThreadPoolExecutor | None = None
        self._stream: torch.cuda.Stream | None = None  # of that thread
        self.plan, self._places = self.layout.steps, self.layout.order.steps
        chosen = [isinstance(step[0], range) for step in self.plan]
        self._chosen = tuple(accumulate(chosen, initial=0))  # steps before each that wrote codes
        self._last = max(k for k, codes in enumerate(chosen) if codes)
        self._bars: dict[bool, torch.Tensor] = {}

    def serve(self, rows: int) -> Session:
        """An empty batch, to which requests are added at any time. See `Session`."""
        return Session(self, rows)

    def run(
        self,
        requests: list[Request],
        on_step: Callable[[int, int], None] | None = None,
        rows: int | None = None,
    ) -> list[Reply]:
        """All replies, in order. `on_step(k, id)` sees each id of request k as it is written.

        Args:
            rows: of the batch, at most; by default all requests run at once.
        """
        session = self.serve(rows or 2 * max(1, len(requests)))
        replies = [session.replies[session.add(request)] for request in requests]
        while session.busy:
            for number, token in session.step():
                if on_step is not None:
                    on_step(number, token)
        return replies

    def stream(self, request: Request) -> Iterator[tuple[int, Reply]]:
        """Ids of one reply as they are written, with the reply so far."""
        session = self.serve(2)
        reply = session.replies[session.add(request)]
        while session.busy:
            for _, token in session.step():
                yield token, reply

    def refresh(self) -> None:
        """Take the model as it is now: what was computed from other weights is forgotten."""
        model, step = self.model, Step.of(self.model, self.step)
        self.prefixes.refresh(
            step.mark if step else mark(model), step.lasting if step else lasting(model)
        )
        self.step, captured = step, wanted(model.device, self.captured)
        self.fixed = Fixed.of(model, step, self.fixed) if captured else None

    @property
    def in_c(self) -> bool:
        """Whether C runs the decoder's steps."""
        return self.step is not None and self.step.compiled is not None

    def kept(self) -> torch.dtype | None:
        """How keys and values are kept: where they are decoded in C in fp32, or beside packed
        weights in 16 bits, as these are no more exact, and a long row's are read at every step as
        they are; else as they come (None)."""
        if not self.in_c:
            return None
        return torch.float16 if self.model.packed else torch.float32

    def open(self, request: Request) -> Row:
        """Where a request stands at first.

        Raises:
            ValueError: this model cannot draw; the ids are no prompt; the views are not those that
                the ids want.
        """
        may_draw = request.draw != "never" and self.codec.decodes
        if request.draw in ("only", "now") and not may_draw:
            raise ValueError(
                "this model cannot draw: its picture tokenizer came without a decoder; take a"
                " checkpoint that has one, such as Anole's of Chameleon"
            )
        grammar = Grammar(self.layout)
        for token in request.ids:
            grammar.advance(token)
        if self.layout.pattern is not None and grammar.state == "codes":
            raise ValueError("the ids end within a picture; it is written whole, several codes a"
                             " step: end them before <image>")  # fmt: skip
        self._check_views(request)
        generator = chance(request.seed, self.model.device)
        lanes = 2 if request.sampling.guided and may_draw else 1
        return Row(request, grammar, generator, lanes)

    def _check_views(self, request: Request) -> None:
        slots = request.ids.count(self.vocabulary.controls.get("slot", -1))
        views = () if request.views is None else request.views
        if slots != len(views) * self.layout.view_length:
            raise ValueError(
                f"{slots} view slots in the ids, {len(views)} views of {self.layout.view_length}"
            )
        vision = self.model.config.vision_config
        for view in views:
            want = (vision.num_channels, vision.image_size, vision.image_size)
            if tuple(view.shape) != want:
                raise ValueError(f"a view of shape {tuple(view.shape)}; this model takes {want}")

    def compares(self, row: Row, ahead: int = 0) -> bool:
        """Whether a row's next choices want its twin, so many steps of its picture from now: while
        codes are to come for which guidance counts."""
        if row.at is None or row.at + ahead > self._last:
            return False
        return row.request.sampling.guides(self._chosen[row.at + ahead], self._chosen[-1])

    def choose(self, rows: list[Row], hidden: torch.Tensor) -> list[list[int]]:
        """What every row writes next, which takes it: an id, or the codes of a step.

        Args:
            hidden: (lanes, D), of the rows and their twins, as their lanes lie.
        """
        heads = self.step or self.model
        due = [self._head(row) for row in rows]
        logits: dict[int, torch.Tensor] = {}
        texts = [k for k, head in enumerate(due) if head == "text"]
        codes = [row for row, head in zip(rows, due, strict=True) if head == "image"]
        if texts:  # a head runs only for the rows in which it is live
            lanes = [rows[k].lane for k in texts]
            given = heads.text_logits(_of(hidden, lanes)).float().cpu()  # from a GPU at once
            for k, found in zip(texts, given, strict=True):
                logits[k] = found
        drawn = iter(self._drawn(codes, hidden) if codes else ())
        chosen = []
        for k, (row, head) in enumerate(zip(rows, due, strict=True)):
            if head == "image":
                chosen.append(next(drawn))
            else:
                chosen.append([self._forced(row) if head is None else self._word(row, logits[k])])
            self._advance(row, chosen[-1])
        return chosen

    def _head(self, row: Row) -> str | None:
        """Which head chooses a row's next id, None where it is forced. See `Grammar.head`."""
        if row.at is None:
            return row.grammar.head
        return "image" if isinstance(self.plan[row.at][0], range) else None

    def _weight(self, row: Row) -> float:
        """Of guidance, for the codes of the next step."""
        return row.request.sampling.weight(self._chosen[row.at or 0], self._chosen[-1])

    def _drawn(self, rows: list[Row], hidden: torch.Tensor) -> list[list[int]]:
        """The codes of every row's next step. hidden: as for `choose`."""
        due, start = [self._choice(row) for row in rows], self.vocabulary.image_start
        return [[start + code for code in codes] for codes in self.codes(hidden, due)]

    def codes(self, hidden: torch.Tensor, due: Sequence[Choice]) -> list[list[int]]:
        """The codes of each choice, from 0 on, by hidden states (rows, D)."""
        step = self.step  # another thread may take it away
        if step is not None and step.chooser is not None:
            return step.chooser(hidden, due)
        return by_torch(self.model, hidden, due)

    def _choice(self, row: Row) -> Choice:
        """What a row's next codes are chosen by; takes their noise from its request."""
        start, at = self.vocabulary.image_start, row.at or 0
        ranges = row.grammar.choices() if row.at is None else self.plan[at]
        allowed = [range(own.start - start, own.stop - start) for own in ranges]  # type: ignore[union-attr]
        twin, sampling = row.twin if self.compares(row) else None, row.request.sampling
        noise = []
        if sampling.temperature:
            noise = [exponential(len(own), row.generator) for own in allowed]
        assert row.lane is not None
        return Choice(
            row.lane.place, None if twin is None else twin.place, self._weight(row),
            self._places[self._chosen[at]], allowed, sampling, noise,
        )  # fmt: skip

    def _forced(self, row: Row) -> int:
        """The id that a row must write."""
        if row.at is None:
            return row.grammar.forced
        (due,) = self.plan[row.at]
        assert isinstance(due, int)
        return due

    def _word(self, row: Row, logits: torch.Tensor) -> int:
        vocabulary, sampling, request = self.vocabulary, row.request.sampling, row.request
        room = min(request.most, self.context - len(request.ids)) - len(row.reply.ids)
        block = self.layout.drawn_length + 1
        end, image = vocabulary.control("end"), vocabulary.control("image")
        if request.draw == "now" or (request.draw == "only" and room <= block + 1):
            return image
        if room <= 1:
            return end
        may = request.draw != "never" and self.codec.decodes and room > block
        barred = self._barred(row.grammar, may, logits)
        token = choose(logits + barred, row.generator, temperature=sampling.text_temperature)
        return image if request.draw == "only" and token == end else token

    def _barred(self, grammar: Grammar, draw: bool, logits: torch.Tensor) -> torch.Tensor:
        """0 for the ids that the text head may choose, -inf for others; the same in every state."""
        known = self._bars.get(draw)
        if known is None or known.device != logits.device:
            known = torch.full_like(logits, -torch.inf)
            for choice in grammar.choices(draw=draw):
                known[choice.start : choice.stop] = 0
            self._bars[draw] = known
        return known

    def _advance(self, row: Row, ids: list[int]) -> None:
        vocabulary, start = self.vocabulary, self.vocabulary.image_start
        row.reply.ids += ids
        row.fresh = len(ids)
        if row.at is not None:  # inside a picture nothing is left to the grammar
            row.at += 1
            row.picture += ids
            row.codes += [token - start for token in ids if token >= start]
            if row.at == len(self.plan):
                row.at, row.grammar.state, row.grammar.left = None, "image_end", 0
            return
        (token,) = ids
        row.grammar.advance(token)
        row.others += not row.drawing
        if row.drawing:
            row.picture.append(token)
        else:
            row.picture.clear()
        if row.grammar.state == "codes" and row.grammar.left == len(self.layout.written):
            row.at = 0
        if token >= start:
            row.codes.append(token - start)
        elif row.grammar.state == "after_codes":
            row.reply.pictures.append(self._pixels(row.codes))
            row.codes = []
            if row.request.draw in ("first", "only", "now"):
                row.done, row.reply.reason = True, "picture"
        elif token == vocabulary.control("end"):
            row.done = True
            room = min(row.request.most, self.context - len(row.request.ids))
            row.reply.reason = "length" if len(row.reply.ids) >= room else "end"

    def _pixels(self, written: list[int]) -> torch.Tensor | Future[torch.Tensor]:
        """The picture (C, H, W) of its codes as written, at once or by the thread beside."""
        codes = self.layout.order.read(written)

        device = self.model.device

        def work() -> torch.Tensor:
            with torch.inference_mode():  # which holds for a thread
                return self.codec.decode(torch.tensor([codes], device=device))[0]

        def work_beside() -> torch.Tensor:
            """On a stream of its own, beside that of the steps; waits for it alone."""
            self._stream = self._stream or torch.cuda.Stream(device)
            with torch.cuda.stream(self._stream):
                return work().cpu()

        if _spare(device) if self.aside is None else self.aside:
            self._beside = self._beside or ThreadPoolExecutor(1, "pixels")
            return self._beside.submit(work_beside if device.type == "cuda" else work)
        return work()

    @torch.inference_mode()
    def naive(self, request: Request) -> Reply:
        """The reference: every id from a whole pass over everything before it."""
        row = self.open(request)
        self.step, ids = Step.of(self.model, self.step), list(request.ids)
        row.lane = Lane(row)
        row.twin = Lane(row, twin=True, place=1) if row.guided else None
        while not row.done:
            hidden = self._whole(ids, row)
            if row.twin is not None:
                before = [*self.twin_prompt(row), *row.picture]
                hidden = torch.cat([hidden, self._whole(before, None)])
            ids += self.choose([row], hidden)[0]
        return row.reply

    def twin_prompt(self, row: Row) -> list[int]:
        """The ids that a row's twin has seen before the picture that is drawn."""
        before = list(self.layout.twin(row.request.ids))
        if self.layout.unconditional == "padded":
            before += [self.vocabulary.control("pad")] * row.others
        return before

    def _whole(self, ids: list[int], row: Row | None) -> torch.Tensor:
        """Hidden state of the last position, (1, D), without a cache; or with one of its own, where
        keys and values are kept less exactly than they are computed."""
        parts = []
        if row is not None and row.request.views is not None:
            parts.append(row.request.views)
        open_views = 0
        reread = row is not None and bool(row.reply.pictures) and self.layout.reread
        if row is not None and reread:
            open_views = ids.count(self.vocabulary.controls.get("slot", -1))
            parts.append(torch.stack(list(row.reply.pictures)))
        device = self.model.device
        tensor = torch.tensor([ids], device=device)
        features = None
        if parts:
            features = self.model.features(torch.cat([p.to(device) for p in parts]))
            if reread:  # a view half written has fewer slots
                features = features.flatten(0, 1)[:open_views][None]
        embeds = self.model.embed(tensor, self.model.places(tensor), features)
        cache, kept = None, self.kept()
        if kept is not None:
            cache = RowCache(self.model.config.text_config.num_hidden_layers, 1, kept)
            cache.block(0, 0, len(ids))
        return self.model.hidden(embeds, cache=cache)[:, -1]


def _of(hidden: torch.Tensor, lanes: list[Lane | None]) -> torch.Tensor:
    """Hidden states of some lanes, in their order."""
    places = [lane.place for lane in lanes if lane is not None]
    return hidden if places == list(range(len(hidden))) else hidden[places]


def _spare(device: torch.device) -> bool:
    """Whether a second thread can compute beside this one without taking its cores."""
    if device.type != "cpu":
        return True
    known = getattr(os, "sched_getaffinity", None)
    cores = len(known(0)) if known else os.cpu_count() or 1
    return cores >= 2 * torch.get_num_threads()
