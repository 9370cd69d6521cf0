"""Rows in memory: tensors, and numpy arrays, memory-mapped ones too.

Such a source can move to the device and stay there. Shapes: N items; indices (B,) int64; a batch is a dict of tensors
with first axis B.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop.errors import HotloopError


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
        # what a table said of its columns: classes by number, names of the features, columns with no use
        self.classes: list[Any] = []
        self.features: list[str] = []
        self.left_out: list[str] = []
        self._moved: dict[torch.device, TensorSource] = {}
        self._length = next(iter(lengths.values()))
        if self._length == 0:
            raise HotloopError("the data holds no rows", where=", ".join(self._tensors))
        self.nbytes: int | None = sum(t.numel() * t.element_size() for t in self._tensors.values())

    def __len__(self) -> int:
        return self._length

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {name: tensor.index_select(0, indices) for name, tensor in self._tensors.items()}

    def column(self, name: str) -> Tensor | None:
        found = self._tensors.get(name)
        return None if found is None else found.cpu()

    def stored(self) -> dict[str, Tensor]:
        """Every tensor whole, as it is kept."""
        return dict(self._tensors)

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
            check_numeric(name, array)
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

    def column(self, name: str) -> Tensor | None:
        found = self._arrays.get(name)
        return None if found is None else torch.from_numpy(np.array(found, order="C"))

    def stored(self) -> dict[str, Tensor]:
        """Every array whole, as a tensor."""
        return {name: torch.from_numpy(np.array(array, order="C")) for name, array in self._arrays.items()}

    def to(self, device: torch.device) -> TensorSource:
        if device not in self._moved:  # two parts of one split share the copy
            copies = {name: torch.from_numpy(np.array(array, order="C")) for name, array in self._arrays.items()}
            self._moved[device] = TensorSource({name: copy.to(device) for name, copy in copies.items()})
        return self._moved[device]


def check_numeric(name: str, array: np.ndarray[Any, Any]) -> None:
    """Refuse what torch cannot turn into a tensor."""
    with contextlib.suppress(TypeError, ValueError):
        torch.from_numpy(np.empty(0, dtype=array.dtype))
        return
    kinds = {"O": "holds Python objects", "U": "holds text", "S": "holds text"}
    what = kinds.get(array.dtype.kind, f"has dtype {array.dtype}, which torch cannot read")
    raise HotloopError(
        f"array '{name}' {what}", fix="convert it to a numeric dtype, for example with .astype('float32')"
    )


def forward(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array with strides that torch can read: x[::-1] runs backwards."""
    return np.ascontiguousarray(array) if any(stride < 0 for stride in array.strides) else array
