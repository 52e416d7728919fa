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
    picture: list[int] = field(default_factory=list)  # ids of the one being drawn, <image> first
    done: bool = False
    others: int = 0  # ids written outside of drawn pictures

    @property
    def drawing(self) -> bool:
        """Whether the last id is <image>, a code or what stands among codes."""
        return self.grammar.state in ("codes", "image_end")


class Engine:
    """Runs requests on one model. Tokens and pictures only: words are the handle's business."""

    def __init__(self, model: UnifiedForConditionalGeneration, codec: Codec):
        self.model, self.codec = model, codec
        self.layout = model.config.layout
        self.vocabulary = self.layout.vocabulary
        self.context = model.config.text_config.max_position_embeddings

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
        guided = any(row.request.sampling.guidance_scale != 1 for row in rows)
        state = _Batch(self, rows, guided)
        hidden = state.prefill()
        while True:
            chosen = self._choose(rows, hidden, guided)
            for index, token in enumerate(chosen):
                if token is not None:
                    yield index, token
            if all(row.done for row in rows):
                return
            hidden = state.step(chosen)

    def _choose(self, rows: list[_Row], hidden: torch.Tensor, guided: bool) -> list[int | None]:
        """The next id of every row that is not done; hidden (rows [+ twins], D)."""
        live = [(i, row) for i, row in enumerate(rows) if not row.done]
        texts = [i for i, row in live if row.grammar.head == "text"]
        codes = [i for i, row in live if row.grammar.head == "image"]
        logits: dict[int, torch.Tensor] = {}
        if texts:  # a head runs only for the rows in which it is live
            logits |= dict(zip(texts, self.model.text_logits(hidden[texts]).float(), strict=True))
        if codes:
            conditional = self.model.image_logits(hidden[codes]).float()
            logits |= dict(zip(codes, conditional, strict=True))
            if guided:
                twins = [i + len(rows) for i in codes]
                free = self.model.image_logits(hidden[twins]).float()
                for i, without in zip(codes, free, strict=True):
                    sampling = rows[i].request.sampling
                    weight = guidance_weight(
                        sampling.guidance_scale,
                        sampling.schedule,
                        len(rows[i].codes),
                        self.layout.image_length,
                    )
                    logits[i] = without + weight * (logits[i] - without)
        out: list[int | None] = [None] * len(rows)
        for i, row in live:
            out[i] = self._next(row, logits.get(i))
            self._advance(row, out[i])  # type: ignore[arg-type]
        return out

    def _next(self, row: _Row, logits: torch.Tensor | None) -> int:
        """The id that a row writes next."""
        vocabulary, sampling, request = self.vocabulary, row.request.sampling, row.request
        if row.grammar.head is None:
            return row.grammar.forced
        assert logits is not None
        if row.grammar.head == "image":
            (allowed,) = row.grammar.choices()
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
        row.grammar.advance(token)
        row.reply.ids.append(token)
        row.others += not row.drawing
        if row.drawing:
            row.picture.append(token)
        else:
            row.picture.clear()
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
        ids = list(request.ids)
        guided = request.sampling.guidance_scale != 1
        while not row.done:
            hidden = self._whole(ids, row)
            if guided:
                hidden = torch.cat([hidden, self._whole(self._twin(row), None)])
            (token,) = self._choose([row], hidden, guided)
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
    """Cache, masks and positions of a batch: rows, then (guided) their twins.

    Prompts are padded on the left so that all rows write in the same column.
    """

    def __init__(self, engine: Engine, rows: list[_Row], guided: bool):
        self.engine, self.rows, self.guided = engine, rows, guided
        self.model, self.device = engine.model, engine.model.device
        self.cache = block_cache(self.model.config.text_config.num_hidden_layers)
        total = len(rows) * (2 if guided else 1)
        longest = max(len(row.request.ids) for row in rows)
        self.longest = longest
        self.mask = torch.zeros(total, longest, dtype=torch.long, device=self.device)
        self.length = torch.zeros(total, dtype=torch.long, device=self.device)
        self.features: list[torch.Tensor | None] = [None] * len(rows)
        self.base = self.mask  # of the twins, what they see beside the picture being drawn

    def prefill(self) -> torch.Tensor:
        """Run the prompts; hidden states of their last positions, (rows, D)."""
        vocabulary, rows = self.engine.vocabulary, self.rows
        pad = vocabulary.control("pad")
        ids = torch.full(tuple(self.mask.shape), pad, device=self.device)
        prompts = [row.request.ids for row in rows]
        if self.guided:
            prompts = prompts + [self.engine.layout.twin(prompt) for prompt in prompts]
        for k, prompt in enumerate(prompts):
            ids[k, self.longest - len(prompt) :] = torch.tensor(prompt, device=self.device)
            self.mask[k, self.longest - len(prompt) :] = 1
        self.length = self.mask.sum(1)
        self.base = self.mask[len(rows) :]
        views = [row.request.views for row in rows if row.request.views is not None]
        features = self.model.features(torch.cat(views).to(self.device)) if views else None
        places = code_places(ids, vocabulary.control("image"), vocabulary.image_start)
        positions = (self.mask.cumsum(1) - 1).clamp_min(0)
        embeds = self.model.embed(ids, places, features)
        return self._forward(embeds, positions)

    def step(self, chosen: list[int | None]) -> torch.Tensor:
        """Feed the id that each row wrote; hidden states of the new column, (rows, D)."""
        vocabulary, rows = self.engine.vocabulary, self.rows
        pad, slot = vocabulary.control("pad"), vocabulary.controls.get("slot", -1)
        padded = self.engine.layout.unconditional == "padded"
        tokens, places, features, twins = [], [], [], []
        for k, row in enumerate(rows):
            token = pad if chosen[k] is None else chosen[k]
            assert token is not None
            tokens.append(token)
            places.append(max(0, len(row.codes) - 1))
            if token == slot:
                features.append(self._feature(k, row))
            written = chosen[k] is not None
            twins.append(int(written and row.drawing))
            opened = row.drawing and len(row.picture) == 1
            if self.guided and written and (opened or row.grammar.state == "after_codes"):
                self._without_picture(k)
        live = [int(token is not None) for token in chosen]
        if self.guided:
            # a twin takes part from <image> to the last code; one that is padded has a pad for
            # every other id of its row
            tokens = tokens + [t if w else pad for t, w in zip(tokens, twins, strict=True)]
            places = places + places
            beside = [int(padded and a > b) for a, b in zip(live, twins, strict=True)]
            seen = torch.tensor(beside, device=self.device)[:, None]
            self.base = torch.cat([self.base, seen], 1)
            live = live + [a + b for a, b in zip(twins, beside, strict=True)]
        ids = torch.tensor(tokens, device=self.device)[:, None]
        column = torch.tensor(live, device=self.device)
        self.mask = torch.cat([self.mask, column[:, None]], 1)
        positions = self.length.clamp_max(self.engine.context - 1)[:, None]
        self.length = self.length + column
        embeds = self.model.embed(
            ids,
            torch.tensor(places, device=self.device)[:, None],
            torch.stack(features)[:, None] if features else None,
        )
        return self._forward(embeds, positions)

    def _without_picture(self, k: int) -> None:
        """The twin of row k forgets the picture that it saw drawn."""
        self.mask[len(self.rows) + k] = self.base[k]
        self.length[len(self.rows) + k] = self.base[k].sum()

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

    def _forward(self, embeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        hidden = self.model.hidden(embeds, cache=self.cache, mask=self.mask, positions=positions)
        return hidden[:, -1]
