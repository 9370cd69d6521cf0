"""F29: ids zipped with other arrays, so every stock got the first one's. Here a window's id and place are one entry."""

from __future__ import annotations

import numpy as np
import torch

from hotloop.tasks.forecast.options import ForecastData, ForecastModel
from hotloop.tasks.forecast.series import Series, Table
from hotloop.tasks.forecast.task import Forecast


def table(options: ForecastData) -> Table:
    """Seven symbols of different length; every value of a symbol is its own number."""
    series = [
        Series(f"S{n}", np.arange(100 + 13 * n, dtype=np.int64), np.full((100 + 13 * n, 1), n, dtype=np.float32))
        for n in range(7)
    ]
    return Table(series, ("id",), ("id",), "seven symbols", (), dated=False)


def test_every_window_has_the_id_of_its_own_symbol(monkeypatch):
    monkeypatch.setattr("hotloop.tasks.forecast.task.read_table", table)
    options = ForecastData(sequence=10, horizon=2, scaling="none")
    task = Forecast(ForecastModel(), options, seed=1)
    splits = task.sources()
    seen = set()
    for source in (splits.train, splits.val, splits.test):
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
        batch = source.batch(order)
        assert (batch["x"][:, :, 0] == batch["symbol"][:, None]).all()
        assert (batch["y"][:, :, 0] == batch["symbol"][:, None]).all()
        seen |= set(batch["symbol"].tolist())
    assert seen == set(range(7))
