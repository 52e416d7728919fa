"""Steps of fixed shapes write what the present ones write; a GPU records them, any device runs them
(what is recorded: test_gpu.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unified
from tests.requested import FILTERED, asked, engine_of, ids, run, several, whole
from unified import attention, capture
from unified.cache import RowCache
from unified.device import placed
from unified.engine import Engine
from unified.fixed import STEPS, Fixed, columns_of, rows_of
from unified.handle import Unified
from unified.modeling import UnifiedForConditionalGeneration
from unified.sampling import filter_logits, filter_rows
from unified.terminal import explain
from unified.train.loop import LoopConfig, fit


@pytest.fixture(scope="module")
def janus(tiny_janus: Path) -> Unified:
    return unified.load(tiny_janus, device="cpu")


@pytest.fixture
def engine(janus: Unified) -> Engine:
    return engine_of(janus, True)


def test_fixed_steps_write_what_the_present_ones_write(janus: Unified, engine: Engine) -> None:
    requests = several(janus)
    expected, steps, calls = run(engine_of(janus, False), requests)
    assert steps == calls
    found, again, fewer = run(engine, requests)
    assert engine.fixed is not None and again == steps
    assert [reply.ids for reply in found] == [reply.ids for reply in expected]
    assert fewer <= calls  # the first of them runs prompts; words end each step
    _, steps, calls = run(engine, whole(requests))
    assert steps > 20 and calls <= steps / STEPS + 4  # one prompt, one twin, <image_end>, <end>
    for request, reply in zip(requests[2:5], expected[2:5], strict=True):
        assert ids(engine, request) == reply.ids


def test_views_that_are_read_back_are_fed(tiny: Unified) -> None:
    """The toybox's model reads what it drew as a view, one slot after another."""
    mark = tiny.layout.vocabulary.control("image")

    def often(head: object, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., mark] = logits.logsumexp(-1) - 2
        return logits

    sampling = replace(FILTERED, text_temperature=1.0)
    requests = [asked(tiny, words, sampling, "auto", k) for k, words in enumerate(("a cat", "no"))]
    requests = [replace(request, most=230) for request in requests]
    hook = tiny.model.text_head.register_forward_hook(often)
    replies = [engine_of(tiny, captured).run(requests) for captured in (False, True)]
    hook.remove()
    assert any(reply.pictures for reply in replies[0])
    assert [reply.ids for reply in replies[0]] == [reply.ids for reply in replies[1]]


def test_who_joins_or_leaves_does_not_matter(janus: Unified, engine: Engine) -> None:
    requests = several(janus)
    alone = [ids(engine_of(janus, False), request) for request in requests]
    session = engine.serve(6)  # all of them need more rows than there are
    numbers = [session.add(request) for request in requests[:3]]
    replies = [session.replies[number] for number in numbers]
    for k in range(100):
        session.step()
        if k == 1:
            session.cancel(numbers[1])
        if 3 + k < len(requests):
            replies.append(session.replies[session.add(requests[3 + k])])
    assert not session.busy and replies[1].reason == "cancelled"
    assert replies[1].ids == alone[1][: len(replies[1].ids)]
    del replies[1], alone[1]
    assert [reply.ids for reply in replies] == alone


def test_another_session_has_a_cache_of_its_own(janus: Unified, engine: Engine) -> None:
    one, two = (asked(janus, words) for words in ("a cat", "two dogs"))
    expected = [ids(engine_of(janus, False), request) for request in (one, two)]
    first, second = engine.serve(2), engine.serve(2)
    replies = [s.replies[s.add(r)] for s, r in ((first, one), (second, two))]
    while first.busy or second.busy:
        first.step()
        second.step()
    assert first._fixed is engine.fixed and second._fixed is None
    assert [reply.ids for reply in replies] == expected
    third = engine.serve(2)  # the first has ended
    reply = third.replies[third.add(two)]
    while third.busy:
        third.step()
    assert third._fixed is engine.fixed and reply.ids == expected[1]


@torch.no_grad()
def test_other_weights_make_other_steps(tiny_janus: Path) -> None:
    handle = unified.load(tiny_janus, device="cpu")
    engine, request = engine_of(handle, True), asked(handle, "a cat")
    before = ids(engine, request)
    made = engine.fixed
    assert ids(engine, request) == before and engine.fixed is made
    handle.model.image_head.down.weight.mul_(-1)  # type: ignore[union-attr]
    after = ids(engine, request)
    assert engine.fixed is not made and after != before
    assert engine.naive(request).ids == after


@torch.inference_mode()
def test_several_ids_of_a_row_at_once_are_one_by_one(janus: Unified, engine: Engine) -> None:
    ids(engine, asked(janus, "a cat"))
    fixed = engine.fixed
    assert fixed is not None
    start = janus.layout.vocabulary.image_start
    tokens = torch.randint(start, start + 90, (2, 6), generator=torch.Generator().manual_seed(0))
    places, columns = torch.arange(6).expand(2, -1), torch.arange(6) + torch.tensor([[0], [3]])
    fixed._settle(2, 128)
    one = [
        fixed.through(tokens[:, [k]], places[:, [k]], columns[:, [k]], 128).view(2, 1, -1)
        for k in range(6)
    ]
    two = fixed.through(tokens[:, 4:], places[:, 4:], columns[:, 4:], 128).view(2, 2, -1)
    torch.testing.assert_close(two, torch.cat(one[4:], 1), atol=1e-5, rtol=1e-5)
    whole = fixed.through(tokens, places, columns, 128).view(2, 6, -1)
    torch.testing.assert_close(whole, torch.cat(one, 1), atol=1e-5, rtol=1e-5)


def test_a_cache_that_grows_is_followed(janus: Unified, engine: Engine) -> None:
    """Words run far beyond what was reserved for the prompt."""
    request = replace(asked(janus, "Hello", draw="never"), most=200)
    assert ids(engine, request) == ids(engine_of(janus, False), request)
    assert engine.fixed is not None and len(engine.fixed._buffers) == 3
    held = [layer.buffers for layer in engine.fixed.cache.layers]
    assert all(a is b for a, b in zip(held, engine.fixed._buffers, strict=True))


def test_a_model_that_no_step_knows_has_no_fixed_steps(janus: Unified) -> None:
    layer = janus.model.decoder.layers[1].self_attn.v_proj
    hook = layer.register_forward_hook(lambda module, inputs, out: out * 0.5)
    engine, request = engine_of(janus, True), asked(janus, "a cat")
    found = ids(engine, request)
    hook.remove()
    assert engine.fixed is None and len(found) > 20


@given(st.integers(1, 5000))
def test_sizes_are_few_and_no_more_than_needed(count: int) -> None:
    assert count <= rows_of(count) <= max(2 * count, count + 256)
    assert count <= columns_of(count) <= max(128 * -(-count // 128), 1.25 * count)
    assert columns_of(count) % 128 == 0
    assert len({columns_of(k) for k in range(1, 4097)}) <= 16


@given(st.integers(0, 12), st.sampled_from((0.0, 0.5, 0.9, 1.0)), st.sampled_from((0.0, 0.02, 0.3)))
def test_filters_of_rows_are_those_of_each(top_k: int, top_p: float, min_p: float) -> None:
    logits = 3 * torch.randn(4, 10, generator=torch.Generator().manual_seed(top_k))
    logits[1] = logits[1].round()  # equal ones
    logits[2, 3:] = -torch.inf
    mine = torch.tensor([top_k if 0 < top_k < 10 else 10, 10, 3, 1])
    found = filter_rows(
        logits, mine, torch.tensor([top_p if top_p < 1 else 2.0, 0.7, 2.0, 2.0]),
        torch.tensor([min_p, 0.0, 0.1, 0.0]),
    )  # fmt: skip
    each = [(top_k, top_p, min_p), (0, 0.7, 0.0), (3, 1.0, 0.1), (1, 1.0, 0.0)]
    for row, (k, p, m), one in zip(logits, each, found, strict=True):
        assert torch.equal(filter_logits(row, k, p, m), one)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_rows_over_a_fixed_length_are_rows_over_what_they_see(groups: int) -> None:
    random = torch.Generator().manual_seed(0)
    query = torch.randn(3, 2, 4, 8, generator=random)
    key, value = torch.randn(2, 3, groups, 16, 8, generator=random).unbind()
    columns = torch.tensor([[0, 1], [5, 9], [14, 15]])
    seen = attention.visible(columns, 16, torch.float32, 8)
    found = attention.attend_rows(query, key, value, seen, 0.3).view(3, 2, -1)
    for row in range(3):
        for k in range(2):
            stop = int(columns[row, k]) + 1
            keys, values = (x[[row], :, :stop] for x in (key, value))
            wanted = attention.attend_last(query[[row], k, :, None], keys, values, None, 0.3)
            torch.testing.assert_close(found[[row], k], wanted[:, 0])


def test_a_block_sees_what_was_before_it() -> None:
    """As a GPU runs prompts, by kernels that run here as well."""
    random = torch.Generator().manual_seed(0)
    key, value = torch.randn(2, 2, 9, 8, generator=random).unbind()
    for count in (9, 4, 1):
        query = torch.randn(count, 4, 8, generator=random)
        found = attention.attend_causal(query, key, value, 0.3)
        for k in range(count):
            stop = 9 - count + k + 1
            wanted = attention.attend_last(
                query[[k], :, None], key[None, :, :stop], value[None, :, :stop], None, 0.3
            )
            torch.testing.assert_close(found[[k]], wanted[:, 0])


def test_where_steps_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert capture.wanted("cuda:1") and not capture.wanted("cpu") and not capture.wanted("mps")
    assert capture.wanted("cpu", True) and not capture.wanted("cuda", False)
    monkeypatch.setenv(capture.SETTING, "0")
    assert not capture.wanted("cuda")


def test_work_that_is_not_recorded_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    graphs, total = capture.Captures(torch.device("cpu")), torch.zeros(1)
    for _ in range(3):
        graphs.run("key", lambda: total.add_(1), (total,))  # type: ignore[arg-type, return-value]
    assert total == 3 and graphs.recorded == len(graphs) == 0


def test_how_attention_is_chosen_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attention.said("cpu", torch.float32, 64) == "plain products"
    assert attention.said("cuda", torch.float32, 64) in ("SDPA", f"SDPA: {FP32}")
    monkeypatch.setattr(attention, "_flash", lambda: object())
    assert attention.said("cuda", torch.float32, 64) == f"SDPA: {FP32}"
    assert not attention.flash(torch.device("cuda"), torch.float32, 64)
    assert not attention.flash(torch.device("cpu"), torch.bfloat16, 64)
    assert "heads of 300" in attention.said("cuda", torch.bfloat16, 300)


FP32 = "flash-attn computes in 16 bits, and these weights are torch.float32"


def test_a_device_that_is_not_there_is_named() -> None:
    assert placed("cpu") == "cpu"
    for device, words in (
        ("warp", "unknown device 'warp'; one of cpu, cuda, cuda:N or mps"),
        ("meta", "device 'meta' is not supported; one of cpu"),
        ("cuda:99", "device cuda:99: (this torch|torch sees no GPU|there are)"),
    ):
        with pytest.raises(ValueError, match=words):
            unified.load(device=device)


def test_a_full_gpu_is_one_line() -> None:
    said = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0"))
    assert said.startswith("the GPU's memory is full: 20.00 GiB more were wanted. Take less at a")
    assert "--device cpu" in said and "\n" not in said


def test_forked_workers_are_refused_on_a_gpu(tmp_path: Path) -> None:
    config = LoopConfig(steps=1, batch_size=1, learning_rate=1e-3, workers=2)
    with pytest.raises(ValueError, match=r"loop\.workers=2: .*on a GPU set loop\.workers=0"):
        fit(None, config, tmp_path / "run", name="test", device="cuda")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_sixteen_bits_see_pictures(janus: Unified) -> None:
    """Views come in fp32, whatever the weights are."""
    model: UnifiedForConditionalGeneration = janus.model
    views = torch.zeros(1, 3, 20, 20)
    wanted = model.features(views)
    found = model.to(torch.bfloat16).features(views)
    model.to(torch.float32)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=0.2, rtol=0.1)


def test_settled_buffers_hold_what_they_held() -> None:
    cache = RowCache(1)
    cache.block(0, 0, 5)
    keys = torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    cache.layers[0].update(keys, -keys)
    (held,) = cache.settle(3, 300)
    assert held[0].shape[0] >= 3 and held[0].shape[2] >= 300
    assert torch.equal(held[0][:1, :, :5], keys) and torch.equal(held[1][:1, :, :5], -keys)
    assert cache.settle(3, 300)[0] is held


def test_lending_ends_with_the_session(janus: Unified, engine: Engine) -> None:
    ids(engine, asked(janus, "a"))
    fixed = engine.fixed
    assert isinstance(fixed, Fixed)
    left = engine.serve(2)
    left.add(asked(janus, "a cat"))
    left.step()
    other = engine.serve(2)
    assert left.busy and not fixed.lend(other)
    del left  # with its request half done, as a stream that nobody reads on
    assert fixed.lend(other)
