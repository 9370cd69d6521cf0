"""Windows over many series: all rows lie once in one table; a batch is a gather.

Invariants: where a window starts and whose it is come out of ONE array, so no window can get another symbol's id; no
window crosses a series; the targets of a window lie within its part. Validation and test windows look back on the rows
just before their part, as is usual on ETT (Zhou et al., arXiv 2012.07436): inputs may overlap, targets never do.
Shapes: R rows of all series end to end, C columns, N windows, B rows of a batch, T look-back, H horizon, K targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hotloop.tasks.forecast.series import Bounds, Shortage

PARTS = ("training", "validation", "test")


class Rows:
    """The scaled rows of all series, (R, C) float32, copied to a device once for all parts."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.nbytes = values.numel() * values.element_size()
        self._moved: dict[torch.device, Rows] = {}

    def to(self, device: torch.device) -> Rows:
        if device == self.values.device:
            return self
        if device not in self._moved:
            self._moved[device] = Rows(self.values.to(device))
        return self._moved[device]


class SeriesWindows:
    """Windows of one part: x (B, T, C), y (B, H, K), symbol (B,) int64.

    Args:
        rows: of all series.
        places: (2, N) int64: the first row of each window, and the number of the series that it lies in.
        sequence: T. horizon: H. targets: positions of the K targets among the columns.
    """

    def __init__(self, rows: Rows, places: Tensor, sequence: int, horizon: int, targets: Sequence[int]) -> None:
        self._rows, self.places = rows, places
        self.sequence, self.horizon, self.targets = sequence, horizon, tuple(targets)
        device = places.device
        self._offsets = torch.arange(sequence + horizon, device=device)
        every = self.targets == tuple(range(rows.values.shape[1]))
        self._chosen = None if every else torch.tensor(self.targets, device=device)
        self.nbytes: int | None = rows.nbytes + places.numel() * places.element_size()

    def __len__(self) -> int:
        return self.places.shape[1]

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        start, symbol = self.places.index_select(1, indices)  # (B,) each
        window = self._rows.values[start.unsqueeze(1) + self._offsets]  # (B, T + H, C)
        ahead = window[:, self.sequence :]
        y = ahead if self._chosen is None else ahead.index_select(2, self._chosen)
        return {"x": window[:, : self.sequence], "y": y, "symbol": symbol}

    def column(self, name: str) -> Tensor | None:
        """The symbols of all windows; their rows are never laid out as a whole."""
        return self.places[1].cpu() if name == "symbol" else None

    def to(self, device: torch.device) -> SeriesWindows:
        moved = self._rows.to(device)
        return SeriesWindows(moved, self.places.to(device), self.sequence, self.horizon, self.targets)

    def thinned(self, limit: int | None) -> SeriesWindows:
        """At most `limit` windows, evenly spread; all where that is None."""
        if limit is None or limit >= len(self):
            return self
        kept = torch.arange(limit) * len(self) // limit
        return SeriesWindows(self._rows, self.places[:, kept], self.sequence, self.horizon, self.targets)


def places_of_parts(
    bounds: Sequence[Bounds], lengths: Sequence[int], names: Sequence[str], sequence: int, horizon: int
) -> tuple[list[Tensor], Shortage]:
    """Where the windows of training, validation and test start.

    Args:
        bounds: of each series: the rows at which its three parts end.
        lengths: rows of each series, which lie end to end in the table.
        names: of the series, for the report.
        sequence: T. horizon: H.

    Returns:
        Three tensors (2, N) int64 of (first row, series); and who lacks windows in a part that others have.
    """
    found: list[list[Tensor]] = [[], [], []]
    short = Shortage()
    first_row = np.cumsum([0, *lengths])
    is_empty = [all(ends[part] == (0, *ends)[part] for ends in bounds) for part in range(3)]
    for number, ends in enumerate(bounds):
        for part in range(3):
            low, high = (0, *ends)[part], ends[part]
            first = max(low, sequence)  # row of the first target
            count = high - horizon + 1 - first
            if count > 0:
                starts = torch.arange(count) + int(first_row[number]) + first - sequence
                found[part].append(torch.stack([starts, torch.full_like(starts, number)]))
            elif not is_empty[part]:
                short.add(f"no window for {PARTS[part]}", names[number], high - low, horizon + first - low)
    return [torch.cat(part, dim=1) if part else torch.empty(2, 0, dtype=torch.int64) for part in found], short
