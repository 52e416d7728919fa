"""From logits to an id: guidance schedules, filters, seeded choice.

Guidance: `uncond + w(t) (cond - uncond)`, https://arxiv.org/abs/2207.12598; schedules of w after
Wang et al. 2024, https://arxiv.org/abs/2404.13040, where rising weights do best. An interval of a
picture outside of which w is 1: https://arxiv.org/abs/2404.07724.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

SCHEDULES = ("constant", "linear", "cosine", "clamped-linear", "parametrised-cosine")


@dataclass(frozen=True)
class Sampling:
    """How pictures and words are chosen.

    Attributes:
        guidance_scale: w of classifier-free guidance on codes; 1 does without its second row.
        schedule: how w moves over the codes of a picture, one of SCHEDULES.
        temperature: of codes; 0 takes the likeliest.
        top_k: keep the k likeliest codes; 0 keeps all.
        top_p: keep the likeliest codes that together reach this probability.
        min_p: drop codes below this share of the likeliest one's probability.
        text_temperature: of words; 0 takes the likeliest.
        guidance_start, guidance_end: shares of a picture's codes between which w counts; outside
            of them it is 1, and the second row rests.
    """

    guidance_scale: float = 1.0
    schedule: str = "constant"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    text_temperature: float = 0.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}; one of {', '.join(SCHEDULES)}")
        limits = {
            "guidance_scale": (0, 100),
            "temperature": (0, 100),
            "text_temperature": (0, 100),
            "top_k": (0, math.inf),
            "top_p": (0, 1),
            "min_p": (0, 1),
            "guidance_start": (0, 1),
            "guidance_end": (0, 1),
        }
        if self.top_k % 1:
            raise ValueError(f"top_k is {self.top_k}; it is a whole number, 0 keeps all")
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; it lies between {low} and {high}")
        if self.guidance_start > self.guidance_end:
            raise ValueError(
                f"guidance from {self.guidance_start} to {self.guidance_end} of a picture's codes "
                "begins after it ends (guidance_start, guidance_end)"
            )

    def settings(self) -> dict[str, Any]:
        """All fields as JSON, for metadata and score rows."""
        return asdict(self)

    @property
    def guided(self) -> bool:
        """Whether any code wants a second row."""
        return self.guidance_scale != 1 and self.guidance_start < self.guidance_end

    def guides(self, step: int, steps: int) -> bool:
        """Whether code `step` of `steps` wants one."""
        return self.guided and self.guidance_start <= step / steps < self.guidance_end

    def weight(self, step: int, steps: int) -> float:
        """w of code `step` of `steps`."""
        if not self.guides(step, steps):
            return 1.0
        return guidance_weight(self.guidance_scale, self.schedule, step, steps)


def guidance_weight(scale: float, schedule: str, step: int, steps: int) -> float:
    """w of code `step` of `steps`, from 1 (no guidance) towards `scale`.

    constant: scale throughout. linear, cosine: rise from 1 to scale. clamped-linear: linear to
    twice the scale, never below half of it, so that its mean stays near scale.
    parametrised-cosine: `(1 - cos(pi * done^3)) / 2`, late and steep.
    """
    done = (step + 1) / steps
    extra = scale - 1
    match schedule:
        case "constant":
            return scale
        case "linear":
            return 1 + extra * done
        case "cosine":
            return 1 + extra * (1 - math.cos(math.pi * done)) / 2
        case "clamped-linear":
            return 1 + extra * max(2 * done, 0.5)
        case "parametrised-cosine":
            return 1 + extra * (1 - math.cos(math.pi * done**3)) / 2
    raise ValueError(f"unknown schedule {schedule!r}; one of {', '.join(SCHEDULES)}")


def filter_logits(
    logits: torch.Tensor, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> torch.Tensor:
    """Set what the filters drop to -inf; the likeliest always stays. (..., V) -> (..., V)."""
    if min_p > 0:
        peak = logits.max(-1, keepdim=True).values
        logits = logits.masked_fill(logits < peak + math.log(min_p), -torch.inf)
    if 0 < top_k < logits.shape[-1]:
        low = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < low, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        shares = ordered.softmax(-1)
        drop = shares.cumsum(-1) - shares >= top_p
        drop[..., 0] = False
        logits = logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return logits


def filter_rows(
    logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
) -> torch.Tensor:
    """`filter_logits` with settings of each row's own, (R, V) -> (R, V); all of them (R,).

    Where a row has no such filter: top_k V, top_p above 1, min_p 0.
    """
    ordered, order = logits.sort(-1, descending=True)
    low = ordered.gather(-1, top_k[:, None] - 1)
    dropped = ordered < torch.maximum(low, ordered[:, :1] + min_p.log()[:, None])
    share = ordered.masked_fill(dropped, -torch.inf).softmax(-1)
    dropped |= share.cumsum(-1) - share >= top_p[:, None]
    dropped[:, 0] = False
    return logits.masked_fill(torch.empty_like(dropped).scatter_(-1, order, dropped), -torch.inf)


def chance(seed: int, device: torch.device) -> torch.Generator:
    """A request's own generator: on CUDA its noise is made where the logits are, and nothing waits
    for the host; so the same seed draws something else there than on a CPU."""
    return torch.Generator(device if device.type == "cuda" else "cpu").manual_seed(seed)


def exponential(size: int, generator: torch.Generator) -> torch.Tensor:
    """The noise of one choice among `size`, (size,): the next of a request's own generator, and
    where that is. -log of it is Gumbel's."""
    noise = torch.empty(size, dtype=torch.float32, device=generator.device)
    return noise.exponential_(generator=generator)


def noisiest(
    logits: torch.Tensor,
    noise: torch.Tensor,
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> torch.Tensor:
    """Gumbel-max: the index that is chosen under exponential noise, (..., V) -> (...)."""
    logits = filter_logits(logits.float() / temperature, top_k, top_p, min_p)
    return (logits - noise.to(logits.device).log()).argmax(-1)


def choose(
    logits: torch.Tensor, generator: torch.Generator, *, temperature: float, **filters: Any
) -> int:
    """One index of logits (V,); 0 takes the likeliest and no noise. `filters`: of `noisiest`."""
    if temperature == 0:
        return int(logits.argmax())
    noise = exponential(logits.shape[-1], generator)
    return int(noisiest(logits, noise, temperature=temperature, **filters))
