"""Films in and out: any common file -> frames of one size and rate; frames -> MP4 or GIF.

Through PyAV (FFmpeg). Frames are picked by their time, so that films of a variable rate keep their
pace.
"""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from unified.media import picture
from unified.media.picture import MediaError, named, square

LONGEST = 1024  # frames that are read
PIXELS = 40_000_000  # of one frame


def read_film(
    path: str | Path | bytes,
    rate: float,
    side: int,
    longest: int = LONGEST,
    *,
    count: int | None = None,
    at: float = 0.0,
) -> np.ndarray:
    """The film's frames at `rate` a second, each padded to a square and resized, uint8
    (frames, side, side, 3). A picture that does not move is read as pictures are, as one frame.

    Args:
        path: a file, or the bytes of one.
        longest: frames from which on a film is refused.
        count: read no more than so many frames, of a film of any length.
        at: with `count`, where they begin: 0 at the start, 1 as late as they can.

    Raises:
        MediaError: no such file, no pictures in it, too long, too large, or not readable.
    """
    name, opened = source(path)
    still = picture.still(path)
    if still is not None:
        return _square(still, side)[None]
    frames: list[np.ndarray] = []
    last: av.VideoFrame | None = None
    shown: np.ndarray | None = None  # what it looks like, where that was asked for
    most = longest if count is None else count
    end = 0.0  # of the last frame, in seconds
    try:
        with av.open(opened) as file:
            if not file.streams.video:
                raise MediaError(f"{name} has no pictures in it; as sound it may be read")
            stream = file.streams.video[0]
            if stream.width * stream.height > PIXELS:
                raise MediaError(f"{name}: {stream.width}x{stream.height} is too large")
            start = None if count is None else begin(file, stream, count / rate, at)
            for number, frame in enumerate(file.decode(stream)):
                time = frame.time if frame.time is not None else (start or 0.0) + number / rate
                start = time if start is None else start
                # what is shown until now fills the moments before it
                while last is not None and len(frames) / rate < time - start - 1e-6:
                    if len(frames) > most:  # a moment that lasts for years
                        break
                    shown = _square(_upright(last), side) if shown is None else shown
                    frames.append(shown)
                last, shown = frame, None
                if time < start - 1e-6:  # from the key frame on to what is read
                    continue
                if not frames or len(frames) / rate <= time - start + 1e-6:
                    shown = _square(_upright(frame), side)
                    frames.append(shown)
                length = float((frame.duration or 0) * (frame.time_base or 0))
                end = time - start + length
                if count is None and len(frames) > longest:
                    raise MediaError(f"{name} is longer than {longest} frames at {rate:g} a second")
                if len(frames) >= most and count is not None:
                    break
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise MediaError(f"{name} is not readable as a film ({reason(error)})") from None
    if last is None:
        raise MediaError(f"{name} holds not one frame")
    shown = _square(_upright(last), side) if shown is None else shown
    frames = frames or [shown]
    while len(frames) / rate < end - 1e-2 and len(frames) < most:  # a last frame that stands
        frames.append(shown)
    return np.stack(frames[: most if count is not None else None])


def source(path: str | Path | bytes) -> tuple[str, Any]:
    """How errors call a file, and what PyAV opens.

    Raises:
        MediaError: no such file.
    """
    if isinstance(path, bytes):
        return f"{len(path)} bytes", BytesIO(path)
    if not Path(path).is_file():
        raise MediaError(f"{named(path)}: no such file")
    return named(path), str(path)


def reason(error: Exception) -> str:
    """What FFmpeg says, without its numbers."""
    return str(getattr(error, "strerror", None) or error)


def begin(file: Any, stream: Any, seconds: float, at: float) -> float:
    """Go to the place `at` (0 to 1) of those where so many seconds can begin; its time, which the
    frame that comes next may lie before."""
    origin = float((stream.start_time or 0) * stream.time_base)
    if stream.duration is not None:
        whole = float(stream.duration * stream.time_base)
    else:
        whole = (file.duration or 0) / av.time_base
    skipped = at * max(0.0, whole - seconds)
    if skipped:
        file.seek(int((origin + skipped) / stream.time_base), stream=stream)
    return origin + skipped


def _upright(frame: av.VideoFrame) -> Image.Image:
    """As a telephone says that it was held."""
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _square(image: Image.Image, side: int) -> np.ndarray:
    image = square(image.convert("RGB"))
    kind = Image.Resampling.BOX if image.width > side else Image.Resampling.BICUBIC
    return np.asarray(image.resize((side, side), kind))


def write_film(path: str | Path, frames: np.ndarray, rate: float, zoom: int = 1) -> None:
    """Write frames uint8 (T, H, W, 3); the ending names the format: .mp4 or .gif.

    Raises:
        MediaError: another ending, or a place that cannot be written to.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".mp4", ".gif"):
        raise MediaError(f"{named(path)}: a film ends in .mp4 or .gif")
    large = frames.repeat(zoom, 1).repeat(zoom, 2)
    try:
        if kind == ".gif":
            pictures = [Image.fromarray(frame) for frame in large]
            # durations are whole hundredths of a second: rounded so that no error adds up
            times = [round(100 * k / rate) for k in range(len(pictures) + 1)]
            lengths = [10 * (b - a) for a, b in pairwise(times)]
            rest: dict[str, Any] = {"append_images": pictures[1:], "duration": lengths, "loop": 0}
            pictures[0].save(path, save_all=True, **rest)
            return
        with av.open(str(path), "w") as file:
            stream = file.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
            stream.height, stream.width = large.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "14"}
            for frame in large:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode())
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"cannot write {named(path)}: {error}") from None
