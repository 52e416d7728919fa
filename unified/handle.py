"""The short way in: `unified.load()` gives a handle that chats, draws, looks and answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from unified import attention, checkpoint, events, families, jacobi, packed
from unified.context import ContextError as ContextError
from unified.context import fit
from unified.device import placed
from unified.engine import Engine, Reply, Request
from unified.events import End as End
from unified.events import Event as Event
from unified.events import ImageDone as ImageDone
from unified.events import ImageProgress as ImageProgress
from unified.events import ImageStart as ImageStart
from unified.events import Notice as Notice
from unified.events import TextDelta as TextDelta
from unified.families import own
from unified.families.own import CODEC as CODEC
from unified.modeling import UnifiedForConditionalGeneration
from unified.processing import Prompt, UnifiedImageProcessor, UnifiedProcessor
from unified.sampling import Sampling
from unified.tokenizers.codec import Codec

DEFAULT = Path(__file__).parent / "weights" / "toybox"
REMEMBERED = 1024  # pictures
CHAT, DRAWING, ANSWER = 300, 200, 100  # ids of a reply at most, unless a picture takes more

Message = dict[str, Any]
Seeds = int | Sequence[int]  # of the first of several requests, the others follow; or of each


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
        self._adapted: Any = None  # peft's model around ours, where adapters are attached
        self._used: str | None = None
        self._hashes: dict[str, str] = {}

    # --- chat ------------------------------------------------------------------------------------

    def stream(
        self,
        messages: list[Message],
        *,
        seed: int = 0,
        most: int | None = None,
        draw: str = "auto",
        **sampling: Any,
    ) -> Iterator[Event]:
        """The reply to `messages` as it is written.

        Turns that no longer fit into the context are left out, oldest first, with a Notice.

        Args:
            most: ids of the reply at most; by default 300, or a picture and 150 more.
            draw: whether it may, shall or must draw: see `request`.
            sampling: fields of `Sampling` that differ from this model's.

        Raises:
            ContextError: the last message alone does not fit.
            ValueError: a message or a setting is malformed.
        """
        request, notice = self._asked(messages, draw, seed, most or self._most(CHAT), sampling)
        if notice:
            yield Notice(notice)
        yield from self._read(self.engine.stream(request))

    def chat(
        self,
        messages: list[Message],
        *,
        seed: int = 0,
        most: int | None = None,
        draw: str = "auto",
        on_event: Callable[[Event], None] | None = None,
        **sampling: Any,
    ) -> Message:
        """The reply as a message, content parts in order. See `stream`."""
        parts: list[dict[str, Any]] = []
        for event in self.stream(messages, seed=seed, most=most, draw=draw, **sampling):
            if on_event is not None:
                on_event(event)
            events.add_event(parts, event)
        return {"role": "assistant", "content": parts}

    def chat_batch(
        self,
        conversations: list[list[Message]],
        *,
        seed: Seeds = 0,
        most: int | None = None,
        batch_size: int = 32,
        **sampling: Any,
    ) -> list[Message]:
        """Replies to several conversations, decoded together; the k-th has seed + k, or seed[k]."""
        requests = [
            self.request(messages, seed=_nth(seed, k), most=most, **sampling)
            for k, messages in enumerate(conversations)
        ]
        return [self._message(reply) for reply in self._run(requests, batch_size)]

    # --- one thing at a time ---------------------------------------------------------------------

    def generate(
        self,
        prompt: str | list[str],
        *,
        n: int = 1,
        image: Image.Image | None = None,
        seed: Seeds = 0,
        batch_size: int = 32,
        parallel: str | None = None,
        window: int = jacobi.WINDOW,
        on_step: Callable[[int, int], None] | None = None,
        **sampling: Any,
    ) -> list[Image.Image]:
        """Draw `n` pictures of each prompt, whatever the model would say to it (forced). As in
        chat, it first says to itself what it understood, and draws that.

        Picture k of all is drawn with seed + k, or seed[k]. `on_step(done, total)` counts codes.
        `image` is shown to the model with each prompt. `parallel="jacobi"` draws the same pictures
        one after the other, many codes a pass (`unified.jacobi`); how many passes each took is
        its `info["passes"]`.
        """
        replies = self._draw(
            "only", prompt, n, seed, batch_size, on_step, sampling, image, parallel, window
        )
        images = [UnifiedImageProcessor.picture(reply.pictures[0]) for reply in replies]
        return [events.counted(image, reply) for image, reply in zip(images, replies, strict=True)]

    def draw(
        self,
        prompt: str | list[str],
        *,
        n: int = 1,
        seed: Seeds = 0,
        batch_size: int = 32,
        parallel: str | None = None,
        window: int = jacobi.WINDOW,
        on_step: Callable[[int, int], None] | None = None,
        **sampling: Any,
    ) -> list[Message]:
        """Like `generate`, but the model may speak first, and need not draw what it does not know:
        replies as messages, each over at its first picture."""
        replies = self._draw(
            "first", prompt, n, seed, batch_size, on_step, sampling, None, parallel, window
        )
        return [self._message(reply) for reply in replies]

    def _draw(
        self,
        how: str,
        prompt: str | list[str],
        n: int,
        seed: Seeds,
        batch_size: int,
        on_step: Callable[[int, int], None] | None,
        sampling: dict[str, Any],
        image: Image.Image | None = None,
        parallel: str | None = None,
        window: int = jacobi.WINDOW,
    ) -> list[Reply]:
        requests: list[Request] = []
        for text in [prompt] if isinstance(prompt, str) else prompt:
            content: list[dict[str, Any]] = [{"type": "text", "text": text}]
            if image is not None:
                content.insert(0, {"type": "image", "image": image})
            request = self.request([{"role": "user", "content": content}], draw=how, **sampling)
            for _ in range(n):
                requests.append(replace(request, seed=_nth(seed, len(requests))))
        return self._run(requests, batch_size, on_step, parallel, window)

    def ask(
        self,
        image: Image.Image | list[Image.Image],
        question: str | list[str],
        *,
        seed: Seeds = 0,
        most: int = ANSWER,
        batch_size: int = 32,
        **sampling: Any,
    ) -> Any:
        """Answer a question about a picture, or one question each about several; text only, in
        `most` ids."""
        several = isinstance(image, list)
        images = image if isinstance(image, list) else [image]
        questions = [question] * len(images) if isinstance(question, str) else list(question)
        if len(images) != len(questions):
            raise ValueError(f"{len(images)} pictures but {len(questions)} questions")
        requests: list[Request] = []
        for k, (picture, text) in enumerate(zip(images, questions, strict=True)):
            content = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
            asked = [{"role": "user", "content": content}]
            how: dict[str, Any] = {"draw": "never", "most": most, "user_picture": "view"}
            requests.append(self.request(asked, seed=_nth(seed, k), **how, **sampling))
        answers = [self._text(reply.ids) for reply in self._run(requests, batch_size)]
        return answers if several else answers[0]

    def request(
        self,
        messages: list[Message],
        *,
        draw: str = "auto",
        seed: int = 0,
        most: int | None = None,
        user_picture: str | None = None,
        **sampling: Any,
    ) -> Request:
        """What `engine` is given for a reply to `messages`, as many of the last ones as fit.

        Args:
            draw: see `Request`. Of a model that draws without a word before it (Janus), "first"
                and "only" are "now".
            most: ids of the reply at most; by default those of a chat, or where a picture is
                demanded those of a drawing.
            user_picture: how a user's picture stands, instead of the model's own way in a chat:
                "view" (as `ask` shows it), "codes" or "codes+view".
            sampling: fields of `Sampling` that differ from this model's.

        Raises:
            ContextError, ValueError: as for `stream`.
        """
        most = most or self._most(CHAT if draw in ("auto", "never") else DRAWING)
        return self._asked(messages, draw, seed, most, sampling, user_picture)[0]

    # --- adapters --------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the attached LoRA adapters."""
        return () if self._adapted is None else tuple(self._adapted.peft_config)

    @property
    def adapter(self) -> str | None:
        """The one that is switched on."""
        return self._used

    @property
    def adapter_revision(self) -> str:
        """The first hex digits of its weights' SHA-256, "" without one."""
        return self._hashes.get(self._used or "", "")

    def attach(self, *folders: str | Path) -> None:
        """Put LoRA adapters on the model, each under its folder's name, or under that of the run
        where several folders are called alike; the first is switched on.

        Raises:
            AdapterError: one is damaged, or was made for other weights or sizes.
        """
        from unified import adapters

        if self.model.packed is not None:
            raise adapters.AdapterError(
                f"adapters need plain weights; these are {self.model.packed}: load without weights="
            )
        paths = [Path(folder) for folder in folders]
        self._adapted = adapters.attach(self.model, paths, self.revision)
        self._used = self.adapters[0]
        self._hashes = {
            name: checkpoint.sha256(path / adapters.WEIGHTS)[:12]
            for name, path in zip(self.adapters, paths, strict=True)
        }

    def use(self, name: str | None) -> None:
        """Switch to an attached adapter, or to the model without any.

        Raises:
            AdapterError: there is none of that name.
        """
        from unified import adapters

        adapters.use(self._adapted, name)
        self._used = name

    def merge(self) -> None:
        """Lay the adapter that is switched on into the weights, for good."""
        from unified import adapters

        adapters.merge(self._adapted)
        self._adapted, self._used, self.revision = None, None, ""
        self.engine.step = None  # what it computed from the weights is of others now

    # --- inside ----------------------------------------------------------------------------------

    @property
    def weights(self) -> str:
        """How the decoder's weights are held: "float", or as `load` packed them."""
        if self.model.device.type == "cuda" and self.model.dtype != torch.float32:
            return "half"
        return self.model.packed or "float"

    @property
    def layout(self) -> Any:
        """The layout of this model's ids (`unified.sequence`)."""
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

    def _most(self, ids: int) -> int:
        """So many ids of a reply, or a picture and half as many."""
        return max(ids, self.layout.drawn_length + ids // 2)

    def _fit(
        self,
        messages: list[Message],
        most: int,
        user_picture: str | None = None,
        draw: bool = False,
    ) -> tuple[Prompt, str]:
        """The prompt of as many of the last messages as leave room for a reply, and the whole of
        its picture if it is to `draw` at once."""
        policy = user_picture or self.model.config.user_picture
        context = self.engine.context
        kept = self.layout.drawn_length if draw else 0

        def prompt(rest: list[Message]) -> Prompt:
            return self.processor.prompt(rest, self.encode, policy, draw)

        return fit(messages, prompt, context, max(kept, min(most, context // 3)))

    def _asked(
        self,
        messages: list[Message],
        draw: str,
        seed: int,
        most: int,
        sampling: dict[str, Any],
        user_picture: str | None = None,
    ) -> tuple[Request, str]:
        """A request, and what is to be told of messages that were left out, "" if none were."""
        if draw in ("first", "only") and self.model.config.draws_at_once:
            draw = "now"
        prompt, notice = self._fit(messages, most, user_picture, draw == "now")
        return replace(self._request(prompt, seed, most, sampling), draw=draw), notice

    def _request(self, prompt: Prompt, seed: int, most: int, sampling: dict[str, Any]) -> Request:
        return Request(prompt.ids, prompt.views, seed, self.settings(**sampling), most=most)

    def _run(
        self,
        requests: list[Request],
        batch_size: int,
        on_step: Callable[[int, int], None] | None = None,
        parallel: str | None = None,
        window: int = jacobi.WINDOW,
    ) -> list[Reply]:
        total, done = len(requests) * self.layout.image_length, 0
        start = self.layout.vocabulary.image_start

        def count(_: int, token: int) -> None:
            nonlocal done
            if on_step is not None and token >= start:
                done += 1
                on_step(done, total)

        if parallel is not None:
            jacobi.check_method(parallel)
            return [jacobi.draw(self.engine, request, window, count) for request in requests]
        return self.engine.run(requests, count, 2 * batch_size)  # each may have a twin

    def _text(self, ids: list[int]) -> str:
        kind = self.layout.vocabulary.kind
        return self.processor.tokenizer.text(i for i in ids if kind(i) == "text").strip()

    def _message(self, reply: Reply) -> Message:
        parts: list[dict[str, Any]] = []
        for event in self._read((token, reply) for token in reply.ids):
            events.add_event(parts, event)
        return {"role": "assistant", "content": parts}

    def _read(self, written: Iterable[tuple[int, Reply]]) -> Iterator[Event]:
        return events.read(written, self.layout, self.processor.tokenizer, self._remember)

    def save(self, folder: Path, *, half: bool = False) -> None:
        """Write a directory that `load` reads: weights, processor, codec, settings, manifest.

        Args:
            half: weights take half the room, the model's as bf16 and the codec's as fp16.
        """
        own.write(self._made(), folder, half=half)

    def export(self, folder: Path) -> None:
        """Write the format of the published family that this model came from.

        Raises:
            CheckpointError: it came from none.
        """
        families.export(self._made(), folder)

    def _made(self) -> families.Made:
        if self.model.packed is not None:
            raise ValueError(
                f"{self.model.packed} weights cannot be written; load the model without weights="
            )
        if self._adapted is not None:
            raise ValueError(f"adapters are attached ({', '.join(self.adapters)}): merge() one into"
                             " the weights, or load the model without")  # fmt: skip
        return families.Made(self.model, self.processor, self.codec, self.sampling)


def _nth(seed: Seeds, k: int) -> int:
    return seed + k if isinstance(seed, int) else seed[k]


def _key(image: Image.Image) -> bytes:
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).digest()


def load(
    source: str | Path | None = None,
    device: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    adapters: Sequence[str | Path] = (),
    weights: str | None = None,
) -> Unified:
    """Open a model directory; the shipped toybox model when no source is named.

    Args:
        source: a directory of our own or of a published family (`unified.families`), or the hub
            name of one that is in the local cache.
        dtype: of the weights; "auto" leaves them as they are.
        adapters: folders of LoRA adapters that are attached; the first is switched on.
        weights: "half", "int8" or "int4": those of the decoder and the heads are packed so, for
            faster decoding on a CPU; all else is fp32 then, and nothing can be trained or saved.
            On CUDA "half" is the whole model in bf16, and the others are refused.

    Weights are safetensors, ours are checked against their manifest; nothing is unpickled.

    Raises:
        CheckpointError: the directory is missing, incomplete or altered, or of no known family.
        AdapterError: an adapter is damaged or was made for another model.
        ValueError: the weights cannot be packed here.
    """
    if weights is not None and adapters:
        raise ValueError("adapters need plain weights: load without weights=, or without adapters")
    handle = _opened(source, device, dtype, weights)
    if adapters:
        handle.attach(*adapters)
    return handle


def _opened(
    source: str | Path | None, device: str | None, dtype: torch.dtype | str, weights: str | None
) -> Unified:
    folder = DEFAULT if source is None else families.folder_of(source)
    if weights is not None and device is not None:
        packed.check(weights, device)
    place = placed(device)
    quiet()
    if weights is not None:
        packed.check(weights, place)
    read_as = dtype if weights is None else "auto"  # packed from what they were published in
    made = families.read(folder, attention.implementation(place), read_as)
    model = made.model.to(place)
    if weights is not None:
        packed.pack(model, weights)
        made.codec.float()
    return Unified(
        model,
        made.processor,
        made.codec.to(place),
        sampling=made.sampling,
        revision=made.revision,
        source="unified/toybox" if source is None else str(source),
    )


def quiet() -> None:
    """transformers' own progress bars and notices do not belong in ours."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
