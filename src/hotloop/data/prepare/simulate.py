"""Simulated market bars, called synthetic everywhere: something to learn from without any file. Knows DuckDB.

A symbol's log price walks at random with two regimes: calm days carry the last days' move on a little, turbulent days
take some of it back. So its past tells a little of the next return, a model that feels the regime sees more of it than
a straight line does, and the last value alone sees nothing. Volume grows with the size of the move. Shapes: D days.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hotloop.data.prepare.bars import Floats
from hotloop.disk import telling

SYMBOLS, DAYS = 12, 800
SIMULATED = "simulated.duckdb"
_PURPOSE = 0x62617273  # keeps these draws apart from others of the same seed
_FIRST_DAY = np.datetime64("2015-01-01", "D")
_VOLATILITY = (0.008, 0.022)  # of a day's log return: calm, turbulent
_CARRIED = (0.35, -0.35)  # share of the last three days' move that goes on
_STAYS = (0.985, 0.97)  # chance that the regime is the same tomorrow
_COLUMNS = ("date", "open", "high", "low", "close", "volume")
Days = np.ndarray[tuple[int], np.dtype[np.datetime64]]


@dataclass(frozen=True)
class SimulatedSymbol:
    """One invented symbol: days (D,), and open, high, low, close, volume (D,) each."""

    symbol: str
    date: Days
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats


def simulate_bars(symbols: int, days: int, seed: int) -> list[SimulatedSymbol]:
    """Invent daily bars.

    Args:
        symbols: how many; a symbol is the same whatever their number.
        days: weekdays from 2015 on.
        seed: the same seed gives the same bars.
    """
    return [_symbol(number, days, np.random.default_rng([seed, _PURPOSE, number])) for number in range(symbols)]


def _symbol(number: int, days: int, generator: np.random.Generator) -> SimulatedSymbol:
    returns, sizes = _returns(days, generator)
    close = generator.uniform(20, 200) * np.exp(np.cumsum(returns))
    gap = np.exp(0.2 * sizes * generator.standard_normal(days))
    opened = np.concatenate([close[:1], close[:-1]]) * gap
    reach = 0.5 * sizes[:, None] * np.abs(generator.standard_normal((days, 2)))
    high, low = np.maximum(opened, close) * np.exp(reach[:, 0]), np.minimum(opened, close) * np.exp(-reach[:, 1])
    volume = np.exp(13 + 0.5 * np.abs(returns) / sizes + 0.3 * generator.standard_normal(days))
    dates: Days = np.busday_offset(_FIRST_DAY, np.arange(days), roll="forward")
    opened, high, low, close = (np.maximum(price.round(4), 0.0001) for price in (opened, high, low, close))
    return SimulatedSymbol(f"SIM{number + 1:02d}", dates, opened, high, low, close, volume.round())


def _returns(days: int, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Log returns (D,), and the volatility of each day (D,)."""
    noise, luck = generator.standard_normal(days), generator.random(days)
    returns, sizes, moves = np.zeros(days), np.zeros(days), np.zeros(days + 3)
    regime = 0
    for today in range(days):
        regime = regime if luck[today] < _STAYS[regime] else 1 - regime
        carried = np.clip(moves[today : today + 3].sum() / np.sqrt(3), -2, 2)
        share = _CARRIED[regime]
        moves[today + 3] = share * carried + np.sqrt(1 - share**2) * noise[today]
        sizes[today] = _VOLATILITY[regime]
        returns[today] = sizes[today] * moves[today + 3]
    return returns, sizes


def write_simulated(database_file: Path, symbols: int, days: int, seed: int) -> None:
    """Write simulated bars into a new DuckDB file: a table `bars` as any other database may have it.

    Args:
        database_file: is written whole or not at all, and replaced where it exists.
        symbols, days, seed: as for `simulate_bars`.

    Raises:
        HotloopError: the folder cannot be written.
    """
    import duckdb

    temporary = database_file.with_name(f".{database_file.name}.tmp")
    with telling("write", database_file):
        temporary.unlink(missing_ok=True)
        temporary.touch()
        temporary.unlink()  # DuckDB makes the file itself; a folder that cannot be written is told by the line before
        with duckdb.connect(str(temporary)) as connection:
            connection.execute(
                "create table bars (symbol varchar, date date, open double, high double, low double, close double, "
                "volume double)"
            )
            for one in simulate_bars(symbols, days, seed):
                lists = [getattr(one, name).tolist() for name in _COLUMNS]
                unnested = ", ".join("unnest(?)" for _ in lists)
                connection.execute(f"insert into bars select ?, {unnested}", [one.symbol, *lists])
        os.replace(temporary, database_file)
