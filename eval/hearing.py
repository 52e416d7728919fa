"""An independent judge of toybox sound: which word or sound is heard, and in whose voice.

Every recording of the bank and many takes of every named sound are kept as templates: the log
spectrum over time, brought to one length. A segment is what the nearest template is. Shares the
recordings with the world it judges and nothing with any codec.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from unified.toybox.sounds import SOUNDS, Clip, sound
from unified.toybox.voices import RATE, WORDS, spoken, voices

NAME, VERSION = "templates", 1
WINDOW, HOP = 512, 160
BANDS = 40
STEPS = 24  # in time, whatever the length
TAKES = 6  # of every named sound
FLOOR = 1e-3  # of a segment's loudest band: what lies below is silence


@dataclass(frozen=True)
class Heard:
    """voice: None for a sound that is no word."""

    name: str
    voice: str | None


@cache
def _bank() -> np.ndarray:
    """(WINDOW / 2 + 1, BANDS): triangles, evenly apart on a mel scale from 60 Hz to 7.6 kHz."""
    low_end, high_end = (2595 * np.log10(1 + f / 700) for f in (60, 7600))
    mel = np.linspace(low_end, high_end, BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequency = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequency - low) / (middle - low), (high - frequency) / (high - middle)
    return np.minimum(rising, falling).clip(0)


def features(wave: np.ndarray) -> np.ndarray:
    """A segment as one unit vector (STEPS * BANDS + 1,): shape in time and frequency, loudness left
    out, length as one number."""
    if len(wave) < 2 * WINDOW:
        wave = np.pad(wave, (0, 2 * WINDOW - len(wave)))
    frames = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))) ** 2 @ _bank()
    level = np.log(power + FLOOR**2 * max(1e-12, float(power.max())))
    at = np.linspace(0, len(level) - 1, STEPS)
    low = at.astype(int).clip(0, len(level) - 2)
    share = (at - low)[:, None]
    shape = (1 - share) * level[low] + share * level[low + 1]
    shape = shape - shape.mean()
    shape = shape.ravel() / max(1e-9, float(np.linalg.norm(shape)))
    whole = np.append(shape, 0.3 * np.log(len(wave) / RATE))
    return whole / np.linalg.norm(whole)


@cache
def _templates() -> tuple[np.ndarray, tuple[Heard, ...]]:
    rows, names = [], []
    for voice in voices():
        for word in WORDS:
            rows.append(features(spoken(word, voice)))
            names.append(Heard(word, voice))
    for name, (_, _, (shortest, longest)) in SOUNDS.items():
        for take in range(TAKES):
            seconds = shortest + (longest - shortest) * take / (TAKES - 1)
            rows.append(features(sound(name, seconds, 10_000 + take)))
            names.append(Heard(name, None))
    return np.stack(rows).astype(np.float32), tuple(names)


def hear(wave: np.ndarray) -> Heard:
    """What a segment (samples,) at RATE is."""
    rows, names = _templates()
    return names[int((rows @ features(wave).astype(np.float32)).argmax())]


def recognised(wave: np.ndarray, clip: Clip) -> list[tuple[bool, bool]]:
    """Of every event of a clip, heard in `wave` at its own time: whether it is the right word or
    sound, and whether the voice is right, too."""
    found = []
    for event in clip.events:
        first, last = round(event.start * RATE), round(event.end * RATE)
        heard = hear(wave[first:last])
        right = heard.name == event.name
        found.append((right, right and heard.voice == event.voice))
    return found
