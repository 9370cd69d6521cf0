"""Whether a candidate computes what the baseline does: gradients against float32, losses against reseeded baselines.

What the baseline computes is asked for once and kept.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hotloop.tune.lanes import Runner
from hotloop.tune.proof import Gradients, draws_at_random, errors
from hotloop.tune.row import Row
from hotloop.tune.verdict import Error, compare_losses, gradient_fault

SEEDS = 4
_NONE = Error(0.0, {}, 0.0, 0.0)
_RANDOM = "; gradients not compared: the loss draws random numbers that no layer of the model can be told to leave"


@contextlib.contextmanager
def _at_its_own_cost(runner: Runner) -> Iterator[None]:
    """What the baseline is asked for, once for all candidates, is not taken off this one's time."""
    began = time.monotonic()
    yield
    runner.allow(time.monotonic() - began)


@dataclass
class Judge:
    """Proves candidates against one baseline.

    Args:
        base: the baseline's lane.
        steps: of the losses that are compared, for a candidate.
    """

    base: Runner
    steps: Callable[[Runner], tuple[int, int]]
    _losses: dict[int, list[float]] = field(default_factory=dict)
    _own: dict[str, Error] = field(default_factory=dict)
    _reference: Gradients = field(default_factory=list)

    def _prepare(self, precision: str) -> None:
        """Ask the baseline for its gradients, in float32 and in this precision."""
        self._reference = self._reference or self.base.gradients("fp32")
        if precision not in self._own:
            own = _NONE if precision == "fp32" else errors(self.base.gradients(precision), self._reference)
            self._own[precision] = own

    def proved(self, row: Row, runner: Runner, changes_batch: bool) -> Row:
        """The row with what the proof says; kept where nothing speaks against it."""
        said = ""
        if not changes_batch:
            with _at_its_own_cost(runner):
                self._prepare(str(runner.facts.plan["precision"]))
            if draws_at_random(self._reference):
                said = _RANDOM
            elif fault := self._gradient_fault(runner):
                return row.rejected(fault, verdict="different gradients")
        ours, theirs = self.steps(runner)
        seeds = list(range(1, SEEDS + 1))
        if ours not in self._losses:
            with _at_its_own_cost(runner):
                self._losses[ours] = self.base.losses(seeds, ours)
        loss = compare_losses(self._losses[ours], runner.losses(seeds, theirs))
        row = row.measured(loss.difference, "same" if loss.same else "different loss")
        if not loss.same:
            return row.rejected(f"the loss differs by {loss.difference:+.2g}, allowed are {loss.bound:.2g}")
        return row.accepted(said)

    def _gradient_fault(self, runner: Runner) -> str:
        """What is wrong with the gradients; empty where nothing is."""
        own = self._own[str(runner.facts.plan["precision"])]
        return gradient_fault(errors(runner.gradients(), self._reference), own)
