"""Serving: requests that join and leave a running batch get what they get alone; prefixes, too."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import unified
from unified import adapters, batch, cli
from unified.cache import BLOCK, RowCache
from unified.engine import Engine, Reply, Request
from unified.eval.decoding import random_janus
from unified.eval.serving import arrivals
from unified.handle import Unified
from unified.prefixes import SPAN, Prefixes, digests, picture_digest
from unified.sampling import Sampling


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_janus(tmp_path_factory.mktemp("janus"), "tiny")


@pytest.fixture(scope="module")
def janus(source: Path) -> Unified:
    """A tiny Janus that opens a picture about one time in four where it may."""
    handle = unified.load(source, device="cpu")
    mark = handle.layout.vocabulary.control("image")

    def often(head: object, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., mark] = logits.logsumexp(-1) - 1
        return logits

    handle.model.text_head.register_forward_hook(often)
    return handle


@pytest.fixture(params=[("fresh", True), ("padded", False), ("padded", True)], ids=str)
def engine(janus: Unified, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Of a layout whose twins and readings back are of every kind."""
    config = janus.model.config
    before = config.unconditional, config.reread
    config.unconditional, config.reread = request.param
    yield Engine(janus.model, janus.codec)
    config.unconditional, config.reread = before


def photo(seed: int) -> Image.Image:
    chance = random.Random(seed)
    return Image.new("RGB", (30, 30), tuple(chance.randrange(256) for _ in range(3)))  # type: ignore[arg-type]


def asked(handle: Unified, words: str, *pictures: Image.Image) -> Request:
    shown = [{"type": "image", "image": image} for image in pictures]
    content = [*shown, {"type": "text", "text": words}]
    prompt = handle._fit([{"role": "user", "content": content}], 100)[0]
    return Request(prompt.ids, prompt.views, sampling=Sampling(text_temperature=1.0), most=70)


def mixed(handle: Unified) -> list[Request]:
    """Words and pictures, guided and not, seen and drawn, of many lengths."""
    guided = Sampling(guidance_scale=4.0, text_temperature=1.0)
    between = replace(guided, guidance_start=0.3, guidance_end=0.7)
    made = [
        asked(handle, "Hello"),
        replace(asked(handle, "a cat at night"), draw="now", sampling=guided),
        replace(asked(handle, "What is it?", photo(1)), draw="never", most=9),
        replace(asked(handle, "and a dog", photo(1), photo(2)), sampling=guided),
        replace(asked(handle, "two red circles"), draw="first"),
        replace(asked(handle, "a cat at night"), draw="now", sampling=guided),
        replace(asked(handle, "a"), draw="only", sampling=replace(guided, schedule="linear")),
        replace(asked(handle, "Once more, and at length, please"), draw="never", most=30),
        replace(asked(handle, "a dog"), draw="now", sampling=between),
    ]
    return [replace(request, seed=k) for k, request in enumerate(made)]


def alone(engine: Engine, request: Request) -> Reply:
    """The reply to one request with nothing beside it or before it."""
    return Engine(engine.model, engine.codec, memory=0).run([request])[0]


def same(one: Reply, other: Reply) -> None:
    assert one.ids == other.ids and one.reason == other.reason
    assert len(one.pictures) == len(other.pictures)
    for mine, theirs in zip(one.pictures, other.pictures, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("short", [240, 1000])  # C runs some prompts, or all
def test_neighbours_that_come_and_go_change_nothing(
    janus: Unified, engine: Engine, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "SHORT", short)
    requests = mixed(janus)
    lengths = [len(request.ids) for request in requests]
    assert min(lengths) <= short and (short == 1000 or max(lengths) > short)
    wanted = [alone(engine, request) for request in requests]
    assert engine.naive(requests[1]).ids == wanted[1].ids
    assert any(reply.pictures for reply in wanted) and not all(r.pictures for r in wanted)
    for seed in range(2):
        chance, engine.aside = random.Random(seed), seed % 2 == 1
        order = [*range(len(requests)), 0, 3]
        chance.shuffle(order)
        session, replies, step = engine.serve(chance.choice([2, 5, 20])), {}, 0
        pending, stopped = list(order), chance.sample(range(len(order)), 2)
        seen: dict[int, list[int]] = {number: [] for number in range(len(order))}
        while pending or session.busy:
            for _ in range(min(len(pending), chance.choice([0, 0, 1, 3]))):
                number = session.add(requests[pending.pop(0)])
                replies[number] = session.replies[number]
            if step % 17 == 16 and stopped:
                number = stopped.pop()
                session.cancel(number)
            for number, token in session.step():
                seen[number].append(token)
            assert session.running <= session.rows
            step += 1
        assert not session.replies and session.running == 0
        for number, reply in replies.items():
            assert seen[number] == reply.ids
            own = wanted[order[number]]
            if reply.reason == "cancelled":
                assert reply.ids == own.ids[: len(reply.ids)]
            else:
                same(reply, own)
        assert sum(reply.reason == "cancelled" for reply in replies.values()) <= 2


def test_a_model_that_no_step_knows_serves_the_same(janus: Unified) -> None:
    layer = janus.model.decoder.layers[1].self_attn.v_proj
    hook = layer.register_forward_hook(lambda module, inputs, out: out * 0.5)
    engine = Engine(janus.model, janus.codec)
    requests = mixed(janus)[:5]
    session, replies = engine.serve(6), []
    for request in requests:
        replies.append(session.replies[session.add(request)])
        for _ in range(3):
            session.step()
    while session.busy:
        session.step()
    assert engine.step is None
    for request, reply in zip(requests, replies, strict=True):
        same(reply, alone(engine, request))
    hook.remove()


def test_who_comes_first_is_served_first(janus: Unified) -> None:
    session = janus.engine.serve(2)
    plain = replace(asked(janus, "Hello"), draw="never", most=4)
    guided = replace(asked(janus, "a cat"), draw="now", sampling=Sampling(guidance_scale=3.0))
    numbers = [session.add(request) for request in (plain, guided, plain, guided)]
    assert numbers == [0, 1, 2, 3] and session.waiting == 4 and session.running == 0
    session.cancel(3)
    session.cancel(7)  # there is none
    began: list[int] = []
    while session.busy:
        for number, _ in session.step():
            began += [] if number in began else [number]
        assert session.running <= 2
    assert began == [0, 1, 2]  # the second waits for two lanes, the third for the second
    assert session.waiting == 0 and not session.step()


def test_a_bad_request_is_refused_and_costs_nobody(janus: Unified) -> None:
    session, good = janus.engine.serve(1), replace(asked(janus, "Hello"), draw="never")
    reply = session.replies[session.add(good)]
    seen = asked(janus, "What?", photo(3))
    assert seen.views is not None
    for bad, words in (
        (replace(seen, sampling=Sampling(guidance_scale=2.0)), "two rows; this batch has 1"),
        (replace(seen, views=None), "25 view slots in the ids, 0 views of 25"),
        (replace(seen, views=seen.views[..., :9]), r"a view of shape \(3, 20, 9\); this model"),
        (replace(good, ids=(*good.ids, 10**6)), "."),
    ):
        with pytest.raises(ValueError, match=words):
            session.add(bad)
    while session.busy:
        session.step()
    same(reply, alone(janus.engine, good))
    with pytest.raises(ValueError, match="a batch of 0 rows"):
        janus.engine.serve(0)


# Prefixes


def test_a_prompt_runs_once(janus: Unified) -> None:
    engine = Engine(janus.model, janus.codec)
    counts = engine.prefixes.counts
    request = replace(asked(janus, "What is it?", photo(1)), draw="now")
    length = len(request.ids)
    many = [replace(request, seed=seed) for seed in range(3)]
    first = engine.run(many)
    assert (counts.prompts, counts.found, counts.run, counts.reused) == (3, 2, length, 2 * length)
    again = engine.run(many)
    assert (counts.prompts, counts.found, counts.run) == (6, 5, length)
    for reply, later, one in zip(first, again, many, strict=True):
        same(reply, later)
        same(reply, alone(engine, one))
    other = replace(asked(janus, "What is it?", photo(2)), draw="now")
    assert other.ids == request.ids
    same(engine.run([other])[0], alone(engine, other))
    before = request.ids.index(janus.layout.vocabulary.control("slot")) // SPAN * SPAN
    assert counts.run == 2 * length - before  # another picture: what follows it runs


def test_the_next_turn_runs_what_is_new(janus: Unified, engine: Engine) -> None:
    counts = engine.prefixes.counts
    guided = Sampling(guidance_scale=3.0, text_temperature=1.0)
    first = replace(asked(janus, "Hello and good day", photo(1)), sampling=guided)
    for draw in ("auto", "never"):
        begun = replace(first, draw=draw)
        reply = engine.run([begun])[0]
        words = [i for i in asked(janus, "and now?").ids if i < 300][-20:]
        views = [begun.views, *(p[None] for p in reply.pictures if engine.layout.reread)]
        ids = (*begun.ids, *reply.ids, *words)
        later = replace(begun, ids=ids, views=torch.cat([v for v in views if v is not None]))
        before = counts.run
        found = engine.run([replace(later, draw="never", most=12)])[0]
        known = (len(begun.ids) + len(reply.ids) - 1) // SPAN * SPAN
        assert counts.run - before == len(ids) - known
        same(found, alone(engine, replace(later, draw="never", most=12)))


def test_another_weight_hook_or_adapter_forgets(source: Path, tmp_path: Path) -> None:
    handle = unified.load(source, device="cpu")
    engine, counts = handle.engine, handle.engine.prefixes.counts
    request = replace(asked(handle, "What is it?", photo(1)), draw="never", most=12)

    def runs() -> int:
        before = counts.run
        same(engine.run([request])[0], alone(engine, request))
        return counts.run - before

    whole = len(request.ids)
    assert [runs(), runs()] == [whole, 0]
    with torch.no_grad():
        handle.model.decoder.layers[0].input_layernorm.weight.mul_(1.5)
    assert [runs(), runs()] == [whole, 0]
    handle.model.encoder.aligner.up.bias.data = torch.randn_like(
        handle.model.encoder.aligner.up.bias
    )
    assert [runs(), runs()] == [whole, 0]
    hook = handle.model.decoder.layers[1].register_forward_hook(lambda m, i, o: o * 0.9)
    assert [runs(), runs()] == [whole, 0]
    hook.remove()
    assert runs() == whole
    weight = handle.model.decoder.layers[0].self_attn.q_proj.weight
    weight.data = weight.data.repeat(3, 1)[: len(weight)]  # as in an optimizer's flat buffer:
    assert [runs(), runs()] == [whole, whole]  # who changes that leaves no trace
    folder = tmp_path / "louder"
    adapted = adapters.create(handle.model, ["decoder"], [], handle.revision, r=2)
    for name, weight in adapted.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, 0, 0.3)
    adapters.save(adapted, folder, "tiny")
    handle = unified.load(source, device="cpu", adapters=[folder])
    engine, counts = handle.engine, handle.engine.prefixes.counts
    replies = set()
    for name in ("louder", None, "louder"):
        handle.use(name)
        assert [runs(), runs()] == [whole, 0]
        replies.add(tuple(engine.run([request])[0].ids))
    assert len(replies) == 2


def columns(length: int, seed: int = 0) -> torch.Tensor:
    """As of two layers and three heads."""
    return torch.randn(4, 3, length, 5, generator=torch.Generator().manual_seed(seed))


def test_prefixes_hold_the_latest_within_their_memory() -> None:
    part = columns(SPAN).nbytes
    store, length = Prefixes(5 * part), 2 * SPAN + 3
    kept, hidden = columns(length), torch.randn(2)
    prompts = [[seed, *range(1, length)] for seed in range(3)]
    chains = [digests(ids) for ids in prompts]
    for chain in chains:
        store.keep(chain, length, lambda a, b: kept[:, :, a:b], hidden)
        assert store.size <= store.memory
    assert store.counts.dropped > 0 and len(store) < 9
    newest = store.find(chains[2], length)
    assert newest.length == length and newest.kept is not None and newest.hidden is not None
    assert torch.equal(newest.kept, kept) and torch.equal(newest.hidden, hidden)
    assert store.find(chains[0], length).length == 0
    longer = digests([*prompts[2], *range(90, 110)])
    found = store.find(longer, length + 20)  # its third span goes on differently
    assert found.length == 2 * SPAN and found.hidden is None
    assert torch.equal(found.kept, kept[:, :, : 2 * SPAN])  # type: ignore[arg-type]
    store.clear()
    assert len(store) == 0 and store.size == 0
    nothing = Prefixes(0)
    nothing.keep(chains[0], length, lambda a, b: kept[:, :, a:b], hidden)
    assert len(nothing) == 0 and nothing.find(chains[0], length).kept is None
    with pytest.raises(ValueError, match="-1 bytes"):
        Prefixes(-1)


def test_a_whole_prompt_is_known_only_with_its_end() -> None:
    store, ids, kept = Prefixes(), list(range(2 * SPAN)), columns(2 * SPAN)
    store.keep(digests([*ids, 1]), 2 * SPAN + 1, lambda a, b: kept[:, :, a:b])  # a reply's
    assert store.find(digests(ids), len(ids)).length == SPAN  # the last one has to run
    store.keep(digests(ids), len(ids), lambda a, b: kept[:, :, a:b], torch.ones(3))
    assert store.find(digests(ids), len(ids)).length == 2 * SPAN


def test_a_digest_stands_for_all_before_it() -> None:
    ids, pictures = [1, 2, *[9] * 4, 3, *[9] * 4, *range(10, 40)], [b"cat", b"dog"]
    chain = digests(ids, pictures, 9, 4)
    assert len(chain) == -(-len(ids) // SPAN) and len(set(chain)) == len(chain)
    assert digests(ids[:SPAN], pictures, 9, 4) == chain[:1]
    changed = digests([*ids[:-1], 0], pictures, 9, 4)
    assert changed[:-1] == chain[:-1] and changed[-1] != chain[-1]
    for other in ([b"cat", b"cat"], [b"dog", b"cat"]):
        assert not set(digests(ids, other, 9, 4)) & set(chain)
    one, two = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    assert picture_digest(one) == picture_digest(two) != picture_digest(two.view(3, 2, 8))
    two[0, 0, 0] = 1e-7
    assert picture_digest(one) != picture_digest(two)


# The cache


def whole(rows: torch.Tensor) -> torch.Tensor:
    """Attention over one row's (query, key, value), (3, heads, length, width), one key head for
    two heads; of the last position, (heads * width,)."""
    query, key, value = rows[0, :, -1:], *rows[1:, ::2].repeat_interleave(2, 1)
    return ((query @ key.transpose(1, 2)).softmax(-1) @ value).flatten()


def test_rows_of_a_cache_keep_their_own_columns() -> None:
    chance, cpu = torch.Generator().manual_seed(0), torch.device("cpu")
    cache = RowCache(1, 3)
    (layer,) = cache.layers
    rows: list[torch.Tensor] = []  # (query, key, value) of each, (3, heads, length, width)

    def step(blocks: list[tuple[int, int, int]], widths: tuple[int, ...] = ()) -> None:
        """A column of all rows, or as many of each as are given, and blocks of others."""
        running = [row.shape[2] for row in rows]
        at = cache.column(running, cpu, blocks, widths)
        bias = None
        if at is not None:
            hidden = torch.arange(int(at.max()) + 1) > at[..., None]
            bias = hidden * torch.finfo(torch.float32).min
        new = [torch.randn(3, 4, n, 8, generator=chance) for n in widths or [1] * len(running)]
        for r, columns in enumerate(new):
            rows[r] = torch.cat([rows[r], columns], 2)
        for row, start, stop in blocks:
            new.append(torch.randn(3, 4, stop - start, 8, generator=chance))
            rows[row:] = [torch.cat([*(x[:, :, :start] for x in rows[row:]), new[-1]], 2)]
        query, key, value = torch.cat(new, 2).transpose(1, 2)  # (positions, heads, width) each
        out = layer.attend(query, key[:, ::2, None], value[:, ::2, None], bias, 1.0)
        ends = torch.tensor([columns.shape[2] for columns in new]).cumsum(0) - 1
        for end, own in zip(ends, rows, strict=True):
            torch.testing.assert_close(out[end], whole(own), atol=1e-5, rtol=1e-5)

    step([(0, 0, 5), (1, 0, 5)])
    step([])
    kept = cache.read(1, 0, 4)
    cache.write(2, kept)
    rows.append(rows[1][:, :, :4])
    cache.copy(2, 0, 4)
    rows[0] = rows.pop()
    step([(2, 0, 7)], (2, 1))
    for widths in ((3, 1, 2), (2, 2, 2), (1, 4, 1)):
        step([], widths)
    for _ in range(BLOCK):  # beyond the first buffers
        step([])
    assert torch.equal(cache.read(2, 7, 9)[0], rows[2][1, ::2, 7:9])


# The benchmark


def test_arrivals_are_a_seeded_process() -> None:
    at = arrivals(200, 2.0, seed=3)
    assert at[0] == 0 and at == sorted(at) == arrivals(200, 2.0, seed=3)
    assert at != arrivals(200, 2.0, seed=4) and 1.5 < at[-1] / 199 < 2.5
    assert arrivals(3, 0) == [0, 0, 0]
    with pytest.raises(ValueError, match="-1"):
        arrivals(3, -1)


def test_serving_is_timed_beside_one_batch(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "serve.json"
    status = cli.run(["bench", "serve", "--model", str(source), "--requests", "4", "--rounds", "1",
                      "--gap", "2", "--device", "cpu", "--json", str(target)])  # fmt: skip
    said = capsys.readouterr()
    assert status == 0, said.err
    words = " ".join(said.out.split())
    assert "4 of 4 replies are the same" in words and "threads" in words
    arriving, full = json.loads(target.read_text())
    assert [arriving["way"], full["way"]] == ["as they arrive", "one full batch"]
    assert arriving["steps"] > full["steps"] and arriving["same_replies"] == 4
    assert full["ratio"] == pytest.approx(arriving["rate"] / full["rate"])


def test_serving_is_timed_beside_transformers(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, asked = tmp_path / "serve.json", ["bench", "serve", "--against", "transformers"]
    status = cli.run([*asked, "--model", str(source), "--requests", "4", "--rounds", "1",
                      "--device", "cpu", "--json", str(target)])  # fmt: skip
    said = capsys.readouterr()
    assert status == 0, said.err
    arriving, full, theirs = json.loads(target.read_text())
    assert theirs["way"] == "transformers, one by one" and "steps" not in theirs
    units = [row["rate"] * row["seconds"] for row in (full, theirs)]
    assert units[0] == pytest.approx(units[1], rel=0.01)  # the same work
    assert theirs["ratio"] == pytest.approx(arriving["rate"] / theirs["rate"])
    assert f"{theirs['ratio']:.2f} times as many as transformers" in " ".join(said.out.split())
    assert cli.run([*asked, "--device", "cpu"]) == 2
    assert "a Janus in its own format" in capsys.readouterr().err
    facts: dict[str, Any] = full["settings"]
    assert facts["requests"] == 4 and "environment" in facts and facts["last_arrival_step"] > 0
