"""How `hotloop prepare forecast` tells what it does: progress while it runs, tables at the end.

Invariant: progress goes to standard error, so that standard output holds the answer alone.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hotloop.data.prepare.bars import Progress

_EVERY = 2.0  # seconds between two lines where there is no terminal
_SHOWN = 20  # prepared symbols listed; the ones left out are listed all


@contextmanager
def progress_shown() -> Iterator[Callable[[Progress], None]]:
    """A function that shows progress: a bar on a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, said="")
        yield lambda at: bar.update(task, total=at.total, completed=at.done, said=_said(at))


class _Lines:
    """A line at the beginning, every two seconds, and at the end."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, at: Progress) -> None:
        now = time.monotonic()
        if at.done in (at.kept, at.total) or now - self._last >= _EVERY:
            self._last = now
            said = _said(at)
            click.echo(f"preparing {at.done}/{at.total}{', ' if said else ''}{said}", err=True)


def _said(at: Progress) -> str:
    from hotloop.runs.wording import duration

    kept = [f"{at.kept} kept from before"] if at.kept else []
    failed = [f"{at.failed} failed"] if at.failed else []
    left = [] if at.seconds_left is None or at.done == at.total else [f"{duration(at.seconds_left)} left"]
    return ", ".join(kept + failed + left)


@contextmanager
def stopping_on_terminate() -> Iterator[None]:
    """Take a request to end (SIGTERM) like Ctrl-C: stop the workers, keep what is finished, say how to go on."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def show(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Print what was prepared, and what was not and why."""
    from hotloop.runs.table import show_table

    symbols, source = manifest["symbols"], manifest["source"]
    if manifest["synthetic"]:
        click.echo("synthetic bars: simulated, no real prices (no --database given)")
    if source["adjusted"]:
        click.echo("prices are adjusted: open, high, low and close times adj_close / close")
    rows = [[name, f"{one['rows']:,}", one["first"], one["last"]] for name, one in symbols.items()]
    if rows:
        show_table(("symbol", ">rows", "first", "last"), rows[:_SHOWN])
    if len(rows) > _SHOWN:
        click.echo(f"... and {len(rows) - _SHOWN} more")
    left_out = left_out_rows(manifest)
    if left_out:
        click.echo("\nnot prepared:")
        show_table(("symbol", "what", "why"), left_out)
    counts = ", ".join(f"{len(manifest[kind])} {kind}" for kind in ("failed", "short", "absent"))
    click.echo(f"\n{folder}: {len(symbols)} prepared, {counts}")


def left_out_rows(manifest: Mapping[str, Any]) -> list[list[str]]:
    """Symbol, kind and reason of all that is not in the cache."""
    rows = [[name, "failed", one["reason"]] for name, one in manifest["failed"].items()]
    rows += [
        [name, "short", f"{one['rows']} rows, and {one['needed']} are needed"]
        for name, one in manifest["short"].items()
    ]
    return rows + [[name, "absent", "not in the table"] for name in manifest["absent"]]
