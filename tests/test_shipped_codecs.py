"""The shipped tokenizers do what their cards say, on a few held-out items each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import unified
from unified import checkpoint
from unified.eval import tokenizer as benchmark
from unified.tokenizers.codec import StreamCodec
from unified.tokenizers.kinds import load_codec
from unified.train.audio import clips
from unified.train.video import films

WEIGHTS = Path(unified.__file__).parent / "weights"
SHIPPED = sorted(path.name for path in WEIGHTS.iterdir() if path.name != "toybox")
# items judged, and floors with room for so few of them; the cards have the figures of many
FLOORS = {
    "audio": (24, {"words_recognised": 0.93, "voice_kept": 0.85, "sounds_recognised": 0.9}),
    "video": (12, {"psnr": 28.0, "psnr_first": 28.0, "motion_kept": 0.7}),
    "seed": (48, {"psnr": 20.5, "objects_kept": 0.42, "colours_kept": 0.5}),
}


def test_all_together_are_small() -> None:
    folders = [WEIGHTS / "toybox" / "image_tokenizer", *(WEIGHTS / name for name in SHIPPED)]
    files = [path for folder in folders for path in folder.rglob("*.safetensors")]
    assert len(files) == len(folders)
    assert sum(path.stat().st_size for path in files) <= 12 * 2**20


@pytest.mark.parametrize("name", SHIPPED)
def test_it_is_whole_and_has_a_card(name: str) -> None:
    folder = WEIGHTS / name
    checkpoint.verify(folder)
    card = (folder / "README.md").read_text()
    assert f"unified tokenizer train {name}" in card
    assert f"unified tokenizer eval {name}" in card


@pytest.mark.parametrize("name", SHIPPED)
def test_what_comes_back_is_good(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count, floors = FLOORS[name]
    codec = load_codec(WEIGHTS / name)
    monkeypatch.setattr(benchmark, "CODE_ITEMS", dict.fromkeys(benchmark.CODE_ITEMS, count))
    rows = {r["metric"]: r["value"] for r in benchmark.evaluate_tokenizer(codec, count=count)}
    assert {key: rows[key] for key in floors if rows[key] < floors[key]} == {}


@pytest.mark.parametrize("name", [name for name in SHIPPED if name in ("audio", "video")])
def test_in_pieces_it_is_the_same(name: str) -> None:
    codec = load_codec(WEIGHTS / name)
    assert isinstance(codec, StreamCodec)
    if name == "audio":
        media = clips(0, 0, 1, "held_out")
    else:
        media = films(0, 0, 1, "held_out", 9)
    stream, cut = codec.encode_stream(), media.shape[2] // 3
    parts = [stream.push(media[:, :, :cut]), stream.push(media[:, :, cut:], last=True)]
    codes = codec.encode(media)
    assert torch.equal(torch.cat(parts, 1), codes)
    back, step = codec.decode_stream(), 2 * codec.spec.length
    pieces = [back.push(codes[:, :step]), back.push(codes[:, step:], last=True)]
    torch.testing.assert_close(torch.cat(pieces, 2), codec.decode(codes), atol=1e-5, rtol=1e-4)
