"""The budget of a run while it trains: what it took is known at any time, and what goes beyond is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.modules.module import register_module_forward_hook

from hotloop import device as machine
from hotloop.memory import own, own_peak, peak, reset_peak, status, trim

_SLACK = 256 * 2**20  # see `Guard`: what the system's own limit leaves beyond twice the budget
_NEAR = 0.75  # of the limit
_Limits = tuple[int, int]


class OverBudget(MemoryError):
    """The run has taken more memory than its budget allows."""


class Guard:
    """Holds a run to its budget, and knows the most that it took.

    On a GPU the allocator itself refuses what goes beyond. On a CPU the run is measured: after each layer, and after
    each backward pass by `check`; beyond the budget `OverBudget` is raised, like an allocation that failed. The system
    could refuse every allocation beyond a limit, but oneDNN does not survive that (it writes to what it did not get, or
    never compiles a kernel again), so that limit stands far behind the budget and meets single huge requests only.

    Args:
        device: of the run.
        limit: bytes that the run may take beyond `baseline`; 0 measures only.
        layers: look after each layer too; not for compiled models, which hooks would break up.

    Attributes:
        baseline: bytes that the process had of its own before the run; `growth` and `peak` count from there.
    """

    def __init__(self, device: torch.device, limit: int = 0, layers: bool = True) -> None:
        self._device, self.limit, self._layers = device, limit, layers
        self.baseline = 0 if device.type == "cuda" else own(device)
        self._highest = self._whole = 0  # beyond the baseline; of the whole process
        self._started = self._closed = self._exact = self._stale = False
        self._on_cpu = device.type != "cuda" and limit > 0
        self._undo: list[Callable[[], object]] = []
        self._wall: _Limits | None = None

    @property
    def how(self) -> str:
        """How the budget is held to, for a person; empty where there is none."""
        if not self.limit:
            return ""
        if self._device.type == "cuda":
            return "the allocator refuses what goes beyond it"
        where = "after each layer and each backward pass" if self._layers else "after each backward pass"
        far = "; the system refuses single requests far beyond it" if _limits() is not None else ""
        return f"measured {where}, and a step that went beyond it is taken back{far}"

    def start(self) -> None:
        """Training begins: `peak` counts from here, and a GPU's allocator is given its limit."""
        self._started, self._whole = True, peak(self._device)
        self._exact = reset_peak(self._device)
        if self._device.type == "cuda" and self.limit:
            share = min(1.0, self.limit / machine.memory_total(self._device))
            torch.cuda.set_per_process_memory_fraction(share, self._device)
        elif self._on_cpu and (limits := _limits()) is not None:
            room = 2 * self.limit + _SLACK - self.growth()
            self._wall = _lower(limits, status().get("VmData", 0) + room)

    def close(self) -> None:
        """Training is over: `peak` stays, and a GPU's allocator is free again."""
        self._note()
        self._closed = True
        if self._device.type == "cuda" and self.limit:
            torch.cuda.set_per_process_memory_fraction(1.0, self._device)

    def __enter__(self) -> Guard:
        if not self._started:
            self.start()
        if self._on_cpu:
            self._note()
            if self.growth() > _NEAR * self.limit:
                trim()  # room that malloc keeps would count
            reset_peak(self._device)  # what a checkpoint or the data took between two steps is not this step's
            if self._layers:
                self._undo.append(register_module_forward_hook(self._look).remove)
            if self._wall is not None and (before := _limits()) is not None:
                _set_limits(self._wall)
                self._undo.append(partial(_set_limits, before))
        return self

    def __exit__(self, *_: object) -> None:
        while self._undo:
            self._undo.pop()()
        if self._on_cpu:
            self._note()

    def make_room(self) -> None:
        """Before an evaluation, whose larger blocks would not fit into what malloc keeps of a step's."""
        if self._device.type != "cuda" and self.growth() > 2**27:
            trim()

    def check(self) -> None:
        """After a backward pass.

        Raises:
            OverBudget: the run took more than its budget since the last check.
        """
        if not self._on_cpu:
            return
        self._afresh()
        self._note()
        if (most := max(self.growth(), self._recent())) > self.limit:
            self._refuse(most)

    def growth(self) -> int:
        """Bytes that the run has now."""
        return own(self._device) - self.baseline

    def peak(self) -> int:
        """Bytes at the run's highest point since `start`."""
        self._note()
        return self._highest

    def process_peak(self) -> int:
        """Bytes at the highest point of the whole process (reserved on a GPU), what came before `start` included."""
        return max(self._whole, peak(self._device))

    def _look(self, *_: object) -> None:
        """After a layer's forward pass."""
        self._afresh()
        if self.growth() > self.limit:
            trim()  # blocks that malloc keeps for later do not count
            if (now := self.growth()) > self.limit:
                self._refuse(now)

    def _refuse(self, most: int) -> None:
        self._stale = True
        raise OverBudget(f"out of memory: the run took {most / 2**30:.2f}GB of {self.limit / 2**30:.2f}GB")

    def _afresh(self) -> None:
        """The first look after one that refused: the peak of the step that was taken back counts no more."""
        if self._stale:
            self._stale = False
            self._note()
            reset_peak(self._device)

    def _recent(self) -> int:
        """Bytes at the highest point since the peak was reset last."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return own_peak() - self.baseline if self._exact else self.growth()

    def _note(self) -> None:
        if not self._closed:
            self._highest = max(self._highest, self._recent())
        if self._on_cpu:  # elsewhere nothing sets the peak back after `start`
            self._whole = max(self._whole, peak(self._device))


def _limits() -> _Limits | None:
    """Soft and hard limit of this process's private writable memory; None where the system has no such limit."""
    if sys.platform != "linux":
        return None
    import resource

    return resource.getrlimit(resource.RLIMIT_DATA)


def _set_limits(limits: _Limits) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, limits)


def _lower(limits: _Limits, wanted: int) -> _Limits:
    """The same limits with the soft one at `wanted`, unless it is lower already; -1 stands for no limit."""
    soft, hard = limits
    return (wanted if soft < 0 else min(soft, wanted)), hard
