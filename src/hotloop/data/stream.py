"""Streams: data that comes in an order of its own and cannot be sought, an IterableDataset or a DataLoader as it is.

A stream only trains. It has no length: an epoch is unknown, and a pass that ends begins again. A resumed run starts it
from the beginning, and says so. What the person's code draws at random is keyed by (seed, step), as for Datasets.
A DataLoader whose order is torch's own is no stream: it is taken apart, and its dataset read in hotloop's order.
Shapes: B rows; a batch is a dict of tensors with first axis B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from hotloop.config.schema import DataSection, TrainingSection
from hotloop.data.dataset import DatasetSource, named, named_collate
from hotloop.data.sampler import Indices, key_of
from hotloop.data.seeded import seeded
from hotloop.errors import HotloopError

Batch = dict[str, Tensor]
_ITEMS = 5  # purpose of the key that items draw from, the same as for Datasets


@dataclass(frozen=True)
class Passing:
    """The order of a stream: whatever comes next. An epoch is the whole run, as a pass has no known length."""

    batch_size: int
    steps_per_epoch: int

    def indices(self, epoch: int, step: int, count: int = 1) -> Indices:
        """Places in the stream, counted from its start."""
        first = (epoch * self.steps_per_epoch + step) * self.batch_size
        return np.arange(first, first + count * self.batch_size, dtype=np.int64)


class StreamSource:
    """Items or batches in the order in which they come; the first batch can be looked at before training takes it.

    Args:
        stream: gives a new iterator each time it is iterated.
        take: (iterator, size) -> the next batch, or None at the end of a pass.
        kind: what it is, for messages.
        why: the reason why it cannot be sought.
        own_batch: rows of its batches where it makes them itself; None where it gives items.
        own_workers: processes that it runs itself.
    """

    nbytes: int | None = None

    def __init__(
        self,
        stream: Any,
        take: Callable[[Iterator[Any], int], Batch | None],
        *,
        kind: str,
        why: str,
        own_batch: int | None = None,
        own_workers: int = 0,
    ) -> None:
        self._stream, self._take, self.kind, self.why = stream, take, kind, why
        self.own_batch, self.own_workers = own_batch, own_workers
        self._size, self._seed = own_batch or 1, 0
        self.left_out: list[str] = []  # columns that hold no numbers
        self._begun: tuple[Iterator[Batch], Batch] | None = None  # a pass, and the batch that was looked at

    def __len__(self) -> int:
        raise HotloopError(
            f"{self.kind} is a stream and has no length, so it cannot be split, limited, weighed or ordered",
            where="the training data",
            fix="leave data.limit and the like out and use data.val_fraction=0, or pass a map-style Dataset",
        )

    def begin(self, batch_size: int, seed: int) -> None:
        """Say how the first batch is to be made, before anyone looks at it."""
        self._size, self._seed = batch_size, seed

    def batch(self, indices: Tensor) -> Batch:
        """The first rows of the stream, which training will see again as its first batch; no others can be had."""
        head = self.look()
        rows = _rows(head)
        return {name: value[indices[indices < rows]] for name, value in head.items()}

    def look(self) -> Batch:
        """The first batch, which training will still get."""
        if self._begun is None:
            come = self._passes(self._size, self._seed, 0)
            self._begun = come, next(come)
        return self._begun[1]

    def column(self, name: str) -> Tensor | None:
        return None

    def to(self, device: torch.device) -> StreamSource:
        raise AssertionError("a stream cannot live on a device")

    def batches(self, batch_size: int, seed: int, first_step: int) -> Iterator[Batch]:
        """Batches without end, the stream from its start on; `first_step` only keys what items draw at random."""
        begun, self._begun = self._begun, None
        if begun is not None and first_step == 0:
            yield begun[1]
            yield from begun[0]
        yield from self._passes(batch_size, seed, first_step)

    def _passes(self, size: int, seed: int, step: int) -> Iterator[Batch]:
        first = step
        while True:
            before = step
            with seeded(key_of(seed, _ITEMS, step)):
                items = iter(self._stream)
            while (batch := self._next(items, size, key_of(seed, _ITEMS, step))) is not None:
                yield batch
                step += 1
            if step == before:
                raise self._ran_dry(step - first)

    def _next(self, items: Iterator[Any], size: int, key: int) -> Batch | None:
        with seeded(key):
            return self._take(items, size)

    def _ran_dry(self, steps: int) -> HotloopError:
        if steps == 0:
            return HotloopError(f"{self.kind} gave no items", where="the training data", fix="look at what it reads")
        return HotloopError(
            f"{self.kind} ended after {steps:,} batches and gave nothing when it was iterated again",
            where="the training data",
            fix=f"let its __iter__ begin anew each time, or train for training.max_steps={steps}",
        )

    def remarks(self) -> list[str]:
        """What a person should know of a run on a stream."""
        return [
            f"the data is a stream that cannot seek ({self.why}): a resumed run starts it from the beginning, "
            "so resuming is not exact"
        ]

    def workers(self, wanted: int | str) -> int:
        """Processes that fetch: the stream's own.

        Raises:
            HotloopError: others were asked for; each would read the whole stream.
        """
        if wanted in ("auto", self.own_workers):
            return self.own_workers
        raise HotloopError(
            f"{self.kind} is a stream, which {wanted} workers would each read from its start",
            where="data.num_workers",
            fix="leave it out, or pass DataLoader(stream, batch_size=..., num_workers=...), which is used as it comes",
        )


def ordered(source: StreamSource, training: TrainingSection, data: DataSection, seed: int) -> Passing:
    """The order of a run on a stream, once what it cannot do is refused.

    Args:
        source: begun here with the effective batch size.
        training, data: sections of the configuration.
        seed: of the run.

    Raises:
        HotloopError: a length in epochs, workers, batches of another size, accumulation over ready-made batches.
    """
    if training.max_steps is None:  # warmup and decay need a length too, so max_time alone does not do
        raise HotloopError(
            f"{source.kind} is a stream: how long a pass over it is, nobody knows, so epochs cannot be counted",
            where="training.num_epochs",
            fix="say how long to train with training.max_steps=... (training.max_time may end it earlier)",
        )
    if training.num_epochs is not None:
        raise HotloopError(
            f"{source.kind} is a stream, so num_epochs has no meaning beside max_steps",
            where="training.num_epochs",
            fix="leave training.num_epochs out",
        )
    source.workers(data.num_workers)
    if source.own_batch is not None:
        _require_its_batches(source, source.own_batch, training)
    size = training.batch_size * training.gradient_accumulation_steps
    source.begin(size, seed)
    return Passing(size, training.max_steps)


def _require_its_batches(source: StreamSource, own: int, training: TrainingSection) -> None:
    if training.batch_size != own:
        raise disagreement(source.kind, own, training.batch_size)
    if training.gradient_accumulation_steps > 1:
        raise HotloopError(
            f"{source.kind} makes its own batches of {own}, which are used as they come",
            where="training.gradient_accumulation_steps",
            fix=f"make the loader's batches {own * training.gradient_accumulation_steps} rows, or leave it at 1",
        )


def disagreement(kind: str, own: int, stated: int, key: str = "training.batch_size") -> HotloopError:
    """The loader says one number and the configuration another."""
    name = key.partition(".")[2]
    return HotloopError(
        f"{kind} has {name}={own}, and the configuration says {name}={stated}",
        where=key,
        fix=f"leave {key} out, or give both the same number",
    )


def from_items(dataset: Any, collate: Callable[[list[Any]], Batch] = named_collate) -> StreamSource:
    """An IterableDataset: consecutive items are collated; the last batch of a pass may be shorter."""

    def take(items: Iterator[Any], size: int) -> Batch | None:
        found = list(islice(items, size))
        return collate(found) if found else None

    return StreamSource(dataset, take, kind=type(dataset).__name__, why="an IterableDataset")


def from_loader(loader: DataLoader[Any]) -> DatasetSource | StreamSource:
    """A DataLoader in hand: taken apart where its order is torch's own, else used as it comes.

    Taken apart, its dataset and collation are kept, and the order is hotloop's: shuffled, each item once an epoch, and
    sought when resuming.
    """
    collate = loader.collate_fn
    why = _own_order(loader)
    if not why:
        own = None if collate is default_collate else lambda items: named(collate(items), type(items[0]).__name__)
        return DatasetSource(loader.dataset, own)
    kind = f"the DataLoader of {type(loader.dataset).__name__}"

    def take(batches: Iterator[Any], _: int) -> Batch | None:
        found = next(batches, None)
        return None if found is None else named(found, f"{type(found).__name__} (a batch of the DataLoader)")

    rows = batch_size_of(loader)
    source = StreamSource(loader, take, kind=kind, why=why, own_batch=rows, own_workers=loader.num_workers)
    if rows is None:  # only its batches can tell
        source.own_batch = _rows(source.look())
    return source


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def batch_size_of(loader: DataLoader[Any]) -> int | None:
    """Rows of a loader's batches; None where it does not say."""
    found = loader.batch_size if loader.batch_size is not None else getattr(loader.batch_sampler, "batch_size", None)
    return found if isinstance(found, int) else None


def _own_order(loader: DataLoader[Any]) -> str:
    """Why a loader's batches are used as they come; empty where torch's plain order says all."""
    if isinstance(loader.dataset, IterableDataset):
        return "a DataLoader of an IterableDataset"
    if type(loader.batch_sampler) is not BatchSampler or loader.batch_size is None:
        return "a DataLoader with a batch_sampler of its own"
    sampler: Any = loader.sampler
    if type(sampler) not in (RandomSampler, SequentialSampler):
        return f"a DataLoader with a sampler of its own, {type(sampler).__name__}"
    if isinstance(sampler, RandomSampler) and (sampler.replacement or len(sampler) != len(sampler.data_source)):
        return "a DataLoader that draws with replacement, or not every item"
    if loader.drop_last and len(loader.dataset) % loader.batch_size:  # type: ignore[arg-type]
        return "a DataLoader with drop_last=True"
    if loader.worker_init_fn is not None and loader.num_workers:
        return "a DataLoader with a worker_init_fn"
    return ""
