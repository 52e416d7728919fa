"""What of a conversation fits into a model's context: its last turns, the oldest left out.

Knows nothing of tokens but how many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unified.processing import Prompt


class ContextError(ValueError):
    """A conversation that does not fit into the model's context."""


def fit(
    messages: list[dict[str, Any]],
    prompt: Callable[[list[dict[str, Any]]], Prompt],
    context: int,
    reply: int,
) -> tuple[Prompt, str]:
    """The prompt of as many of the last messages as leave room for a reply, and a sentence for the
    user where turns were left out ("" where none were). It begins with a turn of the user's.

    Args:
        prompt: messages -> their prompt.
        context: ids that the model reads at most.
        reply: ids of them that are kept for the reply.

    Raises:
        ContextError: the last message alone does not fit.
        ValueError: there is no message, or one is malformed.
    """
    if not messages:
        raise ValueError("no message to reply to")
    room = context - reply
    for dropped in range(len(messages)):
        rest = messages[dropped:]
        if dropped and rest[0].get("role") != "user":
            continue
        made = prompt(rest)
        if len(made.ids) <= room:
            notice = ""
            if dropped:
                notice = (
                    f"The conversation is longer than the model's {context} tokens;"
                    " its oldest turns are left out from here on."
                )
            return made, notice
    raise ContextError(
        f"the message takes {len(made.ids)} tokens; this model reads at most {room}"
        " beside its reply. Shorten it."
    )
