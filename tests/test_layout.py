"""The house: links to the room folders, whose `tokenizers` it is, and which way imports point."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("tokenizers", "detokenizers", "train", "eval")


def run_python(code: str, cwd: Path) -> str:
    """Run `code` in a fresh interpreter started in `cwd`; what it prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# The links


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_a_relative_link(room: str) -> None:
    link = ROOT / "unified" / room
    assert link.is_symlink(), f"{link} must be a link (git config core.symlinks true)"
    assert os.readlink(link) == f"../{room}"
    assert (ROOT / room).is_dir() and not (ROOT / room).is_symlink()


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_no_top_level_package(room: str) -> None:
    assert not (ROOT / room / "__init__.py").exists()


def test_tokenizers_from_the_root_is_hugging_face() -> None:
    code = "import tokenizers; print(tokenizers.__file__); tokenizers.Tokenizer"
    found = Path(run_python(code, ROOT)).resolve()
    assert ROOT / "tokenizers" not in found.parents


@pytest.mark.parametrize("inside", [True, False], ids=["root", "elsewhere"])
def test_rooms_import_by_their_full_path(inside: bool, tmp_path: Path) -> None:
    """Each room, and one module of it if it has any, beside Hugging Face's package."""
    names = [f"unified.{room}" for room in ROOMS]
    for room in ROOMS:
        names += [module_name(path) for path in sorted((ROOT / room).glob("*.py"))[:1]]
    code = f"""
import sys
if not {inside}:
    sys.path.append({str(ROOT)!r})
import importlib, tokenizers
for name in {names!r}:
    importlib.import_module(name)
import unified.tokenizers
assert tokenizers is not unified.tokenizers
print(*unified.tokenizers.__path__)
"""
    found = Path(run_python(code, ROOT if inside else tmp_path).splitlines()[-1])
    assert found.resolve() == ROOT / "tokenizers"


# What importing costs


@pytest.mark.parametrize("module", ["unified", "unified.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    if not list(ROOT.glob(module.replace(".", "/") + "*")):
        pytest.skip(f"{module} is not there yet")
    heavy = {"torch", "transformers", "datasets", "matplotlib"}
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    assert run_python(code, ROOT) == ""


def test_unknown_attribute_is_refused() -> None:
    import unified

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        unified.nothing  # noqa: B018


# Which way imports point: a room is what follows `unified.` in a module's name.

LEAVES = {"vocabulary", "sequence", "pattern", "grammar"}
MODEL = {
    "configuration",
    "modeling",
    "processing",
    "encoders",
    "cache",
    "sampling",
    "engine",
    "checkpoint",
}
ABOVE_THE_MODEL = {"handle", "families", "tasks", "train", "eval"}
OUTWARD = {"cli", "serve", "verbs"}


def allowed(room: str, other: str) -> bool:
    """Whether a module of `room` may import from `other`."""
    if room == other or room in OUTWARD | {"__main__"}:
        return True
    if other in OUTWARD:
        return False
    if room in LEAVES:
        return other in LEAVES
    if room in {"tokenizers", "detokenizers", "toybox", "media"}:
        return other not in ABOVE_THE_MODEL | {"configuration", "modeling", "processing", "engine"}
    if room in MODEL:
        return other not in ABOVE_THE_MODEL | {"toybox"}
    if room in {"handle", "families", "tasks"}:
        return other not in {"train", "eval"}
    return {room, other} != {"train", "eval"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "unified" else ("unified", *parts))


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def rooms_imported(source: str, module: str) -> set[str]:
    """The rooms of `unified` that `source`, the text of `module`, imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: -node.level]
                base = ".".join([*package, base] if base else package)
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("unified."):
                found.add(room_of(name))
    return found


def modules() -> Iterator[Path]:
    yield from sorted((ROOT / "unified").glob("*.py"))
    for folder in sorted((ROOT / "unified").iterdir()):
        if folder.is_dir():
            yield from sorted(folder.resolve().rglob("*.py"))


def test_imports_point_one_way() -> None:
    wrong = []
    for path in modules():
        name = module_name(path)
        room = room_of(name)
        if path == ROOT / "unified" / "__init__.py":
            continue  # the lazy way in: unified.load is the handle's
        for other in sorted(rooms_imported(path.read_text(encoding="utf-8"), name)):
            if not allowed(room, other):
                wrong.append(f"{name} imports unified.{other}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "import unified.train.loop",
        "from unified import train",
        "from unified.train.loop import fit",
        "from ..train import loop",
        "def score():\n    from unified.train import loop",
    ],
)
def test_every_way_to_import_is_seen(source: str) -> None:
    assert rooms_imported(source, "unified.eval.toybox") == {"train"}


@pytest.mark.parametrize(
    ("room", "other"),
    [
        ("vocabulary", "modeling"),
        ("grammar", "tokenizers"),
        ("tokenizers", "modeling"),
        ("detokenizers", "train"),
        ("modeling", "tasks"),
        ("engine", "cli"),
        ("train", "eval"),
        ("eval", "train"),
        ("eval", "serve"),
    ],
)
def test_wrong_directions_are_refused(room: str, other: str) -> None:
    assert not allowed(room, other)
