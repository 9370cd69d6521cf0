"""F32: symbols without enough rows skipped silently. Each one is named, with the rows it has and the rows it needs."""

from __future__ import annotations

import numpy as np
import pytest

from hotloop.errors import HotloopError
from hotloop.tasks.forecast.options import ForecastData, ForecastModel
from hotloop.tasks.forecast.series import Series, Table
from hotloop.tasks.forecast.task import Forecast


def task_on(monkeypatch, **lengths: int) -> Forecast:
    series = [
        Series(name, np.arange(rows, dtype=np.int64), np.arange(rows, dtype=np.float32)[:, None])
        for name, rows in lengths.items()
    ]
    table = Table(series, ("close",), ("close",), "bars", (), dated=False)
    monkeypatch.setattr("hotloop.tasks.forecast.task.read_table", lambda options: table)
    return Forecast(ForecastModel(), ForecastData(sequence=20, horizon=2), seed=1)


def test_a_symbol_too_short_to_train_on_is_named(monkeypatch):
    task = task_on(monkeypatch, LONG=200, SHORT=15)
    task.sources()
    assert "left out, too short for one window of training: SHORT (15 of 22 rows)" in task.notes()
    assert task.facts.symbols == ("LONG",)


def test_a_symbol_that_ends_before_validation_is_named(monkeypatch):
    task = task_on(monkeypatch, LONG=200, GONE=150)
    task.sources()
    assert "no window for validation: GONE (0 of 2 rows)" in task.notes()
    assert "no window for test: GONE (0 of 2 rows)" in task.notes()
    assert task.facts.symbols == ("LONG", "GONE")


def test_symbols_that_are_all_too_short_stop_the_run(monkeypatch):
    with pytest.raises(HotloopError, match=r"no series is long enough: the longest has 16 rows"):
        task_on(monkeypatch, A=20, B=12).sources()
