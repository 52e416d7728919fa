"""Spoken words: a small bank of recordings, every word by every voice.

Recorded once by `record_voices.py`; users need nothing but a reader of Ogg Opus. Some pairs of
word and voice are held out of all training by rule.
"""

from __future__ import annotations

import json
import zlib
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import soundfile

from unified.toybox.sprites import COLOURS, OBJECTS, SHAPES

ASSETS = Path(__file__).parent / "assets"
RATE = 16_000  # samples a second of all sound of the toybox
NUMBERS = ("one", "two", "three", "four")
PLACES = ("left", "right", "top", "bottom", "middle", "above", "below")
OTHER = ("yes", "no", "big", "small", "and", "a", "the")
WORDS: tuple[str, ...] = (*OBJECTS, *SHAPES, *COLOURS, *NUMBERS, *PLACES, *OTHER)


@cache
def _index() -> dict[str, dict[str, tuple[int, int]]]:
    index: dict[str, dict[str, tuple[int, int]]] = json.loads((ASSETS / "voices.json").read_text())
    return index


def voices() -> tuple[str, ...]:
    """Names of the voices."""
    return tuple(_index())


@lru_cache(maxsize=16)
def _recording(voice: str) -> np.ndarray:
    wave, rate = soundfile.read(ASSETS / f"voice_{voice}.ogg", dtype="float32")
    assert rate == RATE
    return wave


def spoken(word: str, voice: str) -> np.ndarray:
    """A word as a voice says it, float32 (samples,) at RATE.

    Raises:
        ValueError: a word or a voice that was not recorded.
    """
    if voice not in _index():
        raise ValueError(f"no voice {voice!r}; one of {', '.join(voices())}")
    if word not in _index()[voice]:
        raise ValueError(f"no recording of {word!r}; {len(WORDS)} words were recorded")
    first, last = _index()[voice][word]
    return _recording(voice)[first:last]


def held_out_word(word: str, voice: str) -> bool:
    """About one in ten pairs of word and voice, kept out of all training."""
    return zlib.crc32(f"word {word} {voice}".encode()) % 10 == 0
