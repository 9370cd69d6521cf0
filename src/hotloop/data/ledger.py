"""The ledger: what each class counts in training once all weights are multiplied out, and how a person reads it.

Pure functions of counts and factors. Shapes: N rows, C classes; labels (N,) int64 in 0 .. C-1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hotloop.data.split import missing_classes
from hotloop.errors import HotloopError

_SHIFT = 0.05  # class shares of train and validation that differ by more than this are told
_SHOWN = 12  # classes listed one by one


@dataclass(frozen=True)
class Line:
    """One class in the ledger.

    Attributes:
        name: of the class.
        rows, share: in training. val_rows, val_share: in validation.
        sampler: how much more often a row is drawn than without the sampler.
        class_weight: of the class. sample_weight, largest: mean and maximum over its rows, after clipping.
        product: all three multiplied. effective_share: of the class in the training loss.
    """

    name: str
    rows: int
    share: float
    val_rows: int
    val_share: float
    sampler: float
    class_weight: float
    sample_weight: float
    largest: float
    product: float
    effective_share: float


@dataclass(frozen=True)
class Ledger:
    """What each class counts in training, and how many rows the weighed data is worth.

    Attributes:
        lines: one a class.
        effective_size: rows of equal weight that would give the same spread (Kish, "Survey sampling", 1965).
        rows: of the training part.
        shift: largest possible difference in the probability of an event between the two parts' class shares.
        clipped: rows whose sample weight was outside the range. largest: sample weight before clipping.
        missing: a line for each class that one part has and the other has not.
    """

    lines: tuple[Line, ...]
    effective_size: float
    rows: int
    shift: float
    clipped: int = 0
    largest: float = 1.0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Factors:
    """What multiplies each row: by its class, by itself, and through how often it is drawn.

    Args:
        labels: (N,) class of each row. counts: (C,) rows of each class.
        by_class: (C,) float64. by_row: (N,) float64, or None where rows are not weighed one by one.
        sampler: every class is drawn equally often.
    """

    labels: Tensor
    counts: Tensor
    by_class: Tensor
    by_row: Tensor | None
    sampler: bool

    def ledger(self, val_labels: Tensor | None, names: Sequence[str], clipped: int, largest: float) -> Ledger:
        """Multiply them out, class by class."""
        rows, classes = len(self.labels), len(self.counts)
        present = self.counts > 0
        often = present * rows / (present.sum() * self.counts.clamp(min=1.0))
        drawn = often if self.sampler else torch.ones(classes)
        by_row = torch.ones(rows, dtype=torch.float64) if self.by_row is None else self.by_row
        sums = torch.zeros(classes, dtype=torch.float64).index_add_(0, self.labels, by_row)
        tops = [float(by_row[self.labels == c].max()) if present[c] else 1.0 for c in range(classes)]
        mean = torch.where(present, sums / self.counts.clamp(min=1.0), torch.ones(classes, dtype=torch.float64))
        product = drawn.double() * self.by_class * mean
        mass = self.counts * product
        factors = (drawn.double() * self.by_class)[self.labels] * by_row
        val_counts = torch.zeros(classes) if val_labels is None else torch.bincount(val_labels, minlength=classes)
        share, val_share = self.counts / rows, val_counts.double() / max(1.0, float(val_counts.sum()))
        counted = zip(self.counts.tolist(), val_counts.tolist(), strict=True)
        columns = (share, val_share, drawn, self.by_class, mean, torch.tensor(tops), product, mass / mass.sum())
        floats = zip(*(column.double().tolist() for column in columns), strict=True)
        lines = tuple(
            Line(names[c] if c < len(names) else str(c), int(own), first, int(held), *rest)
            for c, ((own, held), (first, *rest)) in enumerate(zip(counted, floats, strict=True))
        )
        effective = float(factors.sum() ** 2 / factors.square().sum())
        shift = 0.0 if val_labels is None else float((share - val_share).abs().sum() / 2)
        missing = [] if val_labels is None else missing_classes(self.labels, val_labels, names)
        return Ledger(lines, effective, rows, shift, clipped, largest, tuple(missing))


def to_json(ledger: Ledger) -> dict[str, Any]:
    """The ledger as it is kept in the run's folder."""
    return asdict(ledger)


def lines_of(ledger: Ledger, weighed: bool) -> list[str]:
    """The ledger for a person, before training.

    Args:
        ledger: of the training rows.
        weighed: whether anything weighs them; else only the classes and their shift are told.
    """
    told = [f"{line.name} {line.rows:,} ({line.share:.1%})" for line in ledger.lines[:_SHOWN]]
    more = f", and {len(ledger.lines) - _SHOWN} more" if len(ledger.lines) > _SHOWN else ""
    found = [f"classes in training: {', '.join(told)}{more}"]
    if weighed or ledger.effective_size < 0.999 * ledger.rows:  # by a column weight of the data's own
        found += [_weighing(ledger)]
    if ledger.clipped:
        found.append(
            f"sample weights: {ledger.clipped:,} of {ledger.rows:,} were outside the range and are clipped "
            f"(largest {ledger.largest:.4g})"
        )
    if len(ledger.missing) > _SHOWN:
        found += [*ledger.missing[:_SHOWN], f"and {len(ledger.missing) - _SHOWN:,} more classes that one part lacks"]
    else:
        found += ledger.missing
    return [*found, *_shift(ledger)]


def _weighing(ledger: Ledger) -> str:
    products = "; ".join(
        f"{line.name} x{line.product:.3g} = {line.effective_share:.1%} of the loss" for line in ledger.lines[:_SHOWN]
    )
    worth = f"worth {ledger.effective_size:,.0f} of {ledger.rows:,} equal rows"
    return f"weighing ledger (sampler x class weight x sample weight): {products}; {worth}"


def _shift(ledger: Ledger) -> list[str]:
    if ledger.shift < _SHIFT or not any(line.val_rows for line in ledger.lines):
        return []
    pairs = ", ".join(f"{line.name} {line.share:.1%} against {line.val_share:.1%}" for line in ledger.lines[:_SHOWN])
    return [f"class shares differ between training and validation by {ledger.shift:.1%}: {pairs}"]


def conflict(active: Sequence[str], ledger: Ledger, origins: Mapping[str, str]) -> HotloopError:
    """Several ways to weigh at once: the product for each class, and the line to change.

    Args:
        active: the keys that weigh (or "weight", a column of the data's own), two or more.
        ledger: of all of them together.
        origins: who set which key.
    """
    products = [line.product for line in ledger.lines if line.rows and line.product > 0]
    ratio = max(products) / min(products)
    times = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"
    said = ", ".join(f"{key} ({origins.get(key, 'the data')})" for key in active)
    drop = " ".join(_OFF[key] for key in active[1:])
    wins = active[0] == "data.balance_sampler" and "weight" not in active
    return HotloopError(
        f"{' and '.join(active)} multiply: a row counts up to {times} times one of another class\n{_products(ledger)}",
        where=said,
        fix=f"keep one of them, such as {active[0]}: {drop}"
        + ("; or data.on_conflict=sampler_wins, which does that by itself" if wins else ""),
    )


_OFF = {
    "data.balance_sampler": "data.balance_sampler=false",
    "optimization.class_weights": "optimization.class_weights=none",
    "data.use_sample_weights": "data.use_sample_weights=false",
    "weight": "(leave the column weight out of the data)",
}


def _products(ledger: Ledger) -> str:
    width = max(len(line.name) for line in ledger.lines)
    table = "\n".join(
        f"    {line.name:<{width}}  {line.rows:>9,} rows: sampler {line.sampler:.3g} x class weight "
        f"{line.class_weight:.3g} x sample weight {line.sample_weight:.3g} (largest {line.largest:.3g}) "
        f"= {line.product:.3g}, {line.effective_share:.1%} of the loss"
        for line in ledger.lines[:_SHOWN]
    )
    return table + (f"\n    and {len(ledger.lines) - _SHOWN:,} more classes" if len(ledger.lines) > _SHOWN else "")
