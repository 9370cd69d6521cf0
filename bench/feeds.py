"""Rows as a user of any trainer would write them: a torch Dataset that slices tensors, and a collate that pads.

Windows are slices of what the task's source holds, so no row costs more than in anyone's own Dataset. Rows of different
lengths are kept unpadded and filled up to the longest of their batch. Shapes: T positions of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

Row = dict[str, Tensor]
Collate = Callable[[list[Row]], Row] | None


class Rows(Dataset[Row]):
    """`count` rows, each made by `read`."""

    def __init__(self, read: Callable[[int], Row], count: int) -> None:
        self.read, self.count = read, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> Row:
        return self.read(place)


def rows_and_collate(task: Any, source: Any) -> tuple[Callable[[int], Row], Collate]:
    """How a row of a task's training source is read, and how rows become a batch (None is torch's own way)."""
    kind = type(source).__name__
    if kind == "Windows":
        return _book(source), None
    if kind == "TokenWindows":
        return _text(source), None
    if kind == "SeriesWindows":
        return _series(source), None
    if kind == "RaggedSource":
        return _ragged(task, source)
    raise AssertionError(f"no rows are written for {kind}")


def _book(source: Any) -> Callable[[int], Row]:
    rows, starts, y, length = source.books.rows, source.books.starts.tolist(), source.books.y, source.window
    return lambda place: {"x": rows[starts[place] : starts[place] + length], "y": y[place]}


def _text(source: Any) -> Callable[[int], Row]:
    tokens, length = source.tokens.long(), source.block_size
    return lambda place: {
        "x": tokens[place : place + length],
        "y": tokens[place + 1 : place + 1 + length],
    }


def _series(source: Any) -> Callable[[int], Row]:
    values, length, horizon = source._rows.values, source.sequence, source.horizon
    starts, symbols, targets = source.places[0].tolist(), source.places[1], list(source.targets)

    def read(place: int) -> Row:
        start = starts[place]
        ahead = values[start + length : start + length + horizon]
        return {"x": values[start : start + length], "y": ahead[:, targets], "symbol": symbols[place]}

    return read


def _ragged(task: Any, source: Any) -> tuple[Callable[[int], Row], Collate]:
    """Token rows, cut to their own lengths once; only the names that are padded in the source are padded here."""
    pad = getattr(task.tokens, "pad", 0)
    kept = [_trimmed(source.batch(torch.tensor([place])), pad) for place in range(len(source))]
    return kept.__getitem__, lambda rows: collated(rows, pad)


def _trimmed(batch: Row, pad: int) -> Row:
    """The only row of a batch without what fills it up."""
    row = {name: value[0] for name, value in batch.items()}
    for name in ("src", "ids"):
        if name in row:
            row[name] = row[name][: int((row[name] != pad).sum())].clone()
    if "weight" in row and row["weight"].dim():
        real = int(row["weight"].sum())
        row |= {name: row[name][:real].clone() for name in ("x", "y", "weight")}
    return row


def collated(rows: list[Row], pad: int) -> Row:
    """Rows stacked; of different lengths filled up to the longest, tokens with `pad`, weights with 0."""
    batch = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        if not parts[0].dim():
            batch[name] = torch.stack(parts)
            continue
        fill = 0.0 if name == "weight" else pad
        batch[name] = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill)
    return batch


class Order:
    """A batch sampler: lists of row numbers, micro-batch by micro-batch, for the whole run."""

    def __init__(self, sampler: Any, steps: int, micro: int) -> None:
        self.sampler, self.steps, self.micro = sampler, steps, micro

    def __len__(self) -> int:
        return self.steps * -(-self.sampler.batch_size // self.micro)

    def __iter__(self) -> Iterator[list[int]]:
        from hotloop.data.loader import IndexStream

        for indices in islice(iter(IndexStream(self.sampler, torch.device("cpu"))), self.steps):
            yield from self.cut(indices)

    def cut(self, indices: Tensor) -> Iterator[list[int]]:
        """A step's rows in as many pieces as every step has: a short batch is cut finer."""
        pieces = -(-self.sampler.batch_size // self.micro)
        yield from (piece.tolist() for piece in indices.tensor_split(pieces) if len(piece))


class Feed:
    """hotloop's own feed for another trainer: resident where the data can be, padded where code is compiled."""

    def __init__(self, ready: Any) -> None:
        self.ready = ready

    def __len__(self) -> int:
        return self.ready.workload.steps * self.ready.pieces

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        from hotloop.data.loader import batches
        from hotloop.engine.reduce import couples_the_batch

        ready = self.ready
        source, resident = ready.source, ready.source.nbytes is not None
        pad = ready.knobs.pad and not couples_the_batch(ready.net)
        source = source.to(ready.device) if resident else source
        whole = batches(source, ready.sampler, ready.device, pad=pad, seed=1, resident=resident)
        for batch in islice(whole, ready.workload.steps):
            names, pieces = list(batch), [value.tensor_split(ready.pieces) for value in batch.values()]
            yield from (dict(zip(names, piece, strict=True)) for piece in zip(*pieces, strict=True))


class Net(nn.Module):
    """The task's model with its loss: a batch in, the weighted mean and its weight out."""

    accepts_loss_kwargs = False  # HF Trainer then divides by the number of micro-batches, as everyone here

    def __init__(self, task: Any, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._task = [task]  # in a list: no part of the module

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        values = self._task[0].loss(self.model, batch, True).float()
        weight = batch.get("weight")
        if weight is None:
            return {"loss": values.mean(), "weight": values.new_ones(())}
        total = weight.sum()
        return {"loss": (values.reshape(*weight.shape, -1).mean(-1) * weight).sum() / total, "weight": total}
