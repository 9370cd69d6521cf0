"""What a run must remember of its data: columns, symbols, sizes and the scaler. JSON-ready, checked when read.

With it the model is rebuilt without the data, and its forecasts are turned back into original units.
Shapes: S series, C columns, K targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop.errors import HotloopError
from hotloop.tasks.forecast.series import Scaler


@dataclass(frozen=True)
class Facts:
    """Where the data came from, columns (C names), targets (K of them), symbols (S names), and how each was scaled."""

    source: str

    columns: tuple[str, ...]
    targets: tuple[str, ...]
    symbols: tuple[str, ...]
    scaler: Scaler

    @property
    def places(self) -> list[int]:
        """Positions of the targets among the columns."""
        return [self.columns.index(name) for name in self.targets]

    def mean(self) -> Tensor:
        """Of the targets, (S, K) float64."""
        return torch.from_numpy(self.scaler.mean[:, self.places])

    def scale(self) -> Tensor:
        """Original units of one scaled unit of the targets, (S, K) float64."""
        return torch.from_numpy(self.scaler.scale[:, self.places])

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs."""
        return {
            "source": self.source,
            "columns": list(self.columns),
            "targets": list(self.targets),
            "symbols": list(self.symbols),
            "mean": self.scaler.mean.tolist(),
            "scale": self.scaler.scale.tolist(),
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Facts:
        """The facts that `to_json` wrote.

        Raises:
            HotloopError: something is missing, of another size, or not finite.
        """
        try:
            columns, targets, symbols = (tuple(map(str, saved[key])) for key in ("columns", "targets", "symbols"))
            mean, scale = (np.array(saved[key], dtype=np.float64) for key in ("mean", "scale"))
        except (KeyError, TypeError, ValueError) as error:
            raise HotloopError(f"what the run kept of its data cannot be read: {error!r}") from error
        shape = (len(symbols), len(columns))
        is_good = mean.shape == scale.shape == shape and set(targets) <= set(columns) and targets
        if not is_good or not np.isfinite(mean).all() or not (np.isfinite(scale) & (scale > 0)).all():
            raise HotloopError("what the run kept of its data is damaged: sizes or numbers do not fit together")
        return cls(str(saved.get("source", "")), columns, targets, symbols, Scaler(mean, scale))
