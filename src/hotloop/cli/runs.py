"""`hotloop runs` and `hotloop plot`: what has been trained, in a table and in a picture. Without torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hotloop.cli.answer import json_option, print_json


@click.command()
@click.option("--root", default="experiments", show_default=True, help="The folder that holds the runs.")
@json_option
def runs(root: str, as_json: bool) -> None:
    """List the runs and how they ended.

    A run that a process is training is "running"; one that nobody trains and that did not end is "interrupted":
    `hotloop resume RUN` goes on with it.
    """
    from hotloop.runs.table import RUN_COLUMNS, find_runs, run_rows, show_table

    found = find_runs(Path(root))
    if as_json:
        print_json([asdict(run) for run in found])
    elif found:
        show_table(RUN_COLUMNS, run_rows(found))
    else:
        click.echo(f"no runs in {root}/ yet; `hotloop train gpt` makes one")


@click.command()
@click.argument("places", metavar="RUN|LOG...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The picture's file: .png, .svg or .pdf.")
@json_option
def plot(places: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Draw the loss curves of one run, or compare several.

    RUN is a run's folder or its metrics.jsonl. LOG is a text file with lines of nanoGPT
    (step 250: train loss 1.9643, val loss 2.0652) or of this program's console. Without --out the picture of one run
    goes into its folder (loss.png), of one log beside it, of several to comparison.png here.
    """
    from hotloop.runs.logs import read_curves
    from hotloop.runs.plot import default_picture, plot_curves

    curves = [read_curves(place) for place in places]
    notes = [note for one in curves for note in one.notes()]
    picture = plot_curves(curves, out or default_picture(places))
    if as_json:
        print_json({"picture": str(picture), "runs": [one.name for one in curves], "notes": notes})
        return
    for note in notes:
        click.secho(f"note: {note}", fg="yellow", err=True)
    click.echo(f"drawn: {picture}")
