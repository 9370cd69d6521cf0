"""`hotloop prepare`: turn raw data into the form that a task reads fastest, one subcommand per task. Without torch
for `forecast`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hotloop.cli.answer import json_option, print_json
from hotloop.errors import HotloopError

if TYPE_CHECKING:
    from hotloop.data.prepare import PrepareOptions

_ALL = "all"


@click.group("prepare")
def command() -> None:
    """Prepare data for a task."""


@command.command("gpt")
@click.argument("text", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--val-fraction", default=0.1, show_default=True, help="Share at the end of the text kept for validation."
)
@click.option(
    "--vocabulary", type=click.Choice(["char", "bpe"]), default="char", show_default=True, help="Kind of tokens."
)
@click.option("--vocabulary-size", default=1024, show_default=True, help="Tokens of the bpe vocabulary.")
def gpt(text: Path, folder: Path, val_fraction: float, vocabulary: str, vocabulary_size: int) -> None:
    """Write TEXT as token files into FOLDER: train.bin, val.bin, meta.json, meta.pkl (nanoGPT's layout)."""
    from hotloop.tasks.gpt.binary import write_token_folder

    counts = write_token_folder(
        text, folder, val_fraction=val_fraction, kind=vocabulary, vocabulary_size=vocabulary_size
    )
    click.echo(
        f"{folder}: {counts['characters']:,} characters, vocabulary of {counts['vocabulary_size']:,}, "
        f"{counts['train_tokens']:,} tokens for training and {counts['val_tokens']:,} for validation\n"
        f"train on them: hotloop train gpt data.path={folder}"
    )


@command.command("forecast")
@click.argument("folder", default="bars", type=click.Path(path_type=Path))
@click.option("--database", metavar="URL", help="SQLAlchemy URL of the bars; without it they are simulated.")
@click.option("--table", default="bars", show_default=True, help="Table of the bars, or schema.table.")
@click.option("--column", "columns", metavar="NAME=COLUMN", multiple=True, help="Which column is which: time=day.")
@click.option("--symbols", default=_ALL, show_default=True, help="Symbols, separated by commas.")
@click.option("--workers", type=int, help="Processes; one per core by default.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted preparation.")
@click.option("--start-date", metavar="DATE", help="First day, as 2015-01-01.")
@click.option("--end-date", metavar="DATE", help="Last day.")
@click.option("--limit", type=int, metavar="N", help="Only the first N symbols, by name.")
@click.option("--min-rows", default=120, show_default=True, help="Bars that a symbol must have.")
@json_option
def forecast(folder: Path, database: str | None, as_json: bool, **given: Any) -> None:
    """Write market bars into FOLDER (by default: bars) as a cache with indicators, one Parquet file per symbol.

    The table has a row per bar: symbol, time, open, high, low, close, volume and perhaps adj_close. Columns are found
    by their usual names. A symbol with an impossible value is listed with the row, and does not stop the others.
    """
    from hotloop.cli.preparing import progress_shown, show, stopping_on_terminate

    options = _options(given)
    with stopping_on_terminate(), progress_shown() as report:
        manifest = _prepare(folder, database, options, report)
    if as_json:
        print_json({"folder": str(folder), **manifest})
    else:
        show(folder, manifest)
    if not manifest["symbols"]:
        raise _nothing(manifest)
    if not as_json:
        click.echo(f"train on them: hotloop train forecast data.path={folder}")


def _prepare(folder: Path, database: str | None, options: PrepareOptions, report: Any) -> dict[str, Any]:
    from hotloop.data.prepare.run import prepare, prepare_simulated

    if database is None:
        return prepare_simulated(folder, options, report=report)
    return prepare(folder, database, options, report=report)


def _options(given: dict[str, Any]) -> PrepareOptions:
    from hotloop.data.prepare import PrepareOptions

    names = [name.strip() for name in given["symbols"].split(",") if name.strip()]
    if not names:
        raise HotloopError("no symbol is named", where="--symbols", fix="write --symbols all, or --symbols A,B")
    return PrepareOptions(
        table=given["table"],
        symbols=None if names == [_ALL] else tuple(names),
        columns=_pairs(given["columns"]),
        start=given["start_date"],
        end=given["end_date"],
        limit=given["limit"],
        min_rows=given["min_rows"],
        workers=_cores() if given["workers"] is None else given["workers"],
        resume=given["resume"],
    )


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, column = text.partition("=")
        if not (name and equals and column):
            raise HotloopError(f"'{text}' names no column", where="--column", fix="write it as --column time=day")
        pairs[name.strip()] = column.strip()
    return pairs


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _nothing(manifest: dict[str, Any]) -> HotloopError:
    from hotloop.cli.preparing import left_out_rows

    reasons = [f"{name}: {kind}, {why}" for name, kind, why in left_out_rows(manifest)]
    if not reasons:
        return HotloopError("the table holds no symbol", where=manifest["source"]["database"])
    shown = "; ".join(reasons[:10]) + (f"; and {len(reasons) - 10} more" if len(reasons) > 10 else "")
    return HotloopError("no symbol could be prepared", where=shown, fix="correct the data, or choose other symbols")
