"""The codes that a step of a picture writes: hidden states -> (aim, head, guidance, filters, noise)
a code -> ids, each chosen knowing those of its step before it.

Several rows at once, as weights are read once for all of them. In C where the decoder runs there: a
small model's codes take longer to choose by small operations than its layers need.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, c_long
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from unified.column import LANES, plain_mlp, readable, weights
from unified.native import Heads, TwoLayers, Wanted, library
from unified.sampling import Sampling, choose

if TYPE_CHECKING:
    from unified.step import Step


@dataclass(frozen=True)
class Choice:
    """What a row writes next.

    Attributes:
        own, twin: rows of the hidden states; None where guidance does not count.
        weight: of guidance.
        places: of the codes in their picture. allowed: which they may be, from 0 on.
        generator: of the request; a code takes its next noise.
    """

    own: int
    twin: int | None
    weight: float
    places: Sequence[int]
    allowed: Sequence[range]
    sampling: Sampling
    generator: torch.Generator


class Choices:
    """What C reads to choose codes, as long as a step holds. Build it with `of`."""

    def __init__(self, step: Step, head: TwoLayers, told: TwoLayers | None):
        model = step.model
        size, codes = head.up.inputs, head.down.outputs
        aim, self.held = model.code_aim, [model.image_head, model.code_aim, model.code_place]
        self.heads = Heads(head=head, size=size)
        if told is not None:
            step.fill()
            self.held.append(step.table)
            self.heads.told, self.heads.place = told, aim.place.data_ptr()
            self.heads.codes = step.table.data_ptr()  # type: ignore[union-attr]
            if model.code_place is not None:
                self.heads.where = model.code_place.weight.data_ptr()
        wide = max(layers.up.outputs for layers in (head, told) if layers is not None)
        self.floats = 2 * (3 * size + wide + codes + max(wide, 2 * size)) + 2 * (codes + LANES)

    @classmethod
    def of(cls, step: Step) -> Choices | None:
        """None where it cannot be: where C does not run the decoder, or a head or aim is none that
        step.c knows."""
        model = step.model
        head, aim, where = model.image_head, model.code_aim, model.code_place
        found = None if head is None else _two_layers(head)
        if step.compiled is None or found is None:
            return None
        if aim is None:
            return cls(step, found, None)
        told = _two_layers(aim.told)
        if (
            told is None
            or step.table is None
            or not readable(step.table)
            or not readable(aim.place)
        ):
            return None
        return None if where is not None and not readable(where.weight) else cls(step, found, told)

    def __call__(self, hidden: torch.Tensor, due: Sequence[Choice]) -> list[list[int]]:
        """As `by_torch`."""
        hidden = hidden.contiguous()
        start, row = hidden.data_ptr(), hidden.stride(0) * hidden.element_size()
        wanted, out, held = (Wanted * len(due))(), [], []
        for into, one in zip(wanted, due, strict=True):
            sampling, count = one.sampling, len(one.places)
            table = [x for at, own in zip(one.places, one.allowed, strict=True)
                     for x in (at, own.start, own.stop)]  # fmt: skip
            codes, chosen = (c_long * len(table))(*table), (c_long * count)()
            noise = _noise(one) if sampling.temperature else None
            into.own = start + one.own * row
            into.twin = None if one.twin is None else start + one.twin * row
            into.wanted, into.chosen = addressof(codes), addressof(chosen)
            into.noise = None if noise is None else noise.data_ptr()
            into.count, into.weight, into.temperature = count, one.weight, sampling.temperature
            into.top_k, into.top_p, into.min_p = sampling.top_k, sampling.top_p, sampling.min_p
            held.append((codes, noise))
            out.append(chosen)
        room = hidden.new_empty(len(due) * self.floats)
        library().choose(
            self.heads,
            wanted,
            len(due),
            max(map(len, out)),
            room.data_ptr(),
            torch.get_num_threads(),
        )
        return [list(chosen) for chosen in out]

    def __reduce__(self) -> Any:
        """A copy of a step is one without: the weights of a copy lie elsewhere."""
        return type(None), ()


def _noise(one: Choice) -> torch.Tensor:
    """That of `sampling.gumbel` for each code, before its logarithm."""
    sizes = [len(own) for own in one.allowed]
    noise = torch.empty(sum(sizes))
    for part in noise.split(sizes):
        part.exponential_(generator=one.generator)
    return noise


def _two_layers(layers: Any) -> TwoLayers | None:
    """Where they lie, None where C cannot read them or something else happens there."""
    if not plain_mlp(layers):
        return None
    up, down = weights(layers.up), weights(layers.down)
    return None if up is None or down is None else TwoLayers(up, down)


def by_torch(
    model: Any, heads: Any, hidden: torch.Tensor, due: Sequence[Choice]
) -> list[list[int]]:
    """The codes that each of `due` writes, from 0 on.

    Args:
        heads: the model, or its `Step`.
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
                known = heads.coded(codes.flatten(), places[:, :-1].flatten())
                beside = known.unflatten(0, codes.shape).sum(1)
            states = model.aim(states, places[:, -1], beside)
        logits = heads.image_logits(states).float().cpu()
        own = dict(zip(live, logits, strict=False))
        for k, without in zip(twins, logits[len(live) :], strict=True):
            own[k] = without + due[k].weight * (own[k] - without)
        for k in live:
            allowed, sampling = due[k].allowed[n], due[k].sampling
            index = choose(
                own[k][allowed.start : allowed.stop],
                due[k].generator,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                min_p=sampling.min_p,
            )
            out[k].append(allowed.start + index)
    return out
