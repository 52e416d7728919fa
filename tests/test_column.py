"""A step of decoding in C: what torch gives, alone or beside others, on every kind of CPU."""

from __future__ import annotations

import copy
import os
import shutil
from ctypes import CDLL
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.test_decode import model_of
from unified import column, native
from unified.cache import BLOCK, RowCache
from unified.engine import Request
from unified.handle import Unified
from unified.packed import KINDS, Half, Int4, Int8, pack
from unified.sampling import Sampling
from unified.step import Step

COMPILERS = any(map(shutil.which, (os.environ.get("CC", ""), *native.COMPILERS)))
pytestmark = pytest.mark.skipif(not COMPILERS, reason="no C compiler")  # else it has to compile


def filled(model: Any, step: Step, lengths: list[int]) -> RowCache:
    """A cache whose rows hold so many columns."""
    heads, width, layers = step.layers[0].kv_heads, step.layers[0].width, len(step.layers)
    cache = RowCache(layers, dtype=torch.float16 if model.packed else None)
    for row, length in enumerate(lengths):
        random = torch.Generator().manual_seed(length)
        cache.write(row, torch.randn(2 * layers, heads, length, width, generator=random))
    return cache


@pytest.mark.parametrize("weights", [None, *KINDS])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@torch.no_grad()
def test_c_gives_what_torch_gives(kind: str, weights: str | None) -> None:
    model = model_of(kind)
    if weights is not None:
        pack(model, weights)
    text = model.config.text_config
    lengths = [5, 31, 1, BLOCK - 1, 60]  # of the last, a block begins
    random = torch.Generator().manual_seed(0)

    def run(rows: list[int], compiled: bool) -> torch.Tensor:
        step = Step.of(model)
        assert step is not None and step.compiled is not None
        if not compiled:
            step.compiled = None
        cache = filled(model, step, [lengths[r] for r in rows])
        found = []
        for k in range(3):
            columns = [lengths[r] + k for r in rows]
            at = cache.column(columns, torch.device("cpu"))
            seen = torch.arange(max(columns) + 1) <= torch.tensor(columns)[:, None]
            bias = None if at is None else torch.where(seen, 0.0, torch.finfo().min)[:, None]
            positions = [min(column, 63) for column in columns]
            found.append(step(inputs[k, rows], positions, cache, bias))
        return torch.stack(found, 1)

    inputs = torch.randn(3, 5, text.hidden_size, generator=random)
    together = run([0, 1, 2, 3, 4], True)
    assert together.std() > 0.3
    error = 2e-4 if weights is None else 1e-3  # their cache is fp16, and rounds a nearby sum apart
    torch.testing.assert_close(together, run([0, 1, 2, 3, 4], False), atol=error, rtol=error)
    for row in range(5):
        assert torch.equal(run([row], True)[0], together[row])


@torch.no_grad()
def test_what_c_does_not_know_is_left_to_torch() -> None:
    def compiled(model: Any) -> Any:
        step = Step.of(model)
        assert step is not None
        return step.compiled

    assert compiled(model_of("llama")) is not None
    assert compiled(model_of("chameleon")) is None  # another norm of heads
    assert compiled(model_of("llama").bfloat16()) is None
    other = model_of("llama")
    for layer in other.decoder.layers:
        layer.mlp.act_fn = torch.nn.GELU()
    assert compiled(other) is None


@torch.no_grad()
def test_norms_that_change_are_followed() -> None:
    model = model_of("qwen3")
    step, layer = Step.of(model), model.decoder.layers[1]
    for norm in (layer.input_layernorm, layer.self_attn.q_norm):
        norm.weight.data = norm.weight.data * 2
        last, step = step, Step.of(model, step)
        assert step is not None and step is not last
    norm.bfloat16()
    step = Step.of(model)
    assert step is not None and step.compiled is not None  # heads' norms are copied
    layer.input_layernorm.bfloat16()
    step = Step.of(model)
    assert step is not None and step.compiled is None


@torch.no_grad()
def test_several_columns_a_row_and_a_head_of_80() -> None:
    model = model_of("llama", num_attention_heads=2, num_key_value_heads=1, head_dim=80)
    step = Step.of(model)
    assert step is not None and step.compiled is not None
    random = torch.Generator().manual_seed(0)
    x, columns, widths = torch.randn(6, 64, generator=random), [7, 20], [2, 4]
    positions = [7, 8, 20, 21, 22, 23]
    found = []
    for compiled in (step.compiled, None):
        step.compiled, cache = compiled, filled(model, step, [7, 20])
        at = cache.column(columns, torch.device("cpu"), (), widths)
        assert at is not None
        seen = torch.arange(24) <= at[..., None]
        bias = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
        found.append(step(x, positions, cache, bias))
    torch.testing.assert_close(*found, atol=2e-4, rtol=2e-4)


@torch.no_grad()
def test_what_overflows_is_not_hidden() -> None:
    model = model_of("llama")
    step = Step.of(model)
    assert step is not None and step.compiled is not None
    cache = filled(model, step, [5, 5])
    cache.column([5, 5], torch.device("cpu"))
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    x[1, 3] = float("nan")
    found = step(x, [5, 5], cache)
    assert found[0].isfinite().all() and found[1].isnan().all()


def test_a_copy_of_a_step_runs_by_torch() -> None:
    step = Step.of(model_of("llama"))
    assert step is not None and copy.deepcopy(step).compiled is None


def test_who_joins_late_is_not_noticed(tiny: Unified) -> None:
    def asked(words: str, seed: int) -> Request:
        prompt = tiny._fit([{"role": "user", "content": words}], 90, draw=True)[0]
        sampling = Sampling(guidance_scale=2.0, temperature=1.0)
        return Request(prompt.ids, None, seed, sampling, "now", most=90)

    first, second = asked("a cat", 0), asked("two dogs beside a red circle at night", 1)
    alone = [tiny.engine.run([one])[0].ids for one in (first, second)]
    session = tiny.engine.serve(4)
    replies = [session.replies[session.add(first)]]
    for _ in range(5):
        session.step()
    replies.append(session.replies[session.add(second)])
    while session.busy:
        session.step()
    assert [reply.ids for reply in replies] == alone


@torch.no_grad()
@pytest.mark.parametrize("kind", [Int8, Int4])
def test_whole_numbers_add_no_error_of_their_own(kind: Any) -> None:
    """What a layer of 8 or 4 bits gives is the product of its weights as they are kept and inputs
    of 16 bits."""
    random = torch.Generator().manual_seed(0)
    weight, x = torch.randn(70, 256, generator=random), torch.randn(9, 256, generator=random)
    x[:4, 17] *= 1e3  # one that is far larger takes nothing from what is not beside it
    x[1] *= 1e-20
    x[2] *= 1e20
    x[3, 32:64] = 0
    layer = kind(weight, None)
    kept = layer(torch.eye(256)).T  # each input alone is exact
    assert (kept - weight).abs().max() < 0.3
    most, sizes = (own.abs().unflatten(1, (-1, 32)) for own in (x, kept))
    bound = most.amax(-1) @ sizes.sum(-1).T / (2 * 32767)  # half a step of inputs
    bound += 1e-6 * x.abs() @ kept.abs().T
    assert ((layer(x) - x.double() @ kept.double().T).abs() <= bound).all()
    x[4, 3], x[5, 40] = float("nan"), float("inf")
    spoilt = layer(x).isnan().all(1)
    assert spoilt.tolist() == [False] * 4 + [True] * 2 + [False] * 3


@torch.no_grad()
def test_every_kind_of_cpu_gives_the_same(
    other_cpu: CDLL,
) -> None:
    random = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(*size, generator=random) for size in ((70, 96), (70,), (7, 96)))
    for kind, bound in ((Half, 5e-4), (Int8, 1e-2), (Int4, 0.12)):
        layer = kind(weight, bias)
        wanted = x @ weight.T + bias
        assert (layer(x) - wanted).std() < bound * wanted.std()
        for row in range(7):
            assert torch.equal(layer(x[row]), layer(x)[row])
    for coded in (Int8, Int4):
        test_whole_numbers_add_no_error_of_their_own(coded)
    for packing in ("half", "int8", "int4"):
        test_c_gives_what_torch_gives("qwen3", packing)
    test_c_gives_what_torch_gives("llama", None)


@torch.no_grad()
def test_long_rows_are_attended_exactly() -> None:
    """One head over hundreds of columns, large scores and small ones, against torch in fp64."""
    model = model_of("llama")
    text, length = model.config.text_config, 500
    model.config.text_config.max_position_embeddings = 1024
    step = Step.of(model)
    assert step is not None and step.compiled is not None
    cache = filled(model, step, [length, length])
    for layer in cache.layers:
        layer.buffers[0].mul_(20)  # type: ignore[attr-defined]
    cache.column([length, length], torch.device("cpu"))
    x = torch.randn(2, text.hidden_size, generator=torch.Generator().manual_seed(0))
    found = step(x, [length, length], cache)
    step.compiled = None
    torch.testing.assert_close(found, step(x, [length, length], cache), atol=1e-3, rtol=1e-3)


def test_without_a_compiler_plain_weights_still_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    native.library.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    try:
        step = Step.of(model_of("llama"))
        assert step is not None and step.compiled is None
        with pytest.raises(ValueError, match="need a C compiler, and none is here: install one"):
            Half(torch.ones(4, 32), None)
    finally:
        native.library.cache_clear()


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken-cc"
    said = r"in a function:\nerror: no such target\n"
    broken.write_text(f"#!/bin/sh\nprintf '{said}' >&2; exit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native.library.cache_clear()
    try:
        with pytest.raises(
            ValueError, match="broken-cc could not compile step.c: error: no such target"
        ):
            native.library()
        assert not native.available()
    finally:
        native.library.cache_clear()


def test_without_a_home_it_is_kept_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(native.Path, "home", nowhere)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path))
    native.library.cache_clear()
    try:
        native.library()
        assert list(tmp_path.glob("unified-*/step-*.so"))
        monkeypatch.setattr(native, "_temporary", nowhere)
        native.library.cache_clear()
        with pytest.raises(ValueError, match="no place to keep what is compiled .Could not deter"):
            native.library()
    finally:
        native.library.cache_clear()


def test_what_is_compiled_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    try:
        native.library()
        (made,) = (tmp_path / "unified").iterdir()
        before = made.stat().st_mtime_ns
        native.library.cache_clear()
        native.library()
        assert made.stat().st_mtime_ns == before
    finally:
        native.library.cache_clear()


def test_inputs_that_do_not_fit_are_refused() -> None:
    layer = Int8(torch.ones(4, 32), None)
    with pytest.raises(ValueError, match=r"shape \(2, 64\) on cpu; packed weights take 32 each"):
        layer(torch.ones(2, 64))
    with pytest.raises(ValueError, match="on meta; packed weights take 32 each, on the CPU"):
        layer(torch.ones(2, 32, device="meta"))


def test_what_is_damaged_is_compiled_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def compiled(home: str) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / home))
        native.library.cache_clear()
        native.library()
        (made,) = (tmp_path / home / "unified").iterdir()
        return made

    try:
        made = compiled("a")
        cut = tmp_path / "b" / "unified" / made.name
        cut.parent.mkdir(parents=True, mode=0o700)
        cut.write_bytes(b"cut short")
        assert compiled("b").stat().st_size == made.stat().st_size
    finally:
        native.library.cache_clear()


def test_a_folder_that_others_may_write_to_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path / "tmp"))
    open_folder = tmp_path / "cache" / "unified"
    open_folder.mkdir(parents=True)
    open_folder.chmod(0o777)
    native.library.cache_clear()
    try:
        native.library()
        assert not list(open_folder.iterdir())
        assert list((tmp_path / "tmp").glob("unified-*/step-*.so"))
    finally:
        native.library.cache_clear()


@torch.no_grad()
@pytest.mark.parametrize("weights", [None, *KINDS])
def test_a_prompt_in_c_is_that_of_torch_whole_or_in_pieces(
    weights: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("qwen3")
    if weights is not None:
        pack(model, weights)
    step, layers = Step.of(model), len(model.decoder.layers)
    assert step is not None and step.compiled is not None
    lengths, kept = [11, 1, 30], torch.float16 if weights else torch.float32
    x = torch.randn(sum(lengths), 64, generator=torch.Generator().manual_seed(0))
    positions = [k for length in lengths for k in range(length)]

    def run(compiled: bool) -> torch.Tensor:
        cache, cpu = RowCache(layers, 3, kept), torch.device("cpu")
        if compiled:
            cache.target([(row, k) for row, length in enumerate(lengths) for k in range(length)])
            return step(x, positions, cache)
        cache.column([], cpu, [(row, 0, length) for row, length in enumerate(lengths)])
        return step.column(x, torch.tensor(positions), cache, None)

    whole = run(True)
    error = 2e-4 if weights is None else 1e-3
    torch.testing.assert_close(whole, run(False), atol=error, rtol=error)
    monkeypatch.setattr(column, "TOKENS", 4)
    assert torch.equal(run(True), whole)


def test_the_text_head_in_c_is_the_models_and_rows_do_not_notice_each_other(tiny: Unified) -> None:
    tiny.engine.refresh()
    step, model = tiny.engine.step, tiny.model
    assert step is not None and step.compiled is not None
    with torch.inference_mode():
        hidden = torch.randn(5, model.config.text_config.hidden_size)
        ours = step.text_logits(hidden)
        torch.testing.assert_close(ours, model.text_logits(hidden), atol=1e-5, rtol=1e-5)
        alone = torch.cat([step.text_logits(row[None]) for row in hidden])
        assert torch.equal(alone, ours)
