"""Decoding: cached = naive, batched = alone, same seed = same picture, grammar kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from PIL import Image

from unified.engine import Engine, Request
from unified.handle import Unified
from unified.sampling import SCHEDULES, Sampling, choose, filter_logits, guidance_weight
from unified.sequence import Picture


@pytest.fixture
def eager(tiny: Unified) -> Iterator[Engine]:
    """The tiny model made eager to draw, so that replies hold pictures between words."""
    mark = tiny.model.config.vocabulary.control("image")

    def often(head: object, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., mark] = logits.logsumexp(-1) - 2  # about one time in eight
        return logits

    hook = tiny.model.text_head.register_forward_hook(often)
    yield tiny.engine
    hook.remove()


def requests(tiny: Unified, **settings: object) -> list[Request]:
    sampling = Sampling(**settings)  # type: ignore[arg-type]
    picture = Image.new("RGB", (64, 64), (200, 30, 30))
    shown = [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]
    prompts = [
        tiny._fit([{"role": "user", "content": content}], 200)[0] for content in ("a cat", shown)
    ]
    return [Request(p.ids, p.views, 7 + k, sampling, most=230) for k, p in enumerate(prompts)]


SETTINGS: list[dict[str, float]] = [
    {"guidance_scale": 1.0, "temperature": 0.0},
    {"guidance_scale": 1.0, "temperature": 1.0},
    {"guidance_scale": 3.0, "temperature": 0.0},
    {"guidance_scale": 3.0, "temperature": 1.0},
    {"guidance_scale": 3.0, "temperature": 1.0, "guidance_start": 0.3, "guidance_end": 0.7},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_cached_equals_naive_and_batched_equals_alone(
    tiny: Unified, eager: Engine, settings: dict[str, float]
) -> None:
    batch = requests(tiny, text_temperature=1.0, **settings)
    together = eager.run(batch)
    assert any(reply.pictures for reply in together)
    for request, reply in zip(batch, together, strict=True):
        assert eager.naive(request).ids == reply.ids
        assert eager.run([request])[0].ids == reply.ids
        assert [token for token, _ in eager.stream(request)] == reply.ids
        turns = tiny.layout.parse([*request.ids, *reply.ids])
        drawn = [p for p in turns[-1].parts if isinstance(p, Picture)]
        assert len(drawn) == len(reply.pictures) and all(p.view for p in drawn)


def test_whatever_the_logits_are_a_reply_is_well_formed(tiny: Unified, eager: Engine) -> None:
    """So hot that chance alone chooses among what the grammar lets stand."""
    (first, second), drawn = requests(tiny, temperature=100.0, text_temperature=100.0), 0
    end = tiny.layout.vocabulary.control("end")
    batch = [replace(one, seed=seed, most=60) for seed in range(6) for one in (first, second)]
    batch += [replace(first, seed=seed, draw="only", most=60) for seed in range(3)]
    for request, reply in zip(batch, eager.run(batch), strict=True):
        over = [] if reply.ids[-1] == end else [end]  # "only" stops at its picture
        turns = tiny.layout.parse([*request.ids, *reply.ids, *over])
        drawn += sum(isinstance(part, Picture) for part in turns[-1].parts)
        assert turns[-1].role == "assistant"
    assert drawn >= 3


def test_a_request_may_forbid_or_demand_a_picture(tiny: Unified, eager: Engine) -> None:
    for request in requests(tiny, text_temperature=1.0):
        assert not eager.run([replace(request, draw="never")])[0].pictures
        only = eager.run([replace(request, draw="only")])[0]
        assert len(only.pictures) == 1 and only.reason == "picture"


def test_a_reply_ends_within_its_limit(tiny: Unified, eager: Engine) -> None:
    for request in requests(tiny, text_temperature=1.0):
        for most in (1, 5, 90):
            reply = eager.run([replace(request, most=most)])[0]
            assert len(reply.ids) <= most
            assert reply.ids[-1] == tiny.layout.vocabulary.control("end")


def test_same_seed_same_picture(tiny: Unified) -> None:
    first, again, other = (tiny.generate("two dogs", seed=s)[0] for s in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    many = tiny.generate(["a cat", "two dogs"], n=2, seed=0)
    assert many[3].tobytes() == tiny.generate("two dogs", seed=3)[0].tobytes()


def test_guidance_schedules_end_at_or_above_the_scale() -> None:
    for schedule in SCHEDULES:
        weights = [guidance_weight(5.0, schedule, t, 64) for t in range(64)]
        assert weights == sorted(weights)
        assert weights[-1] >= 5.0 - 1e-9
        assert all(guidance_weight(1.0, schedule, t, 64) == 1 for t in range(64))


def test_guidance_counts_in_its_interval() -> None:
    whole = Sampling(5.0, "linear")
    part = replace(whole, guidance_start=0.25, guidance_end=0.75)
    for step in range(8):
        inside = 2 <= step < 6
        assert part.guides(step, 8) == inside
        assert part.weight(step, 8) == (whole.weight(step, 8) if inside else 1)
    assert whole.guided and not replace(part, guidance_end=0.25).guided
    with pytest.raises(ValueError, match=r"from 0\.9 to 0\.75 of a picture.s codes begins after"):
        replace(part, guidance_start=0.9)


def test_outside_of_the_interval_there_is_no_second_row(tiny: Unified) -> None:
    length, one = tiny.layout.image_length, {"role": "user", "content": "a cat"}
    plain = tiny.request([one], draw="now", guidance_scale=1.0, temperature=1.0)
    whole = replace(plain, sampling=replace(plain.sampling, guidance_scale=100.0))

    def drawn(request: Request) -> tuple[list[int], list[int]]:
        """Codes, and lanes of each step that chose one."""
        session, lanes = tiny.engine.serve(2), []
        reply = session.replies[session.add(request)]
        while session.busy:
            before = len(reply.ids)
            session.step()
            lanes += [len(session._lanes)] * (1 < len(reply.ids) <= length + 1) * (before > 0)
        return reply.ids[1 : length + 1], lanes

    (none, _), (full, _) = drawn(plain), drawn(whole)
    for start, end in ((0.0, 0.5), (0.5, 1.0), (0.3, 0.6)):
        part = replace(whole.sampling, guidance_start=start, guidance_end=end)
        codes, lanes = drawn(replace(whole, sampling=part))
        inside = [k for k in range(length) if part.guides(k, length)]
        assert [k for k, count in enumerate(lanes) if count == 2] == inside
        usual = full if start == 0 else none  # up to where the interval ends or begins
        same = next(k for k in range(length) if codes[k] != usual[k])
        assert same >= (inside[-1] + 1 if start == 0 else inside[0])


def test_a_request_is_what_ask_and_generate_make_of_it(tiny: Unified) -> None:
    picture = Image.new("RGB", (64, 64), (200, 30, 30))
    shown = [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]
    seen = tiny.request(
        [{"role": "user", "content": shown}], draw="never", most=9, seed=3, user_picture="view",
        text_temperature=1.0,
    )  # fmt: skip
    answer = tiny.ask(picture, "What is it?", most=9, seed=3, text_temperature=1.0)
    assert tiny._text(tiny.engine.run([seen])[0].ids) == answer
    drawn = tiny.request([{"role": "user", "content": "a cat"}], draw="only", seed=3)
    pixels = tiny.engine.run([drawn])[0].pictures[0]
    again = tiny.generate("a cat", seed=3)[0]
    assert tiny.processor.image_processor.picture(pixels).tobytes() == again.tobytes()


def test_filters_keep_the_likeliest() -> None:
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0])
    assert filter_logits(logits, top_k=2).isfinite().tolist() == [True, True, False, False]
    assert filter_logits(logits, top_p=0.0).isfinite().tolist() == [True, False, False, False]
    assert filter_logits(logits, top_p=0.7).isfinite().tolist() == [True, True, False, False]
    assert filter_logits(logits, min_p=0.2).isfinite().tolist() == [True, True, False, False]
    draws = [choose(logits, torch.Generator().manual_seed(s), temperature=1.0) for s in range(2000)]
    share = torch.bincount(torch.tensor(draws), minlength=4) / 2000
    assert torch.allclose(share, logits.softmax(0), atol=0.04)


@pytest.mark.parametrize(
    ("field", "value"),
    [("schedule", "square"), ("temperature", -1), ("top_p", 2), ("top_k", -3), ("top_k", 2.5)],
)
def test_bad_settings_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=str(value)):
        Sampling(**{field: value})  # type: ignore[arg-type]


def test_what_was_drawn_stays_as_its_codes(tiny: Unified, eager: Engine) -> None:
    asked = {"role": "user", "content": "a cat"}
    reply = tiny.chat([asked], text_temperature=1.0, seed=3)
    batch = tiny.chat_batch([[asked]], text_temperature=1.0, seed=3)[0]
    drawn = [part["image"] for part in reply["content"] if part["type"] == "image"]
    assert drawn and [p["type"] for p in batch["content"]] == [p["type"] for p in reply["content"]]
    prompt = tiny._fit([asked, reply, asked], 5)[0]
    kept = [
        part.codes
        for turn in tiny.layout.parse(prompt.ids[:-1])
        for part in turn.parts
        if isinstance(part, Picture)
    ]
    pixels = [tiny.codec.decode(torch.tensor([codes]))[0] for codes in kept]
    assert [tiny.processor.image_processor.picture(p).tobytes() for p in pixels] == [
        image.tobytes() for image in drawn
    ]
