"""Sources: a length and a way to fetch a batch by indices, and the adapters for what people have in hand.

A source holds no position: order is the sampler's, so that any step can be sought in O(1). A source made of tensors
can move to the device and stay there (resident); one that runs a user's code per item stays on the host.
Shapes: N items; indices (B,) int64; a batch is a dict of tensors with first axis B.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from hotloop.data.arrays import ArraySource as ArraySource
from hotloop.data.arrays import TensorSource as TensorSource
from hotloop.data.arrays import check_numeric, forward
from hotloop.data.dataset import DatasetSource, names
from hotloop.data.frames import Column, columns_of, is_frame, is_series, numeric, read_parquet
from hotloop.data.hugging import from_hugging, is_hugging
from hotloop.data.split import random_rows
from hotloop.data.stream import StreamSource, from_items, from_loader
from hotloop.errors import HotloopError

FORMS = (
    'a dict of tensors or numpy arrays such as {"x": x, "y": y}, a tuple (x, y) of them, a pandas or polars DataFrame, '
    "a .parquet file or a folder of them, a Hugging Face dataset, a torch Dataset, a torch DataLoader, or a hotloop "
    "Source"
)


@runtime_checkable
class Source(Protocol):
    """N items that can be fetched by index.

    `nbytes` is the size in bytes if it can live on a device, or None when it must stay on the host. A source may also
    have `column(name)`: all N values of one name on the CPU, without fetching the rest, or None; classes are weighed
    and rows stratified by it.
    """

    nbytes: int | None

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The rows at `indices` (B,), int64, on the source's own device."""
        ...

    def to(self, device: torch.device) -> Source:
        """The same source with its tensors on `device`; only asked where `nbytes` is not None."""
        ...


class Subset:
    """Rows of another source, by position: a fixed choice such as a split or a limit."""

    def __init__(self, source: Source, rows: Tensor) -> None:
        self._source, self._rows, self.nbytes = source, rows, source.nbytes
        self.draws: bool = getattr(source, "draws", True)
        found = getattr(source, "buckets", None)
        self.buckets = None if found is None else found[rows.cpu().numpy()]

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return self._source.batch(self._rows.index_select(0, indices))

    def column(self, name: str) -> Tensor | None:
        give = getattr(self._source, "column", None)
        found: Tensor | None = None if give is None else give(name)
        return None if found is None else found.index_select(0, self._rows.cpu())

    def stored(self) -> dict[str, Tensor]:
        """The chosen rows of what the inner source keeps; empty where it keeps nothing."""
        inner: dict[str, Tensor] = getattr(self._source, "stored", dict)()
        return {name: tensor.index_select(0, self._rows) for name, tensor in inner.items()}

    def to(self, device: torch.device) -> Subset:
        return Subset(self._source.to(device), self._rows.to(device))


def column_of(source: Source, name: str) -> Tensor | None:
    """A whole column of a source, (N, ...) on the CPU; None where it has none, or cannot tell."""
    give = getattr(source, "column", None)
    found: Tensor | None = None if give is None else give(name)
    return found


def times(weight: Any, factor_b: Tensor) -> Any:
    """A batch's `weight` (absent, a tensor, or one for each term) with a factor (B,) for each row."""
    if weight is None:
        return factor_b
    if isinstance(weight, Mapping):
        return {name: times(part, factor_b) for name, part in weight.items()}
    return weight * factor_b.reshape(factor_b.shape + (1,) * (weight.dim() - 1))


def required_column(source: Source, name: str, key: str, why: str) -> Tensor:
    """A column that an option needs.

    Raises:
        HotloopError: the source has none of that name with one value a row.
    """
    found = column_of(source, name)
    if found is None or found.dim() != 1:
        raise HotloopError(
            f"{why} needs a column {name} in the training data, one value a row, and there is none",
            where=key,
            fix=f"leave {key} out, or give the data such a column",
        )
    return found


def first_rows(source: Source, count: int) -> Source:
    """The first `count` rows, or all where there are fewer."""
    return source if count >= len(source) else Subset(source, torch.arange(count))


def hold_out(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Rows drawn at random for validation, the rest for training: a keyed permutation, the same for the same seed.

    Raises:
        HotloopError: one of the two parts would be empty.
    """
    train, val = random_rows(len(source), fraction, seed)
    return Subset(source, train), Subset(source, val)


def as_source(data: Any, *, part: str = "training") -> Source:
    """Whatever a person has in hand as a Source.

    Args:
        data: tensors or arrays in a dict or tuple, a frame, Parquet, a torch Dataset or DataLoader, a list of items.
        part: what it is for; only "training" may be a stream, as every other part counts each item once.

    Raises:
        HotloopError: the type cannot be read, or rows disagree.
    """
    source = _read(data)
    if part != "training" and isinstance(source, StreamSource):
        raise HotloopError(
            f"{source.kind} is a stream, and the {part} part must count each item once",
            where=f"the {part} data",
            fix="pass a map-style set with a length, or a list of items: list(itertools.islice(stream, 1000))",
        )
    return source


def _read(data: Any) -> Source:
    if isinstance(data, Source):
        return data
    if isinstance(data, str | Path):
        return _from_columns(read_parquet(data))
    if is_hugging(data):
        return from_hugging(data)
    if is_frame(data):
        return _from_columns(columns_of(data))
    if is_series(data):
        data = data.to_numpy()
    if isinstance(data, DataLoader):
        return from_loader(data)
    if isinstance(data, IterableDataset):
        return from_items(data)
    if isinstance(data, (Tensor, np.ndarray)):
        data = {"x": data}
    pair = isinstance(data, list) and len(data) in (2, 3)  # a longer list is one item a row
    if (isinstance(data, tuple) or pair) and data and all(isinstance(part, (Tensor, np.ndarray)) for part in data):
        data = dict(zip(names(len(data)), data, strict=True))
    if isinstance(data, Mapping):
        return _from_mapping(data)
    if hasattr(data, "__getitem__"):
        return DatasetSource(data)
    raise HotloopError(f"data of type {type(data).__name__} cannot be read", fix=f"pass {FORMS}")


def _from_columns(columns: Mapping[str, Column]) -> TensorSource:
    """One tensor a column; text and dates have no tensor."""
    return TensorSource({name: torch.from_numpy(numeric(column)) for name, column in columns.items()})


def _from_mapping(data: Mapping[str, Any]) -> Source:
    wrong = {name: type(value).__name__ for name, value in data.items() if not isinstance(value, (Tensor, np.ndarray))}
    if wrong:
        raise HotloopError(
            f"the data holds something other than tensors and arrays: {wrong}",
            fix='convert them first, as in {"x": torch.tensor(x)}',
        )
    if data and all(isinstance(value, np.ndarray) for value in data.values()):
        return ArraySource(data)
    for name, value in data.items():
        if isinstance(value, np.ndarray):
            check_numeric(name, value)
    tensors = {n: torch.from_numpy(forward(v)) if isinstance(v, np.ndarray) else v for n, v in data.items()}
    return TensorSource(tensors)
