"""A table with named columns as training data: features, a label, and where wanted a weight and a group.

Shapes: N rows, F features; x (N, F) float32; y (N,) int64 class numbers or float32; weight (N,) float32;
group (N,) int64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop.data.frames import Array, Column, columns_of, complete, is_frame, numeric, pick, read_parquet
from hotloop.data.source import TensorSource
from hotloop.errors import HotloopError

_MOST_CLASSES = 1000  # whole numbers with more values than this are no classes that a person named


def from_table(
    table: Any,
    x: Sequence[str] | None = None,
    y: str | None = "label",
    *,
    weight: str | None = None,
    group: str | None = None,
    classes: Sequence[Any] | None = None,
) -> TensorSource:
    """Training data from a pandas or polars frame, or from Parquet.

    Args:
        table: a frame, or the path of a .parquet file or of a folder of them.
        x: feature columns in order; by default all numeric columns that have no other use.
        y: label column. Text, categories, bools and whole numbers become class numbers, floats stay (regression).
        weight: column of numbers that weigh the rows.
        group: column of any kind that says which rows belong together (for data.split=group).
        classes: of the training table (`source.classes`), so that a validation table numbers them alike.

    Returns:
        A source with x, y, weight and group, and the attributes `classes` (values by class number; empty for
        regression), `features` (names) and `left_out` (columns that are not numeric and that nothing names).

    Raises:
        HotloopError: no such column, missing or infinite values, text among the features, a class not in `classes`.
    """
    columns = read_parquet(table) if isinstance(table, str | Path) else _columns(table)
    used = {name for name in (y, weight, group) if name is not None}
    features, left_out = _features(columns, x, used)
    tensors = {"x": _matrix(columns, features)}
    found: list[Any] = []
    if y is not None:
        tensors["y"], found = _labels(pick(columns, y, "y"), classes)
    if weight is not None:
        tensors["weight"] = _weights(pick(columns, weight, "weight"))
    if group is not None:
        tensors["group"] = _numbered(complete(pick(columns, group, "group")), group)[0]
    source = TensorSource(tensors)
    source.classes, source.features, source.left_out = found, features, left_out
    return source


def _columns(table: Any) -> dict[str, Column]:
    if not is_frame(table):
        raise HotloopError(
            f"a {type(table).__name__} is no table",
            where="from_table",
            fix="pass a pandas or polars DataFrame, or the path of a .parquet file or folder",
        )
    return columns_of(table)


def _features(columns: Mapping[str, Column], x: Sequence[str] | None, used: set[str]) -> tuple[list[str], list[str]]:
    """Names of the feature columns, and of the columns that are left out for not being numeric."""
    if x is not None:
        wanted = [x] if isinstance(x, str) else [str(name) for name in x]
        both = sorted(used & set(wanted))
        if both:
            raise HotloopError(f"column '{both[0]}' is a feature and has another use", where="x", fix="name it once")
        found, left_out = [pick(columns, name, "x").name for name in wanted], []
    else:
        free = [column for name, column in columns.items() if name not in used]
        found = [column.name for column in free if column.kind not in ("text", "other")]
        left_out = [column.name for column in free if column.kind in ("text", "other")]
    if not found:
        raise HotloopError("the table has no numeric column left for x", where="x", fix="name the columns: x=[...]")
    return found, left_out


def _matrix(columns: Mapping[str, Column], names: Sequence[str]) -> Tensor:
    matrix = np.empty((len(columns[names[0]].missing), len(names)), dtype=np.float32)
    for place, name in enumerate(names):
        matrix[:, place] = numeric(columns[name])
    return torch.from_numpy(matrix)


def _labels(column: Column, classes: Sequence[Any] | None) -> tuple[Tensor, list[Any]]:
    """Class numbers with the classes, or the values of a regression with none."""
    if column.kind == "float":
        if classes:
            raise HotloopError(f"y='{column.name}' holds floats, not classes", where="classes", fix="leave classes out")
        return torch.from_numpy(numeric(column)), []
    values = complete(column) if column.kind == "text" else numeric(column)
    order = list(classes) if classes is not None else [name for name in column.order if name in set(values.tolist())]
    numbers, found = _numbered(values, column.name, order)
    if column.kind == "whole" and len(found) > _MOST_CLASSES:
        raise HotloopError(
            f"y='{column.name}' has {len(found):,} different whole numbers, too many for classes",
            where=f"column '{column.name}'",
            fix="make the column float for regression, or text if these are classes",
        )
    return numbers, found


def _numbered(values: Array, name: str, order: Sequence[Any] = ()) -> tuple[Tensor, list[Any]]:
    """Each value's number: its place in `order`, or among the sorted values where there is no order."""
    if not order:
        try:
            found, numbers = np.unique(values, return_inverse=True)
        except TypeError as error:
            raise HotloopError(
                f"column '{name}' mixes values that cannot be sorted",
                where=f"column '{name}'",
                fix="make them all text",
            ) from error
        return torch.from_numpy(numbers.reshape(-1).astype(np.int64)), found.tolist()
    place = {value: number for number, value in enumerate(order)}
    unknown = [row for row, value in enumerate(values.tolist()) if value not in place]
    if unknown:
        value = values.tolist()[unknown[0]]
        raise HotloopError(
            f"column '{name}' holds {value!r}, which is not among the classes",
            where=f"column '{name}', row {unknown[0]} (the first row is 0)",
            fix=f"the classes are {list(order)[:20]}; read both parts from tables with the same classes",
        )
    return torch.tensor([place[value] for value in values.tolist()], dtype=torch.int64), list(order)


def _weights(column: Column) -> Tensor:
    values = numeric(column).astype(np.float32)
    negative = np.flatnonzero(values < 0)
    if len(negative):
        raise HotloopError(
            f"weight='{column.name}' is negative in {len(negative):,} rows",
            where=f"column '{column.name}', row {negative[0]} (the first row is 0)",
            fix="weights are 0 or more",
        )
    return torch.from_numpy(values)
