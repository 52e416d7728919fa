"""What the tests of steps share: requests of many kinds, and ways to run them."""

from __future__ import annotations

from dataclasses import replace

from unified.engine import Engine, Reply, Request
from unified.handle import Unified
from unified.sampling import Sampling

LIKELIEST = Sampling(guidance_scale=5.0, temperature=0.0)
BETWEEN = Sampling(4.0, temperature=1.0, guidance_start=0.3, guidance_end=0.7)
FILTERED = Sampling(2.0, "linear", 0.8, top_k=20, top_p=0.9, min_p=0.01)


def asked(
    handle: Unified, words: str, sampling: Sampling = LIKELIEST, draw: str = "now", seed: int = 0
) -> Request:
    prompt = handle._fit([{"role": "user", "content": words}], 90, draw=draw == "now")[0]
    return Request(prompt.ids, prompt.views, seed, sampling, draw, most=60)


def several(handle: Unified) -> list[Request]:
    """Guided and not, likeliest, by chance and filtered, prompts of several lengths; words, too."""
    return [
        asked(handle, "a cat"),
        asked(handle, "two dogs beside a red circle", replace(LIKELIEST, guidance_scale=1.0)),
        asked(handle, "a frog", Sampling(3.0, temperature=1.0), seed=3),
        asked(handle, "a tree at night", FILTERED, seed=4),
        asked(handle, "Hello", Sampling(text_temperature=0.0), draw="never"),
        asked(handle, "a", Sampling(1.0, temperature=1.0), seed=5),
        asked(handle, "a cat and a dog", BETWEEN, seed=6),
    ]


def whole(requests: list[Request]) -> list[Request]:
    """Those that draw at once, and whose twins stay from the first code to the last."""
    return [r for r in requests if r.draw == "now" and r.sampling != BETWEEN]


def engine_of(handle: Unified, captured: bool | None) -> Engine:
    """One that remembers nothing of others."""
    engine = Engine(handle.model, handle.codec)
    engine.captured = captured
    return engine


def ids(engine: Engine, request: Request) -> list[int]:
    return engine.run([request])[0].ids


def run(engine: Engine, requests: list[Request], rows: int = 64) -> tuple[list[Reply], int, int]:
    """All replies; steps of the batch, and how often it was asked for some."""
    session, calls = engine.serve(rows), 0
    replies = [session.replies[session.add(request)] for request in requests]
    while session.busy:
        session.step()
        calls += 1
    return replies, session.steps, calls
