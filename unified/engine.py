"""Decoding: prefill, cached steps, guidance rows, the grammar, reading back what was drawn.

A batch of requests advances together, each in its own grammar state. A guided request has a twin
row that sees the codes so far, and before them what the layout calls unconditional: nothing but
`<bos> <assistant> <image>`, or the row itself in pads, without what it drew before. Each request
draws from its own generator, so its tokens do not depend on its neighbours. `naive` is the same
without cache or batch, for the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from unified.cache import block_cache
from unified.grammar import Grammar
from unified.modeling import UnifiedForConditionalGeneration, code_places
from unified.sampling import Sampling, choose, guidance_weight
from unified.step import Step
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


@dataclass
class Reply:
    """ids written after the request's own; pictures (C, H, W) in [-1, 1]; why it ended."""

    ids: list[int] = field(default_factory=list)
    pictures: list[torch.Tensor] = field(default_factory=list)
    reason: str = ""


@dataclass
class _Row:
    """Where one request stands."""

    request: Request
    grammar: Grammar
    generator: torch.Generator
    reply: Reply = field(default_factory=Reply)
    codes: list[int] = field(default_factory=list)
    at: int | None = None  # the next of what a picture is made of, where one is being drawn
    picture: list[int] = field(default_factory=list)  # ids of the one being drawn, <image> first
    done: bool = False
    others: int = 0  # ids written outside of drawn pictures

    @property
    def drawing(self) -> bool:
        """Whether the last id is <image>, a code or what stands among codes."""
        return self.grammar.state in ("codes", "image_end")

    @property
    def guided(self) -> bool:
        return self.request.sampling.guidance_scale != 1


class Engine:
    """Runs requests on one model. Tokens and pictures only: words are the handle's business."""

    def __init__(self, model: UnifiedForConditionalGeneration, codec: Codec):
        self.model, self.codec = model, codec
        self.layout = model.config.layout
        self.vocabulary = self.layout.vocabulary
        self.context = model.config.text_config.max_position_embeddings
        self.step: Step | None = None
        # what stands between <image> and <image_end>: an id that is always the same, or a choice
        self.plan: tuple[int | range, ...] = tuple(
            self.layout.codes_at(place) if due is None else due
            for due, place in zip(self.layout.written, self.layout.places, strict=True)
        )

    def run(
        self, requests: list[Request], on_step: Callable[[int, int], None] | None = None
    ) -> list[Reply]:
        """All replies of a batch, in order. `on_step(row, id)` sees each id as it is written."""
        rows = [self._open(request) for request in requests]
        for index, token in self._steps(rows):
            if on_step is not None:
                on_step(index, token)
        return [row.reply for row in rows]

    def stream(self, request: Request) -> Iterator[tuple[int, Reply]]:
        """Ids of one reply as they are written, with the reply so far."""
        row = self._open(request)
        for _, token in self._steps([row]):
            yield token, row.reply

    def _open(self, request: Request) -> _Row:
        if request.draw in ("only", "now") and not self.codec.decodes:
            raise ValueError(
                "this model cannot draw: its picture tokenizer came without a decoder; take a"
                " checkpoint that has one, such as Anole's of Chameleon"
            )
        grammar = Grammar(self.layout)
        for token in request.ids:
            grammar.advance(token)
        generator = torch.Generator().manual_seed(request.seed)
        return _Row(request, grammar, generator)

    @torch.inference_mode()
    def _steps(self, rows: list[_Row]) -> Iterator[tuple[int, int]]:
        """Advance all rows until every one is done, yielding (row, id) as ids are written."""
        self.step = Step.of(self.model, self.step)
        state = _Batch(self, rows)
        hidden = state.prefill()
        while True:
            chosen = self._choose(rows, hidden, state.twins)
            for index, token in enumerate(chosen):
                if token is not None:
                    yield index, token
            if all(row.done for row in rows):
                return
            hidden = state.step(chosen)

    def _choose(
        self, rows: list[_Row], hidden: torch.Tensor, twins: dict[int, int]
    ) -> list[int | None]:
        """The next id of every row that is not done.

        Args:
            hidden: (rows and twins, D). twins: where the twin of a guided row stands.
        """
        live = [i for i, row in enumerate(rows) if not row.done]
        heads = {i: self._head(rows[i]) for i in live}
        texts = [i for i in live if heads[i] == "text"]
        codes = [i for i in live if heads[i] == "image"]
        logits: dict[int, torch.Tensor] = {}
        if texts:  # a head runs only for the rows in which it is live
            logits |= dict(zip(texts, self.model.text_logits(hidden[texts]).float(), strict=True))
        if codes:
            free = [twins[i] for i in codes if i in twins]
            both = codes + free  # a row and its twin are one batch: weights are read once
            given = self.model.image_logits(hidden if len(both) == len(hidden) else hidden[both])
            found = dict(zip(both, given.float(), strict=True))
            for i in codes:
                logits[i] = found[i]
                if i in twins:
                    without = found[twins[i]]
                    logits[i] = without + self._weight(rows[i]) * (found[i] - without)
        out: list[int | None] = [None] * len(rows)
        for i in live:
            out[i] = self._next(rows[i], heads[i], logits.get(i))
            self._advance(rows[i], out[i])  # type: ignore[arg-type]
        return out

    def _head(self, row: _Row) -> str | None:
        """Which head chooses a row's next id, None where it is forced. See `Grammar.head`."""
        if row.at is None:
            return row.grammar.head
        return None if isinstance(self.plan[row.at], int) else "image"

    def _weight(self, row: _Row) -> float:
        """Of guidance, for the next code."""
        sampling, length = row.request.sampling, self.layout.image_length
        return guidance_weight(sampling.guidance_scale, sampling.schedule, len(row.codes), length)

    def _next(self, row: _Row, head: str | None, logits: torch.Tensor | None) -> int:
        """The id that a row writes next."""
        vocabulary, sampling, request = self.vocabulary, row.request.sampling, row.request
        if row.at is not None:
            allowed = self.plan[row.at]
        elif head == "image":
            (allowed,) = row.grammar.choices()
        else:
            allowed = row.grammar.forced if head is None else range(0)
        if isinstance(allowed, int):
            return allowed
        assert logits is not None
        if head == "image":
            start = vocabulary.image_start
            return allowed.start + choose(
                logits[allowed.start - start : allowed.stop - start],
                row.generator,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                min_p=sampling.min_p,
            )
        room = min(request.most, self.context - len(request.ids)) - len(row.reply.ids)
        block = self.layout.drawn_length + 1
        end, image = vocabulary.control("end"), vocabulary.control("image")
        if request.draw == "now" or (request.draw == "only" and room <= block + 1):
            return image
        if room <= 1:
            return end
        barred = torch.full_like(logits, -torch.inf)
        may = request.draw != "never" and self.codec.decodes and room > block
        for choice in row.grammar.choices(draw=may):
            barred[choice.start : choice.stop] = 0
        token = choose(logits + barred, row.generator, temperature=sampling.text_temperature)
        return image if request.draw == "only" and token == end else token

    def _advance(self, row: _Row, token: int) -> None:
        vocabulary = self.vocabulary
        row.reply.ids.append(token)
        if row.at is not None:  # inside a picture nothing is left to the grammar
            row.at += 1
            row.picture.append(token)
            if token >= vocabulary.image_start:
                row.codes.append(token - vocabulary.image_start)
            if row.at == len(self.plan):
                row.at, row.grammar.state, row.grammar.left = None, "image_end", 0
            return
        row.grammar.advance(token)
        row.others += not row.drawing
        if row.drawing:
            row.picture.append(token)
        else:
            row.picture.clear()
        if row.grammar.state == "codes" and row.grammar.left == len(self.plan):
            row.at = 0
        if token >= vocabulary.image_start:
            row.codes.append(token - vocabulary.image_start)
        elif row.grammar.state == "after_codes":
            picture = self.codec.decode(torch.tensor([row.codes], device=self.model.device))[0]
            row.reply.pictures.append(picture)
            row.codes = []
            if row.request.draw in ("first", "only", "now"):
                row.done, row.reply.reason = True, "picture"
        elif token == vocabulary.control("end"):
            row.done = True
            room = min(row.request.most, self.context - len(row.request.ids))
            row.reply.reason = "length" if len(row.reply.ids) >= room else "end"

    @torch.inference_mode()
    def naive(self, request: Request) -> Reply:
        """The reference: every id from a whole pass over everything before it."""
        row = self._open(request)
        ids, twins = list(request.ids), {0: 1} if row.guided else {}
        while not row.done:
            hidden = self._whole(ids, row)
            if twins:
                hidden = torch.cat([hidden, self._whole(self._twin(row), None)])
            (token,) = self._choose([row], hidden, twins)
            assert token is not None
            ids.append(token)
        return row.reply

    def _twin(self, row: _Row) -> list[int]:
        """The ids that the unconditional row has seen when a row draws."""
        before = list(self.layout.twin(row.request.ids))
        if self.layout.unconditional == "padded":
            before += [self.vocabulary.control("pad")] * row.others
        return [*before, *row.picture]

    def _whole(self, ids: list[int], row: _Row | None) -> torch.Tensor:
        """Hidden state of the last position, (1, D), without a cache."""
        parts = []
        if row is not None and row.request.views is not None:
            parts.append(row.request.views)
        open_views = 0
        reread = row is not None and bool(row.reply.pictures) and self.layout.reread
        if row is not None and reread:
            open_views = ids.count(self.vocabulary.controls.get("slot", -1))
            parts.append(torch.stack(row.reply.pictures))
        device = self.model.device
        tensor = torch.tensor([ids], device=device)
        features = None
        if parts:
            features = self.model.features(torch.cat([p.to(device) for p in parts]))
            if reread:  # a view half written has fewer slots
                features = features.flatten(0, 1)[:open_views][None]
        places = code_places(tensor, self.vocabulary.control("image"), self.vocabulary.image_start)
        return self.model.hidden(self.model.embed(tensor, places, features))[:, -1]


class _Batch:
    """Cache, masks and positions of a batch: rows, then the twins of those that are guided.

    Prompts are padded on the left so that all rows write in the same column.

    Attributes:
        twins: where the twin of a guided row stands.
        seen: (rows and twins, columns), what each sees; bias: the same, to be added to scores.
        base: what a twin sees beside the picture being drawn.
    """

    def __init__(self, engine: Engine, rows: list[_Row]):
        self.engine, self.rows = engine, rows
        self.model, self.device = engine.model, engine.model.device
        guided = [k for k, row in enumerate(rows) if row.guided]
        self.twins = {k: len(rows) + n for n, k in enumerate(guided)}
        self.total = len(rows) + len(guided)
        self.column = longest = max(len(row.request.ids) for row in rows)
        drawn = any(row.request.draw in ("first", "only", "now") for row in rows)
        reserve = longest + 1 + (engine.layout.drawn_length if drawn else 0)
        self.cache = block_cache(self.model.config.text_config.num_hidden_layers, reserve)
        self.seen = torch.ones(self.total, reserve, dtype=torch.bool, device=self.device)
        self.bias = torch.zeros(self.total, reserve, dtype=self.model.dtype, device=self.device)
        self.base = torch.zeros_like(self.seen)
        self.unseen = False  # whether anything is hidden from any row
        self.length = [0] * self.total
        self.features: list[torch.Tensor | None] = [None] * len(rows)

    def prefill(self) -> torch.Tensor:
        """Run the prompts; hidden states of their last positions, (rows and twins, D)."""
        vocabulary, rows, longest = self.engine.vocabulary, self.rows, self.column
        pad = vocabulary.control("pad")
        prompts = [row.request.ids for row in rows]
        prompts += [self.engine.layout.twin(rows[k].request.ids) for k in self.twins]
        ids = torch.full((self.total, longest), pad, device=self.device)
        for k, prompt in enumerate(prompts):
            ids[k, longest - len(prompt) :] = torch.tensor(prompt, device=self.device)
            self.seen[k, : longest - len(prompt)] = False
            self._show(k)
        self.length = [len(prompt) for prompt in prompts]
        self.base[:, :longest] = self.seen[:, :longest]
        views = [row.request.views for row in rows if row.request.views is not None]
        features = self.model.features(torch.cat(views).to(self.device)) if views else None
        places = code_places(ids, vocabulary.control("image"), vocabulary.image_start)
        mask = self.seen[:, :longest].long()
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        embeds = self.model.embed(ids, places, features)
        return self.model.hidden(embeds, cache=self.cache, mask=mask, positions=positions)[:, -1]

    def step(self, chosen: list[int | None]) -> torch.Tensor:
        """Feed the id that each row wrote; hidden states of the new column, (rows and twins, D)."""
        vocabulary, rows, twins = self.engine.vocabulary, self.rows, self.twins
        pad, slot = vocabulary.control("pad"), vocabulary.controls.get("slot", -1)
        padded = self.engine.layout.unconditional == "padded"
        tokens, places, live = [pad] * self.total, [0] * self.total, [False] * self.total
        features: list[torch.Tensor] = []
        beside: list[int] = []  # twins that take part with a pad
        for k, row in enumerate(rows):
            token = chosen[k]
            if token is None:
                continue
            tokens[k], live[k] = token, True
            places[k] = max(0, len(row.codes) - 1)
            if token == slot:
                features.append(self._feature(k, row))
            if k not in twins:
                continue
            twin = twins[k]
            if row.at == 0 or row.grammar.state == "after_codes":
                self._without_picture(twin)
            # a twin takes part from <image> to the last code; one that is padded has a pad for
            # every other id of its row
            if row.drawing:
                tokens[twin], places[twin], live[twin] = token, places[k], True
            elif padded:
                live[twin] = True
                beside.append(twin)
        self._column(live, beside)
        positions = [min(n, self.engine.context - 1) for n in self.length]
        self.length = [n + here for n, here in zip(self.length, live, strict=True)]
        return self._forward(tokens, places, features, positions)

    def _column(self, live: list[bool], beside: list[int]) -> None:
        """Open the next column: who sees it."""
        if self.column == self.seen.shape[1]:
            more = self.column // 2 + 1
            self.seen, self.bias, self.base = (
                torch.cat([t, t.new_full((self.total, more), fill)], 1)
                for t, fill in ((self.seen, True), (self.bias, 0), (self.base, False))
            )
        dead = [k for k, here in enumerate(live) if not here]
        if dead:
            self.seen[dead, self.column] = False
            self.bias[dead, self.column] = torch.finfo(self.bias.dtype).min
            self.unseen = True
        if beside:
            self.base[beside, self.column] = True
        self.column += 1

    def _show(self, k: int) -> None:
        """Bring the bias of a row up to what it sees."""
        hidden = ~self.seen[k]
        self.bias[k] = hidden * torch.finfo(self.bias.dtype).min
        self.unseen = self.unseen or bool(hidden.any())

    def _without_picture(self, twin: int) -> None:
        """A twin forgets the picture that it saw drawn."""
        self.seen[twin, : self.column] = self.base[twin, : self.column]
        self.length[twin] = int(self.base[twin].sum())
        self._show(twin)

    def _feature(self, k: int, row: _Row) -> torch.Tensor:
        """The view feature for the slot just written; the encoder runs at the first one."""
        features = self.features[k]
        if features is None:
            features = self.model.features(row.reply.pictures[-1][None].to(self.device))[0]
            self.features[k] = features
        left = row.grammar.left if row.grammar.state == "slots" else 0
        index = self.engine.layout.view_length - left - 1
        if left == 0:
            self.features[k] = None
        return features[index]

    def _forward(
        self,
        tokens: list[int],
        places: list[int],
        features: list[torch.Tensor],
        positions: list[int],
    ) -> torch.Tensor:
        step = self.engine.step
        if step is not None:
            bias = self.bias[:, : self.column] if self.unseen else None
            return step(step.embed(tokens, places, features), positions, self.cache, bias)
        device = self.device
        embeds = self.model.embed(
            torch.tensor(tokens, device=device)[:, None],
            torch.tensor(places, device=device)[:, None],
            torch.stack(features)[:, None] if features else None,
        )
        at = torch.tensor(positions, device=device)[:, None]
        mask = self.seen[:, : self.column].long()
        return self.model.hidden(embeds, cache=self.cache, mask=mask, positions=at)[:, -1]
