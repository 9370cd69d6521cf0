"""One symbol from the database to the bytes of its Parquet file: read, check, adjust, features, cut.

Invariant: the outcome depends on the rows and the options alone, never on the process or the order. Shapes: N bars.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hotloop.data.prepare import indicators
from hotloop.data.prepare.bars import STORED, BarFault, Bars, Fault, Floats, PrepareOptions
from hotloop.data.prepare.cache import checksum, encode, file_name
from hotloop.data.prepare.database import NO_SYMBOL, Database
from hotloop.data.prepare.reading import adjust, check, fault_at, moment, to_bars
from hotloop.errors import HotloopError

PREPARED, FAILED, SHORT = "symbols", "failed", "short"  # as the manifest calls them


@dataclass(frozen=True)
class Outcome:
    """What became of a symbol.

    Args:
        symbol: its name.
        kind: PREPARED, FAILED or SHORT.
        entry: what the manifest says of it.
        content: the Parquet file, where there is one.
    """

    symbol: str
    kind: str
    entry: dict[str, Any] = field(default_factory=dict)
    content: bytes = b""


class Preparing(Protocol):
    """Makes an outcome of a symbol's name and the value that the table holds for it."""

    def __call__(self, symbol: str, value: Any) -> Outcome:
        """Prepare one symbol."""
        ...


class Preparer:
    """Prepares symbols of one table, over one connection.

    Args:
        url: of the database.
        options: with table, period and the least number of rows.
    """

    def __init__(self, url: str, options: PrepareOptions) -> None:
        self.options = options
        self.database = Database(url, options.table, options.columns)

    def __call__(self, symbol: str, value: Any) -> Outcome:
        """Prepare one symbol; what is wrong with it becomes its outcome."""
        try:
            rows = self.database.rows(value)
            if symbol == NO_SYMBOL:
                raise BarFault(Fault("there are rows without a symbol", column="symbol"))
            bars = to_bars(rows, self.database.columns, self.options)
            check(bars)
            return _prepared(symbol, bars, self.options)
        except BarFault as error:
            return Outcome(symbol, FAILED, error.fault.record())
        except HotloopError as error:
            return Outcome(symbol, FAILED, Fault(error.what).record())


def _prepared(symbol: str, bars: Bars, options: PrepareOptions) -> Outcome:
    needed = max(options.min_rows, indicators.WARMUP + 1)
    if len(bars.times) < needed:
        return Outcome(symbol, SHORT, {"rows": len(bars.times), "needed": needed})
    bars = adjust(bars)
    found = indicators.features(bars)
    _check_range({**{name: bars.columns[name] for name in STORED}, **found}, bars)
    cut = slice(indicators.WARMUP, None)
    kept = Bars(bars.times[cut], {name: values[cut] for name, values in bars.columns.items()})
    content = encode(kept, {name: values[cut] for name, values in found.items()})
    entry = {
        "file": file_name(symbol),
        "rows": len(kept.times),
        "warmup": indicators.WARMUP,
        "first": moment(int(kept.times[0])),
        "last": moment(int(kept.times[-1])),
        "sha256": checksum(content),
    }
    return Outcome(symbol, PREPARED, entry, content)


def _check_range(columns: dict[str, Floats], bars: Bars) -> None:
    """Refuse what is no finite float32 after the warm-up: training reads it so, and extreme prices can go beyond."""
    for name, values in columns.items():
        with np.errstate(over="ignore"):
            wrong = ~np.isfinite(values.astype(np.float32))
        wrong[: indicators.WARMUP] = False
        if wrong.any():
            raise BarFault(fault_at(wrong, bars, name, "out of the range of float32"))
