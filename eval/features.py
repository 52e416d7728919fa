"""Features by which pictures and sounds are compared as sets, each with a name and a revision.

Pictures: shrunk pixels, a vision encoder of transformers, the understanding encoder of a model of
ours, or the contrastive teacher of a SEED tokenizer. Sounds: statistics of their mel spectra. A
Fréchet distance means nothing without its features, so every row says whose they were. Models are
loaded when they are first asked. Knows nothing of codecs, benchmarks or scores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from unified.media.picture import named

SHIPPED = "encoder"  # the name of the shipped model's understanding encoder
BANDS = 40  # of the mel spectra
BATCH = 64


class Features(Protocol):
    """Attributes: name and revision, for the rows; short: for the names of metrics."""

    name: str
    revision: str
    short: str

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Pictures -> (n, D)."""
        ...


class PixelFeatures:
    """Pictures shrunk to 8x8: the plainest features there are, for a world without textures."""

    kind, short = "features", "pixels"
    name, revision = "pixels 8x8", "1"

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Pictures -> (n, 192), in [0, 1]."""
        small = (i.convert("RGB").resize((8, 8), Image.Resampling.BOX) for i in images)
        return np.stack([np.asarray(image, np.float64).ravel() / 255 for image in small])


class TransformersFeatures:
    """Pooled features of a vision encoder in a directory of transformers."""

    kind, short = "features", "published"

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = f"{folder.name} ({architecture(folder)})"
        self.revision = directory_revision(folder)
        self._loaded: tuple[Any, Any] | None = None

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Pictures -> (n, D)."""
        import torch
        from transformers import AutoImageProcessor, AutoModel

        if self._loaded is None:
            try:
                processor = AutoImageProcessor.from_pretrained(
                    self.folder, local_files_only=True, trust_remote_code=False
                )
                model = AutoModel.from_pretrained(
                    self.folder,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                )
            except (OSError, ValueError, RuntimeError, ImportError) as error:
                reason = " ".join(str(error).split())[:120]
                raise ValueError(f"{named(self.folder)}: cannot be loaded: {reason}") from None
            self._loaded = processor, model.eval()
        processor, model = self._loaded
        out = []
        for image in images:
            pixels = processor(images=image.convert("RGB"), return_tensors="pt")
            with torch.inference_mode():
                found = getattr(model, "vision_model", model)(**pixels)
            pooled = getattr(found, "pooler_output", None)
            pooled = found.last_hidden_state.mean(1) if pooled is None else pooled
            out.append(pooled.flatten().double().numpy())
        return np.stack(out)


class EncoderFeatures:
    """What the understanding encoder of a model of ours gives its decoder, the mean of a picture's
    slots. The shipped one has seen toybox pictures, rendered and drawn by its own codec, and
    nothing else: it compares toybox pictures alone.

    Args:
        folder: of a model; None for the shipped one.
    """

    kind, short = "features", "encoder"

    def __init__(self, folder: Path | None = None):
        from unified import checkpoint
        from unified.handle import DEFAULT

        self.folder = folder
        manifest = (DEFAULT if folder is None else folder) / checkpoint.MANIFEST
        if not manifest.is_file():
            raise ValueError(f"{named(manifest.parent)}: no model of ours there ({manifest.name})")
        whose = "unified/toybox" if folder is None else folder.resolve().name
        self.name = f"understanding encoder of {whose}"
        self.revision = checkpoint.sha256(manifest)[:12]
        self._handle: Any = None

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Pictures -> (n, D), D the decoder's width."""
        import torch

        from unified.handle import load

        if self._handle is None:
            self._handle = load(self.folder, device="cpu")
        model, processor = self._handle.model, self._handle.processor.image_processor
        out = []
        for start in range(0, len(images), BATCH):
            pixels = torch.stack([processor.pixels(i) for i in images[start : start + BATCH]])
            with torch.inference_mode():
                out.append(model.features(pixels).mean(1).double().numpy())
        return np.concatenate(out)


class TeacherFeatures:
    """What the contrastive teacher in a SEED tokenizer finds in a picture: the mean of its places.
    SEED learns to give these features back, so it has an advantage by them.

    Args:
        folder: of the tokenizer.
    """

    kind, short = "features", "teacher"

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = f"contrastive teacher of {folder.resolve().parent.name}/{folder.resolve().name}"
        self.revision = directory_revision(folder)
        self._codec: Any = None

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Pictures -> (n, D), D the teacher's width; resized to its pictures."""
        import torch

        from unified.media.pixels import to_tensor
        from unified.tokenizers.kinds import load_codec

        if self._codec is None:
            self._codec = load_codec(self.folder)
        height, width = self._codec.spec.image_size
        sized = [i.convert("RGB").resize((width, height), Image.Resampling.BICUBIC) for i in images]
        out = []
        for start in range(0, len(sized), BATCH):
            pixels = to_tensor(np.stack([np.asarray(i) for i in sized[start : start + BATCH]]))
            with torch.inference_mode():
                out.append(self._codec.teacher(pixels)[0].mean(1).double().numpy())
        return np.concatenate(out)


def of_directory(folder: Path) -> EncoderFeatures | TeacherFeatures | TransformersFeatures:
    """The features that a directory gives: a model of ours, a SEED tokenizer, or a vision encoder
    of transformers.

    Raises:
        ValueError: it is none of these.
    """
    from unified import checkpoint

    kind = _config(folder).get("kind")
    if kind == "seed":
        return TeacherFeatures(folder)
    if kind is not None:
        raise ValueError(f"{named(folder)}: a tokenizer of kind {kind!r} has no teacher; seed has")
    if (folder / checkpoint.MANIFEST).is_file():
        return EncoderFeatures(folder)
    return TransformersFeatures(folder)


def in_parts(judge: Features, opened: Iterable[Image.Image]) -> np.ndarray:
    """Features of pictures that are opened as they are needed, BATCH in memory at once."""
    pictures = iter(opened)
    out: list[np.ndarray] = []
    while part := list(islice(pictures, BATCH)):
        out.append(judge.features(part))
    return np.concatenate(out)


class SoundStatistics:
    """Mean and deviation over time of a sound's log mel spectrum, in decibel."""

    short = "log_mel"
    name, revision = f"log mel spectrum of {BANDS} bands, mean and deviation over time", "1"

    @staticmethod
    def features(waves: Any, rate: int) -> np.ndarray:
        """Sounds, a tensor (n, samples), -> (n, 2 * BANDS)."""
        import torch

        from unified.spectrum import log_mel

        levels = 20 * log_mel(waves, rate, bands=BANDS)  # (n, frames, BANDS)
        found: np.ndarray = torch.cat([levels.mean(1), levels.std(1)], 1).double().numpy()
        return found


# --- directories of transformers ---------------------------------------------------------------


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def architecture(folder: Path) -> str:
    """The class that a transformers directory names.

    Raises:
        ValueError: it is none.
    """
    found = _config(folder).get("architectures")
    if not isinstance(found, list) or not found:
        raise ValueError(
            f"{named(folder)}: no model of transformers there; name a directory whose config.json"
            " has architectures"
        )
    return str(found[0])


def directory_revision(folder: Path) -> str:
    """The first digits of a hash over the weights and configuration of a model directory."""
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json") and path.is_file():
            with path.open("rb") as file:
                found.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:12]
