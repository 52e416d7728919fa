"""The short way in: `unified.load()` gives a handle that chats, draws, looks and answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from unified import attention, checkpoint
from unified.engine import Engine, Reply, Request
from unified.modeling import UnifiedForConditionalGeneration
from unified.processing import Prompt, UnifiedImageProcessor, UnifiedProcessor
from unified.sampling import Sampling
from unified.tokenizers.codec import Codec
from unified.tokenizers.kinds import load_codec
from unified.tokenizers.text import TextTokenizer

DEFAULT = Path(__file__).parent / "weights" / "toybox"
CODEC = "image_tokenizer"
SAMPLING = "sampling.json"
REMEMBERED = 1024  # pictures

Message = dict[str, Any]


class ContextError(ValueError):
    """A conversation that does not fit into the model's context."""


@dataclass(frozen=True)
class TextDelta:
    """Some more text of the reply."""

    text: str


@dataclass(frozen=True)
class ImageStart:
    """The model opened a picture."""


@dataclass(frozen=True)
class ImageProgress:
    """done of total codes are written."""

    done: int
    total: int


@dataclass(frozen=True)
class ImageDone:
    image: Image.Image


@dataclass(frozen=True)
class Notice:
    """Something the user should know, in a sentence."""

    text: str


@dataclass(frozen=True)
class End:
    """The reply is whole; reason: "end" or "length"."""

    reason: str


Event = TextDelta | ImageStart | ImageProgress | ImageDone | Notice | End


class Unified:
    """A model with everything it needs to talk and draw.

    Attributes:
        model, processor: the Hugging Face pair.
        codec: the picture tokenizer.
        revision: the first hex digits of the weights' SHA-256 (the manifest's), "" for unsaved.
        sampling: default settings of this model.
    """

    def __init__(
        self,
        model: UnifiedForConditionalGeneration,
        processor: UnifiedProcessor,
        codec: Codec,
        *,
        sampling: Sampling | None = None,
        revision: str = "",
        source: str = "",
    ):
        self.model, self.processor, self.codec = model.eval(), processor, codec.eval()
        self.sampling = sampling or Sampling()
        self.revision, self.source = revision, source
        self.engine = Engine(model, codec)
        self._drawn: dict[bytes, list[int]] = {}  # codes of the last pictures, by their pixels

    # --- chat ------------------------------------------------------------------------------------

    def stream(
        self, messages: list[Message], *, seed: int = 0, most: int = 300, **sampling: Any
    ) -> Iterator[Event]:
        """The reply to `messages` as it is written.

        Turns that no longer fit into the context are left out, oldest first, with a Notice.

        Args:
            most: ids of the reply at most; a picture takes 84.
            sampling: fields of `Sampling` that differ from this model's.

        Raises:
            ContextError: the last message alone does not fit.
            ValueError: a message or a setting is malformed.
        """
        prompt, notice = self._fit(messages, most)
        if notice:
            yield Notice(notice)
        yield from self._events(self.engine.stream(self._request(prompt, seed, most, sampling)))

    def chat(
        self,
        messages: list[Message],
        *,
        seed: int = 0,
        most: int = 300,
        on_event: Callable[[Event], None] | None = None,
        **sampling: Any,
    ) -> Message:
        """The reply as a message, content parts in order. See `stream`."""
        parts: list[dict[str, Any]] = []
        for event in self.stream(messages, seed=seed, most=most, **sampling):
            if on_event is not None:
                on_event(event)
            add_event(parts, event)
        return {"role": "assistant", "content": parts}

    def chat_batch(
        self,
        conversations: list[list[Message]],
        *,
        seed: int = 0,
        most: int = 300,
        batch_size: int = 32,
        **sampling: Any,
    ) -> list[Message]:
        """Replies to several conversations, decoded together; request k has seed + k."""
        requests = [
            self._request(self._fit(messages, most)[0], seed + k, most, sampling)
            for k, messages in enumerate(conversations)
        ]
        return [self._message(reply) for reply in self._run(requests, batch_size)]

    # --- one thing at a time ---------------------------------------------------------------------

    def generate(
        self,
        prompt: str | list[str],
        *,
        n: int = 1,
        seed: int = 0,
        batch_size: int = 32,
        on_step: Callable[[int, int], None] | None = None,
        **sampling: Any,
    ) -> list[Image.Image]:
        """Draw `n` pictures of each prompt, whatever the model would say to it (forced). As in
        chat, it first says to itself what it understood, and draws that.

        Picture k of all is drawn with seed + k. `on_step(done, total)` counts codes.
        """
        replies = self._draw("only", prompt, n, seed, batch_size, on_step, sampling)
        return [UnifiedImageProcessor.picture(reply.pictures[0]) for reply in replies]

    def draw(
        self,
        prompt: str | list[str],
        *,
        n: int = 1,
        seed: int = 0,
        batch_size: int = 32,
        on_step: Callable[[int, int], None] | None = None,
        **sampling: Any,
    ) -> list[Message]:
        """Like `generate`, but the model may speak first, and need not draw what it does not know:
        replies as messages, each over at its first picture."""
        replies = self._draw("first", prompt, n, seed, batch_size, on_step, sampling)
        return [self._message(reply) for reply in replies]

    def _draw(
        self,
        how: str,
        prompt: str | list[str],
        n: int,
        seed: int,
        batch_size: int,
        on_step: Callable[[int, int], None] | None,
        sampling: dict[str, Any],
    ) -> list[Reply]:
        requests: list[Request] = []
        for text in [prompt] if isinstance(prompt, str) else prompt:
            fitted = self._fit([{"role": "user", "content": text}], 200)[0]
            for _ in range(n):
                request = self._request(fitted, seed + len(requests), 200, sampling)
                requests.append(replace(request, draw=how))
        return self._run(requests, batch_size, on_step)

    def ask(
        self,
        image: Image.Image | list[Image.Image],
        question: str | list[str],
        *,
        seed: int = 0,
        batch_size: int = 32,
        **sampling: Any,
    ) -> Any:
        """Answer a question about a picture, or one question each about several; text only."""
        several = isinstance(image, list)
        images = image if isinstance(image, list) else [image]
        questions = [question] * len(images) if isinstance(question, str) else list(question)
        if len(images) != len(questions):
            raise ValueError(f"{len(images)} pictures but {len(questions)} questions")
        requests: list[Request] = []
        for k, (picture, text) in enumerate(zip(images, questions, strict=True)):
            content = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
            prompt = self._fit([{"role": "user", "content": content}], 100, "view")[0]
            requests.append(replace(self._request(prompt, seed + k, 100, sampling), draw="never"))
        answers = [self._text(reply.ids) for reply in self._run(requests, batch_size)]
        return answers if several else answers[0]

    # --- inside ----------------------------------------------------------------------------------

    @property
    def layout(self) -> Any:
        return self.model.config.layout

    def settings(self, **sampling: Any) -> Sampling:
        """This model's sampling with some fields changed.

        Raises:
            ValueError: names an unknown field and lists the known ones.
        """
        given = {key: value for key, value in sampling.items() if value is not None}
        unknown = set(given) - set(self.sampling.settings())
        if unknown:
            known = ", ".join(self.sampling.settings())
            raise ValueError(f"unknown sampling option {sorted(unknown)[0]!r}; one of {known}")
        return replace(self.sampling, **given)

    def encode(self, pixels: torch.Tensor) -> list[int]:
        """Codes of one picture (C, H, W): those it was drawn from where this handle drew it."""
        known = self._drawn.get(_key(UnifiedImageProcessor.picture(pixels)))
        if known is not None:
            return known
        codes: list[int] = self.codec.encode(pixels[None].to(self.model.device))[0].tolist()
        return codes

    def _remember(self, image: Image.Image, codes: list[int]) -> None:
        self._drawn[_key(image)] = codes
        if len(self._drawn) > REMEMBERED:
            del self._drawn[next(iter(self._drawn))]

    def _fit(
        self, messages: list[Message], most: int, user_picture: str | None = None
    ) -> tuple[Prompt, str]:
        """The prompt of as many of the last messages as leave room for a reply."""
        if not messages:
            raise ValueError("no message to reply to")
        policy = user_picture or self.model.config.user_picture
        room = self.engine.context - min(most, self.engine.context // 3)
        for dropped in range(len(messages)):
            rest = messages[dropped:]
            if rest[0].get("role") != "user" and dropped:
                continue
            prompt = self.processor.prompt(rest, self.encode, policy)
            if len(prompt.ids) <= room:
                notice = ""
                if dropped:
                    notice = (
                        f"The conversation is longer than the model's {self.engine.context} tokens;"
                        " its oldest turns are left out from here on."
                    )
                return prompt, notice
        raise ContextError(
            f"the message takes {len(prompt.ids)} tokens; this model reads at most {room}"
            " beside its reply. Shorten it."
        )

    def _request(self, prompt: Prompt, seed: int, most: int, sampling: dict[str, Any]) -> Request:
        return Request(prompt.ids, prompt.views, seed, self.settings(**sampling), most=most)

    def _run(
        self,
        requests: list[Request],
        batch_size: int,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Reply]:
        replies: list[Reply] = []
        total, done = len(requests) * self.layout.image_length, 0
        start = self.layout.vocabulary.image_start

        def count(_: int, token: int) -> None:
            nonlocal done
            if on_step is not None and token >= start:
                done += 1
                on_step(done, total)

        for first in range(0, len(requests), batch_size):
            replies += self.engine.run(requests[first : first + batch_size], count)
        return replies

    def _text(self, ids: list[int]) -> str:
        size = self.layout.vocabulary.text_size
        return self.processor.tokenizer.text(i for i in ids if i < size).strip()

    def _message(self, reply: Reply) -> Message:
        parts: list[dict[str, Any]] = []
        for event in self._events((token, reply) for token in reply.ids):
            add_event(parts, event)
        return {"role": "assistant", "content": parts}

    def _events(self, written: Iterable[tuple[int, Reply]]) -> Iterator[Event]:
        """Ids as they are written -> events. Text is given out when its bytes are whole."""
        vocabulary = self.layout.vocabulary
        opening, closing = vocabulary.control("image"), vocabulary.control("image_end")
        pending: list[int] = []
        codes: list[int] = []
        drawn, reply = 0, Reply()
        for token, reply in written:
            if token < vocabulary.text_size:
                pending.append(token)
                text = self.processor.tokenizer.text(pending)
                if not text.endswith("\ufffd"):
                    yield TextDelta(text)
                    pending = []
                continue
            if pending:
                yield TextDelta(self.processor.tokenizer.text(pending))
                pending = []
            if token == opening:
                codes = []
                yield ImageStart()
            elif token >= vocabulary.image_start:
                codes.append(token - vocabulary.image_start)
                yield ImageProgress(len(codes), self.layout.image_length)
            elif token == closing:
                image = UnifiedImageProcessor.picture(reply.pictures[drawn])
                drawn += 1
                self._remember(image, codes)
                yield ImageDone(image)
        yield End(reply.reason)

    def save(self, folder: Path, *, half: bool = False) -> None:
        """Write a directory that `load` reads: weights, processor, codec, settings, manifest.

        Args:
            half: weights take half the room, the model's as bf16 and the codec's as fp16.
        """
        folder.mkdir(parents=True, exist_ok=True)
        model = _converted(self.model, torch.bfloat16) if half else self.model
        model.save_pretrained(folder, max_shard_size="14MB")
        self.processor.save_pretrained(folder)
        self.codec.save(folder / CODEC, dtype=torch.float16 if half else torch.float32)
        (folder / SAMPLING).write_text(json.dumps(self.sampling.settings(), indent=2) + "\n")
        checkpoint.write_manifest(folder)


def _converted(
    model: UnifiedForConditionalGeneration, dtype: torch.dtype
) -> UnifiedForConditionalGeneration:
    copy = UnifiedForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.to(dtype)


def _key(image: Image.Image) -> bytes:
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).digest()


def add_event(parts: list[dict[str, Any]], event: Event) -> None:
    """Grow a message's content by an event."""
    if isinstance(event, TextDelta):
        if parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += event.text
        else:
            parts.append({"type": "text", "text": event.text})
    elif isinstance(event, ImageDone):
        parts.append({"type": "image", "image": event.image})


def load(source: str | Path | None = None, device: str | None = None) -> Unified:
    """Open a model directory; the shipped toybox model when no source is named.

    Weights are safetensors and are checked against their manifest; nothing is unpickled.

    Raises:
        CheckpointError: the directory is missing, incomplete or altered.
    """
    folder = Path(source) if source is not None else DEFAULT
    if not folder.is_dir():
        raise checkpoint.CheckpointError(
            f"{folder}: no such model directory; name one written by `unified train`,"
            " or leave --model out for the shipped weights"
        )
    checkpoint.verify(folder)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _quiet()
    try:
        model = UnifiedForConditionalGeneration.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=attention.implementation(place),
            local_files_only=True,
        )
    except (OSError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise checkpoint.CheckpointError(f"{folder}: cannot be read as a model: {reason}") from None
    tokenizer = TextTokenizer(str(folder / "tokenizer.model"))
    processor = UnifiedProcessor.of(model.config, tokenizer)
    codec = load_codec(folder / CODEC).to(place)
    sampling = Sampling(**json.loads((folder / SAMPLING).read_text()))
    revision = checkpoint.sha256(folder / checkpoint.MANIFEST)[:12]
    return Unified(
        model.to(place),
        processor,
        codec,
        sampling=sampling,
        revision=revision,
        source="unified/toybox" if source is None else str(source),
    )


def _quiet() -> None:
    """transformers' own progress bars and notices do not belong in ours."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
