"""Rows as a user of any trainer would write them: a torch Dataset that slices tensors, and a collate that pads.

Windows are slices of what the task's source holds, so no row costs more than in anyone's own Dataset. Rows of different
lengths are kept unpadded and filled up to the longest of their batch. Shapes: T positions of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
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
