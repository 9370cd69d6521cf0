"""Whether what was written of a model computes what the model computes.

Both are run on the example inputs, on one row, on one row more, and on shorter rows where their length may change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hotloop.task import Exportable

Outputs = tuple[Tensor, ...]
Run = Callable[[Sequence[Tensor]], Outputs]
Shapes = dict[str, list[int]]


class Disagreement(Exception):
    """What was written does not run, or not as the model does."""


def compare(form: Exportable, run: Run) -> tuple[float, list[Shapes]]:
    """The largest difference between a model and what was written of it, over all inputs tried; and their shapes.

    Args:
        form: the model.
        run: gives the outputs of what was written.

    Raises:
        Disagreement: it does not run, or gives something of another shape.
    """
    worst, checked = 0.0, []
    for inputs in _tried(form):
        expected = in_tuple(form.module(*inputs))
        shapes = {name: list(value.shape) for name, value in zip(form.inputs, inputs, strict=True)}
        try:
            given = run(inputs)
        except Exception as error:
            raise Disagreement(
                f"what was written does not run on inputs of shape {shapes}: {line_of(error)}"
            ) from error
        if len(given) != len(expected):
            raise Disagreement(f"what was written gives {len(given)} outputs, and the model {len(expected)}")
        for one, other in zip(expected, given, strict=True):
            worst = max(worst, _difference(one, other))
        checked.append(shapes)
    return worst, checked


def _tried(form: Exportable) -> Iterator[list[Tensor]]:
    """The example inputs; one row and one row more; and one place fewer along each other axis that may change."""
    yield list(form.inputs.values())
    axes = {name for moving in form.dynamic.values() for name in moving.values()}
    for axis in sorted(axes, key=lambda name: (name != "batch", name)):
        for size in ("one", "more") if axis == "batch" else ("fewer",):
            yield [_resized(value, form.dynamic.get(name, {}), axis, size) for name, value in form.inputs.items()]


def _resized(value: Tensor, moving: dict[int, str], axis: str, size: str) -> Tensor:
    for place in (place for place, name in moving.items() if name == axis):
        length = value.shape[place]
        rows = {"one": [0], "more": [*range(length), 0], "fewer": [*range(max(1, length - 1))]}[size]
        value = value.index_select(place, torch.tensor(rows))
    return value.contiguous()


def _difference(expected: Tensor, given: Tensor) -> float:
    if expected.shape != given.shape or not (expected.isfinite() & given.isfinite()).all():
        return float("inf")
    if not expected.numel():
        return 0.0
    scale = max(1.0, expected.abs().max().item())
    return (expected.double() - given.double()).abs().max().item() / scale


def in_tuple(value: Any) -> Outputs:
    """A tensor, or several, as a tuple."""
    return (value,) if isinstance(value, Tensor) else tuple(value)


def line_of(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
