"""The list of runs, and tables in general: for a terminal with rich, for a pipe as aligned plain text.

Invariants: listing reads only small JSON files and the tail of metrics.jsonl, so that hundreds of runs list at once; a
broken run is listed with what is known, it never hides the others.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from hotloop.disk import telling
from hotloop.runs.store import METRICS, SUMMARY, being_written, is_run
from hotloop.runs.wording import duration, number

_STAMP = re.compile(r"_(\d{8}_\d{6})(?:_\d+)?$")
_TAIL_BYTES = 32768


@dataclass(frozen=True)
class RunInfo:
    """One run in a line.

    Attributes:
        dir: its folder.
        task: its task's name; "" if unknown.
        status: as in training_summary.json; "running" while a process writes it, "interrupted" when none does and it
            did not end.
        steps: optimizer steps done.
        train_loss, eval_loss: the last ones; None if there are none.
        best: {"metric", "value", "step"} as in training_summary.json, or None.
        seconds: wall time so far.
        started: when it began, seconds since the epoch.
    """

    dir: Path
    task: str
    status: str
    steps: int
    train_loss: float | None
    eval_loss: float | None
    best: Any
    seconds: float | None
    started: float


def find_runs(root: Path | str) -> list[RunInfo]:
    """List the runs directly under `root`, oldest first; none if there is no such folder.

    Raises:
        HotloopError: `root` cannot be read.
    """
    folder = Path(root)
    if not folder.exists():
        return []
    if is_run(folder):
        return [_info(folder)]
    with telling("read", folder):
        children = [child for child in folder.iterdir() if child.is_dir()]
    return sorted((_info(child) for child in children if is_run(child)), key=lambda info: (info.started, info.dir.name))


def run_rows(runs: Sequence[RunInfo]) -> list[list[str]]:
    """Word runs as rows of `RUN_COLUMNS`."""
    rows = []
    for run in runs:
        best = run.best.get("value") if isinstance(run.best, dict) else run.best
        losses = ["-" if value is None else number(value, ".4f") for value in (run.train_loss, run.eval_loss, best)]
        seconds = "-" if run.seconds is None else duration(run.seconds)
        rows.append([run.dir.name, run.task or "-", run.status, str(run.steps), *losses, seconds])
    return rows


RUN_COLUMNS = ("run", "task", "status", ">steps", ">train", ">eval", ">best", ">time")


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], file: TextIO | None = None) -> None:
    """Print a table.

    Args:
        columns: headings; a leading ">" aligns the column to the right.
        rows: one text per column.
        file: standard output by default; a terminal gets colours and folded cells, anything else plain aligned text.
    """
    out = sys.stdout if file is None else file
    if not out.isatty():
        _plain_table(columns, rows, out)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold cyan")
    for position, column in enumerate(columns):
        right = column.startswith(">")
        table.add_column(
            column.lstrip(">"), justify="right" if right else "left", overflow="fold", no_wrap=right and position > 0
        )
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console(file=out, highlight=False).print(table)


_STYLES = {"completed": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "stopped": "green"}


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO) -> None:
    lines = [[column.lstrip(">") for column in columns], *rows]
    widths = [max(len(line[position]) for line in lines) for position in range(len(columns))]
    for line in lines:
        cells = [
            cell.rjust(width) if column.startswith(">") else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        print("  ".join(cells).rstrip(), file=out)


def _info(directory: Path) -> RunInfo:
    summary = _read(directory / SUMMARY)
    seen = _last_values(directory / METRICS)
    steps = int(summary.get("steps") or 0)
    status = str(summary.get("status") or "interrupted")
    if being_written(directory):
        status = "running"
    elif seen.get("step", 0) > steps:  # resumed after its summary was written, and cut off again
        status = "interrupted"
    newer = status == "running" or seen.get("step", 0) > steps
    current = {**summary, **seen} if newer else {**seen, **summary}
    seconds = current.get("seconds")
    return RunInfo(
        dir=directory,
        task=Path(str(summary.get("task") or _read(directory / "config.json").get("task") or "")).name,
        status=status,
        steps=max(steps, seen.get("step", 0)),
        train_loss=current.get("train_loss"),
        eval_loss=current.get("eval_loss"),
        best=summary.get("best"),
        seconds=seconds.get("total") if isinstance(seconds, dict) else seconds,
        started=_started(directory),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _last_values(path: Path) -> dict[str, Any]:
    """The last value of every metric in the tail of metrics.jsonl."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return {}
    values: dict[str, Any] = {}
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # the first line of the tail starts in its middle
            continue
        if isinstance(record, dict):
            values.update(record)
    return values


def _started(directory: Path) -> float:
    match = _STAMP.search(directory.name)
    try:
        return time.mktime(time.strptime(match[1], "%Y%m%d_%H%M%S")) if match else directory.stat().st_mtime
    except (ValueError, OSError):
        return 0.0
