"""Pictures of runs as PNG (or SVG, PDF): the curves of one run, a comparison of several, a schedule's preview.

Invariants: matplotlib is imported only to draw, and without pyplot, so that a user's own figures and backend
stay untouched; a picture is written whole or not at all; what was left out of it is said in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotloop.disk import write_atomic
from hotloop.errors import HotloopError
from hotloop.runs.logs import Curves, read_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TRAIN, _EVAL, _RATE = "#1f77b4", "#d62728", "#5f6b76"
_LEGEND_INSIDE = 5  # more runs than this get their legend beside the picture
_FORMATS = (".png", ".svg", ".pdf")
STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a929a",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


def plot_runs(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Draw the loss curves of one run, or of several in one picture.

    Args:
        paths: run folders, metrics.jsonl files or logs.
        out: the picture's file; by default RUN/loss.png, LOG.png beside a log, or comparison.png here for several.
    Returns:
        The file written.
    Raises:
        HotloopError: nothing to draw in one of them, or the picture cannot be written.
    """
    return plot_curves([read_curves(path) for path in paths], out or default_picture(paths))


def default_picture(paths: Sequence[Path]) -> Path:
    """Where the picture of `paths` goes if nothing else is said."""
    if len(paths) > 1:
        return Path("comparison.png")
    return paths[0] / "loss.png" if paths[0].is_dir() else paths[0].with_suffix(".png")


def plot_curves(runs: Sequence[Curves], out: Path) -> Path:
    """Draw curves already read; see `plot_runs`."""
    target = checked(out)
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = _one(runs[0]) if len(runs) == 1 else _several(_told_apart(runs))
        notes = [note for run in runs for note in run.notes()]
        if notes:
            figure.supxlabel("; ".join(notes[:2]) + (" ..." if len(notes) > 2 else ""), fontsize=9, color="#8a4b00")
        return save(figure, target)


def plot_schedule(values: Sequence[tuple[int, float]], out: Path, title: str = "Learning rate") -> Path:
    """Draw a learning-rate schedule.

    Args:
        values: (step, rate) pairs in step order.
        out: the picture's file.
        title: what stands above it.
    """
    if not values:
        raise HotloopError("the schedule has no steps to draw", fix="set training.max_steps or training.num_epochs")
    target = checked(out)
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = new_figure(8, 4)
        axes = figure.subplots()
        steps, rates = zip(*values, strict=True)
        axes.plot(steps, rates, color=_TRAIN, linewidth=2)
        axes.fill_between(steps, rates, color=_TRAIN, alpha=0.08)
        highest = max(range(len(rates)), key=rates.__getitem__)
        peak = f"peak {rates[highest]:.3g} at step {steps[highest]:,}, ends at {rates[-1]:.3g}"
        titled(axes, title, peak)
        axes.set(xlabel="step", ylabel="learning rate", ylim=(0, max(rates) * 1.08 or 1.0))
        _readable(axes)
        return save(figure, target)


def _one(run: Curves) -> Figure:
    figure = new_figure(8.5, 5.5)
    if run.learning_rate:
        axes, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        lower.plot(list(run.learning_rate), list(run.learning_rate.values()), color=_RATE, linewidth=1.5)
        lower.set(xlabel=run.unit, ylabel="rate", ylim=(0, max(run.learning_rate.values()) * 1.15 or 1.0))
        _readable(lower, ticks=3)
    else:
        axes = figure.subplots()
        axes.set_xlabel(run.unit)
    _draw_train(axes, run)
    subtitle = _draw_eval(axes, run)
    titled(axes, run.name, subtitle)
    axes.set_ylabel("loss")
    _readable(axes)
    axes.legend(loc="upper right")
    return figure


def _draw_train(axes: Axes, run: Curves) -> None:
    if not run.train:
        return
    steps, losses = list(run.train), list(run.train.values())
    if len(losses) < 20:  # too few to smooth
        axes.plot(steps, losses, color=_TRAIN, linewidth=1.8, marker="o", markersize=3, label="train")
        return
    axes.plot(steps, losses, color=_TRAIN, alpha=0.3, linewidth=0.8)
    axes.plot(steps, smoothed(losses), color=_TRAIN, linewidth=2, label="train (smoothed)")


def _draw_eval(axes: Axes, run: Curves) -> str:
    """Draw the evaluation curve and its best point; returns what to say about it."""
    if not run.eval:
        return f"last train loss {list(run.train.values())[-1]:.4f}"
    marks: dict[str, Any] = {"marker": "o", "markersize": 4} if len(run.eval) <= 60 else {}
    axes.plot(list(run.eval), list(run.eval.values()), color=_EVAL, linewidth=1.8, label="eval", **marks)
    step, best = min(run.eval.items(), key=lambda item: item[1])
    star: dict[str, Any] = {"marker": "*", "markersize": 15, "markeredgecolor": "white", "linestyle": "none"}
    axes.plot([step], [best], color=_EVAL, label=f"best {best:.4f} at {run.unit} {step:,}", **star)
    return ""


def _several(runs: Sequence[Curves]) -> Figure:
    outside = len(runs) > _LEGEND_INSIDE
    figure = new_figure(11.5 if outside else 9, 5.5)
    axes = figure.subplots()
    for run, colour in zip(runs, _colours(len(runs)), strict=True):
        curve = run.eval or run.train
        best = min(curve.values())
        label = f"{run.name}  {'best eval' if run.eval else 'lowest train'} {best:.4f}"
        if run.eval and run.train:
            axes.plot(list(run.train), smoothed(list(run.train.values())), color=colour, alpha=0.35, linewidth=1)
        marks: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(curve) <= 60 else {}
        axes.plot(list(curve), list(curve.values()), color=colour, linewidth=1.8, label=label, **marks)
    both = any(run.eval and run.train for run in runs)
    titled(axes, f"{len(runs)} runs", "bold: evaluation, thin: training (smoothed)" if both else "")
    axes.set(xlabel="/".join(sorted({run.unit for run in runs})), ylabel="loss")
    _readable(axes)
    if outside:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9)
    else:
        axes.legend(loc="upper right", fontsize=10)
    return figure


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean over a centred window of about a twentieth of the points: unlike a running mean, it does not lag behind.

    Towards both ends the window shrinks with its centre kept, so that the first and last points stay what they are.
    """
    widest = max(1, len(values) // 40)
    sums = [0.0, *accumulate(values)]
    means = []
    for centre in range(len(values)):
        half = min(widest, centre, len(values) - 1 - centre)
        means.append((sums[centre + half + 1] - sums[centre - half]) / (2 * half + 1))
    return means


def _told_apart(runs: Sequence[Curves]) -> list[Curves]:
    """Number the runs that share a name, so that the legend tells them apart."""
    names = [run.name for run in runs]
    for position, run in enumerate(runs):
        if names.count(run.name) > 1:
            runs[position].name = f"{names[position]} ({names[: position + 1].count(names[position])})"
    return list(runs)


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](index) for index in range(count)]
    return [colormaps["turbo"](0.05 + 0.9 * index / (count - 1)) for index in range(count)]


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def titled(axes: Axes, title: str, subtitle: str) -> None:
    axes.set_title(title.replace("$", r"\$"), loc="left", pad=24 if subtitle else 10)
    if subtitle:
        axes.annotate(
            subtitle, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", color="#5f6b76", fontsize=10
        )


def _readable(axes: Axes, ticks: int = 7) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.tick_params(length=0, labelcolor="#3b4249")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=ticks, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def checked(out: Path) -> Path:
    """The picture's file, with a suffix.

    Raises:
        HotloopError: a kind of file that no picture is written as.
    """
    target = out if out.suffix else out.with_suffix(".png")
    if target.suffix.lower() not in _FORMATS:
        fix = f"name a file that ends in {', '.join(_FORMATS)}"
        raise HotloopError(f"a picture cannot be written as {target.suffix}", where=str(target), fix=fix)
    return target


def save(figure: Figure, target: Path) -> Path:
    buffer = BytesIO()
    figure.savefig(buffer, format=target.suffix.lstrip(".").lower())
    write_atomic(target, buffer.getvalue())
    return target
