"""The codes that a step of a picture writes: hidden states -> (aim, head, guidance, filters, noise)
a code -> codes from 0 on, each chosen knowing those of its step before it.

Several rows at once, as weights are read once for all of them. In C where the decoder runs there: a
small model's codes take longer to choose by small operations than its layers need.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, c_int64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unified.column import LANES, held, plain_mlp, readable, unhooked, weights
from unified.layers import Aim
from unified.native import Heads, Next, TwoLayers, library
from unified.sampling import Sampling, noisiest

if TYPE_CHECKING:
    from unified.step import Step


@dataclass(frozen=True)
class Choice:
    """What a row writes next.

    Attributes:
        own, twin: rows of the hidden states; None where guidance does not count.
        weight: of guidance.
        places: of the codes in their picture. allowed: which they may be, from 0 on.
        noise: of each code (`sampling.exponential`), (codes allowed,); none where the likeliest is
            taken.
    """

    own: int
    twin: int | None
    weight: float
    places: Sequence[int]
    allowed: Sequence[range]
    sampling: Sampling
    noise: Sequence[torch.Tensor]


class Chooser:
    """What C reads to choose codes, as long as a step holds. Build it with `of`."""

    def __init__(self, step: Step, head: TwoLayers, told: TwoLayers | None):
        model = step.model
        size, codes = head.up.inputs, head.down.outputs
        aim, where = model.code_aim, model.code_place
        parts: list[Any] = [model.image_head.up, model.image_head.down]
        self.heads = Heads(head=head, size=size)
        if told is not None:
            step.fill()
            parts += [aim.told.up, aim.told.down, *([] if where is None else [where])]
            self.heads.told, self.heads.place = told, aim.place.data_ptr()
            self.heads.codes = step.table.data_ptr()  # type: ignore[union-attr]
            if where is not None:
                self.heads.where = where.weight.data_ptr()
        self.held = [*parts, *held(parts)]  # C reads where they lie, so they have to stay there
        self.held += [] if told is None else [step.table, aim.place.detach()]
        wide = max(layers.up.outputs for layers in (head, told) if layers is not None)
        self.floats = 2 * (3 * size + wide + codes + max(wide, 2 * size)) + 2 * (codes + LANES)

    @classmethod
    def of(cls, step: Step) -> Chooser | None:
        """None where it cannot be: where C does not run the decoder, or a head or aim is none that
        step.c knows."""
        model = step.model
        head, aim, where = model.image_head, model.code_aim, model.code_place
        found = None if head is None else _two_layers(head)
        if step.compiled is None or found is None:
            return None
        if aim is None:
            return cls(step, found, None)
        if type(aim) is not Aim or not unhooked(aim) or step.table is None:
            return None
        tables, told = [step.table, aim.place], _two_layers(aim.told)
        if where is not None:
            if type(where) is not nn.Embedding or not unhooked(where):
                return None
            tables.append(where.weight)
        return cls(step, found, told) if told is not None and all(map(readable, tables)) else None

    def __call__(self, hidden: torch.Tensor, due: Sequence[Choice]) -> list[list[int]]:
        """As `by_torch`."""
        hidden = hidden.contiguous()
        assert readable(hidden)
        start, row = hidden.data_ptr(), hidden.stride(0) * hidden.element_size()
        rows, out, kept = (Next * len(due))(), [], []
        for into, one in zip(rows, due, strict=True):
            sampling, count = one.sampling, len(one.places)
            table = [x for at, own in zip(one.places, one.allowed, strict=True)
                     for x in (at, own.start, own.stop)]  # fmt: skip
            codes, chosen = (c_int64 * len(table))(*table), (c_int64 * count)()
            noise = _joined(one.noise) if sampling.temperature else None
            into.own = start + one.own * row
            into.twin = None if one.twin is None else start + one.twin * row
            into.table, into.chosen = addressof(codes), addressof(chosen)
            into.noise = None if noise is None else noise.data_ptr()
            into.count, into.weight, into.temperature = count, one.weight, sampling.temperature
            into.top_k = int(min(sampling.top_k, self.heads.head.down.outputs))
            into.top_p, into.min_p = sampling.top_p, sampling.min_p
            kept.append((codes, noise))
            out.append(chosen)
        room = hidden.new_empty(len(due) * self.floats)
        most, threads = max(map(len, out)), torch.get_num_threads()
        library().choose(self.heads, rows, len(due), most, room.data_ptr(), threads)
        return [list(chosen) for chosen in out]

    def __reduce__(self) -> Any:
        """A copy of a step is one without: the weights of a copy lie elsewhere."""
        return type(None), ()


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Noise of several codes as one tensor."""
    found = parts[0] if len(parts) == 1 else torch.cat([*parts])
    assert readable(found)
    return found


def _two_layers(layers: Any) -> TwoLayers | None:
    """Where they lie, None where C cannot read them or something else happens there."""
    if not plain_mlp(layers):
        return None
    up, down = weights(layers.up), weights(layers.down)
    return None if up is None or down is None else TwoLayers(up, down)


def by_torch(model: Any, hidden: torch.Tensor, due: Sequence[Choice]) -> list[list[int]]:
    """The codes that each of `due` writes, from 0 on. Of equal logits where a filter cuts the sort
    keeps some, C all.
    hidden: (rows, D).
    """
    out: list[list[int]] = [[] for _ in due]
    for n in range(max(len(one.places) for one in due)):
        live = [k for k, one in enumerate(due) if n < len(one.places)]
        twins = [k for k in live if due[k].twin is not None]
        both = (*live, *twins)
        states = hidden[[*(due[k].own for k in live), *(due[k].twin for k in twins)]]
        if model.code_aim is not None:
            places = torch.tensor([due[k].places[: n + 1] for k in both], device=hidden.device)
            beside = torch.zeros_like(states)
            if n:
                codes = torch.tensor([out[k] for k in both], device=hidden.device)
                known = model.coded(codes.flatten(), places[:, :-1].flatten())
                beside = known.unflatten(0, codes.shape).sum(1)
            states = model.aim(states, places[:, -1], beside)
        logits = model.image_logits(states).float()
        own = dict(zip(live, logits, strict=False))
        for k, without in zip(twins, logits[len(live) :], strict=True):
            own[k] = without + due[k].weight * (own[k] - without)
        alike: dict[tuple[range, Sampling], list[int]] = {}
        for k in live:
            alike.setdefault((due[k].allowed[n], due[k].sampling), []).append(k)
        for (allowed, sampling), some in alike.items():
            found = torch.stack([own[k][allowed.start : allowed.stop] for k in some])
            noise = [due[k].noise[n] for k in some] if sampling.temperature else []
            for k, index in zip(some, _indices(found, noise, sampling), strict=True):
                out[k].append(allowed.start + index)
    return out


def _indices(logits: torch.Tensor, noise: Sequence[torch.Tensor], sampling: Sampling) -> list[int]:
    """What is chosen of each row (rows, V) under its noise, or the likeliest."""
    found = logits.argmax(-1)
    if sampling.temperature:
        found = noisiest(
            logits,
            torch.stack([*noise]),
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
        )
    indices: list[int] = found.tolist()
    return indices
