"""Readers of conversations: the canonical record, LLaVA, ShareGPT and LLaMA-Factory, TRL, ms-swift,
Alpaca. The shapes are those that each project documents."""

from __future__ import annotations

import os
from typing import Any

from unified.train.formats import (
    MARK,
    MEDIA,
    Reader,
    Turn,
    Values,
    bare,
    conversation,
    preference,
    refuse_unsupported,
    register,
    silent,
    turns_of,
)
from unified.train.records import DataError, Record, record_from, shown
from unified.train.sources import Sample

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
}


def contents(values: Values, column: str = "messages") -> list[Any]:
    """What the messages of a column say; [] where they are none."""
    messages = values.get(column)
    if not isinstance(messages, list) or not messages:
        return []
    return [m.get("content") if isinstance(m, dict) else None for m in messages]


def any_bare(found: list[Any]) -> bool:
    return any(bare(part) for content in found if isinstance(content, list) for part in content)


def shared(one: list[Turn], two: list[Turn]) -> int:
    """How many turns two conversations begin with alike."""
    same = [a == b for a, b in zip(one, two, strict=False)]
    return same.index(False) if False in same else len(same)


def prompt_length(turns: list[Turn]) -> int:
    """Turns up to the last that is not the assistant's."""
    others = [k for k, turn in enumerate(turns) if turn.role != "assistant"]
    return others[-1] + 1 if others else 0


@register
class Canonical(Reader):
    """{"messages": [{"role", "content": text | parts with their media}], "rejected"}"""

    name = "canonical"

    def detects(self, values: Values) -> bool:
        found = contents(values)
        known = set(values) <= {"id", "messages", "rejected", "source"}
        return known and bool(found) and not any_bare(found)

    def records(self, sample: Sample) -> list[Record]:
        return [record_from(sample.values, sample.place, sample.id, sample.source)]


@register
class Llava(Reader):
    """{"id", "image": path, "conversations": [{"from": "human", "value": "<image>\\n…"}, …]};
    https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md"""

    name = "llava"

    def detects(self, values: Values) -> bool:
        plural = [f"{kind}s" for kind in MEDIA]
        other = any(key in values for key in (*plural, "chosen", "rejected", "system", "tools"))
        one = any(key in values for key in ("image", "video", "id"))
        return isinstance(values.get("conversations"), list) and one and not other

    def records(self, sample: Sample) -> list[Record]:
        turns = shared_gpt(sample.need("conversations"), "conversations")
        if sample.get("video") is not None and sample.get("image") is None:
            # LLaVA-Video writes <image> for a film, too
            named = any("<video>" in turn.content for turn in turns)
            turns = turns if named else [
                Turn(t.role, t.content.replace("<image>", "<video>")) for t in turns
            ]  # fmt: skip
        return conversation(sample, turns)


@register
class ShareGPT(Reader):
    """{"conversations": [{"from", "value"}], "system", "images", "videos", "audios"}, also with
    "chosen" and "rejected"; https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md"""

    name = "sharegpt"

    def detects(self, values: Values) -> bool:
        return isinstance(values.get("conversations"), list)

    def records(self, sample: Sample) -> list[Record]:
        refuse_unsupported(sample)
        turns = shared_gpt(sample.need("conversations"), "conversations")
        if sample.get("system"):
            turns.insert(0, Turn("system", sample.need("system", str)))
        if sample.get("chosen") is None and sample.get("rejected") is None:
            return conversation(sample, turns)
        chosen, rejected = (shared_gpt([sample.need(key)], key) for key in ("chosen", "rejected"))
        return preference(sample, turns, chosen, rejected)


def shared_gpt(values: Any, column: str) -> list[Turn]:
    turns = turns_of(values, column, SHAREGPT_ROLES, ("from", "value"))
    for k, turn in enumerate(turns, 1):
        if not isinstance(turn.content, str):
            raise DataError(f"column {column!r}, message {k}: {shown(turn.content)} is no text")
    return turns


@register
class Trl(Reader):
    """{"messages", "images"}, {"prompt", "completion"}, {"prompt", "chosen", "rejected"}, strings
    or messages; https://huggingface.co/docs/trl/dataset_formats"""

    name = "trl"

    def detects(self, values: Values) -> bool:
        if "prompt" in values and "completion" in values:
            return True
        if "chosen" in values and "rejected" in values:
            return "conversations" not in values and "instruction" not in values
        found = contents(values)
        marked = any(isinstance(content, str) and MARK.search(content) for content in found)
        own = any(key.startswith("rejected_") for key in values)
        return bool(found) and not marked and not own and ("images" in values or any_bare(found))

    def records(self, sample: Sample) -> list[Record]:
        if sample.get("chosen") is not None or sample.get("rejected") is not None:
            return self._preference(sample)
        if sample.get("messages") is not None:
            return conversation(sample, turns_of(sample.need("messages"), "messages"), marks=False)
        prompt = self._turns(sample.need("prompt"), "prompt", "user")
        completion = self._turns(sample.need("completion"), "completion", "assistant")
        (found,) = conversation(sample, prompt + completion, marks=False)
        asking = tuple(silent(message) for message in found.messages[: len(prompt)])
        return [Record(found.id, asking + found.messages[len(prompt) :], None, found.source)]

    def _turns(self, value: Any, column: str, role: str) -> list[Turn]:
        return [Turn(role, value)] if isinstance(value, str) else turns_of(value, column)

    def _preference(self, sample: Sample) -> list[Record]:
        chosen, rejected = sample.need("chosen"), sample.need("rejected")
        if sample.get("prompt") is not None:
            prompt = self._turns(sample.need("prompt"), "prompt", "user")
            both = (("chosen", chosen), ("rejected", rejected))
            replies = [self._turns(value, column, "assistant") for column, value in both]
        elif isinstance(chosen, str) and isinstance(rejected, str):
            asked = os.path.commonprefix([chosen, rejected]).rpartition(" ")[0]
            prompt = [Turn("user", asked)] if asked else []
            replies = [[Turn("assistant", text[len(asked) :])] for text in (chosen, rejected)]
        else:
            whole = [turns_of(chosen, "chosen"), turns_of(rejected, "rejected")]
            same = shared(*whole)
            prompt, replies = whole[0][:same], [turns[same:] for turns in whole]
        return preference(sample, prompt, replies[0], replies[1], marks=False)


@register
class Swift(Reader):
    """{"messages": [{"role", "content": "<image>…", "loss"}], "images", "videos", "audios",
    "rejected_response" | "rejected_messages", "rejected_images"};
    https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html"""

    name = "ms-swift"

    def detects(self, values: Values) -> bool:
        found = contents(values)
        return bool(found) and not any_bare(found)

    def records(self, sample: Sample) -> list[Record]:
        turns = turns_of(sample.need("messages"), "messages")
        worse = self._rejected(sample, turns)
        system: list[Turn] = []
        if sample.get("system") and turns and turns[0].role != "system":
            system = [Turn("system", sample.need("system", str))]
        if worse is None:
            return conversation(sample, system + turns)
        asked = prompt_length(turns)
        return preference(sample, system + turns[:asked], turns[asked:], worse)

    def _rejected(self, sample: Sample, turns: list[Turn]) -> list[Turn] | None:
        if sample.get("rejected_response") is not None:
            return [Turn("assistant", sample.need("rejected_response", str))]
        if sample.get("rejected_messages") is not None:
            worse = turns_of(sample.need("rejected_messages"), "rejected_messages")
            same = shared(turns, worse)
            other = sample.get("rejected_images") is not None  # the same words, perhaps
            return worse[min(same, prompt_length(turns)) if other else same :]
        if sample.get("rejected_images") is not None:  # the same words about other pictures
            return turns[prompt_length(turns) :]
        return None


@register
class Alpaca(Reader):
    """{"instruction", "input", "output", "system", "history"}, also with "chosen" and "rejected",
    and {"query", "response"}; https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md"""

    name = "alpaca"

    def detects(self, values: Values) -> bool:
        asked = "instruction" in values and ("output" in values or "chosen" in values)
        return asked or ("query" in values and "response" in values)

    def records(self, sample: Sample) -> list[Record]:
        refuse_unsupported(sample)
        asked, reply = ("instruction", "output")
        if sample.get("instruction") is None and sample.get("query") is not None:
            asked, reply = ("query", "response")
        turns = [Turn("system", sample.need("system", str))] if sample.get("system") else []
        for pair in sample.get("history") or []:
            if not isinstance(pair, list) or len(pair) != 2:
                raise DataError(f"column 'history' holds {shown(pair)}, not a question and answer")
            turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
        words = sample.need(asked, str)
        if sample.get("input"):
            words = f"{words}\n{sample.need('input', str)}"
        turns.append(Turn("user", words))
        if sample.get("chosen") is None and sample.get("rejected") is None:
            return conversation(sample, [*turns, Turn("assistant", sample.need(reply, str))])
        good, bad = (Turn("assistant", sample.need(key, str)) for key in ("chosen", "rejected"))
        return preference(sample, turns, [good], [bad])
