"""The hooks of a run: what an observer is told, what it may ask for, and who listens to what.

A callback observes and asks (`Ask`); only the loop acts. It never touches gradients, optimizer or batch. Its state, if
it has any, is in the checkpoint. Steps are optimizer steps, counted from 1.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

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
            _more_lasting(self.stop, other.stop),
            self.rate_factor * other.rate_factor,
        )


NOTHING = Ask()
INTERRUPTED = "interrupted"
"""The reason of a stop after which the run can go on; every other reason ends it for good."""


def _more_lasting(one: str, other: str) -> str:
    """Of two reasons to stop after the same step the one that ends the run."""
    return other if not one or (one == INTERRUPTED and other) else one


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

    def on_note(self, text: str, level: str) -> None:
        """A line for the person who trains, such as an out-of-memory step that was repeated; info or warning."""

    def on_save(self, step: int) -> None:
        """After a checkpoint."""

    def on_end(self, reason: str) -> None:
        """Training is over; always called, after an error too."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values to keep in the checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


HOOKS = {
    "on_start": ("state",),
    "on_step": ("info",),
    "on_epoch_end": ("info",),
    "on_evaluate": ("info", "metrics"),
    "on_record": ("record",),
    "on_note": ("text", "level"),
    "on_save": ("step",),
    "on_end": ("reason",),
}
"""The hooks, and what each is given."""
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
            if isinstance(callback, type):
                name = callback.__name__
                raise HotloopError(f"{name} is a class, not an object", where="callbacks", fix=f"pass {name}()")
            found = _hooks_of(callback)
            if not found:
                raise HotloopError(
                    f"{type(callback).__name__} has none of the hooks a callback can have",
                    where="callbacks.user",
                    fix=f"give it one of {', '.join(HOOKS)}, or pass a function of StepInfo",
                )
            for hook, function in found:
                _require_fits(callback, hook, function)
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
            elif isinstance(wanted, bool | str):  # other libraries stop at a True or a word
                raise HotloopError(
                    f"{_called_what(function)} gave {wanted!r}, which asks for nothing",
                    where="callbacks",
                    fix='return hotloop.Ask(stop="why"), hotloop.Ask(save=True) and the like, or nothing',
                )
        return joined

    def state_dict(self) -> list[dict[str, Any]]:
        """Each callback's state with its class's name.

        Raises:
            HotloopError: a callback's state is more than plain values and tensors.
        """
        return [{"name": type(c).__name__, "state": _state_of(c)} for c in self.callbacks]

    def load_state_dict(self, stored: list[dict[str, Any]]) -> list[str]:
        """Give each callback its state back: the k-th of a class gets what the k-th of that class had.

        Returns:
            A line for each state that no callback took.
        """
        left = list(self.callbacks)
        remarks = []
        for one in stored:
            taker = next((c for c in left if type(c).__name__ == one["name"]), None)
            if taker is not None:
                left.remove(taker)
                if one["state"]:
                    taker.load_state_dict(one["state"])
            elif one["state"]:
                remarks.append(f"the state of the callback {one['name']} is left out: the run has no such callback now")
        return remarks


def _called_what(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def _require_fits(callback: Any, hook: str, function: Callable[..., Any]) -> None:
    """A hook that cannot take what it is given is told before training."""
    try:
        inspect.signature(function).bind(*HOOKS[hook])
    except TypeError as error:
        given = ", ".join(HOOKS[hook])
        raise HotloopError(
            f"{_called_what(function)} cannot be called with ({given}): {error}",
            where=f"the callback {type(callback).__name__}",
            fix=f"write `def {hook}(self, {given}):`" if function is not callback else f"let it take ({given})",
        ) from error
    except ValueError:  # a function of C says nothing about its arguments
        return


_PLAIN = (type(None), bool, int, float, str)


def _state_of(callback: Any) -> dict[str, Any]:
    if not (hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict")):
        return {}
    owner, state = f"the callback {type(callback).__name__}", callback.state_dict()
    if not isinstance(state, dict):
        raise _not_plain(owner, f"is a {type(state).__name__}, not a dict")
    found: dict[str, Any] = plain(state, owner)
    return found


def plain(value: Any, owner: str, place: str = "") -> Any:
    """`value` as a checkpoint can hold it and give it back without running code.

    Raises:
        HotloopError: it holds something else; `owner` says whose state_dict it is.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in _PLAIN or type(value) in (Tensor, nn.Parameter):
        return value
    if type(value) in (list, tuple):
        return type(value)(plain(item, owner, f"{place}[{number}]") for number, item in enumerate(value))
    if type(value) in (dict, OrderedDict) and all(type(key) in _PLAIN for key in value):
        return {key: plain(item, owner, f"{place}[{key!r}]") for key, item in value.items()}
    raise _not_plain(owner, f"holds a {type(value).__name__}{f' at {place}' if place else ''}")


def _not_plain(owner: str, what: str) -> HotloopError:
    return HotloopError(
        f"the state_dict of {owner} {what}, which a checkpoint cannot hold",
        where=owner,
        fix="give a dict of None, bool, int, float, str, list, tuple, dict and tensors (an array as its .tolist())",
    )


def _hooks_of(callback: Any) -> list[tuple[str, Callable[..., Any]]]:
    """The hooks that a callback really has, under our name or another library's."""
    names = [*((hook, hook) for hook in HOOKS), *OTHER_NAMES.items()]  # (its name, our hook)
    own = [(hook, getattr(callback, name)) for name, hook in names if _overrides(callback, name)]
    return own or ([("on_step", callback)] if callable(callback) else [])


def _overrides(callback: Any, name: str) -> bool:
    """Whether calling it would do anything: the base class's own empty hooks are left out."""
    if isinstance(callback, Callback) and hasattr(Callback, name):
        return getattr(type(callback), name) is not getattr(Callback, name)
    return hasattr(callback, name)
