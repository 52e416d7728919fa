"""Quantizers: codes stand for what was quantized, codebooks are placed once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unified.tokenizers.quantizers import FiniteScalar, Residual


@pytest.mark.parametrize(
    "quantizer",
    [
        FiniteScalar(16, (4, 3, 5)),
        Residual(16, 3, 8, inner=4),
        Residual(16, 1, 8, inner=8, cosine=True),
    ],
)
def test_codes_stand_for_what_was_quantized(quantizer: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 30, 16)
    quantizer.train()
    quantizer(x)
    quantizer.eval()
    quantized, codes, _ = quantizer(x)
    torch.testing.assert_close(quantizer.embed(codes), quantized, atol=1e-5, rtol=1e-5)
    assert codes.shape[-1] == len(quantizer.sizes)
    assert all(
        0 <= codes[..., q].min() and codes[..., q].max() < size
        for q, size in enumerate(quantizer.sizes)
    )


@pytest.mark.parametrize("cosine", [False, True])
def test_codebooks_are_placed_once_and_passed_by_before(cosine: bool) -> None:
    torch.manual_seed(0)
    quantizer = Residual(16, 3, 8, inner=4, cosine=cosine, dropout=True)
    x = torch.randn(4, 30, 16)
    quantizer.free = True
    passed, none, _ = quantizer(x)
    assert (none == -1).all()
    quantizer.free = False
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    with pytest.raises(ValueError, match="hold nothing yet"):
        quantizer.eval()(x)
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())
    quantizer.train().place(x)
    assert quantizer.training
    quantizer.eval()
    quantized, codes, _ = quantizer(x)
    assert len(codes[..., 0].unique()) == len(codes[..., 2].unique()) == 8
    assert (quantized - passed).square().mean() < 0.5 * passed.var()


def test_fewer_residual_codebooks_are_a_partial_sum() -> None:
    torch.manual_seed(0)
    quantizer = Residual(16, 3, 8, inner=4)
    x = torch.randn(4, 30, 16)
    quantizer(x)
    quantizer.eval().requires_grad_(False)
    _, codes, _ = quantizer(x)
    inner = quantizer.inward(x)
    errors = []
    for depth in (1, 2, 3):
        books = quantizer.vq.codebooks
        partial = sum(books[q][codes[..., q]] for q in range(depth))
        torch.testing.assert_close(quantizer.embed(codes[..., :depth]), quantizer.outward(partial))
        errors.append(float((inner - partial).square().mean()))
    assert errors[0] > errors[1] > errors[2]
