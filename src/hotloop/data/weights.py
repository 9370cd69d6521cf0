"""The weighting ledger: what sampler, class weights and sample weights come to when they are multiplied out.

The one place where rows are weighed. Weights are worked out for the training rows alone and reach the loss as the
batch's `weight`, so validation is plain by construction; what `on_conflict` switches off is off before any data is
read. Shapes: N rows, C classes; labels (N,) int64 in 0 .. C-1; factors (N,) float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hotloop.config.schema import DataSection, OptimizationSection, RowsData
from hotloop.data.ledger import Factors, Ledger, conflict
from hotloop.data.source import Source, column_of, required_column, times
from hotloop.errors import HotloopError

LABEL, SAMPLE_WEIGHT, OWN = "y", "sample_weight", "weight"
_MOST_CLASSES = 1000  # whole numbers with more values than this are no classes that a person named


@dataclass(frozen=True)
class Weighing:
    """How training rows are to be weighed: what was asked for, after `on_conflict`.

    Args:
        sampler: every class is drawn equally often.
        class_weights: none, auto, auto_sqrt, effective_number, or one number a class.
        sample_weights: rows are weighed by the column sample_weight.
        clip: range that sample weights are cut to, before they are normalised.
        normalize: mean_to_1 or none.
        left_out: what `sampler_wins` switched off, for a line that says so.
    """

    sampler: bool = False
    class_weights: str | tuple[float, ...] = "none"
    sample_weights: bool = False
    clip: tuple[float, float] = (0.1, 10.0)
    normalize: str = "mean_to_1"
    left_out: tuple[str, ...] = ()

    @property
    def active(self) -> list[str]:
        """The keys that weigh, in the order in which they multiply."""
        weighs = self.class_weights != "none" and not (
            isinstance(self.class_weights, tuple) and len(set(self.class_weights)) < 2
        )
        asked = {
            "data.balance_sampler": self.sampler,
            "optimization.class_weights": weighs,
            "data.use_sample_weights": self.sample_weights,
        }
        return [key for key, on in asked.items() if on]

    @property
    def asked(self) -> bool:
        """Whether anything was asked for that needs a class or a weight for each row."""
        return self.sampler or self.sample_weights or self.class_weights != "none"


def asked_for(data: DataSection, optimization: OptimizationSection) -> Weighing:
    """What the configuration asks for; with `on_conflict: sampler_wins` a sampler switches the others off here."""
    if not isinstance(data, RowsData):
        return Weighing(class_weights=optimization.class_weights)
    weighing = Weighing(
        data.balance_sampler,
        optimization.class_weights,
        data.use_sample_weights,
        data.weights_clip,
        data.weights_normalize,
    )
    others = [key for key in weighing.active if key != "data.balance_sampler"]
    if not (data.on_conflict == "sampler_wins" and weighing.sampler and others):
        return weighing
    return replace(weighing, class_weights="none", sample_weights=False, left_out=tuple(others))


@dataclass(frozen=True)
class Weighed:
    """The training rows as they will be used.

    Attributes:
        source: gives `weight` with each batch where something weighs.
        labels: (N,) of every row where classes are balanced by the sampler; else None.
        ledger: None where the rows have no classes.
    """

    source: Source
    labels: Tensor | None = None
    ledger: Ledger | None = None


class WeightedSource:
    """Rows of another source, each with a factor that multiplies the batch's `weight`.

    Args:
        source: whose rows they are.
        factors: (N,) float32.
    """

    def __init__(self, source: Source, factors: Tensor) -> None:
        self._source, self._factors = source, factors
        inner = source.nbytes
        self.nbytes: int | None = None if inner is None else inner + factors.numel() * factors.element_size()
        self.buckets = getattr(source, "buckets", None)
        self.draws: bool = getattr(source, "draws", True)

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        batch: dict[str, Any] = self._source.batch(indices)
        batch["weight"] = times(batch.get("weight"), self._factors.index_select(0, indices))
        return batch

    def to(self, device: torch.device) -> WeightedSource:
        return WeightedSource(self._source.to(device), self._factors.to(device))

    def column(self, name: str) -> Tensor | None:
        return column_of(self._source, name)

    def stored(self) -> Mapping[str, Tensor]:
        found: Mapping[str, Tensor] = getattr(self._source, "stored", dict)()
        return found


def weigh(
    train: Source,
    val: Source | None,
    weighing: Weighing,
    names: Sequence[str] = (),
    origins: Mapping[str, str] | None = None,
) -> Weighed:
    """Weigh the training rows as asked for, and write the ledger.

    Args:
        train, val: the two parts; the second is only counted.
        weighing: from `asked_for`.
        names: of the classes.
        origins: who set which key, for messages.

    Raises:
        HotloopError: two or more of sampler, class weights and row weights would multiply; no classes or weights
            where some are needed; weights that cannot be used.
    """
    labels = _labels_for(train, weighing)
    if labels is None:
        return Weighed(train)
    val_labels = None if val is None else _labels(val)
    classes = max(len(names), int(labels.max()) + 1, 0 if val_labels is None else int(val_labels.max()) + 1)
    counts = torch.bincount(labels, minlength=classes).double()
    by_class = class_weights(weighing.class_weights, counts)
    by_row, clipped, largest = sample_factors(train, weighing)
    own, factors = _own_weights(train), by_class[labels] * (1.0 if by_row is None else by_row)
    if (weighing.asked or own is not None) and not bool((factors if own is None else factors * own).sum() > 0):
        raise _nothing_counts(weighing)
    counted = own if by_row is None else by_row if own is None else by_row * own
    table = Factors(labels, counts, by_class, counted, weighing.sampler)
    ledger = table.ledger(val_labels, names, clipped, largest)
    active = [*weighing.active, *([OWN] if own is not None and _weighs(own) else [])]
    if len(active) > 1:
        raise conflict(active, ledger, origins or {})
    source = train if bool((factors == 1.0).all()) else WeightedSource(train, factors.float())
    return Weighed(source, labels if weighing.sampler else None, ledger if classes > 1 else None)


def _labels_for(train: Source, weighing: Weighing) -> Tensor | None:
    """The class of each row; one class for all where rows are weighed that have none, None where nothing is asked."""
    labels = _labels(train)
    if labels is None and (weighing.sampler or weighing.class_weights != "none"):
        raise _no_classes(weighing)
    if labels is None and weighing.sample_weights:
        return torch.zeros(len(train), dtype=torch.int64)
    return labels


def _labels(source: Source) -> Tensor | None:
    """The class of each row, where the source's column y holds classes."""
    found = column_of(source, LABEL)
    if found is None or found.dim() != 1 or found.is_floating_point() or found.is_complex():
        return None
    labels = found.long()
    return labels if int(labels.min()) >= 0 and int(labels.max()) < _MOST_CLASSES else None


def class_weights(wanted: str | tuple[float, ...], counts: Tensor) -> Tensor:
    """The weight of each class, (C,) float64; the automatic ones keep the mean over all rows at 1.

    Args:
        wanted: none, auto (inverse to the count), auto_sqrt (to its root), effective_number, or one number a class.
        counts: (C,) rows of each class; a class without rows gets 0.
    Source: effective number of samples, Cui et al., arXiv 1901.05555, with beta = (N - 1) / N.
    """
    if isinstance(wanted, tuple):
        if len(wanted) != len(counts):
            raise HotloopError(
                f"class_weights holds {len(wanted)} numbers, and the data has {len(counts)} classes",
                where="optimization.class_weights",
                fix="give one number for each class, in the order of their numbers",
            )
        return torch.tensor(wanted, dtype=torch.float64)
    rows = counts.sum()
    if wanted == "auto":
        weights = 1.0 / counts
    elif wanted == "auto_sqrt":
        weights = counts.rsqrt()
    elif wanted == "effective_number":
        beta = (rows - 1.0) / rows
        weights = (1.0 - beta) / (1.0 - beta.pow(counts))
    else:
        return torch.ones_like(counts)
    weights = torch.where(counts > 0, weights, torch.zeros_like(weights))
    return weights * rows / (weights * counts).sum()


def sample_factors(train: Source, weighing: Weighing) -> tuple[Tensor | None, int, float]:
    """The weight of each row, clipped and then normalised; how many were clipped, and the largest before."""
    if not weighing.sample_weights:
        return None, 0, 1.0
    key = "data.use_sample_weights"
    weights = required_column(train, SAMPLE_WEIGHT, key, "weighing by sample weights").double()
    bad = (~torch.isfinite(weights) | (weights < 0)).nonzero().flatten()
    if len(bad):
        shown = ", ".join(f"{row} ({weights[row]:g})" for row in bad[:5].tolist())
        raise HotloopError(
            f"{len(bad)} sample weights are negative or not finite: rows {shown}",
            where=SAMPLE_WEIGHT,
            fix="mend them, or leave data.use_sample_weights out",
        )
    low, high = weighing.clip
    if low > high or high == 0:
        raise HotloopError(f"[{low:g}, {high:g}] is no range", where="data.weights_clip", fix="use [0.1, 10.0]")
    clipped = weights.clamp(low, high)
    scaled = clipped / clipped.mean() if weighing.normalize == "mean_to_1" else clipped
    return scaled, int((clipped != weights).sum()), float(weights.max())


def _own_weights(source: Source) -> Tensor | None:
    """The data's own column weight at a mean of 1, (N,) float64: it multiplies all else. None where none is usable."""
    found = column_of(source, OWN)
    usable = found is not None and found.dim() == 1 and not found.is_complex()
    if found is None or not usable or not bool(torch.isfinite(found).all()):
        return None
    if bool((found < 0).any()):
        rows = ", ".join(str(row) for row in (found < 0).nonzero().flatten()[:5].tolist())
        raise HotloopError(
            f"{int((found < 0).sum())} weights of the training rows are negative: rows {rows} (from 0)",
            where=f"the column {OWN}",
            fix="weights are 0 or more",
        )
    return found.double() / (found.double().mean() or 1.0)


def _weighs(own: Tensor) -> bool:
    """Whether the data's own weights make rows count differently; 0 alone is a mask."""
    counted = own[own > 0]
    return bool((counted != counted[:1]).any())


def _nothing_counts(weighing: Weighing) -> HotloopError:
    return HotloopError(
        "every training row has the weight 0, so nothing would be learned",
        where=", ".join(weighing.active or ["weight"]),
        fix="give at least one class and one of its rows a weight above 0",
    )


def _no_classes(weighing: Weighing) -> HotloopError:
    key = "data.balance_sampler" if weighing.sampler else "optimization.class_weights"
    return HotloopError(
        f"it needs the class of each training row: a column {LABEL} of whole numbers from 0 on, one a row",
        where=key,
        fix=f"leave {key} out, or give the data such a column",
    )
