"""Serving, timed: requests that arrive one by one, against the same ones as one full batch.

Half are drawings with guidance, half are questions about a picture, in random order; all are the
toybox's. Time is counted in steps of the batch, so that every machine does the same work: request
k arrives before step a_k, and the gaps between arrivals are drawn from an exponential distribution
(a Poisson process). By default their mean is half a step, where a drawing takes about fifty: more
comes than is served, so that the engine is busy from the first arrival to the last token.

Throughput is the tokens written, over the seconds from the first arrival to the last token of all:
prefill, pixels, the filling of the batch and its emptying are in it. No prompt is remembered from
one round to the next. Beside them may stand transformers' own `generate`, which no request can
join: there they are all served from the start, one after the other. Knows nothing of HTTP.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from unified import families
from unified.engine import Request
from unified.eval.speed import Timed, Way, rows
from unified.handle import ANSWER, Unified
from unified.toybox.samples import sample
from unified.toybox.scene import render

GAP = 0.5  # steps between arrivals, in the mean
ARRIVING, FULL, THEIRS = "as they arrive", "one full batch", "transformers, one by one"


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
            how = {"draw": "only"}
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


def rival(handle: Unified) -> Any:
    """transformers' own model of the same weights.

    Raises:
        ValueError: the handle's model is no Janus in transformers' format.
    """
    from transformers import JanusForConditionalGeneration

    folder = handle.source if handle.model.config.family == "janus" else ""
    if not folder or families.model_type(families.folder_of(folder)) != "janus":
        raise ValueError(
            "transformers serves a Janus in its own format alone: name one with --model, or leave"
            " --against out"
        )
    read: Any = JanusForConditionalGeneration.from_pretrained
    model = read(families.folder_of(folder), dtype=handle.model.dtype, use_safetensors=True)
    return model.eval().to(handle.model.device)


def theirs(
    model: Any, handle: Unified, requests: Sequence[Request], last: dict[str, Served]
) -> Way:
    """The requests by transformers' `generate`, pixels included, as many ids each as ours has
    written to it in `last`; pictures by its own chance."""
    control, device = handle.layout.vocabulary.control, model.device
    marks = {"eos_token_id": control("end"), "pad_token_id": control("pad")}

    def answer(request: Request, length: int) -> None:
        ids = torch.tensor([request.ids], device=device)
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if request.views is not None:
            given["pixel_values"] = request.views.to(device, model.dtype)
        model.generate(
            **given, **marks, min_new_tokens=length, max_new_tokens=length, do_sample=False
        )

    def draw(request: Request) -> None:
        ids = torch.tensor([[*request.ids, control("image")]], device=device)
        sampling, room = request.sampling, ids.shape[1] + handle.layout.image_length
        codes = model.generate(
            ids, attention_mask=torch.ones_like(ids), generation_mode="image", do_sample=True,
            temperature=sampling.temperature, guidance_scale=sampling.guidance_scale,
            max_length=room,
        )  # fmt: skip
        model.decode_image_tokens(codes).cpu()

    def work() -> tuple[int, float]:
        lengths = [len(ids) for ids in last[FULL].replies]
        began = time.perf_counter()
        with torch.inference_mode():
            for request, length in zip(requests, lengths, strict=True):
                if request.draw == "never":
                    answer(request, length)
                else:
                    draw(request)
        return sum(lengths), time.perf_counter() - began

    return work


def report(
    found: list[Timed], last: dict[str, Served], settings: dict[str, Any], device: str = "cpu"
) -> list[dict[str, Any]]:
    """`speed.rows`; `ratio` of the full batch is what arriving reaches of it. Besides, of ours:
    steps, the mean of requests in the batch, and how many replies are those of the full batch."""
    out = rows("serve", "tokens", found, settings, device)
    for row in out:
        if row["way"] not in last:
            continue
        own = last[row["way"]]
        row["steps"] = len(own.used)
        row["mean_requests"] = sum(own.used) / len(own.used)
        pairs = zip(own.replies, last[FULL].replies, strict=True)
        row["same_replies"] = sum(a == b for a, b in pairs)
    return out
