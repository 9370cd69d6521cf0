"""Invented bars as a person may have them in a table: plausible prices, a day each."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

NAMES = ("symbol", "date", "open", "high", "low", "close", "volume")
FIRST = datetime.date(2020, 1, 1)


def bars(symbol: str, days: int, seed: int = 0) -> list[list[Any]]:
    """Plausible bars, a day each, in time order."""
    generator = np.random.default_rng([seed, len(symbol), *symbol.encode()])
    close = 50 * np.exp(np.cumsum(0.01 * generator.standard_normal(days)))
    opened = close * np.exp(0.004 * generator.standard_normal(days))
    high, low = np.maximum(opened, close) * 1.01, np.minimum(opened, close) * 0.99
    volume = np.exp(10 + 0.3 * generator.standard_normal(days)).round()
    columns = [column.tolist() for column in (opened, high, low, close, volume)]
    dates = [(FIRST + datetime.timedelta(day)).isoformat() for day in range(days)]
    return [[symbol, *row] for row in zip(dates, *columns, strict=True)]
