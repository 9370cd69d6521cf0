"""Windows over several series: counts, borders, symbols; the cut of time and the scaler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotloop.errors import HotloopError
from hotloop.tasks.forecast.series import Scaler, Series, cut_time
from hotloop.tasks.forecast.windows import Rows, SeriesWindows, places_of_parts


def series_of(length: int, number: int = 0, first: int = 0) -> Series:
    """Values (N, 2): the row's own time, and the number of the series."""
    times = np.arange(first, first + length, dtype=np.int64)
    values = np.stack([times, np.full(length, number)], axis=1).astype(np.float32)
    return Series(f"S{number}", times, values)


def windows_of(series: list[Series], sequence: int, horizon: int, parts: tuple[int, int, int]):
    cut = cut_time(series, 0.0, 0.0, parts)
    bounds, lengths = [cut.rows(one.times) for one in series], [len(one.times) for one in series]
    places, short = places_of_parts(bounds, lengths, [one.name for one in series], sequence, horizon)
    rows = Rows(torch.cat([torch.from_numpy(one.values) for one in series]))
    return [SeriesWindows(rows, place, sequence, horizon, [0]) for place in places], short


def test_one_series_is_cut_as_usual_on_ett():
    (train, val, test), short = windows_of([series_of(14400)], 60, 24, (8640, 2880, 2880))
    assert [len(part) for part in (train, val, test)] == [8640 - 60 - 24 + 1, 2880 - 24 + 1, 2880 - 24 + 1]
    assert short.notes() == []
    first = val.batch(torch.tensor([0]))
    assert first["x"][0, -1, 0] == 8639  # it looks back on the end of training
    assert first["y"][0, 0, 0] == 8640  # its targets are its own
    assert train.batch(torch.tensor([len(train) - 1]))["y"][0, -1, 0] == 8639
    assert val.batch(torch.tensor([len(val) - 1]))["y"][0, -1, 0] == 11519


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    firsts=st.lists(st.integers(0, 25), min_size=4, max_size=4),
    sequence=st.integers(2, 8),
    horizon=st.integers(1, 4),
)
def test_no_window_crosses_a_series_or_a_part(lengths, firsts, sequence, horizon):
    series = [series_of(length, n, first) for n, (length, first) in enumerate(zip(lengths, firsts, strict=False))]
    distinct = len(np.unique(np.concatenate([one.times for one in series])))
    third = distinct // 3
    parts = (distinct - 2 * third, max(1, third), max(1, third))
    if sum(parts) > distinct:
        return
    cut = cut_time(series, 0.0, 0.0, parts)
    found, _ = windows_of(series, sequence, horizon, parts)
    borders = [(-1, cut.starts[0]), (cut.starts[0], cut.starts[1]), (cut.starts[1], cut.starts[2])]
    for windows, (low, high) in zip(found, borders, strict=True):
        if not len(windows):
            continue
        batch = windows.batch(torch.arange(len(windows)))
        times = torch.cat([batch["x"][:, :, 0], batch["y"][:, :, 0]], dim=1)
        assert (times.diff(dim=1) == 1).all()  # consecutive rows of one series
        assert (batch["x"][:, :, 1] == batch["symbol"][:, None]).all()
        assert (batch["y"] < high).all()
        assert (batch["y"] >= low).all()
        assert len({tuple(row) for row in torch.stack([batch["symbol"], times[:, 0]], 1).tolist()}) == len(windows)


def test_time_is_cut_at_the_same_moment_for_all_series():
    early, late = series_of(60, 0, 0), series_of(60, 1, 40)
    cut = cut_time([early, late], 0.1, 0.1, None)
    assert cut.counts == (80, 10, 10)
    assert cut.rows(early.times) == (60, 60, 60)  # ends before validation begins
    assert cut.rows(late.times) == (40, 50, 60)


def test_parts_beyond_the_data_are_refused():
    with pytest.raises(HotloopError, match="take 120 times, and the data holds 100"):
        cut_time([series_of(100)], 0.1, 0.1, (100, 10, 10))


def test_a_series_without_windows_in_a_part_is_named():
    _, short = windows_of([series_of(100), series_of(70, 1), series_of(6, 2)], 8, 4, (60, 20, 20))
    assert sorted(short.notes()) == [
        "no window for test: S1 (0 of 4 rows), S2 (0 of 6 rows)",
        "no window for training: S2 (6 of 12 rows)",
        "no window for validation: S2 (0 of 6 rows)",
    ]


def test_a_limit_is_spread_evenly():
    windows = windows_of([series_of(100), series_of(100, 1)], 8, 4, (60, 20, 20))[0][0]
    few = windows.thinned(10)
    assert len(few) == 10
    assert few.batch(torch.arange(10))["symbol"].tolist() == [0] * 5 + [1] * 5
    assert windows.thinned(10_000) is windows
    assert windows.column("symbol").bincount().tolist() == [49, 49]


def test_the_scaler_knows_the_training_rows_only():
    values = np.concatenate([np.random.default_rng(0).normal(5, 3, (500, 2)), np.full((100, 2), 1e6)])
    scaler = Scaler.fit([values[:500].astype(np.float32)], "standard")
    scaled = scaler.apply(values.astype(np.float32), 0)
    assert np.allclose(scaled[:500].mean(0), 0, atol=1e-5)
    assert np.allclose(scaled[:500].std(0), 1, atol=1e-5)
    assert (scaled[500:] > 1e5).all()


def test_a_column_that_never_changes_is_not_blown_up():
    values = np.full((50, 1), 0.3, dtype=np.float32)
    scaler = Scaler.fit([values], "standard")
    assert scaler.scale[0, 0] == 1.0
    assert np.allclose(scaler.apply(values, 0), 0, atol=1e-6)
    same = Scaler.fit([values], "none")
    assert np.array_equal(same.apply(values, 0), values)
