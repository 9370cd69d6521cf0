"""Simulated bars: the same for a seed, such as a market could give, and with a past that tells a little."""

from __future__ import annotations

import numpy as np

from hotloop.data.prepare.simulate import simulate_bars


def test_the_seed_alone_decides():
    first, again, other = (simulate_bars(3, 50, seed) for seed in (1, 1, 2))
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one.close, same.close)
        assert (one.close != different.close).any()


def test_a_symbol_is_the_same_whatever_their_number():
    np.testing.assert_array_equal(simulate_bars(1, 50, 0)[0].close, simulate_bars(4, 50, 0)[0].close)


def test_bars_are_such_as_a_market_could_give():
    for one in simulate_bars(12, 800, 0):
        assert (one.low > 0).all()
        assert (one.low <= np.minimum(one.open, one.close)).all()
        assert (one.high >= np.maximum(one.open, one.close)).all()
        assert (one.volume >= 0).all()
        assert (np.diff(one.date) > np.timedelta64(0, "D")).all()
        moves = np.abs(np.diff(np.log(one.close)))
        assert np.corrcoef(moves, one.volume[1:])[0, 1] > 0.05


def test_the_past_tells_a_little_and_the_regime_tells_more():
    """Errors on later days: a line beats no change at all, and a line per regime, seen in the last moves, beats it."""
    lags, target = [], []
    for one in simulate_bars(40, 1500, 5):
        returns = np.diff(np.log(one.close))
        view = np.lib.stride_tricks.sliding_window_view(returns, 11)
        lags.append(view[:, :10])
        target.append(view[:, 10])
    split = [int(0.7 * len(one)) for one in target]
    train = [np.concatenate([one[:s] for one, s in zip(x, split, strict=True)]) for x in (lags, target)]
    later = [np.concatenate([one[s:] for one, s in zip(x, split, strict=True)]) for x in (lags, target)]
    nothing = (later[1] ** 2).mean()
    one_line = error_of(train, later, np.zeros(len(train[1]), bool), np.zeros(len(later[1]), bool))
    wild = [np.abs(x[0]).mean(1) > 0.012 for x in (train, later)]
    two_lines = error_of(train, later, *wild)
    assert one_line < 0.99 * nothing
    assert 0.90 * one_line < two_lines < 0.985 * one_line


def error_of(train, later, group, group_later) -> float:
    total = 0.0
    for value in (False, True):
        x, y = train[0][group == value], train[1][group == value]
        if len(y):
            found = np.linalg.lstsq(x, y, rcond=None)[0]
            total += ((later[0][group_later == value] @ found - later[1][group_later == value]) ** 2).sum()
    return total / len(later[1])
