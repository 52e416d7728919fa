"""Pictures in and out: any common file -> RGB within limits; RGB -> PNG that says how it was made.

What a file claims is checked before anything is decoded, its kind is told by its content and never
by its name, and whatever is wrong ends as one sentence: the file, what is wrong, what to do.
Knows nothing about models, tokens or the sizes they want.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 40_000_000
MAX_SIDE = 4096  # pixels of what is padded to a square: a long strip would take gigabytes
# how files of FORMATS begin: what starts like one and cannot be opened is damaged, not foreign
STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM")
KINDS = "PNG, JPEG, WEBP, GIF or BMP"
# metadata kept as JSON; the rest is text
JSON_KEYS = {"seed", "settings"}


class MediaError(ValueError):
    """A picture that cannot be read or written; the message is one sentence for its owner."""


def read(path: str | os.PathLike[str], longest: int | None = None) -> Image.Image:
    """Read a picture as RGB: upright, transparency over white, the first frame if it moves.

    Args:
        path: a file of at most 32 MB and 40 megapixels: PNG, JPEG, WEBP, GIF or BMP.
        longest: shrink a picture whose longer side is above this many pixels.

    Raises:
        MediaError: the file is missing, no plain file, unreadable, empty, too large, not a picture
            of these kinds, cut short or damaged.
    """
    return decode(_bytes(Path(path)), named(path), longest)


def decode(data: bytes, name: str, longest: int | None = None) -> Image.Image:
    """`read` for the bytes of a file, which errors call `name`."""
    if not data:
        raise MediaError(f"{name}: the file is empty; give a {KINDS} file")
    if len(data) > MAX_BYTES:
        size = f"{len(data) / 2**20:.0f} MB"
        raise MediaError(f"{name}: {size}, and the limit is {MAX_BYTES // 2**20} MB")
    with _guarded(name):
        image = _open(name, data)
        image.load()
        image = _upright(image)
        if longest is not None and max(image.size) > longest:
            image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        return image


def still(source: str | os.PathLike[str] | bytes) -> Image.Image | None:
    """What `read` gives, of a file or the bytes of one; None where it is no picture or one that
    moves.

    Raises:
        MediaError: it is one, and cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(opened, formats=FORMATS) as image:
                if getattr(image, "n_frames", 1) > 1:
                    return None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if isinstance(source, bytes):
        return decode(source, f"{len(source)} bytes")
    return read(source)


def metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save_png` wrote beside the pixels; empty for any other picture.

    Raises:
        MediaError: as for `read`.
    """
    name, data = named(path), _bytes(Path(path))
    with _guarded(name):
        image = _open(name, data)
        if not isinstance(image, PngImagePlugin.PngImageFile):
            return {}
        return {key: _value(key, str(text)) for key, text in image.text.items()}


def save_png(
    image: Image.Image,
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = True,
) -> Path:
    """Write a picture as PNG, whole or not at all; the metadata become its text chunks.

    Args:
        metadata: such as prompt, seed, settings and model; what is not text is kept as JSON.
        overwrite: False leaves an existing file alone.

    Raises:
        MediaError: the place cannot be written to, or the name does not end in .png.
        FileExistsError: the file is there and `overwrite` is False.
    """
    target = check_target(path)
    chunks = PngImagePlugin.PngInfo()
    for key, value in (metadata or {}).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text = text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
        chunks.add_text(key, text)
    buffer = BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks)
    try:
        write_atomic(target, buffer.getvalue(), overwrite)
    except FileExistsError:
        raise
    except OSError as error:
        raise MediaError(_unwritable(path, error)) from None
    return Path(path)


def save_new(
    image: Image.Image, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None
) -> Path:
    """`save_png` under the first free name: cat.png, cat-1.png, cat-2.png, …; the path taken."""
    for candidate in free_names(Path(path)):
        if not os.path.lexists(candidate):
            try:
                return save_png(image, candidate, metadata, overwrite=False)
            except FileExistsError:
                pass
    raise AssertionError("names do not end")


def free_names(path: Path) -> Iterator[Path]:
    """The path itself, then with -1, -2, … before its ending; without end."""
    yield path
    number = 0
    while True:
        number += 1
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def check_target(path: str | os.PathLike[str]) -> Path:
    """The real path that `save_png` would write, refused now rather than after a long drawing.

    Raises:
        MediaError: as for `save_png`.
    """
    name = named(path)
    if Path(path).suffix.lower() != ".png":
        raise MediaError(f"{name}: pictures are saved as PNG; give a name that ends in .png")
    try:
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise MediaError(f"{name}: this is a folder; give the name of a file in it")
        if target.exists() and not target.is_file():
            raise MediaError(f"{name}: not a plain file; give another name")
        if not target.parent.is_dir():
            raise MediaError(f"{name}: the folder {named(target.parent)} does not exist; create it")
        if not os.access(target if target.exists() else target.parent, os.W_OK):
            raise MediaError(f"{name}: may not be written; choose a place you may write to")
    except (OSError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(_unwritable(path, error)) from None
    return target


def write_atomic(target: Path, data: bytes, overwrite: bool = True) -> None:
    """Write a file so that a kill leaves the old one, the new one or none, never a part of it.

    Raises:
        FileExistsError: the file is there and `overwrite` is False.
        OSError: the place cannot be written to.
    """
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, target)
        else:
            _link(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def named(path: str | os.PathLike[str]) -> str:
    """A path as it may be shown: no control characters, no bytes that are not text."""
    text = os.fspath(path)
    return text if text.isprintable() and text else ascii(text)


def _link(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.replace(temporary, target)


def square(image: Image.Image) -> Image.Image:
    """Pad the shorter side evenly with the mean colour of the picture's border; what is longer than
    MAX_SIDE is shrunk first."""
    if image.width == image.height:
        return image
    if max(image.size) > MAX_SIDE:
        image = image.copy()
        image.thumbnail((MAX_SIDE, MAX_SIDE))
    array = np.asarray(image)
    border = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
    side = max(image.size)
    fill = tuple(int(value) for value in border.mean(0).round())
    out = Image.new("RGB", (side, side), fill)
    out.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return out


def _bytes(path: Path) -> bytes:
    """All of a plain file within MAX_BYTES; nothing that could block or never end is opened."""
    name = named(path)
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise MediaError(f"{name}: this is a folder; give one picture in it")
        if not stat.S_ISREG(found.st_mode):
            raise MediaError(f"{name}: not a plain file; give a {KINDS} file")
        if found.st_size <= MAX_BYTES:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        if found.st_size > MAX_BYTES or len(data) > MAX_BYTES:
            size = f"{found.st_size / 2**20:.0f} MB"
            limit = f"{MAX_BYTES // 2**20} MB"
            raise MediaError(f"{name}: {size}, and the limit is {limit}; save it smaller")
    except FileNotFoundError:
        raise MediaError(f"{name}: no such file; check the path") from None
    except PermissionError:
        raise MediaError(f"{name}: may not be read; check its permissions") from None
    except OSError as error:
        raise MediaError(f"{name}: cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{name}: not a path; check it") from None  # a NUL byte in it
    if not data:
        raise MediaError(f"{name}: the file is empty; give a {KINDS} file")
    return data


@contextmanager
def _guarded(name: str) -> Iterator[None]:
    """Decode strictly, and turn whatever a decoder raises into one sentence about `name`."""
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except MediaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\d+", str(error))
        size = f"{int(found[0]) // 10**6} megapixels" if found else "far too many pixels"
        raise MediaError(f"{name}: {size}, and {_too_many()}") from None
    except Exception:  # a damaged file reaches any line of a decoder
        raise MediaError(
            f"{name}: the picture is cut short or damaged; get the file again"
        ) from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _open(name: str, data: bytes) -> Image.Image:
    """Read the header alone and check what it claims."""
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if data.startswith(STARTS):
            raise
        raise MediaError(f"{name}: not a picture; give a {KINDS} file") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise MediaError(f"{name}: {width}x{height} pixels, and {_too_many()}")
    return image


def _too_many() -> str:
    return f"the limit is {MAX_PIXELS // 10**6} megapixels; make the picture smaller"


def _upright(image: Image.Image) -> Image.Image:
    """Decoded pixels of any mode -> RGB, as the camera was held."""
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # the pixels are whole; only the note about their orientation is not
        pass
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits a channel: keep the upper eight
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if "transparency" in image.info or image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    image.info = {}
    return image


def _value(key: str, text: str) -> Any:
    if key in JSON_KEYS:
        try:
            return json.loads(text)
        except ValueError:
            pass
    return text


def _unwritable(path: str | os.PathLike[str], error: Exception) -> str:
    reason = getattr(error, "strerror", None) or "not a path"
    return f"{named(path)}: cannot be written ({reason}); choose another place"
