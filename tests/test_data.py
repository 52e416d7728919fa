"""Records as the model reads them: encoding, checking, tokenizing, `unified data`."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unified import cli
from unified.handle import Unified, load
from unified.processing import UnifiedImageProcessor
from unified.sequence import Picture, Text
from unified.toybox.samples import corpus as said_in_the_toybox
from unified.toybox.scene import render as rendered
from unified.toybox.scene import sample_scene
from unified.train import records as canonical
from unified.train import shards as shards_module
from unified.train.encoding import Encoded, Encoder, ModalityError, folded
from unified.train.inspection import check, plain, render
from unified.train.readers import read
from unified.train.records import DataError, Message, Part, Record
from unified.train.shards import Shards, tokenize, tokenize_ray

SPELLED = "<image><bos> </s> <|im_end|> <end>\u2581\0"


@pytest.fixture(scope="module")
def handle() -> Unified:
    return load(device="cpu")


@pytest.fixture(scope="module")
def encoder(handle: Unified) -> Encoder:
    return Encoder(handle)


def scene(seed: int) -> Image.Image:
    import random

    return Image.fromarray(rendered(sample_scene(random.Random(seed))))


def text(words: str, loss: bool | None = None) -> Part:
    return Part("text", words, loss=loss)


def image(seed: int = 0, loss: bool | None = None) -> Part:
    return Part("image", media=scene(seed), loss=loss)


def record(*messages: tuple[str, list[Part]], rejected: list[Part] | None = None) -> Record:
    turns = tuple(Message(role, tuple(parts)) for role, parts in messages)
    worse = None if rejected is None else (Message("assistant", tuple(rejected)),)
    return Record("r", turns, worse, "here:1")


DRAWN = record(("user", [text("draw a cat")]), ("assistant", [text("Here."), image(1)]))


# Encoding

parts = st.builds(
    lambda words, loss, seed: image(seed, loss) if words is None else text(words, loss),
    st.none() | st.text(max_size=8),
    st.none() | st.booleans(),
    st.integers(0, 2),
)
conversations = st.lists(
    st.tuples(st.sampled_from(("system", "user", "assistant")), st.lists(parts, max_size=3)),
    min_size=1,
    max_size=3,
)


def expected_loss(encoder: Encoder, whole: Record) -> list[bool]:
    """The loss mask, part by part."""
    layout = encoder.layout
    loss = [False]
    for message in folded(whole.messages):
        loss.append(False)
        for part in message.parts:
            own = bool(part.loss)
            if part.type == "text":
                words = encoder.processor.typed(part.text, message.role)
                loss += [own] * len(encoder.processor.tokenizer.ids(words))
                continue
            loss += [own] * (layout.image_length + 1) + [False]
            loss += [False] * (layout.view_length + 2)
        last = message.parts[-1].loss if message.parts else True
        loss.append(message.role == "assistant" and bool(last))
    return loss


@settings(max_examples=15, deadline=None)
@given(conversations)
def test_any_record_is_encoded_and_parsed_back(encoder: Encoder, messages: Any) -> None:
    whole = record(*messages)
    encoded = encoder.encode(whole)
    assert encoded.loss == expected_loss(encoder, whole)
    turns = encoder.layout.parse(encoded.ids)
    assert encoder.layout.flatten(turns).ids == encoded.ids
    want: list[tuple[str, list[str | None]]] = []
    for message in folded(whole.messages):
        joined: list[str | None] = []
        for part in message.parts:
            if part.type == "image":
                joined.append(None)
                continue
            words = encoder.processor.typed(part.text, message.role)
            if joined and joined[-1] is not None:
                joined[-1] += words
            elif words:
                joined.append(words)
        want.append((message.role, joined))
    read_back = encoder.processor.tokenizer.text
    assert want == [
        (turn.role, [read_back(p.ids) if isinstance(p, Text) else None for p in turn.parts])
        for turn in turns
    ]
    pictures = sum(part.type == "image" for part in whole.parts())
    assert (0 if encoded.views is None else len(encoded.views)) == pictures


def test_codes_are_the_codec_s_and_what_was_drawn_is_read_back(
    handle: Unified, encoder: Encoder
) -> None:
    whole = record(
        ("user", [image(2), text("make it blue")]), ("assistant", [image(3), text("Done.")])
    )
    encoded = encoder.encode(whole)
    pixels = [handle.processor.image_processor.pixels(scene(k)) for k in (2, 3)]
    codes = [tuple(handle.codec.encode(p[None])[0].tolist()) for p in pixels]
    found = [
        p for t in encoder.layout.parse(encoded.ids) for p in t.parts if isinstance(p, Picture)
    ]
    assert [picture.codes for picture in found] == codes
    assert encoded.views is not None and torch.equal(encoded.views[0], pixels[0])
    again = UnifiedImageProcessor.picture(handle.codec.decode(torch.tensor([codes[1]]))[0])
    assert torch.equal(encoded.views[1], handle.processor.image_processor.pixels(again))
    # a draft differs in nothing but the codes
    draft = encoder.encode(whole, draft=True)
    start = encoder.layout.vocabulary.image_start
    assert draft.loss == encoded.loss
    assert [i for i in draft.ids if i < start] == [i for i in encoded.ids if i < start]


def test_it_agrees_with_the_chat(handle: Unified) -> None:
    """What is learnt from is what the chat would send for the same messages."""
    for policy in ("view", "codes+view"):
        encoder = Encoder(handle, policy)
        content = [{"type": "image", "image": scene(4)}, {"type": "text", "text": "What is it?"}]
        asked = [{"role": "user", "content": content}]
        prompt = handle.processor.prompt(asked, handle.encode, policy)
        encoded = encoder.encode(
            record(("user", [image(4), text("What is it?")]), ("assistant", [text("A cat.")]))
        )
        assert tuple(encoded.ids[: len(prompt.ids)]) == prompt.ids
        assert prompt.views is not None and encoded.views is not None
        assert torch.equal(prompt.views, encoded.views)


def test_a_user_s_typography_is_read_as_plain_text(handle: Unified, encoder: Encoder) -> None:
    """In training as in chat; replies stay as they are."""
    typed, plain = "\u201cDraw a cat\u2026\u201d", '"Draw a cat..."'
    encoded = encoder.encode(record(("user", [text(typed)]), ("assistant", [text(typed)])))
    read = encoder.processor.tokenizer.text
    turns = encoder.layout.parse(encoded.ids)
    assert [read(p.ids) for t in turns for p in t.parts if isinstance(p, Text)] == [plain, typed]
    prompts = [
        handle.processor.prompt([{"role": "user", "content": words}], handle.encode).ids
        for words in (typed, plain)
    ]
    assert prompts[0] == prompts[1] == tuple(encoded.ids[: len(prompts[0])])


def test_what_the_toybox_says_is_plain_already(handle: Unified) -> None:
    for words in said_in_the_toybox(11, 600):
        assert handle.processor.typed(words, "user") == words


def test_text_that_spells_tokens_stays_text(encoder: Encoder) -> None:
    encoded = encoder.encode(record(("user", [text(SPELLED)]), ("assistant", [text(SPELLED)])))
    kinds = [encoder.layout.vocabulary.kind(token) for token in encoded.ids]
    assert kinds.count("control") == 5 and "image" not in kinds
    turns = encoder.layout.parse(encoded.ids)
    assert all(encoder.processor.tokenizer.text(t.parts[0].ids) == SPELLED for t in turns)  # type: ignore[union-attr]


def test_a_picture_of_the_user_may_be_learnt(handle: Unified) -> None:
    encoder = Encoder(handle, "view")
    learnt, seen = (encoder.encode(record(("user", [image(1, loss)]))) for loss in (True, False))
    assert sum(learnt.loss) == encoder.layout.image_length + 1 and not any(seen.loss)
    assert len(learnt) == len(seen) + encoder.layout.image_length + 2


def test_the_system_s_words_open_the_next_message(encoder: Encoder) -> None:
    for last in ([], [("user", [text("Hi")])]):
        encoded = encoder.encode(record(("system", [text("Be kind.")]), *last))
        (turn,) = encoder.layout.parse(encoded.ids)
        (part,) = turn.parts
        assert isinstance(part, Text) and turn.role == "user"
        words = encoder.processor.tokenizer.text(part.ids)
        assert words == ("Be kind.\nHi" if last else "Be kind.\n") and not any(encoded.loss)


def test_preference_has_two_conversations_with_one_prompt(encoder: Encoder) -> None:
    asked = ("user", [text("draw a cat")])
    pair = record(asked, ("assistant", [image(1)]), rejected=[image(2)])
    better, worse = encoder.encode(pair), encoder.encode_rejected(pair)
    first = better.loss.index(True)
    assert better.ids[:first] == worse.ids[:first] and better.ids != worse.ids
    assert better.loss == worse.loss
    assert worse.ids == encoder.encode(record(asked, ("assistant", [image(2)]))).ids


def test_a_model_whose_roles_are_words(tmp_path: Path) -> None:
    """A small Janus: what is learnt goes on from what the chat would send."""
    from tests.test_family_janus import save

    janus = load(save(tmp_path / "janus"), device="cpu")
    encoder, layout = Encoder(janus), janus.layout
    asked = [{"role": "user", "content": "draw a cat"}]
    for parts, draw in (([image(1)], True), ([text("A cat.")], False)):
        prompt = janus.processor.prompt(asked, janus.encode, draw=draw).ids
        encoded = encoder.encode(record(("user", [text("draw a cat")]), ("assistant", parts)))
        assert tuple(encoded.ids[: len(prompt)]) == prompt and not any(encoded.loss[: len(prompt)])
        assert encoded.loss[len(prompt)] and encoded.loss[-1] and encoded.views is None
    later = ("user", [text("and now?")]), ("assistant", [text("B."), image(2), text("C.", False)])
    for loss in (True, False):  # what is not learnt stands as it does in chat: seen
        whole = record(("user", [text("draw")]), ("assistant", [image(1, loss)]), *later)
        encoded = encoder.encode(whole)
        codes = [token >= layout.vocabulary.image_start for token in encoded.ids]
        assert sum(codes) == (1 + loss) * layout.image_length
        assert encoded.ids.count(layout.vocabulary.control("slot")) == (
            0 if loss else layout.view_length
        )
        assert all(learnt for learnt, code in zip(encoded.loss, codes, strict=True) if code)
    for bad, words in (
        (record(("user", [text("a", True)])), "a user's words cannot be learnt"),
        (record(("assistant", [text("a"), text("b", False)])), "give them one loss"),
    ):
        with pytest.raises(DataError, match=words):
            encoder.encode(bad)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Part("image", media=Path("none.png")), r"here:1: none\.png: no such file"),
        (
            Part("image", media=b"\x89PNG\r\n\x1a\nxx", name="x.tar/1.png"),
            r"x\.tar/1\.png: the pic",
        ),
        (Part("image", media=b"", name="x.png"), r"x\.png: the file is empty"),
        (Part("image", media="https://a.org/b.png"), r"https://a\.org/b\.png: nothing is fetched"),
        (Part("audio", media=b"RIFF"), "here:1: audio in it, and this model takes text and image"),
    ],
)
def test_files_that_cannot_be_read_are_named(encoder: Encoder, part: Part, words: str) -> None:
    with pytest.raises(DataError, match=words):
        encoder.encode(record(("user", [part])))


def test_parts_and_records_refuse_what_makes_no_sense() -> None:
    hi = (Message("user", (text("Hi"),)),)
    for make, words in (
        (lambda: Part("smell"), "type 'smell'; one of text, image, audio, video"),
        (lambda: Part("image"), "image without any"),
        (lambda: Part("text", media=b"x"), "media in a text part"),
        (lambda: Message("robot", ()), "role 'robot'; one of system, user, assistant"),
        (lambda: Record("a", ()), "'messages' is empty"),
        (lambda: Record("a", hi, hi), "no reply"),
        (lambda: Record("a", (*hi, Message("assistant", ())), hi), "of the assistant alone"),
    ):
        with pytest.raises(DataError, match=words):
            make()  # type: ignore[no-untyped-call]


# Checking


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Data of which records 1, 2, 3 and 5 cannot be learnt from."""
    scene(1).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:90])
    rows = [
        {"messages": [{"role": "user", "content": "<image>What?"},
                      {"role": "assistant", "content": "A cat."}], "images": [name]}
        for name in ("a.png", "none.png", "cut.png")
    ]  # fmt: skip
    rows += [{"messages": [{"role": "user", "content": "hi"}]}]
    rows += [{"messages": [{"role": "user", "content": "draw <image>"},
                           {"role": "assistant", "content": "<image>"}], "images": ["a.png"],
              "rejected_response": "no"}]  # fmt: skip
    rows += [{"messages": [{"role": "user", "content": "x" * 700},
                           {"role": "assistant", "content": "y"}], "images": []}]  # fmt: skip
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_check_counts_and_names(encoder: Encoder, mixed: Path) -> None:
    report = check(read(mixed, "ms-swift"), encoder)
    assert (report.records, report.preferences, report.well) == (6, 1, False)
    assert [Path(p.reason.split(": ")[1]).name for p in report.broken] == ["none.png", "cut.png"]
    assert "data.jsonl:2" in report.broken[0].reason
    assert ["data.jsonl:6" in p.reason for p in report.long] == [True]
    assert ["data.jsonl:4" in p.reason for p in report.masked] == [True]
    assert len(report.lengths) == 5  # the pair has two
    assert report.tokens.total() == sum(report.lengths)
    assert report.tokens["image"] == 3 * encoder.layout.image_length  # the pair's twice
    assert report.learnt["image"] == 0 and report.unbound == 1
    assert sum(count for *_, count in report.histogram()) == 5
    bins = report.histogram()
    assert bins[0][0] == min(report.lengths) and bins[-1][0] <= max(report.lengths) < bins[-1][1]
    told = "\n".join(report.lines())
    assert "6 records, 1 of them pairs, format ms-swift" in told and "none.png" in told


def test_samples_show_what_is_learnt(encoder: Encoder) -> None:
    lines = [plain(line) for line in render(encoder.encode(DRAWN), encoder)]
    codes, slots = encoder.layout.image_length, encoder.layout.view_length
    assert lines == [
        '<bos> <user> "draw a cat" <end>',
        f'<assistant> ["Here." <image> {codes} codes] <image_end> <view> {slots} slots '
        "<view_end> [<end>]",
    ]
    spelled = encoder.encode(record(("assistant", [text("<end>\n"), text("b", False)])))
    assert plain(render(spelled, encoder)[0]) == r'<bos> <assistant> ["<end>\n"] "b" <end>'


# Tokenizing


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve records: pictures drawn and described, words, a pair."""
    rows = [record(("user", [image(k), text(f"look {k}")]), ("assistant", [text("A cat.")]))
            for k in range(4)]  # fmt: skip
    rows += [record(("user", [text(f"draw {k}")]), ("assistant", [image(k)])) for k in range(4)]
    rows += [record(("user", [text("hi")]), ("assistant", [text(f"{k}!")])) for k in range(3)]
    rows += [record(("user", [text("draw")]), ("assistant", [image(1)]), rejected=[image(2)])]
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    canonical.write([Record(f"r{k}", r.messages, r.rejected) for k, r in enumerate(rows)], path)
    return path


def content(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def same(one: Encoded, two: Encoded) -> bool:
    views = [e.views for e in (one, two)]
    equal = views[0] is views[1] is None or (
        views[0] is not None and views[1] is not None and torch.equal(views[0], views[1])
    )
    return (one.ids, one.loss) == (two.ids, two.loss) and equal


@pytest.fixture(scope="module")
def whole(corpus: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "tokens"
    tokenize(read(corpus), encoder, folder, size=5)
    return folder


def test_shards_hold_what_the_encoder_gives(corpus: Path, encoder: Encoder, whole: Path) -> None:
    records, shards = read(corpus), Shards(whole)
    assert len(shards) == len(records) == 12 and shards.skipped == []
    for k, one in enumerate(records):
        assert shards.id(k) == one.id and same(shards[k], encoder.encode(one))
        rejected = shards.rejected(k)
        assert (rejected is None) == (one.rejected is None)
        assert rejected is None or same(rejected, encoder.encode_rejected(one))
    with pytest.raises(IndexError, match="record 12 of 12"):
        shards[12]


def test_processes_make_no_difference(
    corpus: Path, encoder: Encoder, whole: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    tokenize(read(corpus), encoder, tmp_path / "two", size=5, processes=2,
             on_progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    assert content(tmp_path / "two") == content(whole)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_killed_run_goes_on(
    corpus: Path, encoder: Encoder, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tokens"

    def kill(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(read(corpus), encoder, folder, size=5, on_progress=kill)
    with pytest.raises(ValueError, match="manifest"):
        Shards(folder)
    # as kills and disks leave files: a shard altered, another half written
    first = folder / "shard-00000.arrow"
    data = bytearray(first.read_bytes())
    data[100] ^= 1
    first.write_bytes(data)
    (folder / "shard-00002.tmp").write_bytes(b"ARROW")
    kept = (folder / "shard-00001.arrow").stat().st_mtime_ns
    written: list[int] = []
    write = shards_module.Job.write

    def count(job: shards_module.Job, shard: int) -> None:
        written.append(shard)
        write(job, shard)

    monkeypatch.setattr(shards_module.Job, "write", count)
    tokenize(read(corpus), encoder, folder, size=5)
    assert content(folder) == content(whole) and written == [0, 2]
    assert (folder / "shard-00001.arrow").stat().st_mtime_ns == kept
    tokenize(read(corpus), encoder, folder, size=5)
    assert written == [0, 2]


@pytest.mark.slow
def test_kill_minus_nine(corpus: Path, encoder: Encoder, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    slow = (
        "import sys, time, unified.train.shards as s\n"
        "row = s.row\n"
        "s.row = lambda *a: (time.sleep(0.3), row(*a))[1]\n"
        "from unified import cli\n"
        "sys.exit(cli.run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", slow, "data", "tokenize", str(corpus), "-o", str(folder)]
    process = subprocess.Popen([*command, "--shard-size", "5", "--processes", "2"])
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.arrow")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.kill()  # its workers are orphans now, and end by themselves
    process.wait()
    assert not (folder / "manifest.json").exists()
    tokenize(read(corpus), encoder, folder, size=5)
    assert content(folder) == content(whole)


def test_what_cannot_be_learnt_from_is_left_out_by_name(
    encoder: Encoder, mixed: Path, tmp_path: Path
) -> None:
    records = read(mixed, "ms-swift")
    with pytest.raises(DataError, match=r"data\.jsonl:2: .*none\.png: no such file"):
        tokenize(records, encoder, tmp_path / "strict", size=2)
    with pytest.raises(DataError, match="4 records cannot be learnt from, and 3 may be left out"):
        tokenize(records, encoder, tmp_path / "skipped", size=2, skip=3)
    shards = tokenize(records, encoder, tmp_path / "skipped", size=2, skip=4)
    assert [entry["record"] for entry in shards.skipped] == [1, 2, 3, 5]
    assert shards.table is not None and list(shards.table["record"]) == [0, 4]


def test_a_folder_of_something_else_is_refused(
    corpus: Path, encoder: Encoder, handle: Unified, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="used: not empty; choose a new folder"):
        tokenize(read(corpus), encoder, tmp_path / "used")
    for other, size, words in (
        (Encoder(handle, "view"), 5, "another model"),
        (encoder, 4, "another size"),
    ):
        with pytest.raises(ValueError, match=f"holds shards of {words}; choose a new folder"):
            tokenize(read(corpus), other, whole, size=size)
    with corpus.open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match="holds shards of other data"):
        tokenize(read(corpus), encoder, whole, size=5)
    corpus.write_bytes(corpus.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no tokenized data"):
        Shards(tmp_path / "used")
    with (whole / "tokenized.json").open() as file:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run is writing there"):
            tokenize(read(corpus), encoder, whole, size=5)


def test_a_worker_that_dies_is_an_error(
    corpus: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module.Job, "write", lambda *_: os._exit(9))
    with pytest.raises(ValueError, match="a process died"):
        tokenize(read(corpus), encoder, tmp_path / "out", size=5, processes=2)


@pytest.mark.slow
def test_ray_writes_the_same(
    corpus: Path, encoder: Encoder, whole: Path, mixed: Path, tmp_path: Path
) -> None:
    """Ray Data, started here: the bytes of the plain path, also where it goes on from a part of
    them; and a record that cannot be learnt from is named as there."""
    ray = pytest.importorskip("ray", reason="needs Ray (the extra ray)")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        folder = tmp_path / "ray"
        tokenize_ray(read(corpus), encoder, folder, size=5)
        assert content(folder) == content(whole)
        (folder / "shard-00001.arrow").unlink()
        kept = (folder / "shard-00000.arrow").stat().st_mtime_ns
        tokenize_ray(read(corpus), encoder, folder, size=5)
        assert content(folder) == content(whole)
        assert (folder / "shard-00000.arrow").stat().st_mtime_ns == kept
        with pytest.raises(DataError, match=r"^\S*data\.jsonl:2: .*none\.png: no such file"):
            tokenize_ray(read(mixed, "ms-swift"), encoder, tmp_path / "strict", size=6)
    finally:
        ray.shutdown()


def test_ray_is_asked_for_by_name(
    corpus: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'unified\[ray\]'"):
        tokenize_ray(read(corpus), encoder, tmp_path / "ray")


# The command line


@pytest.fixture
def run(
    handle: Unified,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process, with the model that is loaded already."""
    monkeypatch.setattr("unified.handle.load", lambda *_, **__: handle)
    monkeypatch.delenv("UNIFIED_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.run(list(arguments))
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_check_prints_and_samples(run: Any, corpus: Path) -> None:
    status, out, err = run("data", "check", str(corpus), "--samples", "5")
    assert (status, err) == (0, "")
    assert "12 records, 1 of them pairs, format canonical" in out
    assert '["A cat." <end>]' in out and '<user> "draw 0" <end>' in out
    status, out, _ = run("data", "check", str(corpus), "--json", "--samples", "1")
    report = json.loads(out)
    assert status == 0 and report["well"] and report["parts"]["image"] == 10
    assert report["samples"][0]["conversations"][0][1] == '<assistant> ["A cat." <end>]'


def test_check_says_what_is_wrong_and_fails(run: Any, mixed: Path) -> None:
    status, out, err = run("data", "check", "data.jsonl", "--samples", "0")
    assert (status, err) == (1, "")
    assert "2 records not readable:" in out and "none.png: no such file" in out
    assert "data.jsonl:6: " in out and "data.jsonl:4: no token carries loss" in out


def test_tokenize_from_the_command_line(run: Any, corpus: Path, whole: Path) -> None:
    command = ("data", "tokenize", str(corpus), "-o", "tokens", "--shard-size", "5")
    assert run(*command) == (0, "tokens\n", "")
    assert content(Path("tokens")) == content(whole)
    status, out, _ = run(*command, "--json")
    assert status == 0 and json.loads(out)["fingerprint"] == Shards(whole).fingerprint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check"], "Missing argument 'PATH'"),
        (["check", "none"], "none: no such file or folder"),
        (["check", "empty.jsonl"], "empty.jsonl: the file is empty"),
        (["check", "column.jsonl"], "column.jsonl:1: no known format has the columns image, word"),
        (["check", "column.jsonl", "--format", "captions"], "no column 'text'; there are: image"),
        (
            ["check", "data.jsonl", "--format", "xml"],
            "unknown format 'xml'; one of canonical, llav",
        ),
        (["check", "sound.jsonl"], "sound.jsonl:1: audio in it, and this model takes text and ima"),
        (["check", "data.jsonl", "--media", "none"], "none: no such folder; check --media"),
        (["check", "data.jsonl", "--samples", "-1"], "greater than or equal to 0"),
        (["check", "data.jsonl", "--task", "sing"], "'draw', 'describe'"),
        (["tokenize", "data.jsonl"], "Missing option '--out'"),
        (["tokenize", "data.jsonl", "-o", "x", "--processes", "0"], "greater than or equal to 1"),
        (["tokenize", "sound.jsonl", "-o", "x"], "sound.jsonl:1: audio in it"),
        (["tokenize", "data.jsonl", "-o", "here"], "here: not empty; choose a new folder"),
        (["tokenize", "data.jsonl", "-o", "data.jsonl"], "cannot be written"),
        (["tokenize", "long.jsonl", "-o", "new"], "tokens, and the model reads 512"),
        (["tokenize", "masked.jsonl", "-o", "new"], "masked.jsonl:1: no token carries loss"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, run: Any, tmp_path: Path) -> None:
    rows = {
        "data": {"prompt": "a", "completion": "b"},
        "column": {"image": "a.png", "word": "b"},
        "sound": {"audio": "a.wav", "text": "b"},
        "long": {"prompt": "x" * 700, "completion": "b"},
        "masked": {"messages": [{"role": "user", "content": "b"}]},
    }
    for name, row in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "letter.txt").touch()
    status, out, err = run("data", *arguments)
    (line,) = err.splitlines()
    assert status == 2 and out == "" and line.startswith("error: ") and words in line


def test_a_medium_that_is_missing_is_said_first(encoder: Encoder, tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}] * 3 + [{"prompt": "a", "completion": "b",
                                                       "audios": ["x.wav"]}]  # fmt: skip
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ModalityError, match=r"data\.jsonl:4: audio in it"):
        tokenize(read(path), encoder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
