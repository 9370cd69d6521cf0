"""The ladder: one candidate after another on top of what was kept, each timed beside the baseline and proved.

A candidate is kept only if it is faster beyond noise AND computes the same (`tune.verdict` states both tests). The
proof is made where the speed is worth it. Every candidate has a process of its own.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hotloop.config.load import Loaded
from hotloop.errors import HotloopError
from hotloop.runs.reporter import Reporter
from hotloop.tune.judge import SEEDS, Judge
from hotloop.tune.knobs import Rung
from hotloop.tune.lane import LaneFacts
from hotloop.tune.lanes import Runner, TimeOver, Track
from hotloop.tune.race import Timing, race
from hotloop.tune.row import Row, baseline_row, line
from hotloop.tune.settings import resolved, with_knobs
from hotloop.tune.verdict import Speed, compare_speed

_PROOF_SHARE = 0.05  # of the time given, for the losses of one candidate
_FEWEST, _MOST, _CAPTURED = 6, 40, 16  # steps of them; of captured steps the first few are not replayed yet
_SHARE, _SHORTEST = 0.3, 40.0  # of the time given that one candidate may take, and seconds that each may


@dataclass(frozen=True)
class Contender:
    """A candidate that holds: its row, configuration and lane, seconds of its first step, and its gain on the best."""

    row: Row
    loaded: Loaded
    runner: Runner
    compiled: float
    gain: float


@dataclass
class Ladder:
    """A climb from a baseline.

    Args:
        track: where lanes are opened.
        baseline: the configuration to climb from.
        reporter: told of each rung.
        minutes: after which no new candidate is begun.
        steps: of the run that is meant; compilation must pay for itself within them. None counts speed alone.
        rows: tried so far.
        untried: candidates that were left when the time was over.
        broken: why the climb cannot go on; empty while it can.
    """

    track: Track
    baseline: Loaded
    reporter: Reporter
    minutes: float
    steps: float | None = None
    rows: list[Row] = field(default_factory=list)
    untried: int = 0
    broken: str = ""

    def __post_init__(self) -> None:
        self._started, self._late = time.monotonic(), False
        self._open: list[Runner] = []
        try:
            self._base = self._opened(self.baseline, math.inf)
            compiled = self._base.warm()
            self.first = baseline_row(self._base)
        except BaseException:
            self.close()
            raise
        self.facts = self._base.facts
        self.best = Contender(self.first, self.baseline, self._base, compiled, 1.0)
        self._judge = Judge(self._base, self._proof_steps)
        self.reporter.note(f"  {line(self.first, self.first)}")

    def _opened(self, loaded: Loaded, seconds: float) -> Runner:
        runner = self.track.open(loaded, seconds)
        self._open.append(runner)
        return runner

    def _closed(self, runner: Runner) -> None:
        """End a lane, unless it is the baseline's."""
        if runner is not self._base:
            runner.close()
            self._open.remove(runner)

    def close(self) -> None:
        """End all lanes, whatever they were doing, and whatever ending one of them meets."""
        with contextlib.ExitStack() as ends:
            for runner in self._open:
                ends.callback(runner.close)
        self._open.clear()

    @property
    def facts_of_best(self) -> LaneFacts:
        """Of the best lane so far."""
        return self.best.runner.facts

    @property
    def over(self) -> str:
        """Why no new candidate is begun; empty while some are."""
        if self.broken:
            return self.broken
        return f"the {self.minutes:g} minutes were over" if self._spent > 60 * self.minutes else ""

    @property
    def _spent(self) -> float:
        return time.monotonic() - self._started

    def climb(self, groups: Sequence[Sequence[Rung]]) -> None:
        """Try each group of alternatives in turn and go on from the best of it that holds."""
        for group in groups:
            found: Contender | None = None
            for rung in group:
                if self.over:
                    knobs = {**self.best.row.knobs, **rung.knobs}
                    self._tell(Row(rung.name, knobs, reason=f"not tried: {self.over}"))
                    self.untried += 1
                    continue
                found = self._better(found, self._tried(rung, max(_SHORTEST, _SHARE * 60 * self.minutes)))
            self._settle(found)

    def begin_with(self, rung: Rung) -> None:
        """Climb from this one, where it holds, without a limit of its own; where it does not run, from the baseline.

        Raises:
            HotloopError: all of the time was over before it was measured, or the baseline is gone.
        """
        self._settle(self._tried(rung, math.inf))
        if self.rows and not self.rows[-1].ms_per_step and (self.broken or self._late):
            raise HotloopError(f"{rung.name} could not be measured ({self.broken or self.rows[-1].reason})")

    def _settle(self, found: Contender | None) -> None:
        """Go on from `found`, with what its `auto` came to stated, so that the next lanes do not decide it anew."""
        if found is None:
            return
        self._closed(self.best.runner)
        found.runner.stay()
        knobs = resolved(found.runner.facts.plan, found.loaded)
        row = replace(found.row, knobs={**found.row.knobs, **knobs})
        self.best = replace(found, row=row, loaded=with_knobs(found.loaded, knobs))

    def _better(self, one: Contender | None, other: Contender | None) -> Contender | None:
        """The better of two; the lane of the other one is ended."""
        if one is None or other is None:
            return one or other
        best, worse = (one, other) if one.gain >= other.gain else (other, one)
        self._closed(worse.runner)
        return best

    def _tried(self, rung: Rung, seconds: float) -> Contender | None:
        """Try a rung on top of the best; its lane stays open where it holds."""
        loaded, knobs = with_knobs(self.best.loaded, rung.knobs), {**self.best.row.knobs, **rung.knobs}
        if loaded.config == self.best.loaded.config:
            return None
        found: Contender | None = None
        before = list(self._open)
        try:
            runner = self._opened(loaded, seconds)
            if runner.facts.plan == self.facts_of_best.plan and not rung.changes_batch:
                self._closed(runner)  # another word for what is there already
                return None
            found = self._raced(Row(rung.name, knobs), loaded, rung, runner)
            row = found.row
        except HotloopError as error:
            where = f" ({error.where})" if error.where else ""
            failed = "" if isinstance(error, TimeOver) else "does not run: "
            row = Row(rung.name, knobs, reason=f"{failed}{error.what}{where}")
            self._late = isinstance(error, TimeOver)
            self.untried += self._late  # more time might have found more
            self.broken = self._lost(error)
        self._tell(row)
        if found is not None and row.kept:
            return found
        for runner in [one for one in self._open if one not in before]:
            self._closed(runner)
        return None

    def _lost(self, error: HotloopError) -> str:
        """Why the climb cannot go on, where it was not the candidate that failed."""
        names = {"baseline": self._base, "best": self.best.runner}
        return next((f"the {name}'s process ended: {error.what}" for name, one in names.items() if not one.alive), "")

    def _tell(self, row: Row) -> None:
        self.rows.append(row)
        self.reporter.note(f"  {line(row, self.first)}")

    def _raced(self, row: Row, loaded: Loaded, rung: Rung, runner: Runner) -> Contender:
        """Time a candidate, and prove it where it is worth it."""
        compiled = runner.warm()
        runners = {"baseline": self._base, "best": self.best.runner, "candidate": runner}
        if self.best.runner is self._base:
            del runners["best"]
        against = "best" if "best" in runners else "baseline"
        timings = race(runners, against, "candidate", bool(self.over))
        base, best, own = timings["baseline"], timings[against], timings["candidate"]
        speed = compare_speed(_each_row(best), _each_row(own))
        row = replace(
            row,
            ms_per_step=1e3 * own.median,
            samples_per_second=own.rows / own.median,
            spread=own.spread,
            peak_memory=runner.peak(),
            device_use=own.use,
            compile_seconds=compiled,
            factor=compare_speed(_each_row(base), _each_row(own)).factor,
            reason=speed.reason,
        )
        if speed.faster:
            extra, saved = self._cost(runner, compiled), _each_step_saves(best, own, base.rows)
            unpaid = self._unpaid(runner, extra, saved)
            row = row.rejected(unpaid) if unpaid else self._judge.proved(row, runner, rung.changes_batch)
            row = replace(row, reason=_praise(speed, extra, saved, runner) + row.reason) if row.kept else row
        return Contender(row, loaded, runner, compiled, speed.factor)

    def _cost(self, runner: Runner, compiled: float) -> float:
        """Seconds before the first step that this one takes and the best so far does not, for all shapes of batches."""
        shapes = runner.facts.shapes if _compiles(runner) else 1
        return max(0.0, compiled - self.best.compiled) * shapes

    def _unpaid(self, runner: Runner, extra: float, saved: float) -> str:
        """Why what comes before the first step does not pay for itself in the run; empty where it does."""
        if self.steps is None or extra <= saved * self.steps:
            return ""
        what = "compiling takes" if _compiles(runner) else "its first step takes"
        return f"{what} {extra:.0f} s more, and {self.steps:,.0f} steps save {saved * self.steps:.0f} s"

    def _proof_steps(self, runner: Runner) -> tuple[int, int]:
        """Steps of baseline and candidate whose losses are compared: as many rows for both."""
        seconds = self.first.ms_per_step / 1e3
        steps = int(60 * self.minutes * _PROOF_SHARE / (SEEDS * seconds))
        steps = max(steps, _CAPTURED if runner.facts.plan.get("capture") else _FEWEST)
        steps = min(_MOST, steps, max(1, self.facts.plan["total_steps"]))
        times = runner.facts.plan["effective_batch"] / self.facts.plan["effective_batch"]
        return steps, max(1, round(steps / times))


def _each_row(timing: Timing) -> list[float]:
    """Seconds a row, so that candidates with another batch compare too."""
    return [seconds / timing.rows for seconds in timing.seconds]


def _each_step_saves(best: Timing, own: Timing, rows: float) -> float:
    """Seconds saved on as many rows as a step of the baseline sees."""
    return (best.median / best.rows - own.median / own.rows) * rows


def _compiles(runner: Runner) -> bool:
    return bool(runner.facts.plan["compile"] != "off")


def _praise(speed: Speed, extra: float, saved: float, runner: Runner) -> str:
    paid = f"; compiling pays after {extra / saved:,.0f} steps" if _compiles(runner) and extra and saved > 0 else ""
    return f"{speed.factor:.2f}x on top (at least {speed.lowest:.2f}x){paid}"
