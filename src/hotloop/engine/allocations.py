"""What torch allocates in a pass, watched on few rows and carried on to many; and what malloc takes beyond that.

On a CPU every allocation and release is recorded, so that the level after the k-th of them is known for two sizes, and
a straight line through both gives it for any size; the highest level of all is the peak. On a GPU the two peaks are
carried on. Bytes; no gradient is left behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hotloop import memory

FEW = 4  # rows of the larger small pass; the other has half


class Unwatched(Exception):
    """The allocations of a pass cannot be recorded here."""


@dataclass(frozen=True)
class Watched:
    """Allocations of a pass over few rows: rows -> each of them, for one or two numbers of rows."""

    changes: dict[int, list[int]]
    seconds_a_row: float

    def peak_at(self, size: int) -> int:
        """Bytes at the highest point with `size` rows."""
        if len(self.changes) == 1 or size in self.changes:
            return peak_of(self.changes[size])
        small, large = self.changes.items()
        return peak_of(carried_on(small, large, size))


def watch(run: Callable[[int], None], size: int, model: nn.Module, device: torch.device) -> Watched:
    """Watch `run` on few of its `size` rows."""
    large, changes, seconds = min(size, FEW), dict[int, list[int]](), 0.0
    for count in [large] if size == large else [large // 2, large]:  # BatchNorm cannot train on one row
        began = time.perf_counter()
        changes[count] = changes_of(run, count, model, device)
        seconds = time.perf_counter() - began
    return Watched(changes, seconds / large)


def slack(model: nn.Module, device: torch.device, run: Callable[[int], None], count: int, needed: int) -> int:
    """Bytes by which resident memory grows beyond what torch needs: malloc's gaps, and what libraries take.

    Not recorded, for the recorder's own small blocks would lie between the others and make more gaps.
    """
    memory.trim()
    if device.type == "cuda" or not memory.reset_peak(device):
        return 0
    before = memory.own(device)
    for _ in range(2):  # the second pass meets the gaps of the first
        run(count)
        model.zero_grad(set_to_none=True)
    rise = memory.own_peak() - before
    return max(0, rise - needed)


def carried_on(small: tuple[int, list[int]], large: tuple[int, list[int]], size: int) -> list[int]:
    """The allocations at `size` rows, from those at two smaller numbers of rows.

    Where both passes made the same ones in the same order each is carried on by itself: the highest point of many rows
    may be another than that of few. Elsewhere the two highest points are.
    """
    (few, low), (more, high) = small, large
    if len(low) != len(high):
        low, high = [peak_of(low)], [peak_of(high)]
    steps = (size - more) / (more - few)
    return [round(upper + (upper - lower) * steps) for lower, upper in zip(low, high, strict=True)]


def peak_of(changes: list[int]) -> int:
    """The highest level after any of these allocations (above 0) and releases (below 0)."""
    return max(0, int(np.cumsum(changes).max(initial=0)))


def changes_of(run: Callable[[int], None], count: int, model: nn.Module, device: torch.device) -> list[int]:
    """Each allocation and release of torch in `run`, in bytes; on a GPU the highest level alone."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run(count)
        found = [torch.cuda.max_memory_allocated(device) - before]
    else:
        found = _recorded(lambda: run(count))
    model.zero_grad(set_to_none=True)  # here, so that it is no part of the next pass
    return found


def _recorded(run: Callable[[], None]) -> list[int]:
    """Bytes of each allocation (above 0) and release (below 0) of torch on the CPU while `run` runs.

    By the recorder that torch's older profiler is made of: it takes microseconds for each, where the newer one takes
    far longer and writes lines to the screen.
    """
    try:
        from torch._C._autograd import _disable_profiler_legacy, _enable_profiler_legacy
        from torch._C._profiler import ProfilerConfig, ProfilerState, _ExperimentalConfig

        _enable_profiler_legacy(
            ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig())
        )
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:  # a torch without it, or a profiler at work
        raise Unwatched from error
    try:
        run()
    finally:
        threads = _disable_profiler_legacy()
    return [event.cpu_memory_usage() for events in threads for event in events if str(event.kind()) == "memory_alloc"]
