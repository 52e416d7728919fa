"""Every command of the README is tried, with the shipped weights, as it stands there.

A command whose line ends in a comment with "hours" or "minutes" is too long for a test: its recipe
and options are read, not run.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from unified import cli
from unified.train.recipe import read

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
LINES = [line for _, block in BLOCKS for line in block.splitlines()]
RUN = re.compile(r"(unified|printf .*\| unified|python -m|mkdir) ")
COMMANDS = [line for line in LINES if RUN.match(line)]
LONG = [line for line in COMMANDS if re.search(r"#.*(hours|minutes)", line)]
PYTHON = [block for language, block in BLOCKS if language == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 6 and PYTHON


@pytest.mark.parametrize("line", [line for line in COMMANDS if line not in LONG])
def test_command(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = line.split("#")[0]
    if command.startswith("unified ") and not re.search(r"[|<>&]", command):
        monkeypatch.chdir(folder)  # here: starting Python and torch anew takes seconds each
        status = cli.run(shlex.split(command)[1:])
        assert status == 0, capfd.readouterr().err
        return
    for name in ("unified", "python -m"):
        python = shlex.quote(sys.executable)
        target = f"{python} -m unified" if name == "unified" else f"{python} -m"
        command = re.sub(rf"(^|\| ){name} ", rf"\1{target} ", command)
    ran = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("line", LONG)
def test_long_command_is_valid(line: str) -> None:
    words = shlex.split(line.split("#")[0])
    if words[1] in ("train", "tokenizer"):
        name = next(word for word in words[2:] if word not in ("train",))
        sets = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
        assert read(name, sets).name


@pytest.mark.parametrize("block", PYTHON)
def test_python(block: str, folder: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", block], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_tree_names_every_file() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    missing = [
        name
        for name in tracked
        if not name.endswith("__init__.py")
        and not name.startswith("tests/")
        and Path(name).name not in README
    ]
    assert not missing, f"not in the README's tree: {missing}"
