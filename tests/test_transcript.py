"""Transcripts: what is loaded is what was saved, and a damaged one says so in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unified import transcript
from unified.media import picture
from unified.media.picture import MediaError
from unified.transcript import Transcript


def drawn(colour: str) -> Image.Image:
    return Image.new("RGB", (8, 8), colour)


def conversation() -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": [{"type": "text", "text": "Zeichne ☃ a \x1b red circle."}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Here it is."},
                {"type": "image", "image": drawn("red")},
                {"type": "text", "text": "Anything else?"},
            ],
            "stopped": True,
        },
        {
            "role": "user",
            "content": [
                {"type": "image", "image": drawn("blue")},
                {"type": "image", "image": drawn("red")},
                {"type": "text", "text": "Which is red?"},
            ],
        },
    ]


def plain(messages: list[dict[str, Any]]) -> list[Any]:
    """Messages with pixels in place of pictures, without file names."""
    return [
        {
            **message,
            "content": [
                part["text"] if part["type"] == "text" else part["image"].tobytes()
                for part in transcript.parts(message)
            ],
        }
        for message in messages
    ]


@pytest.mark.parametrize("name", ["talk.json", "folder"])
def test_resumed_exactly(name: str, tmp_path: Path) -> None:
    facts = {"seed": 4, "model": "toybox 12ab"}
    file = transcript.save(Transcript(conversation(), facts), tmp_path / name)
    found = transcript.load(tmp_path / name)
    assert plain(found.messages) == plain(conversation())
    assert found.facts == facts
    assert not list(file.parent.glob(".*"))
    # saved again, and once more elsewhere: the same conversation, no second copies beside it
    before = sorted(path.name for path in file.parent.iterdir())
    transcript.save(found, tmp_path / name)
    assert sorted(path.name for path in file.parent.iterdir()) == before
    transcript.save(found, tmp_path / "elsewhere")
    assert plain(transcript.load(tmp_path / "elsewhere").messages) == plain(conversation())


def test_a_picture_saved_beside_it_is_used_and_never_overwritten(tmp_path: Path) -> None:
    picture.save_png(drawn("red"), tmp_path / "chat-1.png", {"prompt": "red"})
    messages = conversation()
    messages[1]["content"][1]["path"] = str(tmp_path / "chat-1.png")
    file = transcript.save(Transcript(messages), tmp_path)
    assert '"chat-1.png"' in file.read_text()
    assert picture.metadata(tmp_path / "chat-1.png") == {"prompt": "red"}
    # changed behind our back: what was said is kept, the file is left alone
    picture.save_png(drawn("green"), tmp_path / "chat-1.png")
    transcript.save(Transcript(messages), tmp_path)
    assert plain(transcript.load(tmp_path).messages) == plain(conversation())
    assert picture.read(tmp_path / "chat-1.png").tobytes() == drawn("green").tobytes()


def test_metadata_travel_with_a_picture(tmp_path: Path) -> None:
    picture.save_png(drawn("red"), tmp_path / "chat-1.png", {"prompt": "red"})
    messages = conversation()
    messages[1]["content"][1]["path"] = str(tmp_path / "chat-1.png")
    transcript.save(Transcript(messages), tmp_path / "elsewhere")
    assert picture.metadata(tmp_path / "elsewhere" / "chat-1.png") == {"prompt": "red"}


def test_another_transcript_is_left_alone_on_request(tmp_path: Path) -> None:
    transcript.save(Transcript(conversation()), tmp_path)
    with pytest.raises(FileExistsError):
        transcript.save(Transcript([]), tmp_path, overwrite=False)
    assert len(transcript.load(tmp_path).messages) == 3


def test_string_content_is_text(tmp_path: Path) -> None:
    message = {"role": "user", "content": "hello"}
    assert transcript.text_of(message) == "hello"
    transcript.save(Transcript([message]), tmp_path)
    assert transcript.text_of(transcript.load(tmp_path).messages[0]) == "hello"


def damaged(change: Any) -> str:
    data = {"format": transcript.FORMAT, "messages": [{"role": "user", "content": []}]}
    return json.dumps({**data, **change})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a transcript"),
        ("{", "not a transcript"),
        ("[" * 100_000, "not a transcript"),
        ("[]", "not a transcript"),
        ("{}", "not a transcript"),
        (damaged({"format": "another"}), "not a transcript"),
        (damaged({"messages": 3}), "no list of messages"),
        (damaged({"messages": [3]}), "message 1: its role"),
        (damaged({"messages": [{"role": "system", "content": []}]}), "one of user, assistant"),
        (damaged({"messages": [{"role": "user", "content": 3}]}), "no list of content"),
        (damaged({"messages": [{"role": "user", "content": [3]}]}), "neither text nor a picture"),
        (
            damaged({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}),
            "neither text nor a picture",
        ),
        (
            damaged({"messages": [{"role": "user", "content": [{"type": "image", "path": "x"}]}]}),
            "x: no such file",
        ),
    ],
)
def test_damaged_is_refused_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "transcript.json").write_text(text)
    with pytest.raises(ValueError, match=words) as raised:
        transcript.load(tmp_path)
    assert "\n" not in str(raised.value)


def test_bytes_and_absence_are_refused(tmp_path: Path) -> None:
    (tmp_path / "transcript.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a transcript"):
        transcript.load(tmp_path)
    with pytest.raises(ValueError, match="no such transcript"):
        transcript.load(tmp_path / "none.json")


def test_a_transcript_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    picture.save_png(drawn("red"), tmp_path / "secret.png")
    folder = tmp_path / "talk"
    folder.mkdir()
    part = {"type": "image", "path": "../secret.png"}
    (folder / "transcript.json").write_text(
        damaged({"messages": [{"role": "user", "content": [part]}]})
    )
    with pytest.raises(ValueError, match="no such file"):
        transcript.load(folder)


def test_unwritable_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "talk.json", Path("/proc/unified/talk")):
        with pytest.raises(ValueError, match="cannot be written"):
            transcript.save(Transcript(conversation()), place)


def test_a_file_that_is_no_transcript_is_left_alone(tmp_path: Path) -> None:
    notes = tmp_path / "notes.json"
    notes.write_text('{"mine": 1}')
    with pytest.raises(MediaError, match="no transcript; name another"):
        transcript.save(Transcript([]), notes)
    assert notes.read_text() == '{"mine": 1}'
    transcript.save(Transcript([]), tmp_path / "new.json")
    transcript.save(Transcript([]), tmp_path / "new.json")
