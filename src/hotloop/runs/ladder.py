"""The picture of a ladder: what each step brought, and what was not kept. Reads the form of ladder.json; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hotloop.runs.plot import STYLE, checked, new_figure, save, titled
from hotloop.runs.wording import thousands

_BASE, _KEPT, _LEFT, _WRONG = "#8a929a", "#2c7fb8", "#d5dade", "#d62728"


def plot_ladder(found: Mapping[str, Any], out: Path) -> Path:
    """Draw samples per second of the baseline and of each row, with its factor.

    Args:
        found: what ladder.json holds.
        out: the picture's file.

    Returns:
        The file written.
    """
    from matplotlib import rc_context

    rows = [found["baseline"], *(row for row in found["rows"] if row["samples_per_second"])]
    with rc_context({**STYLE, "axes.spines.left": False}):
        figure = new_figure(9.0, 1.6 + 0.42 * len(rows))
        axes = figure.subplots()
        speeds = [row["samples_per_second"] for row in rows]
        axes.barh(range(len(rows)), speeds, color=[_colour(row) for row in rows], height=0.62)
        for place, row in enumerate(rows):
            axes.annotate(
                _words(row), (row["samples_per_second"], place), (6, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(range(len(rows)), [row["name"].replace("$", r"\$") for row in rows])
        axes.tick_params(length=0, labelcolor="#3b4249")
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="samples per second", xlim=(0, 1.35 * max(speeds)))
        axes.invert_yaxis()
        best = found["best"]["factor"]
        titled(axes, f"{found['task']}: {best:.2f}x", "blue: kept; grey: not faster beyond noise; red: another result")
        return save(figure, checked(out))


def _colour(row: Mapping[str, Any]) -> str:
    if row["name"] == "baseline":
        return _BASE
    return _KEPT if row["kept"] else _WRONG if row["loss_verdict"].startswith("different") else _LEFT


def _words(row: Mapping[str, Any]) -> str:
    return f"{thousands(row['samples_per_second'])}/s   {row['factor']:.2f}x"
