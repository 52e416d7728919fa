"""C sources of this package, compiled once for this machine's kind of CPU and loaded.

Python's packages cannot say what a step of decoding on a CPU needs: weights that are fetched
before their turn and widened in registers. A compiler can, and PyTorch's own (`torch.compile`)
needs one, too; so what is compiled is kept in the user's cache, by what it was made from.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

ARCHITECTURES = {"AVX512": "-march=x86-64-v4", "AVX2": "-march=x86-64-v3"}  # as torch sees the CPU
COMPILERS = ("cc", "gcc", "clang")


@cache
def library(source: Path) -> ctypes.CDLL:
    """A C file as a library.

    Raises:
        ValueError: there is no compiler, or it refuses; says what to install.
    """
    compiler = _compiler()
    flags = ["-O3", "-shared", "-fPIC", "-Wno-psabi", *_architecture()]
    made = " ".join([compiler, platform.machine(), *flags]).encode() + source.read_bytes()
    name = f"{source.stem}-{hashlib.sha256(made).hexdigest()[:16]}.so"
    for folder in (_cache(), Path(tempfile.gettempdir()) / f"unified-{os.getuid()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():  # somebody else's could hold anything
                continue
            if not (folder / name).is_file():
                _compile(compiler, flags, source, folder / name)
            return ctypes.CDLL(str(folder / name))
        except OSError:
            continue
    raise ValueError(f"no place to keep what is compiled: {_cache()} cannot be written; set"
                     " XDG_CACHE_HOME to a folder that can")  # fmt: skip


def compiled() -> bool:
    """Whether there is a compiler here."""
    return any(shutil.which(name) for name in (os.environ.get("CC", ""), *COMPILERS) if name)


def _compiler() -> str:
    for name in (os.environ.get("CC", ""), *COMPILERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise ValueError("packed weights need a C compiler, and none is here: install one (on Debian:"
                     " apt install gcc), or load without weights=")  # fmt: skip


def _architecture() -> list[str]:
    if platform.machine() in ("x86_64", "AMD64"):
        flag = ARCHITECTURES.get(torch.backends.cpu.get_cpu_capability())
        return [flag] if flag else []
    return ["-mcpu=native"]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unified"


def _compile(compiler: str, flags: list[str], source: Path, target: Path) -> None:
    """With threads where the compiler has OpenMP: torch's own, which is loaded already."""
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        for threads in (["-fopenmp"], []):
            out = Path(place) / target.name
            given = [compiler, *flags, *threads, str(source), "-o", str(out)]
            ran = subprocess.run(given, capture_output=True, text=True, errors="replace")
            if ran.returncode == 0:
                out.replace(target)
                return
    said = ran.stderr.strip().splitlines() or [f"status {ran.returncode}"]
    raise ValueError(f"{compiler} could not compile {source.name}: {said[0]}; another compiler may"
                     " (set CC), or load without weights=")  # fmt: skip
