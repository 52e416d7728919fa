"""Readers of fine-tuning data: each format from a small file in its own shape, found out alone."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unified.train import records as canonical
from unified.train.formats import READERS, Reader, register
from unified.train.readers import formats, read
from unified.train.records import DataError, Message, Part, Record
from unified.train.sources import Sample

ROOT = Path(__file__).parent.parent
COLOURS = ("red", "green", "blue", "white")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where every test works: red.png and so on, a.wav, a.mp4."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".cache")
    monkeypatch.chdir(tmp_path)
    for colour in COLOURS:
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{colour}.png")
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "a.mp4").write_bytes(b"....ftyp")
    return tmp_path


def png(colour: str) -> bytes:
    return Path(f"{colour}.png").read_bytes()


def lines(*rows: Any, name: str = "data.jsonl") -> Path:
    path = Path(name)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(messages: tuple[Message, ...]) -> list[tuple[str, list[str]]]:
    """Roles, and texts and names of files in order; what is not as its role is marked ! or *."""
    out = []
    for message in messages:
        parts = []
        for part in message.parts:
            name = part.text if part.type == "text" else f"{part.type}:{Path(part.name).name}"
            own = message.role == "assistant"
            parts.append(name + ("" if part.loss == own else "*" if part.loss else "!"))
        out.append((message.role, parts))
    return out


def user(*parts: str) -> tuple[str, list[str]]:
    return "user", list(parts)


def reply(*parts: str) -> tuple[str, list[str]]:
    return "assistant", list(parts)


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def human(value: str) -> dict[str, str]:
    return {"from": "human", "value": value}


def gpt(value: str) -> dict[str, str]:
    return {"from": "gpt", "value": value}


# One sample of each shape: the row, the format, what is said, what is rejected

CAT = [user("image:red.png", "What is it?"), reply("A cat.")]
SHAPES: dict[str, tuple[dict[str, Any], str, list[Any], list[Any] | None]] = {
    "canonical": (
        {
            "messages": [
                message("user", [{"type": "image", "path": "red.png"}, "What is it?"]),
                message("assistant", "A cat."),
            ]
        },
        "canonical",
        CAT,
        None,
    ),
    "canonical, loss per part": (
        {
            "messages": [
                message("system", "Be kind."),
                message("user", [{"type": "text", "text": "Draw.", "loss": True}]),
                message(
                    "assistant",
                    [
                        {"type": "text", "text": "Well,", "loss": False},
                        {"type": "image", "path": "red.png"},
                    ],
                ),
                message("assistant", "There.", loss=False),
            ],
            "rejected": [message("assistant", [{"type": "image", "path": "blue.png"}])],
        },
        "canonical",
        [("system", ["Be kind."]), user("Draw.*"), reply("Well,!", "image:red.png"),
         reply("There.!")],
        [reply("image:blue.png")],
    ),
    "llava": (
        {"id": "7", "image": "red.png",
         "conversations": [human("<image>\nWhat is it?"), gpt("A cat.")]},
        "llava",
        CAT,
        None,
    ),
    "llava without a place": (
        {"id": "7", "image": "red.png", "conversations": [human("What is it?"), gpt("A cat.")]},
        "llava",
        CAT,
        None,
    ),
    "llava, several": (
        {"id": "7", "image": ["red.png", "blue.png"],
         "conversations": [human("<image>\n<image>\nSame?"), gpt("No.")]},
        "llava",
        [user("image:red.png", "image:blue.png", "Same?"), reply("No.")],
        None,
    ),
    "llava-video": (
        {"id": "7", "video": "a.mp4", "conversations": [human("<image>\nWhat?"), gpt("A cat.")]},
        "llava",
        [user("video:a.mp4", "What?"), reply("A cat.")],
        None,
    ),
    "sharegpt": (
        {"conversations": [human("<image>Hear <audio>and see <video>."), gpt("Yes.")],
         "system": "Be kind.", "images": ["red.png"], "audios": ["a.wav"], "videos": ["a.mp4"],
         "tools": ""},
        "sharegpt",
        [("system", ["Be kind."]),
         user("image:red.png", "Hear ", "audio:a.wav", "and see ", "video:a.mp4", "."),
         reply("Yes.")],
        None,
    ),
    "sharegpt, preference": (
        {"conversations": [human("Hi"), gpt("Yes?"), human("<image>What is it?")],
         "images": ["red.png"], "chosen": gpt("A cat."), "rejected": gpt("A dog.")},
        "sharegpt",
        [user("Hi"), reply("Yes?!"), *CAT],
        [reply("A dog.")],
    ),
    "alpaca": (
        {"instruction": "Add.", "input": "1 1", "output": "2", "system": "Be kind.",
         "history": [["Hi", "Yes?"]]},
        "alpaca",
        [("system", ["Be kind."]), user("Hi"), reply("Yes?"), user("Add.\n1 1"), reply("2")],
        None,
    ),
    "alpaca, preference": (
        {"instruction": "<image>What is it?", "input": "", "images": ["red.png"],
         "chosen": "A cat.", "rejected": "A dog."},
        "alpaca",
        CAT,
        [reply("A dog.")],
    ),
    "trl": (
        {"messages": [
            message("user", [{"type": "image"}, {"type": "text", "text": "What is it?"}]),
            message("assistant", [{"type": "text", "text": "A cat."}])],
         "images": ["red.png"]},
        "trl",
        CAT,
        None,
    ),
    "trl, pictures without a place": (
        {"messages": [message("user", "What is it?"), message("assistant", "A cat.")],
         "images": ["red.png"]},
        "trl",
        CAT,
        None,
    ),
    "trl, prompt and completion": (
        {"prompt": "What is an <image>?", "completion": "A cat."},
        "trl",
        [user("What is an <image>?"), reply("A cat.")],
        None,
    ),
    "trl, prompt and completion in messages": (
        {"prompt": [message("user", "Hi"), message("assistant", "Yes?"),
                    message("user", [{"type": "image"}, {"type": "text", "text": "What is it?"}])],
         "completion": [message("assistant", "A cat.")], "images": ["red.png"]},
        "trl",
        [user("Hi"), reply("Yes?!"), *CAT],
        None,
    ),
    "trl, preference": (
        {"prompt": [message("user", [{"type": "image"}, {"type": "text", "text": "What is it?"}])],
         "chosen": [message("assistant", "A cat.")], "rejected": [message("assistant", "A dog.")],
         "images": ["red.png"]},
        "trl",
        CAT,
        [reply("A dog.")],
    ),
    "trl, preference without a prompt": (
        {"chosen": [message("user", "What is it?"), message("assistant", "A cat.")],
         "rejected": [message("user", "What is it?"), message("assistant", "A dog.")]},
        "trl",
        [user("What is it?"), reply("A cat.")],
        [reply("A dog.")],
    ),
    "trl, preference of drawn pictures": (
        {"prompt": "Draw a cat.", "chosen": [message("assistant", [{"type": "image"}])],
         "rejected": [message("assistant", [{"type": "image"}])],
         "images": ["red.png"], "rejected_images": ["blue.png"]},
        "trl",
        [user("Draw a cat."), reply("image:red.png")],
        [reply("image:blue.png")],
    ),
    "trl, preference of drawn pictures in one column": (
        {"prompt": [message("user", [{"type": "image"}, {"type": "text", "text": "More blue."}])],
         "chosen": [message("assistant", [{"type": "image"}])],
         "rejected": [message("assistant", [{"type": "image"}])],
         "images": ["red.png", "blue.png", "green.png"]},
        "trl",
        [user("image:red.png", "More blue."), reply("image:blue.png")],
        [reply("image:green.png")],
    ),
    "ms-swift": (
        {"messages": [message("user", "<image>What is it?"), message("assistant", "A cat.")],
         "images": ["red.png"]},
        "ms-swift",
        CAT,
        None,
    ),
    "ms-swift, drawing": (
        {"messages": [message("user", "<image>Make it blue."),
                      message("assistant", "Gladly.", loss=False),
                      message("assistant", "Here: <image>", loss=True)],
         "images": ["red.png", "blue.png"]},
        "ms-swift",
        [user("image:red.png", "Make it blue."), reply("Gladly.!"),
         reply("Here: ", "image:blue.png")],
        None,
    ),
    "ms-swift, preference": (
        {"messages": [message("user", "<image>What is it?"), message("assistant", "A cat.")],
         "images": ["red.png"], "rejected_response": "A dog."},
        "ms-swift",
        CAT,
        [reply("A dog.")],
    ),
    "ms-swift, rejected picture": (
        {"messages": [message("user", "<image>Make it blue."), message("assistant", "<image>")],
         "images": ["red.png", "blue.png"], "rejected_response": "<image>",
         "rejected_images": ["red.png", "green.png"]},
        "ms-swift",
        [user("image:red.png", "Make it blue."), reply("image:blue.png")],
        [reply("image:green.png")],
    ),
    "ms-swift, rejected picture alone": (
        {"messages": [message("user", "<image>Make it blue."), message("assistant", "<image>")],
         "images": ["red.png", "blue.png"], "rejected_images": ["green.png"]},
        "ms-swift",
        [user("image:red.png", "Make it blue."), reply("image:blue.png")],
        [reply("image:green.png")],
    ),
    "ms-swift, rejected messages of other pictures": (
        {"messages": [message("user", "Draw a cat."), message("assistant", "<image>")],
         "images": ["red.png"], "rejected_images": ["blue.png"],
         "rejected_messages": [message("user", "Draw a cat."), message("assistant", "<image>")]},
        "ms-swift",
        [user("Draw a cat."), reply("image:red.png")],
        [reply("image:blue.png")],
    ),
    "ms-swift, rejected messages": (
        {"messages": [message("user", "Hi"), message("assistant", "Yes?")],
         "rejected_messages": [message("user", "Hi"), message("assistant", "No.")]},
        "ms-swift",
        [user("Hi"), reply("Yes?")],
        [reply("No.")],
    ),
    "obelics": (
        {"images": ["red.png", None, "blue.png"], "texts": [None, "A <image>.", None],
         "metadata": "[]"},
        "obelics",
        [reply("image:red.png", "A <image>.", "image:blue.png")],
        None,
    ),
    "mmc4": (
        {"text_list": ["One.", "Two.", "Three."],
         "image_info": [
             {"image_name": "blue.png", "matched_text_index": 2, "matched_sim": 0.3},
             {"image_name": "red.png", "matched_text_index": 0, "matched_sim": 0.3}],
         "similarity_matrix": [[0.0]]},
        "mmc4",
        [reply("image:red.png", "One.", " Two.", "image:blue.png", "Three.")],
        None,
    ),
    "questions": (
        {"image": "red.png", "question": "What is it?", "answer": "A cat."},
        "questions",
        CAT,
        None,
    ),
    "captions": (
        {"image": "red.png", "caption": " A cat. "},
        "captions",
        [user("A cat."), reply("image:red.png")],
        None,
    ),
    "text": ({"text": "Once <end> upon."}, "text", [reply("Once <end> upon.")], None),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sample_of_each_shape(shape: str) -> None:
    row, format, messages, rejected = SHAPES[shape]
    found = read(lines(row))
    assert found.format == format and len(found) == found.reader.per_sample
    record = found[0]
    assert said(record.messages) == messages
    assert (record.rejected and said(record.rejected)) == rejected
    assert record.source == "data.jsonl:1"
    for part in record.parts():
        assert part.type == "text" or (isinstance(part.media, Path) and part.media.is_file())
    array = Path("data.json")
    array.write_text(json.dumps([row, row], indent=1))
    again = read(array, format)
    assert said(again[-1].messages) == said(found[-1].messages)
    assert len(again) == 2 * len(found) and again[len(found)].source == "data.json, record 2"


def test_every_format_has_a_sample() -> None:
    assert {format for _, format, *_ in SHAPES.values()} == set(READERS)
    assert set(formats()) == set(READERS) | {"webdataset", "folder"}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_canonical_form_holds_every_shape(shape: str) -> None:
    found = read(lines(SHAPES[shape][0]))
    canonical.write(found, Path("out.jsonl"))
    again = read("out.jsonl")
    assert again.format == "canonical" and len(again) == len(found)
    for one, two in zip(found, again, strict=True):
        assert said(one.messages) == said(two.messages)
        assert one.id == two.id
        assert (one.rejected and said(one.rejected)) == (two.rejected and said(two.rejected))


def test_inline_media_come_back(folder: Path) -> None:
    data = f"data:image/png;base64,{base64.b64encode(png('red')).decode()}"
    image = Image.open("red.png").convert("RGB")
    parts = (
        Part("image", media=image),
        Part("image", media=png("blue")),
        Part("audio", media="https://example.org/a.wav"),
        Part("image", media=folder / "red.png"),
    )
    record = Record("a", (Message("user", parts), Message("assistant", (Part("text", "x"),))))
    canonical.write([record], Path("out.jsonl"))
    again = [part.media for part in read("out.jsonl")[0].messages[0].parts]
    assert isinstance(again[0], bytes)
    assert Image.open(io.BytesIO(again[0])).tobytes() == image.tobytes()
    assert again[1] == png("blue")
    assert again[2] == "https://example.org/a.wav"
    assert isinstance(again[3], Path) and again[3].samefile("red.png")
    # the shapes of OpenAI's chat
    content = [
        {"type": "image_url", "image_url": {"url": data}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    ]
    found = read(lines({"messages": [message("user", content)]}))[0].messages[0].parts
    assert [part.media for part in found] == [png("red"), b"RIFF"]


# Placeholders


@pytest.mark.parametrize(
    ("text", "images", "parts"),
    [
        ("<image> and <image>", ["red.png"], ["image:red.png", " and <image>"]),
        ("<image>\n\n<image>\n", ["red.png", "blue.png"], ["image:red.png", "image:blue.png"]),
        ("a\n<image>\nb", ["red.png"], ["a", "image:red.png", "b"]),
        ("<image><image_end><bos>", ["red.png"], ["image:red.png", "<image_end><bos>"]),
        ("no place", [], ["no place"]),
        ("<video> <image>", ["red.png"], ["<video> ", "image:red.png"]),
    ],
)
def test_places_are_bound_in_order_and_no_more_than_there_are_files(
    text: str, images: list[str], parts: list[str]
) -> None:
    row = {"messages": [message("user", text), message("assistant", "<image>!")], "images": images}
    assert said(read(lines(row), "ms-swift")[0].messages) == [user(*parts), reply("<image>!")]


def test_fewer_places_than_files_is_an_error() -> None:
    row = {"messages": [message("user", "<image>?")], "images": ["red.png", "blue.png"]}
    with pytest.raises(DataError, match=r"data\.jsonl:1: 2 files in column 'images', but places"):
        read(lines(row), "ms-swift")


# Containers


def tar(name: str, members: dict[str, bytes]) -> Path:
    with tarfile.open(name, "w") as file:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return Path(name)


def test_webdataset() -> None:
    tar(
        "shard-0.tar",
        {"a/0001.png": png("red"), "a/0001.txt": b"a red one\n", "a/0002.wav": b"RIFF",
         "a/0002.txt": b"a sound", "a/0002.cls": b"3"},
    )  # fmt: skip
    found = read("shard-0.tar")
    assert (found.format, len(found)) == ("webdataset", 4)
    assert [record.id for record in found][::2] == ["a/0001/draw", "a/0002/draw"]
    assert found[0].messages[1].parts[0].media == png("red")
    assert found[2].messages[1].parts[0].type == "audio"
    assert found[3].source == "shard-0.tar/a/0002"
    assert len(read("shard-0.tar", "webdataset", tasks=("describe",))) == 2


def test_webdataset_with_conversations_in_json() -> None:
    row = {"conversations": [human("<image>\n<image>\nSame?"), gpt("No.")],
           "image": ["1.left.png", "1.right.png"]}  # fmt: skip
    members = {"1.left.png": png("red"), "1.right.png": png("blue"),
               "1.json": json.dumps({"id": "x", **row}).encode()}  # fmt: skip
    Path("tars").mkdir()
    for shard in range(2):
        tar(f"tars/{shard}.tar", members)
    found = read("tars")
    assert (found.format, len(found), found[1].source) == ("llava", 2, "tars/1.tar/1")
    assert [part.media for part in found[1].messages[0].parts[:2]] == [png("red"), png("blue")]


def pictures() -> Path:
    folder = Path("cats")
    (folder / "more").mkdir(parents=True)
    for name in ("red", "more/blue"):
        (folder / f"{name}.png").write_bytes(png(Path(name).name))
    return folder


def caption_files(folder: Path) -> None:
    for name in ("red", "more/blue"):
        (folder / f"{name}.txt").write_text(f"a {Path(name).name} cat\n")


def caption_lines(folder: Path) -> None:
    rows = [{"file_name": f"{name}.png", "text": f"a {Path(name).name} cat"}
            for name in ("more/blue", "red")]  # fmt: skip
    lines(*rows, name=str(folder / "metadata.jsonl"))


def caption_csv(folder: Path) -> None:
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "caption"])
        writer.writeheader()
        writer.writerow({"file_name": "more/blue.png", "caption": "a blue cat"})
        writer.writerow({"file_name": "red.png", "caption": "a red cat"})


@pytest.mark.parametrize("captions", [caption_files, caption_lines, caption_csv])
def test_folder_of_pictures(captions: Callable[[Path], None]) -> None:
    folder = pictures()
    captions(folder)
    found = read(folder)
    assert (found.format, len(found)) == ("folder", 4)
    assert said(found[0].messages) == [user("a blue cat"), reply("image:blue.png")]
    assert said(found[1].messages) == [user("image:blue.png", "Describe."), reply("a blue cat")]
    assert said(found[3].messages)[1] == reply("a red cat")
    assert [len(read(folder, tasks=(task,))) for task in ("draw", "describe")] == [2, 2]


def test_a_picture_without_words_is_named() -> None:
    folder = pictures()
    caption_files(folder)
    (folder / "red.txt").unlink()
    found = read(folder)
    with pytest.raises(DataError, match=r"red\.png: no caption; write one into .*red\.txt"):
        found[2]
    assert said(found[0].messages) == [user("a blue cat"), reply("image:blue.png")]


def test_hugging_face_datasets() -> None:
    import datasets

    rows = [{"image": Image.new("RGB", (8, 8), colour), "text": f"a {colour} one"}
            for colour in COLOURS]  # fmt: skip
    table = datasets.Dataset.from_list(rows)
    table.save_to_disk("saved")
    datasets.DatasetDict(test=table, train=table.select([3])).save_to_disk("splits")
    table.to_parquet("table.parquet")
    Path("parquets").mkdir()
    table.to_parquet("parquets/train-00000-of-00001.parquet")
    (Path("parquets") / "README.md").write_text("a card")
    for path in ("saved", "table.parquet", "parquets"):
        found = read(path)
        assert (found.format, len(found)) == ("captions", 8), path
        media = found[2].messages[1].parts[0].media
        assert isinstance(media, bytes)
        assert Image.open(io.BytesIO(media)).getpixel((0, 0)) == (0, 128, 0)
        assert found[2].source == f"{path}, row 2"
    assert said(read("splits")[0].messages)[0] == user("a white one")
    assert len(read("splits", split="test")) == 8
    with pytest.raises(DataError, match="one of test, train; not 'dev'"):
        read("splits", split="dev")


HUB = """
import sys
from unified.train.readers import read
for name in sys.argv[1:]:
    try:
        found = read(name)
        print(found.format, len(found), found[0].messages[0].parts[0].text, sep="|")
    except ValueError as error:
        print(error)
"""


def test_names_of_the_hub_in_its_local_cache(folder: Path) -> None:
    """As `hf download` leaves a dataset, one with several configurations, and none."""
    import datasets

    snapshots = {}
    for name in ("one", "two"):
        place, revision = folder / "hf" / "hub" / f"datasets--me--{name}", "0" * 39 + "1"
        snapshots[name] = place / "snapshots" / revision
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(revision)
        for part in ("data",) if name == "one" else ("left", "right"):
            (snapshots[name] / part).mkdir(parents=True)
            rows = [{"image": {"bytes": png("red"), "path": "red.png"}, "text": f"of {part}"}]
            target = snapshots[name] / part / "train-00000-of-00001.parquet"
            datasets.Dataset.from_list(rows).to_parquet(str(target))
    parts = [f"- config_name: {part}\n  data_files: {part}/*.parquet" for part in ("left", "right")]
    card = "\n".join(["---", "configs:", *parts, "---", ""])
    (snapshots["two"] / "README.md").write_text(card)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HUB, "me/one", "me/two:right", "me/two", "me/none"],
        capture_output=True, text=True, cwd=folder,
        env=os.environ | {"HF_HOME": str(folder / "hf"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    found = done.stdout.splitlines()
    assert found[:2] == ["captions|2|of data", "captions|2|of right"], done.stderr[-2000:]
    assert "name one as me/two:PART, of left, right" in found[2]
    assert "me/none: neither a file here nor a dataset on the hub" in found[3]


@pytest.mark.parametrize("shape", ["trl", "ms-swift, drawing"])
def test_tables_of_messages(shape: str) -> None:
    import datasets

    row, format, messages, _ = SHAPES[shape]
    files = [{"bytes": png(Path(name).stem), "path": name} for name in row["images"]]
    table = datasets.Dataset.from_list([{**row, "images": files}] * 2)
    table.to_parquet("table.parquet")
    found = read("table.parquet")
    assert found.format == format and said(found[1].messages) == messages
    media = [part.media for part in found[1].parts() if part.type == "image"]
    assert media == [file["bytes"] for file in files]


def test_csv_and_several_files() -> None:
    Path("table.csv").write_text("image,caption\nred.png,a red one\nblue.png,a blue one\n")
    found = read("table.csv")
    assert said(found[2].messages) == [user("a blue one"), reply("image:blue.png")]
    Path("many").mkdir()
    for name in ("b", "a"):
        lines({"prompt": name, "completion": "x"}, name=f"many/{name}.jsonl")
    found = read("many")
    assert [said(record.messages)[0] for record in found] == [user("a"), user("b")]
    assert found[1].source == "many/b.jsonl:1"


def test_files_are_found_beside_the_data_and_in_images(folder: Path) -> None:
    Path("images").mkdir()
    Path("images/far.png").write_bytes(png("red"))
    row = {"image": "far.png", "question": "?", "answer": "!"}
    assert read(lines(row))[0].messages[0].parts[0].media == Path("images/far.png")
    found = read(lines(row), media=folder / "elsewhere")
    assert found[0].messages[0].parts[0].media == folder / "elsewhere/far.png"


# Large files, fingerprints, order


def test_lines_are_read_one_by_one_and_keep_their_numbers() -> None:
    path = Path("data.jsonl")
    rows = [json.dumps({"prompt": str(k), "completion": "é" * k}) for k in range(5)]
    path.write_bytes(b"\xef\xbb\xbf" + ("\n\n".join(rows)).encode())
    found = read(path)
    assert [said(record.messages)[0] for record in found] == [user(str(k)) for k in range(5)]
    assert [found[k].source for k in (0, 4)] == ["data.jsonl:1", "data.jsonl:9"]
    assert found[-1] == found[4]
    with pytest.raises(IndexError, match="record 5 of 5"):
        found[5]


def test_fingerprints_tell_content_apart(folder: Path) -> None:
    row = SHAPES["ms-swift"][0]
    first = read(lines(row)).fingerprint
    assert read(lines(row, name="other.jsonl")).fingerprint == first
    assert read(lines(row, row)).fingerprint != first
    cats = pictures()
    caption_files(cats)
    marks = [read(cats).fingerprint, read(cats, tasks=("draw",)).fingerprint]
    (cats / "red.txt").write_text("a rad cat\n")
    marks.append(read(cats).fingerprint)
    (cats / "new.png").write_bytes(png("white"))
    marks.append(read(cats).fingerprint)
    tars = [tar("x.tar", {"1.png": png(c), "1.txt": b"x"}) and read("x.tar").fingerprint
            for c in ("red", "red", "white")]  # fmt: skip
    assert tars[0] == tars[1]
    assert len({first, *marks}) == 5
    moved = cats.rename("dogs")
    assert read(moved).fingerprint == marks[-1]


# What is wrong is named


@pytest.mark.parametrize(
    ("rows", "format", "words"),
    [
        ([{"foo": 1, "bar": 2}], None,
         r"data\.jsonl:1: no known format has the columns foo, bar; rename them to .*llava"),
        ([{"foo": 1}], "llava", r"data\.jsonl:1: no column 'conversations'; there are: foo"),
        ([{"foo": 1}], "captions", "no column 'text'"),
        ([{"conversations": "x"}], "sharegpt", "'conversations' is 'x', not a list of messages"),
        ([{"conversations": [{"from": "human"}]}], "sharegpt", "message 1: .* no 'from' and 'val"),
        ([{"conversations": [{"from": "tool", "value": "x"}]}], "sharegpt",
         "message 1: role 'tool'; one of human, user, gpt"),
        ([{"conversations": [{"from": "function_call", "value": "x"}], "tools": "[1]"}], None,
         "column 'tools': tool calls cannot be learnt here"),
        ([{"messages": [message("robot", "x")]}], "canonical", "message 1: role 'robot'; one of"),
        ([{"messages": []}], "canonical", "'messages' is empty"),
        ([{"messages": [message("user", "x")], "mood": 1}], "canonical", "unknown column 'mood'"),
        ([{"messages": [message("user", 5)]}], "canonical", "content is 5"),
        ([{"messages": [message("user", [{"type": "smell"}])]}], "canonical", "type 'smell'; one"),
        ([{"messages": [message("user", [{"type": "image"}])]}], "canonical", "names no file"),
        ([{"messages": [message("user", "x", loss="no")]}], "ms-swift", "loss is 'no'"),
        ([{"messages": [message("user", [{"type": "image"}])], "images": []}], "trl",
         "message 1: a part of type 'image', but column 'images' has no more files"),
        ([{"messages": [message("user", "x")], "images": [7]}], "trl",
         "column 'images', entry 1: 7 is no file"),
        ([{"messages": [message("user", "x")], "rejected_response": "y"}], "ms-swift",
         "a rejected reply but no reply"),
        ([{"prompt": "x", "completion": "y", "label": False}], "trl", "'label': unpaired"),
        ([{"messages": [message("user", "x")], "tools": [{"name": "f"}]}], "ms-swift", "tool call"),
        ([{"images": ["a"], "texts": ["b"]}], "obelics", "entry 1: both a picture and text"),
        ([{"images": [None], "texts": [None]}], "obelics", "entry 1: neither picture nor text"),
        ([{"images": [None], "texts": ["a", "b"]}], "obelics", "1 entries in column 'images', 2"),
        ([{"text_list": ["a"], "image_info": [{"image_name": "x", "matched_text_index": 1}]}],
         "mmc4", "entry 1: matched_text_index is 1; there are 1 texts"),
        ([{"image": "red.png", "text": " "}], "captions", "column 'text' is empty"),
        ([{"prompt": "x", "chosen": "a", "rejected": "b", "rejected_images": ["red.png"]}], "trl",
         "'rejected_images' has 1 files; what is rejected has places for 0"),
        ([[1]], None, r"data\.jsonl:1: \[1\] is no JSON object"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(rows: list[Any], format: str | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(lines(*rows), format)


def test_bad_places_are_named(folder: Path) -> None:
    Path("empty.jsonl").write_text("\n\n")
    Path("zero.jsonl").touch()
    Path("bad.json").write_text('[{"a": 1},\n{]')
    Path("data.xyz").write_text("x")
    Path("bad.tar").write_bytes(b"x" * 2000)
    Path("nothing").mkdir()
    Path("[].json").write_text("[]")
    for path, words in (
        ("none.jsonl", r"none\.jsonl: no such file or folder"),
        ("empty.jsonl", r"empty\.jsonl: no records in it"),
        ("zero.jsonl", "the file is empty"),
        ("[].json", "no records in it"),
        ("bad.json", r"bad\.json:2: not JSON"),
        ("data.xyz", r"data are read from \.jsonl"),
        ("bad.tar", "not a plain tar"),
        ("nothing", "no data in this folder"),
        ("some/name", "neither a file here nor a dataset on the hub"),
    ):
        with pytest.raises(DataError, match=words):
            read(path)
    with pytest.raises(ValueError, match="unknown format 'xml'; one of canonical, llava, share"):
        read("empty.jsonl", "xml")
    with pytest.raises(DataError, match="not a tar or a folder of tars"):
        read(lines({"text": "x"}), "webdataset")


def test_one_bad_line_is_named_and_the_others_are_read() -> None:
    path = lines({"prompt": "a", "completion": "b"}, {"prompt": "a"})
    with path.open("a") as file:
        file.write('{"prompt": \n')
    found = read(path, "trl")
    assert said(found[0].messages) == [user("a"), reply("b")]
    with pytest.raises(DataError, match=r"data\.jsonl:2: no column 'completion'; there are: promp"):
        found[1]
    with pytest.raises(DataError, match=r"data\.jsonl:3: not JSON"):
        found[2]


def test_formats_that_mix_are_named() -> None:
    with pytest.raises(DataError, match="several formats; name one of"):
        read(lines(SHAPES["llava"][0], SHAPES["mmc4"][0]))


def test_a_new_format_is_one_class() -> None:
    @register
    class Riddles(Reader):
        name = "riddles"

        def detects(self, values: Any) -> bool:
            return "riddle" in values

        def records(self, sample: Sample) -> list[Record]:
            asked = Message("user", (Part("text", sample.need("riddle", str)),))
            return [Record(sample.id, (asked,), None, sample.source)]

    try:
        found = read(lines({"riddle": "What walks?"}))
        assert found.format == "riddles" and said(found[0].messages) == [user("What walks?")]
    finally:
        del READERS["riddles"]
