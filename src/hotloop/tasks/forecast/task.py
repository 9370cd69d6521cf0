"""The `forecast` task: the next steps of market bars and other series, beside what simple predictors reach.

Batches hold x (B, T, C), y (B, H, K) and symbol (B,), in units of the scaler that was fitted on the training part.
The scaler, the columns and the symbols are the run's assets. Metrics named _raw are in the data's own units.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hotloop.errors import HotloopError
from hotloop.task import Batch, Exportable, Piece, Splits, Tally, Task
from hotloop.tasks.forecast import after, baselines
from hotloop.tasks.forecast.facts import Facts
from hotloop.tasks.forecast.model import Forecaster
from hotloop.tasks.forecast.options import RETURN, ForecastData, ForecastModel
from hotloop.tasks.forecast.reading import read_table
from hotloop.tasks.forecast.series import Bounds, Cut, Scaler, Series, Shortage, Table, cut_time
from hotloop.tasks.forecast.windows import PARTS, Rows, SeriesWindows, places_of_parts


class Forecast(Task):
    """Forecasts the targets of one or many series, `data.horizon` steps ahead."""

    Model = ForecastModel
    Data = ForecastData
    epoch_line: ClassVar[bool] = True
    """One line an epoch for people and tools: Epoch [1/100] - Train Loss: ..., Val Loss: ..., Time: ..."""

    def __init__(self, model_options: ForecastModel, data_options: ForecastData, *, seed: int) -> None:
        super().__init__(model_options, data_options, seed=seed)
        self.facts: Facts | None = None
        self._notes: list[str] = []
        self._scales: dict[torch.device, Tensor] = {}

    def sources(self) -> Splits:
        """Windows of the three parts of time, over one table of rows."""
        options = self.data_options
        self._check_patch()
        table = read_table(options)
        cut = cut_time(table.series, options.val_fraction, options.test_fraction, options.parts)
        series, bounds, left_out = self._with_training_window(table, cut)
        scaler = Scaler.fit([one.values[: ends[0]] for one, ends in zip(series, bounds, strict=True)], options.scaling)
        self.facts = Facts(table.source, table.columns, table.targets, tuple(one.name for one in series), scaler)
        scaled = [torch.from_numpy(scaler.apply(one.values, number)) for number, one in enumerate(series)]
        lengths, names = [len(one.times) for one in series], [one.name for one in series]
        places, short = places_of_parts(bounds, lengths, names, options.sequence, options.horizon)
        rows, targets = Rows(torch.cat(scaled)), self.facts.places
        parts = [
            SeriesWindows(rows, part, options.sequence, options.horizon, targets).thinned(options.limit)
            for part in places
        ]
        self._require_windows(parts, cut, table)
        self._notes = self._describe(table, cut, parts, [*left_out, *short.notes()])
        train, val, test = (part if len(part) else None for part in parts)
        return Splits(train, val, test=test)

    def cut(self, splits: Splits) -> Splits:
        """The splits as they are: `sources` has cut them by time and applied the limit."""
        return splits

    def model(self) -> Forecaster:
        """The network for the columns and symbols found."""
        facts, options = self._known(), self.data_options
        places, count = tuple(facts.places), len(facts.symbols)
        norm = self.model_options.norm_for(facts.targets)
        sizes = len(facts.columns), places, count, options.sequence, options.horizon
        return Forecaster(self.model_options, *sizes, norm=norm)

    def loss(self, model: nn.Module, batch: Batch, training: bool) -> Tensor:
        """Mean squared error of each window over steps and targets, in scaled units, float32, (B,)."""
        return _squared(self._forecast(model, batch), batch["y"])

    def loss_and_metrics(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tally]]:
        """The loss, and squared and absolute errors in scaled and in original units."""
        forecast, weight = self._forecast(model, batch), batch.get("weight")
        error = forecast - batch["y"]
        raw = error * self._scale_on(error.device)[batch["symbol"]].unsqueeze(1)
        tallies = {
            "mse": Tally.of(error.square(), weight),
            "mae": Tally.of(error.abs(), weight),
            "mse_raw": Tally.of(raw.square(), weight),
            "mae_raw": Tally.of(raw.abs(), weight),
        }
        return _squared(forecast, batch["y"]), tallies

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tally]:
        """Squared and absolute errors in scaled and in original units."""
        return self.loss_and_metrics(model, batch)[1]

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Forecast and, where known, truth (B, H, K) in scaled units, and whose window it is (B,)."""
        truth = {"y": batch["y"]} if "y" in batch else {}
        return {"forecast": self._forecast(model, batch), **truth, "symbol": batch["symbol"]}

    def conclude(self, parts: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
        """Errors step by step, target by target and (of several) symbol by symbol, of validation and test."""
        facts = self._known()
        found: dict[str, Any] = {"data": facts.source, "targets": list(facts.targets)}
        for part, rows in parts.items():
            prefix = "" if part == "val" else f"{part}_"
            found |= {f"{prefix}{name}": value for name, value in _errors(facts, rows).items()}
        return found

    def baselines(self, splits: Splits) -> dict[str, dict[str, float]]:
        """The last value kept (for a return: an unchanged close), and a linear map of each target's own lags."""
        facts = self._known()
        zero = -facts.mean() / facts.scale() if facts.targets == (RETURN,) else None
        predictors = {
            "naive": baselines.naive(facts.places, zero),
            "linear": baselines.linear(splits.train, facts.places),
        }
        measured = [(prefix, part) for prefix, part in (("", splits.val), ("test_", splits.test)) if part is not None]
        return {
            name: {
                f"{prefix}{metric}": value
                for prefix, part in measured
                for metric, value in baselines.measure(predict, part, facts.scale()).items()
            }
            for name, predict in predictors.items()
        }

    def original(self, forecast_bhk: Tensor, symbol_b: Tensor) -> Tensor:
        """Scaled forecasts (B, H, K) of the symbols of these numbers, in the data's own units, float64."""
        facts = self._known()
        mean, scale = facts.mean()[symbol_b].unsqueeze(1), facts.scale()[symbol_b].unsqueeze(1)
        return forecast_bhk.double() * scale + mean

    def assets(self) -> dict[str, Any]:
        """Columns, targets, symbols and the scaler."""
        return self._known().to_json()

    def use_assets(self, assets: dict[str, Any]) -> None:
        """Take columns, symbols and scaler of a run folder."""
        self.facts = Facts.from_json(assets)

    def notes(self) -> list[str]:
        """What was read, how time is cut, and which symbols lack windows."""
        return list(self._notes)

    def pieces(self, path: Path, rows: int) -> Iterator[Piece]:
        """Every window of a CSV file or of a prepared cache, the one at the end of each series too."""
        return after.pieces(path, self.data_options, self._known(), rows)

    def labelled(self, path: Path) -> SeriesWindows:
        """Every window of a CSV file or of a prepared cache whose targets are known."""
        return after.labelled(path, self.data_options, self._known())

    def answers(self, outputs: dict[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The forecast of each window in the data's own units."""
        return after.answers(self.original(outputs["forecast"], outputs["symbol"]), self._known(), rows)

    def exportable(self, model: nn.Module) -> Exportable:
        """Windows and symbol numbers to forecasts, all in the data's own units."""
        return after.exportable(model, self._known(), self.data_options.sequence)

    def _known(self) -> Facts:
        assert self.facts is not None, "sources() or use_assets() comes first"
        return self.facts

    def _forecast(self, model: nn.Module, batch: Batch) -> Tensor:
        forecast: Tensor = model(batch["x"], batch["symbol"])
        return forecast.float()

    def _scale_on(self, device: torch.device) -> Tensor:
        if device not in self._scales:
            self._scales[device] = self._known().scale().float().to(device)
        return self._scales[device]

    def _check_patch(self) -> None:
        patch, sequence = self.model_options.patch, self.data_options.sequence
        if sequence % patch:
            raise HotloopError(
                f"patches of {patch} steps do not divide a sequence of {sequence}",
                where="model.patch",
                fix=f"use data.sequence={-(-sequence // patch) * patch}, or a patch that divides {sequence}",
            )

    def _with_training_window(self, table: Table, cut: Cut) -> tuple[list[Series], list[Bounds], list[str]]:
        """The series that hold at least one window for training, with their bounds; a line about each other one."""
        needed = self.data_options.sequence + self.data_options.horizon
        bounds = [cut.rows(one.times) for one in table.series]
        kept = [number for number, ends in enumerate(bounds) if ends[0] >= needed]
        short = Shortage()
        for one, ends in zip(table.series, bounds, strict=True):
            if ends[0] < needed:
                short.add("left out, too short for one window of training", one.name, ends[0], needed)
        if not kept:
            longest = max(ends[0] for ends in bounds)
            raise HotloopError(
                f"no series is long enough: the longest has {longest:,} rows for training, and one window needs "
                f"{needed:,} (sequence {self.data_options.sequence} + horizon {self.data_options.horizon})",
                where=table.source,
                fix="use a longer series, a smaller data.sequence or data.horizon, or smaller held-out parts",
            )
        return [table.series[number] for number in kept], [bounds[number] for number in kept], short.notes()

    def _require_windows(self, parts: Sequence[SeriesWindows], cut: Cut, table: Table) -> None:
        for part, windows, count in zip(PARTS, parts, cut.counts, strict=True):
            if count and not len(windows):
                raise HotloopError(
                    f"the {part} part has {count:,} times, and the targets of one window take "
                    f"{self.data_options.horizon:,}",
                    where=table.source,
                    fix="make that part larger (data.val_fraction, data.test_fraction or data.parts) or "
                    "data.horizon smaller",
                )

    def _describe(self, table: Table, cut: Cut, parts: Sequence[SeriesWindows], lines: list[str]) -> list[str]:
        count = len(self._known().symbols)
        read = f"{table.source}: {count} series, {sum(len(one.times) for one in table.series):,} rows"
        width = f"{len(table.columns)} columns; forecast: {', '.join(table.targets)}"
        until = "".join(
            f", {part} from {_day(start)}" for part, start in zip(PARTS[1:], cut.starts, strict=False) if table.dated
        )
        unused = f"; the last {cut.unused:,} times are not used" if cut.unused else ""
        sizes = ", ".join(f"{len(windows):,} for {part}" for part, windows in zip(PARTS, parts, strict=True))
        how = "fitted on the training part only" if self.data_options.scaling == "standard" else "off"
        return [
            f"data: {read}",
            width,
            *table.notes,
            f"windows: {sizes}{until}; inputs may look back over the boundary, targets never do{unused}",
            f"scaling: {how}; window_norm {self.model_options.norm_for(table.targets)}",
            *lines,
        ]


def _day(nanoseconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(nanoseconds / 1e9, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M").removesuffix(" 00:00")


def _squared(forecast_bhk: Tensor, y_bhk: Tensor) -> Tensor:
    return (forecast_bhk - y_bhk).square().flatten(1).mean(1)


def _errors(facts: Facts, rows: dict[str, Tensor]) -> dict[str, Any]:
    """Squared errors by step, target and symbol, and the root of them in original units by target."""
    error = (rows["forecast"] - rows["y"]).double()  # (N, H, K)
    raw = error * facts.scale()[rows["symbol"]].unsqueeze(1)
    squared = error.square()
    found: dict[str, Any] = {
        "per_step_mse": squared.mean((0, 2)).tolist(),
        "per_target_mse": dict(zip(facts.targets, squared.mean((0, 1)).tolist(), strict=True)),
        "per_target_rmse_raw": dict(zip(facts.targets, raw.square().mean((0, 1)).sqrt().tolist(), strict=True)),
        "per_target_mae_raw": dict(zip(facts.targets, raw.abs().mean((0, 1)).tolist(), strict=True)),
    }
    if len(facts.symbols) > 1:
        by_row, symbols = squared.mean((1, 2)), rows["symbol"]
        count = torch.bincount(symbols, minlength=len(facts.symbols))
        total = torch.zeros(len(facts.symbols), dtype=torch.float64).index_add_(0, symbols, by_row)
        means = (total / count.clamp(min=1)).tolist()
        found["per_symbol_mse"] = {
            name: value for name, value, rows_of in zip(facts.symbols, means, count.tolist(), strict=True) if rows_of
        }
    return found
