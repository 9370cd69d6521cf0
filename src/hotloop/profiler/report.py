"""A profile as figures and in words. Seconds, FLOP/s and bytes/s inside; milliseconds and G in what a person reads.

A share of a ceiling that is above 1.1 is never told as a fact: the ceiling cannot have been one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hotloop.ceilings import Ceilings
from hotloop.engine.plan import Plan
from hotloop.profiler.marks import PHASES
from hotloop.profiler.operators import Seen
from hotloop.profiler.verdict import TOO_HIGH, Verdict
from hotloop.profiler.work import Work

PHASE_COLUMNS = ("phase", ">ms a step", ">share")
OPERATOR_COLUMNS = ("operator", ">share of operators", ">calls a step")
TOO_LOW = "ceiling too low: measure again with --measure-again"
_CHEAP = 0.01  # share of a step that marks may cost


@dataclass(frozen=True)
class Timing:
    """How long steps took; seconds.

    Args:
        steps: with marks; as many were timed without.
        rows: of a step, the mean: an epoch's last batch may be shorter.
        seconds: a step with marks, the mean; `lowest` and `highest` of the means of blocks.
        plain: a step without marks, the mean of blocks in turn with the others.
        phases: of a step, by name; they add up to `seconds`.
        marks: taken in a step; `mark`: seconds that one takes.
        first: the first step, which compiles and sets up; part of none of the others.
        evaluation: a validation, from one batch of it; part of no step; None without one.
    """

    steps: int
    rows: float
    seconds: float
    lowest: float
    highest: float
    plain: float
    phases: dict[str, float]
    marks: float
    mark: float
    first: float
    evaluation: float | None

    @property
    def cost(self) -> float:
        """Share of a step that the marks take."""
        return self.marks * self.mark / self.seconds


@dataclass(frozen=True)
class Profile:
    """Where a step's time goes.

    Args:
        task: its name.
        plan: of the run.
        timing, work, ceilings, seen: what was measured.
        matrix: FLOPs over the time of forward and backward, as a share of the ceiling of the plan's precision; None
            where there is no such ceiling, or no product.
        memory: bytes that operations read and write over the time of a step, as a share of memory's ceiling.
        busy: share of a step in which the GPU ran kernels; None on a CPU.
        verdict: what the step is bound by.
        remarks: on the machine while it was measured.
    """

    task: str
    plan: Plan
    timing: Timing
    work: Work
    ceilings: Ceilings
    seen: Seen
    matrix: float | None
    memory: float
    busy: float | None
    verdict: Verdict
    remarks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The task's name; of a class in a file, the file's."""
        return Path(self.task.partition(".py")[0]).name

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; times in milliseconds."""
        timing, whole = self.timing, sum(self.timing.phases.values())
        ms = {name: value * 1000 for name, value in timing.phases.items()}
        return {
            "task": self.task,
            "device": self.plan.device,
            "precision": self.plan.precision,
            "compile": self.plan.compile,
            "threads": self.plan.threads,
            "effective_batch": self.plan.effective_batch,
            "steps": timing.steps,
            "ms_per_step": timing.seconds * 1000,
            "spread": [timing.lowest * 1000, timing.highest * 1000],
            "samples_per_second": timing.rows / timing.seconds,
            "phases": {name: {"ms": ms[name], "share": timing.phases[name] / whole} for name in PHASES},
            "marks": {"ms_per_step_without": timing.plain * 1000, "cost": timing.cost},
            "first_step_ms": timing.first * 1000,
            "evaluation_ms": None if timing.evaluation is None else timing.evaluation * 1000,
            "work": asdict(self.work),
            "ceilings": asdict(self.ceilings),
            "share_of_matrix_ceiling": _credible(self.matrix),
            "share_of_bandwidth_ceiling": _credible(self.memory),
            "gpu_busy": self.busy,
            "operators": [asdict(operator) for operator in self.seen.operators],
            "products": self.seen.products,
            "verdict": self.verdict.to_dict(),
            "notes": self.notes(),
        }

    def head(self) -> str:
        """What was measured, in a line."""
        plan, timing = self.plan, self.timing
        return (
            f"{self.name}: {timing.steps} steps of {plan.effective_batch} rows on {self.ceilings.device} "
            f"({plan.device}, {plan.precision}, compile {plan.compile}, {plan.threads} threads)"
        )

    def phase_rows(self) -> list[list[str]]:
        """Rows of `PHASE_COLUMNS`."""
        whole = sum(self.timing.phases.values())
        rows = [[n, f"{self.timing.phases[n] * 1000:.3f}", f"{self.timing.phases[n] / whole:.1%}"] for n in PHASES]
        return [*rows, ["step", f"{self.timing.seconds * 1000:.3f}", "100.0%"]]

    def operator_rows(self) -> list[list[str]]:
        """Rows of `OPERATOR_COLUMNS`."""
        return [[each.name, f"{each.share:.1%}", f"{each.calls:,.0f}"] for each in self.seen.operators]

    def lines(self) -> list[str]:
        """What stands beside the tables."""
        timing, plan = self.timing, self.plan
        found = [
            f"step           {_ms(timing.seconds)} ({_ms(timing.lowest)} to {_ms(timing.highest)} in blocks), "
            f"{timing.rows / timing.seconds:,.0f} samples/s",
            f"apart          first step {_seconds(timing.first)}{_compiling(plan)}, {_validation(timing)}",
            f"products       {self._products()}",
            f"memory         {self._memory()}",
        ]
        if self.busy is not None:
            found.append(f"GPU            runs kernels for {self.busy:.0%} of the step")
        return [*found, *(f"note           {note}" for note in self.notes())]

    def _products(self) -> str:
        done = f"{self.work.flops / 1e9:,.2f} GFLOP a step"
        ceiling = self.ceilings.matrix.get(self.plan.precision)
        if self.matrix is None or ceiling is None:
            return f"{done}; there is no ceiling to set it beside"
        told = f"{done}, forward and backward: "
        if self.matrix > TOO_HIGH:
            return told + TOO_LOW
        speed = self.matrix * ceiling / 1e9
        return f"{told}{speed:,.1f} of {ceiling / 1e9:,.0f} GFLOP/s in {self.plan.precision}, {self.matrix:.0%}"

    def _memory(self) -> str:
        done = f"operations read and write {self.work.bytes / 1e9:,.3f} GB a step: "
        if self.memory > TOO_HIGH:
            return done + "more than memory could give, so caches serve much of it"
        ceiling = self.ceilings.bandwidth
        return f"{done}{self.memory * ceiling / 1e9:,.1f} of {ceiling / 1e9:,.1f} GB/s, at most {self.memory:.0%}"

    def notes(self) -> list[str]:
        """What a reader must know to trust the figures."""
        timing, found = self.timing, list(self.remarks)
        if timing.cost > _CHEAP:
            found.append(f"steps are so short that the marks take {timing.cost:.1%} of them")
        if self.matrix is not None and self.matrix > TOO_HIGH:
            found.append(f"products: {TOO_LOW}")
        if self.work.uncounted:
            found.append(f"FLOPs of {', '.join(self.work.uncounted)} are not counted")
        return found

    def marks_line(self) -> str:
        """What the measurement itself cost."""
        timing = self.timing
        return (
            f"marks          {timing.marks:.0f} a step of {timing.mark * 1e6:.1f} us, {timing.cost:.2%} of it; without "
            f"them a step took {_ms(timing.plain)}, measured in turn"
        )


def _credible(share: float | None) -> float | None:
    """A share of a ceiling, unless it says that the ceiling was none."""
    return None if share is None or share > TOO_HIGH else share


def _compiling(plan: Plan) -> str:
    return "" if plan.compile == "off" else " (it compiles)"


def _validation(timing: Timing) -> str:
    return "no validation" if timing.evaluation is None else f"a validation about {_seconds(timing.evaluation)}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:,.0f} s"
