"""The ladder: one candidate after another on top of what was kept, each timed beside the baseline and proved.

A candidate is kept only if it is faster beyond noise AND computes the same (`tune.verdict` states both tests). The
proof is made where the speed is worth it. Every candidate has a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hotloop.config.load import Loaded
from hotloop.errors import HotloopError
from hotloop.runs.reporter import Reporter
from hotloop.tune.knobs import Rung
from hotloop.tune.lane import LaneFacts
from hotloop.tune.lanes import Runner, Track
from hotloop.tune.proof import Gradients, errors
from hotloop.tune.race import Timing, race
from hotloop.tune.row import Row, baseline_row, line
from hotloop.tune.settings import with_knobs
from hotloop.tune.verdict import Error, Speed, compare_losses, compare_speed, gradient_fault

SEEDS = 4
_PROOF_SHARE = 0.05  # of the time given, for the losses of one candidate
_FEWEST, _MOST = 6, 40  # steps of them
_SHARE, _SHORTEST = 0.3, 40.0  # of the time given that one candidate may take, and seconds that each may
_NONE = Error(0.0, {}, 0.0, 0.0)


@dataclass
class Ladder:
    """A climb from a baseline.

    Args:
        track: where lanes are opened.
        baseline: the configuration to climb from.
        reporter: told of each rung.
        minutes: after which no new candidate is begun.
        steps: of the run that is meant; compilation must pay for itself within them. None counts speed alone.
    """

    track: Track
    baseline: Loaded
    reporter: Reporter
    minutes: float
    steps: int | None = None
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._started, self._losses = time.monotonic(), dict[int, list[float]]()
        self._own: dict[str, Error] = {}
        self._reference: Gradients = []
        self.best = self.baseline
        self.best_row: Row | None = None
        self._base = self._champion = self.track.open(self.baseline)
        self.facts = self._base.facts
        try:
            self._base.warm()
            self.first = baseline_row(self._base)
        except BaseException:
            self.close()
            raise
        self.reporter.note(f"  {line(self.first, self.first)}")

    def close(self) -> None:
        """End all lanes."""
        self._base.close()
        self._champion.close()

    @property
    def champion_facts(self) -> LaneFacts:
        """Of the best lane so far."""
        return self._champion.facts

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() - self._started > 60 * self.minutes

    def climb(self, groups: Sequence[Sequence[Rung]]) -> None:
        """Try each group of alternatives in turn and go on from the best of it that holds."""
        for group in groups:
            best: tuple[float, Row, Loaded, Runner] | None = None
            for rung in group:
                knobs = {**(self.best_row.knobs if self.best_row else {}), **rung.knobs}
                if self.is_over:
                    self._tell(Row(rung.name, knobs, reason=f"not tried: the {self.minutes:g} minutes were over"))
                    continue
                best = self._better(best, rung, knobs)
            if best is not None:
                _, self.best_row, self.best, runner = best
                self._replace_champion(runner)

    def _better(
        self, best: tuple[float, Row, Loaded, Runner] | None, rung: Rung, knobs: dict[str, Any]
    ) -> tuple[float, Row, Loaded, Runner] | None:
        """Try a rung; the better one of it and `best` stays open, the other one is closed."""
        loaded = with_knobs(self.best, rung.knobs)
        if loaded.config == self.best.config:
            return best
        runner: Runner | None = None
        try:
            runner = self.track.open(loaded, max(_SHORTEST, _SHARE * 60 * self.minutes))
            if runner.facts.plan == self._champion.facts.plan:  # another word for what is there already
                runner.close()
                return best
            gain, row = self._tried(rung, knobs, runner)
        except HotloopError as error:
            gain, row = (
                0.0,
                Row(rung.name, knobs, reason=f"does not run: {error.what}{f' ({error.where})' if error.where else ''}"),
            )
        self._tell(row)
        if runner is None or not row.kept or (best is not None and gain <= best[0]):
            if runner is not None:
                runner.close()
            return best
        if best is not None:
            best[3].close()
        runner.stay()
        return gain, row, loaded, runner

    def _replace_champion(self, runner: Runner) -> None:
        if self._champion is not self._base:
            self._champion.close()
        self._champion = runner

    def _tell(self, row: Row) -> None:
        self.rows.append(row)
        self.reporter.note(f"  {line(row, self.first)}")

    def _tried(self, rung: Rung, knobs: dict[str, Any], runner: Runner) -> tuple[float, Row]:
        """Time a candidate, and prove it where it is worth it."""
        compiled = runner.warm()
        runners = {"baseline": self._base, "best": self._champion, "candidate": runner}
        if self._champion is self._base:
            del runners["best"]
        against = "best" if "best" in runners else "baseline"
        timings = race(runners, against, "candidate", self.is_over)
        base, best, own = timings["baseline"], timings[against], timings["candidate"]
        speed = compare_speed(_each_row(best), _each_row(own))
        factor = compare_speed(_each_row(base), _each_row(own)).factor
        row = Row(
            rung.name,
            knobs,
            1e3 * own.median,
            own.rows / own.median,
            own.spread,
            runner.peak(),
            compiled,
            factor=factor,
            reason=speed.reason,
        )
        if not speed.faster:
            return speed.factor, row
        if why := self._unpaid(compiled, best, own):
            return speed.factor, row.rejected(why)
        return speed.factor, self._proved(row, speed, rung, runner)

    def _unpaid(self, compiled: float, best: Timing, own: Timing) -> str:
        """Why compilation does not pay for itself in the run that is meant; empty where it does."""
        saved = best.median - own.median
        if self.steps is None or compiled < saved * self.steps:
            return ""
        return f"compiling takes {compiled:.0f} s, and {self.steps:,} steps save {saved * self.steps:.0f} s"

    def _proved(self, row: Row, speed: Speed, rung: Rung, runner: Runner) -> Row:
        """The row with what the proof says."""
        fault = "" if rung.changes_batch else self._gradient_fault(runner)
        if fault:
            return row.rejected(fault, verdict="different gradients")
        steps = self._proof_steps(rung.changes_batch, runner)
        own = runner.losses(list(range(1, SEEDS + 1)), steps[1])
        loss = compare_losses(self._baseline_losses(steps[0]), own)
        row = row.measured(loss.difference, "same" if loss.same else "different loss")
        if not loss.same:
            return row.rejected(f"the loss differs by {loss.difference:+.2g}, allowed are {loss.bound:.2g}")
        paid = f"; compiling pays after {row.compile_seconds / _saved(row, speed):,.0f} steps" if _compiles(row) else ""
        return row.accepted(f"{speed.factor:.2f}x on top (at least {speed.lowest:.2f}x){paid}")

    def _proof_steps(self, changes_batch: bool, runner: Runner) -> tuple[int, int]:
        """Steps of baseline and candidate whose losses are compared: as many rows for both."""
        seconds = self.first.ms_per_step / 1e3
        steps = int(60 * self.minutes * _PROOF_SHARE / (SEEDS * seconds))
        steps = min(_MOST, max(_FEWEST, steps), max(1, self.facts.plan["total_steps"]))
        if not changes_batch:
            return steps, steps
        times = runner.facts.plan["effective_batch"] / self.facts.plan["effective_batch"]
        return steps, max(1, round(steps / times))

    def _baseline_losses(self, steps: int) -> list[float]:
        if steps not in self._losses:
            self._losses[steps] = self._base.losses(list(range(1, SEEDS + 1)), steps)
        return self._losses[steps]

    def _gradient_fault(self, runner: Runner) -> str:
        """What is wrong with the gradients; empty where nothing is."""
        self._reference = self._reference or self._base.gradients("fp32")
        precision = runner.facts.plan["precision"]
        if precision not in self._own:
            own = _NONE if precision == "fp32" else errors(self._base.gradients(precision), self._reference)
            self._own[precision] = own
        return gradient_fault(errors(runner.gradients(), self._reference), self._own[precision])


def _each_row(timing: Timing) -> list[float]:
    """Seconds a row, so that candidates with another batch compare too."""
    return [seconds / timing.rows for seconds in timing.seconds]


def _compiles(row: Row) -> bool:
    return row.knobs.get("training.compile", "off") != "off" and bool(row.compile_seconds)


def _saved(row: Row, speed: Speed) -> float:
    """Seconds that a step saves."""
    return max(1e-9, row.ms_per_step / 1e3 * (speed.factor - 1))
