"""Media files <-> the tensors that a codec takes, by the codec's spec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unified.media import film, picture, sound
from unified.media.picture import MediaError, named
from unified.media.pixels import to_pictures, to_tensor
from unified.tokenizers.codec import CodecSpec


def read_media(path: Path, spec: CodecSpec) -> torch.Tensor:
    """A file as a batch of one, in [-1, 1]; a picture is a film of one frame where a film is
    wanted.

    Raises:
        MediaError: the file is not what the codec takes, or cannot be read.
    """
    if spec.medium == "audio":
        wave = sound.read_sound(path, int(spec.rate))
        return torch.from_numpy(np.repeat(wave[None, None], spec.channels, 1))
    if spec.medium == "video":
        frames = film.read_film(path, spec.rate, spec.image_size[0])
        return to_tensor(frames).transpose(0, 1)[None]
    return to_tensor(fitted(picture.read(path), spec.image_size)[None])


def fitted(image: Image.Image, size: tuple[int, ...]) -> np.ndarray:
    """A picture as a codec sees it: padded to a square, resized to (height, width), uint8."""
    image = picture.square(image)
    kind = Image.Resampling.BOX if image.width > size[1] else Image.Resampling.BICUBIC
    return np.asarray(image.resize((size[1], size[0]), kind))


def check_target(path: Path, spec: CodecSpec) -> None:
    """Raise MediaError unless the codec's medium can be written under this name."""
    if spec.medium == "image":
        picture.check_target(path)
        return
    films, sounds = ("a film", (".mp4", ".gif")), ("sound", (".wav", ".flac", ".ogg"))
    name, allowed = films if spec.medium == "video" else sounds
    if path.suffix.lower() not in allowed:
        raise MediaError(f"{named(path)}: {name} ends in {' or '.join(allowed)}")
    if not path.resolve().parent.is_dir():
        raise MediaError(
            f"{named(path)}: the folder {named(path.parent)} does not exist; create it"
        )


def write_media(path: Path, media: torch.Tensor, spec: CodecSpec) -> None:
    """Write the one item of a batch in [-1, 1].

    Raises:
        MediaError: the place cannot be written to.
    """
    if spec.medium == "audio":
        sound.write_sound(path, media[0, 0].cpu().numpy(), int(spec.rate))
    elif spec.medium == "video":
        film.write_film(path, to_pictures(media[0].transpose(0, 1)), spec.rate)
    else:
        picture.save_png(Image.fromarray(to_pictures(media)[0]), path)
