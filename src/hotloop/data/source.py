"""Sources: a length and a way to fetch a batch by indices, and the adapters for what people have in hand.

A source holds no position: order is the sampler's, so that any step can be sought in O(1). A source made of tensors
can move to the device and stay there (resident); one that runs a user's code per item stays on the host.
Shapes: N items; indices (B,) int64; a batch is a dict of tensors with first axis B.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from hotloop.data.sampler import key_of, permute
from hotloop.errors import HotloopError


@runtime_checkable
class Source(Protocol):
    """N items that can be fetched by index.

    `nbytes` is the size in bytes if it can live on a device, or None when it must stay on the host.
    """

    nbytes: int | None

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The rows at `indices` (B,), int64, on the source's own device."""
        ...

    def to(self, device: torch.device) -> Source:
        """The same source with its tensors on `device`; only asked where `nbytes` is not None."""
        ...


class TensorSource:
    """Rows of tensors in memory: batch(i) gathers row i of each.

    Args:
        tensors: name -> tensor, all with the same first axis N.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        if not tensors:
            raise HotloopError("the data holds no tensors", fix='pass a dict such as {"x": x, "y": y}')
        lengths = {name: (len(value) if value.dim() else 0) for name, value in tensors.items()}
        if len(set(lengths.values())) > 1:
            raise HotloopError(
                f"the tensors differ in their number of rows: {lengths}", fix="give all the same first axis"
            )
        self._tensors = dict(tensors)
        self._moved: dict[torch.device, TensorSource] = {}
        self._length = next(iter(lengths.values()))
        if self._length == 0:
            raise HotloopError("the data holds no rows", where=", ".join(self._tensors))
        self.nbytes: int | None = sum(t.numel() * t.element_size() for t in self._tensors.values())

    def __len__(self) -> int:
        return self._length

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {name: tensor.index_select(0, indices) for name, tensor in self._tensors.items()}

    def to(self, device: torch.device) -> TensorSource:
        if device not in self._moved:  # two parts of one split share the copy
            self._moved[device] = TensorSource({name: tensor.to(device) for name, tensor in self._tensors.items()})
        return self._moved[device]


class ArraySource:
    """Rows of numpy arrays, memory-mapped ones too: only the rows of a batch are read.

    Args:
        arrays: name -> array, all with the same first axis N.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        for name, array in arrays.items():
            _check_numeric(name, array)
        lengths = {name: (len(array) if array.ndim else 0) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise HotloopError(
                f"the arrays differ in their number of rows: {lengths}", fix="give all the same first axis"
            )
        self._arrays = dict(arrays)
        self._moved: dict[torch.device, TensorSource] = {}
        self._length = next(iter(lengths.values()))
        if self._length == 0:
            raise HotloopError("the data holds no rows", where=", ".join(self._arrays))
        self.nbytes: int | None = sum(array.nbytes for array in self._arrays.values())

    def __len__(self) -> int:
        return self._length

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        rows = indices.numpy()
        return {name: torch.from_numpy(np.ascontiguousarray(array[rows])) for name, array in self._arrays.items()}

    def to(self, device: torch.device) -> TensorSource:
        if device not in self._moved:  # two parts of one split share the copy
            copies = {name: torch.from_numpy(np.array(array, order="C")) for name, array in self._arrays.items()}
            self._moved[device] = TensorSource({name: copy.to(device) for name, copy in copies.items()})
        return self._moved[device]


def _check_numeric(name: str, array: np.ndarray[Any, Any]) -> None:
    """Refuse what torch cannot turn into a tensor."""
    with contextlib.suppress(TypeError, ValueError):
        torch.from_numpy(np.empty(0, dtype=array.dtype))
        return
    kinds = {"O": "holds Python objects", "U": "holds text", "S": "holds text"}
    what = kinds.get(array.dtype.kind, f"has dtype {array.dtype}, which torch cannot read")
    raise HotloopError(
        f"array '{name}' {what}", fix="convert it to a numeric dtype, for example with .astype('float32')"
    )


class DatasetSource:
    """A map-style torch Dataset: items are fetched one by one and collated.

    Args:
        dataset: anything with __len__ and __getitem__.
        collate: list of items -> dict of tensors; by default torch's collation, with tuples named x, y (then x2, ...).
    """

    nbytes: int | None = None

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], dict[str, Tensor]] | None = None) -> None:
        if not hasattr(dataset, "__len__"):
            raise HotloopError(
                f"{type(dataset).__name__} has no length, so its order cannot be kept or sought",
                fix="pass a map-style Dataset with __len__ and __getitem__",
            )
        if len(dataset) == 0:
            raise HotloopError(f"{type(dataset).__name__} is empty")
        self._dataset, self._collate = dataset, collate or named_collate

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return self._collate([self._dataset[index] for index in indices.tolist()])

    def to(self, device: torch.device) -> DatasetSource:
        raise AssertionError("a Dataset cannot live on a device")


class Subset:
    """Rows of another source, by position: a fixed choice such as a split or a limit."""

    def __init__(self, source: Source, rows: Tensor) -> None:
        self._source, self._rows, self.nbytes = source, rows, source.nbytes

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return self._source.batch(self._rows.index_select(0, indices))

    def to(self, device: torch.device) -> Subset:
        return Subset(self._source.to(device), self._rows.to(device))


def first_rows(source: Source, count: int) -> Source:
    """The first `count` rows, or all where there are fewer."""
    return source if count >= len(source) else Subset(source, torch.arange(count))


def hold_out(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Rows drawn at random for validation, the rest for training: a keyed permutation, the same for the same seed.

    Raises:
        HotloopError: one of the two parts would be empty.
    """
    held = round(len(source) * fraction)
    if held == 0 or held == len(source):
        empty = "validate" if held == 0 else "train"
        raise HotloopError(
            f"holding out {fraction:g} of {len(source)} rows leaves nothing to {empty} on",
            where="data.val_fraction",
            fix="use more data, another share, or data.val_fraction=0 to train without validation",
        )
    order = torch.from_numpy(permute(np.arange(len(source)), len(source), key_of(seed, 6)))
    return Subset(source, order[held:]), Subset(source, order[:held])


def named_collate(items: list[Any]) -> dict[str, Tensor]:
    """Torch's default collation, with the members of a tuple named x, y (or x, x2, ..., y when there are more)."""
    from torch.utils.data import default_collate

    batch = default_collate(items)
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, Tensor):
        return {"x": batch}
    if isinstance(batch, Sequence) and all(isinstance(part, Tensor) for part in batch):
        middle = [f"x{number}" for number in range(2, len(batch))]
        return dict(zip(["x", *middle, "y"][: len(batch)], batch, strict=True))
    raise HotloopError(
        f"items of type {type(items[0]).__name__} cannot be turned into named tensors",
        fix="let the Dataset return a dict of tensors, or a tuple (x, y)",
    )


def as_source(data: Any) -> Source:
    """Whatever a person has in hand as a Source: a dict or tuple of tensors or arrays, a tensor, a torch Dataset.

    Raises:
        HotloopError: the type cannot be read, or rows disagree.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, (Tensor, np.ndarray)):
        data = {"x": data}
    pair = isinstance(data, list) and len(data) in (2, 3)  # a longer list is one item a row
    if (isinstance(data, tuple) or pair) and data and all(isinstance(part, (Tensor, np.ndarray)) for part in data):
        data = dict(zip(["x", *[f"x{n}" for n in range(2, len(data))], "y"][: len(data)], data, strict=True))
    if isinstance(data, Mapping):
        return _from_mapping(data)
    if hasattr(data, "__getitem__"):
        return DatasetSource(data)
    raise HotloopError(
        f"data of type {type(data).__name__} cannot be read",
        fix='pass a dict of tensors or numpy arrays such as {"x": x, "y": y}, or a map-style torch Dataset',
    )


def _from_mapping(data: Mapping[str, Any]) -> Source:
    wrong = {name: type(value).__name__ for name, value in data.items() if not isinstance(value, (Tensor, np.ndarray))}
    if wrong:
        raise HotloopError(
            f"the data holds something other than tensors and arrays: {wrong}", fix="convert these first"
        )
    if data and all(isinstance(value, np.ndarray) for value in data.values()):
        return ArraySource(data)
    for name, value in data.items():
        if isinstance(value, np.ndarray):
            _check_numeric(name, value)
    tensors = {n: torch.from_numpy(_forward(v)) if isinstance(v, np.ndarray) else v for n, v in data.items()}
    return TensorSource(tensors)


def _forward(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array with strides that torch can read: x[::-1] runs backwards."""
    return np.ascontiguousarray(array) if any(stride < 0 for stride in array.strides) else array
