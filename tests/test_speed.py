"""Speed is compared turn by turn, and printed with what it depends on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from unified import cli
from unified.eval.speed import interleaved, rows, timed


def test_ways_take_turns_and_are_compared_round_by_round() -> None:
    order: list[str] = []

    def work(name: str, seconds: float) -> int:
        order.append(name)
        time.sleep(seconds)
        return 10

    ways = {"fast": timed(lambda: work("fast", 0.05)), "slow": timed(lambda: work("slow", 0.15))}
    found = interleaved(ways, 3)
    assert order == ["fast", "slow", "slow", "fast"] * 2
    fast, slow = rows("sleep", "naps", found, {"why": "test"})
    assert fast["ratio"] == 1 and fast["rounds"] == slow["rounds"] == 3
    assert 2 < slow["ratio"] < 4 and slow["rate"] == pytest.approx(10 / 0.15, rel=0.3)
    assert slow["peak_bytes"] > 2**20 and slow["settings"]["why"] == "test"
    assert slow["settings"]["product_gflops"] > 0 and slow["settings"]["threads"] >= 1
    json.dumps([fast, slow])


def test_training_is_timed_beside_the_trainer(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, target = str(tiny_run / "model"), tmp_path / "train.json"
    status = cli.run(["bench", "train", "--model", model, "--rounds", "1", "--batch-size", "16",
                      "--against", "transformers", "--json", str(target)])  # fmt: skip
    assert status == 0, capsys.readouterr().err
    found = json.loads(target.read_text())
    assert [row["way"] for row in found] == ["unified", "transformers"]
    assert all(row["rate"] > 0 and row["unit"] == "useful tokens" for row in found)
