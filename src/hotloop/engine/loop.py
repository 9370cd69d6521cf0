"""The loop: `steps` trains and yields, `fit` drains it and does what the callbacks ask.

After a step the order is fixed, so that a resumed run writes what an undisturbed one would: look at the device once,
stop if a value was not finite, log, evaluate, save, stop. Between log points the host never waits for the device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from hotloop import memory
from hotloop.engine import pressure
from hotloop.engine.hooks import INTERRUPTED, Ask, Hooks, Record, StepInfo
from hotloop.engine.recompiles import Recompiles
from hotloop.engine.recover import transact
from hotloop.engine.reduce import rows_of
from hotloop.engine.state import Readout, TrainState
from hotloop.errors import CheckStopped, NoMemory, first_line
from hotloop.task import Batch


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        status: completed, stopped (by a callback), interrupted, or failed (non-finite values).
        reason: one sentence, empty where the run went to its end.
        metrics: of the last evaluation.
        seconds: of compile (the first step, where compiled), train and eval.
    """

    status: str = "completed"
    reason: str = ""
    train_loss: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)
    evaluated_at: int = 0  # step of the last evaluation
    due: bool = False  # an evaluation after the last step was begun and came to no end
    no_memory: NoMemory | None = None  # what ended it for want of memory
    recompiles: int = 0  # how often code was compiled anew after the first step
    seconds: dict[str, float] = field(default_factory=lambda: {"compile": 0.0, "train": 0.0, "eval": 0.0})


def steps(state: TrainState, feed: Iterator[Batch]) -> Iterator[StepInfo]:
    """Train step by step until the plan's end, and yield after each; the caller may stop at any point.

    Args:
        state: where to go on from.
        feed: effective batches from `state.step` on.
    """
    plan = state.plan
    while state.step < plan.total_steps:
        batch = next(feed)
        loss, norm = transact(state, batch)
        state.step += 1
        yield StepInfo(state.step, state.step / plan.steps_per_epoch, loss, norm, rows_of(batch), state)


def watched(state: TrainState, feed: Iterator[Batch]) -> Iterator[StepInfo]:
    """`steps` for a loop that does not look itself: at every log point and at the end, stop at values not finite.

    Raises:
        CheckStopped: with the step whose values were not finite; the weights are those of the step before.
    """
    try:
        yield from _looked_at(state, feed)
    finally:
        state.guard.close()  # also where the loop is left early: a GPU's allocator is free again


def _looked_at(state: TrainState, feed: Iterator[Batch]) -> Iterator[StepInfo]:
    stall, plan = _Stall(state), state.plan
    for info in steps(state, feed):
        if info.step % plan.log_every == 0 or info.step == plan.total_steps:
            readout = state.read(reset=False)
            if fault := stall.fault(info.step, readout, info.step == plan.total_steps):
                state.step = readout.held_at - 1 if readout.held_at else state.step
                raise CheckStopped(
                    fault,
                    where=f"step {readout.held_at or info.step}",
                    fix="the weights are those of the last good step; try a lower learning rate or a longer warmup",
                )
        yield info


class _Stall:
    """Tells whether training came to nothing: a value that was not finite, or no update for a long time."""

    PATIENCE = 50  # steps

    def __init__(self, state: TrainState) -> None:
        self._applied, self._since = state.counted, state.step

    def fault(self, step: int, readout: Readout, ends: bool) -> str:
        """What is wrong at this look, empty if nothing; `ends` where no further step will follow."""
        if readout.held_at:
            return f"loss or gradient not finite at step {readout.held_at}"
        if readout.applied > self._applied:
            self._applied, self._since = readout.applied, step
        idle = step - self._since
        if idle >= self.PATIENCE or (ends and readout.applied == 0 and idle > 0):
            return f"loss or gradient not finite in {idle} steps on end (up to step {step}), so no update was made"
        return ""


def fit(
    state: TrainState,
    feed: Iterator[Batch],
    hooks: Hooks,
    evaluation: Callable[[], dict[str, float]] | None,
    save: Callable[[Outcome], None],
    outcome: Outcome | None = None,
) -> Outcome:
    """Train to the end, or to where a callback or a fault stops it.

    Args:
        state: where to go on from.
        feed: effective batches from `state.step` on.
        hooks: the callbacks.
        evaluation: gives eval_... metrics; None where there is nothing to validate on.
        save: writes a checkpoint of the state as it is.
        outcome: of the part before, for a run that goes on: the last loss and metrics known.
    """
    outcome, watch = outcome or Outcome(), _Watch(state)
    run, state.tell = _Acts(outcome, watch, hooks, evaluation, save), partial(hooks.tell, "on_note")
    try:
        run.begin(state)
        for info in watch.timing_compilation(iter(()) if outcome.reason else steps(state, feed), outcome):
            ask = hooks.ask("on_step", info)
            watch.rows += info.rows
            if state.step % state.plan.steps_per_epoch == 0:
                ask = ask | hooks.ask("on_epoch_end", info)
            if ask.log or ask.evaluate or ask.save or ask.stop:
                run.act(ask, info)
            if outcome.reason:
                break
    except Exception as error:
        if not memory.is_out_of_memory(error):
            raise
        outcome.no_memory = error if isinstance(error, NoMemory) else _beside(state, error)
        outcome.status, outcome.reason = "interrupted", outcome.no_memory.what
    finally:
        outcome.seconds["train"] = watch.ended()
        run.end(state.step)
    return outcome


def _beside(state: TrainState, error: Exception) -> NoMemory:
    """Memory that ran out beside the steps: while a batch was fetched, in an evaluation, or in a callback."""
    said = first_line(error)
    return NoMemory(f"out of memory after step {state.step} ({said})", intact=not state.updating)


@dataclass(frozen=True)
class _Acts:
    """What the loop does between steps, on behalf of the callbacks."""

    outcome: Outcome
    watch: _Watch
    hooks: Hooks
    evaluation: Callable[[], dict[str, float]] | None
    save: Callable[[Outcome], None]

    def begin(self, state: TrainState) -> None:
        """Tell of the start, and make the evaluation that the part before began at its end and had no memory for."""
        self.hooks.tell("on_start", state)
        if self.outcome.due:
            self.watch.pause()
            epoch = state.step / state.plan.steps_per_epoch
            info = StepInfo(state.step, epoch, state.loss_sum, state.grad_norm, 0, state)
            self._settle(Ask(evaluate=True, save=True), info)

    def act(self, ask: Ask, info: StepInfo) -> None:
        """Do what was asked after a step, in the fixed order."""
        outcome, hooks, watch = self.outcome, self.hooks, self.watch
        log = ask.log or ask.evaluate  # an evaluation is read beside the training loss of the same step
        readout = info.state.read(reset=log)
        watch.pause()
        ends = ask.stop not in ("", INTERRUPTED) or info.step == info.state.plan.total_steps
        if fault := watch.stall.fault(info.step, readout, ends):
            outcome.status, outcome.reason = "failed", fault
            if readout.held_at:
                info.state.step = readout.held_at - 1  # the weights are those of the step before
            return
        if log:
            outcome.train_loss = readout.train_loss
            record, warnings = watch.record(info, readout)
            again = self.tell_recompiles(info.step)
            hooks.tell("on_record", {**record, "recompiles": outcome.recompiles} if again else record)
            for warning in warnings:
                hooks.tell("on_note", f"step {info.step}: {warning}", "warning")
        self._settle(ask, info)

    def end(self, step: int) -> None:
        """Tell of the end, and of what was compiled anew since the last log point."""
        self.tell_recompiles(step)
        self.hooks.tell("on_end", self.outcome.reason)

    def tell_recompiles(self, step: int) -> int:
        """Count what was compiled anew since the last look, and say why."""
        found = self.watch.recompiles.look()
        for line in found:
            self.hooks.tell("on_note", f"by step {step}: {line}", "info")
        self.outcome.recompiles += len(found)
        return len(found)

    def _settle(self, ask: Ask, info: StepInfo) -> None:
        """What comes after the log point: evaluate, change the rate, stop, save."""
        outcome = self.outcome
        if ask.evaluate and self.evaluation is not None:
            outcome.due = True
            ask = ask | self._evaluate(info, self.evaluation)
            outcome.due = False
        if ask.rate_factor != 1.0:
            info.state.scale_rates(ask.rate_factor)
        if ask.stop:
            outcome.status = "interrupted" if ask.stop == INTERRUPTED else "stopped"
            outcome.reason = ask.stop
        if ask.save:
            outcome.seconds["train"] = self.watch.spent
            self.save(outcome)
            self.hooks.tell("on_save", info.step)
        self.watch.resume()

    def _evaluate(self, info: StepInfo, evaluation: Callable[[], dict[str, float]]) -> Ask:
        outcome, started = self.outcome, time.perf_counter()
        outcome.metrics, outcome.evaluated_at = evaluation(), info.step
        spent = time.perf_counter() - started
        outcome.seconds["eval"] += spent
        ask = self.hooks.ask("on_evaluate", info, outcome.metrics)
        record: Record = {"step": info.step, "epoch": round(info.epoch, 6), **outcome.metrics, "eval_seconds": spent}
        self.hooks.tell("on_record", {**record, "best": True} if ask.best else record)
        return ask


class _Watch:
    """Times training without evaluation and saving, and words the training records."""

    def __init__(self, state: TrainState) -> None:
        self._compiled, self._memory, self._recorded = state.plan.compile != "off", pressure.Watch(), state.step
        self.recompiles = Recompiles() if self._compiled else Recompiles(list)
        self._guard = state.guard
        self._guard.start()
        self.spent = 0.0  # seconds of training so far
        self._since_record = 0.0
        self.rows, self.stall = 0, _Stall(state)
        self._running_since = time.perf_counter()

    def timing_compilation(self, stepping: Iterator[StepInfo], outcome: Outcome) -> Iterator[StepInfo]:
        """The same steps; the first one, where compiled, is counted as compilation and not as training."""
        if self._compiled and (first := next(stepping, None)) is not None:
            outcome.seconds["compile"] = time.perf_counter() - self._running_since
            self.recompiles.begin()
            self.resume()
            yield first
        yield from stepping

    def record(self, info: StepInfo, readout: Readout) -> tuple[Record, list[str]]:
        """The record of this log point, and warnings of memory."""
        speed = self.rows / self._since_record if self._since_record else 0.0
        sample = pressure.take(info.state, self._since_record / max(1, info.step - self._recorded))
        self.rows, self._since_record, self._recorded = 0, 0.0, info.step
        record = {
            "step": info.step,
            "epoch": round(info.epoch, 6),
            "train_loss": readout.train_loss,
            "learning_rate": info.state.rate_at(readout.applied),
            "grad_norm": readout.grad_norm,
            **({"skipped_updates": readout.skipped} if readout.skipped else {}),
            "samples_per_second": speed,
            **pressure.figures(info.state, sample),
            "seconds": self.spent,
        }
        return record, self._memory.look(sample)

    def pause(self) -> None:
        """Something other than training begins; the device has been waited for."""
        now = time.perf_counter()
        self.spent += now - self._running_since
        self._since_record += now - self._running_since
        self._running_since = now

    def resume(self) -> None:
        """Training goes on after something else."""
        self._running_since = time.perf_counter()

    def ended(self) -> float:
        """Training is over: no more is watched. Returns its seconds."""
        self.pause()
        self._guard.close()
        return self.spent
