"""Series after training: windows of a file to predict or to be measured on, forecasts in the data's own units.

A file is read as in training, with the columns and the scaler that the run keeps. Shapes: S series, T look-back, C
columns, H horizon, K targets, B rows of a batch, N windows.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.errors import HotloopError
from hotloop.task import Exportable, Piece
from hotloop.tasks.forecast.facts import Facts
from hotloop.tasks.forecast.options import ALL, RETURN, ForecastData
from hotloop.tasks.forecast.reading import read_table
from hotloop.tasks.forecast.series import Series, Table
from hotloop.tasks.forecast.windows import Rows, SeriesWindows


class Unseen(SeriesWindows):
    """Windows whose targets are not known: x (B, T, C) and symbol (B,)."""

    def __init__(self, rows: Rows, places: Tensor, sequence: int, targets: Sequence[int]) -> None:
        super().__init__(rows, places, sequence, 0, targets)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {name: value for name, value in super().batch(indices).items() if name != "y"}


def labelled(path: Path, data: ForecastData, facts: Facts) -> SeriesWindows:
    """Every window of a file whose targets lie in it too.

    Raises:
        HotloopError: other columns or symbols than the run's, or no window.
    """
    table, numbers = _read(path, data, facts)
    places = _places(table, numbers, data.sequence + data.horizon, path)
    return SeriesWindows(_rows(table, numbers, facts), places, data.sequence, data.horizon, facts.places)


def pieces(path: Path, data: ForecastData, facts: Facts, rows: int) -> Iterator[Piece]:
    """Every window of a file, the last one too, whose targets lie beyond its end; each told by its last time.

    Raises:
        HotloopError: other columns or symbols than the run's, or no window.
    """
    table, numbers = _read(path, data, facts)
    places, scaled = _places(table, numbers, data.sequence, path), _rows(table, numbers, facts)
    first_row = _first_rows(table)
    by_number = dict(zip(numbers, zip(table.series, first_row, strict=True), strict=True))
    for part in torch.split(places, rows, dim=1):
        told = []
        for start, number in zip(*part.tolist(), strict=True):
            series, first = by_number[number]
            last = int(series.times[start - first + data.sequence - 1])
            told.append({"symbol": facts.symbols[number], "after": _moment(last) if table.dated else last})
        yield Piece(Unseen(scaled, part.contiguous(), data.sequence, facts.places), told)


def _read(path: Path, data: ForecastData, facts: Facts) -> tuple[Table, list[int]]:
    """The file's series and the numbers that the run knows them by; the columns are those of the run."""
    if not path.exists():
        raise HotloopError("the file does not exist", where=str(path), fix="check the path; no data is made up")
    made = facts.targets == (RETURN,)
    columns = tuple(name for name in facts.columns if not (made and name == RETURN)) or None
    target = facts.targets[0] if len(facts.targets) == 1 else ALL
    symbols = None if path.is_file() else data.symbols
    table = read_table(
        data.model_copy(update={"path": str(path), "columns": columns, "target": target, "symbols": symbols})
    )
    if table.columns != facts.columns:
        found, known = ", ".join(table.columns), ", ".join(facts.columns)
        raise HotloopError(f"the columns are {found}, and the run knows {known}", where=str(path), fix="give those")
    if path.is_file() and len(facts.symbols) == 1:  # a CSV names no symbol: it is the one of the run
        return table, [0]
    unknown = [one.name for one in table.series if one.name not in facts.symbols]
    if unknown:
        raise HotloopError(
            f"the run knows no scale for {len(unknown)} of the series: {', '.join(unknown[:5])}",
            where=str(path),
            fix=f"give series that it was trained on: {', '.join(facts.symbols[:10])}",
        )
    return table, [facts.symbols.index(one.name) for one in table.series]


def _first_rows(table: Table) -> list[int]:
    found = [0]
    for one in table.series[:-1]:
        found.append(found[-1] + len(one.times))
    return found


def _places(table: Table, numbers: Sequence[int], length: int, path: Path) -> Tensor:
    """First row and series of every window of `length` rows, (2, N)."""
    found = []
    for one, number, first in zip(table.series, numbers, _first_rows(table), strict=True):
        starts = torch.arange(max(0, len(one.times) - length + 1)) + first
        found.append(torch.stack([starts, torch.full_like(starts, number)]))
    places = torch.cat(found, dim=1)
    if not places.shape[1]:
        longest = max(len(one.times) for one in table.series)
        raise HotloopError(
            f"the longest series has {longest:,} rows, and one window needs {length:,}",
            where=str(path),
            fix=f"give at least {length:,} rows",
        )
    return places


def _rows(table: Table, numbers: Sequence[int], facts: Facts) -> Rows:
    pairs: Iterator[tuple[Series, int]] = zip(table.series, numbers, strict=True)
    return Rows(torch.cat([torch.from_numpy(facts.scaler.apply(one.values, number)) for one, number in pairs]))


def _moment(nanoseconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(nanoseconds / 1e9, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def answers(forecast_nhk: Tensor, facts: Facts, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each window's forecast, target by target, a value for each step ahead, in the data's own units."""
    values = forecast_nhk.transpose(1, 2).tolist()
    return [
        {**row, "forecast": dict(zip(facts.targets, by_target, strict=True))}
        for row, by_target in zip(rows, values, strict=True)
    ]


class InUnits(nn.Module):
    """The model between the data's own units: x (B, T, C) and symbol (B,) to a forecast (B, H, K)."""

    def __init__(self, model: nn.Module, facts: Facts) -> None:
        super().__init__()
        self.model, self.targets = model, list(facts.places)
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.from_numpy(facts.scaler.mean).float())
        self.register_buffer("scale", torch.from_numpy(facts.scaler.scale).float())

    def forward(self, x: Tensor, symbol: Tensor) -> Tensor:
        mean, scale = self.mean[symbol].unsqueeze(1), self.scale[symbol].unsqueeze(1)
        forecast: Tensor = self.model((x - mean) / scale, symbol)
        return forecast * scale[:, :, self.targets] + mean[:, :, self.targets]


def exportable(model: nn.Module, facts: Facts, sequence: int) -> Exportable:
    """The model in the data's own units, on invented windows."""
    draw = torch.Generator().manual_seed(0)
    symbol = torch.arange(3) % len(facts.symbols)
    module = InUnits(model, facts)
    steps = torch.randn(3, sequence, len(facts.columns), generator=draw)
    x = steps * module.scale[symbol].unsqueeze(1) + module.mean[symbol].unsqueeze(1)
    axes = {"x": {0: "batch"}, "symbol": {0: "batch"}}
    return Exportable(module, {"x": x, "symbol": symbol}, ("forecast",), axes)
