"""Sound in and out: files <-> float32 samples at the rate that is asked for, within limits.

Through PyAV (FFmpeg), so that any common format can be read, films' soundtracks included.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import soundfile

from unified.media.film import begin, reason, source
from unified.media.picture import MediaError, named

LONGEST = 600.0  # seconds that are read


def resample(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Float32 (samples,) from one rate to another."""
    if rate == wanted or not len(wave):
        return wave.astype(np.float32)
    frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="flt", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=wanted)
    parts = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([part.to_ndarray().reshape(-1) for part in parts])


def read_sound(
    path: str | Path | bytes,
    rate: int,
    longest: float = LONGEST,
    *,
    count: int | None = None,
    at: float = 0.0,
) -> np.ndarray:
    """The first soundtrack of a file as mono float32 (samples,) in [-1, 1].

    Any rate is resampled, and of any number of channels the mean taken.

    Args:
        path: a file, or the bytes of one.
        longest: seconds from which on sound is refused.
        count: read no more than so many samples, of sound of any length.
        at: with `count`, where they begin: 0 at the start, 1 as late as they can.

    Raises:
        MediaError: no such file, no soundtrack, nothing in it, too long, or not readable.
    """
    name, opened = source(path)
    try:
        with av.open(opened) as file:
            if not file.streams.audio:
                raise MediaError(f"{name} has no sound in it")
            stream = file.streams.audio[0]
            start = None if count is None else begin(file, stream, count / rate, at)
            resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
            parts: list[np.ndarray] = []
            read = given = early = 0  # samples; early: those before what is asked for
            for frame in file.decode(stream):
                if not given and start is not None and frame.time is not None:
                    early = max(0, round((start - frame.time) * rate))
                given += frame.samples
                for part in resampler.resample(_mixed(frame)):
                    parts.append(part.to_ndarray().reshape(-1))
                    read += len(parts[-1])
                if count is not None and read >= early + count:
                    break
                if count is None and read > longest * rate:
                    raise MediaError(f"{name} is longer than the limit of {longest:g} seconds")
            parts += [part.to_ndarray().reshape(-1) for part in resampler.resample(None)]
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise MediaError(f"{name} is not readable as sound ({reason(error)})") from None
    wave = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if count is not None:
        wave = wave[min(early, max(0, len(wave) - 1)) :][:count]
    if not len(wave):
        short = f"is shorter than one sample at {rate} Hz" if given else "holds no samples"
        raise MediaError(f"{name} {short}")
    if not np.isfinite(wave).all():
        raise MediaError(f"{name} holds samples that are not numbers")
    return wave


def _mixed(frame: av.AudioFrame) -> av.AudioFrame:
    """The mean of its channels, as float32: FFmpeg adds them up, and is louder than [-1, 1]."""
    array, count = frame.to_ndarray(), frame.layout.nb_channels
    planes = array if frame.format.is_planar else array.reshape(-1, count).T
    if planes.dtype.kind in "iu":
        half = float(2 ** (8 * planes.dtype.itemsize - 1))
        planes = planes / half - (planes.dtype.kind == "u")
    mono = planes.mean(0, dtype=np.float64).astype(np.float32)
    out = av.AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
    out.sample_rate, out.pts, out.time_base = frame.sample_rate, frame.pts, frame.time_base
    return out


def write_sound(path: str | Path, wave: np.ndarray, rate: int) -> None:
    """Write float samples (samples,) in [-1, 1]; the ending names the format (.wav, .flac, .ogg).

    Raises:
        MediaError: an ending that is not known, or a place that cannot be written to.
    """
    path = Path(path)
    try:
        soundfile.write(path, np.clip(wave, -1, 1), rate)
    except (soundfile.LibsndfileError, TypeError, ValueError, OSError) as error:
        raise MediaError(f"cannot write {named(path)}: {error}") from None
