"""Tokenizers learn from people's own pictures, films and sound, of any data that can be read."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from unified import cli
from unified.media.film import read_film, write_film
from unified.media.sound import read_sound
from unified.tokenizers.codec import CodecSpec
from unified.tokenizers.kinds import load_codec
from unified.train.media import Media, MediaConfig, captions
from unified.train.recipe import run
from unified.train.records import DataError

RATE = 16_000
PICTURE = CodecSpec((4,), (0,), (32, 32))
FILM = CodecSpec((4,), (0,), (32, 32), medium="video", rate=8, stride=4)
SOUND = CodecSpec((4,), (0,), channels=1, medium="audio", rate=RATE, first=640, stride=640)


def tone(seconds: float, rate: int, pitch: float = 220.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all three media, one of each damaged, none with words."""
    place = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for k in range(24):
        values = rng.integers(0, 255, (20 + 5 * k, 40, 3), np.uint8)
        Image.fromarray(values).save(place / f"picture-{k}.png")
        soundfile.write(place / f"sound-{k}.wav", tone(0.2 + 0.1 * k, 22_050, 200 + k), 22_050)
    for k in range(6):
        grey = np.linspace(0, 250, 8 * (k + 1)).astype(np.uint8)
        write_film(place / f"film-{k}.mp4", grey[:, None, None, None].repeat(32, 1).repeat(48, 2)
                   .repeat(3, 3), 8)  # fmt: skip
    for name in ("damaged.png", "damaged.wav", "damaged.mp4"):
        (place / name).write_bytes(b"no such thing")
    return place


def media(folder: Path, spec: CodecSpec, length: int = 0, **settings: Any) -> Media:
    config = MediaConfig(path=str(folder), **settings)
    return Media(config, spec, length=length, seed=3, unreadable=0.3)


@pytest.mark.parametrize(
    ("spec", "length", "shape"),
    [(PICTURE, 0, (3, 32, 32)), (FILM, 9, (3, 9, 32, 32)), (SOUND, 1280, (1, 1280))],
)
def test_what_is_drawn_is_a_function_of_its_number(
    spec: CodecSpec, length: int, shape: tuple[int, ...], folder: Path
) -> None:
    one = media(folder, spec, length)
    pieces = one.batch(0, 8)
    assert pieces.shape == (8, *shape) and pieces.dtype == torch.float32
    assert pieces.abs().max() <= 1
    assert len(pieces.flatten(1).unique(dim=0)) >= 4  # there are few films, and short ones
    again = media(folder, spec, length)
    assert torch.equal(again.batch(5, 3), pieces[5:])  # whatever was drawn before
    assert torch.equal(one.batch(0, 8), pieces)


def test_what_is_kept_apart_is_never_drawn(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "more")
    few = media(folder, PICTURE, held_out=0.3)
    kept = {few.files.name(k).rpartition("/")[2] for k in few.kept}
    learnt = {few.files.name(k).rpartition("/")[2] for k in few.learnt}
    assert kept and not kept & learnt and len(kept | learnt) == 25
    drawn, apart = few.batch(0, len(few)).flatten(1), few.held_out(99).flatten(1)
    assert not (torch.cdist(drawn, apart) == 0).any()
    Image.new("RGB", (9, 9)).save(tmp_path / "more" / "a-new-one.png")
    more = media(tmp_path / "more", PICTURE, held_out=0.3)
    assert kept <= {more.files.name(k).rpartition("/")[2] for k in more.kept} | {"a-new-one.png"}


def test_a_piece_of_a_film_is_cut_out_of_it(tmp_path: Path) -> None:
    grey = np.arange(0, 250, 5).astype(np.uint8)  # 50 frames
    frames = grey[:, None, None, None].repeat(32, 1).repeat(32, 2).repeat(3, 3)
    write_film(tmp_path / "a.mp4", frames, 8)
    whole = read_film(tmp_path / "a.mp4", 8, 32)
    for at, first in ((0.0, 0), (0.5, 20), (1.0, 40)):
        piece = read_film(tmp_path / "a.mp4", 8, 32, longest=1, count=10, at=at)
        assert np.abs(piece.astype(int) - whole[first : first + 10]).max() <= 6
    assert len(read_film((tmp_path / "a.mp4").read_bytes(), 8, 32, count=99)) == 50


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_a_piece_of_sound_is_cut_out_of_it(ending: str, tmp_path: Path) -> None:
    wave = tone(3, RATE) * np.linspace(0, 1, 3 * RATE)
    soundfile.write(tmp_path / f"a.{ending}", wave, RATE)
    path = tmp_path / f"a.{ending}"
    whole = read_sound(path, RATE)
    for at in (0.0, 0.4, 1.0):
        first = round(at * (3 * RATE - 8000))
        piece = read_sound(path, RATE, longest=0.1, count=8000, at=at)
        assert len(piece) == 8000
        cut = whole[first : first + 8000]
        assert piece.std() == pytest.approx(cut.std(), rel=0.1)  # it grows louder
        if ending != "ogg":  # whose packets do not say exactly when they begin
            assert np.abs(piece - cut).max() < 0.05
    assert len(read_sound(path.read_bytes(), RATE // 2, count=99 * RATE)) == pytest.approx(
        1.5 * RATE,
        abs=200,  # some decoders swallow the first packet
    )


def test_any_data_with_media_are_read(folder: Path, tmp_path: Path) -> None:
    import datasets

    pictures = sorted(folder.glob("picture-*.png"))[:6]
    shown = [{"type": "image", "path": str(path)} for path in pictures]
    rows = [
        {"messages": [{"role": "user", "content": [part]}, {"role": "assistant", "content": "Yes"}]}
        for part in shown
    ]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for path in pictures:
            tar.add(path, path.name)
    table = {"image": [{"bytes": path.read_bytes(), "path": None} for path in pictures]}
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "table.parquet")
    found = []
    for name in ("chats.jsonl", "shard.tar", "table.parquet"):
        data = media(tmp_path / name, PICTURE)
        whole = torch.cat([data.batch(0, len(data)), data.held_out(9)])
        found.append({tuple(x.flatten()[:50].tolist()) for x in whole})
    assert len(found[0]) == 6 and found[0] == found[1] == found[2]


def test_the_soundtrack_of_a_film_is_sound_and_its_absence_is_said(folder: Path) -> None:
    data = media(folder, SOUND, 1280)
    names = [data.files.name(k) for k in (*data.learnt, *data.kept)]
    assert any(name.endswith(".mp4") for name in names)
    index = next(k for k in data.files.places if "film" in data.files.name(k))
    with pytest.raises(ValueError, match="has no sound in it"):
        data._read(index, 0.0)


def test_data_that_do_not_do_are_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "words" / "a.png")
    with pytest.raises(DataError, match="no films in it"):
        media(tmp_path / "words", FILM, 9)
    with pytest.raises(DataError, match="no such file or folder"):
        media(tmp_path / "nowhere", PICTURE)
    (tmp_path / "words" / "b.png").write_bytes(b"?")
    (tmp_path / "words" / "c.png").write_bytes(b"?")
    (tmp_path / "words" / "d.png").write_bytes(b"?")
    two = media(tmp_path / "words", PICTURE)
    kept = [Path(two.files.name(k)).name for k in two.kept]
    assert len(kept) == 1 and len(two) == 3
    for name in ("a.png", "b.png", "c.png", "d.png"):
        shutil.copy(folder / "picture-3.png", tmp_path / "words" / name)
    (tmp_path / "words" / kept[0]).write_bytes(b"?")
    with pytest.raises(ValueError, match="kept apart none can be read"):  # before any training
        media(tmp_path / "words", PICTURE).begin(tmp_path / "run")
    for name in ("a.png", "b.png", "c.png", "d.png"):
        (tmp_path / "words" / name).write_bytes(b"?")
    with pytest.raises(ValueError, match="not a picture"):
        media(tmp_path / "words", PICTURE).begin(tmp_path / "run")
    strict = Media(MediaConfig(path=str(folder)), PICTURE, unreadable=0.0)
    with pytest.raises(DataError, match=r"loop\.unreadable\).*damaged\.png"):
        strict.batch(0, len(strict))


@pytest.mark.parametrize("recipe", ["pixels", "video", "audio"])
def test_a_tokenizer_is_trained_on_a_folder(recipe: str, folder: Path, tmp_path: Path) -> None:
    args = ["tokenizer", "train", recipe, "--data", str(folder), "--out", str(tmp_path), "--set",
            "scale=tiny", "--set", "tokenizer.loop.unreadable=0.5", "--device", "cpu"]  # fmt: skip
    assert cli.run(args) == 0
    place = tmp_path / "tokenizer"
    codec = load_codec(place / "model")
    assert codec.spec.medium == {"pixels": "image"}.get(recipe, recipe)
    rows = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    held = "held_out_mel" if recipe == "audio" else "held_out_psnr"
    assert any(np.isfinite(row[held]) for row in rows if held in row)
    if recipe == "pixels":
        aside = (place / "quarantine.jsonl").read_text().splitlines()
        assert [json.loads(row)["record"].rpartition("/")[2] for row in aside] == ["damaged.png"]


def test_a_killed_run_over_files_goes_on_as_if_it_had_not(folder: Path, tmp_path: Path) -> None:
    settings = ["scale=tiny", f"tokenizer.data={folder}", "tokenizer.loop.unreadable=0.5",
                "tokenizer.loop.log_every=1"]  # fmt: skip
    losses = []
    for name in ("whole", "killed"):
        out = tmp_path / name
        run("audio", ["tokenizer"], settings, out, device="cpu", progress=False)
        if name == "killed":
            shutil.rmtree(out / "tokenizer" / "checkpoints" / "step-6")
            run("audio", ["tokenizer"], settings, out, device="cpu", progress=False)
        rows = map(json.loads, (out / "tokenizer" / "log.jsonl").read_text().splitlines())
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert losses[0] == losses[1] and len(losses[0]) == 6
    with pytest.raises(ValueError, match="begun with other data"):
        run("audio", ["tokenizer"], [*settings, "tokenizer.data.held_out=0.5"], tmp_path / "whole",
            device="cpu", progress=False)  # fmt: skip


def test_seed_learns_from_pictures_and_their_captions(folder: Path, tmp_path: Path) -> None:
    settings = ["scale=tiny", f"tokenizer.data={tmp_path / 'own'}"]
    (tmp_path / "own").mkdir()
    for k, path in enumerate(sorted(folder.glob("picture-*.png"))):
        shutil.copy(path, tmp_path / "own" / path.name)
        if k:
            words = f"zebra number {k}"
            (tmp_path / "own" / path.name).with_suffix(".txt").write_text(words)
    config = MediaConfig(path=str(tmp_path / "own"))
    assert len(list(captions(config, 99))) == 23
    settings += ["tokenizer.loops.teacher.unreadable=0.1"]
    run("seed", ["tokenizer"], settings, tmp_path / "run", device="cpu", progress=False)
    assert load_codec(tmp_path / "run" / "tokenizer" / "model").spec.nested
    for path in (tmp_path / "own").glob("*.txt"):
        path.unlink()
    with pytest.raises(ValueError, match="no caption; write one"):
        run("seed", ["tokenizer"], settings, tmp_path / "none", device="cpu", progress=False)


@pytest.mark.parametrize("recipe", ["pixels", "video", "audio"])
def test_a_tokenizer_is_judged_on_a_folder(
    recipe: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["scale=tiny", "tokenizer.loop.steps=2", "tokenizer.loop.sample_every=0"]
    if recipe == "pixels":
        settings.append("tokenizer.model.image_size=128")
    settings += ["tokenizer.free=1"] if recipe == "audio" else []
    run(recipe, ["tokenizer"], settings, tmp_path, device="cpu", progress=False)
    place, grid = str(tmp_path / "tokenizer" / "model"), tmp_path / "grid.png"
    args = ["tokenizer", "eval", place, "--data", str(folder), "--limit", "5", "--json", "--grid",
            str(grid)]  # fmt: skip
    assert cli.run(args) == 0
    rows = {row["metric"]: row for row in json.loads(capsys.readouterr().out)}
    distance = "mel_distance" if recipe == "audio" else "psnr"
    assert rows[distance]["n"] == 5 and rows[distance]["split"] == "given"
    assert not {"recognised", "motion_kept", "words_recognised"} & set(rows)
    assert Image.open(grid).width > 100
    assert cli.run([*args, "--probe"]) == 2
    assert "--probe asks for facts" in capsys.readouterr().err
