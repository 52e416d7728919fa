"""Curves of a run: every value of its log over the steps, one small plot each."""

from __future__ import annotations

import json
from pathlib import Path

COLUMNS = 3
SIDE = (4.2, 2.4)  # inches of one plot


def read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Values of a log.jsonl by name, each a list of (step, value); lines cut off are left out."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        step = int(row.pop("step"))
        for name, value in row.items():
            found.setdefault(name, []).append((step, value))
    return found


def curves(log: Path, target: Path) -> None:
    """Write a PNG of the values of a log.jsonl: losses, rates, use of the codebooks over time."""
    from matplotlib.figure import Figure

    values = read_log(log)
    rows = max(1, -(-len(values) // COLUMNS))
    size = (COLUMNS * SIDE[0], rows * SIDE[1])
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for axis, (name, points) in zip(axes.flat, sorted(values.items()), strict=False):
        axis.plot(*zip(*points, strict=True), linewidth=1, marker="." if len(points) < 20 else "")
        axis.set_title(name.replace("_", " "), fontsize=9, loc="left")
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(values) :]:
        axis.set_axis_off()
    figure.savefig(target, dpi=110)
