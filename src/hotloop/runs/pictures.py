"""Pictures of what a model answers, as PNG: which classes it takes for which.

Invariants as in `plot`: matplotlib only to draw, without pyplot; a picture is written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hotloop.runs.plot import STYLE, new_figure, save, titled

_NUMBERED = 20  # with more classes the cells are too small for numbers


def plot_confusion(table: Sequence[Sequence[int]], names: Sequence[str], out: Path, title: str, subtitle: str) -> Path:
    """Draw a confusion matrix: colour is the share of the true class, numbers are rows.

    Args:
        table: C x C counts; a row is a true class, a column a predicted one.
        names: of the classes.
        out: the picture's file.
        title, subtitle: what stands above it.
    """
    from matplotlib import rc_context

    classes = len(table)
    names = [*names, *(str(c) for c in range(len(names), classes))]
    shares = [[count / max(1, sum(row)) for count in row] for row in table]
    with rc_context({**STYLE, "axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        side = min(12.0, 3.6 + 0.9 * classes)
        figure = new_figure(side + 1.2, side)
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
        axes.set_xticks(range(classes), names[:classes], rotation=45 if classes > 6 else 0)
        axes.set_yticks(range(classes), names[:classes])
        axes.tick_params(length=0)
        axes.set(xlabel="predicted", ylabel="true")
        for row in range(classes if classes <= _NUMBERED else 0):
            for column in range(classes):
                share = shares[row][column]
                text = f"{table[row][column]:,}\n{share:.0%}"
                axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.55 else "#1b2a3a")
        titled(axes, title, subtitle)
        return save(figure, out)
