"""Data sets of Hugging Face's `datasets`: read column by column out of Arrow, or as a stream.

Nothing is imported from there: a set is known by its type's name. Columns of text, and whatever else is no number, are
left out, and said to be. No value is filled in and no row is cut or padded.
Shapes: N rows; a column of numbers is (N,); one of lists of one length T is (N, T), deeper ones (N, H, W) and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop.data.arrays import TensorSource
from hotloop.data.dataset import DatasetSource
from hotloop.data.frames import Array, columns_of, numeric
from hotloop.data.stream import StreamSource, from_items
from hotloop.errors import HotloopError

_KINDS = ("Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict")
_LABELS = ("y", "labels", "label")
_PAD = "give every row the same length, as in tokenizer(text, padding='max_length', truncation=True, max_length=64)"
_LISTS = ("list<", "large_list<", "fixed_size_list<")
_NUMBERS = ("int", "uint", "float", "double", "halffloat", "bool")
_SHOWN = 5


def is_hugging(data: Any) -> bool:
    """Whether this is a set of the package `datasets`, found out by its type's name."""
    kinds = [kind for kind in type(data).__mro__ if kind.__module__.partition(".")[0] == "datasets"]
    return any(kind.__name__ in _KINDS for kind in kinds)


def from_hugging(data: Any) -> TensorSource | DatasetSource | StreamSource:
    """A data set of `datasets` as a source, with `left_out`, the columns that hold no numbers.

    Args:
        data: a Dataset, or an IterableDataset (a stream). With a transform of its own it is read item by item.

    Raises:
        HotloopError: several parts in a dict, no rows, no column of numbers, missing values, lists of several lengths.
    """
    if isinstance(data, Mapping):
        names = list(data)
        raise HotloopError(
            f"this {type(data).__name__} holds {len(names)} parts: {', '.join(map(str, names))}",
            where="the data",
            fix=f"pass one of them: data[{names[0] if names else 'train'!r}]",
        )
    if not hasattr(data, "__len__"):
        return _stream(data)
    if data.format["type"] == "custom":  # a transform: the person's code makes the items
        return DatasetSource(data)
    table = data.with_format("arrow", columns=data.format["columns"])[:]
    tensors: dict[str, Tensor] = {}
    left_out = []
    for name, column in columns_of(table).items():
        values = numeric(column) if column.kind not in ("text", "other") else _grid(name, table.column(name))
        if values is None:
            left_out.append(name)
        else:
            tensors[name] = torch.from_numpy(values)
    if not tensors:
        raise _no_numbers(left_out)
    source = TensorSource(tensors)
    source.left_out = left_out
    named = [getattr(data.features.get(name), "names", None) for name in _LABELS]  # of a ClassLabel
    source.classes = next((list(names) for names in named if names), [])
    return source


def _grid(name: str, column: Any) -> Array | None:
    """A column of lists as one array, (N, T) or deeper; None where it holds something else than numbers."""
    array = column.combine_chunks()
    array = getattr(array, "storage", array)  # lists of a fixed shape come wrapped
    depth, inside = 0, array.type
    while str(inside).startswith(_LISTS):
        depth, inside = depth + 1, inside.value_type
    if not depth or not str(inside).startswith(_NUMBERS):
        return None
    shape = [len(array)]
    for _ in range(depth):
        _refuse_missing(name, array, shape)
        inner = array.flatten()
        if len(array) and len(inner) % len(array):
            raise _uneven(name, array, shape)
        width = len(inner) // len(array) if len(array) else 0
        if hasattr(array, "value_lengths") and (np.asarray(array.value_lengths()) != width).any():
            raise _uneven(name, array, shape)
        shape.append(width)
        array = inner
    _refuse_missing(name, array, shape)
    return _narrowed(name, np.asarray(array.to_numpy(zero_copy_only=False)), shape)


def _narrowed(name: str, flat: Array, shape: Sequence[int]) -> Array:
    """Floats in float32; whole numbers of plain lists (tokens) in int64, of deeper ones (pixels) as they are."""
    if flat.dtype.kind == "f":
        with np.errstate(over="ignore"):
            flat = flat.astype(np.float32)
        if not np.isfinite(flat).all():
            raise _told(name, "a value that is missing or not finite", ~np.isfinite(flat), shape)
    elif flat.dtype.kind in "iu" and len(shape) == 2:
        flat = flat.astype(np.int64)
    return np.array(flat.reshape(shape))


def _refuse_missing(name: str, array: Any, shape: Sequence[int]) -> None:
    if array.null_count:
        raise _told(name, "a missing value", np.asarray(array.is_null().to_numpy(zero_copy_only=False)), shape)


def _told(name: str, what: str, wrong: Array, shape: Sequence[int]) -> HotloopError:
    """An error that names the rows; `wrong` is flat over all axes read so far."""
    rows = np.unique(np.flatnonzero(wrong) // max(1, len(wrong) // shape[0]))
    shown = ", ".join(map(str, rows[:_SHOWN].tolist())) + (", ..." if len(rows) > _SHOWN else "")
    return HotloopError(
        f"column '{name}' has {what} in {len(rows):,} of {shape[0]:,} rows",
        where=f"column '{name}', rows {shown} (the first row is 0)",
        fix="drop these rows (data.filter), or fill them in yourself",
    )


def _uneven(name: str, array: Any, shape: Sequence[int]) -> HotloopError:
    lengths = np.asarray(array.value_lengths())
    short, long = int(lengths.argmin()), int(lengths.argmax())
    per_row = len(lengths) // shape[0]
    return HotloopError(
        f"the lists of column '{name}' have from {lengths[short]} to {lengths[long]} values",
        where=f"column '{name}', rows {short // per_row} and {long // per_row} (the first row is 0)",
        fix=f"{_PAD}, or pass a DataLoader(data, collate_fn=DataCollatorWithPadding(tokenizer))",
    )


def _no_numbers(left_out: Sequence[str]) -> HotloopError:
    return HotloopError(
        f"no column of the data holds numbers: {', '.join(left_out)}",
        where="the data",
        fix="turn text into token ids first, as in data.map(lambda row: tokenizer(row['text'], padding='max_length'))",
    )


def _stream(data: Any) -> StreamSource:
    """Consecutive items; which columns hold numbers is seen in the first one."""
    first = next(iter(data), None)
    if first is None:
        raise HotloopError("the stream gave no items", where="the training data", fix="look at what it reads")
    left_out = [name for name, value in first.items() if _array(value).dtype.kind not in "biuf"]
    if len(left_out) == len(first):
        raise _no_numbers(left_out)

    def collate(items: list[Any]) -> dict[str, Tensor]:
        return {name: _stacked(name, [item[name] for item in items]) for name in first if name not in left_out}

    source = from_items(data, collate)
    source.left_out = left_out
    return source


def _array(value: Any) -> Array:
    """One value as an array; of objects where it is no number, or lists of several lengths."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.empty(0, dtype=object)


def _stacked(name: str, values: list[Any]) -> Tensor:
    """The values of one column of a batch, (B, ...)."""
    parts = [_array(value) for value in values]
    shapes = sorted({part.shape for part in parts})
    if len(shapes) > 1:
        raise HotloopError(
            f"the items of a batch differ in the shape of '{name}': {shapes[0]} and {shapes[-1]}",
            where=f"column '{name}'",
            fix=_PAD,
        )
    whole = np.stack(parts)
    if whole.dtype.kind not in "biuf":
        raise HotloopError(
            f"column '{name}' holds something that is no number, or nothing, in an item",
            where=f"column '{name}'",
            fix="leave such items out, as in data.filter(...), or fill them in yourself",
        )
    return torch.from_numpy(whole.astype(np.float32) if whole.dtype == np.float64 else whole)
