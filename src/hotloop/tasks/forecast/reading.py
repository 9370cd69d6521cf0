"""From `data.path` to a table: a CSV file, a prepared cache of bars, or simulated bars prepared on the spot.

Invariants: the targets are always among the columns that the model sees; what the cache says of failed, short and
absent symbols becomes a note, so nothing is left out silently. Shapes: N rows of a series, C columns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hotloop.errors import HotloopError
from hotloop.tasks.forecast.csv_file import read_csv
from hotloop.tasks.forecast.options import ALL, AUTO, CLOSE, RETURN, ForecastData
from hotloop.tasks.forecast.series import Series, Table, Values

if TYPE_CHECKING:
    from hotloop.data.prepare.cache import Cache

_EMBEDDED_SEED = 2026  # the data stays the same when a run changes its own seed


@dataclass(frozen=True)
class _Choice:
    """Which columns are taken out of those at hand, and what is forecast."""

    inputs: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.targets, *(name for name in self.inputs if name not in self.targets))


def read_table(options: ForecastData) -> Table:
    """The series that the options name, with the columns that the model sees.

    Raises:
        HotloopError: the path leads nowhere or its content cannot be read; a column or symbol does not exist.
    """
    if options.path is None:
        return _simulated(options)
    path = Path(options.path).expanduser()
    return _cache(path, options) if path.is_dir() else _csv(path, options)


def _csv(path: Path, options: ForecastData) -> Table:
    if options.symbols is not None:
        raise HotloopError(
            f"'{path.name}' is a CSV file, which holds one series and no symbols",
            where="data.symbols",
            fix="leave data.symbols out; several symbols come from a cache of `hotloop prepare forecast`",
        )
    wanted = None if options.columns is None else {*options.columns, options.target, CLOSE}
    series, names, dated = read_csv(path, wanted)
    choice = _choose(names, names, options, ALL, path.name)
    taken = _take(series, names, choice)
    return Table([taken], choice.columns, choice.targets, path.name, (), dated)


def _simulated(options: ForecastData) -> Table:
    """Bars of invented symbols, made and prepared in a temporary folder; the same for every run."""
    from hotloop.data.prepare import prepare_embedded

    with tempfile.TemporaryDirectory(prefix="hotloop-forecast-") as folder:
        table = _cache(prepare_embedded(Path(folder) / "cache", seed=_EMBEDDED_SEED), options)
    name = "synthetic market bars (simulated, no real prices; no data.path given)"
    return Table(table.series, table.columns, table.targets, name, table.notes[1:], table.dated)


def _cache(folder: Path, options: ForecastData) -> Table:
    cache = _open(folder)
    manifest, synthetic = cache.manifest, " (synthetic)" if cache.manifest["synthetic"] else ""
    symbols = _symbols(list(manifest["symbols"]), options.symbols, folder)
    names = tuple(name for name in manifest["columns"] if name != "time")
    choice = _choose(names, tuple(manifest["features"]), options, RETURN, str(folder))
    series = [_take(Series(symbol, *cache.read(symbol)), names, choice) for symbol in symbols]
    notes = [f"cache{synthetic}: {folder}", *_left_out(manifest)]
    return Table(series, choice.columns, choice.targets, f"bars in {folder}{synthetic}", tuple(notes))


def _open(folder: Path) -> Cache:
    from hotloop.data.prepare.cache import read_cache

    return read_cache(folder)


def _symbols(known: list[str], wanted: Sequence[str] | None, folder: Path) -> list[str]:
    if not known:
        raise HotloopError("the cache holds no symbol", where=str(folder), fix="prepare it again, and read its report")
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        shown = ", ".join(known[:10]) + (" ..." if len(known) > 10 else "")
        raise HotloopError(f"the cache holds no symbol '{unknown[0]}'", where="data.symbols", fix=f"it has {shown}")
    return known if wanted is None else [name for name in known if name in wanted]


def _left_out(manifest: dict[str, object]) -> list[str]:
    """What preparing left out, symbol by symbol."""
    lines = []
    for kind, said in (("failed", "failed"), ("short", "too short"), ("absent", "not in the database")):
        names = list(manifest.get(kind) or ())  # type: ignore[call-overload]
        if names:
            shown = ", ".join(str(name) for name in names)
            lines.append(f"not in the cache, as preparing reported: {len(names)} {said}: {shown}")
    return lines


def _choose(names: Sequence[str], inputs: tuple[str, ...], options: ForecastData, default: str, source: str) -> _Choice:
    """Check the columns and the target that the options name, and fill in what they leave open."""
    for name in options.columns or ():
        if name not in names:
            raise HotloopError(
                f"there is no column '{name}' in {source}", where="data.columns", fix=f"it has {', '.join(names)}"
            )
    inputs = options.columns or inputs
    target = default if options.target == AUTO else options.target
    if target == ALL:
        return _Choice(inputs, tuple(inputs))
    if target == RETURN and target not in names and CLOSE in names:
        return _Choice(inputs, (RETURN,))
    if target not in names:
        missing = "the column 'close', which a return is made of," if target == RETURN else f"the column '{target}'"
        raise HotloopError(
            f"{missing} is not in {source}", where="data.target", fix=f"it has {', '.join(names)}; or data.target=all"
        )
    return _Choice(inputs, (target,))


def _take(series: Series, names: Sequence[str], choice: _Choice) -> Series:
    """The chosen columns of a series; a return costs the first row, which has none."""
    if choice.targets != (RETURN,) or RETURN in names:
        places = [names.index(name) for name in choice.columns]
        return Series(series.name, series.times, np.ascontiguousarray(series.values[:, places]))
    others = [names.index(name) for name in choice.columns[1:]]
    returns = _log_returns(series, series.values[:, names.index(CLOSE)])
    values = np.concatenate([returns[:, None], series.values[1:, others]], axis=1)
    return Series(series.name, series.times[1:], values)


def _log_returns(series: Series, close: Values) -> Values:
    """Log return of each row but the first (N - 1,)."""
    if (close <= 0).any():
        row = int(np.argmax(close <= 0)) + 1
        raise HotloopError(
            f"the close is {close[row - 1]:g}, and only positive prices have returns",
            where=f"{series.name}, row {row}, column close",
            fix="correct the price, or forecast another column with data.target",
        )
    returns: Values = np.diff(np.log(close.astype(np.float64))).astype(np.float32)
    return returns
