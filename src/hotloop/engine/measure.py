"""Measuring a model on a whole source: loss and metrics, or the outputs of every row. Training never notices it.

Batches are as long as the plan says; a shorter last one is filled up with rows of weight 0 where the plan pads. Shapes:
N rows of the source, B of a batch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from hotloop import device as machine
from hotloop import memory
from hotloop.data.loader import fetch, move
from hotloop.data.ragged import source_buckets
from hotloop.data.source import Source
from hotloop.engine.layout import channels_last
from hotloop.engine.plan import Plan
from hotloop.engine.precision import autocast
from hotloop.engine.reduce import plain_tallies
from hotloop.errors import NoMemory, first_line
from hotloop.task import Batch, Tally, Task


@contextlib.contextmanager
def measuring(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients; modes of every layer and random state afterwards as they were."""
    modes = [(module, module.training) for module in model.modules()]  # a person may keep some layers frozen
    model.eval()
    try:
        with torch.no_grad(), machine.undisturbed(device):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class Room:
    """Rows of an evaluation batch at present: fewer from the first one on that did not fit. Training's are untouched.

    Args:
        rows: of the plan.
        tell: says a line (text, level) to the person; nothing if absent.
    """

    def __init__(self, rows: int, tell: Callable[[str, str], None] = lambda text, level: None) -> None:
        self.rows, self.tell = rows, tell

    def shrink(self, rows: int, said: str) -> None:
        """Take half of a batch of `rows` rows that did not fit.

        Raises:
            NoMemory: it was a single row.
        """
        if rows == 1:
            raise NoMemory(f"out of memory in evaluation on a single row ({said})", intact=True)
        before, self.rows = self.rows, -(-rows // 2)
        self.tell(f"OOM in evaluation: its batch {before} -> {self.rows}, training's is untouched", "warning")


def in_batches(source: Source, plan: Plan, room: Room, work: Callable[[Batch, Tensor], None]) -> None:
    """Do `work` on every row of a source once, as `walk` orders them; what does not fit is done in smaller pieces.

    Args:
        work: takes a batch on the device and the numbers of its real rows; it must keep nothing where it raises.
    """
    for rows in walk(source, plan.eval_batch):
        while len(rows):
            part = rows[: room.rows]
            said = _attempt(source, plan, min(room.rows, len(source)), part, work)
            if said:  # outside of the `except` block, so that the frames of the failed attempt are free
                memory.release(plan.torch_device)
                room.shrink(len(part), said)
            else:
                rows = rows[len(part) :]


def _attempt(source: Source, plan: Plan, size: int, rows: Tensor, work: Callable[[Batch, Tensor], None]) -> str:
    """Do the work on these rows; what the error says where memory ran out, empty where it did not."""
    padded = len(rows) < size and plan.pad_ragged
    try:
        batch = move(fetch(source, _placed(rows, source, plan), size if padded else None), plan.torch_device)
        work(channels_last(batch) if plan.channels_last else batch, rows)
    except Exception as error:
        if not memory.is_out_of_memory(error) or isinstance(error, NoMemory):
            raise
        return first_line(error)
    return ""


def walk(source: Source, size: int) -> Iterator[Tensor]:
    """Row numbers of the batches of an evaluation, on the host: in order; token rows bucket by bucket.

    No batch mixes two buckets, so the width that a row is padded to depends on its own length and on nothing else.
    """
    buckets = source_buckets(source)
    if buckets is None:
        yield from torch.split(torch.arange(len(source)), size)
        return
    for bucket in np.unique(buckets):
        yield from torch.split(torch.from_numpy(np.flatnonzero(buckets == bucket)), size)


def _placed(rows: Tensor, source: Source, plan: Plan) -> Tensor:
    return rows.to(plan.torch_device, non_blocking=True) if plan.resident and source.nbytes is not None else rows


def evaluate(task: Task, model: nn.Module, source: Source, plan: Plan, room: Room | None = None) -> dict[str, float]:
    """Loss and metrics over every item of a source, exact over uneven batches.

    Args:
        task: gives the plain loss and the metrics of a batch.
        model: left as it was, its mode too.
        source: already on the device if the plan says resident.
        plan: batch size, device, precision.
        room: the batch size of the moment, where several evaluations share one.

    Returns:
        Names without the eval_ prefix: loss, and what the task adds.
    """
    device, tallies = plan.torch_device, dict[str, Tally]()

    def work(batch: Batch, rows: Tensor) -> None:
        with autocast(device, plan.precision):
            found = plain_tallies(task, model, batch, len(source))
        wide = {name: Tally(tally.sum.double(), tally.weight.double()) for name, tally in found.items()}
        tallies.update({name: tallies[name] + tally if name in tallies else tally for name, tally in wide.items()})

    with measuring(model, device):  # sums in double: a long one in float32 would drift
        in_batches(source, plan, room or Room(plan.eval_batch), work)
    return means(task, tallies)


def means(task: Task, tallies: dict[str, Tally]) -> dict[str, float]:
    """Tallies as numbers, in one transfer; tables become the metrics that the task makes of them."""
    flat = torch.cat([part.reshape(-1) for tally in tallies.values() for part in (tally.sum, tally.weight)]).cpu()
    sizes = [size for tally in tallies.values() for size in (tally.sum.numel(), 1)]
    pieces = torch.split(flat, sizes)
    sums, weights = dict(zip(tallies, pieces[::2], strict=True)), dict(zip(tallies, pieces[1::2], strict=True))
    tables = {name: sums[name].view(tally.sum.shape) for name, tally in tallies.items() if tally.sum.dim()}
    plain = [name for name in tallies if name not in tables]
    found = {name: (sums[name] / weights[name]).item() if weights[name] else math.nan for name in plain}
    if "loss" not in found:  # several terms: their sum, as in training
        terms = {
            name.removeprefix("loss_"): found[name] for name in plain if name.startswith("loss_") and weights[name]
        }
        factors = task.term_weights()
        found["loss"] = sum(v * factors.get(n, 1.0) for n, v in terms.items()) if terms else math.nan
    return {**found, **task.scores(tables)} if tables else found


def gives_outputs(task: Task) -> bool:
    """Whether the task says what its model's outputs are."""
    return type(task).predict is not Task.predict


def outputs(task: Task, model: nn.Module, source: Source, plan: Plan, room: Room | None = None) -> dict[str, Tensor]:
    """What `task.predict` gives for every row of a source, in order, on the CPU: name -> (N, ...)."""
    device, parts, places = plan.torch_device, dict[str, list[Tensor]](), list[Tensor]()

    def work(batch: Batch, rows: Tensor) -> None:
        with autocast(device, plan.precision):
            found = task.predict(model, batch)
        kept = {name: value[: len(rows)] for name, value in found.items()}
        moved = {name: (v.float() if v.is_floating_point() else v).cpu() for name, v in kept.items()}
        for name, value in moved.items():
            parts.setdefault(name, []).append(value)
        places.append(rows)

    with measuring(model, device):
        in_batches(source, plan, room or Room(plan.eval_batch), work)
    order = torch.cat(places).argsort()
    return {name: torch.cat(pieces)[order] for name, pieces in parts.items()}


def prefixed(metrics: dict[str, float], part: str = "eval") -> dict[str, float]:
    """Names as they are written: eval_NAME for validation, test_NAME for the test part."""
    return {f"{part}_{name}": value for name, value in metrics.items()}
