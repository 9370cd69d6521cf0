"""Features of bars: they look back only, know no scale, and stay finite on prices and volumes that do not move."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.data.prepare import invented

from hotloop.data.prepare.bars import Bars, PrepareOptions
from hotloop.data.prepare.indicators import NAMES, WARMUP, features
from hotloop.data.prepare.reading import adjust, to_bars

COLUMNS = ("time", "open", "high", "low", "close", "volume")


def made(days: int = 200) -> Bars:
    return to_bars([row[1:] for row in invented.bars("A", days)], COLUMNS, PrepareOptions())


def cut(bars: Bars, rows: slice) -> Bars:
    return Bars(bars.times[rows], {name: values[rows] for name, values in bars.columns.items()})


def test_no_feature_knows_the_future():
    bars = made()
    whole = features(bars)
    for end in (60, 61, 100, 199):
        early = features(cut(bars, slice(0, end)))
        for name in NAMES:
            np.testing.assert_array_equal(early[name], whole[name][:end], err_msg=name)


def test_a_changed_future_changes_no_feature():
    bars = made()
    columns = {name: np.where(np.arange(200) < 150, values, values * 3) for name, values in bars.columns.items()}
    changed = features(Bars(bars.times, columns))
    for name, values in features(bars).items():
        np.testing.assert_array_equal(changed[name][:150], values[:150], err_msg=name)
    assert any((changed[name][150:] != features(bars)[name][150:]).any() for name in NAMES)


def test_the_warm_up_is_as_long_as_it_must_be():
    found = features(made())
    finite = np.isfinite(np.stack(list(found.values()))).all(0)
    assert finite[WARMUP:].all()
    assert not finite[:WARMUP].any()


def test_the_price_scale_does_not_matter():
    bars = made()
    scaled = Bars(bars.times, {name: v * (1 if name == "volume" else 1000) for name, v in bars.columns.items()})
    for name, values in features(bars).items():
        np.testing.assert_allclose(features(scaled)[name], values, rtol=1e-6, atol=1e-9, err_msg=name)


def test_features_are_what_their_names_say():
    bars = made()
    close, volume = bars.columns["close"], bars.columns["volume"]
    found, at = features(bars), 120
    window = close[at - 19 : at + 1]
    assert found["ma_20"][at] == pytest.approx(close[at] / window.mean() - 1)
    assert found["return_5"][at] == pytest.approx(np.log(close[at] / close[at - 5]))
    assert found["boll_position"][at] == pytest.approx((close[at] - window.mean()) / (2 * window.std()))
    assert found["boll_width"][at] == pytest.approx(4 * window.std() / window.mean())
    assert found["macd_hist"][at] == pytest.approx(found["macd"][at] - found["macd_signal"][at])
    assert found["kdj_j"][at] == pytest.approx(3 * found["kdj_k"][at] - 2 * found["kdj_d"][at])
    assert found["volume_ratio"][at] == pytest.approx(volume[at] / volume[at - 19 : at + 1].mean())
    assert 0 < found["rsi_14"][at] < 1


def test_a_price_that_does_not_move_and_no_volume_give_finite_features():
    times = made().times
    columns = {name: np.full(200, 12.34) for name in ("open", "high", "low", "close")}
    found = features(Bars(times, {**columns, "volume": np.zeros(200)}))
    for name, values in found.items():
        assert np.isfinite(values[WARMUP:]).all(), name
        assert np.abs(values[WARMUP:]).max() <= 1, name


def test_adjusting_multiplies_all_prices_and_leaves_the_volume():
    bars = made(70)
    adjusted = adjust(Bars(bars.times, {**bars.columns, "adj_close": bars.columns["close"] * 0.5}))
    for name in ("open", "high", "low", "close"):
        np.testing.assert_allclose(adjusted.columns[name], bars.columns[name] * 0.5)
    np.testing.assert_array_equal(adjusted.columns["volume"], bars.columns["volume"])
    assert adjust(bars) is bars
