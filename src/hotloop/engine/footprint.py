"""What a run will take of memory, forecast before its first step, by part.

Weights, gradients and what the optimizer keeps are counted. Activations are watched on two small passes over the
longest samples and carried on to the micro-batch: on a CPU every allocation and release of torch is recorded, so that
the level after the k-th of them is known for two sizes, a straight line through both gives it for any size, and the
highest level of all is the peak. On a GPU the two peaks are carried on. What the process took besides (Python's
objects, code that libraries make at their first call, blocks that malloc keeps) is measured after these passes.
Nothing here may be seen by the training that follows: gradients are dropped, buffers and random state put back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop import device as machine
from hotloop import memory
from hotloop.data.loader import fetch, move
from hotloop.data.ragged import source_buckets
from hotloop.data.source import Source
from hotloop.data.stream import StreamSource
from hotloop.engine.measure import measuring
from hotloop.engine.plan import Plan
from hotloop.engine.precision import autocast
from hotloop.engine.probe import buffers_put_back
from hotloop.engine.reduce import micro_loss, total_weights
from hotloop.engine.state import TrainState
from hotloop.task import Batch, Splits, Task

_FEW = 4  # rows of the larger small pass; the other has half
_SECONDS = 0.25  # the pass that tells the allocator's slack may take
_MOMENTS = {"AdamW": 2, "Adam": 2, "Muon": 1}  # tensors like the weight that are made at the first update


@dataclass(frozen=True)
class Forecast:
    """Bytes at the highest point of a run, by part, beyond what the process had before it was put together.

    Attributes:
        parameters: weights and buffers.
        gradients: of what is trained.
        optimizer: its state, the running average of the weights, and the copies of buffers that a held step needs.
        activations: of a micro-batch, or of an evaluation batch where that takes more than training and gradients.
        data: on the device: the sources where they are resident, and one effective batch.
        other: what else the process took.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    data: int
    other: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def to_dict(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}

    def lines(self) -> list[str]:
        """The forecast for a person."""
        parts = ", ".join(f"{name} {_gb(size)}" for name, size in asdict(self).items() if size >= 2**20)
        return [f"memory forecast {_gb(self.total)}: {parts}"]


def forecast(task: Task, state: TrainState, splits: Splits) -> Forecast | None:
    """Forecast a run that is put together and has not begun; None where a small pass cannot be watched.

    Args:
        task: of the run.
        state: before its first step; left as it is.
        splits: the sources, where the plan wants them.
    """
    plan, model = state.plan, state.model
    if isinstance(splits.train, StreamSource):
        return None  # looking at its rows would use them up
    gradients, copies = tensor_bytes(state.parameters), _copies(state)
    try:
        highest, slack = _passes(task, state, splits, gradients)
        row = sum(leaf.nbytes for leaf in _leaves(_rows(splits.train, plan, 1)))
    except Exception as error:
        if isinstance(error, _Unwatched) or memory.is_out_of_memory(error):
            return None
        raise
    weights = tensor_bytes([*model.parameters(), *model.buffers()])
    data = sum(source.nbytes or 0 for source in _all(splits)) if plan.resident else 0
    other = slack
    if plan.torch_device.type != "cuda":
        memory.release(plan.torch_device)
        beside = max(0, state.guard.growth() - weights - copies - made_bytes(state.optimizers))
        data = min(data, beside)  # a mapped file takes nothing
        other += beside - data
    rows = len(splits.train)
    data += min(plan.effective_batch, rows) * row
    activations = max(highest - gradients - min(plan.micro_batch, rows) * row, 0)
    kept = optimizer_bytes(state.optimizers) + copies
    return Forecast(weights, gradients, kept, activations, data, other)


def _passes(task: Task, state: TrainState, splits: Splits, gradients: int) -> tuple[int, int]:
    """Bytes at the highest point of a step or of an evaluation, and the allocator's slack there.

    A micro-batch and the gradients are among them in both cases: the last effective batch stays while validation runs.
    """
    plan = state.plan
    held = gradients if plan.accumulation > 1 else 0  # of the micro-batches before

    def training(count: int) -> None:
        batch = _rows(splits.train, plan, count)
        with autocast(plan.torch_device, plan.precision):
            loss = micro_loss(task, state.model, {}, batch, total_weights(task, batch))
        loss.backward()  # type: ignore[no-untyped-call]

    def evaluating(count: int) -> None:
        with measuring(state.model, plan.torch_device), autocast(plan.torch_device, plan.precision):
            task.loss(state.model, _rows(splits.val, plan, count), False)  # metrics may count how often they are asked

    runs = [(training, min(plan.micro_batch, len(splits.train)))]
    runs += [] if splits.val is None else [(evaluating, min(plan.eval_batch, len(splits.val)))]
    with buffers_put_back(state.model), machine.undisturbed(plan.torch_device):
        found = [_carried_on(run, size, state) for run, size in runs]
        share = min(1.0, _SECONDS / sum(seconds for _, seconds in found))
        few = [(run, max(min(size, _FEW), int(share * size))) for run, size in runs]
        slack = max(_slack(run, count, state) for run, count in few)
    return max(held + peak_of(found[0][0]), peak_of(found[-1][0])), slack


class _Unwatched(Exception):
    """The allocations of a pass cannot be recorded here."""


def _rows(source: Source, plan: Plan, count: int) -> Batch:
    """So many of the rows that are padded to the greatest width, over and over where there are fewer."""
    buckets = source_buckets(source)
    chosen = np.arange(len(source)) if buckets is None else np.flatnonzero(buckets == buckets.max())
    place = plan.torch_device if plan.resident and source.nbytes is not None else torch.device("cpu")
    return move(fetch(source, torch.from_numpy(np.resize(chosen[:count], count)).to(place), None), plan.torch_device)


def _carried_on(run: Callable[[int], None], size: int, state: TrainState) -> tuple[list[int], float]:
    """The allocations of `run` on `size` rows, and about how many seconds it will take."""
    large = min(size, _FEW)
    small, changes, seconds = large // 2, dict[int, list[int]](), 0.0
    for count in [large] if size == large else [small, large]:  # BatchNorm cannot train on one row
        began = time.perf_counter()
        changes[count] = _changes(run, count, state)
        seconds = time.perf_counter() - began
    seconds *= size / large
    if size == large:
        return changes[large], seconds
    return carried_on((small, changes[small]), (large, changes[large]), size), seconds


def _slack(run: Callable[[int], None], count: int, state: TrainState) -> int:
    """Bytes by which resident memory grows beyond what torch asked for: malloc's gaps, and what libraries take.

    Gaps hardly grow with the batch, for malloc gives large blocks pages of their own; so fewer rows tell it as well.
    """
    device = state.plan.torch_device
    memory.trim()
    if device.type == "cuda" or not memory.reset_peak(device):
        return 0
    before = memory.own(device)
    asked_for = peak_of(_changes(run, count, state))
    return max(0, memory.own_peak() - before - asked_for)


def _leaves(batch: Batch) -> list[Tensor]:
    nested: Any = batch.values()  # a weight may be a dict of tensors
    return [part for value in nested for part in (value.values() if isinstance(value, dict) else [value])]


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


def _changes(run: Callable[[int], None], count: int, state: TrainState) -> list[int]:
    """Each allocation and release of torch in `run`, in bytes; on a GPU the highest level alone."""
    device = state.plan.torch_device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run(count)
        found = [torch.cuda.max_memory_allocated(device) - before]
    else:
        found = _recorded(lambda: run(count))
    state.model.zero_grad(set_to_none=True)  # here, so that it is no part of the next pass
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
        raise _Unwatched from error
    try:
        run()
    finally:
        threads = _disable_profiler_legacy()
    return [event.cpu_memory_usage() for events in threads for event in events if str(event.kind()) == "memory_alloc"]


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of these tensors, each storage once: weights may be shared."""
    return sum({s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors)}.values())


def made_bytes(optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Bytes that the optimizers' state takes now."""
    return sum(tensor_bytes(_tensors(state)) for one in optimizers for state in one.state.values())


def optimizer_bytes(optimizers: list[torch.optim.Optimizer]) -> int:
    """Bytes that the optimizers' state takes from the first update on, of which some may not be there yet."""
    coming = 0
    for one in optimizers:
        missing = [p for group in one.param_groups for p in group["params"] if not one.state.get(p)]
        coming += _MOMENTS.get(type(one).__name__, 0) * tensor_bytes(missing)
    return made_bytes(optimizers) + coming


def _tensors(state: Mapping[str, Any]) -> list[Tensor]:
    return [value for value in state.values() if isinstance(value, Tensor)]


def _copies(state: TrainState) -> int:
    """Bytes of the running average, and of the buffers that a held step puts back."""
    average = [] if state.average is None else state.average.state_dict().values()
    return tensor_bytes(average) + tensor_bytes(state.buffers)


def _all(splits: Splits) -> list[Source]:
    return [s for s in (splits.train, splits.val, splits.test, *splits.extra.values()) if s is not None]


def _gb(size: int) -> str:
    return f"{size / 2**30:.2f}GB"
