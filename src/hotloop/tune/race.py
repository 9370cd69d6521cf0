"""A race: baseline, the best so far and a candidate take turns, so that a slow minute of the machine meets all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from hotloop.tune.lanes import Runner
from hotloop.tune.verdict import HOPELESS_AFTER, is_hopeless

ROUNDS, FEWER, LONG = 7, 5, 2.0  # rounds; where a step takes longer than so many seconds, fewer
_FAR_BEHIND = 2.5  # times slower in its first two bursts: not raced at all
_SHORTEST, _LONGEST, _STEPS = 0.4, 3.0, 5  # a burst: about so many steps, within these seconds


@dataclass(frozen=True)
class Timing:
    """Seconds a step of each round.

    Args:
        seconds: one for each round.
        rows: that a step sees.
        use: how busy the device was, median of the rounds; None where that is not told.
    """

    seconds: tuple[float, ...]
    rows: float
    use: float | None = None

    @property
    def median(self) -> float:
        """Seconds a step."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def race(runners: Mapping[str, Runner], against: str, candidate: str, hurried: bool = False) -> dict[str, Timing]:
    """Let all take turns, every other round in the opposite order.

    Args:
        runners: by name, warm.
        against: whose pace the candidate must beat; given up early where that is hopeless.
        candidate: of whom the race is.
        hurried: make only as many rounds as are needed to judge.

    Returns:
        Timings by name, of equal numbers of rounds.
    """
    first = {name: runner.run(_SHORTEST / 2) for name, runner in runners.items()}  # not counted
    rows = {name: burst.rows / burst.steps for name, burst in first.items()}
    paces = {name: burst.seconds / burst.steps for name, burst in first.items()}
    far = _FAR_BEHIND * paces[against] / rows[against] * rows[candidate]
    if paces[candidate] > far:
        paces[candidate] = min(paces[candidate], _pace(runners[candidate]))
    if paces[candidate] > far:
        return {name: Timing((paces[name],) * 2, rows[name]) for name in runners}
    rounds = FEWER if hurried or max(paces.values()) > LONG else ROUNDS
    names, found = list(runners), {name: list[float]() for name in runners}
    uses = {name: list[float | None]() for name in runners}
    for number in range(rounds):
        for name in names[::-1] if number % 2 else names:
            burst = runners[name].run(min(_LONGEST, max(_SHORTEST, _STEPS * paces[name])))
            found[name].append(burst.seconds / burst.steps)
            uses[name].append(burst.use)
        if number + 1 >= HOPELESS_AFTER and is_hopeless(
            [seconds / rows[against] for seconds in found[against]],
            [seconds / rows[candidate] for seconds in found[candidate]],
        ):
            break
    return {name: Timing(tuple(found[name]), rows[name], middle_use(uses[name])) for name in names}


def middle_use(uses: Sequence[float | None]) -> float | None:
    """Median of what is known."""
    known = [use for use in uses if use is not None]
    return median(known) if known else None


def _pace(runner: Runner) -> float:
    """Seconds a step, from a burst that is not counted."""
    burst = runner.run(_SHORTEST / 2)
    return burst.seconds / burst.steps
