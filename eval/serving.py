"""Serving, timed: requests that arrive one by one, against the same ones as one full batch.

Half are drawings with guidance, half are questions about a picture, in random order; all are the
toybox's. Time is counted in steps of the batch, so that every machine does the same work: request
k arrives before step a_k, and the gaps between arrivals are drawn from an exponential distribution
(a Poisson process). By default their mean is half a step, where a drawing takes about fifty: more
comes than is served, so that the engine is busy from the first arrival to the last token.

Throughput is the tokens written, over the seconds from the first arrival to the last token of all:
prefill, pixels, the filling of the batch and its emptying are in it. No prompt is remembered from
one round to the next. Knows nothing of HTTP.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from unified.engine import Request
from unified.eval.speed import Timed, Way, rows
from unified.handle import ANSWER, Unified
from unified.toybox.samples import sample
from unified.toybox.scene import render

GAP = 0.5  # steps between arrivals, in the mean
ARRIVING, FULL = "as they arrive", "one full batch"


@dataclass
class Served:
    """What the last round of a way wrote: ids of each request, steps, and rows in use by step."""

    replies: list[list[int]] = field(default_factory=list)
    used: list[int] = field(default_factory=list)


def mixed(handle: Unified, count: int, seed: int = 0) -> list[Request]:
    """Drawings and questions in random order, as `Unified.generate` and `Unified.ask` put them."""
    tasks = [("draw", "ask")[k % 2] for k in range(count)]
    random.Random(f"mixed/{seed}").shuffle(tasks)
    found = []
    for k, task in enumerate(tasks):
        turn = sample(task, seed, k, "held_out").turns[0]
        content: list[dict[str, Any]] = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": Image.fromarray(render(part))}
            for part in turn.parts
        ]
        how: dict[str, Any] = {"draw": "never", "most": ANSWER, "user_picture": "view"}
        if task == "draw":
            how = {"draw": "now" if handle.model.config.draws_at_once else "only"}
        asked = [{"role": "user", "content": content}]
        found.append(handle.request(asked, seed=seed + k, **how))
    return found


def arrivals(count: int, gap: float = GAP, seed: int = 0) -> list[float]:
    """The steps before which requests arrive, the first one at 0.

    Raises:
        ValueError: the mean gap is negative.
    """
    if gap < 0:
        raise ValueError(f"a gap of {gap} steps between arrivals; 0 lets all arrive at once")
    chance, found = random.Random(f"arrivals/{seed}"), [0.0]
    while len(found) < count:
        found.append(found[-1] + (chance.expovariate(1 / gap) if gap else 0.0))
    return found[:count]


def serve(handle: Unified, requests: Sequence[Request], at: Sequence[float], width: int) -> Served:
    """Requests as they arrive, in a batch of `width` rows at most."""
    session = handle.engine.serve(width)
    found, replies, came, step = Served(), [], 0, 0
    while came < len(requests) or session.busy:
        if not session.busy:  # nothing to do until the next one comes
            step = max(step, int(at[came]) + (at[came] > int(at[came])))
        while came < len(requests) and at[came] <= step:
            replies.append(session.replies[session.add(requests[came])])
            came += 1
        before = session.steps
        session.step()
        taken = max(1, session.steps - before)  # several where all are drawing
        found.used += [session.running] * taken
        step += taken
    for reply in replies:
        list(reply.pictures)  # pixels are part of the work
    found.replies = [reply.ids for reply in replies]
    return found


def race(
    handle: Unified, requests: Sequence[Request], at: Sequence[float], width: int
) -> tuple[dict[str, Way], dict[str, Served]]:
    """Both ways, and what each wrote last."""
    last: dict[str, Served] = {}

    def way(name: str, steps: Sequence[float]) -> Way:
        def work() -> tuple[int, float]:
            handle.engine.prefixes.clear()
            began = time.perf_counter()
            last[name] = serve(handle, requests, steps, width)
            seconds = time.perf_counter() - began
            return sum(map(len, last[name].replies)), seconds

        return work

    return {ARRIVING: way(ARRIVING, at), FULL: way(FULL, [0.0] * len(at))}, last


def report(
    found: list[Timed], last: dict[str, Served], settings: dict[str, Any], device: str = "cpu"
) -> list[dict[str, Any]]:
    """`speed.rows`; `ratio` of the full batch is what arriving reaches of it. Besides: steps, the
    mean of requests in the batch, and how many replies are those of the full batch."""
    out = rows("serve", "tokens", found, settings, device)
    for row in out:
        own = last[row["way"]]
        row["steps"] = len(own.used)
        row["mean_requests"] = sum(own.used) / len(own.used)
        pairs = zip(own.replies, last[FULL].replies, strict=True)
        row["same_replies"] = sum(a == b for a, b in pairs)
    return out
