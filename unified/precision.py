"""The one place that says whether bfloat16 products pay on a device."""

from __future__ import annotations

from typing import Any

import torch


def capabilities() -> dict[str, Any]:
    """What this CPU can, by torch's names; nothing where torch is too old to say."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return found


def fast_bf16(device: str | torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively.

    A CPU without such instructions emulates them, a hundred times slower than float32 (LOG.md).
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    can = capabilities()
    return any(can.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def autocast(device: str | torch.device, precision: str = "auto") -> torch.autocast:
    """Mixed precision for the matrix products of a training step.

    Args:
        precision: "bf16", "fp32", or "auto": bf16 where the device has it.
    """
    enabled = fast_bf16(device) if precision == "auto" else precision == "bf16"
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)
