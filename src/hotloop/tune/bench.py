"""Where trials run: each in a fresh process, or, where only this process can build the model, here on a copy of it.

Both put the run together as training would, but for what would hide a cost: no recovery from an error, no limit of
memory (but on a GPU, where the allocator keeps it), no compiler under `auto`, as each size would be compiled anew.
"""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from hotloop import device as machine
from hotloop import memory
from hotloop.config.load import Loaded
from hotloop.config.schema import Config, to_plain
from hotloop.engine.plan import Choice
from hotloop.errors import HotloopError
from hotloop.given import Given
from hotloop.saved import CONFIG, rooted
from hotloop.task import Task
from hotloop.tune.child import Child
from hotloop.tune.gauge import NO_ROOM, Cost, Facts, Gauge
from hotloop.tune.trial import opened

_BUILDING, _MEASURING = 1800.0, 600.0  # seconds after which a trial is given up


class NoRoom(HotloopError):
    """There was not even the memory to put the run together."""


class Trial(Protocol):
    """One run put together with one choice, to be measured."""

    facts: Facts

    def measure(self, size: int) -> Cost:
        """Time and peak of a micro-batch of `size` rows."""
        ...

    def confirm(self, steps: int) -> Cost:
        """Seconds of a whole step, and the peak of everything."""
        ...


class Bench(Protocol):
    """Opens trials, one at a time."""

    def open(self, choice: Choice, *, whole: bool = False) -> contextlib.AbstractContextManager[Trial]:
        """A trial of `choice`; `whole` for a confirmation, which compiles as training will.

        Raises:
            NoRoom: out of memory before anything could be measured.
            HotloopError: the run cannot be put together so.
        """
        ...


def trial_config(config: Config, whole: bool) -> Config:
    """The configuration of a trial."""
    training: dict[str, Any] = {"auto_batch_size": False, "tune": "off"}  # nothing is timed before it is asked for
    training |= {"compile": "off"} if config.training.compile == "auto" and not whole else {}
    held: dict[str, Any] = {"budget": None, "recover": "off"}
    if config.memory.budget is not None and config.memory.keep_freed == "auto":
        held["keep_freed"] = "off"  # as under the budget that is left out here
    return config.model_copy(
        update={
            "training": config.training.model_copy(update=training),
            "memory": config.memory.model_copy(update=held),
        }
    )


class Fresh:
    """Trials in processes of their own.

    Args:
        loaded: the configuration, which names a task that any process can build.
        limit: bytes that a GPU's allocator keeps to; 0 for none.
    """

    def __init__(self, loaded: Loaded, limit: int = 0) -> None:
        self._loaded, self._limit = loaded, limit

    @contextlib.contextmanager
    def open(self, choice: Choice, *, whole: bool = False) -> Iterator[Trial]:
        """As `Bench.open`."""
        config = trial_config(rooted(self._loaded.config), whole)
        with tempfile.TemporaryDirectory(prefix="hotloop_trial_") as folder:
            (Path(folder) / CONFIG).write_text(json.dumps(to_plain(config)), encoding="utf-8")
            plain = {name: value for name, value in asdict(choice).items() if name not in ("told", "rows")}
            request = {"folder": folder, "origins": self._loaded.origins, "limit": self._limit, "choice": plain}
            trial = FreshTrial(request)
            try:
                yield trial
            finally:
                trial.close()


class FreshTrial:
    """A trial whose process is started again where a size has ended it."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request, self._largest = request, 0
        self._child: Child | None = None
        self.facts = self._start()

    def _start(self) -> Facts:
        self.close()
        self._child, self._largest = Child(self._request), 0
        answer = self._child.answer(_BUILDING)
        if answer.pop("kind") == "ready":
            return Facts(**{**answer, "remarks": tuple(answer["remarks"])})
        self.close()
        raise _unbuilt(answer)

    def measure(self, size: int) -> Cost:
        """As `Trial.measure`."""
        down = size < self._largest
        if self._child is None or (down and (self._request["limit"] or not self.facts.resets)):
            self._start()  # what a larger size has left behind would count as this one's
        self._largest = max(self._largest, size)
        return self._asked({"size": size}, size)

    def confirm(self, steps: int) -> Cost:
        """As `Trial.confirm`."""
        return self._asked({"steps": steps}, self.facts.micro_batch)

    def _asked(self, value: dict[str, Any], size: int) -> Cost:
        assert self._child is not None, "it was started"
        answer = self._child.ask(value, _MEASURING)
        if answer.pop("kind") == "cost":
            return Cost(**answer)
        self.close()
        if answer.get("memory") or "why" not in answer or answer["why"].startswith("took"):
            return Cost(size, False, note=answer.get("why") or answer.get("what") or NO_ROOM)
        raise _unbuilt(answer)

    def close(self) -> None:
        """End its process."""
        if self._child is not None:
            self._child.close()
            self._child = None


def _unbuilt(answer: dict[str, Any]) -> HotloopError:
    """What a trial that could not be put together has said, as an error."""
    if "what" in answer:
        return HotloopError(answer["what"], where=answer["where"], fix=answer["fix"])
    if answer.get("memory", True):
        return NoRoom(f"there was not the memory to put the run together: {answer.get('why', NO_ROOM)}")
    last = answer.get("said", "").splitlines()[-1:]
    return HotloopError(
        f"a trial run failed: {answer['why']}",
        where=last[0] if last else "",
        fix="train once without training.auto_batch_size and memory.budget to see the whole message",
    )


class Here:
    """Trials in this process, on copies: for a model and a loss that are Python objects of the caller's.

    Args:
        loaded: the configuration.
        task: what would be trained; it stays as it is.
    """

    def __init__(self, loaded: Loaded, task: Task) -> None:
        self._loaded, self._task = loaded, task

    @contextlib.contextmanager
    def open(self, choice: Choice, *, whole: bool = False) -> Iterator[Trial]:
        """As `Bench.open`."""
        config = trial_config(self._loaded.config, whole)
        device = machine.pick_device(config.training.device)
        memory.release(device)
        with machine.undisturbed(device):
            try:
                gauge = opened(replace(self._loaded, config=config), self._copied(), choice)
            except HotloopError:
                raise
            except Exception as error:
                if not memory.is_out_of_memory(error):
                    raise
                gauge = None
            if gauge is None:
                raise NoRoom(f"there was not the memory to put the run together: {NO_ROOM}")
            yield _Local(gauge)
        memory.release(device)

    def _copied(self) -> Task:
        """A task of its own, so that neither the model nor what the task remembers is touched."""
        config = self._loaded.config
        if not isinstance(self._task, Given):
            return type(self._task)(config.model, config.data, seed=config.experiment.seed)
        copied = copy.copy(self._task)
        copied.net = copy.deepcopy(self._task.net)
        return copied


class _Local:
    """A trial whose gauge is at hand."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge, self.facts = gauge, gauge.facts()

    def measure(self, size: int) -> Cost:
        """As `Trial.measure`."""
        return self._gauge.measure(size)

    def confirm(self, steps: int) -> Cost:
        """As `Trial.confirm`."""
        return self._gauge.confirm(steps)
