"""What every test shares: two threads (one beside other workers), no network, and no GPU test where
there is no GPU."""

from __future__ import annotations

import os
from ctypes import CDLL
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from unified.handle import Unified

# Read when torch is first imported, here or in a command that a test starts; not imported yet.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


CPUS = {"VNNI": ["-march=x86-64-v4", "-mavx512vnni"], "AVX512": ["-march=x86-64-v4"],
        "AVX2": ["-march=x86-64-v3"], "DEFAULT": []}  # fmt: skip


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a whole run of the smoke recipe: every stage for real, nothing learnt."""
    from unified.train.recipe import run

    folder = tmp_path_factory.mktemp("tiny")
    run("toybox", None, ["scale=tiny"], folder, device="cpu", progress=False)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_run: Path) -> Unified:
    from unified.handle import load

    return load(tiny_run / "model", device="cpu")


@pytest.fixture(scope="session")
def tiny_janus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small random Janus as transformers saves it."""
    from unified.eval.decoding import random_janus

    return random_janus(tmp_path_factory.mktemp("janus"), "tiny")


@pytest.fixture(params=CPUS)
def other_cpu(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CDLL:
    """step.c compiled as for another kind of CPU, where this one can run it."""
    import torch

    from unified import choices, column, native, packed

    capability = torch.backends.cpu.get_cpu_capability()
    if "-mavx512vnni" in native._architecture():
        capability = "VNNI"
    order = list(CPUS)
    if capability not in order or order.index(request.param) < order.index(capability):
        pytest.skip(f"this CPU is {capability}")
    target = tmp_path / "step.so"
    flags = ["-O3", "-shared", "-fPIC", "-Wno-psabi", *CPUS[request.param]]
    native.compile_to(native._compiler(), flags, target)
    library = native.opened(target)
    for module in (packed, column, choices):
        monkeypatch.setattr(module, "library", lambda: library)
    return library


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The README's commands go on from one another: at the head of a process's queue they stay
    together, as what is taken over by another is its tail."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")
