"""What every tokenizer of a medium promises: media -> codes -> media, and a spec of the codes."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unified.vocabulary import book_ranges


@dataclass(frozen=True)
class CodecSpec:
    """The shape of a codec's output; vocabulary and grammar are derived from it.

    Attributes:
        codebooks: codes of each codebook; those of all are numbered through, one after the other.
        books: which codebook each code of a picture is from, in written order.
        image_size: (height, width) in pixels.
        channels: channels of the medium; values lie in [-1, 1].
    """

    codebooks: tuple[int, ...]
    books: tuple[int, ...]
    image_size: tuple[int, int]
    channels: int = 3

    @property
    def codebook_size(self) -> int:
        """Codes of all codebooks together."""
        return sum(self.codebooks)

    @property
    def length(self) -> int:
        """Codes of one picture."""
        return len(self.books)

    @property
    def ranges(self) -> tuple[range, ...]:
        """The numbers of each codebook's codes."""
        return book_ranges(self.codebooks)

    def check(self, codes: torch.Tensor) -> None:
        """Raise ValueError unless codes (B, length) all lie in the codebooks of their places."""
        if codes.shape[1:] != (self.length,):
            raise ValueError(f"{tuple(codes.shape)} codes; a picture has {self.length}")
        place = [self.ranges[book] for book in self.books]
        low, high = (torch.tensor(v, device=codes.device) for v in
                     ([r.start for r in place], [r.stop for r in place]))  # fmt: skip
        wrong = ((codes < low) | (codes >= high)).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            allowed = place[column]
            raise ValueError(
                f"code {int(codes[row, column])} at place {column} is outside "
                f"{allowed.start}..{allowed.stop - 1}"
            )


class Codec(nn.Module, ABC):
    """A codec as a module: what every tokenizer of pictures inherits.

    Attributes:
        kind: its name in recipes and in config.json.
        Config: dataclass of its settings; the constructor takes one.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[Any]]
    # parts of the names of what is not shipped: running statistics of the library's quantizer
    training_state: ClassVar[tuple[str, ...]] = ("cluster_size", "embed_avg")
    config: Any

    @property
    def spec(self) -> CodecSpec:
        spec: CodecSpec = self.config.spec
        return spec

    @property
    def device(self) -> torch.device:
        return next(iter(self.state_dict().values())).device

    @abstractmethod
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in [-1, 1] -> codes (B, length), int64."""

    @abstractmethod
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, length) -> (B, C, H, W) in [-1, 1].

        Raises:
            ValueError: a wrong number of codes, or one outside the codebook of its place.
        """

    def check_pixels(self, pixels: torch.Tensor) -> None:
        """Raise ValueError for pictures of another shape than the codec's."""
        want = (self.spec.channels, *self.spec.image_size)
        if tuple(pixels.shape[1:]) != want:
            raise ValueError(
                f"pictures of shape {tuple(pixels.shape[1:])}; this codec takes {want}"
            )

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json and model.safetensors; float weights as `dtype`, fp32 again on load."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {"kind": self.kind, **asdict(self.config)}
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
        weights = {
            key: (value.to(dtype) if value.is_floating_point() else value).contiguous()
            for key, value in self._shipped().items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the codec is in eval mode.

        Raises:
            ValueError: it is of another kind, or a weight is missing or has another shape.
        """
        values: dict[str, Any] = json.loads((folder / "config.json").read_text())
        kind = values.pop("kind", cls.kind)
        if kind != cls.kind:
            raise ValueError(f"{folder} holds a codec of kind {kind!r}, not {cls.kind!r}")
        codec = cls(cls.Config(**values))
        state = load_file(folder / "model.safetensors")
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
