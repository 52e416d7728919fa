"""Decode steps of a batch in shapes that stay, with every number that changes in a tensor.

    ids, places, columns of the lanes -> embedding -> layers, over the first L columns -> hidden
    hidden -> image head -> guidance -> filters, noise, argmax -> ids of the next step

A step that ends with codes feeds the next one, so several run before anything is read: the host
knows beforehand where each lane stands, what it may choose from and how strongly it is guided, and
uploads that as tables of the next STEPS steps. The same function runs as it stands on any device
and recorded on CUDA (`unified.capture`), once for each number of rows, of columns, and each way in
which it ends.

Rows and columns come in sizes of few kinds; lanes that are too many write where nothing is read.
Knows lanes by their places; nothing of requests, words or grammar.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from unified.attention import attend_rows, visible
from unified.cache import BLOCK, RowCache
from unified.capture import Captures
from unified.sampling import Sampling, filter_rows
from unified.step import Step

STEPS = 8  # that run, at most, before their ids are read
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
GREEDY = Sampling(temperature=0.0)


def rows_of(lanes: int) -> int:
    """The number of rows that holds so many lanes."""
    return next((rows for rows in ROWS if rows >= lanes), -(-lanes // 256) * 256)


def columns_of(columns: int) -> int:
    """The number of columns that is read where so many are needed: a quarter more, at most, or the
    rest of a block."""
    step = max(BLOCK, 1 << max(0, columns.bit_length() - 3))
    return -(-columns // step) * step


@dataclass
class Plan:
    """The next steps of some lanes, by place; the tables have an entry for each step.

    Attributes:
        ids: each lane's last one. columns: that it stands in.
        places: of each lane's last code in its picture, by step.
        forced: the id that is due, -1 where a code is chosen. low, high: the codes it may be.
        weights: of guidance, 1 for none.
        twins: the lane that each lane is compared with, itself where it is not guided.
        owners: whose choice each lane takes: its own, a twin that of the lane it belongs to.
        sampling: how each lane chooses; None: another lane does, or nothing is chosen.
        generators: its chance, where it takes any.
    """

    ids: list[int]
    columns: list[int]
    places: list[list[int]]
    forced: list[list[int]] = field(default_factory=list)
    low: list[list[int]] = field(default_factory=list)
    high: list[list[int]] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    twins: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    sampling: list[Sampling | None] = field(default_factory=list)
    generators: list[torch.Generator | None] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return len(self.places)

    @property
    def chooses(self) -> bool:
        return any(own is not None for own in self.sampling)


class Fixed:
    """The steps of one model on one cache.

    Attributes:
        cache: that steps are recorded on; `lend` says who may use it.
        graphs: what was recorded.
    """

    def __init__(self, model: Any, step: Step):
        self.model, self.step = model, step
        config = model.config.text_config
        self.layers, self.context = config.num_hidden_layers, config.max_position_embeddings
        self.start, self.codes = step.image_start, model.config.image_config.codebook_size
        self.device, self.dtype = model.device, model.dtype
        self.cache = RowCache(self.layers)
        self.graphs = Captures(self.device)
        self._buffers: list[Any] = []
        self._cos = step.cos
        self._rows = 0  # that the tensors below have
        self._holder: weakref.ref[Any] | None = None
        self._lock = threading.Lock()
        step.fill()

    @classmethod
    def of(cls, model: Any, step: Step | None, last: Fixed | None) -> Fixed | None:
        """The steps of a model: `last` where they still hold, None where no `Step` knows it."""
        if step is None:
            return None
        return last if last is not None and last.step is step else cls(model, step)

    def lend(self, session: Any) -> bool:
        """Whether the cache is this session's: while another one is `busy` with it, it is not."""
        with self._lock:
            holder = None if self._holder is None else self._holder()
            if holder is not None and holder is not session and holder.busy:
                return False
            self._holder = weakref.ref(session)
            return True

    # --- running ---------------------------------------------------------------------------------

    def run(
        self, plan: Plan, features: Sequence[tuple[int, torch.Tensor]] = ()
    ) -> tuple[torch.Tensor, list[list[int]]]:
        """The plan's steps.

        Args:
            features: what stands at the slot of a lane, (D,), by the lane's place.

        Returns:
            Hidden states of the last step, (lanes, D), until the next run; and what each step
            chose for each lane, (steps, lanes), empty where nothing is chosen.
        """
        lanes, steps = len(plan.ids), plan.steps
        rows = rows_of(lanes)
        needed = max(plan.columns) + steps
        length = columns_of(needed)
        self._settle(rows, length)
        self._upload(plan, rows)
        for place, feature in features:
            self.features[place] = feature
        end = self._end(plan)
        for _ in range(steps):
            self.graphs.run(
                (rows, length, end),
                lambda: self._work(rows, length, end),
                (self.ids, self.turn),
            )
            if end == "filters":
                self._choose(rows, self.logits[:rows], end)
        if end == "hidden":
            return self.hidden[:lanes], []
        return self.hidden[:lanes], self.written[:steps, :lanes].tolist()  # the host waits here

    def _end(self, plan: Plan) -> str:
        """How a step ends: "hidden", or with ids: "likeliest", by "noise", or by "filters", which
        sort: they run after what is recorded."""
        if not plan.chooses:
            return "hidden"
        drawn = [own for own in plan.sampling if own is not None and own.temperature > 0]
        if any(own.top_k or own.top_p < 1 or own.min_p for own in drawn):
            return "filters"
        return "noise" if drawn else "likeliest"

    def _work(self, rows: int, length: int, end: str) -> None:
        """One step, from tensors that stay to tensors that stay."""
        places = self.tables.index_select(0, self.turn)[0, 0, :rows]
        columns = self.lanes[0, :rows] + self.turn
        hidden = self.through(
            self.ids[:rows, None], places[:, None], columns[:, None], length, self.features[:rows]
        )
        self.hidden[:rows] = hidden
        if end == "hidden":
            return
        logits = self._logits(hidden, rows)
        if end == "filters":
            self.logits[:rows] = logits
        else:
            self._choose(rows, logits, end)

    def through(
        self,
        ids: torch.Tensor,
        places: torch.Tensor,
        columns: torch.Tensor,
        length: int,
        features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Some ids of each row through the decoder, (rows, T) -> (rows * T, D).

        Args:
            columns: that they are written to; each sees those up to its own.
            length: columns that are read at most.
            features: (rows * T, D), of which those at slots are taken.
        """
        (rows, count), step = ids.shape, self.step
        x = embed(step, ids.flatten(), places.flatten(), features)
        heads, width = step.layers[0].kv_heads, step.layers[0].width
        at = columns[:, None, :, None].expand(rows, heads, count, width)
        seen = visible(columns, length, self.dtype, width)
        kept = [
            _Kept(keys[:rows, :, :length], values[:rows, :, :length], at, seen)
            for keys, values in self._buffers
        ]
        positions = columns.flatten().clamp_max(self.context - 1)
        return step.column(x, positions, _Layers(kept), None)

    def _logits(self, hidden: torch.Tensor, rows: int) -> torch.Tensor:
        """Guided logits of the codes that may be chosen, -inf of others, fp32 (rows, codes)."""
        logits = self.model.image_logits(hidden).float()
        without = logits.index_select(0, self.lanes[1, :rows])
        weight = self.weights.index_select(0, self.turn)[0, :rows, None]
        logits = without + weight * (logits - without)
        low, high = self.tables.index_select(0, self.turn)[0, 2:, :rows, None]
        codes = torch.arange(self.codes, device=self.device)
        return logits.masked_fill((codes < low) | (codes >= high), -torch.inf)

    def _choose(self, rows: int, logits: torch.Tensor, end: str) -> None:
        """The next id of every row, which the next step begins with."""
        if end != "likeliest":
            temperature, top_p, min_p = self.settings[:, :rows]
            logits = logits / temperature[:, None]
            if end == "filters":
                logits = filter_rows(logits, self.lanes[3, :rows], top_p, min_p)
            logits = logits - self.noise.index_select(0, self.turn)[0, :rows].log()
        forced = self.tables.index_select(0, self.turn)[0, 1, :rows]
        chosen = torch.where(forced >= 0, forced, logits.argmax(-1) + self.start)
        chosen = chosen.index_select(0, self.lanes[2, :rows])
        self.ids[:rows] = chosen
        self.written[:, :rows].index_copy_(0, self.turn, chosen[None])
        self.turn += 1

    # --- what stays in place ---------------------------------------------------------------------

    def _settle(self, rows: int, columns: int) -> None:
        """Room for so much. Where something has to move, all is recorded anew."""
        self.step.reach(min(columns, self.context))
        held, found = self._buffers, self.cache.settle(rows, columns)
        moved = len(held) != len(found) or any(a is not b for a, b in zip(held, found, strict=True))
        if rows > self._rows:
            self._make(max(rows, self.cache.place.capacity[0]))
            moved = True
        if moved or self._cos is not self.step.cos:
            self.graphs.clear()
            self._buffers, self._cos = found, self.step.cos

    def _make(self, rows: int) -> None:
        """Tensors for so many lanes; integers and numbers apart, as they are uploaded."""
        self._rows = rows
        whole: dict[str, Any] = {"dtype": torch.int64, "device": self.device}
        real: dict[str, Any] = {"dtype": torch.float32, "device": self.device}
        width = self.model.config.text_config.hidden_size
        self.ids, self.turn = torch.zeros(rows, **whole), torch.zeros(1, **whole)
        self.lanes = torch.zeros(4, rows, **whole)  # column, twin, owner, top_k
        self.tables = torch.zeros(STEPS, 4, rows, **whole)  # place, forced, low, high
        self.weights = torch.ones(STEPS, rows, **real)
        self.settings = torch.ones(3, rows, **real)  # temperature, top_p, min_p
        self.written = torch.zeros(STEPS, rows, **whole)
        self.features = torch.zeros(rows, width, dtype=self.dtype, device=self.device)
        self.hidden = torch.zeros_like(self.features)
        self.logits = torch.zeros(rows, self.codes, **real)
        self.noise = torch.ones(0)  # (STEPS, rows, codes) once it is wanted

    def _upload(self, plan: Plan, rows: int) -> None:
        lanes, steps = len(plan.ids), plan.steps
        spare = [0] * (rows - lanes)
        alone = [*range(lanes, rows)]
        sampled = [own or GREEDY for own in plan.sampling] if plan.chooses else [GREEDY] * lanes
        limits = [own.top_k if 0 < own.top_k < self.codes else self.codes for own in sampled]
        self._put(self.ids[:rows], [*plan.ids, *spare])
        self._put(self.turn, [0])
        self._put(
            self.lanes[:, :rows],
            [
                [*plan.columns, *spare],
                [*(plan.twins or range(lanes)), *alone],
                [*(plan.owners or range(lanes)), *alone],
                [*limits, *[self.codes] * len(spare)],
            ],
        )
        nothing = [[0] * lanes] * steps
        tables = plan.places, *(t or nothing for t in (plan.forced, plan.low, plan.high))
        by_step = zip(*tables, strict=True)
        self._put(self.tables[:steps, :, :rows], [[[*t, *spare] for t in step] for step in by_step])
        if not plan.chooses:
            return
        ones = [1.0] * len(spare)
        self._put(self.weights[:steps, :rows], [[*step, *ones] for step in plan.weights])
        self._put(
            self.settings[:, :rows],
            [
                [*(own.temperature or 1.0 for own in sampled), *ones],
                [*(own.top_p if own.top_p < 1 else 2.0 for own in sampled), *ones],
                [*(own.min_p for own in sampled), *ones],
            ],
        )
        if any(own.temperature > 0 for own in sampled):
            self._make_noise(plan, sampled)

    def _put(self, target: torch.Tensor, values: Any) -> None:
        """Upload; on CUDA without waiting: the memory that is copied from is kept until it was."""
        made = torch.tensor(values, dtype=target.dtype)
        if self.device.type == "cuda":
            made = made.pin_memory()
        target.copy_(made, non_blocking=True)

    def _make_noise(self, plan: Plan, sampled: Sequence[Sampling]) -> None:
        """What each choice takes from its lane's own chance: the same numbers, in the same order,
        as `unified.sampling.exponential`; 1, whose logarithm is 0, where there is none."""
        if not len(self.noise):
            shape = STEPS, self._rows, self.codes
            self.noise = torch.ones(shape, device=self.device)
            self.graphs.clear()
        self.noise[: plan.steps].fill_(1)
        for lane, (own, generator) in enumerate(zip(sampled, plan.generators, strict=True)):
            if own.temperature > 0:
                for k in range(plan.steps):
                    if plan.forced[k][lane] < 0:
                        part = self.noise[k, lane, plan.low[k][lane] : plan.high[k][lane]]
                        part.exponential_(generator=generator)


def embed(
    step: Step, ids: torch.Tensor, places: torch.Tensor, features: torch.Tensor | None = None
) -> torch.Tensor:
    """`Step.embed` without a look at the ids, (N,) -> (N, D); the step's table is filled."""
    model, start = step.model, step.image_start
    codes = (ids - start).clamp_min(0)
    x = model._codes(codes) if step.table is None else F.embedding(codes, step.table)
    if model.code_place is not None:
        x = x + model.code_place(places)
    words = model.get_input_embeddings()(ids.clamp_max(start - 1))
    x = torch.where((ids >= start)[:, None], x, words)
    if features is None:
        return x
    return torch.where((ids == step.slot)[:, None], features, x)


@dataclass(frozen=True)
class _Kept:
    """A layer's keys and values, (rows, kv_heads, length, head_dim), as `Step` asks for them.

    Attributes:
        at: columns that are written, as indices (rows, kv_heads, T, head_dim).
        seen: of `unified.attention.visible`.
    """

    keys: torch.Tensor
    values: torch.Tensor
    at: torch.Tensor
    seen: torch.Tensor

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: Any, scale: float
    ) -> torch.Tensor:
        """Write T columns a row and attend; all (rows * T, heads, ...), a row's after another."""
        rows, _, count, _ = self.at.shape
        for kept, new in ((self.keys, key), (self.values, value)):
            kept.scatter_(2, self.at, new[:, :, 0].unflatten(0, (rows, count)).transpose(1, 2))
        q = query.unflatten(0, (rows, count))
        return attend_rows(q, self.keys, self.values, self.seen, scale)


@dataclass(frozen=True)
class _Layers:
    layers: Sequence[_Kept]
