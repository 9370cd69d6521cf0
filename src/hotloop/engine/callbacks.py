"""The hooks of a run, and the built-in observers: cadence, judging what is best, stopping early, limits.

A callback observes and asks (`Ask`); only the loop acts. It never touches gradients, optimizer or batch. Its state, if
it has any, is in the checkpoint. Steps are optimizer steps, counted from 1.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor

from hotloop.engine.plan import Plan
from hotloop.engine.state import TrainState
from hotloop.errors import HotloopError

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a callback wants done after a step; several are joined."""

    log: bool = False
    evaluate: bool = False
    save: bool = False
    best: bool = False
    stop: str = ""
    rate_factor: float = 1.0

    def __or__(self, other: Ask) -> Ask:
        return Ask(
            self.log or other.log,
            self.evaluate or other.evaluate,
            self.save or other.save,
            self.best or other.best,
            self.stop or other.stop,
            self.rate_factor * other.rate_factor,
        )


NOTHING = Ask()


@dataclass(frozen=True, slots=True)
class StepInfo:
    """One optimizer step as an observer sees it.

    Attributes:
        step: optimizer steps done, this one included.
        epoch: passes over the training part, with its fraction.
        loss: 0-d tensor on the device; reading it makes the host wait.
        grad_norm: global norm before clipping, 0-d tensor on the device.
        rows: rows of the effective batch.
    """

    step: int
    epoch: float
    loss: Tensor
    grad_norm: Tensor
    rows: int
    state: TrainState

    @property
    def learning_rate(self) -> float:
        """Rate of this step's update, as scheduled (a skipped update shifts it; records say what was used)."""
        return self.state.rate_at(self.step)


class Callback:
    """Base of observers: override what you need. A function of StepInfo serves as well."""

    def on_start(self, state: TrainState) -> None:
        """Training begins or goes on."""

    def on_step(self, info: StepInfo) -> Ask | None:
        """After each optimizer step; must not read device values, or it makes training wait."""

    def on_epoch_end(self, info: StepInfo) -> Ask | None:
        """After the last step of an epoch."""

    def on_evaluate(self, info: StepInfo, metrics: Mapping[str, float]) -> Ask | None:
        """After an evaluation; `metrics` has names such as eval_loss."""

    def on_record(self, record: Record) -> None:
        """A record as it is written to metrics.jsonl."""

    def on_save(self, step: int) -> None:
        """After a checkpoint."""

    def on_end(self, reason: str) -> None:
        """Training is over; always called, after an error too."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values to keep in the checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


HOOKS = ("on_start", "on_step", "on_epoch_end", "on_evaluate", "on_record", "on_save", "on_end")
OTHER_NAMES = {  # as other libraries call them
    "on_train_begin": "on_start",
    "on_train_start": "on_start",
    "on_step_end": "on_step",
    "on_train_batch_end": "on_step",
    "on_train_epoch_end": "on_epoch_end",
    "on_validation_end": "on_evaluate",
    "on_log": "on_record",
    "on_save_checkpoint": "on_save",
    "on_train_end": "on_end",
}


class Hooks:
    """The callbacks of a run, sorted by what they listen to, so that a step calls only who listens."""

    def __init__(self, callbacks: Iterable[Any]) -> None:
        self.callbacks = list(callbacks)
        self._listeners: dict[str, list[Callable[..., Any]]] = {hook: [] for hook in HOOKS}
        for callback in self.callbacks:
            found = _hooks_of(callback)
            if not found:
                raise HotloopError(
                    f"{type(callback).__name__} has none of the hooks a callback can have",
                    where="callbacks.user",
                    fix=f"give it one of {', '.join(HOOKS)}, or pass a function of StepInfo",
                )
            for hook, function in found:
                self._listeners[hook].append(function)

    def tell(self, hook: str, *arguments: Any) -> None:
        """Call everyone who listens to `hook`."""
        for function in self._listeners[hook]:
            function(*arguments)

    def ask(self, hook: str, *arguments: Any) -> Ask:
        """Call everyone who listens, and join what they want."""
        joined = NOTHING
        for function in self._listeners[hook]:
            wanted = function(*arguments)
            if isinstance(wanted, Ask):
                joined = joined | wanted
        return joined

    def state_dict(self) -> list[dict[str, Any]]:
        return [c.state_dict() if hasattr(c, "state_dict") else {} for c in self.callbacks]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for callback, state in zip(self.callbacks, states, strict=False):
            if state:
                callback.load_state_dict(state)


def _hooks_of(callback: Any) -> list[tuple[str, Callable[..., Any]]]:
    names = {**{hook: hook for hook in HOOKS}, **OTHER_NAMES}
    own = [(hook, getattr(callback, name)) for name, hook in names.items() if hasattr(callback, name)]
    if isinstance(callback, Callback):
        own = [(hook, function) for hook, function in own if getattr(type(callback), function.__name__) is not getattr(Callback, function.__name__, None)]
    if not own and callable(callback):
        return [("on_step", callback)]
    return own


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
        min_delta: smallest change that counts as better.
        patience: evaluations without a better one before stopping; None never stops.
    """

    def __init__(self, metric: str, mode: str, min_delta: float = 0.0, patience: int | None = None) -> None:
        self.metric, self._sign, self._delta, self._patience = metric, 1.0 if mode == "min" else -1.0, min_delta, patience
        self.best, self.best_step, self.waited = math.inf, 0, 0

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
        if value < self.best - self._delta:  # NaN is never better
            self.best, self.best_step, self.waited = value, info.step, 0
            return Ask(best=True)
        self.waited += 1
        if self._patience is not None and self.waited >= self._patience:
            return Ask(stop=f"{self.metric} has not been better for {self.waited} evaluations", save=True)
        return None

    @property
    def best_value(self) -> float | None:
        """The best value of the metric so far, None before the first."""
        return self._sign * self.best if math.isfinite(self.best) else None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_step, self.waited = state["best"], state["best_step"], state["waited"]


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
            if metrics[metric] <= target if mode == "min" else metrics[metric] >= target:
                return Ask(stop=f"{metric} {metrics[metric]:.4f} reached {target:g}", save=True)
        return None


class Plateau(Callback):
    """Reduce-on-plateau: scale the rest of the schedule when evaluations stop getting better."""

    def __init__(self, factor: float, patience: int) -> None:
        self._factor, self._patience, self._best, self._waited = factor, patience, math.inf, 0

    def on_evaluate(self, info: StepInfo, metrics: Mapping[str, float]) -> Ask | None:
        if metrics["eval_loss"] < self._best:
            self._best, self._waited = metrics["eval_loss"], 0
            return None
        self._waited += 1
        if self._waited <= self._patience:
            return None
        self._waited = 0
        return Ask(rate_factor=self._factor)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._waited = state["best"], state["waited"]


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

    REASON = "interrupted"

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
