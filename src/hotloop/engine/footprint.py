"""What a run will take of memory, forecast before its first step, by part.

Weights, gradients and what the optimizer keeps are counted. Activations are watched on two small passes over the
longest samples and carried on to the micro-batch (`allocations`). What the process took besides (Python's objects, code
that libraries make at their first call, blocks that malloc keeps) is measured beside and after these passes.
Nothing here may be seen by the training that follows: gradients are dropped, buffers and random state put back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
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
from hotloop.engine.allocations import FEW, changes_of, peak_of, slack, watch
from hotloop.engine.measure import measuring
from hotloop.engine.optim import hold
from hotloop.engine.plan import Plan
from hotloop.engine.precision import autocast
from hotloop.engine.probe import buffers_put_back
from hotloop.engine.reduce import micro_loss, total_weights
from hotloop.engine.regions import resting
from hotloop.engine.state import TrainState
from hotloop.task import Batch, Splits, Task

_SECONDS = 0.15  # that the passes which tell the slack of malloc may take, each of two times
_GAPS = 0.2  # of what many rows need beyond the few whose slack was measured: malloc's, as seen on the built-in tasks


@dataclass(frozen=True)
class Forecast:
    """Bytes at the highest point of a run, by part, beyond what the process had before it was put together.

    Attributes:
        parameters: weights and buffers.
        gradients: of what is trained.
        optimizer: its state, the running average of the weights, and the copies of buffers that a held step needs.
        activations: of a micro-batch, or what an update or an evaluation batch needs where that is more.
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
        parts = ", ".join(f"{name} {_size(size)}" for name, size in asdict(self).items() if size >= 2**20)
        return [f"memory forecast {_size(self.total)}: {parts}"]


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
        with resting(model):  # compiled code would be built for these sizes too
            highest, beyond = _passes(task, state, splits, gradients)
        row = sum(leaf.nbytes for leaf in _leaves(_rows(splits.train, plan, 1)))
    except Exception:  # whatever a loss says to so few rows, a run does not end for a line of information
        return None
    finally:
        model.zero_grad(set_to_none=True)  # a pass that ended early must not leave its part of a gradient
    weights = tensor_bytes([*model.parameters(), *model.buffers()])
    data = sum(source.nbytes or 0 for source in _all(splits)) if plan.resident else 0
    other = beyond
    if plan.torch_device.type != "cuda":
        memory.trim()
        beside = max(0, state.guard.growth() - weights - copies - made_bytes(state.optimizers))
        data = min(data, beside)  # a mapped file takes nothing
        other += beside - data
    rows = len(splits.train)
    data += min(plan.effective_batch, rows) * row
    activations = max(highest - gradients - min(plan.micro_batch, rows) * row, 0)
    kept = made_bytes(state.optimizers) + copies
    return Forecast(weights, gradients, kept, activations, data, other)


def _passes(task: Task, state: TrainState, splits: Splits, gradients: int) -> tuple[int, int]:
    """Bytes at the highest point of a step, its update or an evaluation, and the allocator's slack there.

    Gradients and a micro-batch are taken as among them.
    """
    plan, model, device = state.plan, state.model, state.plan.torch_device
    held = gradients if plan.accumulation > 1 else 0  # of the micro-batches before

    def training(count: int) -> None:
        batch = _rows(splits.train, plan, count)
        with autocast(device, plan.precision):
            loss = micro_loss(task, model, {}, batch, total_weights(task, batch))
        loss.backward()  # type: ignore[no-untyped-call]

    def evaluating(count: int) -> None:
        with measuring(model, device), autocast(device, plan.precision):
            task.loss(model, _rows(splits.val, plan, count), False)  # metrics may count how often they are asked

    def updating(_: int) -> None:
        for parameter in state.parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for update in state.updates:
            update()

    def stepping(count: int) -> None:
        training(count)
        updating(count)

    sizes = [min(plan.micro_batch, len(splits.train)), *_evaluated(splits.val, plan)]
    hold(state.optimizers, torch.ones((), device=device))  # so no update changes anything; a step sets its own flag
    with buffers_put_back(model), machine.undisturbed(device):
        seen = [watch(run, size, model, device) for run, size in zip([training, evaluating], sizes, strict=False)]
        in_update = peak_of(changes_of(updating, 1, model, device))
        share = min(1.0, _SECONDS / sum(one.seconds_a_row * size for one, size in zip(seen, sizes, strict=True)))
        few = [max(min(size, FEW), int(share * size)) for size in sizes]
        needed = [max(in_update, seen[0].peak_at(few[0])), *(one.peak_at(few[1]) for one in seen[1:])]
        beyond = max(map(partial(slack, model, device), [stepping, evaluating], few, needed))
    highest = max(held + seen[0].peak_at(sizes[0]), in_update, *(one.peak_at(sizes[1]) for one in seen[1:]))
    gaps = 0 if device.type == "cuda" else round(_GAPS * max(0, highest - held - max(needed)))
    return highest, beyond + gaps


def _evaluated(val: Source | None, plan: Plan) -> list[int]:
    """Rows of an evaluation batch, if there are any."""
    return [] if val is None else [min(plan.eval_batch, len(val))]


def _rows(source: Source, plan: Plan, count: int) -> Batch:
    """So many of the rows that are padded to the greatest width, over and over where there are fewer."""
    buckets = source_buckets(source)
    chosen = np.arange(len(source)) if buckets is None else np.flatnonzero(buckets == buckets.max())
    place = plan.torch_device if plan.resident and source.nbytes is not None else torch.device("cpu")
    return move(fetch(source, torch.from_numpy(np.resize(chosen[:count], count)).to(place), None), plan.torch_device)


def _leaves(batch: Batch) -> list[Tensor]:
    nested: Any = batch.values()  # a weight may be a dict of tensors
    return [part for value in nested for part in (value.values() if isinstance(value, dict) else [value])]


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of these tensors, each storage once: weights may be shared."""
    return sum({s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors)}.values())


def made_bytes(optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Bytes of the optimizers' state, all of which is there before the first step."""
    return sum(tensor_bytes(_tensors(state)) for one in optimizers for state in one.state.values())


def _tensors(state: Mapping[str, Any]) -> list[Tensor]:
    return [value for value in state.values() if isinstance(value, Tensor)]


def _copies(state: TrainState) -> int:
    """Bytes of the running average, and of the buffers that a held step puts back."""
    average = [] if state.average is None else state.average.state_dict().values()
    return tensor_bytes(average) + tensor_bytes(state.buffers)


def _all(splits: Splits) -> list[Source]:
    return [s for s in (splits.train, splits.val, splits.test, *splits.extra.values()) if s is not None]


def _size(size: int) -> str:
    return f"{size / 2**30:.2f}GB" if size >= 2**30 else f"{size / 2**20:.0f}MB"
