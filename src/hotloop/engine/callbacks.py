"""The built-in observers: cadence, judging what is best, stopping early, limits, interruption."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

from hotloop.engine.hooks import INTERRUPTED, Ask, Callback, StepInfo
from hotloop.engine.plan import Plan
from hotloop.engine.state import TrainState
from hotloop.errors import HotloopError


class Cadence(Callback):
    """When to log, evaluate and save: every so many steps, and at the end."""

    def __init__(self, plan: Plan, save_with_eval: bool) -> None:
        self._plan, self._save_with_eval = plan, save_with_eval

    def on_step(self, info: StepInfo) -> Ask | None:
        plan, step = self._plan, info.step
        last = step == plan.total_steps
        log = step % plan.log_every == 0 or last
        evaluate = (plan.eval_every > 0 and step % plan.eval_every == 0) or last
        save = (plan.checkpoint_every > 0 and step % plan.checkpoint_every == 0) or last
        if not (log or evaluate or save):
            return None
        return Ask(log=log, evaluate=evaluate, save=save or (evaluate and self._save_with_eval))


class Judge(Callback):
    """Which evaluation is the best, and whether to stop because none has been better for a while.

    Args:
        metric: such as eval_loss.
        mode: min or max.
        min_delta: smallest change that counts as better for `patience`; the best is the best, however close.
        patience: evaluations without a better one before stopping; None never stops.
        save: ask for a checkpoint of the best, so that no cadence can miss it.
    """

    def __init__(
        self, metric: str, mode: str, min_delta: float = 0.0, patience: int | None = None, save: bool = False
    ) -> None:
        self.metric, self._sign, self._delta, self._patience = (
            metric,
            1.0 if mode == "min" else -1.0,
            min_delta,
            patience,
        )
        self._save = save
        self.best, self.best_step, self.waited = math.inf, 0, 0
        self._to_beat = math.inf  # the last value that counted as better

    @property
    def sign(self) -> float:
        return self._sign

    def on_evaluate(self, info: StepInfo, metrics: Mapping[str, float]) -> Ask | None:
        if self.metric not in metrics:
            raise HotloopError(
                f"there is no metric '{self.metric}' to judge by; this evaluation gave {', '.join(metrics)}",
                where="callbacks.early_stopping_metric",
                fix=f"choose one of {', '.join(metrics)}",
            )
        value = self._sign * metrics[self.metric]
        finite = math.isfinite(value)  # a score of inf is no better than NaN
        best, better = finite and value < self.best, finite and value < self._to_beat - self._delta
        if best:
            self.best, self.best_step = value, info.step
        self._to_beat, self.waited = (value, 0) if better else (self._to_beat, self.waited + 1)
        ask = Ask(best=True, save=self._save) if best else None
        if self._patience is not None and self.waited >= self._patience:
            stop = Ask(stop=f"{self.metric} has not been better for {self.waited} evaluations", save=True)
            return stop if ask is None else ask | stop
        return ask

    @property
    def best_value(self) -> float | None:
        """The best value of the metric so far, None before the first."""
        return self._sign * self.best if math.isfinite(self.best) else None

    @property
    def verdict(self) -> dict[str, Any] | None:
        """The best so far as the summary tells it, None before the first."""
        value = self.best_value
        return None if value is None else {"metric": self.metric, "value": value, "step": self.best_step}

    def state_dict(self) -> dict[str, Any]:
        state = {"best": self.best, "best_step": self.best_step, "waited": self.waited}
        return {**state, "to_beat": self._to_beat}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_step, self.waited = state["best"], state["best_step"], state["waited"]
        self._to_beat = state.get("to_beat", self.best)


class StopAt(Callback):
    """Stop as soon as an evaluation reaches a target.

    Args:
        targets: metric -> (value, mode).
    """

    def __init__(self, targets: Mapping[str, tuple[float, str]]) -> None:
        self._targets = dict(targets)

    def on_evaluate(self, info: StepInfo, metrics: Mapping[str, float]) -> Ask | None:
        for metric, (target, mode) in self._targets.items():
            if metric not in metrics:
                raise HotloopError(
                    f"there is no metric '{metric}' to stop at; this evaluation gave {', '.join(metrics)}",
                    where="experiment.stop_at",
                    fix=f"choose one of {', '.join(metrics)}",
                )
            value = metrics[metric]
            if math.isfinite(value) and (value <= target if mode == "min" else value >= target):
                return Ask(stop=f"{metric} {value:.4f} reached {target:g}", save=True)
        return None


class Plateau(Callback):
    """Reduce-on-plateau: scale the rest of the schedule when evaluations stop getting better.

    Args:
        factor: the rate is multiplied by this.
        patience: evaluations without a better one before that.
        floor: lowest rate, as a share of the peak (min_lr / learning_rate).
        min_delta: smallest change that counts as better.
    """

    def __init__(self, factor: float, patience: int, floor: float = 0.0, min_delta: float = 0.0) -> None:
        self._factor, self._patience, self._floor, self._delta = factor, patience, floor, min_delta
        self._best, self._waited, self._scale = math.inf, 0, 1.0

    def on_evaluate(self, info: StepInfo, metrics: Mapping[str, float]) -> Ask | None:
        if metrics["eval_loss"] < self._best - self._delta:
            self._best, self._waited = metrics["eval_loss"], 0
            return None
        self._waited += 1
        if self._waited <= self._patience:
            return None
        self._waited = 0
        before, self._scale = self._scale, max(self._scale * self._factor, min(self._floor, self._scale))
        reached = self._scale > before * self._factor
        return Ask(rate_factor=self._scale / before if reached else self._factor)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited, "scale": self._scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._waited, self._scale = state["best"], state["waited"], state.get("scale", 1.0)


class MaxTime(Callback):
    """Stop after so many seconds of this process's training."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, math.inf

    def on_start(self, state: TrainState) -> None:
        self._end = time.monotonic() + self._seconds

    def on_step(self, info: StepInfo) -> Ask | None:
        if time.monotonic() < self._end:
            return None
        return Ask(stop=f"the time limit of {self._seconds:g} s is over", evaluate=True, save=True)


class Interrupt(Callback):
    """Ctrl-C and SIGTERM finish the step, save and stop; a second Ctrl-C stops at once."""

    REASON = INTERRUPTED

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def on_start(self, state: TrainState) -> None:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)

    def on_step(self, info: StepInfo) -> Ask | None:
        return Ask(save=True, stop=self.REASON) if self._asked else None

    def on_end(self, reason: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
