"""Map-style datasets of a person's own: items are fetched one by one by the person's code, and collated to a batch.

Torch Datasets, Hugging Face datasets and lists of items are read alike: anything with a length and items by number.
Such a source stays on the host. Shapes: N items; indices (B,) int64; a batch is a dict of tensors with first axis B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset as TorchSubset
from torch.utils.data import TensorDataset

from hotloop.errors import HotloopError

Collate = Callable[[list[Any]], dict[str, Tensor]]


class DatasetSource:
    """A map-style torch Dataset: items are fetched one by one and collated.

    Args:
        dataset: anything with __len__ and __getitem__.
        collate: list of items -> dict of tensors; by default torch's collation, with tuples named x, y (then x2, ...).
    """

    nbytes: int | None = None

    def __init__(self, dataset: Any, collate: Collate | None = None) -> None:
        if not hasattr(dataset, "__len__"):
            raise HotloopError(
                f"{type(dataset).__name__} has no length, so its order cannot be kept or sought",
                fix="pass a map-style Dataset with __len__ and __getitem__, or a torch IterableDataset for a stream",
            )
        if len(dataset) == 0:
            raise HotloopError(f"{type(dataset).__name__} is empty")
        self._dataset, self._collate = dataset, collate or named_collate

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        many = getattr(self._dataset, "__getitems__", None)  # as torch's own loader asks for a whole batch
        rows = indices.tolist()
        return self._collate(many(rows) if many is not None else [self._dataset[row] for row in rows])

    def column(self, name: str) -> Tensor | None:
        found = _column(self._dataset, name)
        return found if found is not None and len(found) == len(self) else None

    def to(self, device: torch.device) -> DatasetSource:
        raise AssertionError("a Dataset cannot live on a device")


def _column(dataset: Any, name: str) -> Tensor | None:
    """A whole column without fetching the items, where the dataset is of a kind that keeps it aside."""
    if type(dataset) is TorchSubset:
        whole = _column(dataset.dataset, name)
        return None if whole is None else whole[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if type(dataset) is TensorDataset:
        return dict(zip(names(len(dataset.tensors)), dataset.tensors, strict=True)).get(name)
    if name in getattr(dataset, "column_names", ()):  # Hugging Face
        return _as_numbers(dataset[name])
    if name == "y" and getattr(dataset, "target_transform", None) is None:  # else items show other targets than these
        for habit in ("targets", "labels"):
            if hasattr(dataset, habit):
                return _as_numbers(getattr(dataset, habit))
    return None


def _as_numbers(values: Any) -> Tensor | None:
    """One number a row, or None where the values are something else."""
    array = np.asarray(values if isinstance(values, Tensor | np.ndarray) else list(values))
    return torch.from_numpy(array.copy()) if array.ndim >= 1 and array.dtype.kind in "biuf" else None


def names(count: int) -> list[str]:
    """What the members of a tuple are called: x; x, y; x, x2, y; ..."""
    return ["x", *(f"x{number}" for number in range(2, count)), "y"][:count]


def named_collate(items: list[Any]) -> dict[str, Tensor]:
    """Torch's default collation, with the members of a tuple named x, y (or x, x2, ..., y when there are more)."""
    from torch.utils.data import default_collate

    try:
        return named(default_collate(items), type(items[0]).__name__)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise _uncollated(items, error) from error


def _uncollated(items: list[Any], error: Exception) -> HotloopError:
    """Why some items make no batch: the first part in which they differ, or that is no number."""
    parts = [item if isinstance(item, Mapping) else _by_name(item) for item in items]
    for name in parts[0]:
        values = [part.get(name) for part in parts]
        shapes = sorted({tuple(np.shape(value)) for value in values if isinstance(value, Tensor | np.ndarray)})
        kinds = sorted({type(value).__name__ for value in values})
        if len(shapes) > 1:
            what = f"the items of a batch differ in the shape of '{name}': {shapes[0]} and {shapes[-1]}"
            return HotloopError(what, where="the data", fix="give all one shape, or pass a DataLoader(collate_fn=...)")
        if "NoneType" in kinds or len(kinds) > 1:
            what = f"'{name}' of the items of a batch is {' and '.join(kinds)}"
            return HotloopError(what, where="the data", fix="give every item the same kind of number or tensor")
    said = (str(error).splitlines() or [""])[0]
    return HotloopError(f"the items make no batch: {said}", where="the data", fix="return a dict of tensors, or (x, y)")


def _by_name(item: Any) -> dict[str, Any]:
    """The members of an item under the names that they will have."""
    members = item if isinstance(item, tuple | list) else (item,)
    return dict(zip(names(len(members)), members, strict=True))


def named(batch: Any, kind: str) -> dict[str, Tensor]:
    """A batch as a collation gives it, as a dict.

    Args:
        batch: a dict, a tensor, or a tuple of tensors.
        kind: what it was made of, for the message.
    """
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, Tensor):
        return {"x": batch}
    if isinstance(batch, Sequence) and batch and all(isinstance(part, Tensor) for part in batch):
        return dict(zip(names(len(batch)), batch, strict=True))
    raise HotloopError(
        f"items of type {kind} cannot be turned into named tensors",
        fix="let the Dataset (or its collate_fn) return a dict of tensors, or a tuple (x, y)",
    )
