"""A look at the loss before the run: does it keep the contract, and how long does a pass take?

Nothing it does may be seen by the training that follows: gradients are dropped, buffers and random state put back.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hotloop import device as machine
from hotloop import memory
from hotloop.data.loader import fetch, move
from hotloop.data.sampler import Sampler
from hotloop.data.source import Source
from hotloop.engine.blame import telling_whose
from hotloop.engine.measure import means, measuring
from hotloop.engine.plan import Plan
from hotloop.engine.precision import autocast
from hotloop.engine.reduce import couples_the_batch, micro_batches, micro_loss, plain_tallies, rows_of, total_weights
from hotloop.errors import HotloopError, NoMemory, first_line
from hotloop.task import Batch, LossValues, Task

_ROUNDS = 3
_SECONDS = 0.25  # a pass that takes longer is timed on fewer rows


@dataclass(frozen=True)
class Facts:
    """What the probe saw.

    Attributes:
        scalar: the loss comes as a mean, without the weight it was taken over.
        paddable: a row of weight 0 would count nothing: the loss is unreduced, with no weights by term.
        seconds: of one forward and backward pass of a micro-batch, by precision; empty where it was not timed.
    """

    scalar: bool
    seconds: dict[str, float]
    paddable: bool = True


@contextlib.contextmanager
def buffers_put_back(model: nn.Module) -> Iterator[None]:
    """Buffers afterwards as they were before, whether a pass changed them in place, replaced them or made new ones."""
    before = [
        (module._buffers, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    try:
        yield
    finally:
        for buffers, name, buffer, value in before:
            buffers[name] = buffer.copy_(value)


def look_at_what_fits(
    task: Task,
    model: nn.Module,
    fetched: Callable[[int, torch.device], Batch],
    rows: int,
    device: torch.device,
    precisions: list[str],
) -> Facts:
    """`look` at the first `rows` rows; where memory runs out, at half of them. What then fits is for the steps to find.

    Raises:
        NoMemory: a single row does not fit.
    """
    while True:
        try:
            return look(task, model, fetched(rows, device), device, precisions)
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
            said = first_line(error)
        model.zero_grad(set_to_none=True)
        memory.release(device)
        fewest = 2 if couples_the_batch(model) else 1
        if rows <= fewest:
            raise NoMemory(f"out of memory on {rows} row(s), before the first step ({said})", intact=True)
        rows = max(fewest, -(-rows // 2))


def look(task: Task, model: nn.Module, batch: Batch, device: torch.device, precisions: list[str]) -> Facts:
    """Run the loss on one micro-batch, and time it in each of `precisions`.

    Args:
        task: whose loss it is.
        model: on `device`; left as it was.
        batch: one micro-batch on `device`.
        device: where both are.
        precisions: to time; none makes this a single pass without timing.

    Raises:
        HotloopError: the loss has the wrong shape, or does not depend on any parameter.
    """
    with buffers_put_back(model), machine.undisturbed(device):
        with telling_whose("the loss", batch):
            scalar = _check(task, model, batch, device)
        seconds = _time(task, model, batch, device, precisions)
    model.zero_grad(set_to_none=True)
    return Facts(scalar, seconds, paddable=not scalar and not isinstance(batch.get("weight"), Mapping))


def _check(task: Task, model: nn.Module, batch: Batch, device: torch.device) -> bool:
    rows = next(micro_batches(batch, min(2, rows_of(batch))))
    values = task.loss(model, rows, True)
    parts = values if isinstance(values, dict) else {"": values}
    for name, part in parts.items():
        if not isinstance(part, Tensor):
            raise HotloopError(
                f"the loss{f' {name!r}' if name else ''} is a {type(part).__name__}, not a tensor",
                where="the task's loss",
                fix="return a tensor with one value a row, or a dict of such tensors",
            )
        if part.device.type != device.type:
            raise HotloopError(f"the loss is on {part.device}, the model on {device}", where="the task's loss")
        if part.dim() > 1 and part.shape[0] == part.shape[1] == rows_of(rows) < rows_of(batch):
            _refuse_pairs(task, model, batch, name, rows_of(rows) + 1)
    total = micro_loss(task, model, {}, rows, total_weights(task, rows))
    if not total.requires_grad:
        raise HotloopError(
            "the loss does not depend on any parameter that is trained",
            where="the task's loss",
            fix="compute it from the model's output, without .detach(), .item() or torch.no_grad()",
        )
    return any(part.dim() == 0 for part in parts.values()) and task.loss_weight(rows) is None


def _refuse_pairs(task: Task, model: nn.Module, batch: Batch, name: str, rows: int) -> None:
    """A second axis that grows with the rows is no axis of the items: (B,) against (B, 1) was broadcast to (B, B)."""
    values = task.loss(model, next(micro_batches(batch, rows)), True)
    part = values[name] if isinstance(values, dict) else values
    if part.dim() > 1 and part.shape[1] == rows:
        raise HotloopError(
            f"the loss has a value for each pair of rows: shape {tuple(part.shape)} for {rows} rows",
            where="the task's loss",
            fix="give prediction and target the same shape, (B,) and (B,) or (B, 1) and (B, 1)",
        )


def rehearse(task: Task, model: nn.Module, source: Source, plan: Plan) -> set[str]:
    """Evaluate a row or two before the run, so that what evaluation cannot do is told before it costs an epoch.

    Returns:
        Names that `measure.evaluate` will give, without the eval_ prefix.

    Raises:
        HotloopError: loss, metrics or outputs have the wrong shape, or cannot be averaged over several batches.
    """
    device, size = plan.torch_device, min(2, len(source), plan.eval_batch)
    place = device if plan.resident and source.nbytes is not None else torch.device("cpu")
    with buffers_put_back(model), measuring(model, device), autocast(device, plan.precision):
        with telling_whose("the validation data"):
            batch = move(fetch(source, torch.arange(size, device=place), None), device)
        with telling_whose("the loss or a metric, in validation,", batch):
            found = plain_tallies(task, model, batch, size if len(source) <= plan.eval_batch else len(source))
            task.predict(model, batch)
        if size > 1 and len(source) % plan.eval_batch == 1 and not plan.pad_ragged:
            row = next(micro_batches(batch, 1))
            with telling_whose("the loss or a metric, on the single row that validation ends with,", row):
                if _numbers(task.loss(model, row, False)) and not _numbers(task.loss(model, batch, False)):
                    raise _squeezed("validation ends with a single row")
                task.metrics(model, row)
        return set(means(task, found))


def _time(task: Task, model: nn.Module, batch: Batch, device: torch.device, precisions: list[str]) -> dict[str, float]:
    """Seconds of a pass in each precision, in turn: the shortest of some, which noise disturbs least.

    A pass that would take long is timed on fewer rows and scaled, so that looking never costs more than a few seconds.
    """
    if not precisions:
        return {}
    rows = rows_of(batch)
    few = next(micro_batches(batch, min(2, rows)))
    _pass(task, model, few, device, precisions[0])  # the first pass of all pays for much that no other does
    whole = _pass(task, model, few, device, precisions[0]) * rows / rows_of(few)
    timed = max(2, int(rows * _SECONDS / whole)) if whole > _SECONDS else rows
    part = next(micro_batches(batch, min(timed, rows)))
    best = dict.fromkeys(precisions, math.inf)
    for round_number in range(_ROUNDS + 1):
        for precision in precisions:
            spent = _pass(task, model, part, device, precision) * rows / rows_of(part)
            if round_number:
                best[precision] = min(best[precision], spent)
    return best


def _pass(task: Task, model: nn.Module, batch: Batch, device: torch.device, precision: str) -> float:
    """Seconds of one forward and backward pass."""
    started = time.perf_counter()
    with autocast(device, precision):
        loss = micro_loss(task, model, {}, batch, total_weights(task, batch))
    loss.backward()  # type: ignore[no-untyped-call]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def lone_row_steps(sampler: Sampler, plan: Plan) -> list[int]:
    """Steps of the first epoch (1-based) in which a micro-batch is a single row: of the whole and the last batches."""
    last = min(sampler.steps_per_epoch, plan.total_steps)
    rows = {step: len(sampler.indices(0, step - 1)) for step in (1, last)}
    return sorted(step for step, count in rows.items() if count % plan.micro_batch == 1 or plan.micro_batch == 1)


def refuse_lone_rows(task: Task, model: nn.Module, source: Source, sampler: Sampler, plan: Plan) -> None:
    """Tell before the run what will fail on a micro-batch of one row: BatchNorm, or a .squeeze() that drops its axis.

    Raises:
        HotloopError: with the step, and a batch size that fits.
    """
    steps = lone_row_steps(sampler, plan)
    if not steps or plan.pad_ragged:
        return
    device = plan.torch_device
    row = _first_rows(source, sampler, 1, device)
    with buffers_put_back(model), machine.undisturbed(device), torch.no_grad(), autocast(device, plan.precision):
        try:
            values = task.loss(model, row, True)
        except (ValueError, RuntimeError, IndexError) as error:
            if "more than 1 value per channel" not in str(error):
                with telling_whose(f"the loss, on the single row of step {steps[0]},", row):
                    raise
            raise _cannot_normalise(len(source), sampler, plan, steps[0]) from error
        pair = _first_rows(source, sampler, 2, device)
        if rows_of(pair) > 1 and _numbers(values) and not _numbers(task.loss(model, pair, True)):
            raise _squeezed(f"step {steps[0]} has a micro-batch of one row")


def _first_rows(source: Source, sampler: Sampler, rows: int, device: torch.device) -> Batch:
    return move(fetch(source, torch.from_numpy(sampler.indices(0, 0)[:rows].copy()), None), device)


def _numbers(values: LossValues) -> bool:
    """Whether a part of the loss is a single number."""
    return any(part.dim() == 0 for part in (values.values() if isinstance(values, dict) else [values]))


def _squeezed(where: str) -> HotloopError:
    """A loss that has one value a row for several rows and none for one: it would count as a mean."""
    return HotloopError(
        f"{where}, and the loss gives a single number for it, where it gives one value a row for more rows",
        where="the task's loss",
        fix="write .squeeze(-1), or .flatten(1): a bare .squeeze() drops the batch axis of a single row too",
    )


def _cannot_normalise(total: int, sampler: Sampler, plan: Plan, step: int) -> HotloopError:
    rows, size = len(sampler.indices(0, step - 1)), plan.micro_batch
    return HotloopError(
        f"step {step} has {rows} rows in micro-batches of {size}, and BatchNorm cannot train on a single row",
        where="training.batch_size",
        fix=_even(total, plan),
    )


def _even(rows: int, plan: Plan) -> str:
    """A batch size near the one asked for that leaves no single row over, or one row less."""
    sizes = sorted(range(2, 2 * plan.micro_batch + 4), key=lambda size: abs(size - plan.micro_batch))
    for size in sizes:
        effective = size * plan.accumulation
        left = rows % effective or effective
        if effective % size != 1 and left % size != 1:
            return f"use training.batch_size={size}, which leaves no row alone, or data.limit={rows - 1}"
    return f"drop a row: data.limit={rows - 1}"


def coupled_in_pieces(plan: Plan, model: nn.Module) -> list[str]:
    """A line where layers that mix rows see pieces of the effective batch; an error where that is refused."""
    if plan.accumulation == 1 or not couples_the_batch(model):
        return []
    what = (
        f"BatchNorm (or another layer that mixes rows) sees micro-batches of {plan.micro_batch} rows, not the "
        f"effective batch of {plan.effective_batch}: the result is not that of one batch"
    )
    if plan.on_batchnorm == "refuse":
        raise HotloopError(what, where="memory.on_batchnorm", fix="use gradient_accumulation_steps=1, or allow it")
    return [what]
