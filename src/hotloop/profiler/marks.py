"""Marks in time around the phases of a step, set from outside, so that the step measured is the step trained.

The step calls the loss, looks at the budget after each backward pass and settles its counters at the end; the feed asks
for a batch in host memory. Each of these is replaced, for the time of a profile, by one that also takes the time. From
one mark to the next is one phase, so phases and host gap add up to the wall time. On a GPU marks are events in the
stream: nothing waits for them until the end, and a phase is the time that the GPU took for it, idle moments included.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from hotloop.engine.state import TrainState
from hotloop.task import Batch

DATA, COPY, FORWARD, BACKWARD, OPTIMIZER, GAP = "data", "copy", "forward", "backward", "optimizer", "host gap"
PHASES = (DATA, COPY, FORWARD, BACKWARD, OPTIMIZER, GAP)
"""data: until a batch is fetched (gathered, where the data lives on the device); copy: host to device; forward: the
loss; backward; optimizer: clipping, update, counters; host gap: what the loop does between these."""


class Marks:
    """The marks taken so far: each begins a phase, which lasts until the next.

    Args:
        device: of the run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_gpu = device, device.type == "cuda"
        self.on, self.taken = False, list[tuple[str, Any]]()

    def __call__(self, phase: str) -> None:
        """A phase begins now; nothing while marks are off."""
        if not self.on:
            return
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            self.taken.append((phase, event))
        else:
            self.taken.append((phase, time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase over all that was marked; a GPU must have been waited for."""
        found = dict.fromkeys(PHASES, 0.0)
        for (phase, begun), (following, ended) in zip(self.taken, self.taken[1:], strict=False):
            # After a backward pass that another forward pass follows, there is no update yet.
            name = BACKWARD if (phase, following) == (OPTIMIZER, FORWARD) else phase
            found[name] += begun.elapsed_time(ended) / 1000 if self._on_gpu else ended - begun
        return found

    def cost(self, calls: int = 1000) -> float:
        """Seconds that the host takes for a mark, the least of some rounds."""
        trial, rounds = Marks(self._device), list[float]()
        trial.on = True
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(calls):
                trial(GAP)
            rounds.append((time.perf_counter() - started) / calls)
            trial.taken.clear()
        return min(rounds)

    def watch(self, host: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches in host memory; fetching one is `data`, what follows until it is handed over `copy`."""
        while True:
            self(DATA)
            batch = next(host, None)
            if batch is None:
                return
            self(COPY)
            yield batch


@contextlib.contextmanager
def marked(state: TrainState, marks: Marks) -> Iterator[None]:
    """Let the steps of `state` set `marks` (while these are on); afterwards the state is as it was."""
    loss, check, settle = state.micro_loss, state.guard.check, state.settle

    def forward(*given: Any) -> Any:
        marks(FORWARD)
        part = loss(*given)
        marks(BACKWARD)
        return part

    def then(work: Callable[..., None], phase: str) -> Callable[..., None]:
        def done(*given: Any) -> None:
            work(*given)
            marks(phase)

        return done

    state.micro_loss = forward
    vars(state.guard)["check"], vars(state)["settle"] = then(check, OPTIMIZER), then(settle, GAP)
    try:
        yield
    finally:
        state.micro_loss = loss
        del vars(state.guard)["check"], vars(state)["settle"]
