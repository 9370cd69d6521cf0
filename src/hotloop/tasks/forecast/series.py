"""Series as they were read, the parts that time is cut into, and the scaler fitted on the training part.

Invariants: a series is in time order without repeats and without gaps in its values; all series share their columns.
One pair of boundaries in TIME cuts all series, so no part of one symbol knows a later day than the same part of
another. Shapes: N rows of a series, C columns, S series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hotloop.errors import HotloopError

Times = np.ndarray[Any, np.dtype[np.int64]]
Values = np.ndarray[Any, np.dtype[np.float32]]
Statistics = np.ndarray[Any, np.dtype[np.float64]]
Bounds = tuple[int, int, int]  # rows of a series: end of training, of validation, of test


@dataclass(frozen=True)
class Series:
    """One symbol's rows: times (N,) in nanoseconds (or row numbers), strictly rising; values (N, C)."""

    name: str
    times: Times
    values: Values


@dataclass(frozen=True)
class Table:
    """What was read.

    Args:
        series: at least one.
        columns: C names.
        targets: those of the columns that are forecast.
        source: what it is called in notes and messages.
        notes: lines for the user.
        dated: whether times are dates (nanoseconds since 1970) or row numbers.
    """

    series: Sequence[Series]
    columns: tuple[str, ...]
    targets: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()
    dated: bool = True


@dataclass(frozen=True)
class Cut:
    """Where time is cut: the first moments of validation and test, and the first that is not used any more.

    Args:
        starts: three times; a row belongs to the first part whose end it lies before.
        counts: distinct times in training, validation and test.
        unused: later times, which belong to no part.
    """

    starts: tuple[int, int, int]
    counts: tuple[int, int, int]
    unused: int = 0

    def rows(self, times: Times) -> Bounds:
        """The rows of one series at which its training, validation and test part end."""
        ends = np.searchsorted(times, np.array(self.starts, dtype=np.int64), side="left")
        return int(ends[0]), int(ends[1]), int(ends[2])


def cut_time(
    series: Sequence[Series], val_fraction: float, test_fraction: float, parts: tuple[int, int, int] | None
) -> Cut:
    """Cut the distinct times of all series into training, validation and test, in this order.

    Args:
        series: all that was read.
        val_fraction, test_fraction: shares of the distinct times.
        parts: numbers of times instead of the shares.

    Raises:
        HotloopError: `parts` asks for more times than there are.
    """
    times = np.unique(np.concatenate([one.times for one in series]))
    total = len(times)
    if parts is None:
        test, val = round(total * test_fraction), round(total * val_fraction)
        parts = (total - val - test, val, test)
    elif sum(parts) > total:
        raise HotloopError(
            f"the parts {list(parts)} take {sum(parts):,} times, and the data holds {total:,}",
            where="data.parts",
            fix="make them smaller, or leave the option out for data.val_fraction and data.test_fraction",
        )
    ends = np.append(times, times[-1] + 1)[np.cumsum(parts)]
    return Cut((int(ends[0]), int(ends[1]), int(ends[2])), parts, total - sum(parts))


@dataclass(frozen=True)
class Scaler:
    """What makes scaled values out of original ones: (value - mean) / scale, per series and column.

    Args:
        mean, scale: (S, C) float64; scale is positive.
    """

    mean: Statistics
    scale: Statistics

    @classmethod
    def fit(cls, training: Sequence[Values], kind: str) -> Scaler:
        """Mean and standard deviation of each series' training rows; "none" changes nothing.

        A column that never changes in training keeps the scale 1.
        """
        if kind == "none":
            shape = (len(training), training[0].shape[1])
            return cls(np.zeros(shape), np.ones(shape))
        mean = np.stack([rows.astype(np.float64).mean(0) for rows in training])
        spread = np.stack([rows.astype(np.float64).std(0) for rows in training])
        return cls(mean, np.where(spread > 1e-7 * np.maximum(1.0, np.abs(mean)), spread, 1.0))

    def apply(self, values: Values, series: int) -> Values:
        """Scaled values (N, C) of the series of that number."""
        scaled: Values = ((values.astype(np.float64) - self.mean[series]) / self.scale[series]).astype(np.float32)
        return scaled


@dataclass
class Shortage:
    """Series that lack windows, by part: every one is named, with the rows it has and the rows it needs."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, name: str, rows: int, needed: int) -> None:
        """Note that a series has `rows` rows and would need `needed`; `what` says what it lacks or loses by that."""
        self.found.setdefault(what, []).append(f"{name} ({rows:,} of {needed:,} rows)")

    def notes(self) -> list[str]:
        """One line for each thing that is lacking."""
        return [f"{what}: {', '.join(names)}" for what, names in self.found.items()]
