"""Janus' VQ autoencoder run sooner: the numbers of transformers' own, and its codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import JanusVQVAE, JanusVQVAEConfig

from unified import cli
from unified.tokenizers.published import JanusCodec
from unified.tokenizers.vqgan import POINTS, Autoencoder, Conv3, affine, transforms

SMALL = {"base_channels": 32, "latent_channels": 32, "num_res_blocks": 1, "num_embeddings": 64}
SHAPES: dict[str, dict[str, Any]] = {
    "tiled": {"channel_multiplier": [1, 2], "num_patches": 24},
    "plain": {"channel_multiplier": [1, 1, 2], "num_patches": 5},  # sides of 5, 10 and 20
    "mixed": {"channel_multiplier": [1, 2, 1], "num_patches": 10, "num_res_blocks": 2},
}


def codec_of(shape: str) -> JanusCodec:
    """Random weights, norms and biases that are not 1 and 0."""
    torch.manual_seed(0)
    model = JanusVQVAE(JanusVQVAEConfig(**{**SMALL, **SHAPES[shape]}))
    for name, weight in model.named_parameters():
        if "norm" in name:
            nn.init.normal_(weight, 0.5, 0.3)
    nn.init.normal_(model.quant_conv.weight, 0, 0.5)
    nn.init.zeros_(model.quant_conv.bias)
    return JanusCodec(model, Path("random"))


def pictures(codec: JanusCodec, count: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, *codec.spec.image_size, generator=random) * 2 - 1


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_pictures_and_codes_are_those_of_transformers(shape: str) -> None:
    codec = codec_of(shape)
    model, given = codec.model, pictures(codec)
    own = Autoencoder.of(model)
    assert own is not None
    wanted = model.quant_conv(model.encoder(given))
    torch.testing.assert_close(own.encode(given).permute(0, 3, 1, 2), wanted, atol=1e-4, rtol=0)
    book = F.normalize(model.quantize.embedding.weight, dim=-1)
    found = codec.encode(given)
    assert torch.equal(found, (F.normalize(wanted.flatten(2).mT, dim=-1) @ book.T).argmax(-1))
    assert len(found.unique()) > 3
    drawn = codec.decode(found)
    assert drawn.is_contiguous() and drawn.std() > 0.01
    torch.testing.assert_close(drawn, model.decode(found).clamp(-1, 1), atol=1e-4, rtol=0)
    for k in range(2):  # neighbours do not matter
        assert torch.equal(codec.decode(found[k : k + 1])[0], drawn[k])


@pytest.mark.parametrize("points", [(0.0, 1.0, -1.0), (0.0, 1.0, -1.0, 0.5), POINTS])
def test_a_product_at_points_is_a_correlation(points: tuple[float, ...]) -> None:
    back, kernel, into = transforms(points)
    random = np.random.default_rng(0)
    weights, signal = random.normal(size=3), random.normal(size=len(points) + 1)
    found = back @ ((kernel @ weights) * (into @ signal))
    wanted = [signal[k : k + 3] @ weights for k in range(len(points) - 1)]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("size", [(40, 40), (64, 132), (4, 400), (1600, 4), (44, 42), (36, 36)])
@pytest.mark.parametrize("widths", [(32, 64), (64, 32)])
@torch.no_grad()
def test_a_convolution_is_torchs(widths: tuple[int, int], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer, norm = nn.Conv2d(*widths, 3, 1, 1), nn.GroupNorm(32, widths[0], eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, add = torch.randn(1, widths[0], *size) * 3 + 5, torch.randn(1, widths[1], *size)
    there = [t[0].permute(1, 2, 0).contiguous() for t in (x, add)]
    own = Conv3(layer)
    wanted = layer(F.silu(norm(x))) + add
    found = own(there[0], affine(there[0], norm), there[1])
    torch.testing.assert_close(found.permute(2, 0, 1)[None], wanted, atol=5e-5, rtol=1e-4)
    tiled = size not in ((44, 42), (36, 36))  # 42 makes no tiles, and 36 x 36 is small
    assert (own.weight is not None) is tiled
    found = own(there[0])
    torch.testing.assert_close(found.permute(2, 0, 1)[None], layer(x), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_changed_weights_are_noticed() -> None:
    codec = codec_of("tiled")
    given = pictures(codec, 1)
    codes = codec.encode(given)
    first = codec._sooner
    assert torch.equal(codec.encode(given), codes) and codec._sooner is first
    before = codec.decode(codes)
    codec.model.decoder.conv_in.weight.mul_(-1.5)
    after = codec.decode(codes)
    assert codec._sooner is not first and not torch.allclose(before, after)
    torch.testing.assert_close(after, codec.model.decode(codes).clamp(-1, 1), atol=1e-4, rtol=0)
    assert not any("sooner" in key for key in codec.state_dict())


@torch.no_grad()
def test_another_dtype_runs_as_it_is() -> None:
    codec = codec_of("plain").to(torch.bfloat16)
    codes = codec.encode(pictures(codec, 1).bfloat16())
    assert codec._sooner is None and codec.decode(codes).dtype == torch.bfloat16


def test_coding_is_timed_beside_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "coding.json"
    given = ["bench", "tokenizer", "--rounds", "1"]
    status = cli.run([*given, "--size", "tiny", "--batch", "2", "--against", "transformers",
                      "--json", str(target)])  # fmt: skip
    said = capsys.readouterr()
    assert status == 0, said.err
    assert "pictures a second" in said.out
    rows = json.loads(target.read_text())
    assert [(row["task"], row["way"]) for row in rows] == [
        ("encode", "unified"), ("encode", "transformers"),
        ("decode", "unified"), ("decode", "transformers"),
    ]  # fmt: skip
    for row in rows:
        assert row["rate"] > 0 and row["unit"] == "pictures" and row["settings"]["batch"] == 2
        assert row["settings"]["dtype"] == "float32" and row["settings"]["threads"] >= 1
    assert rows[-1]["difference"] < 1e-4
    assert cli.run([*given, "--model", "toybox"]) == 0
    for bad, words in (
        (["--model", "toybox", "--against", "transformers"], "JanusVQVAE alone"),
        (["--model", "audio"], "this tokenizer is of audio"),
    ):
        capsys.readouterr()
        assert cli.run([*given, *bad]) == 2
        assert words in capsys.readouterr().err
