"""Pictures as PNG: which classes a model takes for which, and where the time of a step goes.

Invariants as in `plot`: matplotlib only to draw, without pyplot; a picture is written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hotloop.runs.plot import STYLE, checked, new_figure, save, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


_PHASES = {"data": "#d62728", "copy": "#ff7f0e", "forward": "#1f77b4", "backward": "#4f9bd9", "optimizer": "#2ca02c"}
_REST, _CEILING = "#b5bcc4", "#5f6b76"


def plot_profile(
    phases: Mapping[str, float],
    shares: Mapping[str, float | None],
    out: Path,
    title: str,
    subtitle: str,
) -> Path:
    """Draw where a step's time goes, and how near it comes to what the machine can do.

    Args:
        phases: name -> milliseconds of a step, in order.
        shares: name of a ceiling -> share of it, 0 to 1; None is written as not known.
        out: the picture's file.
        title, subtitle: what stands above it.
    """
    target = checked(out)
    from matplotlib import rc_context

    with rc_context({**STYLE, "axes.grid": False, "axes.spines.left": False}):
        figure = new_figure(9, 4.6)
        upper, between, lower = figure.subplots(3, 1, height_ratios=[1.1, 0.5, 0.5 * len(shares)])
        _draw_phases(upper, phases)
        between.axis("off")
        between.legend(*upper.get_legend_handles_labels(), loc="center", ncols=3, fontsize=10)
        _draw_shares(lower, shares)
        titled(upper, title, subtitle)
        return save(figure, target)


def _draw_phases(axes: Axes, phases: Mapping[str, float]) -> None:
    """One bar, a piece for each phase; its label says its name and time."""
    left, whole = 0.0, sum(phases.values())
    for name, value in phases.items():
        label = f"{name}  {value:.3g} ms, {value / whole:.0%}"
        axes.barh([0], [value], left=left, color=_PHASES.get(name, _REST), edgecolor="white", label=label)
        left += value
    axes.set(xlim=(0, whole), ylim=(-0.45, 0.45), yticks=[], xlabel="milliseconds of a step")
    axes.tick_params(length=0)


def _draw_shares(axes: Axes, shares: Mapping[str, float | None]) -> None:
    """A bar for each ceiling, up to the line that is the ceiling."""
    places = list(range(len(shares)))[::-1]
    for place, share in zip(places, shares.values(), strict=True):
        axes.barh([place], [1.0], color="#eef0f3", height=0.6)
        axes.barh([place], [min(share or 0.0, 1.0)], color="#1f77b4", height=0.6)
        axes.text(0.01 + min(share or 0.0, 0.9), place, "not known" if share is None else f"{share:.0%}", va="center")
    axes.axvline(1.0, color=_CEILING, linewidth=1.5)
    axes.set_yticks(places, list(shares))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0%", "25%", "50%", "75%", "ceiling"])
    axes.set(xlim=(0, 1.06), xlabel="share of what was measured on this machine")
    axes.tick_params(length=0)
