"""Pictures: what is read, what is refused and in which words, what is written and how."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from unified.media import picture
from unified.media.picture import MediaError
from unified.processing import UnifiedImageProcessor


def noise(width: int = 20, height: int = 14) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png_claiming(width: int, height: int) -> bytes:
    """A few bytes whose header promises a picture of any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# Reading


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp"])
def test_common_kinds_are_read_whatever_their_name(ending: str, tmp_path: Path) -> None:
    noise().save(tmp_path / f"a.{ending}")
    os.rename(tmp_path / f"a.{ending}", tmp_path / "a.txt")
    image = picture.read(tmp_path / "a.txt")
    assert (image.mode, image.size) == ("RGB", (20, 14))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    noise().convert("L" if mode == "LA" else "RGB").convert(mode).save(tmp_path / "a.png")
    assert picture.read(tmp_path / "a.png").mode == "RGB"


def test_cmyk_keeps_its_colour(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (200, 30, 30)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    red, green, blue = picture.read(tmp_path / "a.jpg").getpixel((4, 4))  # type: ignore[misc]
    assert red > 150 and green < 90 and blue < 90


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 16 * 16).reshape(16, 16).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    read = np.asarray(picture.read(tmp_path / "a.png"))[..., 0]
    assert np.abs(read - grey / 257).max() <= 1


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
    palette = Image.new("P", (4, 4))
    palette.putpalette([255, 0, 0] * 256)
    palette.save(tmp_path / "a.gif", transparency=0)
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "b.png", transparency=(1, 2, 3))
    for name in ("a.png", "a.gif", "b.png"):
        assert picture.read(tmp_path / name).getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_is_upright_and_of_one_frame(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # held sideways
    noise().save(tmp_path / "a.jpg", exif=exif)
    assert picture.read(tmp_path / "a.jpg").size == (14, 20)
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert picture.read(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_large_ones_are_shrunk_on_request(tmp_path: Path) -> None:
    noise(200, 100).save(tmp_path / "a.png")
    assert picture.read(tmp_path / "a.png", longest=50).size == (50, 25)


# Refusing


def refusal(path: Path) -> str:
    with pytest.raises(MediaError) as raised:
        picture.read(path)
    text = str(raised.value)
    assert "\n" not in text and text.count(": ") >= 1
    return text


def test_bad_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "huge.png").write_bytes(png_claiming(40_000, 40_000))
    (tmp_path / "wide.png").write_bytes(png_claiming(8_000, 8_000))
    (tmp_path / "heavy.png").write_bytes(b"")
    os.truncate(tmp_path / "heavy.png", picture.MAX_BYTES + 1)
    os.mkfifo(tmp_path / "pipe.png")
    said = {
        "missing.png": "no such file",
        "text.png": "not a picture; give a PNG, JPEG, WEBP, GIF or BMP",
        "empty.png": "the file is empty",
        "huge.png": "1600 megapixels, and the limit is 40 megapixels",
        "wide.png": "8000x8000 pixels, and the limit is 40 megapixels",
        "heavy.png": "the limit is 32 MB",
        "pipe.png": "not a plain file",
        ".": "this is a folder",
        "text.png/in.png": "cannot be read",
        "x" * 300: "cannot be read",
        "nul\0.png": "not a path",
    }
    for name, words in said.items():
        assert words in refusal(tmp_path / name), name


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_unreadable_is_refused(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert "may not be read" in refusal(tmp_path / "a.png")


def test_permission_errors_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    noise().save(tmp_path / "a.png")
    monkeypatch.setattr(Path, "open", refuse)
    assert "may not be read; check its permissions" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp"])
def test_truncated_is_refused_even_where_pillow_was_told_to_be_lenient(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    noise().save(tmp_path / f"a.{ending}")
    data = (tmp_path / f"a.{ending}").read_bytes()
    for length in (6, 24, len(data) // 2):
        (tmp_path / "cut").write_bytes(data[:length])
        assert "cut short or damaged" in refusal(tmp_path / "cut")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_a_name_cannot_command_the_terminal(tmp_path: Path) -> None:
    assert "\x1b" not in refusal(tmp_path / "\x1b[31mred.png")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_a_media_error_or_a_picture(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    ending = data.draw(st.sampled_from(["png", "jpg", "webp", "gif", "bmp"]))
    path = folder / f"damage.{ending}"
    noise().save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            assert picture.read(path).mode == "RGB"
        except MediaError as error:
            assert str(error).startswith(str(path))


# Writing


MADE = {"prompt": "ein Käse ☃", "seed": 3, "settings": {"top_p": 0.9}, "model": "toybox 12ab"}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    image = noise()
    assert picture.save_png(image, tmp_path / "a.png", MADE) == tmp_path / "a.png"
    assert picture.read(tmp_path / "a.png").tobytes() == image.tobytes()
    assert picture.metadata(tmp_path / "a.png") == MADE
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    noise().save(tmp_path / "b.jpg")
    assert picture.metadata(tmp_path / "b.jpg") == {}


@settings(max_examples=50, deadline=None)
@given(prompt=st.text(max_size=200))
def test_any_prompt_is_kept(prompt: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "prompt.png"
    picture.save_png(noise(2, 2), path, {"prompt": prompt})
    assert picture.metadata(path)["prompt"] == prompt.replace("\0", " ")


def test_bytes_that_are_no_text_do_not_spoil_the_metadata(tmp_path: Path) -> None:
    picture.save_png(noise(2, 2), tmp_path / "a.png", {"prompt": "a\udc80b"})
    assert picture.metadata(tmp_path / "a.png")["prompt"] == "a?b"


def test_new_names_leave_old_files_alone(tmp_path: Path) -> None:
    paths = [picture.save_new(noise(), tmp_path / "a.png") for _ in range(3)]
    assert [path.name for path in paths] == ["a.png", "a-1.png", "a-2.png"]
    with pytest.raises(FileExistsError):
        picture.save_png(noise(), tmp_path / "a.png", overwrite=False)


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    picture.save_png(noise(), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink() and (tmp_path / "real.png").is_file()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none/a.png", "does not exist; create it"),
        ("a.jpg", "give a name that ends in .png"),
        ("folder.png", "this is a folder"),
        ("x" * 300 + ".png", "cannot be written"),
        ("/proc/unified/a.png", "does not exist"),
    ],
)
def test_unwritable_places_are_refused(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(MediaError, match=words):
        picture.save_png(noise(), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_failed_writes_leave_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    picture.save_png(noise(), tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MediaError, match="No space left"):
        picture.save_png(noise(30, 30), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("size", [(40_000, 2), (1, 9000)])
def test_a_long_strip_takes_little_room(size: tuple[int, int]) -> None:
    strip = Image.new("RGB", size, "red")
    assert picture.square(strip).size == (picture.MAX_SIDE, picture.MAX_SIDE)
    for crop in (None, "lanczos"):
        pixels = UnifiedImageProcessor(64, crop=crop).pixels(strip)
        assert pixels.shape == (3, 64, 64) and pixels[0].mean() > 0.9
