"""A step of decoding on a CPU in C (step.c): compiled once for this kind of CPU, and loaded.

No library says what such a step needs: weights that are fetched before their turn and widened in
registers, and no return to Python between the layers. A compiler can, as for `torch.compile`;
what is compiled is kept in the user's cache, by what it was made from. Where there is none, plain
weights are decoded by torch, several times slower where a model is small.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from ctypes import CDLL, POINTER, Structure, c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path

import torch

from unified.precision import capabilities

ARCHITECTURES = {"AVX512": "-march=x86-64-v4", "AVX2": "-march=x86-64-v3"}  # as torch sees the CPU
COMPILERS = ("cc", "gcc", "clang")
SOURCE = Path(__file__).with_name("step.c")
PATIENCE = 120  # seconds that a compiler may take


class Weights(Structure):
    """A linear layer, as in step.c."""

    _fields_ = [
        ("codes", c_void_p), ("scale", c_void_p), ("bias", c_void_p),
        ("outputs", c_long), ("inputs", c_long), ("bits", c_int),
    ]  # fmt: skip


class Layer(Structure):
    """A decoder layer and its cache."""

    _fields_ = [
        *((name, Weights) for name in ("qkv", "out", "gate_up", "down")),
        *((name, c_void_p) for name in ("before", "between", "head_norm", "keys", "values")),
    ]


class Shape(Structure):
    """Sizes of a decoder."""

    _fields_ = [
        *((name, c_long) for name in ("layers", "size", "heads", "kv_heads", "width", "inner")),
        ("scale", c_float), ("eps", c_float), ("bits", c_int),
    ]  # fmt: skip


class TwoLayers(Structure):
    """With GELU between them."""

    _fields_ = [("up", Weights), ("down", Weights)]


class Heads(Structure):
    """What codes are chosen with."""

    _fields_ = [
        ("head", TwoLayers), ("told", TwoLayers),
        *((name, c_void_p) for name in ("place", "codes", "where")), ("size", c_long),
    ]  # fmt: skip


class Next(Structure):
    """The codes that a row writes next."""

    _fields_ = [
        *((name, c_void_p) for name in ("own", "twin", "table", "noise", "chosen")),
        ("count", c_long), ("top_k", c_long),
        *((name, c_float) for name in ("weight", "temperature", "top_p", "min_p")),
        ("row", c_long),
    ]  # fmt: skip


@cache
def library() -> CDLL:
    """What step.c holds.

    Raises:
        ValueError: there is no compiler, or it refuses; says what to install.
    """
    compiler = _compiler()
    flags = ["-O3", "-shared", "-fPIC", "-Wno-psabi", *_architecture()]
    words = " ".join([compiler, _ran([compiler, "--version"]).stdout, platform.machine(), *flags])
    made = words.encode() + SOURCE.read_bytes()
    name, said = f"{SOURCE.stem}-{hashlib.sha256(made).hexdigest()[:16]}.so", ""
    for place in (_cache, _temporary):
        try:
            folder = place()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _own(folder):
                raise OSError(f"others may write to {folder}")
            if (folder / name).is_file():
                with suppress(OSError, AttributeError):  # of a damaged one, which is made again
                    return opened(folder / name)
            compile_to(compiler, flags, folder / name)
            return opened(folder / name)
        except (OSError, RuntimeError) as error:
            said = said or str(error)
    raise ValueError(f"no place to keep what is compiled ({said}); set XDG_CACHE_HOME to a folder"
                     " that can be written")  # fmt: skip


def _ran(command: list[str]) -> subprocess.CompletedProcess[str]:
    """A command of the compiler, over.

    Raises:
        ValueError: it cannot be run, or never ends.
    """
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"{command[0]} cannot be run ({error}); another compiler may (set CC), or"
                         " load without weights=") from None  # fmt: skip


def _own(folder: Path) -> bool:
    """Whether nobody else can write there, or could have put it there: such a one could bring
    anything to run."""
    found = folder.lstat()
    mine = found.st_uid == os.getuid() and stat.S_ISDIR(found.st_mode)
    return mine and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def opened(path: Path) -> CDLL:
    """The library in a file."""
    found = CDLL(str(path))
    found.product.argtypes = [POINTER(Weights), c_void_p, c_void_p, c_long, c_void_p, c_int]
    found.column.argtypes = [
        POINTER(Layer), POINTER(Shape), *[c_void_p] * 6, c_long, c_long, c_void_p, c_int
    ]  # fmt: skip
    found.choose.argtypes = [POINTER(Heads), POINTER(Next), c_long, c_long, c_void_p, c_int]
    found.product.restype = found.column.restype = found.choose.restype = None
    found.threaded.argtypes = []
    return found


def available() -> bool:
    """Whether this machine can have it."""
    try:
        library()
    except ValueError:
        return False
    return True


def threaded() -> bool:
    """Whether it uses several cores."""
    return bool(library().threaded())


def _compiler() -> str:
    if os.name != "posix":
        raise ValueError(f"packed weights are for Linux and macOS, and this is {os.name}; load"
                         " without weights=")  # fmt: skip
    for name in (os.environ.get("CC", ""), *COMPILERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise ValueError("packed weights need a C compiler, and none is here: install one (on Debian:"
                     " apt install gcc), or load without weights=")  # fmt: skip


def _architecture() -> list[str]:
    if platform.machine() not in ("x86_64", "AMD64"):
        return []
    flag = ARCHITECTURES.get(torch.backends.cpu.get_cpu_capability())
    if flag is None:
        return []
    whole = "v4" in flag and capabilities().get("avx512_vnni", False)
    return [flag, "-mavx512vnni"] if whole else [flag]


def _temporary() -> Path:
    return Path(tempfile.gettempdir()) / f"unified-{os.getuid()}"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unified"


def compile_to(compiler: str, flags: list[str], target: Path) -> None:
    """With threads where the compiler has OpenMP: with gcc torch's own, which are there already."""
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        for threads in (["-fopenmp"], []):
            out = Path(place) / target.name
            given = [compiler, *flags, *threads, str(SOURCE), "-lm", "-o", str(out)]
            ran = _ran(given)
            if ran.returncode == 0:
                out.replace(target)
                return
    said = ran.stderr.strip().splitlines() or [f"status {ran.returncode}"]
    first = next((line for line in said if "error" in line), said[0])
    raise ValueError(f"{compiler} could not compile {SOURCE.name}: {first}; another compiler may"
                     " (set CC), or load without weights=")  # fmt: skip
