"""A small stand-in for a model, and commands run with it in an empty folder."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from unified import cli, handle, sampling, transcript
from unified.handle import ContextError, End, ImageDone, ImageProgress, ImageStart, TextDelta
from unified.processing import UnifiedImageProcessor
from unified.tokenizers.codec import CodecSpec


class Codec:
    spec = CodecSpec((16,), (0,) * 64, (64, 64))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        if codes.shape[1:] != (64,):
            raise ValueError(f"{tuple(codes.shape)} codes; a picture has 64")
        return torch.zeros(1, 3, 64, 64)


class Model:
    """Draws when told to, repeats what was said otherwise; some words make it fail."""

    source, revision = "unified/toybox", "0123abcd"
    codec, model = Codec(), SimpleNamespace(device="cpu")
    processor = SimpleNamespace(image_processor=UnifiedImageProcessor())

    def __init__(self) -> None:
        self.heard: list[list[dict[str, Any]]] = []
        self.seeds: list[int] = []

    def settings(self, **given: Any) -> sampling.Sampling:
        return replace(sampling.Sampling(), **given)

    def stream(
        self, messages: list[dict[str, Any]], *, seed: int = 0, draw: str = "auto", **_: Any
    ) -> Iterator[Any]:
        self.heard.append(messages)
        self.seeds.append(seed)
        text = transcript.text_of(messages[-1])
        if "too long" in text:
            raise ContextError("the message takes 900 tokens; this model reads at most 512")
        if "crash" in text:
            raise RuntimeError("a tensor\nof the wrong shape")
        if "forget" in text:
            yield handle.Notice("The oldest 2 messages were left out.")
        if draw == "only" or text.lower().startswith(("draw", "please draw")):
            yield from (TextDelta("Here is "), TextDelta("a circle."), ImageStart())
            yield from (ImageProgress(1, 2), ImageProgress(2, 2))
            yield ImageDone(Image.new("RGB", (64, 64), (seed % 256, 0, 0)))
            yield TextDelta(" Enjoy.")
        else:
            shown = len(transcript.pictures_of(messages[-1:]))
            yield TextDelta(f"You said: {text}")
            yield TextDelta(f" ({shown} pictures)" if shown else "")
        if "stop" in text:
            raise KeyboardInterrupt
        yield End("end")

    def generate(
        self, prompt: str, *, n: int, seed: int, on_step: Callable[[int, int], None], **_: Any
    ) -> list[Image.Image]:
        if "too long" in prompt:
            raise ContextError("the message takes 900 tokens; this model reads at most 512")
        on_step(1, 1)
        return [Image.new("RGB", (64, 64), (seed + k, 0, 0)) for k in range(n)]

    def draw(self, prompt: str, **settings: Any) -> list[dict[str, Any]]:
        if "zebra" in prompt:
            settings["on_step"](1, 1)
            said = {"type": "text", "text": "I don't know how to draw a zebra."}
            return [{"role": "assistant", "content": [said]}]
        said = {"type": "text", "text": "Only part of it. "}
        return [
            {
                "role": "assistant",
                "content": ([said] if "partly" in prompt else [])
                + ([{"type": "image", "image": image}] if "seldom" not in prompt or k else []),
            }
            for k, image in enumerate(self.generate(prompt, **settings))
        ]

    def ask(self, image: Image.Image, question: str, *, seed: int) -> str:
        return f"{image.width} wide"

    def encode(self, pixels: torch.Tensor) -> list[int]:
        assert pixels.shape == (3, 64, 64)
        return [7] * 64


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Model:
    model = Model()
    monkeypatch.setattr(handle, "load", lambda source=None, device=None, **_: model)
    monkeypatch.delenv("UNIFIED_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    return model


class Ran(SimpleNamespace):
    status: int
    out: str
    err: str


@pytest.fixture
def run(model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line in this process, in an empty folder; `stdin` is its standard input."""

    def run(*arguments: str, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        status = cli.run(list(arguments))
        out, err = capsys.readouterr()
        return Ran(status=status, out=out, err=err)

    return run


def error_of(ran: Ran) -> str:
    """The one line of a refused command."""
    assert ran.status == 2 and ran.out == "", ran
    (line,) = ran.err.splitlines()
    assert line.startswith("error: ")
    return line


def files(folder: Path | None = None) -> list[str]:
    return sorted(path.name for path in (folder or Path.cwd()).iterdir())
