"""The measurement: steps of a session that was put together, timed with marks and without, in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch

from hotloop.assemble import Session
from hotloop.ceilings import DISTURBING, Ceilings, Others
from hotloop.data.source import first_rows
from hotloop.engine import measure as evaluation
from hotloop.engine.recover import transact
from hotloop.engine.reduce import rows_of
from hotloop.profiler.marks import COPY, DATA, GAP, Marks, marked
from hotloop.profiler.operators import Seen, look
from hotloop.profiler.report import Profile, Timing
from hotloop.profiler.verdict import TOO_HIGH, Facts, judge
from hotloop.profiler.work import Work, count_work
from hotloop.task import Batch

_WARM, _WARM_MOST, _WARM_SECONDS = 3, 12, 2.0
_FEWEST, _MOST, _SECONDS = 5, 200, 5.0  # of marked steps, where nothing is said; as many without marks come on top
_ROUNDS = 5
_LOOKED_AT, _LOOK_SECONDS = 5, 1.0  # steps under torch's profiler


def profile(session: Session, ceilings: Ceilings, *, steps: int | None = None, trace: Path | None = None) -> Profile:
    """Measure where a step's time goes.

    Args:
        session: put together as training would; used up by it.
        ceilings: of the session's device.
        steps: to be marked; as many as about five seconds allow if nothing is said.
        trace: where torch's trace goes, if one is wanted.
    """
    whole = _taken_apart(session)
    stepping = _Stepping(session)
    first = stepping.timed(1)
    warm = stepping.warm()
    others = Others()
    timing = _timed(stepping, steps or max(_FEWEST, min(_MOST, int(_SECONDS / warm))), first)
    remarks = (*whole, *_disturbances(others.took(), ceilings))
    few = max(1, min(_LOOKED_AT, int(_LOOK_SECONDS / timing.plain)))
    seen = look(session.plan.torch_device, stepping.timed, few, trace)
    work = count_work(session, stepping.feed)
    return _concluded(session, ceilings, timing, work, seen, remarks)


def _taken_apart(session: Session) -> tuple[str, ...]:
    """A captured step is replayed as one piece, in which no phase can be told from another."""
    if session.state.captured is None:
        return ()
    session.state.captured = None
    return ("training.capture is left out here, as a replayed step has no phases: training is faster than this",)


class _Stepping:
    """Takes steps of the run, the same that training takes."""

    def __init__(self, session: Session) -> None:
        self.session, self.device = session, session.plan.torch_device
        self.marks = Marks(self.device)
        self.steps = self.rows = 0  # taken so far
        self.feed: Iterator[Batch] = session.feed(self.marks.watch)
        self._first_phase = DATA if session.plan.resident else COPY  # until the feed asks for a batch of the host

    def timed(self, count: int) -> float:
        """Seconds of that many steps, until the device is done with them."""
        state, marks = self.session.state, self.marks
        self._wait()
        started = time.perf_counter()
        for number in range(count):
            if number % state.plan.total_steps == 0:
                state.applied.zero_()  # the table of learning rates has an end
            marks(self._first_phase)
            batch = next(self.feed)
            marks(GAP)
            transact(state, batch)
            state.step += 1
            self.rows += rows_of(batch)
        marks(GAP)
        self._wait()
        self.steps += count
        return time.perf_counter() - started

    def marked(self, count: int) -> tuple[float, dict[str, float], int]:
        """The same with marks: seconds, those of each phase, and the number of marks."""
        self.marks.taken.clear()
        with marked(self.session.state, self.marks):
            self.marks.on = True
            try:
                seconds = self.timed(count)
            finally:
                self.marks.on = False
        return seconds, self.marks.seconds(), len(self.marks.taken)

    def warm(self) -> float:
        """Steps that are not counted; seconds of the quickest of them."""
        began, seen = time.perf_counter(), list[float]()
        while len(seen) < _WARM or (len(seen) < _WARM_MOST and time.perf_counter() - began < _WARM_SECONDS):
            seen.append(self.timed(1))
        return min(seen)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _timed(stepping: _Stepping, steps: int, first: float) -> Timing:
    """Blocks of steps with marks and without, in turn, each kind first as often as the other."""
    rounds = min(_ROUNDS, steps)
    sizes = [steps // rounds + (number < steps % rounds) for number in range(rounds)]
    phases: dict[str, float] = {}
    wall, plain, marks = list[float](), list[float](), 0
    for number, size in enumerate(sizes):
        if number % 2:
            plain.append(stepping.timed(size))
        seconds, found, taken = stepping.marked(size)
        wall.append(seconds)
        marks += taken
        phases = {name: phases.get(name, 0.0) + value for name, value in found.items()}
        if not number % 2:
            plain.append(stepping.timed(size))
    means = [seconds / size for seconds, size in zip(wall, sizes, strict=True)]
    return Timing(
        steps=steps,
        rows=stepping.rows / stepping.steps,
        seconds=sum(wall) / steps,
        lowest=min(means),
        highest=max(means),
        plain=sum(plain) / steps,
        phases={name: value / steps for name, value in phases.items()},
        marks=marks / steps,
        mark=stepping.marks.cost(),
        first=first,
        evaluation=_evaluation(stepping.session),
    )


def _evaluation(session: Session) -> float | None:
    """About how long a validation takes, from one batch of it; None where there is nothing to validate on."""
    val, plan = session.splits.val, session.plan
    if val is None:
        return None
    rows = min(plan.eval_batch, len(val))
    few, seconds = first_rows(val, rows), 0.0
    if plan.resident and few.nbytes is not None:
        few = few.to(plan.torch_device)  # the rows' numbers too
    for _ in range(2):  # the first one pays for what is set up once
        started = time.perf_counter()
        evaluation.evaluate(session.task, session.state.model, few, plan)
        seconds = time.perf_counter() - started
    return seconds * len(val) / rows


def _disturbances(others: float, ceilings: Ceilings) -> tuple[str, ...]:
    """What other programs may have done to the figures."""
    found = []
    if others >= DISTURBING:
        found.append(f"other programs took {others:.1f} processors meanwhile: a quiet machine is faster")
    if ceilings.disturbed:
        found.append("the ceilings were measured beside other programs, so they may be too low and shares too high")
    return tuple(found)


def _concluded(
    session: Session, ceilings: Ceilings, timing: Timing, work: Work, seen: Seen, remarks: tuple[str, ...]
) -> Profile:
    """Shares of the ceilings, and the verdict."""
    plan, phases = session.plan, timing.phases
    computing = phases["forward"] + phases["backward"]
    ceiling = ceilings.matrix.get(plan.precision)
    matrix = work.flops / computing / ceiling if ceiling and work.flops else None
    fastest = max(ceilings.matrix, key=lambda name: ceilings.matrix[name])
    factor = ceilings.matrix[fastest] / ceiling if ceiling else 1.0
    on_gpu, eager = plan.torch_device.type == "cuda", plan.compile == "off"
    facts = Facts(
        phases=phases,
        matrix=None if matrix is None or matrix > TOO_HIGH else matrix,
        products=seen.products,
        calling=work.operations * ceilings.operation / timing.lowest if eager and not on_gpu else None,
        busy=None if seen.kernels is None else min(1.0, seen.kernels / timing.seconds),
        on_gpu=on_gpu,
        precision=plan.precision,
        faster=(fastest, factor),
        compiled=not eager,
        recomputes=bool(plan.recompute),
        resident=plan.resident,
        can_be_resident=session.splits.train.nbytes is not None,
        workers=plan.num_workers,
        pinned=plan.pin_memory,
    )
    memory = work.bytes / timing.seconds / ceilings.bandwidth
    return Profile(
        session.config.task, plan, timing, work, ceilings, seen, matrix, memory, facts.busy, judge(facts), remarks
    )
