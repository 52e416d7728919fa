"""The fast step and packed weights: what the naive reference and plain weights give, sooner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import unified
from unified import cli
from unified.cache import BLOCK, block_cache
from unified.configuration import UnifiedConfig
from unified.engine import Engine, Request
from unified.handle import Unified
from unified.modeling import UnifiedForConditionalGeneration, code_places
from unified.packed import KINDS, Half, Int4, Int8, pack
from unified.sampling import Sampling
from unified.step import Step


@pytest.fixture(scope="module")
def janus(tiny_janus: Path) -> Unified:
    return unified.load(tiny_janus, device="cpu")


def requests(handle: Unified, draw: str = "now", **settings: Any) -> list[Request]:
    """Prompts of several lengths, guided as given and, the second, not at all."""
    made = []
    for seed, words in enumerate(("a cat", "two dogs beside a red circle at night", "a frog")):
        prompt = handle._fit([{"role": "user", "content": words}], 90, draw=draw == "now")[0]
        sampling = Sampling(**settings)
        if seed == 1:
            sampling = replace(sampling, guidance_scale=1.0)
        made.append(Request(prompt.ids, None, seed, sampling, draw, most=90))
    return made


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("name", ["janus", "tiny"])
def test_fast_steps_are_the_naive_reference(
    name: str, guidance: float, request: pytest.FixtureRequest
) -> None:
    handle: Unified = request.getfixturevalue(name)
    asked = requests(handle, "now" if name == "janus" else "only", guidance_scale=guidance,
                     temperature=0.0)[0]  # fmt: skip
    reply = handle.engine.run([asked])[0]
    assert handle.engine.step is not None
    assert len(reply.pictures) == 1
    assert name == "tiny" or len(set(reply.ids)) > 5  # which has learnt nothing
    assert handle.engine.naive(asked).ids == reply.ids


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_neighbours_do_not_matter(tiny_janus: Path, kind: str | None) -> None:
    handle = unified.load(tiny_janus, device="cpu", weights=kind)
    batch = requests(handle, guidance_scale=5.0, temperature=1.0)
    together = handle.engine.run(batch)
    assert len({tuple(reply.ids) for reply in together}) == len(batch)
    for asked, reply in zip(batch, together, strict=True):
        assert handle.engine.run([asked])[0].ids == reply.ids
    first = replace(batch[0], sampling=Sampling(guidance_scale=5.0, temperature=0.0))
    assert handle.engine.naive(first).ids == handle.engine.run([first])[0].ids


DECODERS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "chameleon": {"num_key_value_heads": 4, "vocabulary_map": {"<image>": 3}},
}


def model_of(kind: str, **settings: Any) -> UnifiedForConditionalGeneration:
    text = {"model_type": kind, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.2,
            **DECODERS[kind], **settings}  # fmt: skip
    config = UnifiedConfig(
        text_config=text, text_size=50,
        vision_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        image_config={"codebooks": [40], "books": [0] * 16, "embedding_size": 8, "head_size": 32},
    )  # fmt: skip
    torch.manual_seed(0)
    model = UnifiedForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():  # biases and norms that are not 0 and 1
        if weight.ndim == 1 or "norm" in name:
            torch.nn.init.normal_(weight, 1.0, 0.3)
    return model


@torch.no_grad()
def columns(model: UnifiedForConditionalGeneration, ids: torch.Tensor, first: int) -> torch.Tensor:
    """Hidden states from column `first` on, (B, S - first, D), by steps."""
    vocabulary = model.config.vocabulary
    places = code_places(ids, vocabulary.control("image"), vocabulary.image_start)
    step, cache = Step.of(model), block_cache(len(model.decoder.layers))
    assert step is not None
    model.hidden(model.embed(ids[:, :first], places[:, :first]), cache=cache)
    return torch.stack(
        [
            step(step.embed(ids[:, k].tolist(), places[:, k].tolist(), []), [k] * len(ids), cache)
            for k in range(first, ids.shape[1])
        ],
        1,
    )


def some_ids(model: UnifiedForConditionalGeneration, length: int = 22) -> torch.Tensor:
    """Words, <image>, then codes; rows of different kinds."""
    vocabulary = model.config.vocabulary
    ids = torch.randint(0, 50, (3, length), generator=torch.Generator().manual_seed(1))
    ids[:2, 6] = vocabulary.control("image")
    ids[:2, 7:] = ids[:2, 7:] % 40 + vocabulary.image_start
    return ids


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_a_column_is_that_of_the_whole_pass(kind: str) -> None:
    model = model_of(kind)
    ids = some_ids(model)
    for dtype, bound in ((torch.float32, 1e-4), (torch.bfloat16, 0.15)):
        model.to(dtype)
        whole = model(ids).hidden[:, 5:]
        assert whole.std() > 0.3
        torch.testing.assert_close(columns(model, ids, 5), whole, atol=bound, rtol=bound)


@torch.no_grad()
def test_weights_are_shared_and_watched(tmp_path: Path) -> None:
    model = model_of("qwen3")
    ids, attention = some_ids(model), model.decoder.layers[0].self_attn
    before = {key: value.clone() for key, value in model.state_dict().items()}
    step = Step.of(model)
    assert step is not None and Step.of(model, step) is step
    parts = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    attention.k_proj.weight.mul_(1.5)
    model.code_aligner.down.weight.mul_(0.5)  # type: ignore[union-attr]
    assert Step.of(model, step) is not step
    torch.testing.assert_close(columns(model, ids, 5), model(ids).hidden[:, 5:])
    model.save_pretrained(tmp_path)
    again = UnifiedForConditionalGeneration.from_pretrained(tmp_path)
    torch.testing.assert_close(again(ids).hidden, model(ids).hidden)
    with torch.enable_grad():
        model(ids).hidden.sum().backward()  # what a step has touched can still be trained
    assert attention.q_proj.weight.grad is not None


def test_views_of_a_flat_buffer_stay_views() -> None:
    model = model_of("llama")
    attention = model.decoder.layers[0].self_attn
    q, v = attention.q_proj.weight, attention.v_proj.weight
    flat = torch.cat([v.data.flatten(), q.data.flatten()])  # as some optimizers hold parameters
    v.data, q.data = flat[: v.numel()].view_as(v), flat[v.numel() :].view_as(q)
    step = Step.of(model)
    flat.mul_(2)
    assert torch.equal(flat[v.numel() :].view_as(q), q.data)
    assert step is not None and Step.of(model, step) is not step


@pytest.fixture
def hooked(janus: Unified) -> Iterator[Engine]:
    """The model with a layer that is more than a product."""
    layer = janus.model.decoder.layers[1].self_attn.v_proj
    hook = layer.register_forward_hook(lambda module, inputs, out: out * 0.5)
    yield Engine(janus.model, janus.codec)
    hook.remove()


def test_a_model_that_no_step_knows_runs_as_it_is(hooked: Engine, janus: Unified) -> None:
    asked = requests(janus, guidance_scale=5.0, temperature=0.0)[0]
    reply = hooked.run([asked])[0]
    assert hooked.step is None
    assert hooked.naive(asked).ids == reply.ids


@pytest.mark.parametrize("reserve", [0, BLOCK + 1])
def test_the_cache_holds_what_was_written(reserve: int) -> None:
    layer = block_cache(1, reserve).layers[0]
    random = torch.Generator().manual_seed(0)
    written: list[torch.Tensor] = []
    for length in (5, 1, 1, BLOCK - 7, 1, 1, BLOCK, 1):
        written.append(torch.randn(2, 3, length, 4, generator=random))
        keys, values = layer.update(written[-1], -written[-1])
        whole = torch.cat(written, 2)
        if len(written) > 1:
            assert torch.equal(keys, whole) and torch.equal(values, -whole)
    assert layer.get_seq_length() == whole.shape[2]


# Packed weights


BOUNDS = {Half: 5e-4, Int8: 1e-2, Int4: 0.12}  # relative error of a product, root mean square


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("inputs", [128, 100])
def test_a_packed_product_is_close(kind: Any, bias: bool, inputs: int) -> None:
    if inputs % 32 and kind is Int4:
        pytest.skip("int4 wants whole groups")
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(72, inputs, generator=random)
    added = torch.randn(72, generator=random) * 9 if bias else None
    x = torch.randn(2, 5, inputs, generator=random) * torch.logspace(-3, 3, 5)[:, None]
    x[0, 0] = 0
    packed = kind(weight, added)
    wanted = torch.nn.functional.linear(x, weight, added)
    found = packed(x)
    assert found.shape == wanted.shape and found.dtype == torch.float32
    error = (found - wanted).pow(2).mean(-1).sqrt()
    size = (x @ weight.T).pow(2).mean(-1).sqrt()  # without the bias, which is exact
    assert (error <= BOUNDS[kind] * size + 1e-5).all(), (error / size).max()
    for row in range(5):  # alone, a row gives the same
        assert torch.equal(packed(x[:1, row]), found[:1, row])


@torch.no_grad()
def test_a_shared_product_runs_once_an_input() -> None:
    model = model_of("llama")
    x = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))
    mlp = model.decoder.layers[0].mlp
    wanted = mlp(x)
    pack(model, "half")
    runs: list[int] = []
    mlp.gate_proj.whole.register_forward_hook(lambda *_: runs.append(1))
    for _ in range(2):
        torch.testing.assert_close(mlp(x), wanted, atol=2e-2, rtol=2e-2)
    assert len(runs) == 2
    assert torch.equal(mlp.up_proj(2 * x), mlp.up_proj(2 * x)) and len(runs) == 4


LOGITS = {"half": 2e-3, "int8": 0.06, "int4": 0.5}  # of the logits' standard deviation


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_packed_logits_are_close(tiny_janus: Path, janus: Unified, kind: str) -> None:
    packed = unified.load(tiny_janus, device="cpu", weights=kind)
    vocabulary = janus.layout.vocabulary
    asked = requests(janus)[0].ids
    ids = torch.tensor([[*asked, vocabulary.control("image"), *vocabulary.image_ids([*range(25)])]])
    for head in ("text_logits", "image_logits"):
        wanted, found = (getattr(h.model, head)(h.model(ids).hidden) for h in (janus, packed))
        error = (found - wanted).pow(2).mean().sqrt() / wanted.std()
        assert 0 < error < LOGITS[kind], float(error)


@torch.no_grad()
def test_a_head_that_holds_the_codes_is_packed_apart() -> None:
    config = model_of("llama").config.to_dict()
    controls = {name: k for k, name in enumerate(("pad", "bos", "end", "image", "image_end"))}
    config |= {"control_ids": controls, "reread": False, "user_picture": "codes", "text_size": 90}
    config["image_config"] |= {"shared": 40, "place_embedding": False}
    model = UnifiedForConditionalGeneration(UnifiedConfig(**config)).eval()
    hidden = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    wanted = model.image_logits(hidden), model.text_logits(hidden)
    pack(model, "half")
    torch.testing.assert_close(model.image_logits(hidden), wanted[0], atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(model.text_logits(hidden), wanted[1], atol=1e-2, rtol=1e-2)


def test_what_packed_weights_cannot_is_said(tiny_janus: Path, tmp_path: Path) -> None:
    for given, words in (
        ({"weights": "int3"}, "unknown weights 'int3'; one of half, int8, int4"),
        ({"weights": "int8", "device": "cuda"}, "int8 weights are for a CPU; on cuda load without"),
        ({"weights": "int8", "adapters": [tmp_path]}, "adapters need plain weights"),
    ):
        with pytest.raises(ValueError, match=words):
            unified.load(tiny_janus, **{"device": "cpu", **given})  # type: ignore[arg-type]
    packed = unified.load(tiny_janus, device="cpu", weights="int8")
    for act in (packed.save, packed.export):
        with pytest.raises(ValueError, match="int8 weights cannot be written"):
            act(tmp_path / "new")
    with pytest.raises(ValueError, match="adapters need plain weights; these are int8"):
        packed.attach(tmp_path)
    with pytest.raises(ValueError, match="in groups of 32; here are 40"):
        Int4(torch.ones(8, 40), None)
    with pytest.raises(ValueError, match="a weight beyond 65504 has no fp16"):
        Half(torch.full((8, 32), 7e4), None)


# The benchmark


def test_decoding_is_timed_beside_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "decode.json"
    given = ["bench", "decode", "--size", "tiny", "--rounds", "1", "--unguided", "6"]
    status = cli.run([*given, "--weights", "fp32", "--weights", "int4", "--limit", "12",
                      "--against", "transformers", "--json", str(target)])  # fmt: skip
    said = capsys.readouterr()
    assert status == 0, said.err
    assert "of the roofline" in said.out and "codes as unified fp32" in said.out
    found = {row["way"]: row for row in json.loads(target.read_text())}
    assert list(found) == [
        "unified fp32", "unified fp32, unguided", "unified int4", "unified int4, unguided",
        "transformers fp32", "transformers fp32, tuned", "transformers bf16",
        "transformers bf16, tuned",
    ]  # fmt: skip
    ours, theirs = found["unified fp32"], found["transformers fp32"]
    assert ours["codes"] == theirs["codes"] and len(ours["codes"]) == 12
    assert ours["agrees"]["transformers fp32"] == ours["agrees"]["transformers fp32, tuned"] == 12
    assert ours["ratios"]["transformers fp32"] == pytest.approx(1 / theirs["ratios"][ours["way"]])
    assert 0 < ours["roofline_share"] and 0 < ours["guided_to_unguided"]
    assert ours["bandwidth_share"] <= ours["roofline_share"] * 1.001
    assert found["unified int4"]["bytes_a_step"] < ours["bytes_a_step"]
    for row in found.values():
        assert row["unit"] == "image tokens" and row["rate"] > 0 and row["first_ms"] > 0
        assert row["last_to_first"] == pytest.approx(row["last_ms"] / row["first_ms"])
        assert row["settings"]["read_gbytes"] > 0 and row["settings"]["product_gflops"] > 0
        assert "environment" in row["settings"] and row["settings"]["codes"] == 12
