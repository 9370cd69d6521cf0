"""The statistics of a ladder: their level holds under noise, and what is really faster or really different is seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hotloop.tune.verdict import (
    CAP,
    LOSS_LEVEL,
    SPEED_LEVEL,
    Error,
    compare_losses,
    compare_speed,
    gradient_fault,
    is_hopeless,
)

NOTHING = Error(0.0, {}, 0.0, 0.0)


def _rounds(
    random: np.random.Generator, factor: float, noise: float, rounds: int = 7
) -> tuple[list[float], list[float]]:
    """Paired seconds with a slow drift of the machine that both meet."""
    drift = np.exp(0.3 * np.cumsum(random.standard_normal(rounds)))
    pair = [drift * np.exp(noise * random.standard_normal(rounds)) for _ in range(2)]
    return [float(s) for s in pair[0]], [float(s) / factor for s in pair[1]]


@pytest.mark.parametrize("noise", [0.005, 0.03, 0.1, 0.5])
def test_without_an_effect_a_candidate_is_kept_no_more_often_than_the_level_says(noise: float) -> None:
    random, trials = np.random.default_rng(1), 4000
    kept = sum(compare_speed(*_rounds(random, 1.0, noise)).faster for _ in range(trials))
    assert kept <= trials * SPEED_LEVEL + 3 * math.sqrt(trials * SPEED_LEVEL)


@pytest.mark.parametrize(("factor", "noise"), [(1.1, 0.02), (1.3, 0.05), (3.0, 0.2)])
def test_a_real_gain_beyond_the_noise_is_seen(factor: float, noise: float) -> None:
    random = np.random.default_rng(2)
    seen = [compare_speed(*_rounds(random, factor, noise)) for _ in range(300)]
    assert sum(one.faster for one in seen) >= 280
    assert np.median([one.factor for one in seen]) == pytest.approx(factor, rel=0.05)


def test_a_gain_below_the_margin_is_none() -> None:
    assert not compare_speed([1.0] * 7, [0.99] * 7).faster
    assert "no faster" in compare_speed([1.0] * 7, [0.99] * 7).reason
    assert "slower" in compare_speed([1.0] * 7, [1.5] * 7).reason
    assert "within noise" in compare_speed([1.0, 3.0, 1.0, 1.0], [0.5, 2.0, 0.2, 3.0]).reason


def test_giving_up_early_needs_three_clearly_slower_rounds() -> None:
    assert is_hopeless([1.0, 1.0, 1.0], [1.1, 1.1, 1.1])
    assert not is_hopeless([1.0, 1.0], [9.0, 9.0])
    assert not is_hopeless([1.0, 1.0, 1.0], [1.1, 1.0, 1.1])


def test_a_reseeded_baseline_is_called_the_same_as_often_as_the_level_says() -> None:
    random, trials = np.random.default_rng(3), 4000
    different = sum(
        not compare_losses(*(2.0 + 0.1 * random.standard_normal((2, 4))).tolist()).same for _ in range(trials)
    )
    assert different <= trials * LOSS_LEVEL * 1.3


def test_a_loss_off_by_more_than_the_seeds_or_not_finite_is_different() -> None:
    base = [2.0, 2.1, 1.9, 2.05]
    assert compare_losses(base, [loss + 1e-4 for loss in base]).same
    assert not compare_losses(base, [loss + 0.5 for loss in base]).same
    assert not compare_losses(base, [*base[:3], math.nan]).same
    assert compare_losses([2.0] * 4, [2.001] * 4).same and not compare_losses([2.0] * 4, [2.01] * 4).same


def test_gradients_may_be_off_by_a_multiple_of_the_precisions_own_error_and_no_more() -> None:
    own = Error(0.01, {"w": 0.01}, 0.001, 0.001)
    assert gradient_fault(Error(0.02, {"w": 0.03}, 0.01, 0.01), own) == ""
    assert "gradients differ" in gradient_fault(Error(0.04, {}, 0.0, 0.0), own)
    assert "w differs" in gradient_fault(Error(0.01, {"w": 1.0}, 0.0, 0.0), own)
    assert "norm differs" in gradient_fault(Error(0.0, {}, 0.1, 0.0), own)
    assert "loss differs" in gradient_fault(Error(0.0, {}, 0.0, 0.1), own)
    assert "gradients differ" in gradient_fault(Error(math.nan, {}, 0.0, 0.0), own)
    assert gradient_fault(Error(2 * CAP, {}, 0.0, 0.0), Error(CAP, {}, 0.0, 0.0))
    assert gradient_fault(Error(2e-4, {}, 0.0, 0.0), NOTHING) and not gradient_fault(Error(5e-5, {}, 0.0, 0.0), NOTHING)
