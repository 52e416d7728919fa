"""A chat whose pictures are SEED codes: trained by the toybox recipe, drawn by the flow decoder."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from unified import cli
from unified.handle import load
from unified.tokenizers.seed import SeedConfig, SeedTokenizer
from unified.toybox.samples import sample
from unified.toybox.scene import Scene, render, sample_scene
from unified.train.conversations import Conversations
from unified.train.recipe import run

SMALL: dict[str, Any] = {"width": 32, "layers": 1, "heads": 2}
RUN = ["scale=tiny", "text.size=500", "text.lines=500", "vision.loop.steps=2",
       "pretrain.loop.steps=2", "pretrain.loop.save_every=2", "pretrain.mix={draw: 1, ask: 1}",
       "chat=null", "refine=null", "polish=null"]  # fmt: skip


class Counted(SeedTokenizer):
    """Notes how many pictures are decoded."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        self.decoded = getattr(self, "decoded", 0) + len(codes)
        return super().decode(codes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    codec = Counted(
        SeedConfig(queries=6, levels=(8, 4), reverse_layers=1, prior_width=32,
                   teacher={**SMALL, "text_width": 32, "out": 16}, flow=SMALL, steps=2, **SMALL)
    )  # fmt: skip
    torch.nn.init.normal_(codec.flow.out.weight, std=0.1)  # it starts at nothing
    place = tmp_path_factory.mktemp("seed")
    codec.eval().save(place / "codec")
    run("toybox", None, [*RUN, f"codec={place / 'codec'}"], place, device="cpu", progress=False)
    return place


def test_what_is_drawn_comes_from_the_flow_decoder(folder: Path) -> None:
    handle = load(folder / "model", device="cpu")
    assert isinstance(handle.codec, SeedTokenizer) and handle.codec.sampling["steps"] == 2
    drawn = handle.generate("a red circle", seed=1)[0]
    handle.codec.sampling["seed"] = 5  # other noise, the same codes
    other = handle.generate("a red circle", seed=1)[0]
    handle.codec.sampling["seed"] = 0
    assert drawn.size == (64, 64) and drawn.tobytes() != other.tobytes()
    assert handle.generate("a red circle", seed=1)[0].tobytes() == drawn.tobytes()
    reply = handle.chat([{"role": "user", "content": "draw a cat"}], draw="only", most=40)
    assert any(part["type"] == "image" for part in reply["content"])


def test_only_what_is_read_back_is_decoded(folder: Path) -> None:
    handle = load(folder / "model", device="cpu")
    codec = Counted.load(folder / "codec")
    one = Conversations(handle.layout, handle.processor.tokenizer, codec, dropout=0.0)
    for task in ("ask", "render", "draw", "dialogue"):
        samples = [sample(task, 0, k) for k in range(6)]
        codec.decoded = 0
        encoded = one.encode(samples, random.Random(0))
        pictures = [
            turn.role
            for s in samples
            for turn in s.turns
            for part in turn.parts
            if isinstance(part, Scene)
        ]
        assert pictures and len(encoded) == 6
        again = pictures.count("assistant") if task in ("draw", "dialogue") else 0
        assert codec.decoded == again


def test_how_a_picture_is_drawn_is_an_option(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(render(sample_scene(random.Random(0)))).save("scene.png")
    place = ["--model", str(folder / "model")]
    assert cli.run(["tokenizer", "encode", "scene.png", "-o", "codes.json", *place]) == 0
    assert len(json.loads(Path("codes.json").read_text())["codes"]) == 6
    drawn = []
    for options in ([], ["--steps", "3"], ["--seed", "7"], ["--guidance", "3"], []):
        given = ["tokenizer", "decode", "codes.json", "-o", "back.png", *options, *place]
        assert cli.run(given) == 0
        drawn.append(Path("back.png").read_bytes())
    assert len(set(drawn)) == 4 and drawn[0] == drawn[-1]
    assert cli.run(["tokenizer", "encode", "scene.png", "-o", "codes.json"]) == 0
    capsys.readouterr()
    assert cli.run(["tokenizer", "decode", "codes.json", "-o", "b.png", "--steps", "3"]) == 2
    assert "--steps: a tokenizer of kind 'layered'" in capsys.readouterr().err
