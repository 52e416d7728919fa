"""Record the shipped voices once: `python -m unified.toybox.record_voices`.

Needs espeak-ng (Debian: espeak-ng; what it speaks is not under its licence). Every voice speaks
every word; the recordings of a voice stand one after the other in one Ogg Opus file, and
assets/voices.json says where each begins and ends.
"""

from __future__ import annotations

import io
import json
import subprocess

import numpy as np
import soundfile

from unified.media.sound import resample
from unified.toybox.voices import ASSETS, RATE, WORDS

# voice -> espeak-ng's voice and variant, pitch (0 to 99) and words a minute
VOICES = {
    "ada": ("en-gb+f2", 62, 150),
    "ben": ("en-us+m3", 38, 155),
    "cleo": ("en-us+f4", 74, 170),
    "dan": ("en-gb-scotland+m7", 28, 140),
    "eve": ("en-gb-x-rp+f3", 50, 160),
    "finn": ("en-us+m5", 55, 180),
}
GAP = RATE // 20  # samples of silence between recordings
QUIET = 0.01  # of the loudest: what is left out before and after a word


def spoken(word: str, voice: str, pitch: int, speed: int) -> np.ndarray:
    """One word at RATE, float32, trimmed, its loudest sample at 0.7."""
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "--stdout", word]
    said = subprocess.run(command, capture_output=True, check=True).stdout
    wave, rate = soundfile.read(io.BytesIO(said), dtype="float32")
    wave = resample(wave, rate, RATE)
    loud = np.abs(wave) > QUIET * np.abs(wave).max()
    first, last = loud.argmax(), len(wave) - loud[::-1].argmax()
    wave = wave[max(0, first - RATE // 100) : last + RATE // 50]
    edge = RATE // 200
    wave[:edge] *= np.linspace(0, 1, edge)
    wave[-edge:] *= np.linspace(1, 0, edge)
    return 0.7 * wave / np.abs(wave).max()


def main() -> None:
    index: dict[str, dict[str, list[int]]] = {}
    for name, settings in VOICES.items():
        parts, at = [], 0
        index[name] = {}
        for word in WORDS:
            wave = spoken(word, *settings)
            index[name][word] = [at, at + len(wave)]
            parts += [wave, np.zeros(GAP, np.float32)]
            at += len(wave) + GAP
        path = ASSETS / f"voice_{name}.ogg"
        soundfile.write(path, np.concatenate(parts), RATE, format="OGG", subtype="OPUS",
                        compression_level=0.92)  # fmt: skip
        print(f"{path.name}: {len(WORDS)} words, {at / RATE:.0f} s, {path.stat().st_size} bytes")
    (ASSETS / "voices.json").write_text(json.dumps(index) + "\n")


if __name__ == "__main__":
    main()
