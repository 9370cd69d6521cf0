"""What preparing passes around: the options, one symbol's bars, what was wrong with a symbol, the progress.

Invariant: plain frozen records without any library behind them, so that worker processes can send them. Shapes: N bars
of one symbol, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hotloop.errors import HotloopError

Floats = np.ndarray[Any, np.dtype[np.float64]]
Times = np.ndarray[Any, np.dtype[np.int64]]
PRICES = ("open", "high", "low", "close")
STORED = (*PRICES, "volume")
NEEDED = ("symbol", "time", *STORED)
ADJUSTED = "adj_close"
KNOWN = (*NEEDED, ADJUSTED)
FEATURES_VERSION = 1  # counted up when the same bars would give other features
MIN_ROWS = 120


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare and how.

    Args:
        table: the table of bars, "schema.table" where it lies in a schema.
        symbols: these symbols only; None takes all.
        columns: the table's name of a column where it is not found by itself, as in {"time": "day"}.
        start, end: first and last day that count, ISO dates.
        limit: only the first so many symbols, by name.
        min_rows: bars that a symbol must have at least.
        workers: processes; 0 and 1 stay in this process. More need `if __name__ == "__main__":` in a script.
        resume: go on with an unfinished cache.
    """

    table: str = "bars"
    symbols: tuple[str, ...] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    start: str | None = None
    end: str | None = None
    limit: int | None = None
    min_rows: int = MIN_ROWS
    workers: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, value, least in (
            ("limit", self.limit, 1),
            ("min-rows", self.min_rows, 1),
            ("workers", self.workers, 0),
        ):
            if value is not None and value < least:
                raise HotloopError(f"--{name} is {value}, and must be at least {least}", where=f"--{name}")
        for name in self.columns:
            if name not in KNOWN:
                raise HotloopError(
                    f"there is no column '{name}' of bars to name", where="--column", fix=f"one of {', '.join(KNOWN)}"
                )
        first, last = day("--start-date", self.start), day("--end-date", self.end)
        if first is not None and last is not None and first > last:
            raise HotloopError(f"the start date {self.start} comes after the end date {self.end}", where="--start-date")


def day(option: str, text: str | None) -> np.datetime64 | None:
    """The day that an option names.

    Raises:
        HotloopError: not an ISO date.
    """
    if text is None:
        return None
    try:
        return np.datetime64(text, "D")
    except ValueError as error:
        raise HotloopError(f"'{text}' is no date", where=option, fix="write it as 2024-12-31") from error


@dataclass(frozen=True)
class Bars:
    """One symbol's bars as they are read: times (N,) in microseconds since 1970, columns (N,) each."""

    times: Times
    columns: Mapping[str, Floats]


@dataclass(frozen=True)
class Fault:
    """Why a symbol is not prepared: rows are counted from 1 in time order, at most five are named."""

    reason: str
    rows: tuple[int, ...] = ()
    column: str = ""
    dates: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """As the manifest keeps it."""
        return {"reason": self.reason, "rows": list(self.rows), "column": self.column, "dates": list(self.dates)}


class BarFault(Exception):
    """Carries a fault out of the reading or the checking of one symbol; it never leaves this package."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.reason)


@dataclass(frozen=True)
class Progress:
    """How far preparing has come.

    Args:
        done, total: symbols dealt with (kept ones included), and all that are wanted.
        failed: of those done, the ones that failed.
        kept: of those done, the ones finished by an earlier call.
        seconds_left: None while nothing is known.
    """

    done: int
    total: int
    failed: int
    kept: int
    seconds_left: float | None
