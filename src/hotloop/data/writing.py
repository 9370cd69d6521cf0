"""Rows written one by one to a file that is whole or absent, or to standard output: JSON lines, or CSV by the suffix.

Constant memory. Values are JSON-ready; in CSV what is nested becomes columns (probabilities.up), and a list is written
as JSON. A number that is not finite is no JSON, and is told with its row.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from hotloop.disk import replacing
from hotloop.errors import HotloopError

Row = Mapping[str, Any]
Write = Callable[[Row], None]
LINES, TABLE = ("", ".jsonl", ".ndjson"), ".csv"


def check_output(output: Path | None, source: Path) -> None:
    """Refuse an output that cannot be written, before any row is worked out.

    Raises:
        HotloopError: an unknown suffix, no such folder, a folder, or the file that is read.
    """
    if output is None:
        return
    if output.suffix.lower() not in (*LINES, TABLE):
        what = f"'{output.suffix}' is no kind of file that rows are written to"
        raise HotloopError(what, where=str(output), fix="use .jsonl or .csv, or - for standard output")
    if output.is_dir() or not output.parent.is_dir():
        what = "that is a folder" if output.is_dir() else f"there is no folder {output.parent}"
        raise HotloopError(what, where=str(output), fix="give the name of a file in a folder that is there")
    if output.exists() and source.exists() and output.samefile(source):
        raise HotloopError("that is the file to read", where=str(output), fix="give the output another name")


@contextlib.contextmanager
def row_file(output: Path | None) -> Iterator[Write]:
    """A function that writes a row; the file takes its place when the block ends well, and never before.

    Args:
        output: .csv, or JSON lines; None for standard output, as JSON lines.

    Raises:
        HotloopError: the disk is full, or a row cannot be written.
    """
    if output is None:
        sys.stdout.flush()
        yield _lines(sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    with replacing(output) as file:
        if output.suffix.lower() != TABLE:
            yield _lines(file)
            return
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        yield _Table(text, output)
        text.detach()  # flushes, and leaves the file open


def _lines(file: BinaryIO) -> Write:
    number = 0

    def write(row: Row) -> None:
        nonlocal number
        number += 1
        # half of a surrogate pair, which JSON can hold and UTF-8 cannot, is written as JSON writes it
        file.write((_json(row, number) + "\n").encode("utf-8", errors="backslashreplace"))

    return write


def _json(value: Any, number: int) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise HotloopError(
            "the row holds a number that is not finite",
            where=f"output row {number}: {json.dumps(value, ensure_ascii=True)[:200]}",
            fix="look at this row of the input; if it is good, the model's weights are not",
        ) from error


class _Table:
    """Rows of one set of columns, those of the first row."""

    def __init__(self, text: io.TextIOWrapper, output: Path) -> None:
        self._writer, self._output = csv.writer(text, lineterminator="\n"), output
        self._columns: list[str] | None = None
        self._number = 0

    def __call__(self, row: Row) -> None:
        self._number += 1
        flat = dict(_flat(row, "", self._number))
        if self._columns is None:
            self._columns = list(flat)
            self._writer.writerow(self._columns)
        beyond = [name for name in flat if name not in self._columns]
        if beyond:
            raise HotloopError(
                f"row {self._number} has {beyond[0]}, which the first row has not, and a table has one set of columns",
                where=str(self._output),
                fix="write JSON lines: --output NAME.jsonl",
            )
        self._writer.writerow([flat.get(name, "") for name in self._columns])


def _flat(row: Row, prefix: str, number: int) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.", number)
        else:
            plain = isinstance(value, str) or value is None
            yield f"{prefix}{name}", value if plain else _json(value, number)
