"""Class weights where a row has several labels, one for each head of the model: each head's term is weighed by itself.

A label below 0 is missing: it counts nowhere. Shapes: N rows, C classes of a head; labels (N,) int64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hotloop.data.source import Source, column_of, required_column, times
from hotloop.data.weights import Weighing, class_weights, sample_factors
from hotloop.errors import HotloopError

Heads = Mapping[str, Sequence[str]]  # column of labels, which is the name of the loss term too -> its classes


class HeadWeightedSource:
    """Rows of another source, each with a factor for each term that multiplies the batch's `weight` of that term.

    Args:
        source: whose rows they are; its batches have a `weight` for each term.
        factors: term -> (N,) float32.
    """

    def __init__(self, source: Source, factors: Mapping[str, Tensor]) -> None:
        self._source, self._factors = source, dict(factors)
        self.nbytes = source.nbytes
        self.buckets = getattr(source, "buckets", None)
        self.draws: bool = getattr(source, "draws", True)

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        batch: dict[str, Any] = self._source.batch(indices)
        own: Mapping[str, Tensor] = batch["weight"]
        weighed = {n: times(own[n], factor.index_select(0, indices)) for n, factor in self._factors.items()}
        batch["weight"] = {**own, **weighed}
        return batch

    def to(self, device: torch.device) -> HeadWeightedSource:
        moved = {name: factor.to(device) for name, factor in self._factors.items()}
        return HeadWeightedSource(self._source.to(device), moved)

    def column(self, name: str) -> Tensor | None:
        return column_of(self._source, name)

    def stored(self) -> Mapping[str, Tensor]:
        found: Mapping[str, Tensor] = getattr(self._source, "stored", dict)()
        return found


def weigh_heads(train: Source, weighing: Weighing, heads: Heads) -> tuple[Source, list[str]]:
    """The training rows weighed head by head, and a line for each head whose classes are weighed.

    Raises:
        HotloopError: an option that only one set of classes can follow, or weights that would multiply.
    """
    if not weighing.asked:
        return train, []
    _refuse_single(weighing, heads)
    rows, _, _ = sample_factors(train, weighing)
    factors, lines = {}, []
    for head, names in heads.items():
        labels = required_column(train, head, "optimization.class_weights", "weighing by classes").long()
        real = labels >= 0
        counts = torch.bincount(labels[real], minlength=len(names)).double()
        by_class = class_weights(weighing.class_weights, counts)
        factor = torch.where(real, by_class[labels.clamp(min=0)], 1.0)
        factors[head] = (factor if rows is None else factor * rows).float()
        if weighing.class_weights != "none":
            shown = ", ".join(f"{n} {w:.3g}" for n, w in zip(names, by_class.tolist(), strict=False))
            lines.append(f"class weights of {head}: {shown}")
    return HeadWeightedSource(train, factors), lines


def _refuse_single(weighing: Weighing, heads: Heads) -> None:
    if weighing.sampler:
        raise HotloopError(
            f"one order of the rows cannot balance the classes of {len(heads)} tasks at once ({', '.join(heads)})",
            where="data.balance_sampler",
            fix="use optimization.class_weights=auto, which weighs each task by itself, or train one task alone",
        )
    if isinstance(weighing.class_weights, tuple):
        raise HotloopError(
            f"a list of weights is for one set of classes, and there are {len(heads)} tasks ({', '.join(heads)})",
            where="optimization.class_weights",
            fix="use auto, auto_sqrt or effective_number, or train one task alone",
        )
    if len(weighing.active) > 1:
        raise HotloopError(
            f"{' and '.join(weighing.active)} would multiply",
            where=weighing.active[0],
            fix="keep one of them",
        )
