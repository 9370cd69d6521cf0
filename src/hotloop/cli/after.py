"""`hotloop predict`, `hotloop evaluate` and `hotloop export`: what a trained run is for.

Invariant: standard output holds the answer alone (rows where the output is -, JSON with --json); progress and remarks
go to standard error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hotloop.cli.answer import json_option, print_json
from hotloop.errors import HotloopError

if TYPE_CHECKING:
    from hotloop.evaluating import Measured
    from hotloop.predicting import Trained

_EVERY = 2.0  # seconds between two lines of progress where there is no terminal
_OF_CLASSES = ("precision", "recall", "f1", "support")
_places = click.argument("places", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
_checkpoint = click.option(
    "--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True, help="Which weights."
)
_device = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N; auto is the run's own.")
_precision = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "tf32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="auto is the run's own.",
)
_batch = click.option("--batch-size", type=click.IntRange(min=1), help="Rows at a time.  [default: the run's own]")


@click.command()
@_places
@click.option("--input", "source", required=True, type=click.Path(path_type=Path), help="The file to read.")
@click.option(
    "--output", default="-", show_default=True, help="The file to write: .jsonl or .csv; - is standard output."
)
@_checkpoint
@_device
@_precision
@_batch
@json_option
def predict(
    places: tuple[Path, ...],
    source: Path,
    output: str,
    checkpoint: str,
    device: str,
    precision: str,
    batch_size: int | None,
    as_json: bool,
) -> None:
    """Predict every row of a file with RUN, a run's folder; several runs are averaged.

    Each row of the output repeats what the input says of it. The file is read and written piece by piece, so it may be
    of any size; the output is there only once it is whole.
    """
    from hotloop.data.writing import check_output, row_file
    from hotloop.predicting import open_runs
    from hotloop.predicting import predict as run_over

    source, target = source.expanduser(), None if output == "-" else Path(output).expanduser()
    if target is None and as_json:
        raise HotloopError("--json and --output - both need standard output", fix="give --output a file")
    check_output(target, source)
    runs = open_runs(places, checkpoint, device, precision, batch_size)
    _remark(runs)
    started = time.perf_counter()
    with row_file(target) as write:
        rows = run_over(runs, source, write, _Progress())
    seconds = time.perf_counter() - started
    facts = {"rows": rows, "seconds": round(seconds, 3), "rows_per_second": round(rows / seconds, 1)}
    if as_json:
        print_json({**facts, "file": str(target)})
    else:
        click.echo(f"{rows:,} rows in {seconds:.1f} s ({rows / seconds:,.0f} a second): {output}", err=target is None)


@click.command()
@_places
@click.option("--data", required=True, type=click.Path(path_type=Path), help="A file with targets.")
@_checkpoint
@_device
@_precision
@_batch
@json_option
def evaluate(
    places: tuple[Path, ...],
    data: Path,
    checkpoint: str,
    device: str,
    precision: str,
    batch_size: int | None,
    as_json: bool,
) -> None:
    """Measure RUN, a run's folder, on a file with targets; of several runs the averaged outputs are measured.

    The run's own validation figures stand beside, where the run wrote some.
    """
    from hotloop.evaluating import evaluate as measured
    from hotloop.predicting import open_runs

    runs = open_runs(places, checkpoint, device, precision, batch_size)
    _remark(runs)
    found = measured(runs, data.expanduser())
    for note in found.notes:
        click.secho(f"note: {note}", fg="yellow", err=True)
    if as_json:
        print_json(
            {
                "data": str(data),
                "runs": [str(run.folder.dir) for run in runs],
                "rows": found.rows,
                **found.metrics,
                "per_class": found.classes.get("", found.classes or None),
                "validation": found.validation,
            }
        )
        return
    _show(found, [run.folder.dir.name for run in runs])


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    required=True,
    type=click.Choice(["safetensors", "huggingface", "torch-export", "onnx"]),
    help="What to write.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File (torch-export, onnx) or folder (safetensors, huggingface).  [default: in RUN/export]",
)
@_checkpoint
@json_option
def export(run: Path, kind: str, output: Path | None, checkpoint: str, as_json: bool) -> None:
    """Write the model of RUN, a run's folder, so that other programs can use it.

    What is written is loaded back and run beside the run's model, on several batch sizes; it is kept only where both
    agree within 1e-5.
    """
    from hotloop.exporting import export as write

    found = write(run, kind, output, checkpoint)
    if as_json:
        facts = {"format": kind, "file": str(found.path), "largest_difference": found.difference}
        print_json({**facts, "checked": found.checked})
        return
    shapes = "; ".join(
        ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items()) for shapes in found.checked
    )
    click.echo(f"written: {found.path}")
    click.echo(f"checked on {shapes}: largest difference to the run's model {found.difference:.1e}")


def _show(found: Measured, names: Sequence[str]) -> None:
    from hotloop.runs.table import show_table

    click.echo(f"{found.rows:,} rows")
    beside = [f"validation of {name}" for name in names] if len(names) > 1 else ["validation"]
    rows = [
        [name, _text(value), *(_text(one.get(name)) for one in found.validation)]
        for name, value in found.metrics.items()
    ]
    show_table(["metric", ">here", *(f">{title}" for title in beside)], rows)
    for head, classes in found.classes.items():
        click.echo(f"\n{head}" if head else "")
        rows = [[one["class"], *(_text(one[name]) for name in _OF_CLASSES)] for one in classes]
        show_table(["class", *(f">{name}" for name in _OF_CLASSES)], rows)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _remark(runs: Sequence[Trained]) -> None:
    for run in runs:
        for remark in run.remarks:
            click.secho(f"note: {run.folder.dir.name}: {remark}", fg="yellow", err=True)


class _Progress:
    """Rows so far, on standard error: over and over in one line on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()

    def __call__(self, rows: int) -> None:
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if now - self._last < (0.2 if terminal else _EVERY):
            return
        self._last = now
        said = f"{rows:,} rows, {rows / (now - self._begun):,.0f} a second"
        click.echo(f"\r{said}\x1b[K" if terminal else said, nl=not terminal, err=True)
