"""Features of bars: moving averages, oscillators, bands, returns and volume. The only place that knows TA-Lib.

Invariants: a row's features use this row and earlier ones only; all but the logarithm of the volume are free of the
price's scale. Rows for which an indicator has not seen enough bars are NaN here and are cut by the caller. Shapes: N
bars, F features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hotloop.data.prepare.bars import Bars, Floats

NAMES = (
    "ma_5", "ma_10", "ma_20", "ma_60", "ema_12", "ema_26", "macd", "macd_signal", "macd_hist", "rsi_14",
    "boll_position", "boll_width", "kdj_k", "kdj_d", "kdj_j", "return_1", "return_5", "high_low", "open_close",
    "volume_ratio", "log_volume",
)  # fmt: skip
WARMUP = 59  # bars before the first row at which every indicator has seen enough: the longest average takes 60


def features(bars: Bars) -> dict[str, Floats]:
    """The features of each bar.

    Args:
        bars: checked: finite, positive prices, N > 0.

    Returns:
        (N,) for each of NAMES; the first WARMUP rows are NaN in some of them, and extreme prices
        can make later ones infinite.
    """
    with np.errstate(all="ignore"):  # what extreme prices make infinite is told by the caller, with its row
        found = {**_averages(bars.columns["close"]), **_oscillators(bars), **_bands(bars.columns["close"])}
        found |= _of_the_day(bars)
    return {name: found[name] for name in NAMES}


def _of_the_day(bars: Bars) -> dict[str, Floats]:
    """Returns, the day's range, and its volume."""
    close, volume = bars.columns["close"], bars.columns["volume"]
    return {
        "return_1": _log_return(close, 1),
        "return_5": _log_return(close, 5),
        "high_low": (bars.columns["high"] - bars.columns["low"]) / close,
        "open_close": (close - bars.columns["open"]) / close,
        "volume_ratio": _divided(volume, _call("SMA", volume, timeperiod=20)),
        "log_volume": np.log1p(volume),
    }


def _averages(close: Floats) -> dict[str, Floats]:
    """The close against its moving averages, and the distance of two of these (MACD) as a share of the close."""
    found = {f"ma_{days}": close / _call("SMA", close, timeperiod=days) - 1 for days in (5, 10, 20, 60)}
    found |= {f"ema_{days}": close / _call("EMA", close, timeperiod=days) - 1 for days in (12, 26)}
    lines = _call("MACD", close, fastperiod=12, slowperiod=26, signalperiod=9)
    return found | {name: line / close for name, line in zip(("macd", "macd_signal", "macd_hist"), lines, strict=True)}


def _oscillators(bars: Bars) -> dict[str, Floats]:
    """RSI and KDJ (the stochastic oscillator, with J = 3 K - 2 D), each from about 0 to 1."""
    high, low, close = (bars.columns[name] for name in ("high", "low", "close"))
    k, d = _call("STOCH", high, low, close, fastk_period=9, slowk_period=3, slowd_period=3)
    found = {"kdj_k": k / 100, "kdj_d": d / 100, "kdj_j": (3 * k - 2 * d) / 100}
    return found | {"rsi_14": _call("RSI", close, timeperiod=14) / 100}


def _bands(close: Floats) -> dict[str, Floats]:
    """Where the close lies within Bollinger's bands (-1 to 1 between them), and how wide they are."""
    upper, middle, lower = _call("BBANDS", close, timeperiod=20, nbdevup=2.0, nbdevdn=2.0)
    width = upper - lower
    flat = width <= 1e-7 * close  # a price that does not move has no bands, only their rounding
    position = np.where(flat, 0.0, _divided(close - middle, width / 2))
    return {"boll_position": position, "boll_width": width / middle}


def _log_return(close: Floats, days: int) -> Floats:
    found = np.full(len(close), np.nan)
    found[days:] = np.log(close[days:] / close[:-days])
    return found


def _divided(above: Floats, below: Floats) -> Floats:
    """above / below, and 0 where `below` is 0: no volume for a month is a ratio of nothing."""
    return np.divide(above, below, out=np.where(np.isnan(below), np.nan, 0.0), where=below != 0)


def _call(name: str, *values: Floats, **periods: float) -> Any:
    import talib

    return getattr(talib, name)(*(np.ascontiguousarray(one, dtype=np.float64) for one in values), **periods)
