"""Records -> what the model reads: ids, which of them carry loss, and the pictures of its views.

One function for looking at data, for tokenizing a corpus and for fine-tuning. It knows a model by
its processor and codec; the decoder is not needed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from unified.media import picture
from unified.media.picture import MediaError, named
from unified.sequence import Picture, Text, Turn
from unified.tokenizers.text import TextTokenizer
from unified.train.batches import Encoded
from unified.train.records import DataError, Message, Part, Record

if TYPE_CHECKING:
    from unified.handle import Unified


class ModalityError(DataError):
    """Data with a medium that the model does not take."""


class Encoder:
    """Encodes records for one model.

    Args:
        user_picture: how a user's picture stands, "view", "codes+view" or "codes"; as in chat by
            default.

    Attributes:
        context: ids that the model reads at most.
        kinds: the types of parts that it takes.
    """

    def __init__(self, handle: Unified, user_picture: str | None = None):
        self.processor, self.codec = handle.processor, handle.codec
        self.layout, self.context = handle.layout, handle.engine.context
        self.user_picture = user_picture or handle.model.config.user_picture
        if self.user_picture not in ("view", "codes+view", "codes"):
            raise ValueError(f"user_picture {self.user_picture!r}; one of view, codes+view, codes")
        self.kinds = ("text", self.codec.spec.medium)

    @property
    def marks(self) -> dict[str, str]:
        """Hashes of all that decides what comes out, by name: vocabulary and layout, text
        tokenizer, how pictures are prepared, codec."""
        words = self.processor.tokenizer
        if isinstance(words, TextTokenizer):
            pieces = words.pieces.serialized_model_proto()
        else:
            pieces = words.backend_tokenizer.to_str().encode()
        layout = f"{self.layout}{self.layout.pattern or ''} {self.user_picture}"
        codec = hashlib.sha256()
        for name, tensor in sorted(self.codec.state_dict().items()):
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            codec.update(f"{name} {tuple(tensor.shape)}".encode())
            codec.update(flat.view(torch.uint8).numpy().tobytes())
        return {
            "layout": _hash(layout.encode()),
            "words": _hash(pieces + str(self.processor.template).encode()),
            "pictures": _hash(str(self.processor.image_processor.to_dict()).encode()),
            "codec": codec.hexdigest(),
        }

    def check(self, record: Record) -> None:
        """Raise ModalityError where the record holds what the model does not take."""
        for part in record.parts():
            if part.type not in self.kinds:
                raise ModalityError(
                    f"{record.source or record.id}: {part.type} in it, and this model takes "
                    f"{' and '.join(self.kinds)}; leave it out or choose another model"
                )

    def encode(self, record: Record, *, draft: bool = False) -> Encoded:
        """A record, in preference data with its better reply.

        Args:
            draft: codes are made up, which costs next to nothing; all else is as it will be.

        Raises:
            ModalityError: a medium that the model does not take.
            DataError: a file that is missing, damaged or too large; names it and the record.
        """
        return self._encode(record, record.messages, draft)

    def encode_rejected(self, record: Record, *, draft: bool = False) -> Encoded:
        """A preference record with its worse reply; see `encode`."""
        return self._encode(record, record.rejected_messages, draft)

    def _encode(self, record: Record, messages: tuple[Message, ...], draft: bool) -> Encoded:
        self.check(record)
        where = record.source or record.id
        try:
            messages = folded(messages)
            turns, pixels = self._turns(messages)
            joined = self.processor.template is not None
            turns = _joined(turns, messages) if joined else _marked(turns, messages)
            turns, views = self._pictured(turns, messages, pixels, draft)
        except (DataError, MediaError) as error:
            words = str(error).removeprefix(f"{where}: ")  # a file that is its own record
            raise DataError(f"{where}: {words}") from None
        sequence = self.layout.flatten(turns)
        return Encoded(sequence.ids, sequence.loss, torch.stack(views) if views else None)

    def _turns(self, messages: tuple[Message, ...]) -> tuple[list[Turn], list[torch.Tensor]]:
        """Turns without codes and loss, and the pixels of every picture."""
        plain: list[dict[str, Any]] = []
        for message in messages:
            content = [
                {"type": "text", "text": part.text}
                if part.type == "text"
                else {"type": "image", "image": opened(part)}
                for part in message.parts
            ]
            plain.append({"role": message.role, "content": content})
        replies = [message for message in messages if message.role == "assistant"]
        draw = bool(replies) and bool(replies[0].parts) and replies[0].parts[0].type == "image"
        coded: list[torch.Tensor] = []  # all pictures, where none is seen

        def keep(pixels: torch.Tensor) -> list[int]:
            coded.append(pixels)
            return []

        turns, views = self.processor.turns(plain, keep, self.user_picture, draw=draw)
        return turns, views if self.layout.views else coded

    def _pictured(
        self,
        turns: list[Turn],
        messages: tuple[Message, ...],
        pixels: list[torch.Tensor],
        draft: bool,
    ) -> tuple[list[Turn], list[torch.Tensor]]:
        """Turns whose pictures stand as training has them: the assistant's as codes, read back as
        they come out of the codec; and the pictures that are seen. Where nothing is read back, what
        the assistant drew and is not to learn stands as a user's picture does."""
        parts = [(m.role, part) for m in messages for part in m.parts if part.type == "image"]
        drawn_at = [
            k
            for k, (role, part) in enumerate(parts)
            if role == "assistant" and (self.layout.reread or part.loss)
        ]
        written = [
            k
            for k, (_, part) in enumerate(parts)
            if k in drawn_at or part.loss or self.user_picture != "view"
        ]
        codes, rebuilt = self._codes([pixels[k] for k in written], draft)
        drawn = dict(zip(written, zip(codes, rebuilt, strict=True), strict=True))
        views: list[torch.Tensor] = []
        place = iter(range(len(parts)))

        def stands(picture: Picture) -> Picture:
            k = next(place)
            view = self.layout.reread if k in drawn_at else self.user_picture != "codes"
            if view:
                views.append(drawn[k][1] if k in drawn_at else pixels[k])
            return Picture(drawn[k][0] if k in drawn else None, view, loss=parts[k][1].loss)

        out = []
        for turn in turns:
            own = tuple(p if isinstance(p, Text) else stands(p) for p in turn.parts)
            out.append(replace(turn, parts=own))
        return out, views

    @torch.no_grad()
    def _codes(
        self, pixels: list[torch.Tensor], draft: bool
    ) -> tuple[list[tuple[int, ...]], list[torch.Tensor]]:
        """Codes of pictures, and what comes back from them."""
        if not pixels:
            return [], []
        if draft:
            return [self.layout.first_codes] * len(pixels), pixels
        codes = self.codec.encode(torch.stack(pixels).to(self.codec.device))
        if not self.layout.reread:  # then none is seen again, and some codecs cannot decode
            return [tuple(row) for row in codes.tolist()], pixels
        own = self.processor.image_processor
        rebuilt = [own.pixels(own.picture(row)) for row in self.codec.decode(codes)]  # eight bits
        return [tuple(row) for row in codes.tolist()], rebuilt


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def folded(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Without the role "system", which the model has not: its words open the user's next message,
    on lines of their own."""
    out: list[Message] = []
    waiting: tuple[Part, ...] = ()
    for message in messages:
        if message.role == "system":
            waiting += (*message.parts, Part("text", "\n", loss=False))
        elif waiting and message.role == "user":
            out.append(replace(message, parts=waiting + message.parts))
            waiting = ()
        else:
            out += [Message("user", waiting)] if waiting else []
            out.append(message)
            waiting = ()
    return (*out, Message("user", waiting)) if waiting else tuple(out)


def opened(part: Part) -> Image.Image:
    """The picture of a part, RGB.

    Raises:
        MediaError: it is missing, damaged, too large, or a URL.
    """
    media = part.media
    if isinstance(media, Image.Image):
        return media.convert("RGB")
    if isinstance(media, bytes):
        return picture.decode(media, part.name)
    if isinstance(media, Path):
        if not os.path.exists(media):
            raise MediaError(
                f"{named(media)}: no such file; check the path, or say where files lie (--media)"
            )
        return picture.read(media)
    raise MediaError(f"{part.name}: nothing is fetched here; download it and name the file")


def _marked(turns: list[Turn], messages: tuple[Message, ...]) -> list[Turn]:
    """Turns whose texts are learnt or not as the parts they come from, one for one; <end> is with
    what stands before it."""
    out = []
    for turn, message in zip(turns, messages, strict=True):
        parts = (
            replace(part, loss=own.loss) if isinstance(part, Text) else part
            for part, own in zip(turn.parts, message.parts, strict=True)
        )
        out.append(replace(turn, parts=tuple(parts), loss=_ends(message)))
    return out


def _joined(turns: list[Turn], messages: tuple[Message, ...]) -> list[Turn]:
    """The same where a template joins messages with its own words.

    Raises:
        DataError: texts that it makes one, or those of the user, are to be learnt in part.
    """
    if any(part.loss for m in messages if m.role != "assistant" for part in m.parts):
        raise DataError("a user's words cannot be learnt under this model's template; loss: false")
    replies = iter(message for message in messages if message.role == "assistant")
    return [_runs(turn, next(replies)) if turn.role == "assistant" else turn for turn in turns]


def _runs(turn: Turn, message: Message) -> Turn:
    """A reply, run by run between its pictures."""
    runs: list[set[bool]] = [set()]
    for part in message.parts:
        if part.type == "text":
            runs[-1].add(bool(part.loss))
        else:
            runs.append(set())
    if any(len(run) > 1 for run in runs):
        raise DataError("texts that follow each other are one text under this model's template;"
                        " give them one loss")  # fmt: skip
    at, parts = 0, list(_written(turn.parts, message.parts))
    for k, own in enumerate(parts):
        if isinstance(own, Text):
            parts[k] = replace(own, loss=True in runs[at])
        else:
            at += 1
    return replace(turn, parts=tuple(parts), loss=_ends(message))


def _written(parts: Iterable[Text | Picture], own: tuple[Part, ...]) -> Iterator[Text | Picture]:
    """Without the template's words before a picture that a reply opens with: they are none."""
    opens = bool(own) and own[0].type != "text"
    for k, part in enumerate(parts):
        if not (opens and k == 0 and isinstance(part, Text)):
            yield part


def _ends(message: Message) -> bool:
    return bool(message.parts[-1].loss) if message.parts else message.role == "assistant"
