"""Drawing many codes at once: the very codes that drawing one by one gives, in fewer passes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import unified
from tests.test_family_emu3 import save as save_emu3
from unified import cli, jacobi
from unified.engine import Request
from unified.eval.decoding import random_janus
from unified.handle import Unified
from unified.sampling import Sampling, choose, exponential, noisiest

WINDOWS = (1, 5, 64)


@pytest.fixture(scope="module")
def janus(tmp_path_factory: pytest.TempPathFactory) -> Unified:
    """A grid in raster order; guidance against the prompt in pads."""
    return unified.load(random_janus(tmp_path_factory.mktemp("janus"), "tiny"), device="cpu")


@pytest.fixture(scope="module")
def emu3(tmp_path_factory: pytest.TempPathFactory) -> Unified:
    """A grid whose rows end with an id of their own, before and after it others."""
    return unified.load(save_emu3(tmp_path_factory.mktemp("emu3")), device="cpu")


@pytest.fixture
def toybox(tiny: Unified) -> Unified:
    """Layers of three codebooks; words come first."""
    return tiny


def asked(handle: Unified, words: str, seed: int, **settings: Any) -> Request:
    """A picture is demanded, after words where the model has some first."""
    now = bool(handle.model.config.draws_at_once)
    prompt = handle._fit([{"role": "user", "content": words}], 90, draw=now)[0]
    draw = "now" if now else "only"
    return Request(prompt.ids, prompt.views, seed, Sampling(**settings), draw, most=200)


CASES = [
    {"guidance_scale": 1.0, "temperature": 1.0},
    {"guidance_scale": 3.0, "temperature": 1.0, "schedule": "linear", "text_temperature": 1.0},
    {"guidance_scale": 5.0, "temperature": 0.3, "top_k": 20, "top_p": 0.9},
    {"guidance_scale": 2.0, "temperature": 0.7, "min_p": 0.05, "schedule": "cosine"},
    {"guidance_scale": 2.0, "temperature": 0.0},
    {"guidance_scale": 3.0, "temperature": 1.0, "guidance_start": 0.2, "guidance_end": 0.6},
]


@pytest.mark.parametrize("settings", CASES)
@pytest.mark.parametrize("name", ["janus", "emu3", "toybox"])
def test_the_same_ids_in_fewer_passes(
    name: str, settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    handle: Unified = request.getfixturevalue(name)
    places = len(handle.layout.written)
    for seed in (0, 1):
        one = asked(handle, ("a cat", "two dogs at night")[seed], seed, **settings)
        wanted = handle.engine.run([one])[0]
        assert len(set(wanted.ids)) > 5 or settings["temperature"] < 1
        for window in WINDOWS:
            found = jacobi.draw(handle.engine, one, window)
            assert found.ids == wanted.ids, window
            assert found.reason == wanted.reason
            torch.testing.assert_close(found.pictures, wanted.pictures)
            assert 1 <= found.passes <= places
            if window == 1:  # one by one, but for ids that are always the same
                assert found.passes == handle.layout.image_length


def test_a_model_that_knows_what_follows_takes_few_passes(janus: Unified) -> None:
    head = janus.model.image_head
    sure = torch.zeros(head.down.out_features)
    sure[5] = 1e4
    hook = head.register_forward_hook(lambda module, inputs, logits: logits + sure)
    try:
        one = asked(janus, "a cat", 0, guidance_scale=3.0, temperature=1.0)
        assert jacobi.draw(janus.engine, one, 64).passes == 1
        assert jacobi.draw(janus.engine, one, 5).passes < 25 / 4
    finally:
        hook.remove()


@pytest.mark.parametrize("most", [30, 45, 60, 200])
def test_words_take_their_noise_first(toybox: Unified, most: int) -> None:
    for draw in ("first", "only"):
        one = asked(toybox, "a cat", 3, text_temperature=1.0, temperature=1.0)
        one = replace(one, draw=draw, most=most)
        assert jacobi.draw(toybox.engine, one).ids == toybox.engine.run([one])[0].ids


def test_views_and_earlier_pictures_are_seen(toybox: Unified) -> None:
    red = Image.new("RGB", (64, 64), (200, 30, 30))
    plain, parallel = (
        toybox.generate("like this", image=red, seed=4, guidance_scale=2.0, parallel=how)[0]
        for how in (None, "jacobi")
    )
    assert plain.tobytes() == parallel.tobytes()
    shown = [{"type": "image", "image": red}, {"type": "text", "text": "another"}]
    other = toybox.generate("like this", seed=4, guidance_scale=2.0, parallel="jacobi")[0]
    prompt = toybox._fit([{"role": "user", "content": shown}], 200)[0]
    one = replace(toybox._request(prompt, 4, 200, {}), draw="only")
    assert jacobi.draw(toybox.engine, one, 9).ids == toybox.engine.run([one])[0].ids
    assert other.size == plain.size


def test_weights_of_16_bits_are_drawn_in_parallel(tiny_janus: Path) -> None:
    """Where a pass does not round like a step it need not be the same picture."""
    handle = unified.load(tiny_janus, device="cpu", dtype=torch.bfloat16)
    drawn = jacobi.draw(handle.engine, asked(handle, "a cat", 0, guidance_scale=3.0))
    assert len(drawn.ids) == handle.layout.drawn_length and len(drawn.pictures) == 1


def test_choosing_is_noise_and_logits() -> None:
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    filters = {"top_k": 12, "top_p": 0.8, "min_p": 0.01}
    one, other = (torch.Generator().manual_seed(9) for _ in range(2))
    singly = [choose(row, one, temperature=0.8, **filters) for row in logits]  # type: ignore[arg-type]
    noise = torch.stack([exponential(40, other) for _ in logits])
    at_once = noisiest(logits, noise, temperature=0.8, **filters)  # type: ignore[arg-type]
    assert at_once.tolist() == singly and len(set(singly)) > 2


# The handle and the verb


def test_a_handle_draws_the_same_pictures(janus: Unified) -> None:
    counted: list[tuple[int, int]] = []
    given: dict[str, Any] = {"n": 2, "seed": 5, "guidance_scale": 3.0}
    plain = janus.generate(["a cat", "a frog"], **given)
    parallel = janus.generate(
        ["a cat", "a frog"], parallel="jacobi", window=8,
        on_step=lambda done, total: counted.append((done, total)), **given,
    )  # fmt: skip
    assert [image.tobytes() for image in plain] == [image.tobytes() for image in parallel]
    assert all(1 <= image.info["passes"] <= 25 for image in parallel)
    assert "passes" not in plain[0].info
    assert counted == [(k + 1, 100) for k in range(100)]
    message = janus.draw("a cat", seed=5, parallel="jacobi", guidance_scale=3.0)[0]
    assert message["content"][-1]["image"].tobytes() == plain[0].tobytes()


def test_what_cannot_be_drawn_so_is_said(janus: Unified) -> None:
    one = asked(janus, "a cat", 0)
    for bad, words in (
        (lambda: jacobi.draw(janus.engine, one, 0), "a window of 0 codes; it has at least 1"),
        (lambda: jacobi.draw(janus.engine, replace(one, draw="auto")), "first, only or now"),
        (lambda: janus.generate("a cat", parallel="gauss"), "'gauss'; one of jacobi"),
    ):
        with pytest.raises(ValueError, match=words):
            bad()
    config = janus.model.config.text_config
    kept = config.rope_parameters
    config.rope_parameters = {**kept, "rope_type": "dynamic", "factor": 2.0}
    try:
        with pytest.raises(ValueError, match="dynamic rotations: .*; draw without parallel"):
            jacobi.draw(janus.engine, one)
    finally:
        config.rope_parameters = kept
    janus.codec.decodes = False
    try:
        with pytest.raises(ValueError, match="cannot draw"):
            jacobi.draw(janus.engine, one)
    finally:
        janus.codec.decodes = True


def test_the_verb_says_how_many_passes_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "one.png", tmp_path / "two.png"]
    given = ["generate", "a red circle", "--force", "--seed", "3", "--device", "cpu", "-o"]
    assert cli.run([*given, str(files[0])]) == 0
    assert cli.run([*given, str(files[1]), "--parallel", "jacobi", "--window", "12"]) == 0
    assert " codes in " in capsys.readouterr().err
    assert files[0].read_bytes() == files[1].read_bytes()
    assert cli.run([*given, str(tmp_path / "3.png"), "--parallel", "jacobi", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["files"][0]
    assert 1 <= made["passes"] < 33
    assert cli.run([*given, str(tmp_path / "4.png"), "--window", "3"]) == 2
    assert "--window 3 is of --parallel jacobi" in capsys.readouterr().err


def test_it_is_timed_beside_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "decode.json"
    given = ["bench", "decode", "--size", "tiny", "--rounds", "1", "--unguided", "0", "--limit"]
    assert cli.run([*given, "12", "--weights", "fp32", "--parallel", "jacobi", "--window", "6",
                    "--json", str(target)]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "passes, each a step" in said and "passes a picture" in said
    found = {row["way"]: row for row in json.loads(target.read_text())}
    assert list(found) == [
        "unified fp32", "unified fp32, jacobi", "shipped, one by one", "shipped, jacobi",
    ]  # fmt: skip
    one, many = found["unified fp32"], found["unified fp32, jacobi"]
    assert many["agrees"]["unified fp32"] == 12 and many["codes"] == one["codes"]
    assert many["passes"] <= one["passes"] == 12 and many["rate"] > 0
    assert found["shipped, jacobi"]["passes"] < found["shipped, one by one"]["passes"] == 33
