"""Where work runs: the device that was asked for, or one line that says why it cannot be had."""

from __future__ import annotations

import torch

KNOWN = "cpu, cuda, cuda:N or mps"


def placed(device: str | None = None) -> str:
    """The device by its name; without one a GPU if there is one.

    Raises:
        ValueError: it is no device, or not to be had here.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        asked = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}; one of {KNOWN}") from None
    if asked.type == "cuda":
        _check_cuda(device, asked.index or 0)
    elif asked.type == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError(f"device {device}: this machine has no MPS; take cpu")
    elif asked.type != "cpu":
        raise ValueError(f"device {device!r} is not supported; one of {KNOWN}")
    return device


def _check_cuda(device: str, index: int) -> None:
    if not torch.backends.cuda.is_built():
        raise ValueError(
            f"device {device}: this torch ({torch.__version__}) is built without CUDA; install one"
            " with CUDA, or take --device cpu"
        )
    if not torch.cuda.is_available():
        raise ValueError(
            f"device {device}: torch sees no GPU here (its driver, or CUDA_VISIBLE_DEVICES); take"
            " --device cpu"
        )
    count = torch.cuda.device_count()
    if index >= count:
        raise ValueError(f"device {device}: there are {count} GPUs, from cuda:0 on")
