"""Named sounds of the toybox, and clips of them with exact facts.

Tones, things that are struck, and things that sound like nature or traffic are synthesized from a
few parameters each; words come from the bank of voices. A clip is a few events in time. Knows
nothing of pictures.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unified.toybox.voices import RATE, WORDS, held_out_word, spoken, voices

Wave = np.ndarray  # float32 (samples,) at RATE


def _time(seconds: float) -> Wave:
    return np.arange(round(seconds * RATE), dtype=np.float32) / RATE


def _phase(frequency: Wave) -> Wave:
    """Phase of a frequency (Hz) that changes over time."""
    return (2 * np.pi * np.cumsum(frequency.astype(np.float64)) / RATE).astype(np.float32)


def _decay(t: Wave, seconds: float) -> Wave:
    """An envelope that falls to a thousandth in `seconds`."""
    return np.exp(-6.9 * t / seconds)


def _noise(rng: np.random.Generator, count: int, low: float, high: float) -> Wave:
    """Noise between two frequencies (Hz), of unit power."""
    whole = 1 << (count - 1).bit_length()  # lengths with large prime factors are slow
    spectrum = np.fft.rfft(rng.standard_normal(whole))
    frequency = np.fft.rfftfreq(whole, 1 / RATE)
    spectrum[(frequency < low) | (frequency > high)] = 0
    wave = np.fft.irfft(spectrum, whole)[:count]
    return (wave / max(1e-6, float(wave.std()))).astype(np.float32)


def _tone(t: Wave, frequency: Wave | float, harmonics: tuple[float, ...] = (1.0,)) -> Wave:
    phase = _phase(np.broadcast_to(np.float32(frequency), t.shape))
    return sum((share * np.sin(k * phase) for k, share in enumerate(harmonics, 1)), 0 * t)


def _swing(rng: np.random.Generator, t: Wave, low: float, high: float) -> Wave:
    """A slow random course between two values."""
    points = rng.uniform(low, high, max(3, int(t[-1] * 3) + 2))
    return np.interp(t, np.linspace(0, t[-1] + 1e-3, len(points)), points).astype(np.float32)


def _repeat(t: Wave, period: float, part: Callable[[Wave], Wave], first: float = 0.0) -> Wave:
    """The same short sound again and again, every `period` seconds."""
    out = np.zeros_like(t)
    start = first
    while start < t[-1]:
        k = round(start * RATE)
        piece = part(t[: min(len(t) - k, round(period * RATE))])
        out[k : k + len(piece)] += piece
        start += period
    return out


_RICH = (1.0, 0.5, 0.3, 0.2)


def _low_tone(t: Wave, rng: np.random.Generator) -> Wave:
    return _tone(t, rng.uniform(150, 220), _RICH)


def _middle_tone(t: Wave, rng: np.random.Generator) -> Wave:
    return _tone(t, rng.uniform(400, 520), _RICH)


def _high_tone(t: Wave, rng: np.random.Generator) -> Wave:
    return _tone(t, rng.uniform(1000, 1300), _RICH)


def _rising_tone(t: Wave, rng: np.random.Generator) -> Wave:
    base = rng.uniform(200, 350)
    return _tone(t, base * 4 ** (t / t[-1]), _RICH)


def _falling_tone(t: Wave, rng: np.random.Generator) -> Wave:
    base = rng.uniform(800, 1400)
    return _tone(t, base * 4 ** (-t / t[-1]), _RICH)


def _drum(t: Wave, rng: np.random.Generator) -> Wave:
    base = rng.uniform(50, 80)
    return _tone(t, base * (1 + 3 * np.exp(-30 * t))) * _decay(t, 0.4)


def _snare(t: Wave, rng: np.random.Generator) -> Wave:
    body = _tone(t, rng.uniform(170, 220)) * _decay(t, 0.15)
    return body + 0.5 * _noise(rng, len(t), 1500, 7500) * _decay(t, 0.25)


def _clap(t: Wave, rng: np.random.Generator) -> Wave:
    wave = _noise(rng, len(t), 800, 3000)
    beats = sum((np.where(t >= d, np.exp(-90 * (t - d)), 0) for d in (0, 0.012, 0.025)), 0 * t)
    return wave * (beats + 0.4 * _decay(t, 0.2))


def _cymbal(t: Wave, rng: np.random.Generator) -> Wave:
    return _noise(rng, len(t), 4000, 7900) * _decay(t, rng.uniform(0.6, 1.0))


def _bell(t: Wave, rng: np.random.Generator) -> Wave:
    base = rng.uniform(500, 700)
    parts = ((0.5, 0.6), (1.0, 1.0), (1.19, 0.5), (1.5, 0.4), (2.0, 0.5), (2.74, 0.3), (3.76, 0.2))
    return sum(
        (share * np.sin(2 * np.pi * base * ratio * t) * _decay(t, 1.6 / ratio)
         for ratio, share in parts), 0 * t
    )  # fmt: skip


def _knock(t: Wave, rng: np.random.Generator) -> Wave:
    base = rng.uniform(380, 480)
    hit = lambda u: _tone(u, base) * _decay(u, 0.08) + 0.3 * _tone(u, 2.7 * base) * _decay(u, 0.04)  # noqa: E731
    return _repeat(t, rng.uniform(0.16, 0.2), hit)


def _bounce(t: Wave, rng: np.random.Generator) -> Wave:
    base = rng.uniform(110, 150)
    return _tone(t, base * (1 + 1.2 * np.exp(-25 * t)), (1.0, 0.4)) * _decay(t, 0.22)


def _pop(t: Wave, rng: np.random.Generator) -> Wave:
    base = rng.uniform(350, 450)
    return _tone(t, base * (1 + 25 * t.clip(0, 0.08))) * _decay(t, 0.1)


def _bird(t: Wave, rng: np.random.Generator) -> Wave:
    base, depth = rng.uniform(2600, 3400), rng.uniform(500, 900)
    note = lambda u: (  # noqa: E731
        _tone(u, base + depth * np.sin(2 * np.pi * 14 * u)) * np.sin(np.pi * (u / 0.12).clip(0, 1))
    )
    return _repeat(t, rng.uniform(0.17, 0.24), note)


def _cricket(t: Wave, rng: np.random.Generator) -> Wave:
    base = rng.uniform(4000, 4600)
    pulses = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * 32 * t))
    chirps = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * rng.uniform(2.2, 3) * t + 0.4))
    return _tone(t, base) * pulses * chirps


def _frog(t: Wave, rng: np.random.Generator) -> Wave:
    base = rng.uniform(500, 650)
    croak = lambda u: (  # noqa: E731
        _tone(u, base, (1, 0.6, 0.3)) * (0.5 + 0.5 * np.sin(2 * np.pi * 40 * u))
        * np.sin(np.pi * (u / 0.3).clip(0, 1))
    )  # fmt: skip
    return _repeat(t, rng.uniform(0.42, 0.5), croak)


def _bee(t: Wave, rng: np.random.Generator) -> Wave:
    pitch = _swing(rng, t, 190, 240) * (1 + 0.03 * np.sin(2 * np.pi * 18 * t))
    return _tone(t, pitch, tuple(1 / k for k in range(1, 13)))


def _dog(t: Wave, rng: np.random.Generator) -> Wave:
    base = rng.uniform(260, 380)
    bark = lambda u: (  # noqa: E731
        _tone(u, base * (1 + 0.9 * np.sin(np.pi * (u / 0.16).clip(0, 1))), (1, 0.9, 0.7, 0.5, 0.3))
        * np.sin(np.pi * (u / 0.16).clip(0, 1))
    )
    return _repeat(t, rng.uniform(0.3, 0.4), bark)


def _cat(t: Wave, rng: np.random.Generator) -> Wave:
    u = t / t[-1]
    pitch = rng.uniform(520, 640) * (0.8 + 0.5 * np.sin(np.pi * u) - 0.15 * u)
    formant = 700 + 1300 * np.sin(np.pi * u)
    wave = 0 * t
    for k in range(1, 9):
        wave += np.exp(-(((k * pitch - formant) / 600) ** 2)) * np.sin(k * _phase(pitch))
    return wave * np.sin(np.pi * u).clip(0) ** 0.5


def _wind(t: Wave, rng: np.random.Generator) -> Wave:
    low, high = _noise(rng, len(t), 80, 400), _noise(rng, len(t), 400, 1200)
    return low * _swing(rng, t, 0.3, 1) + 0.5 * high * _swing(rng, t, 0, 1)


def _rain(t: Wave, rng: np.random.Generator) -> Wave:
    drops = (rng.random(len(t)) < 0.012) * rng.standard_normal(len(t))
    kernel = np.exp(-np.arange(48) / 8.0) * np.sin(np.arange(48) * 1.9)
    wave = np.convolve(drops, kernel)[: len(t)]
    return (wave + 0.15 * _noise(rng, len(t), 2000, 7500)).astype(np.float32)


def _thunder(t: Wave, rng: np.random.Generator) -> Wave:
    return _noise(rng, len(t), 20, 220) * _decay(t, 2.2) * (0.4 + _swing(rng, t, 0, 1))


def _waves(t: Wave, rng: np.random.Generator) -> Wave:
    swell = np.sin(np.pi * (t * rng.uniform(0.7, 0.9) + rng.uniform(0, 0.2)) % np.pi) ** 2
    return _noise(rng, len(t), 300, 4000) * (0.1 + swell)


def _drip(t: Wave, rng: np.random.Generator) -> Wave:
    base = rng.uniform(900, 1300)
    drop = lambda u: _tone(u, base * (1 + 6 * u.clip(0, 0.1))) * _decay(u, 0.12)  # noqa: E731
    return _repeat(t, rng.uniform(0.3, 0.45), drop)


def _fire(t: Wave, rng: np.random.Generator) -> Wave:
    crackles = (rng.random(len(t)) < 0.0015) * rng.uniform(1, 4, len(t))
    kernel = np.exp(-np.arange(160) / 25.0) * rng.standard_normal(160)
    wave = np.convolve(crackles, kernel)[: len(t)]
    return (wave + 0.25 * _noise(rng, len(t), 60, 500)).astype(np.float32)


def _heartbeat(t: Wave, rng: np.random.Generator) -> Wave:
    base, period = rng.uniform(45, 60), rng.uniform(0.65, 0.85)
    thump = lambda u: _tone(u, base * (1 + np.exp(-40 * u)), (1, 0.5)) * _decay(u, 0.15)  # noqa: E731
    return _repeat(t, period, thump) + 0.7 * _repeat(t, period, thump, first=0.22)


def _clock(t: Wave, rng: np.random.Generator) -> Wave:
    base = rng.uniform(1900, 2400)
    tick = lambda u: _tone(u, base, (1, 0.5)) * _decay(u, 0.03)  # noqa: E731
    tock = lambda u: _tone(u, 0.75 * base, (1, 0.5)) * _decay(u, 0.03)  # noqa: E731
    return _repeat(t, 0.5, tick) + _repeat(t, 0.5, tock, first=0.25)


def _engine(t: Wave, rng: np.random.Generator) -> Wave:
    pitch = rng.uniform(28, 40)
    firing = 0.4 + np.abs(np.sin(np.pi * pitch * t)) ** 6
    return firing * (_tone(t, 2 * pitch, _RICH) + 0.4 * _noise(rng, len(t), 100, 900))


def _siren(t: Wave, rng: np.random.Generator) -> Wave:
    rate = rng.uniform(0.8, 1.2)
    return _tone(t, 700 + 250 * np.sign(np.sin(2 * np.pi * rate * t)), (1, 0.4, 0.2))


def _phone(t: Wave, rng: np.random.Generator) -> Wave:
    low = rng.uniform(420, 460)
    rings = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * 20 * t))
    pauses = (t % 0.9 < 0.6).astype(np.float32)
    return (_tone(t, low) + _tone(t, 1.09 * low)) * (0.3 + 0.7 * rings) * pauses


def _horn(t: Wave, rng: np.random.Generator) -> Wave:
    base = rng.uniform(290, 340)
    return _tone(t, base, tuple(0.8**k for k in range(8))) + _tone(t, 1.26 * base, (1, 0.7, 0.5))


# name -> (maker, category, shortest and longest duration in seconds)
Maker = Callable[[Wave, np.random.Generator], Wave]
SOUNDS: dict[str, tuple[Maker, str, tuple[float, float]]] = {
    "low tone": (_low_tone, "tone", (0.3, 0.9)),
    "middle tone": (_middle_tone, "tone", (0.3, 0.9)),
    "high tone": (_high_tone, "tone", (0.3, 0.9)),
    "rising tone": (_rising_tone, "tone", (0.4, 1.0)),
    "falling tone": (_falling_tone, "tone", (0.4, 1.0)),
    "drum": (_drum, "struck", (0.4, 0.5)),
    "snare": (_snare, "struck", (0.3, 0.4)),
    "clap": (_clap, "struck", (0.3, 0.4)),
    "cymbal": (_cymbal, "struck", (0.6, 1.0)),
    "bell": (_bell, "struck", (0.8, 1.4)),
    "knock": (_knock, "struck", (0.4, 0.7)),
    "bounce": (_bounce, "struck", (0.25, 0.3)),
    "pop": (_pop, "struck", (0.15, 0.2)),
    "bird": (_bird, "animal", (0.5, 1.2)),
    "cricket": (_cricket, "animal", (0.6, 1.2)),
    "frog": (_frog, "animal", (0.5, 1.1)),
    "bee": (_bee, "animal", (0.5, 1.2)),
    "dog": (_dog, "animal", (0.3, 0.9)),
    "cat": (_cat, "animal", (0.5, 0.9)),
    "wind": (_wind, "nature", (0.8, 1.6)),
    "rain": (_rain, "nature", (0.8, 1.6)),
    "thunder": (_thunder, "nature", (0.9, 1.6)),
    "waves": (_waves, "nature", (0.9, 1.6)),
    "drip": (_drip, "nature", (0.4, 1.0)),
    "fire": (_fire, "nature", (0.8, 1.6)),
    "heartbeat": (_heartbeat, "machine", (0.8, 1.6)),
    "clock": (_clock, "machine", (0.8, 1.6)),
    "engine": (_engine, "machine", (0.7, 1.5)),
    "siren": (_siren, "machine", (0.9, 1.6)),
    "phone": (_phone, "machine", (0.7, 1.5)),
    "horn": (_horn, "machine", (0.3, 0.8)),
}  # fmt: skip


@dataclass(frozen=True)
class Event:
    """A sound that is heard from `start` on.

    Attributes:
        name: one of SOUNDS, or a word where `voice` is given.
        start, seconds: when and for how long.
        loudness: its loudest sample.
        take: seed of its parameters; the same take sounds the same.
    """

    name: str
    start: float
    seconds: float
    loudness: float = 0.6
    voice: str | None = None
    take: int = 0

    @property
    def end(self) -> float:
        return self.start + self.seconds


@dataclass(frozen=True)
class Clip:
    """Events in time order; `seconds` long in all."""

    events: tuple[Event, ...]
    seconds: float

    def facts(self) -> dict[str, Any]:
        """JSON-able."""
        return {"events": [asdict(event) for event in self.events], "seconds": self.seconds}


def sound(name: str, seconds: float, take: int) -> Wave:
    """A named sound, its loudest sample 1, with soft edges.

    Raises:
        ValueError: a name that is none of SOUNDS.
    """
    if name not in SOUNDS:
        raise ValueError(f"no sound {name!r}; one of {', '.join(SOUNDS)}")
    t = _time(seconds)
    wave = SOUNDS[name][0](t, np.random.default_rng(take)).astype(np.float32)
    attack, release = RATE // 500, min(len(t) // 4, RATE // 25)
    wave[:attack] *= np.linspace(0, 1, attack, dtype=np.float32)
    wave[len(t) - release :] *= np.linspace(1, 0, release, dtype=np.float32)
    return wave / max(1e-6, float(np.abs(wave).max()))


def render_clip(clip: Clip) -> Wave:
    """The clip's samples, float32 (round(seconds * RATE),) in [-1, 1]."""
    out = np.zeros(round(clip.seconds * RATE), np.float32)
    for event in clip.events:
        if event.voice is None:
            wave = sound(event.name, event.seconds, event.take)
        else:
            wave = spoken(event.name, event.voice)
            wave = wave / np.abs(wave).max()
        first = round(event.start * RATE)
        wave = wave[: max(0, len(out) - first)]
        out[first : first + len(wave)] += event.loudness * wave
    return np.clip(out, -1, 1)


def sample_clip(rng: random.Random, split: str = "train", seconds: float = 2.0) -> Clip:
    """A random clip: one voice saying one to four words, or one to three sounds.

    "held_out" clips hold a pair of word and voice that "train" and "seen" never do.
    """
    if split not in ("train", "seen", "held_out"):
        raise ValueError(f"unknown split {split!r}; one of train, seen, held_out")
    while True:
        events: list[Event] = []
        speech = split == "held_out" or rng.random() < 0.6
        voice = rng.choice(voices()) if speech else None
        at = rng.uniform(0, 0.25)
        for _ in range(rng.choice((1, 2, 2, 3, 3, 4) if speech else (1, 1, 2, 2, 3))):
            loudness = rng.uniform(0.4, 0.8)
            if voice:
                name = rng.choice(WORDS)
                length = len(spoken(name, voice)) / RATE
            else:
                name = rng.choice(tuple(SOUNDS))
                length = rng.uniform(*SOUNDS[name][2])
            if at + length > seconds:
                break
            events.append(Event(name, round(at, 3), length, loudness, voice, rng.getrandbits(31)))
            at += length + (rng.uniform(0.03, 0.15) if voice else rng.uniform(0.05, 0.3))
        kept_out = any(e.voice and held_out_word(e.name, e.voice) for e in events)
        if events and kept_out == (split == "held_out"):
            return Clip(tuple(events), seconds)


def clip_words(clip: Clip) -> str:
    """What is heard, in canonical words: "a voice says red circle" or "a bell, then a dog"."""
    if clip.events[0].voice:
        return f"{clip.events[0].voice} says {' '.join(e.name for e in clip.events)}"
    return ", then ".join(_with_article(e.name) for e in clip.events)


def _with_article(name: str) -> str:
    if name in ("rain", "wind", "thunder", "waves", "fire"):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
