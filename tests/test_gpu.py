"""What only a GPU shows: recorded steps, its attention kernels, 16 bits, training; by one command:

    pytest -m gpu

Which steps are recorded, and that the same steps are right where nothing is: test_fixed.py. Samples
that share rows: test_packing.py. How fast it is: unified bench decode --device cuda.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import unified
from tests.requested import LIKELIEST, asked, engine_of, ids, run, several, whole
from unified import attention, cli, jacobi
from unified.cache import RowCache
from unified.device import placed
from unified.engine import Engine
from unified.fixed import STEPS
from unified.handle import Unified
from unified.modeling import UnifiedForConditionalGeneration
from unified.sampling import Sampling, filter_rows
from unified.terminal import explain
from unified.train.batches import Batch, Batcher, Encoded
from unified.train.loop import LoopConfig, fit
from unified.train.model import next_token_loss

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def janus(tiny_janus: Path) -> Unified:
    return unified.load(tiny_janus, device="cuda")


@pytest.fixture
def engine(janus: Unified) -> Engine:
    return engine_of(janus, None)


# --- recorded steps ------------------------------------------------------------------------------


def test_recorded_steps_write_what_others_write(janus: Unified, engine: Engine) -> None:
    """In fp32: as steps that are not recorded, and, where chance plays no part, as a CPU does."""
    requests = several(janus)
    expected, steps, _ = run(engine_of(janus, False), requests)
    found, again, _ = run(engine, requests)
    assert engine.fixed is not None and engine.fixed.graphs.recorded > 0
    assert steps == again
    assert [reply.ids for reply in found] == [reply.ids for reply in expected]
    before = engine.fixed.graphs.recorded
    assert [reply.ids for reply in run(engine, requests)[0]] == [reply.ids for reply in expected]
    assert engine.fixed.graphs.recorded == before  # the same sizes again: nothing new to record
    _, steps, calls = run(engine, whole(requests))
    assert calls <= steps / STEPS + 4


def test_likeliest_tokens_are_those_of_a_cpu(
    tiny_janus: Path, janus: Unified, engine: Engine
) -> None:
    beside = unified.load(tiny_janus, device="cpu")
    for words, scale in (("a cat", 5.0), ("two dogs at night", 1.0)):
        sampling = replace(LIKELIEST, guidance_scale=scale)
        request = asked(janus, words, sampling)
        found = ids(engine, request)
        assert found == ids(engine_of(beside, False), request)
        assert found == engine.naive(request).ids


def test_sixty_four_at_once_are_those_alone(janus: Unified, engine: Engine) -> None:
    words = ["a cat", "two dogs", "a red circle at night", "x"]
    requests = [asked(janus, f"{words[k % 4]} {k}", seed=k) for k in range(64)]
    requests[1::4] = [replace(r, sampling=Sampling(3.0, temperature=1.0)) for r in requests[1::4]]
    together, _, _ = run(engine, requests, rows=128)
    for k in (0, 1, 2, 5, 31, 62, 63):
        assert ids(engine, requests[k]) == together[k].ids, k


def test_who_joins_or_leaves_does_not_matter(janus: Unified, engine: Engine) -> None:
    requests = several(janus)
    alone = [ids(engine_of(janus, False), request) for request in requests]
    session = engine.serve(6)
    numbers = [session.add(request) for request in requests[:3]]
    replies = [session.replies[number] for number in numbers]
    for k in range(100):
        session.step()
        if k == 1:
            session.cancel(numbers[1])
        if 3 + k < len(requests):
            replies.append(session.replies[session.add(requests[3 + k])])
    assert replies[1].reason == "cancelled"
    del replies[1], alone[1]
    assert [reply.ids for reply in replies] == alone


@torch.no_grad()
def test_other_weights_are_recorded_anew(tiny_janus: Path) -> None:
    handle = unified.load(tiny_janus, device="cuda")
    engine, request = engine_of(handle, None), asked(handle, "a cat")
    before = ids(engine, request)
    for part in (handle.model.image_head.down, handle.model.decoder.layers[0].mlp.down_proj):  # type: ignore[union-attr]
        part.weight.mul_(-1)
        after = ids(engine, request)
        assert after != before and engine.naive(request).ids == after
        before = after


def test_a_cache_that_moves_is_recorded_anew(janus: Unified, engine: Engine) -> None:
    """Words run far beyond what was reserved for the prompt."""
    request = replace(asked(janus, "Hello", draw="never"), most=300)
    assert ids(engine, request) == ids(engine_of(janus, False), request)


def test_many_codes_in_a_pass_are_one_by_one(janus: Unified, engine: Engine) -> None:
    for sampling in (LIKELIEST, Sampling(3.0, temperature=1.0)):
        request = asked(janus, "a cat", sampling, seed=2)
        *_, (_, reply) = jacobi.stream(engine, request, 8)
        assert reply.ids == ids(engine, request)


def test_pixels_made_beside_are_those_of_the_codec(janus: Unified, engine: Engine) -> None:
    reply = engine.run([asked(janus, "a cat")])[0]
    start = janus.layout.vocabulary.image_start
    codes = torch.tensor([[t - start for t in reply.ids if t >= start]], device="cuda")
    with torch.inference_mode():
        wanted = janus.codec.decode(codes)[0].cpu()
    torch.testing.assert_close(reply.pictures[0].cpu(), wanted, atol=1e-3, rtol=1e-3)


def test_without_recording_it_runs(
    janus: Unified, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ids(engine, asked(janus, "a cat"))
    monkeypatch.setenv("UNIFIED_GRAPHS", "0")
    plain = engine_of(janus, None)
    assert ids(plain, asked(janus, "a cat")) == expected and plain.fixed is None


# --- 16 bits and kernels -------------------------------------------------------------------------


def test_half_weights_draw_and_look(tiny_janus: Path, janus: Unified) -> None:
    half = unified.load(tiny_janus, device="cuda", weights="half")
    assert half.weights == "half" and half.model.dtype in attention.HALVES
    replies, _, _ = run(half.engine, several(half))
    assert [len(reply.pictures) for reply in replies] == [1, 1, 1, 1, 0, 1]
    picture = half.generate("a cat")[0]
    assert isinstance(half.ask(picture, "What is it?"), str)
    request = asked(janus, "a cat")
    tokens = torch.tensor([[*request.ids, *ids(janus.engine, request)]], device="cuda")
    with torch.inference_mode():
        wanted, found = (h.model.text_logits(h.model(tokens).hidden) for h in (janus, half))
    error = (found.float() - wanted).pow(2).mean().sqrt() / wanted.std()
    assert error < 0.05, float(error)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_weights_for_a_cpu_are_refused(tiny_janus: Path, kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind} weights are for a CPU; on cuda .* half ones"):
        unified.load(tiny_janus, device="cuda", weights=kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_its_attention_is_that_of_a_cpu(dtype: torch.dtype, groups: int) -> None:
    """flash-attn's where it is installed and the type is its own."""
    bound = 1e-4 if dtype == torch.float32 else 2e-2
    random = torch.Generator().manual_seed(0)
    query = torch.randn(5, 1, 8, 64, generator=random)
    key, value = torch.randn(2, 5, groups, 256, 64, generator=random).unbind()
    columns = torch.tensor([[0], [3], [128], [254], [255]])

    q, k, v = (x.to("cuda", dtype) for x in (query, key, value))

    with torch.inference_mode():
        seen = attention.visible(columns, 256, torch.float32, 64)
        wanted = attention.attend_rows(query, key, value, seen, 0.125)
        seen = attention.visible(columns.cuda(), 256, dtype, 64)
        found = attention.attend_rows(q, k, v, seen, 0.125)
        torch.testing.assert_close(found.float().cpu(), wanted, atol=bound, rtol=bound)
        wanted = attention.attend_last(query.transpose(1, 2), key, value, None, 0.125)
        found = attention.attend_last(q.transpose(1, 2), k, v, None, 0.125)
        torch.testing.assert_close(found.float().cpu(), wanted, atol=bound, rtol=bound)
        for count in (256, 100, 1):
            prompt = torch.randn(count, 8, 64, generator=random)
            wanted = attention.attend_causal(prompt, key[0], value[0], 0.125)
            found = attention.attend_causal(prompt.to("cuda", dtype), k[0], v[0], 0.125)
            torch.testing.assert_close(found.float().cpu(), wanted, atol=bound, rtol=bound)


def test_its_filters_are_those_of_a_cpu() -> None:
    logits = 3 * torch.randn(70, 16384, generator=torch.Generator().manual_seed(0))
    given = (
        torch.arange(1, 71) * 200, torch.linspace(0.1, 2, 70), torch.linspace(0, 0.01, 70)
    )  # fmt: skip
    wanted = filter_rows(logits, *given).isfinite()
    found = filter_rows(logits.cuda(), *(x.cuda() for x in given)).isfinite().cpu()
    assert (wanted != found).sum(1).max() <= 1  # one at the border of top_p, by rounding


def test_a_gpu_that_is_not_there_and_one_that_is_full() -> None:
    with pytest.raises(ValueError, match="device cuda:99: there are"):
        placed("cuda:99")
    with pytest.raises(torch.OutOfMemoryError) as full:
        torch.empty(2**46, device="cuda")
    assert explain(full.value).startswith("the GPU's memory is full: ")
    assert "more were wanted" in explain(full.value)


def test_buffers_lie_as_its_kernels_read_them() -> None:
    cache = RowCache(1)
    cache.block(0, 0, 5)
    keys = torch.randn(1, 2, 5, 8, device="cuda")
    cache.layers[0].update(keys, keys)
    assert all(buffer.stride(-1) == 1 for buffer in cache.settle(2, 128)[0])


# --- training ------------------------------------------------------------------------------------


class Words:
    """Random words of several lengths, as `Batcher` cuts them."""

    def __init__(self, pack: int | None):
        from unified.configuration import UnifiedConfig

        torch.manual_seed(0)
        sizes = {"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "head_dim": 16,
                 "num_attention_heads": 4, "num_key_value_heads": 2,
                 "intermediate_size": 64}  # fmt: skip
        config = UnifiedConfig(text_config=sizes, text_size=40)
        config._attn_implementation = attention.implementation("cuda")
        self.model: nn.Module = UnifiedForConditionalGeneration(config).to("cuda")
        self.batcher = Batcher(config.layout.vocabulary, 4, pack, "cuda")

    def batch(self, step: int) -> list[Batch]:
        random = torch.Generator().manual_seed(step)
        lengths = torch.randint(5, 60, (16,), generator=random).tolist()
        made = [torch.randint(0, 40, (n,), generator=random).tolist() for n in lengths]
        return self.batcher.deal([Encoded(x, [True] * len(x), None) for x in made], 1)[0]

    def loss(self, part: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return next_token_loss(self.model, part, 1.0)  # type: ignore[arg-type]


def losses(folder: Path) -> list[float]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [row["loss"] for line in lines if "loss" in (row := json.loads(line))]


@pytest.mark.parametrize("pack", [None, 128])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_goes_on_where_it_stopped(
    tmp_path: Path, pack: int | None, optimizer: Any
) -> None:
    config = LoopConfig(steps=8, batch_size=16, learning_rate=3e-3, warmup=1, save_every=4,
                        log_every=1, ema=0.9, optimizer=optimizer, loggers=[])  # fmt: skip
    fit(Words(pack), config, tmp_path / "whole", name="words", device="cuda", progress=False)
    whole = losses(tmp_path / "whole")
    assert len(whole) == 8 and all(0 < loss < 6 for loss in whole)
    first = config.model_copy(update={"steps": 4, "schedule": "wsd"})
    config = config.model_copy(update={"schedule": "wsd"})
    fit(Words(pack), config, tmp_path / "one", name="words", device="cuda", progress=False)
    fit(Words(pack), first, tmp_path / "two", name="words", device="cuda", progress=False)
    fit(Words(pack), config, tmp_path / "two", name="words", device="cuda", progress=False)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)


def test_named_values_are_not_waited_for(tmp_path: Path) -> None:
    stage = Words(None)
    _, values = stage.loss(stage.batch(0)[0], 0)
    assert isinstance(values["text_loss"], torch.Tensor)  # type: ignore[unreachable]


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("timed") / "decode.json"


def test_decoding_is_timed(timed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["bench", "decode", "--device", "cuda", "--size", "tiny", "--rounds", "1"]
    status = cli.run([*given, "--limit", "20", "--unguided", "6", "--batch", "1", "--batch", "4",
                      "--against", "transformers", "--json", str(timed)])  # fmt: skip
    said = capsys.readouterr()
    assert status == 0, said.err
    assert "of the roofline" in said.out and "4 pictures at once" in said.out
    found = json.loads(timed.read_text())
    ways = [row["way"] for row in found if row["settings"]["batch"] == 4]
    assert ways == [
        "unified fp32", "unified fp32, eager", "unified fp32, unguided",
        "unified bf16", "unified bf16, eager", "unified bf16, unguided",
        "transformers fp32", "transformers bf16",
    ]  # fmt: skip
    for row in found:
        has = row["settings"]
        assert row["rate"] > 0 and row["peak_bytes"] > 0 and row["step_ms"] > 0
        assert has["read_gbytes"] > 10 and has["product_gflops"] > has["product_gflops_fp32"] > 10
        assert has["device"] == torch.cuda.get_device_name() and has["cuda"]
        if row["way"].startswith("unified"):
            assert 0 < row["roofline_share"] < 1.5 and row["attention"]
    rows = {row["way"]: row for row in found if row["settings"]["batch"] == 1}
    assert rows["unified fp32"]["agrees"]["unified fp32, eager"] == 20
    assert rows["unified fp32"]["agrees"]["transformers fp32"] == 20
