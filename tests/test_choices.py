"""Codes chosen in C are those that torch chooses, whatever the settings, and rows do not notice
each other."""

from __future__ import annotations

import copy
import gc
import random
from ctypes import CDLL
from dataclasses import replace

import pytest
import torch

from tests.test_column import COMPILERS
from tests.test_wavefront import reordered
from unified.choices import Choice, Chooser, by_torch
from unified.engine import Engine
from unified.handle import Unified
from unified.packed import KINDS, pack
from unified.processing import UnifiedProcessor
from unified.sampling import Sampling, chance, exponential

pytestmark = pytest.mark.skipif(not COMPILERS, reason="no C compiler")


def settings(rng: random.Random) -> Sampling:
    return Sampling(
        temperature=rng.choice([0.0, 0.3, 1.0, 2.0]),
        top_k=rng.choice([0, 1, 3, 17, 10_000]),
        top_p=rng.choice([1.0, 0.95, 0.5, 0.0]),
        min_p=rng.choice([0.0, 0.1, 1.0]),
    )


def due(engine: Engine, rng: random.Random, rows: int) -> list[Choice]:
    """Next codes of some rows, each at a step of its own; every second row of states is a twin."""
    start, found = engine.vocabulary.image_start, []
    at = [k for k, step in enumerate(engine.plan) if isinstance(step[0], range)]
    for k in range(rows):
        step, sampling = rng.choice(at), settings(rng)
        generator = chance(rng.randrange(1000), torch.device("cpu"))
        allowed = [range(own.start - start, own.stop - start) for own in engine.plan[step]]
        found.append(Choice(
            own=2 * k, twin=rng.choice([None, 2 * k + 1]), weight=rng.uniform(0, 5),
            places=engine.layout.order.steps[step], allowed=allowed, sampling=sampling,
            noise=[exponential(len(own), generator) for own in allowed if sampling.temperature],
        ))  # fmt: skip
    return found


def compiled(handle: Unified) -> Chooser:
    handle.engine.refresh()
    step = handle.engine.step
    assert step is not None
    if step.compiled is None:
        pytest.skip("this machine runs no steps in C")
    assert step.chooser is not None
    return step.chooser


@pytest.mark.parametrize("weights", [None, *KINDS])
@pytest.mark.parametrize("slope", [0, 1, 2])
@torch.no_grad()
def test_c_chooses_as_torch_does(tiny: Unified, slope: int, weights: str | None) -> None:
    model = copy.deepcopy(tiny.model)
    handle = Unified(model, UnifiedProcessor.of(model.config, tiny.processor.tokenizer), tiny.codec)
    if slope:
        handle = reordered(tiny, slope)
    if weights is not None:
        pack(handle.model, weights)
    chooser, rng = compiled(handle), random.Random(7)
    for rows in (1, 1, 1, 2, 3, 5, 8):
        torch.manual_seed(rng.randrange(1000))
        hidden = 3 * torch.randn(2 * rows, handle.model.config.text_config.hidden_size)
        wanted = due(handle.engine, rng, rows)
        found = chooser(hidden, wanted)
        assert found == by_torch(handle.model, hidden, wanted)
        assert found == [codes for one in wanted for codes in chooser(hidden, [one])]
        for codes, one in zip(found, wanted, strict=True):
            assert all(code in own for code, own in zip(codes, one.allowed, strict=True))


@torch.no_grad()
def test_every_kind_of_cpu_chooses_the_same(tiny: Unified, other_cpu: CDLL) -> None:
    handle, rng = reordered(tiny), random.Random(3)
    chooser, wanted = compiled(handle), due(handle.engine, rng, 5)
    hidden = 3 * torch.randn(10, handle.model.config.text_config.hidden_size)
    assert chooser(hidden, wanted) == by_torch(handle.model, hidden, wanted)


@torch.no_grad()
@pytest.mark.parametrize(
    "part", ["image_head", "image_head.up", "code_aim", "code_aim.told.down", "code_place"]
)
def test_what_is_hooked_is_left_to_torch(tiny: Unified, part: str) -> None:
    handle = reordered(tiny)
    compiled(handle)
    hook = handle.model.get_submodule(part).register_forward_hook(lambda *_: None)
    handle.engine.refresh()
    assert handle.engine.step is not None and handle.engine.step.chooser is None
    hook.remove()
    compiled(handle)


@torch.no_grad()
def test_weights_that_are_replaced_are_followed(tiny: Unified) -> None:
    """And those before them stay for as long as the step that reads them."""
    handle = reordered(tiny)
    chooser, wanted = compiled(handle), due(handle.engine, random.Random(5), 4)
    hidden = 3 * torch.randn(8, handle.model.config.text_config.hidden_size)
    before, head = chooser(hidden, wanted), handle.model.image_head
    assert head is not None
    other, place = torch.randn_like(head.down.weight), head.down.weight.data_ptr()
    head.down.weight = torch.nn.Parameter(3 * other)
    gc.collect()
    assert any(own.data_ptr() == place for own in chooser.held if isinstance(own, torch.Tensor))
    assert chooser(hidden, wanted) == before
    followed = compiled(handle)
    assert followed is not chooser
    found = followed(hidden, wanted)
    assert found == by_torch(handle.model, hidden, wanted) != before


@torch.no_grad()
def test_what_is_no_number_ends_in_a_code(tiny: Unified) -> None:
    chooser, engine = compiled(tiny), tiny.engine
    for value in (torch.nan, torch.inf, -torch.inf):
        hidden = torch.full((6, tiny.model.config.text_config.hidden_size), value)
        wanted = due(engine, random.Random(1), 3)
        for codes, one in zip(chooser(hidden, wanted), wanted, strict=True):
            assert all(code in own for code, own in zip(codes, one.allowed, strict=True))


@torch.no_grad()
def test_every_code_is_chosen_as_often_as_it_should_be(tiny: Unified) -> None:
    """Over 4000 draws, within five standard errors of its share."""
    chooser, engine = compiled(tiny), tiny.engine
    generator, count = chance(3, torch.device("cpu")), 4000
    torch.manual_seed(0)
    hidden = torch.randn(1, tiny.model.config.text_config.hidden_size)
    one = replace(due(engine, random.Random(2), 1)[0], twin=None, sampling=Sampling(),
                  allowed=[range(8)])  # fmt: skip
    shares = tiny.model.image_logits(hidden)[0, :8].softmax(-1)
    draws = [[exponential(8, generator)] for _ in range(count)]
    found = torch.tensor([chooser(hidden, [replace(one, noise=own)])[0][0] for own in draws])
    counted = torch.bincount(found, minlength=8) / count
    assert ((counted - shares).abs() < 5 * (shares * (1 - shares) / count).sqrt() + 1e-9).all()
