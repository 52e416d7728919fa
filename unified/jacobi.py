"""Jacobi decoding of pictures: many codes are guessed, checked in one pass, and guessed again.

    known | guess guess guess ...   one pass: what each place holds if all before it is right
    known   right right | guess     as far as guesses agree, they are right; the next one is, too

Every place has noise of its own, that which decoding one by one would draw there: the noise decides
with the logits (Gumbel-max), so what the iteration ends in is that picture, code for code
(https://arxiv.org/abs/2002.03629; of pictures, with rejection in place of coupled noise,
https://arxiv.org/abs/2410.01699). It holds as far as a pass over several columns and a step over
one round alike: in fp32. A window costs more than a step; whether fewer passes pay depends on the
device. One request at a time. Knows nothing of how words are written: the engine does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from unified.cache import RowCache, block_cache
from unified.choices import Choice
from unified.engine import Engine, Reply, Request
from unified.sampling import chance, exponential
from unified.step import ROPES

METHODS = ("jacobi",)
WINDOW = 8  # ids that a pass looks at; more are fewer passes, but each takes longer


@dataclass
class Drawn(Reply):
    """passes: of the decoder over the picture; one by one it takes one for each of its ids."""

    passes: int = 0


def check_method(name: str) -> None:
    """Raise ValueError for a way to draw in parallel that there is none of."""
    if name not in METHODS:
        raise ValueError(f"unknown way to draw in parallel {name!r}; one of {', '.join(METHODS)}")


def check(engine: Engine, request: Request, window: int = WINDOW) -> None:
    """Whether a request can be drawn so.

    Raises:
        ValueError: it cannot; says why and what to do.
    """
    if window < 1:
        raise ValueError(f"a window of {window} codes; it has at least 1")
    if request.draw not in ("first", "only", "now"):
        raise ValueError(
            f"draw is {request.draw!r}; in parallel one picture is drawn: first, only or now"
        )
    if not engine.codec.decodes:
        raise ValueError("this model cannot draw: its picture tokenizer came without a decoder")
    if engine.layout.pattern is not None:
        raise ValueError(
            "this model writes several codes a step as it is, by its pattern: draw without parallel"
        )
    config = engine.model.config.text_config
    kind = (config.rope_parameters or {}).get("rope_type", "default")
    if kind not in ROPES or getattr(config, "use_sliding_window", False):
        what = f"{kind} rotations" if kind not in ROPES else "a sliding window"
        raise ValueError(
            f"this decoder has {what}: several codes at once would not be what one by one gives;"
            " draw without parallel"
        )


def draw(
    engine: Engine,
    request: Request,
    window: int = WINDOW,
    on_step: Callable[[int, int], None] | None = None,
) -> Drawn:
    """The reply of `engine.run([request], on_step)`, its picture drawn in parallel: `stream`."""
    reply = Drawn()
    for token, reply in stream(engine, request, window):  # noqa: B007
        if on_step is not None:
            on_step(0, token)
    return reply


def stream(engine: Engine, request: Request, window: int = WINDOW) -> Iterator[tuple[int, Drawn]]:
    """Ids of the reply as they are known, with the reply so far; codes come in bursts.

    Args:
        window: ids that a pass looks at beyond those that are known.

    Raises:
        ValueError: see `check`.
    """
    check(engine, request, window)
    reply, image = Drawn(), engine.vocabulary.control("image")
    if request.draw == "now":
        reply.ids.append(image)
        yield image, reply
    else:
        for token, said in engine.stream(request):
            reply.ids.append(token)
            reply.reason = said.reason
            yield token, reply
            if token == image:
                break
        else:
            return
    picture, told = _Picture(engine, request, reply.ids), 1
    while told < len(picture.line):
        picture.look(window)
        reply.passes += 1
        for token in picture.line[told : picture.known]:
            reply.ids.append(token)
            yield token, reply
        told = picture.known
    codes = [token for token in picture.line if token >= engine.vocabulary.image_start]
    grid = torch.tensor([codes], device=engine.model.device) - engine.vocabulary.image_start
    reply.pictures.append(engine.codec.decode(grid)[0])
    reply.reason = "picture"
    reply.ids.append(engine.vocabulary.control("image_end"))
    yield reply.ids[-1], reply


class _Picture:
    """Where a picture stands: its row and, if it is guided, the twin that it is compared with.

    Attributes:
        line: <image> and what follows it, known, guessed, or -1. known: how many are known.
        fed: how many of them are in the cache.
    """

    @torch.inference_mode()
    def __init__(self, engine: Engine, request: Request, said: list[int]):
        self.model, self.layout, self.sampling = engine.model, engine.layout, request.sampling
        engine.refresh()
        self.engine, self.kept = engine, engine.kept()
        self.step = engine.step if engine.in_c else None
        vocabulary, control = engine.vocabulary, engine.vocabulary.control
        self.start, self.device = vocabulary.image_start, self.model.device
        self.plan = tuple(self.layout.written)  # ids that are always the same, None for a code
        self.line = [said[-1], *(-1 if due is None else due for due in self.plan)]
        self.known, self.fed = 1, 0
        self._skip()
        prompts = [[*request.ids, *said[:-1]]]
        if self.sampling.guided:
            pads = len(said) - 1 if self.layout.unconditional == "padded" else 0
            prompts.append([*self.layout.twin(request.ids), *[control("pad")] * pads])
        self.generator = chance(request.seed, self.device)
        for _ in range(_words(engine, request, said)):  # that words took noise for
            exponential(vocabulary.text_head, self.generator)
        self.noise: list[torch.Tensor] = []  # of each code
        self.guide: torch.Tensor | None = None  # states of the last place, (rows, 1, D)
        self._prefill(prompts, request.views, control("pad"))

    def _prefill(self, prompts: list[list[int]], views: torch.Tensor | None, pad: int) -> None:
        """Fill the cache with prompts: in rows of their own where C runs them, else padded on the
        left."""
        model, config = self.model, self.model.config.text_config
        layers, self.last = config.num_hidden_layers, config.max_position_embeddings - 1
        self.lengths, longest = [len(prompt) for prompt in prompts], max(map(len, prompts))
        features = None if views is None else model.features(views.to(self.device))
        self.prompt, room = longest, longest + len(self.line)
        if self.step is not None:
            self.cache: Any = RowCache(layers, len(prompts), self.kept)
            self.cache.reserve(len(prompts), room)
            places = [model.places(torch.tensor([prompt]))[0].tolist() for prompt in prompts]
            slots = () if features is None else features.flatten(0, 1).unbind()
            self._columns(prompts, [0] * len(prompts), places, slots)
            return
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=self.device)
        steps = torch.arange(longest, device=self.device)
        starts = torch.tensor([[longest - n] for n in self.lengths], device=self.device)
        self.seen = (steps >= starts).long()
        self.cache = block_cache(layers, room, self.kept)
        positions = (steps - starts).clamp_min(0)
        model.hidden(
            model.embed(ids, model.places(ids), features),
            cache=self.cache, mask=self.seen, positions=positions,
        )  # fmt: skip

    def _columns(
        self,
        rows: Sequence[list[int]],
        starts: Sequence[int],
        places: Sequence[list[int]],
        features: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Ids of every row from a column on, by C: hidden states, one row after the other."""
        assert self.step is not None
        lines = enumerate(zip(rows, starts, strict=True))
        at = [(k, start + n) for k, (row, start) in lines for n in range(len(row))]
        self.cache.target(at)
        x = self.step.embed([*chain(*rows)], [*chain(*places)], features)
        return self.step(x, [min(column, self.last) for _, column in at], self.cache)

    @torch.inference_mode()
    def look(self, window: int) -> None:
        """One pass over what is not in the cache, as far as `window` places beyond what is known;
        what agrees with its guess becomes known, and the place after it."""
        first, stop = self.fed, min(self.known + window - 1, len(self.plan))
        self._guess(stop)
        hidden = self._pass(first, stop)
        found = self._chosen(range(first + 1, stop + 1), hidden)
        self.guide, self.fed = hidden[:, -1:], stop
        agrees = True
        for k, token in enumerate(found, first + 1):
            if agrees:
                self.known = max(self.known, k + 1)
                if k < stop and self.line[k] != token:  # it was read wrong: so are those behind it
                    agrees, self.fed = False, k
            self.line[k] = token
        if self.step is None:
            for layer in self.cache.layers:
                layer.length = self.prompt + self.fed
        self._skip()

    def _skip(self) -> None:
        """What is always the same is known."""
        while self.known < len(self.line) and self.plan[self.known - 1] is not None:
            self.known += 1

    def _guess(self, stop: int) -> None:
        """Fill the line up to `stop`: by the noise of each place and the last state there is,
        or what the head says of none."""
        new = [k for k in range(self.known, stop) if self.line[k] < 0]
        if not new:
            return
        guide = self.guide
        if guide is None:
            size = self.model.config.text_config.hidden_size
            guide = torch.zeros(
                len(self.lengths), 1, size, device=self.device, dtype=self.model.dtype
            )
        for k, token in zip(new, self._chosen(new, guide.expand(-1, len(new), -1)), strict=True):
            self.line[k] = token

    def _pass(self, first: int, stop: int) -> torch.Tensor:
        """Hidden states of line[first:stop], (rows, places, D); they are in the cache then."""
        rows, device, at = len(self.lengths), self.device, [0, *self.layout.places][first:stop]
        if self.step is not None:
            starts, line = [n + first for n in self.lengths], self.line[first:stop]
            hidden = self._columns([line] * rows, starts, [at] * rows)
            return hidden.unflatten(0, (rows, stop - first))
        ids = torch.tensor(self.line[first:stop], device=device).expand(rows, -1)
        places = torch.tensor(at, device=device).expand(rows, -1)
        steps = torch.arange(first, stop, device=device)
        positions = torch.tensor(self.lengths, device=device)[:, None] + steps
        mask = torch.cat([self.seen, self.seen.new_ones(rows, stop)], 1)
        return self.model.hidden(
            self.model.embed(ids, places),
            cache=self.cache, mask=mask, positions=positions.clamp_max(self.last),
        )  # fmt: skip

    def _chosen(self, at: Sequence[int], hidden: torch.Tensor) -> list[int]:
        """What line[k] holds for each k of `at` by its hidden states, (rows, len(at), D)."""
        out, due, chosen = [self.line[k] for k in at], [], []
        for n, k in enumerate(at):
            if self.plan[k - 1] is None:
                chosen.append(n)
                due.append(self._choice(n, n + len(at), self.layout.places[k - 1]))
        found = self.engine.codes(hidden.flatten(0, 1), due) if due else []
        for n, (code,) in zip(chosen, found, strict=True):
            out[n] = self.start + code
        return out

    def _choice(self, own: int, twin: int, place: int) -> Choice:
        """How the code of a place is chosen, by two rows of states and its noise, which is drawn
        for it and those before it where it was not."""
        sampling, length, codes = self.sampling, self.layout.image_length, self.layout.codes_at
        for before in range(len(self.noise), place + 1 if sampling.temperature else 0):
            self.noise.append(exponential(len(codes(before)), self.generator))
        allowed = codes(place)
        return Choice(
            own, twin if sampling.guides(place, length) else None, sampling.weight(place, length),
            (place,), (range(allowed.start - self.start, allowed.stop - self.start),),
            sampling, self.noise[place : place + 1],
        )  # fmt: skip


def _words(engine: Engine, request: Request, said: list[int]) -> int:
    """Of the ids of a reply up to <image>, those that the engine chose by noise."""
    if request.draw == "now" or request.sampling.text_temperature == 0:
        return 0
    room = min(request.most, engine.context - len(request.ids)) - len(said) + 1
    due = request.draw == "only" and room <= engine.layout.drawn_length + 2
    return len(said) - due
