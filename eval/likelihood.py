"""How likely a model finds an answer: the mean log-probability of its tokens.

Beside `rebuilding.py` the one module of this room that looks inside a `unified.handle.Unified`;
another kind of model brings its own `option_likelihoods`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image


class Likelihood(NamedTuple):
    """mean: log-probability a token, the closing one included, in nats; greedy: whether each token
    is the likeliest one after those before it."""

    mean: float
    greedy: bool


def option_likelihoods(
    model: Any, images: Sequence[Image.Image], question: str, options: Sequence[str]
) -> list[float]:
    """Mean log-probability per token of each option as the whole reply to a question, its closing
    token included, so that an option that only begins another one is not favoured.

    Args:
        model: one that has `option_likelihoods(images, question, options)`, or a `Unified`.

    Raises:
        ValueError: an option is empty, or the model can do neither.
    """
    own = getattr(model, "option_likelihoods", None)
    if own is not None:
        values: list[float] = own(list(images), question, list(options))
        return values
    content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    content.append({"type": "text", "text": question})
    return [one.mean for one in likelihoods(model, [{"role": "user", "content": content}], options)]


def likelihoods(
    model: Any, messages: Sequence[dict[str, Any]], options: Sequence[str]
) -> list[Likelihood]:
    """Of each option as the whole reply to a conversation, whose pictures are shown as views.

    Args:
        model: a `Unified`.

    Raises:
        ValueError: an option is empty, it is too long, or the model is another one.
    """
    if not hasattr(model, "processor") or not hasattr(model, "engine"):
        raise ValueError(f"{type(model).__name__} has no option_likelihoods")
    import torch

    prompt = model.processor.prompt(list(messages), model.encode, "view")
    end = model.layout.vocabulary.control("end")
    device = model.model.device
    pixels = None if prompt.views is None else prompt.views.to(device)
    out = []
    for option in options:
        words = model.processor.tokenizer.ids(option)
        if not words:
            raise ValueError("an option without words has no likelihood")
        ids = torch.tensor([[*prompt.ids, *words, end]], device=device)
        if ids.shape[1] > model.engine.context:
            raise ValueError(f"{ids.shape[1]} tokens; this model reads {model.engine.context}")
        with torch.inference_mode():
            hidden = model.model(ids, pixel_values=pixels).hidden[0, len(prompt.ids) - 1 : -1]
            logs = model.model.text_logits(hidden).float().log_softmax(-1)  # (tokens, text)
        wanted = ids[0, len(prompt.ids) :]
        greedy = bool((logs.argmax(-1) == wanted).all())
        out.append(Likelihood(float(logs.gather(1, wanted[:, None]).mean()), greedy))
    return out
