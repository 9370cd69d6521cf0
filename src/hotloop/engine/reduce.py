"""From unreduced loss values to the number that is differentiated: sum of values x weight over the total weight.

One rule serves padding, masks, class weights, ragged windows and accumulation: the total is that of the whole
effective batch, so micro-batches of any sizes add up to the same gradient. Shapes: B rows; values (B, ...) and weight
(B, ...) with weight's axes leading; a weight with fewer axes weighs the mean over the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.errors import HotloopError
from hotloop.task import Batch, Tally, Task

Totals = dict[str, Tensor | float]  # total weight of the effective batch, per loss term
ROWS = "rows"  # key of the number of rows in Totals; not a valid name for a loss term
SCALAR = "scalar loss"


def rows_of(batch: Mapping[str, Any]) -> int:
    """B, from the first tensor."""
    value = next(iter(batch.values()))
    return rows_of(value) if isinstance(value, Mapping) else len(value)


def micro_batches(batch: Batch, size: int, lone_row: bool = True) -> Iterator[Batch]:
    """The batch cut into pieces of at most `size` rows, in order; views, not copies.

    Without `lone_row` (for layers that couple rows) no piece is a single one: the last two pieces share their rows, or
    a last row joins two others.
    """
    rows = rows_of(batch)
    if rows <= size:
        yield batch
        return
    ends = [*range(size, rows, size), rows]
    if not lone_row and size > 1 and rows % size == 1:
        ends[-2:] = [rows - (size + 1) // 2, rows] if size > 2 else [rows]
    for first, last in zip([0, *ends], ends, strict=False):
        yield _cut(batch, first, last)


def _cut(batch: Mapping[str, Any], first: int, last: int) -> dict[str, Any]:
    return {name: _cut(v, first, last) if isinstance(v, Mapping) else v[first:last] for name, v in batch.items()}


def couples_the_batch(model: nn.Module) -> bool:
    """Whether a row's output depends on the other rows in training, so that padding or splitting would change it.

    BatchNorm does; another layer declares it with an attribute `couples_the_batch = True`.
    """
    known = nn.modules.batchnorm._BatchNorm
    return any(isinstance(part, known) or getattr(part, "couples_the_batch", False) is True for part in model.modules())


def total_weights(task: Task, batch: Batch) -> Totals:
    """Total weight of an effective batch, per term, and its rows."""
    totals: Totals = {ROWS: rows_of(batch)}
    weight: Any = batch.get("weight")
    if isinstance(weight, Mapping):
        totals.update({name: _positive(part.sum()) for name, part in weight.items()})
    elif weight is not None:
        totals[""] = _positive(weight.sum())
    stated = task.loss_weight(batch)
    if stated is not None:
        totals[SCALAR] = _positive(stated)
    return totals


def _positive(total: Tensor) -> Tensor:
    """A total to divide by: where nothing weighs anything the sum above it is 0, and so is the quotient."""
    return total.clamp(min=1e-30)


def micro_loss(task: Task, model: nn.Module, terms: Mapping[str, float], micro: Batch, totals: Totals) -> Tensor:
    """This micro-batch's share of the effective batch's loss, 0-d and differentiable."""
    values = task.loss(model, micro, True)
    weight: Any = micro.get("weight")
    if isinstance(values, Tensor):
        return _share(task, "", values, weight, micro, totals)
    shares = []
    for name, part in values.items():
        own = weight.get(name) if isinstance(weight, Mapping) else weight
        shares.append(_share(task, name, part, own, micro, totals) * terms.get(name, 1.0))
    return torch.stack(shares).sum()


def _share(task: Task, name: str, values: Tensor, weight: Tensor | None, micro: Batch, totals: Totals) -> Tensor:
    rows, values = rows_of(micro), _full(values)
    if values.dim() == 0:
        return _scalar_share(task, values, weight, micro, totals)
    if len(values) != rows:
        raise HotloopError(
            f"the loss{f' {name!r}' if name else ''} has shape {tuple(values.shape)} for a batch of {rows} rows",
            where="the task's loss",
            fix="return one value a row (reduction='none'); a .squeeze() that drops the batch axis does this too",
        )
    if weight is None:
        return values.sum() * (rows / values.numel() / totals[ROWS])
    return weighted_sum(values, weight) / totals[name if name in totals else ""]


def _full(values: Tensor) -> Tensor:
    """Half-precision values in float32: their sum could overflow in fp16, and would have three digits in bf16."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def weighted_sum(values: Tensor, weight: Tensor) -> Tensor:
    """Sum of values x weight, where weight's axes are the leading ones of values."""
    if values.shape[: weight.dim()] != weight.shape:
        raise HotloopError(
            f"loss values of shape {tuple(values.shape)} do not match a weight of shape {tuple(weight.shape)}",
            where="the task's loss",
            fix="return values shaped like the batch's 'weight'",
        )
    if values.dim() > weight.dim():
        values = values.flatten(weight.dim()).mean(-1)
    return (values * weight).sum()


def _scalar_share(task: Task, value: Tensor, weight: Tensor | None, micro: Batch, totals: Totals) -> Tensor:
    """A loss that came as a mean: usable unsplit, or with the weight it was taken over."""
    stated = task.loss_weight(micro)
    if stated is not None:
        return value * stated / totals[SCALAR]
    if weight is not None or rows_of(micro) != totals[ROWS]:
        raise scalar_refused("a batch with weights or padding" if weight is not None else "a batch that is split")
    return value


class Indivisible(HotloopError):
    """A loss that came as a mean, where a batch is split."""


def scalar_refused(situation: str) -> Indivisible:
    """Why a mean cannot be averaged again by rows."""
    return Indivisible(
        f"the loss is a single number, which cannot be weighed right for {situation}",
        where="the task's loss",
        fix="return unreduced values (reduction='none'), or say with loss_weight(batch) what the mean was taken over",
    )


def plain_tallies(task: Task, model: nn.Module, batch: Batch, rows_total: int) -> dict[str, Tally]:
    """Metrics and plain loss of an evaluation batch: 'loss' for one term, 'loss_NAME' for each of several."""
    values, metrics = task.loss_and_metrics(model, batch)
    _require_tallies(task, metrics)
    weight: Any = batch.get("weight")
    if isinstance(values, Tensor):
        return {"loss": _tally(task, values, weight, batch, rows_total), **metrics}
    owns = {name: weight.get(name) if isinstance(weight, Mapping) else weight for name in values}
    terms = {f"loss_{name}": _tally(task, part, owns[name], batch, rows_total) for name, part in values.items()}
    return {**terms, **metrics}


def _require_tallies(task: Task, metrics: Any) -> None:
    found = metrics if isinstance(metrics, Mapping) else {"": metrics}
    wrong = [(name, value) for name, value in found.items() if not isinstance(value, Tally)]
    if wrong:
        name, value = wrong[0]
        raise HotloopError(
            f"{type(task).__name__}.metrics() gave a {type(value).__name__}" + (f" as '{name}'" if name else ""),
            where="the task's metrics",
            fix='return {"accuracy": hotloop.Tally.of(right, batch.get("weight"))}, with one value a row',
        )


def _tally(task: Task, values: Tensor, weight: Tensor | None, batch: Batch, rows_total: int) -> Tally:
    values = _full(values)
    if values.dim() == 0:
        stated = task.loss_weight(batch)
        if stated is not None:
            return Tally(values * stated, stated)
        if weight is not None or rows_of(batch) != rows_total:
            raise scalar_refused("an evaluation in several batches")
        return Tally(values.float(), torch.ones((), device=values.device))
    if weight is None:
        return Tally.of(values)
    return Tally(weighted_sum(values.float(), weight), weight.sum())
