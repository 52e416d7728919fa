"""What every tokenizer of a medium promises: media -> codes -> media, and a spec of the codes."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from unified.causal import State
from unified.tokenizers.storage import pack, stored, unpack
from unified.vocabulary import book_ranges

SETTINGS = "settings"  # a hash of them, in the facts of model.safetensors


@dataclass(frozen=True)
class CodecSpec:
    """The shape of a codec's output; vocabulary and grammar are derived from it.

    Codes are written step by step: a picture is one step, a film one for its first frame and one
    for every `stride` frames more, sound one for every `stride` samples.

    Attributes:
        codebooks: codes of each codebook; those of all are numbered through, one after the other.
        books: which codebook each code of a step is from, in written order.
        image_size: (height, width) in pixels; () for sound.
        channels: channels of the medium; values lie in [-1, 1].
        medium: "image", "video" or "audio".
        rate: frames or samples a second; 0 for pictures.
        first, stride: frames or samples of the first step and of every other.
        causal: whether a step's codes depend on nothing after it, and what is decoded neither.
        latency: frames or samples after a step that decoding must wait for, beside the step itself.
        grid: rows and columns of the tiles that a picture's codes belong to: those of the whole
            first, then as many for every tile, row by row; None where they belong to none.
        nested: whether `decode` also takes the first k codes of a picture, for every k: coarse to
            fine.
    """

    codebooks: tuple[int, ...]
    books: tuple[int, ...]
    image_size: tuple[int, ...] = ()
    channels: int = 3
    medium: str = "image"
    rate: float = 0.0
    first: int = 1
    stride: int = 1
    causal: bool = True
    latency: int = 0
    nested: bool = False
    grid: tuple[int, int] | None = None

    @property
    def codebook_size(self) -> int:
        """Codes of all codebooks together."""
        return sum(self.codebooks)

    @property
    def length(self) -> int:
        """Codes of one step: of a picture, of `stride` frames, of `stride` samples."""
        return len(self.books)

    @property
    def ranges(self) -> tuple[range, ...]:
        """The numbers of each codebook's codes."""
        return book_ranges(self.codebooks)

    @property
    def bits(self) -> float:
        """Bits of one step, were all codes equally likely."""
        return sum(math.log2(self.codebooks[book]) for book in self.books)

    def steps(self, time: int) -> int:
        """Steps that `time` frames or samples take; the last one may not be full."""
        if time < 1:
            raise ValueError(f"{time} frames or samples: there must be at least one")
        return 1 + -(-max(0, time - self.first) // self.stride)

    def time(self, steps: int) -> int:
        """Frames or samples of so many full steps."""
        return self.first + (steps - 1) * self.stride

    def check(self, codes: torch.Tensor) -> None:
        """Raise ValueError unless codes (B, steps * length) are whole steps, one for pictures, and
        all lie in the codebooks of their places."""
        count = codes.shape[-1] if codes.ndim == 2 else 0
        steps, rest = divmod(count, self.length)
        if rest or not steps or (steps > 1 and self.medium == "image"):
            what = {"image": "a picture has", "video": "every step of a film has"}
            few = what.get(self.medium, "every step of sound has")
            raise ValueError(f"{tuple(codes.shape)} codes; {few} {self.length}")
        place = [self.ranges[book] for book in self.books]
        low, high = (torch.tensor(v, device=codes.device).repeat(steps) for v in
                     ([r.start for r in place], [r.stop for r in place]))  # fmt: skip
        wrong = ((codes < low) | (codes >= high)).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            allowed = place[column % self.length]
            raise ValueError(
                f"code {int(codes[row, column])} at place {column} is outside "
                f"{allowed.start}..{allowed.stop - 1}"
            )


class Codec(nn.Module, ABC):
    """A codec as a module: what every tokenizer of pictures inherits.

    Attributes:
        kind: its name in recipes and in config.json.
        Config: dataclass of its settings; the constructor takes one.
        decodes: whether it has a decoder.
        stored: type of the weights on disk that it was read from, and is saved in again.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[Any]]
    decodes: bool = True
    stored: torch.dtype = torch.float32
    # parts of the names of what is not shipped: running statistics of the library's quantizer
    training_state: ClassVar[tuple[str, ...]] = ("cluster_size", "embed_avg")
    config: Any

    @property
    def spec(self) -> CodecSpec:
        """Codebooks, places, rate and medium: what does not change."""
        spec: CodecSpec = self.config.spec
        return spec

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(iter(self.state_dict().values())).device

    @property
    def starts(self) -> torch.Tensor:
        """First number of the codebook of each place of a step."""
        return torch.tensor([self.spec.ranges[book].start for book in self.spec.books])

    @abstractmethod
    def encode(self, media: torch.Tensor) -> torch.Tensor:
        """Pictures (B, C, H, W), films (B, C, T, H, W) or sound (B, C, T), in [-1, 1], -> codes
        (B, steps * length), int64."""

    @abstractmethod
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, steps * length) -> media as `encode` takes them, of `spec.time(steps)`.

        Raises:
            ValueError: a wrong number of codes, or one outside the codebook of its place.
        """

    def encode_each(self, media: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Media without a batch, of any lengths, -> the codes (steps * length,) of each, as alone.

        A causal codec encodes all at once, the shorter ones filled behind to the steps of the
        longest: give it what is about as long. Any other encodes those of one length together.

        Raises:
            ValueError: media of another shape, with what is no number, or of no length.
        """
        spec, alike = self.spec, dict[tuple[int, ...], list[int]]()
        items = [item[None] for item in media]
        timed = spec.medium != "image"
        if any(item.ndim < 2 + timed for item in items):
            raise ValueError(f"media of shapes {[tuple(item.shape) for item in media]}; "
                             f"channels come first{', then time' if timed else ''}")  # fmt: skip
        steps = [spec.steps(item.shape[2]) if timed else 1 for item in items]
        if spec.causal and timed:
            time = spec.time(max(steps, default=1))
            items = [self.fill(item, time - item.shape[2]) for item in items]
        for k, item in enumerate(items):
            alike.setdefault(tuple(item.shape), []).append(k)
        codes: dict[int, torch.Tensor] = {}
        for some in alike.values():
            found = self.encode(torch.cat([items[k] for k in some]))
            codes |= zip(some, found, strict=True)
        return [codes[k][: count * spec.length] for k, count in enumerate(steps)]

    def fill(self, media: torch.Tensor, missing: int) -> torch.Tensor:
        """Media with `missing` more frames or samples behind, as the last step is made whole: the
        last frame again, or silence."""
        if not missing:
            return media
        last = media[:, :, -1:]
        if self.spec.medium == "audio":
            last = torch.zeros_like(last)
        return torch.cat([media, last.repeat_interleave(missing, 2)], 2)

    def check_pixels(self, pixels: torch.Tensor) -> None:
        """Raise ValueError for pictures of another shape than the codec's, or with what is no
        number."""
        want = (self.spec.channels, *self.spec.image_size)
        if tuple(pixels.shape[1:]) != want:
            raise ValueError(
                f"pictures of shape {tuple(pixels.shape[1:])}; this codec takes {want}"
            )
        if not torch.isfinite(pixels).all():
            raise ValueError("pictures hold values that are not numbers")

    def save(self, folder: Path, *, dtype: torch.dtype | None = None) -> None:
        """Write config.json and model.safetensors; float weights as `dtype` (see
        `storage.pack`) or as they were read, fp32 again on load. With the weights goes a hash of
        the settings: those of FSQ decide what codes mean, and no shape tells them."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {"kind": self.kind, **asdict(self.config)}
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
        packed = pack(self._shipped(), dtype or self.stored)
        weights = {key: value.contiguous() for key, value in packed.items()}
        facts = {SETTINGS: _digest(values)}  # one alone: safetensors writes several in any order
        save_file(weights, folder / "model.safetensors", metadata=facts)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the codec is in eval mode.

        Raises:
            ValueError: it is of another kind, a weight is missing or has another shape, or the
                settings are not those that the weights were saved with.
        """
        values: dict[str, Any] = json.loads((folder / "config.json").read_text())
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            saved = (file.metadata() or {}).get(SETTINGS)
        if saved not in (None, _digest(values)):
            raise ValueError(f"{folder}: config.json is not the one that model.safetensors was"
                             " saved with; bring back both from one place")  # fmt: skip
        kind = values.pop("kind", cls.kind)
        if kind != cls.kind:
            raise ValueError(f"{folder} holds a codec of kind {kind!r}, not {cls.kind!r}")
        codec = cls(cls.Config(**values))
        packed = load_file(folder / "model.safetensors")
        codec.stored, state = stored(packed), unpack(packed)
        for key, value in codec._shipped().items():
            if key not in state or state[key].shape != value.shape:
                got = tuple(state[key].shape) if key in state else "nothing"
                raise ValueError(f"{folder}: {key} should be {tuple(value.shape)}, is {got}")
        codec.load_state_dict(state, strict=False)
        return codec.eval()

    def _shipped(self) -> dict[str, torch.Tensor]:
        """All but training statistics, which a resumed run keeps elsewhere."""
        return {
            key: value
            for key, value in self.state_dict().items()
            if not any(part in key for part in self.training_state)
        }


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class StreamCodec(Codec):
    """A causal codec of a medium with time, which is axis 2: whole or chunk by chunk, the same.

    A subclass encodes and decodes whole steps, and hands on what the past left.
    """

    @abstractmethod
    def encode_steps(self, media: torch.Tensor, past: State) -> tuple[torch.Tensor, State]:
        """Whole steps of media -> codes of each codebook (B, n), numbered from 0, and the state.
        `past` is None for the first steps."""

    @abstractmethod
    def decode_steps(self, codes: torch.Tensor, past: State) -> tuple[torch.Tensor, State]:
        """Codes numbered from 0 -> what is final after them, and the state."""

    def decode_rest(self, past: State) -> torch.Tensor | None:
        """What is still to come when no more codes follow; `spec.latency` long."""
        return None

    @torch.no_grad()
    def encode(self, media: torch.Tensor) -> torch.Tensor:
        return self.encode_stream().push(media, last=True)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.decode_stream().push(codes, last=True)

    def check_media(self, media: torch.Tensor) -> None:
        """Raise ValueError for media of another shape, or with what is no number."""
        spec = self.spec
        shape, want = tuple(media.shape), (spec.channels, *spec.image_size)
        if media.ndim != 3 + len(spec.image_size) or (shape[1], *shape[3:]) != want:
            names = "(batch, channels, time" + (", height, width)" if spec.image_size else ")")
            raise ValueError(
                f"{spec.medium} of shape {shape}; this codec takes {names} with {want}"
            )
        if not torch.isfinite(media).all():
            raise ValueError(f"{spec.medium} holds values that are not numbers")

    def encode_stream(self) -> EncodeStream:
        """A stream: push media of any length as they come, get codes as soon as they are due."""
        return EncodeStream(self)

    def decode_stream(self) -> DecodeStream:
        """A stream: push whole steps of codes, get media as soon as they are final."""
        return DecodeStream(self)


class StepEncoder(Protocol):
    """What an `EncodeStream` asks of a codec: see `StreamCodec`."""

    @property
    def spec(self) -> CodecSpec: ...
    @property
    def starts(self) -> torch.Tensor: ...
    def check_media(self, media: torch.Tensor) -> None: ...
    def fill(self, media: torch.Tensor, missing: int) -> torch.Tensor: ...
    def encode_steps(self, media: torch.Tensor, past: State) -> tuple[torch.Tensor, State]: ...


class EncodeStream:
    """Media in, codes out; keeps what does not fill a step yet."""

    def __init__(self, codec: StepEncoder):
        self.codec = codec
        self.past: State = None
        self.kept: torch.Tensor | None = None
        self.begun = False

    @torch.no_grad()
    def push(self, media: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Codes (B, n) of the steps that are now whole; with `last`, of all that is left.

        Raises:
            ValueError: media of another shape, with what is no number, or none at all.
        """
        spec = self.codec.spec
        self.codec.check_media(media)
        if self.kept is not None:
            media = torch.cat([self.kept, media], 2)
        time = media.shape[2]
        if last and not time and not self.begun:
            raise ValueError(f"{spec.medium} without a single frame or sample")
        offset = 0 if self.begun else spec.first - spec.stride
        steps = (time - offset) // spec.stride
        used = offset + steps * spec.stride
        if last and used < time:
            steps, missing = steps + 1, used + spec.stride - time
            media = self.codec.fill(media, missing)
            used += spec.stride
        self.kept = media[:, :, used:]
        if steps < 1:
            return torch.empty(len(media), 0, dtype=torch.int64, device=media.device)
        self.begun = True
        codes, self.past = self.codec.encode_steps(media[:, :, :used], self.past)
        return codes + self.codec.starts.to(codes.device).repeat(steps)


class DecodeStream:
    """Codes in, media out."""

    def __init__(self, codec: StreamCodec):
        self.codec = codec
        self.past: State = None
        self.begun = False

    @torch.no_grad()
    def push(self, codes: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Media that are final after these whole steps; with `last`, all that is left, for which
        no more codes are needed.

        Raises:
            ValueError: no whole steps, or a code outside the codebook of its place.
        """
        spec = self.codec.spec
        if last and not codes.shape[1] and self.begun:
            rest = self.codec.decode_rest(self.past)
            shape = (len(codes), spec.channels, 0, *spec.image_size)
            return torch.zeros(shape, device=codes.device) if rest is None else rest
        spec.check(codes)
        self.begun = True
        steps = codes.shape[1] // spec.length
        plain = codes - self.codec.starts.to(codes.device).repeat(steps)
        media, self.past = self.codec.decode_steps(plain, self.past)
        rest = self.codec.decode_rest(self.past) if last else None
        return media if rest is None else torch.cat([media, rest], 2)
