"""The running batch: requests join and leave at any step, and the others do not notice.

    add -> waiting -> a lane of the cache, with what is known of its prompt (unified.prefixes)
    step: one pass over what every lane wrote last and the rest of the prompts that join -> an id
    each, or the codes of a step; a request that ends frees its lanes for those that wait

A lane is a row of the cache. A guided request has a second one while it draws: its twin, which
sees the codes so far and before them what the layout calls unconditional. Lanes lie side by side
without gaps: where one is freed, the last one takes its place.

Knows where ids, keys and values go; what comes next is the engine's to choose.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, compress, count
from typing import TYPE_CHECKING

import torch

from unified.ahead import advance
from unified.cache import RowCache
from unified.fixed import Fixed
from unified.prefixes import digests, picture_digest

if TYPE_CHECKING:
    from unified.engine import Engine, Reply, Request, Row
    from unified.step import Step

SHORT = 128  # ids of a prompt that C runs; of more, torch multiplies faster
JOINING = 4096  # ids of prompts after which others wait a step: those that run wait for them


@dataclass
class Lane:
    """A row of the cache. place: which. length: columns it has written."""

    row: Row
    twin: bool = False
    place: int = 0
    length: int = 0


@dataclass(frozen=True)
class _Prompt:
    """What a lane begins with: ids, views (N, C, H, W), the chain of digests of both."""

    lane: Lane
    ids: tuple[int, ...]
    views: torch.Tensor | None
    chain: list[bytes]

    @property
    def key(self) -> bytes:
        """Of the whole."""
        return self.chain[-1]


@dataclass
class _Due:
    """What is to be run, one row's after another's: first the lanes', then the prompts'.

    Attributes:
        tokens, places, positions: ids, those of codes in their pictures, those in their rows.
        columns, widths: of each lane, the first column that it writes and how many.
        features: of the slots among the tokens, in their order.
    """

    tokens: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    features: list[torch.Tensor] = field(default_factory=list)


class Session:
    """Requests served together, first come, first served.

    `add` and `cancel` may be called by other threads than the one that steps. Weights and adapters
    may change while nothing runs.

    Args:
        rows: lanes at most; a guided request that may draw takes two from beginning to end.

    Attributes:
        replies: of the requests that wait or run, by number. One that ends is taken out; who holds
            its reply by then has it whole.
        steps: passes over all lanes so far.
    """

    def __init__(self, engine: Engine, rows: int):
        if rows < 1:
            raise ValueError(f"a batch of {rows} rows; it needs at least one")
        self.engine, self.rows = engine, rows
        self.replies: dict[int, Reply] = {}
        self._numbers = count()
        self._rows: dict[int, Row] = {}  # that wait or run
        self._waiting: deque[Row] = deque()
        self._lanes: list[Lane] = []
        self._slot = engine.vocabulary.controls.get("slot", -1)
        self._device, dtype = engine.model.device, engine.model.dtype
        self._cache = self._own_cache(None)
        self._fixed: Fixed | None = None  # steps of fixed shapes, where `_cache` is theirs
        self.steps = 0
        self._numbered = torch.arange(0, device=self._device)
        self._shown = torch.zeros((), dtype=dtype, device=self._device)  # added to scores
        self._hidden = torch.full_like(self._shown, torch.finfo(dtype).min)

    def add(self, request: Request) -> int:
        """Queue a request; its number.

        Raises:
            ValueError: it is malformed, or too wide for this session.
        """
        row = self.engine.open(request)
        if row.lanes > self.rows:
            raise ValueError(f"a guided request takes two rows; this batch has {self.rows}")
        row.number = next(self._numbers)
        self.replies[row.number] = row.reply
        self._rows[row.number] = row
        self._waiting.append(row)
        return row.number

    def cancel(self, number: int) -> None:
        """End a request where it stands, with the reason "cancelled"; nothing if it has ended."""
        row = self._rows.pop(number, None)
        if row is not None:
            self.replies.pop(number, None)
            row.done, row.reply.reason = True, "cancelled"

    @property
    def busy(self) -> bool:
        """Whether a request waits or runs."""
        return bool(self._rows)

    @property
    def waiting(self) -> int:
        """Requests that have no lane yet."""
        return sum(not row.done for row in tuple(self._waiting))

    @property
    def running(self) -> int:
        """Requests that have one."""
        return len({id(lane.row) for lane in tuple(self._lanes)})

    @torch.inference_mode()
    def step(self) -> list[tuple[int, int]]:
        """What every request that has a lane writes next, as (number, id): an id, or the codes of
        a step; takes in those that wait. Several steps of each, one after the other, where all are
        drawing in steps of fixed shapes.

        A request whose reply has a `reason` then has ended.
        """
        for lane in [lane for lane in self._lanes if lane.row.done]:  # cancelled
            self._free(lane)
        joining = [*self._twins(), *self._admitted()]
        if self._fixed is not None and self._lanes and not joining:
            written = advance(self, self._fixed)
        else:
            hidden = self._pass(joining)
            if hidden is None:
                return []
            self.steps += 1
            rows = [lane.row for lane in self._lanes if not lane.twin]
            chosen = self.engine.choose(rows, hidden)
            written = [(row, i) for row, ids in zip(rows, chosen, strict=True) for i in ids]
        for row in [lane.row for lane in self._lanes if lane.row.done and not lane.twin]:
            self._end(row)
        return [(row.number, token) for row, token in written]

    # --- who takes part --------------------------------------------------------------------------

    def _admitted(self) -> list[_Prompt]:
        """Those that waited and find room now."""
        free = self.rows - sum(lane.row.lanes for lane in self._lanes if not lane.twin)
        found: list[_Prompt] = []
        while self._waiting and (self._waiting[0].done or self._waiting[0].lanes <= free):
            if found and sum(len(prompt.ids) for prompt in found) > JOINING:
                break
            row = self._waiting.popleft()
            if not row.done:
                row.lane = Lane(row)
                found.append(self._prompt(row.lane, row.request.ids, row.request.views))
                free -= row.lanes
        if found and not self._lanes:  # else weights are those of the requests that run
            self.engine.refresh()
            self._borrow(self.engine.fixed)
        return found

    def _own_cache(self, kept: torch.dtype | None) -> RowCache:
        layers = self.engine.model.config.text_config.num_hidden_layers
        return RowCache(layers, self.rows, kept)

    def _borrow(self, fixed: Fixed | None) -> None:
        """Take steps of fixed shapes with their cache, where no other session runs on it; else have
        one that keeps what the weights want."""
        kept = self.engine.kept()
        in_raster = self.engine.layout.pattern is None  # a step of fixed shapes writes one code
        if fixed is not None and in_raster and fixed.lend(self):
            self._cache, self._fixed, fixed.cache.most = fixed.cache, fixed, self.rows
        elif self._fixed is not None or self._cache.place.dtype != kept:
            self._cache, self._fixed = self._own_cache(kept), None

    def _twins(self) -> list[_Prompt]:
        """Those that begin; a guided row has its twin from <image> to the last code chosen."""
        found = []
        for lane in tuple(self._lanes):
            row, compared = lane.row, self.engine.compares(lane.row)
            if lane.twin and not compared:
                row.twin = None
                self._free(lane)
            elif compared and row.twin is None:
                row.twin = Lane(row, twin=True)
                before = self.engine.twin_prompt(row)
                found.append(self._prompt(row.twin, [*before, *row.picture]))
        return found

    def _free(self, lane: Lane) -> None:
        """Take a lane out; the last one moves to its place."""
        last = self._lanes.pop()
        if last is not lane:
            self._cache.copy(last.place, lane.place, last.length)
            last.place = lane.place
            self._lanes[lane.place] = last

    def _end(self, row: Row) -> None:
        """Free the lanes of a request that has ended; its reply may begin the next prompt."""
        lane, cache = row.lane, self._cache
        assert lane is not None
        self._rows.pop(row.number, None)
        self.replies.pop(row.number, None)
        ids = (*row.request.ids, *row.reply.ids[: -row.fresh])  # the last was never run
        chain = self._chain(ids, row.request.views, row.reply.pictures[: row.reread])
        self.engine.prefixes.keep(chain, len(ids), lambda a, b: cache.read(lane.place, a, b))
        for own in (row.twin, lane):
            if own is not None:
                self._free(own)

    # --- prompts ---------------------------------------------------------------------------------

    def _prompt(self, lane: Lane, ids: Sequence[int], views: torch.Tensor | None = None) -> _Prompt:
        return _Prompt(lane, tuple(ids), views, self._chain(ids, views))

    def _chain(
        self,
        ids: Sequence[int],
        views: torch.Tensor | None,
        drawn: Sequence[torch.Tensor] = (),
    ) -> list[bytes]:
        """Digests of ids, with the views among them: those given, then those read back."""
        pictures = [picture_digest(p) for p in (*(() if views is None else views), *drawn)]
        return digests(ids, pictures, self._slot, self.engine.layout.view_length)

    def _places(self, ids: Sequence[int]) -> list[int]:
        """Of each code in its picture."""
        if max(ids) < self.engine.vocabulary.image_start:
            return [0] * len(ids)
        found: list[int] = self.engine.model.places(torch.tensor([ids]))[0].tolist()
        return found

    def _slots(self, runs: list[tuple[_Prompt, int]]) -> list[torch.Tensor]:
        """What stands at the slots of each prompt from a position on, (slots, D)."""
        length = self.engine.layout.view_length
        views, skipped = [], []
        for prompt, start in runs:
            before = prompt.ids[:start].count(self._slot)
            views.append([] if prompt.views is None else list(prompt.views[before // length :]))
            skipped.append(before % length if length else 0)
        flat = [view for some in views for view in some]
        if not flat:
            return [torch.empty(0)] * len(runs)
        features = self.engine.model.features(torch.stack(flat).to(self._device))
        parts = features.split([len(some) for some in views])
        return [part.flatten(0, 1)[skip:] for part, skip in zip(parts, skipped, strict=True)]

    def _feature(self, row: Row) -> torch.Tensor:
        """The view feature for the slot just written; the encoder runs at the first one."""
        if row.features is None:
            drawn = row.reply.pictures[-1][None].to(self._device)  # waits for its pixels
            row.features = self.engine.model.features(drawn)[0]
            row.reread += 1
        left = row.grammar.left if row.grammar.state == "slots" else 0
        features = row.features
        if left == 0:
            row.features = None
        return features[len(features) - left - 1]

    # --- one pass --------------------------------------------------------------------------------

    def _pass(self, joining: list[_Prompt]) -> torch.Tensor | None:
        """Run what every lane wrote last, and of prompts that join what is not known of them.

        Returns:
            Hidden states of the last positions, (lanes, D); None where there are no lanes.
        """
        running, prefixes = len(self._lanes), self.engine.prefixes
        firsts: dict[bytes, Lane] = {}  # of equal prompts one runs
        states: dict[bytes, torch.Tensor] = {}
        runs: list[tuple[_Prompt, int]] = []
        if joining:
            self._reserve(joining)
        for prompt in joining:
            lane, length = prompt.lane, len(prompt.ids)
            lane.place, lane.length = len(self._lanes), length
            self._lanes.append(lane)
            if firsts.setdefault(prompt.key, lane) is not lane:
                self._count(lane, length, 0)
                continue
            known = prefixes.find(prompt.chain, length)
            self._count(lane, known.length, length - known.length)
            if known.kept is not None:
                self._cache.write(lane.place, known.kept)
            if known.hidden is None:
                runs.append((prompt, known.length))
            else:
                states[prompt.key] = known.hidden
        hidden = self._forward(running, runs) if running or runs else None
        if not joining or hidden is None and not states:
            return hidden
        for k, (prompt, _) in enumerate(runs, running):
            assert hidden is not None
            states[prompt.key] = hidden[k]
            read = partial(self._cache.read, prompt.lane.place)
            prefixes.keep(prompt.chain, len(prompt.ids), read, hidden[k])
        for prompt in joining:
            first = firsts[prompt.key]
            if first is not prompt.lane:
                self._cache.copy(first.place, prompt.lane.place, first.length)
        joined = torch.stack([states[prompt.key] for prompt in joining])
        return joined if hidden is None else torch.cat([hidden[:running], joined])

    def _reserve(self, joining: list[_Prompt]) -> None:
        """Room for prompts, for twins now or later, for a picture where one will surely come."""
        lanes = [*self._lanes, *(prompt.lane for prompt in joining)]
        rows = sum(lane.row.lanes for lane in lanes if not lane.twin)
        sure = any(lane.row.request.draw in ("first", "only", "now") for lane in lanes)
        longest = max(len(prompt.ids) for prompt in joining)
        columns = longest + 1 + (self.engine.layout.drawn_length if sure else 0)
        self._cache.reserve(rows, columns)

    def _count(self, lane: Lane, reused: int, run: int) -> None:
        if lane.twin:
            return
        counts = self.engine.prefixes.counts
        counts.prompts += 1
        counts.found += reused > 0
        counts.reused += reused
        counts.run += run

    def _forward(self, running: int, runs: list[tuple[_Prompt, int]]) -> torch.Tensor:
        """The columns of the lanes that run, and prompts from a position on: hidden states of the
        last positions, (running + runs, D). In one pass where a `Step` knows the decoder; but C,
        where it runs the lanes, runs no long prompts, or what is left of them. What else runs is
        no reason: a request must not notice it."""
        step = self.engine.step  # another thread may take it away
        compiled = step is not None and step.compiled is not None
        long = [compiled and len(prompt.ids) - start > SHORT for prompt, start in runs]
        if any(long) and (running or not all(long)):
            short = [not far for far in long]
            own = self._forward(running, [*compress(runs, short)])
            rest, some = iter(self._forward(0, [*compress(runs, long)])), iter(own[running:])
            joined = [next(rest if far else some) for far in long]
            return torch.cat([own[:running], torch.stack(joined)])
        due, slots = self._due(running), self._slots(runs) if runs else []
        if step is None:
            parts = [self._columns(due)] if running else []
            parts += [self._alone(*run, own) for run, own in zip(runs, slots, strict=True)]
            return torch.cat(parts)
        return self._one_pass(step, due, runs, slots, compiled and not any(long))

    def _due(self, running: int) -> _Due:
        """What the lanes that run wrote last."""
        due, last = _Due(), self.engine.context - 1
        for lane in self._lanes[:running]:
            row = lane.row
            due.tokens += row.reply.ids[-row.fresh :]
            due.places += self._written(row)
            due.columns.append(lane.length)
            due.widths.append(row.fresh)
            due.positions += [min(lane.length + k, last) for k in range(row.fresh)]
            if due.tokens[-1] == self._slot:
                due.features.append(self._feature(row))
            lane.length += row.fresh
        return due

    def _one_pass(
        self,
        step: Step,
        due: _Due,
        runs: list[tuple[_Prompt, int]],
        slots: list[torch.Tensor],
        compiled: bool,
    ) -> torch.Tensor:
        """Lanes, then prompts, by a `Step`."""
        blocks, ends = [], [end - 1 for end in accumulate(due.widths)]
        for (prompt, start), own in zip(runs, slots, strict=True):
            blocks.append((prompt.lane.place, start, len(prompt.ids)))
            due.tokens += prompt.ids[start:]
            due.places += self._places(prompt.ids)[start:]
            due.positions += range(start, len(prompt.ids))
            due.features += own.unbind()
            ends.append(len(due.tokens) - 1)
        bias = None
        if compiled:
            lanes = enumerate(zip(due.columns, due.widths, strict=True))
            rows = [(k, first, first + width) for k, (first, width) in lanes]
            self._cache.target([(k, at) for k, a, b in (*rows, *blocks) for at in range(a, b)])
        else:
            at = self._cache.column(due.columns, self._device, blocks, due.widths)
            if at is not None:
                bias = torch.where(self._seen(at), self._shown, self._hidden)
        x = step.embed(due.tokens, due.places, due.features)
        out = step(x, due.positions, self._cache, bias)
        return out[ends] if len(ends) < len(out) else out

    def _written(self, row: Row) -> tuple[int, ...]:
        """Places of what a row wrote last, if it was codes."""
        order, done = self.engine.layout.order.order, len(row.codes)
        return order[max(0, done - row.fresh) : done] or (0,) * row.fresh

    def _columns(self, due: _Due) -> torch.Tensor:
        """Lanes by the model itself, (lanes, D)."""
        model, device, cache = self.engine.model, self._device, self._cache
        at = cache.column(due.columns, device, (), due.widths)
        mask = None
        if at is not None and at.shape[1] == 1:
            mask = self._seen(at)[:, 0].long()
        elif at is not None:
            mask = torch.where(self._seen(at), self._shown, self._hidden)[:, None]
        embeds = model.embed(
            torch.tensor([due.tokens], device=device),
            torch.tensor([due.places], device=device),
            torch.stack(due.features)[:, None] if due.features else None,
        )
        where = cache.place.spread(torch.tensor(due.positions, device=device))
        spread = cache.place.spread(embeds[0])  # (lanes, columns, D)
        return model.hidden(spread, cache=cache, mask=mask, positions=where)[:, -1]

    def _alone(self, prompt: _Prompt, start: int, slots: torch.Tensor) -> torch.Tensor:
        """A prompt from a position on by the model itself, (1, D)."""
        model, device = self.engine.model, self._device
        self._cache.block(prompt.lane.place, start, len(prompt.ids))
        embeds = model.embed(
            torch.tensor([prompt.ids[start:]], device=device),
            torch.tensor([self._places(prompt.ids)[start:]], device=device),
            slots[None] if len(slots) else None,
        )
        where = torch.arange(start, len(prompt.ids), device=device)[None]
        return model.hidden(embeds, cache=self._cache, positions=where)[:, -1]

    def _seen(self, at: torch.Tensor) -> torch.Tensor:
        """Whether each column is seen from those of the lanes, (lanes, columns of each, all)."""
        count = self._cache.place.stop
        if count > len(self._numbered):
            self._numbered = torch.arange(2 * count, device=self._device)
        return self._numbered[:count] <= at[..., None]
