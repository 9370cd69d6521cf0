"""Reading one series from a CSV file: a header, at most one column of dates, and numeric columns.

Invariants: read whole or not at all; every fault is told with file, line and column; nothing is filled in. Lines are
counted from 1, the header being the first.
"""

from __future__ import annotations

import csv
import datetime
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hotloop.errors import HotloopError
from hotloop.tasks.forecast.series import Series, Times, Values

DATE_NAMES = ("date", "datetime", "timestamp", "time")
_MISSING = {"", "na", "n/a", "nan", "null", "none", "-"}
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
Rows = list[tuple[int, list[str]]]  # line number, cells


def read_csv(path: Path, wanted: Collection[str] | None = None) -> tuple[Series, tuple[str, ...], bool]:
    """The series of a CSV file.

    Args:
        path: UTF-8, separated by commas, semicolons or tabs.
        wanted: read these columns only, so that others may hold text; None reads all.

    Returns:
        The series, the names of its columns, and whether its times are dates (else row numbers).
    Raises:
        HotloopError: missing, unreadable, not UTF-8, no header, ragged, a cell that is missing or no number, dates
            that cannot be read, repeat or run backwards.
    """
    header, rows = _cells(path)
    date = _date_column(header, rows[0][1])
    times = np.arange(len(rows), dtype=np.int64) if date is None else _times(path, header[date], rows, date)
    numeric = [place for place, name in enumerate(header) if place != date and (wanted is None or name in wanted)]
    if not numeric:
        what = "the file has no column of numbers" if wanted is None else "the file has none of the columns asked for"
        raise HotloopError(what, where=str(path), fix=f"its header is {', '.join(header)}")
    values = np.stack([_numbers(path, header[place], rows, place) for place in numeric], axis=1)
    return Series(path.stem, times, values), tuple(header[place] for place in numeric), date is not None


def _cells(path: Path) -> tuple[list[str], Rows]:
    """Header and rows, all as wide as the header; empty lines are passed over, as in most readers."""
    text = _text(path)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise HotloopError(f"the file is not a CSV: {error}", where=f"{path}, line {reader.line_num}") from error
    if len(lines) < 2:
        raise HotloopError("the file holds no rows below its header" if lines else "the file is empty", where=str(path))
    header = [cell.strip() for cell in lines[0][1]]
    _check_header(path, header)
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise HotloopError(
                f"the line has {len(cells)} cells, and the header names {len(header)} columns",
                where=f"{path}, line {line}",
                fix="mend that line; the file may be cut short, or a text with the separator in it lacks its quotes",
            )
    return header, lines[1:]


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise HotloopError(
            f"'{path}' does not exist", where="data.path", fix="check the path; none is made up"
        ) from error
    except OSError as error:
        raise HotloopError(f"'{path}' cannot be read: {error.strerror}", where="data.path") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise HotloopError(
            f"byte 0x{raw[error.start]:02x} is not UTF-8, so this is no CSV file that can be read",
            where=f"{path}, line {line}",
            fix="give a CSV file in UTF-8, or the folder that `hotloop prepare forecast` wrote",
        ) from error


def _check_header(path: Path, header: Sequence[str]) -> None:
    where = f"{path}, line 1"
    if all(_is_number(cell) for cell in header):
        raise HotloopError("the first line holds numbers only; it must name the columns", where=where)
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise HotloopError(f"the header names the column '{repeated[0]}' more than once", where=where)
    if "" in header:
        raise HotloopError(f"column {header.index('') + 1} has no name", where=where, fix="name every column")


def _date_column(header: Sequence[str], first: Sequence[str]) -> int | None:
    """The column of dates: by its name, or the first one whose first cell reads as a date."""
    named = [place for place, name in enumerate(header) if name.lower() in DATE_NAMES]
    dated = [place for place, cell in enumerate(first) if not _is_number(cell) and _nanoseconds(cell) is not None]
    return next(iter([*named, *dated]), None)


def _times(path: Path, name: str, rows: Rows, place: int) -> Times:
    found: list[int] = []
    for line, cells in rows:
        time = _nanoseconds(cells[place])
        if time is None:
            raise HotloopError(
                f"{cells[place]!r} is not a date",
                where=f"{path}, line {line}, column {name}",
                fix="write dates as 2016-07-01 or 2016-07-01 13:00:00",
            )
        if found and time <= found[-1]:
            what = "stands there twice" if time == found[-1] else "lies before the date of the line above"
            raise HotloopError(
                f"{cells[place]!r} {what}",
                where=f"{path}, line {line}, column {name}",
                fix="sort the file by date and keep one line for each; several series in one file: `hotloop prepare "
                "forecast` reads them from a database",
            )
        found.append(time)
    return np.array(found, dtype=np.int64)


def _nanoseconds(cell: str) -> int | None:
    """Nanoseconds since 1970 of an ISO date, also with slashes; None if it is none. Without a zone it counts as UTC."""
    try:
        moment = datetime.datetime.fromisoformat(cell.strip().replace("/", "-"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1) * 1000


def _numbers(path: Path, name: str, rows: Rows, place: int) -> Values:
    """One column (N,) float32; the first cell that is missing, no number or not finite is told."""
    try:
        values = np.array([float(cells[place]) for _, cells in rows])
        if np.isfinite(values).all():
            return _single(path, name, rows, values)
    except ValueError:
        pass
    line, cell = next((line, cells[place]) for line, cells in rows if not _is_number(cells[place]))
    missing = cell.strip().lower() in _MISSING
    raise HotloopError(
        "the value is missing" if missing else f"{cell!r} is not a finite number",
        where=f"{path}, line {line}, column {name}",
        fix="fill it in or remove the line yourself: nothing is invented"
        if missing
        else "correct it, or name the columns to read without this one: data.columns",
    )


def _single(path: Path, name: str, rows: Rows, values: np.ndarray[Any, np.dtype[np.float64]]) -> Values:
    with np.errstate(over="ignore"):
        single: Values = values.astype(np.float32)
    if not np.isfinite(single).all():
        place = int(np.argmax(~np.isfinite(single)))
        raise HotloopError(
            f"{values[place]:g} is beyond what float32 can hold", where=f"{path}, line {rows[place][0]}, column {name}"
        )
    return single


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False
