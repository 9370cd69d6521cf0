"""The two questions a candidate must answer, as tests with stated levels: is it faster, and is the result the same?

Faster: rounds are paired (baseline and candidate one after the other), so what slows a round meets both. The logarithms
of the rounds' ratios are averaged; the candidate is faster where even the lower end of their one-sided Student interval
is above 1 and the median ratio above `MARGIN`. Without an effect it is kept in at most `SPEED_LEVEL` of cases.

The same: (1) the gradients that reach the optimizer, of equal weights and rows, against those in float32. A precision's
own bound is measured: a multiple of the error that the same precision has in plain eager execution on this very model.
(2) The training loss after some steps, paired by seed, against the spread of reseeded baselines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

SPEED_LEVEL = 0.005
MARGIN = 1.02
HOPELESS, HOPELESS_AFTER = 0.97, 3
"""A candidate that was slower than this in each of so many rounds is given up."""
LOSS_LEVEL = 0.05
ROUNDING = 1e-3
"""Relative difference in the loss that rounding alone comes to over some hundred steps in float32."""

# Quantiles of Student's distribution, by degrees of freedom 1, 2, ...: one-sided 0.995 and 0.975.
_T995 = (63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012, 2.977, 2.947)
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def quantile(table: Sequence[float], freedom: int) -> float:
    """A quantile for `freedom` degrees; beyond the table its last entry, which is larger than the right one."""
    return table[min(max(freedom, 1), len(table)) - 1]


@dataclass(frozen=True)
class Speed:
    """What paired rounds say.

    Args:
        factor: median of baseline seconds over candidate seconds.
        lowest: the factor is above this at the level `SPEED_LEVEL`.
        spread: (largest - smallest) / median of the candidate's own seconds.
        faster: kept, as far as speed goes.
        reason: why not, empty where it is faster.
    """

    factor: float
    lowest: float
    spread: float
    faster: bool
    reason: str = ""


def compare_speed(baseline: Sequence[float], candidate: Sequence[float]) -> Speed:
    """Seconds a step of each round, paired; at least two rounds."""
    ratios = [one / other for one, other in zip(baseline, candidate, strict=True)]
    logs = [math.log(ratio) for ratio in ratios]
    error = quantile(_T995, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    factor, lowest = median(ratios), math.exp(fmean(logs) - error)
    spread = (max(candidate) - min(candidate)) / median(candidate)
    faster = lowest > 1.0 and factor > MARGIN
    return Speed(factor, lowest, spread, faster, "" if faster else _why_not(factor, lowest))


def _why_not(factor: float, lowest: float) -> str:
    if factor < 1 / MARGIN:
        return f"slower: {factor:.2f}x"
    if lowest <= 1.0 and factor > MARGIN:
        return f"within noise: {factor:.2f}x, and no more than {lowest:.2f}x for certain"
    return f"no faster: {factor:.2f}x"


def is_hopeless(baseline: Sequence[float], candidate: Sequence[float]) -> bool:
    """Whether so far every round was clearly slower; giving up early only ever rejects."""
    ratios = [one / other for one, other in zip(baseline, candidate, strict=False)]
    return len(ratios) >= HOPELESS_AFTER and all(ratio < HOPELESS for ratio in ratios)


@dataclass(frozen=True)
class Loss:
    """What paired losses say.

    Args:
        difference: mean of candidate minus baseline over the seeds.
        bound: what it may be, in absolute value.
        same: it is within the bound.
    """

    difference: float
    bound: float
    same: bool


def compare_losses(baseline: Sequence[float], candidate: Sequence[float]) -> Loss:
    """Losses after the same steps, paired by seed; at least two seeds.

    The bound is what the means of two sets of reseeded baselines differ by in 95 of 100 cases, but at least what
    rounding comes to. A candidate that changes nothing differs by far less, as its seeds are the baseline's.
    """
    differences = [one - other for one, other in zip(candidate, baseline, strict=True)]
    mean = fmean(differences)
    count = len(baseline)
    noise = quantile(_T975, count - 1) * stdev(baseline) * math.sqrt(2 / count)
    bound = max(noise, ROUNDING * abs(fmean(baseline)))
    return Loss(mean, bound, math.isfinite(mean) and abs(mean) <= bound)


@dataclass(frozen=True)
class Error:
    """How far gradients are from a reference.

    Args:
        whole: norm of the difference over the norm of the reference, all parameters.
        parts: the same by parameter; those whose gradient is next to nothing are left out.
        norm: relative difference of the norm before clipping.
        loss: relative difference of the loss.
    """

    whole: float
    parts: dict[str, float]
    norm: float
    loss: float


FLOOR, CAP = 1e-4, 0.25
"""Errors below the floor are float32's own rounding in another order; none above the cap passes, whatever the rest."""
_TIMES, _PART_TIMES, _PART_FLOOR, _PART_CAP = 3.0, 10.0, 1e-3, 0.7


def gradient_fault(candidate: Error, own: Error) -> str:
    """What is wrong with a candidate's gradients, empty where nothing is.

    Args:
        candidate: against float32.
        own: of the candidate's precision in plain eager execution, against float32.
    """
    allowed = min(CAP, max(FLOOR, _TIMES * own.whole))
    if not candidate.whole <= allowed:
        return f"gradients differ from float32 by {candidate.whole:.1e}, allowed are {allowed:.1e}"
    for what, found, usual in (("gradient norm", candidate.norm, own.norm), ("loss", candidate.loss, own.loss)):
        allowed = min(CAP, max(FLOOR, _TIMES * max(usual, own.whole)))
        if not found <= allowed:
            return f"the {what} differs from float32 by {found:.1e}, allowed are {allowed:.1e}"
    for name, found in candidate.parts.items():
        usual = max(own.parts.get(name, 0.0), own.whole)
        allowed = min(_PART_CAP, max(_PART_FLOOR, _PART_TIMES * usual))
        if not found <= allowed:
            return f"the gradient of {name} differs from float32 by {found:.1e}, allowed are {allowed:.1e}"
    return ""
