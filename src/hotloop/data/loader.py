"""The feed: effective batches on the device, in the sampler's order, from any step on.

Data that fits lives on the device and a batch is a gather; other data comes from the host, through torch's DataLoader
when there are workers, with pinned memory and a copy on a side stream while the device works. The position is the
step number alone. Items fetched one by one (a torch Dataset) draw from generators seeded by (seed, step), so that
random augmentation too is a function of the position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hotloop.data.sampler import Indices, Sampler, key_of
from hotloop.data.seeded import seeded
from hotloop.data.source import Source, times
from hotloop.data.stream import StreamSource
from hotloop.data.survivors import surviving, undisturbed_by_children
from hotloop.errors import HotloopError

Batch = dict[str, Tensor]
_CHUNK = 8192  # indices worked out at once: their cost is spread over many small steps


def fill_up(indices: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Indices repeated up to `rows`, and the weight (rows,) that makes the repeated ones count nothing."""
    weight = torch.zeros(rows, device=indices.device)
    weight[: len(indices)] = 1.0
    return torch.cat([indices, indices[-1:].expand(rows - len(indices))]), weight


def fetch(source: Source, indices: Tensor, rows: int | None) -> Batch:
    """One batch; with `rows` given, filled up to that many with rows of weight 0 (and always with a weight)."""
    if rows is None:
        return source.batch(indices)
    indices, mask = fill_up(indices, rows)
    batch: dict[str, Any] = source.batch(indices)
    batch["weight"] = times(batch.get("weight"), mask)
    return batch


def filled(batch: Batch, rows: int) -> Batch:
    """A batch that came without indices, filled up to `rows` by its last row with weight 0 (always with a weight)."""
    some: Any = next(iter(batch.values()))
    have = len(next(iter(some.values())) if isinstance(some, dict) else some)
    rows = max(rows, have)
    places, mask = fill_up(torch.arange(have), rows)
    whole: dict[str, Any] = {name: _each(value, lambda t: t.index_select(0, places)) for name, value in batch.items()}
    whole["weight"] = times(whole.get("weight"), mask)
    return whole


class IndexStream:
    """Index tensors of consecutive steps, worked out many at a time and moved to the device in one piece.

    Args:
        sampler: the order.
        device: where the indices are wanted.
        step: the first step (0-based, over the whole run).
    """

    def __init__(self, sampler: Sampler, device: torch.device, step: int = 0) -> None:
        self._sampler, self._device, self._step = sampler, device, step
        self._ready: list[Tensor] = []

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            if not self._ready:
                self._ready = self._work_out()[::-1]
            self._step += 1
            yield self._ready.pop()

    def _work_out(self) -> list[Tensor]:
        per_epoch, size = self._sampler.steps_per_epoch, self._sampler.batch_size
        epoch, within = divmod(self._step, per_epoch)
        count = min(max(1, _CHUNK // size), per_epoch - within)
        indices: Indices = self._sampler.indices(epoch, within, count)
        tensor = torch.from_numpy(np.ascontiguousarray(indices))
        return list(torch.split(tensor.to(self._device, non_blocking=True), size))


class _Steps(Dataset[Batch]):
    """For the DataLoader: an item is the whole batch of one step."""

    def __init__(self, source: Source, rows: int | None, seed: int) -> None:
        self._source, self._rows, self.seed = source, rows, seed

    def __getitem__(self, place: tuple[int, Tensor]) -> Batch:
        step, indices = place
        if self._source.nbytes is not None or not getattr(self._source, "draws", True):  # ours draw nothing
            return fetch(self._source, indices, self._rows)
        with seeded(key_of(self.seed, 5, step)):
            return fetch(self._source, indices, self._rows)


def batches(
    source: Source,
    sampler: Sampler,
    device: torch.device,
    *,
    first_step: int = 0,
    pad: bool = False,
    seed: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
    prefetch: int = 2,
    resident: bool = True,
    watch: Callable[[Iterator[Batch]], Iterator[Batch]] | None = None,
    tell: Callable[[str, str], None] = lambda text, level: None,
) -> Iterator[Batch]:
    """Effective batches on `device`, without end, from `first_step` on.

    Args:
        source: already on `device` if `resident`.
        sampler: the order, with the effective batch size.
        device: where the batches are wanted.
        first_step: 0-based, over the whole run.
        pad: fill a shorter batch up with rows of weight 0.
        seed: of the items' own randomness.
        num_workers: processes that fetch; 0 fetches here.
        pin_memory: page-lock host batches so that copies run beside the computation.
        prefetch: batches each worker keeps ready.
        resident: gather on the device instead of copying from the host.
        watch: takes the batches in host memory and gives the same ones on; a profile times them so.
        tell: takes a line and its level, where workers die.
    """
    rows = sampler.batch_size if pad else None
    if resident:
        for indices in IndexStream(sampler, device, first_step):
            yield fetch(source, indices, rows)
    opened = partial(from_host, _Steps(source, rows, seed), sampler, pin_memory, prefetch)
    if isinstance(source, StreamSource):
        opened = partial(_streamed, source, sampler.batch_size, rows, seed, pin_memory)
    host = (watch or iter)(surviving(opened, first_step, num_workers, tell))
    yield from on_device(host, device) if device.type == "cuda" else (move(batch, device) for batch in host)


def _streamed(
    source: StreamSource, size: int, rows: int | None, seed: int, pin: bool, first_step: int, num_workers: int
) -> Iterator[Batch]:
    """Batches that come without indices; the stream has its own workers."""
    come = source.batches(size, seed, first_step)
    return (pinned(batch if rows is None else filled(batch, rows), pin) for batch in come)


def from_host(
    steps: _Steps, sampler: Sampler, pin_memory: bool, prefetch: int, first_step: int, num_workers: int
) -> Iterator[Batch]:
    """The same batches in host memory, fetched here or by workers of torch's DataLoader."""
    places = enumerate(IndexStream(sampler, torch.device("cpu"), first_step), start=first_step)
    if num_workers == 0:
        return (pinned(steps[place], pin_memory) for place in places)
    loader: DataLoader[Batch] = DataLoader(
        steps,
        batch_size=None,
        sampler=places,
        num_workers=num_workers,
        pin_memory=pin_memory,
        prefetch_factor=max(1, prefetch),
        generator=torch.Generator().manual_seed(steps.seed % (1 << 63)),  # else it draws from the one of dropout
    )
    with undisturbed_by_children():
        return iter(loader)


def pinned(batch: Batch, pin: bool) -> Batch:
    """The batch in page-locked memory, where asked for."""
    return {name: _each(value, lambda t: t.pin_memory()) for name, value in batch.items()} if pin else batch


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; copies from pinned memory do not make the host wait."""
    return {name: _each(value, partial(_send, device, name)) for name, value in batch.items()}


def _send(device: torch.device, name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise HotloopError(
            f"'{name}' in a batch is a {type(value).__name__}, and only tensors can be trained on",
            where="the data",
            fix="leave it out of the items, or turn it into a tensor (text into token ids)",
        )
    return value.to(device, non_blocking=True)


def _each(value: Any, change: Any) -> Any:
    return {name: _each(part, change) for name, part in value.items()} if isinstance(value, dict) else change(value)


def _keep_for(stream: torch.cuda.Stream, tensor: Tensor) -> None:
    """The allocator must not reuse a copied batch before the stream that computes on it is done."""
    tensor.record_stream(stream)


def on_device(host: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy each batch on a side stream, one ahead, while the device computes on the one before."""
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy_next() -> Batch | None:
        batch = next(host, None)
        if batch is None:
            return None
        with torch.cuda.stream(side):
            return move(batch, device)

    ahead = copy_next()
    while ahead is not None:
        main = torch.cuda.current_stream(device)
        main.wait_stream(side)
        ready = ahead
        keep = partial(_keep_for, main)
        for value in ready.values():
            _each(value, keep)
        ahead = copy_next()
        yield ready
