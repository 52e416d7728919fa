"""Drawing token by token, timed: a random Janus of a published size, ours beside transformers' own.

Both read the same weights from the same files and draw the same prompt greedily with guidance, in
one process. transformers runs as shipped, and as tuned here: attention in plain products, which on
a CPU take less than half the time of SDPA's kernels for one query. Its cache is tight in both.
`unified.jacobi` draws the same, and what the shipped model draws, with many codes in a pass.
`pictures` compares models of one's own: how long a whole picture takes, in how many passes.

On a GPU ours runs as it does by itself, in recorded steps, and without recording (`, eager`); of
transformers there is the shipped way alone. Several pictures may be drawn at once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unified import attention, jacobi
from unified.engine import Engine, Request
from unified.eval.speed import Timed, Way, interleaved, machine_facts, ratio, rows
from unified.handle import Unified, load
from unified.packed import packed_bytes
from unified.sampling import Sampling

GUIDANCE = 5.0
KINDS = ("fp32", "bf16", "half", "int8", "int4")  # of our weights; the last three are packed
UNGUIDED = ", unguided"  # ends the name of a way that draws without a twin row
EAGER = ", eager"  # ends the name of a way whose steps are not recorded
PROMPT = "A red circle and two dogs at night."
PROMPTS = ("a red circle left of a cat", "three dogs at night", "a tree", "two blue stars")
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "text": {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 96,
                 "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
                 "max_position_embeddings": 512},
        "vision": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                   "image_size": 20, "patch_size": 4, "num_image_tokens": 25},
        "codec": {"num_embeddings": 96, "channel_multiplier": [1, 1, 1]},
    },
    "large": {  # about 190 million parameters in the decoder, pictures of 576 codes
        "text": {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816,
                 "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 16,
                 "max_position_embeddings": 2048},
        "vision": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
                   "image_size": 384, "patch_size": 16, "num_image_tokens": 576},
        "codec": {"num_embeddings": 16384, "channel_multiplier": [1, 1, 1, 1, 1]},
    },
}  # fmt: skip


def random_janus(folder: Path, size: str, seed: int = 0) -> Path:
    """Write a checkpoint in Janus' published layout with random weights, by transformers' classes.

    Weights are wide enough for logits that differ clearly, so that greedy choices have no ties.
    """
    from transformers import GenerationConfig, JanusConfig, JanusForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = _tokenizer()
    sizes, ids = SIZES[size], tokenizer.convert_tokens_to_ids
    width = sizes["text"]["hidden_size"]
    common = {"initializer_range": 1.6 * width**-0.5}
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
             "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    torch.manual_seed(seed)
    model = JanusForConditionalGeneration(
        JanusConfig(
            text_config={**sizes["text"], "model_type": "llama", **common, **marks},
            vision_config={**sizes["vision"], "projection_dim": width, **common},
            vq_config={
                **sizes["codec"], "embed_dim": 8, "latent_channels": 32, "base_channels": 32,
                "num_res_blocks": 1, "projection_dim": width, "image_token_embed_dim": width,
                **common,
            },
            image_token_id=ids("<image_placeholder>"),
        )
    )  # fmt: skip
    model.generation_config = GenerationConfig(
        **marks, generation_kwargs={"boi_token_id": ids("<begin_of_image>")}
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    """Bytes and the special tokens of Janus."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bar, gap = "\uff5c", "\u2581"
    special = [f"<{bar}begin{gap}of{gap}sentence{bar}>", f"<{bar}end{gap}of{gap}sentence{bar}>",
               f"<{bar}{gap}pad{gap}{bar}>", "<begin_of_image>", "<end_of_image>",
               "<image_placeholder>"]  # fmt: skip
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={p: k for k, p in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1],
        pad_token=special[2],
        extra_special_tokens={"boi_token": special[3], "eoi_token": special[4],
                              "image_token": special[5]},
    )  # fmt: skip


@dataclass
class Race:
    """Ways that draw the same picture; what each drew, and the handles of ours, by name.

    Attributes:
        batch: pictures that each draws at once. device: where.
    """

    ways: dict[str, Way] = field(default_factory=dict)
    drawn: dict[str, Drawn] = field(default_factory=dict)
    handles: dict[str, Unified] = field(default_factory=dict)
    batch: int = 1
    device: str = "cpu"

    def add(self, name: str, way: tuple[Way, Drawn], handle: Unified | None = None) -> None:
        self.ways[name], self.drawn[name] = way
        if handle is not None:
            self.handles[name] = handle


def race(
    folder: Path,
    kinds: Sequence[str],
    codes: int,
    against: bool,
    unguided: int,
    window: int = 0,
    device: str = "cpu",
    batch: int = 1,
) -> Race:
    """Ours with weights of several kinds, and beside it transformers in fp32 and in bf16.

    Args:
        folder: a checkpoint in Janus' layout. unguided: codes that ours also draws without a twin
            row; 0: none. window: of Jacobi decoding, which ours also draws by; 0: not.
        batch: pictures at once, all of the same prompt.
    """
    found = Race(batch=batch, device=device)
    on_gpu = torch.device(device).type == "cuda"
    for kind in kinds:
        plain = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(kind)
        packed = {"weights": kind} if plain is None else {"dtype": plain}
        handle = load(folder, device, **packed)  # type: ignore[arg-type]
        found.add(f"unified {kind}", ours(handle, codes, batch=batch), handle)
        if on_gpu:
            way = ours(handle, codes, batch=batch, captured=False)
            found.add(f"unified {kind}{EAGER}", way, handle)
        if unguided:
            name = f"unified {kind}{UNGUIDED}"
            found.add(name, ours(handle, min(unguided, codes), 1.0, batch), handle)
        if window and batch == 1:
            found.add(f"unified {kind}, jacobi", at_once(handle, codes, window))
    if against:
        from transformers import JanusForConditionalGeneration

        dtypes = {"bf16" if kind != "fp32" else kind for kind in kinds}
        for name in sorted(dtypes, reverse=True):
            dtype = torch.float32 if name == "fp32" else torch.bfloat16
            model = JanusForConditionalGeneration.from_pretrained(folder, dtype=dtype)
            model = model.eval().to(device)
            found.add(f"transformers {name}", theirs(model, handle, codes, "sdpa", batch))
            if not on_gpu:
                way = theirs(model, handle, codes, "eager", batch)
                found.add(f"transformers {name}, tuned", way)
    return found


@dataclass
class Drawn:
    """What a way drew last, and of every round (but the first) the seconds between its codes, or
    between its passes, if a pass is of many codes. passes: how many such there were, 0: none."""

    codes: list[int] = field(default_factory=list)
    steps: list[list[float]] = field(default_factory=list)
    passes: int = 0

    def take(self, codes: list[int], times: list[float]) -> None:
        self.codes = codes
        self.steps.append([b - a for a, b in zip(times, times[1:], strict=False)])

    def step(self, first: int = 0, last: int | None = None) -> float:
        """Median seconds of the steps first..last of the rounds that count."""
        counted = self.steps[1:] or self.steps
        return statistics.median(s for steps in counted for s in steps[first:last])

    @property
    def edge(self) -> int:
        """Steps that make up "the first" and "the last"."""
        return max(1, min(8, len(self.steps[-1]) // 3))


def ours(
    handle: Unified,
    codes: int,
    guidance: float = GUIDANCE,
    batch: int = 1,
    captured: bool | None = None,
) -> tuple[Way, Drawn]:
    """So many codes of a picture by our engine, or of several at once.

    Several steps may run before their codes are read, which the device is waited for: each of them
    counts as an equal share of the time between two readings.

    Args:
        captured: of the `Engine`.
    """
    drawn, start = Drawn(), handle.layout.vocabulary.image_start
    request, engine = _greedy(handle, guidance), handle.engine
    if captured is not None:
        engine = Engine(handle.model, handle.codec)
        engine.captured = captured

    def way() -> tuple[int, float]:
        began = time.perf_counter()
        session = engine.serve(2 * batch)
        numbers = [session.add(request) for _ in range(batch)]
        reply = session.replies[numbers[0]]
        times: list[float] = []
        while len(times) < codes:
            before = time.perf_counter()
            written = session.step()
            now = time.perf_counter()
            new = sum(n == numbers[0] and token >= start for n, token in written)
            times += [before + (now - before) * (k + 1) / new for k in range(new)]
        seconds = times[-1] - began
        found = [token - start for token in reply.ids if token >= start]
        drawn.take(found[:codes], times[:codes])
        return batch * len(found), seconds

    return way, drawn


def _greedy(handle: Unified, guidance: float) -> Request:
    sampling = Sampling(guidance_scale=guidance, temperature=0.0)
    most = handle.layout.drawn_length
    return Request(_prompt(handle), None, 0, sampling, draw="now", most=most)


def at_once(handle: Unified, codes: int, window: int) -> tuple[Way, Drawn]:
    """The same as `ours` by Jacobi decoding."""
    drawn, start = Drawn(), handle.layout.vocabulary.image_start
    request = _greedy(handle, GUIDANCE)

    def way() -> tuple[int, float]:
        began = time.perf_counter()
        found: list[int] = []
        times: list[float] = []
        for token, reply in jacobi.stream(handle.engine, request, window):
            if reply.passes > len(times):
                times.append(time.perf_counter())
            if token >= start:
                found.append(token - start)
            if len(found) == codes:
                break
        drawn.take(found, times if len(times) > 1 else [began, *times])
        drawn.passes = len(times)
        return len(found), time.perf_counter() - began

    return way, drawn


def shipped(window: int, rounds: int, seed: int, device: str = "cpu") -> list[dict[str, Any]]:
    """What the shipped model draws to PROMPTS, one by one and by Jacobi decoding: `speed.rows`,
    with `passes`, the mean over the pictures."""
    handle = load(None, device)
    passes: dict[str, list[int]] = {}

    def way(name: str, **how: Any) -> Way:
        def work() -> tuple[int, float]:
            began = time.perf_counter()
            drawn = [handle.generate(prompt, seed=seed, **how)[0] for prompt in PROMPTS]
            seconds = time.perf_counter() - began
            places = len(handle.layout.written)
            passes[name] = [image.info.get("passes", places) for image in drawn]
            return len(drawn) * handle.layout.image_length, seconds

        return work

    one, many = "shipped, one by one", "shipped, jacobi"
    ways = {one: way(one), many: way(many, parallel="jacobi", window=window)}
    found = interleaved(ways, rounds, device)
    facts = {"model": handle.source, "pictures": len(PROMPTS), "window": window, "seed": seed,
             "sampling": handle.sampling.settings()}  # fmt: skip
    out = rows("draw", "image tokens", found, facts, device)
    for row in out:
        row["passes"] = statistics.mean(passes[row["way"]])
    return out


def pictures(handles: Mapping[str, Unified], rounds: int, seed: int) -> list[dict[str, Any]]:
    """A picture to each of PROMPTS by each model, one after the other, without words before them
    and as the model samples: `speed.rows`, with `passes` of the decoder and seconds, `each`, from a
    prompt that is not known yet to the pixels."""
    passes: dict[str, int] = {}

    def way(name: str, handle: Unified) -> Way:
        most = handle.layout.drawn_length

        def work() -> tuple[int, float]:
            began, steps = time.perf_counter(), 0
            for k, words in enumerate(PROMPTS):
                ids = _prompt(handle, words)
                handle.engine.prefixes.clear()
                session = handle.engine.serve(2)
                request = Request(ids, None, seed + k, handle.sampling, draw="now", most=most)
                reply = session.replies[session.add(request)]
                while session.busy:
                    session.step()
                    steps += 1
                list(reply.pictures)
            passes[name] = steps - len(PROMPTS)  # the first step is the prompt's
            return len(PROMPTS), time.perf_counter() - began

        return work

    found = interleaved({name: way(name, handle) for name, handle in handles.items()}, rounds)
    out = rows("draw", "pictures", found, {"pictures": len(PROMPTS), "seed": seed})
    for row in out:
        row["passes"] = passes[row["way"]] / len(PROMPTS)
        row["each"] = row["seconds"] / len(PROMPTS)
        row["sampling"] = handles[row["way"]].sampling.settings()
    return out


def theirs(
    model: Any, handle: Unified, codes: int, attention: str, batch: int = 1
) -> tuple[Way, Drawn]:
    """The same by transformers' `generate`, the cache as long as for a whole picture."""
    from transformers import LogitsProcessor, LogitsProcessorList

    drawn, vocabulary = Drawn(), handle.layout.vocabulary
    ids = torch.tensor([[*_prompt(handle), vocabulary.control("image")]], device=model.device)
    ids = ids.repeat(batch, 1)
    room = ids.shape[1] + handle.layout.image_length

    class Clock(LogitsProcessor):
        def __init__(self) -> None:
            self.times: list[float] = []
            self.marks: list[torch.cuda.Event] = []

        def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
            if scores.is_cuda:  # by the device's own clock, which is read in the end
                self.marks.append(torch.cuda.Event(enable_timing=True))
                self.marks[-1].record(torch.cuda.current_stream(scores.device))
            else:
                self.times.append(time.perf_counter())
            return scores

        def read(self) -> list[float]:
            """Seconds since some moment, of every step."""
            return self.times or [self.marks[0].elapsed_time(m) / 1e3 for m in self.marks]

    def way() -> tuple[int, float]:
        clock, vision = Clock(), model.model.vision_model.config
        model.model.language_model.set_attn_implementation(attention)
        whole, vision.num_image_tokens = vision.num_image_tokens, codes
        began = time.perf_counter()
        try:
            with torch.inference_mode():
                made = model.generate(
                    ids, attention_mask=torch.ones_like(ids), generation_mode="image",
                    do_sample=False, guidance_scale=GUIDANCE, max_length=room,
                    logits_processor=LogitsProcessorList([clock]),
                )  # fmt: skip
            drawn_first = made[0].tolist()  # waits for the device
        finally:
            vision.num_image_tokens = whole
        seconds = time.perf_counter() - began
        drawn.take(drawn_first, clock.read())
        return batch * made.shape[1], seconds

    return way, drawn


def _prompt(handle: Unified, words: str = PROMPT) -> tuple[int, ...]:
    message, most = {"role": "user", "content": words}, handle.layout.drawn_length
    return handle.request([message], draw="now", most=most).ids


@dataclass(frozen=True)
class Costs:
    """What a step has to read and multiply. weights, cached: bytes, of a position and row. wide:
    whether products are of fp32."""

    parameters: int
    weights: int
    cached: int
    wide: bool

    @classmethod
    def of(cls, handle: Unified) -> Costs:
        """Of a code of a picture: the decoder's layers and the image head."""
        config, model = handle.model.config.text_config, handle.model
        parts = [model.decoder.layers, model.image_head or model.text_head]
        held = [p for part in parts for p in part.parameters()]
        width = model.decoder.layers[0].self_attn.head_dim
        size = torch.finfo(model.dtype).bits // 8
        plain = sum(p.nbytes for p in held)
        packed = sum(packed_bytes(part) for part in parts)
        return cls(
            parameters=_parameters(handle),
            weights=plain + packed,
            cached=2 * config.num_hidden_layers * config.num_key_value_heads * width * size,
            wide=model.dtype == torch.float32,
        )

    def bound(self, rows: int, positions: float, machine: Mapping[str, Any]) -> float:
        """Seconds that a step takes at least, by what this machine reads and multiplies."""
        reading = (self.weights + rows * positions * self.cached) / (machine["read_gbytes"] * 1e9)
        gflops = machine["product_gflops"]
        if self.wide:
            gflops = machine.get("product_gflops_fp32", gflops)
        return max(reading, 2 * rows * self.parameters / (gflops * 1e9))


def _parameters(handle: Unified) -> int:
    """Weights of the products of a step, however they are held."""
    text, image = handle.model.config.text_config, handle.model.config.image_config
    width, hidden = text.hidden_size, text.intermediate_size
    head = handle.model.decoder.layers[0].self_attn.head_dim
    heads, kv = text.num_attention_heads, text.num_key_value_heads
    layer = width * head * (2 * heads + 2 * kv) + 3 * width * hidden
    return text.num_hidden_layers * layer + image.head_size * (width + image.codebook_size)


def report(
    raced: Race, found: list[Timed], before: Mapping[str, Any], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """`speed.rows` of all ways, and for each how its steps went and what the machine would allow.

    Args:
        before: `machine_facts` ahead of the rounds; what is higher, then or after them, counts.

    Returns:
        Rows with, beside those of `speed.rows`: step_ms, first_ms, last_ms (medians), their
        quotient, ratios (rate to that of each other way), codes, agrees (how many codes are those
        of each other way), passes (where a pass is of many codes, it is a step); and of ours
        bytes_a_step, gbytes_a_second, bandwidth_share, roofline_share, guided_to_unguided.
    """
    drawn, handles = raced.drawn, raced.handles
    after = machine_facts(raced.device)
    reached = ("read_gbytes", "product_gflops", "product_gflops_fp32")
    best = {key: max(before[key], after[key]) for key in reached if key in before}
    known = settings | best | {"batch": raced.batch, "device": before.get("device", raced.device)}
    out = rows("decode", "image tokens", found, known, raced.device)
    for row, timed in zip(out, found, strict=True):
        own = drawn[row["way"]]
        row["step_ms"] = own.step() * 1e3
        row["first_ms"], row["last_ms"] = (
            own.step(0, own.edge) * 1e3, own.step(-own.edge) * 1e3)  # fmt: skip
        row["last_to_first"] = row["last_ms"] / row["first_ms"]
        row["ratios"] = {x.name: ratio(timed, x) for x in found if x is not timed}
        row["unguided"] = row["way"].endswith(UNGUIDED)
        row["codes"], row["passes"] = own.codes, own.passes or len(own.codes)
        row["agrees"] = {name: _agreeing(own.codes, other.codes) for name, other in drawn.items()}
        if row["way"] in handles:
            row["attention"] = _attention(handles[row["way"]])
            _against_limits(row, handles[row["way"]], own, drawn, best)
    return out


def _attention(handle: Unified) -> str:
    """How our steps attend."""
    model = handle.model
    width = model.decoder.layers[0].self_attn.head_dim
    return attention.said(model.device, model.dtype, width)


def _against_limits(
    row: dict[str, Any],
    handle: Unified,
    own: Drawn,
    drawn: Mapping[str, Drawn],
    machine: Mapping[str, Any],
) -> None:
    """Add what the machine would allow, and what the second row of guidance costs."""
    costs = Costs.of(handle)
    twins = row["settings"]["batch"] * (1 if row["unguided"] else 2)
    positions = len(_prompt(handle)) + 1 + len(own.codes) / 2
    seconds = row["step_ms"] / 1e3
    read = costs.weights + twins * positions * costs.cached
    row["bytes_a_step"] = round(read)
    row["gbytes_a_second"] = read / seconds / 1e9
    row["bandwidth_share"] = row["gbytes_a_second"] / machine["read_gbytes"]
    row["roofline_share"] = costs.bound(twins, positions, machine) / seconds
    without = drawn.get(row["way"] + UNGUIDED)
    if without is not None:
        steps = len(without.steps[-1])
        row["guided_to_unguided"] = own.step(0, steps) / without.step(0, steps)


def _agreeing(one: list[int], other: list[int]) -> int:
    """Codes up to the first that differs."""
    pairs = zip(one, other, strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
