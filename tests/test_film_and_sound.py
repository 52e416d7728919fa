"""Films and sound of the toybox: exact, pure, split by rule; and their files."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from unified.media.film import read_film, write_film
from unified.media.picture import MediaError
from unified.media.pixels import to_tensor
from unified.media.sound import read_sound, resample, write_sound
from unified.media.tensors import read_media
from unified.tokenizers.codec import CodecSpec
from unified.toybox.film import (
    CAMERAS,
    DIRECTIONS,
    FPS,
    MOTIONS,
    Actor,
    Film,
    film_words,
    held_out_film,
    render_film,
    sample_film,
    soundtrack,
)
from unified.toybox.sounds import (
    SOUNDS,
    Clip,
    Event,
    clip_words,
    render_clip,
    sample_clip,
    sound,
)
from unified.toybox.voices import RATE, WORDS, held_out_word, spoken, voices

SPLITS = ("train", "seen", "held_out")


def one(motion: str, **settings: object) -> Film:
    values: dict = {"x": 24, "y": 24, "speed": 1.5, **settings}
    return Film((Actor("circle", "red", "small", motion=motion, **values),), "white")


def red(frame: np.ndarray) -> np.ndarray:
    """Rows and columns of the red pixels, (N, 2)."""
    colours = frame.astype(int)
    return np.argwhere((colours[..., 0] > 150) & (colours[..., 1] < 90))


# --- films -------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_films_are_pure_and_split(split: str) -> None:
    kinds, cameras = set(), set()
    for index in range(60):
        film = sample_film(random.Random(index), split)
        assert film == sample_film(random.Random(index), split)
        assert held_out_film(film) == (split == "held_out")
        kinds |= {actor.motion for actor in film.actors}
        cameras.add(film.camera)
        json.dumps(film.facts())
        assert film_words(film)
    assert kinds == set(MOTIONS) if split == "train" else kinds <= set(MOTIONS)
    assert cameras <= set(CAMERAS)
    frames = render_film(film)
    assert frames.shape == (17, 64, 64, 3) and frames.dtype == np.uint8
    with pytest.raises(ValueError, match="unknown split"):
        sample_film(random.Random(0), "test")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_things_move_as_the_facts_say(direction: str) -> None:
    film = one(direction)
    frames = render_film(film)
    first, last = (red(frames[k]).mean(0) for k in (0, 16))
    dx, dy = DIRECTIONS[direction]
    np.testing.assert_allclose(last - first, (24 * dy, 24 * dx), atol=1)


def test_things_appear_and_disappear_when_the_facts_say() -> None:
    for motion in ("appear", "disappear"):
        frames = render_film(one(motion, frame=7))
        seen = [len(red(frame)) > 20 for frame in frames]
        assert seen == [(k >= 7) == (motion == "appear") for k in range(17)]


def test_a_bounce_is_heard_when_it_is_seen() -> None:
    film = one("bounce", y=6, frame=8)
    lows = [red(frame)[:, 0].max() for frame in render_film(film)]
    landings = film.actors[0].landings(film.frames)
    assert landings == [4, 12]
    assert all(lows[k] == max(lows) for k in landings) and min(lows) < max(lows) - 20
    wave = render_clip(soundtrack(film))
    assert len(wave) == round(film.seconds * RATE)
    for k in landings:
        at = round(k / FPS * RATE)
        assert np.abs(wave[at - 400 : at]).max() < 0.02 < 0.2 < np.abs(wave[at : at + 800]).max()


def test_cameras_move_what_they_should() -> None:
    still = Film((Actor("circle", "red", "small", 24, 12), Actor("square", "blue", "big", 0, 30)),
                 "meadow")  # fmt: skip
    places = {}
    for camera in CAMERAS:
        film = Film(still.actors, "meadow", camera, 1.0)
        frames = render_film(film)
        small = [red(frames[k]).mean(0)[1] for k in (0, 10)]
        blue = (frames[10][..., 2].astype(int) > 150) & (frames[10][..., 0] < 90)
        places[camera] = (small[1] - small[0], len(red(frames[10])), np.argwhere(blue)[:, 1].max())
    assert places["still"][0] == 0
    assert places["pan right"][0] == pytest.approx(-10)
    assert places["pan left"][0] == pytest.approx(10)
    assert places["truck right"][0] == pytest.approx(-5)  # far, so half the way of what is near
    assert places["truck left"][2] - places["still"][2] == 10
    assert places["zoom in"][1] > 1.3 * places["still"][1]
    assert places["zoom out"][1] > places["still"][1]


# --- sound -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOUNDS)
def test_every_sound_is_clean(name: str) -> None:
    wave = sound(name, SOUNDS[name][2][0], 5)
    assert wave.dtype == np.float32 and np.isfinite(wave).all()
    assert np.abs(wave).max() == pytest.approx(1, abs=1e-4) and abs(wave[0]) < 0.01
    assert np.array_equal(wave, sound(name, SOUNDS[name][2][0], 5))
    if name not in ("drum", "bounce", "pop"):
        assert not np.array_equal(wave, sound(name, SOUNDS[name][2][0], 6))


def test_every_word_is_spoken_by_every_voice() -> None:
    assert len(WORDS) >= 100 and len(voices()) >= 4
    for voice in voices():
        for word in WORDS:
            wave = spoken(word, voice)
            assert 0.1 < len(wave) / RATE < 1.5 and np.abs(wave).max() > 0.4
    with pytest.raises(ValueError, match="no voice"):
        spoken("cat", "nobody")
    with pytest.raises(ValueError, match="no recording"):
        spoken("zebra", "ada")


@pytest.mark.parametrize("split", SPLITS)
def test_clips_are_pure_and_split(split: str) -> None:
    for index in range(30):
        clip = sample_clip(random.Random(index), split)
        assert clip == sample_clip(random.Random(index), split)
        kept = any(e.voice and held_out_word(e.name, e.voice) for e in clip.events)
        assert kept == (split == "held_out")
        assert all(e.end <= clip.seconds + 1e-6 for e in clip.events)
        assert clip_words(clip) and json.dumps(clip.facts())
    wave = render_clip(clip)
    assert wave.shape == (round(clip.seconds * RATE),) and np.abs(wave).max() <= 1


def test_an_event_is_heard_when_the_facts_say() -> None:
    clip = Clip((Event("high tone", 0.5, 0.4),), 1.5)
    loud = np.abs(render_clip(clip)) > 0.05
    assert abs(loud.argmax() / RATE - 0.5) < 0.01
    assert abs((len(loud) - loud[::-1].argmax()) / RATE - 0.9) < 0.03


# --- files -------------------------------------------------------------------------------------


def test_sound_files_there_and_back(tmp_path: Path) -> None:
    wave = render_clip(sample_clip(random.Random(1)))
    for name, error in (("a.wav", 1e-3), ("a.flac", 1e-3), ("a.ogg", 0.2)):
        write_sound(tmp_path / name, wave, RATE)
        again = read_sound(tmp_path / name, RATE)
        assert abs(len(again) - len(wave)) < 400
        size = min(len(again), len(wave))
        assert np.abs(again[:size] - wave[:size]).mean() < error
    half = read_sound(tmp_path / "a.wav", RATE // 2)
    assert abs(2 * len(half) - len(wave)) < 200
    assert abs(len(resample(wave, RATE, 24_000)) - len(wave) * 1.5) < 200


def test_many_channels_are_mixed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "eight.wav", np.full((4000, 8), 0.25, np.float32), RATE)
    for kind in ("PCM_16", "PCM_24", "PCM_U8", "FLOAT"):
        for count in (1, 2, 6, 8):
            sides = np.linspace(0.5, 1, count) * np.ones((4000, 1))
            soundfile.write(tmp_path / "several.wav", sides, RATE, subtype=kind)
            mixed = read_sound(tmp_path / "several.wav", RATE)
            assert len(mixed) == 4000
            assert np.abs(mixed - sides.mean()).max() < 0.02  # as loud as they are


def test_film_files_there_and_back(tmp_path: Path) -> None:
    frames = render_film(sample_film(random.Random(3)))
    for name in ("a.mp4", "a.gif"):
        write_film(tmp_path / name, frames, FPS)
        again = read_film(tmp_path / name, FPS, 64)
        assert again.shape == frames.shape
        assert np.abs(again.astype(int) - frames.astype(int)).mean() < 6
    assert len(read_film(tmp_path / "a.mp4", FPS / 2, 32)) == 9
    assert len(read_film(tmp_path / "a.mp4", 2 * FPS, 64)) == 34


def test_bad_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "empty.mp4").write_bytes(b"")
    write_sound(tmp_path / "a.wav", np.zeros(100, np.float32), RATE)
    write_film(tmp_path / "a.mp4", np.zeros((2, 64, 64, 3), np.uint8), FPS)
    for call, words in (
        (lambda: read_sound(tmp_path / "none.wav", RATE), "no such file"),
        (lambda: read_sound(tmp_path / "text.wav", RATE), "not readable"),
        (lambda: read_sound(tmp_path / "a.mp4", RATE), "no sound in it"),
        (lambda: read_sound(tmp_path / "a.wav", RATE, longest=0.001), "longer than"),
        (lambda: read_film(tmp_path / "empty.mp4", FPS, 64), "not readable"),
        (lambda: read_film(tmp_path / "a.wav", FPS, 64), "no pictures in it"),
        (lambda: read_film(tmp_path / "a.mp4", FPS, 64, longest=1), "longer than"),
        (lambda: write_film(tmp_path / "a.avi", np.zeros((1, 8, 8, 3), np.uint8), FPS), "ends in"),
        (lambda: write_sound(tmp_path / "no" / "a.wav", np.zeros(9), RATE), "cannot write"),
    ):
        with pytest.raises(MediaError, match=words):
            call()


def test_a_variable_rate_keeps_its_pace(tmp_path: Path) -> None:
    """Four frames at 0, 0.5, 0.6 and 1.0 seconds."""
    with av.open(str(tmp_path / "v.mkv"), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for time, level in ((0, 0), (5, 80), (6, 160), (10, 240)):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8), "rgb24")
            frame.pts = time
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    levels = read_film(tmp_path / "v.mkv", 10, 64).mean((1, 2, 3))
    np.testing.assert_allclose(levels, [0] * 5 + [80] + [160] * 4 + [240], atol=6)


def test_a_frame_that_stands_for_years_is_too_long(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "v.mkv"), "w") as file:
        stream = file.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        for time in (0, 2_000_000_000):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
            frame.pts = time
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    with pytest.raises(MediaError, match="longer than"):
        read_film(tmp_path / "v.mkv", 8, 64)
    assert len(read_film(tmp_path / "v.mkv", 8, 64, count=9, at=0.0)) == 9


SOUND = CodecSpec((4,), (0,), channels=1, medium="audio", rate=RATE, first=640, stride=640)
MOVIE = CodecSpec((4,), (0,), (64, 64), medium="video", rate=FPS, stride=4)


@pytest.mark.parametrize(
    ("samples", "channels", "rate"),
    [(1, 1, RATE), (100, 2, 44_100), (8000, 8, 8000), (400, 1, 96_000)],
)
def test_odd_sound_is_mixed_and_resampled(
    samples: int, channels: int, rate: int, tmp_path: Path
) -> None:
    """One sample, few, eight channels, other rates, silence: a batch of one that a codec takes."""
    path = tmp_path / "odd.wav"
    soundfile.write(path, np.zeros((samples, channels), np.float32), rate)
    media = read_media(path, SOUND)
    assert media.shape[:2] == (1, 1) and media.dtype == torch.float32
    assert abs(media.shape[2] - samples * RATE / rate) <= 20 and not media.any()


def test_sound_that_is_no_number_is_refused(tmp_path: Path) -> None:
    wave = np.zeros(800, np.float32)
    wave[400] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, RATE, subtype="FLOAT")
    with pytest.raises(MediaError, match="not numbers"):
        read_media(tmp_path / "nan.wav", SOUND)
    soundfile.write(tmp_path / "none.wav", wave[:0], RATE)
    with pytest.raises(MediaError, match="holds no samples|not readable"):
        read_media(tmp_path / "none.wav", SOUND)
    soundfile.write(tmp_path / "short.wav", np.zeros(1, np.float32), 96_000)
    with pytest.raises(MediaError, match="shorter than one sample at 16000 Hz"):
        read_media(tmp_path / "short.wav", SOUND)


def test_a_picture_and_one_frame_are_films(tmp_path: Path) -> None:
    frame = render_film(sample_film(random.Random(3)))[:1]
    write_film(tmp_path / "one.mp4", frame, FPS)
    Image.fromarray(frame[0]).save(tmp_path / "one.png")
    turned = Image.fromarray(frame[0]).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # as a telephone writes what was held upright
    turned.save(tmp_path / "held.png", exif=exif)
    for name, error in (("one.mp4", 0.1), ("one.png", 0), ("held.png", 0)):
        media = read_media(tmp_path / name, MOVIE)
        assert media.shape == (1, 3, 1, 64, 64)
        assert (media[0, :, 0] - to_tensor(frame)[0]).abs().mean() <= error


def test_a_film_stands_upright_as_its_header_says(tmp_path: Path) -> None:
    frames = render_film(sample_film(random.Random(3)))
    write_film(tmp_path / "a.MP4", frames, FPS)
    data = bytearray((tmp_path / "a.MP4").read_bytes())
    lying = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    held = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30)
    at = data.index(lying, data.index(b"tkhd"))
    data[at : at + 36] = held  # a quarter turn clockwise
    (tmp_path / "b.mp4").write_bytes(data)
    one, two = (read_film(tmp_path / name, FPS, 64).astype(int) for name in ("a.MP4", "b.mp4"))
    assert np.abs(np.rot90(one, -1, (1, 2)) - two).mean() < 1 < np.abs(one - two).mean()


def test_a_film_without_pictures_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(8000, np.float32), RATE)
    with (
        av.open(str(tmp_path / "sound.mp4"), "w") as file,
        av.open(str(tmp_path / "a.wav")) as wave,
    ):
        stream = file.add_stream("aac", rate=RATE)
        for part in wave.decode(audio=0):
            file.mux(stream.encode(part))
        file.mux(stream.encode())
    with pytest.raises(MediaError, match="no pictures in it; as sound it may be read"):
        read_media(tmp_path / "sound.mp4", MOVIE)
    assert read_media(tmp_path / "sound.mp4", SOUND).shape[2] >= 8000
    with av.open(str(tmp_path / "none.mkv"), "w") as file:
        silent = file.add_stream("libx264", rate=10)
        silent.width = silent.height = 64
        silent.pix_fmt = "yuv420p"
        file.mux(silent.encode())
        file.start_encoding()
    with pytest.raises(MediaError, match="not one frame|not readable"):
        read_media(tmp_path / "none.mkv", MOVIE)
