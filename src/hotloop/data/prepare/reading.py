"""From the rows of a database to checked bars in time order.

Invariants: nothing is filled in, mended or left out: a symbol with a value that no market gives is refused as a whole,
with row, date and column. Rows are counted from 1 in time order. Shapes: N bars.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hotloop.data.prepare.bars import ADJUSTED, PRICES, BarFault, Bars, Fault, Floats, PrepareOptions, Times, day

_SHOWN = 5
_EARLIEST, _LATEST = datetime.datetime(1678, 1, 1), datetime.datetime(2262, 1, 1)  # what nanoseconds can hold
_EPOCH = datetime.datetime(1970, 1, 1)
_MICROSECOND = datetime.timedelta(microseconds=1)
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def to_bars(rows: Sequence[Sequence[Any]], names: Sequence[str], options: PrepareOptions) -> Bars:
    """The rows of one symbol as arrays in time order, cut to the period asked for.

    Args:
        rows: as the database gives them.
        names: of the values in a row; "time" among them.
        options: with the period.

    Raises:
        BarFault: a time or a number cannot be read.
    """
    place = names.index("time")
    times = np.array([_microseconds(row[place], number) for number, row in enumerate(rows, 1)], dtype=np.int64)
    order = np.argsort(times, kind="stable")
    order = order[_in_period(times[order], options)]
    times = times[order]
    columns = {
        name: _numbers([rows[row][at] for row in order], times, name) for at, name in enumerate(names) if name != "time"
    }
    return Bars(times, columns)


def check(bars: Bars) -> None:
    """Refuse bars that no market gives.

    Raises:
        BarFault: with the first kind of fault that is found, and where.
    """
    prices = [name for name in (*PRICES, ADJUSTED) if name in bars.columns]
    for name, values in bars.columns.items():
        _refuse(~np.isfinite(values), bars, name, "no finite number")
    _refuse(np.diff(bars.times, prepend=bars.times[:1] - 1) == 0, bars, "time", "the same time as the bar before")
    for name in prices:
        _refuse(bars.columns[name] <= 0, bars, name, "a price that is not above zero")
    _refuse(bars.columns["high"] < bars.columns["low"], bars, "high", "a high below the low")
    _refuse(bars.columns["volume"] < 0, bars, "volume", "a negative volume")


def adjust(bars: Bars) -> Bars:
    """Prices as the adjusted close has them: all four times adj_close / close; without that column as they are."""
    if ADJUSTED not in bars.columns:
        return bars
    with np.errstate(all="ignore"):  # what extreme prices make infinite is refused before it is kept
        factor = bars.columns[ADJUSTED] / bars.columns["close"]
        adjusted = {name: bars.columns[name] * factor for name in PRICES}
    return Bars(bars.times, {**adjusted, "close": bars.columns[ADJUSTED], "volume": bars.columns["volume"]})


def moment(microseconds: int) -> str:
    """A time as people write it; a day alone at midnight."""
    at = _EPOCH + microseconds * _MICROSECOND
    return at.date().isoformat() if at.time() == datetime.time() else at.isoformat()


def fault_at(wrong: Mask, bars: Bars, column: str, what: str) -> Fault:
    """The fault of the rows where `wrong` is true."""
    rows = np.flatnonzero(wrong)
    shown = [int(row) for row in rows[:_SHOWN]]
    dates = tuple(moment(int(bars.times[row])) for row in shown)
    values = "" if column == "time" else f" ({bars.columns[column][shown[0]]:g})" if column in bars.columns else ""
    more = "" if len(rows) == 1 else f", and in {len(rows) - 1} more rows"
    reason = f"column {column}: {what}{values} in row {shown[0] + 1} ({dates[0]}){more}"
    return Fault(reason, tuple(row + 1 for row in shown), column, dates)


def _refuse(wrong: Mask, bars: Bars, column: str, what: str) -> None:
    if wrong.any():
        raise BarFault(fault_at(wrong, bars, column, what))


def _in_period(times: Times, options: PrepareOptions) -> Mask:
    inside = np.ones(len(times), dtype=bool)
    first, last = day("--start-date", options.start), day("--end-date", options.end)
    if first is not None:
        inside &= times >= first.astype("datetime64[us]").astype(np.int64)
    if last is not None:
        inside &= times < (last + np.timedelta64(1, "D")).astype("datetime64[us]").astype(np.int64)
    return inside


def _microseconds(value: Any, number: int) -> int:
    """Microseconds since 1970; a time with a zone is told in UTC."""
    try:
        at = _moment_of(value)
    except ValueError:
        said = "there is no time" if value is None else f"{value!r} is no date"
        where = f"in row {number} as the database gives them"
        raise BarFault(Fault(f"column time: {said} {where}", (number,), "time")) from None
    return (at - _EPOCH) // _MICROSECOND


def _moment_of(value: Any) -> datetime.datetime:
    if isinstance(value, int) and not isinstance(value, bool) and 10**7 <= value < 10**8:
        value = str(value)  # 20241231
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value.strip())
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime.datetime):
        raise ValueError
    if value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    at: datetime.datetime = value
    if not _EARLIEST <= at < _LATEST:
        raise ValueError
    return at


def _numbers(values: Sequence[Any], times: Times, name: str) -> Floats:
    """(N,) numbers; a missing value becomes NaN, which `check` refuses."""
    numbers = np.empty(len(values))
    for row, value in enumerate(values):
        try:
            numbers[row] = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            date = moment(int(times[row]))
            reason = f"column {name}: {value!r} is no number in row {row + 1} ({date})"
            raise BarFault(Fault(reason, (row + 1,), name, (date,))) from None
    return numbers
