"""The `forecast` task on files and on a cache: what is read and said, metrics, baselines, conclusions and assets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from hotloop.config.schema import DataSection
from hotloop.errors import HotloopError
from hotloop.task import Tally
from hotloop.tasks.forecast import reading
from hotloop.tasks.forecast.options import ForecastData, ForecastModel
from hotloop.tasks.forecast.task import Forecast

DAY = 86_400 * 10**9


@dataclass
class FakeCache:
    """As `hotloop.data.prepare.cache` gives it."""

    manifest: dict[str, Any]
    rows: dict[str, tuple[np.ndarray, np.ndarray]]

    def read(self, symbol):
        return self.rows[symbol]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """`cache(A=300, B=200)`: bars of these symbols, and what preparing left out."""

    def make(**lengths):
        draw = np.random.default_rng(0)
        rows = {}
        for number, (symbol, length) in enumerate(lengths.items()):
            close = 100 * np.exp(np.cumsum(draw.normal(0, 0.01 * (number + 1), length)))
            table = np.stack([close, draw.normal(size=length)], axis=1).astype(np.float32)
            rows[symbol] = (np.arange(length) * DAY, table)
        manifest = {
            "synthetic": False, "columns": ["close", "rsi"], "features": ["rsi"],
            "symbols": {symbol: {} for symbol in lengths}, "failed": {"BAD": {"reason": "negative price"}},
            "short": {"TINY": {"rows": 3, "needed": 120}}, "absent": ["GONE"],
        }  # fmt: skip
        monkeypatch.setattr(reading, "_open", lambda folder: FakeCache(manifest, rows))
        return str(tmp_path)

    return make


def task(path: str, *, model: dict[str, Any] | None = None, **data: Any) -> Forecast:
    sizes = {"hidden_size": 8, "num_layers": 1, **(model or {})}
    return Forecast(ForecastModel(**sizes), ForecastData(path=path, **{"sequence": 10, **data}), seed=1)


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "series.csv"
    values = np.random.default_rng(1).normal(size=(200, 2)) * [2.0, 0.1] + [50.0, -1.0]
    lines = [f"2020-01-{1 + n // 24:02d} {n % 24:02d}:00,{a},{b}" for n, (a, b) in enumerate(values)]
    path.write_text("\n".join(["date,a,b", *lines]))
    return str(path)


def whole(source):
    return source.batch(torch.arange(len(source)))


def test_a_csv_is_forecast_in_all_its_columns(csv):
    forecast = task(csv, horizon=3)
    splits = forecast.sources()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [160 - 12, 18, 18]
    batch = whole(splits.val)
    assert {name: tuple(value.shape[1:]) for name, value in batch.items()} == {"x": (10, 2), "y": (3, 2), "symbol": ()}
    assert "1 series, 200 rows" in forecast.notes()[0]
    assert any("148 for training, 18 for validation, 18 for test" in line for line in forecast.notes())
    assert forecast.cut(splits) is splits


def test_metrics_are_errors_in_both_units(csv):
    forecast = task(csv, horizon=3)
    batch = whole(forecast.sources().val)
    model = forecast.model().eval()
    loss, tallies = forecast.loss_and_metrics(model, batch)
    assert loss.shape == (18,)
    error = (model(batch["x"], batch["symbol"]) - batch["y"]).detach()
    scale = forecast.facts.scale()[0].float()

    def mean(tally: Tally) -> float:
        return (tally.sum / tally.weight).item()

    assert mean(tallies["mse"]) == pytest.approx(loss.mean().item()) == pytest.approx(error.square().mean().item())
    assert mean(tallies["mae"]) == pytest.approx(error.abs().mean().item())
    assert mean(tallies["mse_raw"]) == pytest.approx((error * scale).square().mean().item())
    assert mean(tallies["mae_raw"]) == pytest.approx((error * scale).abs().mean().item())


def test_rows_of_weight_0_count_nowhere(csv):
    forecast = task(csv)
    batch, model = whole(forecast.sources().val), forecast.model().eval()
    half = {name: value[:9] for name, value in batch.items()}
    padded = {**batch, "weight": (torch.arange(20) < 9).float()}
    wanted, found = forecast.metrics(model, half), forecast.metrics(model, padded)
    for name in wanted:
        assert torch.allclose(wanted[name].sum, found[name].sum)
        assert torch.allclose(wanted[name].weight, found[name].weight)


def test_the_original_values_come_back(csv):
    forecast = task(csv)
    batch = whole(forecast.sources().train)
    original = forecast.original(batch["y"], batch["symbol"])
    with open(csv) as file:
        first = [float(cell) for cell in file.read().splitlines()[11].split(",")[1:]]
    assert torch.allclose(original[0, 0], torch.tensor(first, dtype=torch.float64), rtol=1e-5)


def test_baselines_of_etth1_are_the_known_ones(shared_data):
    path = str(shared_data("ett/ETTh1.csv"))
    forecast = task(path, sequence=60, horizon=24, parts=(8640, 2880, 2880))
    splits = forecast.sources()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [8557, 2857, 2857]
    found = forecast.baselines(splits)
    assert found["naive"]["test_mse"] == pytest.approx(1.222, abs=0.001)
    assert found["linear"]["test_mse"] == pytest.approx(0.297, abs=0.0005)
    assert found["linear"]["mse"] == pytest.approx(0.390, abs=0.001)
    assert "the last 3,020 times are not used" in "\n".join(forecast.notes())


def test_bars_are_forecast_as_returns(cache):
    forecast = task(cache(A=300, B=300))
    splits = forecast.sources()
    assert forecast.facts.columns == ("return", "rsi")
    assert forecast.facts.targets == ("return",)
    batch = whole(splits.val)
    assert batch["y"].shape[1:] == (1, 1)
    naive = forecast.baselines(splits)["naive"]
    raw = forecast.original(batch["y"], batch["symbol"])
    assert naive["mse_raw"] == pytest.approx(raw.square().mean().item(), rel=1e-4)  # the close stays: a return of 0


def test_the_close_or_a_column_can_be_the_target(cache):
    path = cache(A=300)
    for target, columns in (("close", ("close", "rsi")), ("rsi", ("rsi",)), ("all", ("rsi",))):
        forecast = task(path, target=target)
        forecast.sources()
        assert forecast.facts.columns == columns
    splits = task(path, target="close", columns=("close",)).sources()
    assert whole(splits.train)["x"].shape[2] == 1


def test_what_preparing_left_out_is_said(cache):
    forecast = task(cache(A=300))
    forecast.sources()
    said = "\n".join(forecast.notes())
    for part in ("1 failed: BAD", "1 too short: TINY", "1 not in the database: GONE"):
        assert part in said


def test_symbols_can_be_chosen(cache):
    path = cache(A=300, B=300, C=300)
    forecast = task(path, symbols=("C", "A"))
    forecast.sources()
    assert forecast.facts.symbols == ("A", "C")
    with pytest.raises(HotloopError, match=r"no symbol 'Z'\n.*data.symbols\n.*it has A, B, C"):
        task(path, symbols=("Z",)).sources()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"target": "c"}, r"the column 'c' is not in series.csv\n.*data.target\n.*it has a, b"),
        ({"target": "return"}, r"'close', which a return is made of, is not in series.csv"),
        ({"columns": ("a", "z")}, r"no column 'z' in series.csv\n.*data.columns"),
        ({"symbols": ("A",)}, r"one series and no symbols\n.*data.symbols"),
        ({"sequence": 190}, r"longest has 160 rows for training, and one window needs 191"),
        ({"horizon": 21}, r"validation part has 20 times, and the targets of one window take 21"),
        ({"parts": (150, 40, 20)}, r"take 210 times, and the data holds 200\n.*data.parts"),
    ],
)
def test_what_cannot_be_is_told(csv, data, said):
    with pytest.raises(HotloopError, match=said):
        task(csv, **data).sources()


def test_a_patch_must_divide_the_sequence(csv):
    with pytest.raises(HotloopError, match=r"patches of 4 steps do not divide a sequence of 10\n.*model.patch"):
        task(csv, model={"patch": 4}).sources()


def test_a_part_can_be_left_out(csv):
    splits = task(csv, val_fraction=0.0, test_fraction=0.0).sources()
    assert splits.val is None
    assert splits.test is None
    assert len(splits.train) == 190


def test_the_model_is_rebuilt_from_the_assets(cache):
    forecast = task(cache(A=300, B=300))
    batch = whole(forecast.sources().val)
    model = forecast.model().eval()
    again = task("/nowhere/else")
    again.use_assets(json.loads(json.dumps(forecast.assets())))
    twin = again.model().eval()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(batch["x"], batch["symbol"]), model(batch["x"], batch["symbol"]))
    assert torch.equal(again.original(batch["y"], batch["symbol"]), forecast.original(batch["y"], batch["symbol"]))


@pytest.mark.parametrize("change", [{"mean": None}, {"scale": [[0.0, 1.0]]}, {"targets": ["c"]}, {"mean": [[1.0]]}])
def test_damaged_assets_are_refused(csv, change):
    forecast = task(csv)
    forecast.sources()
    with pytest.raises(HotloopError, match="what the run kept of its data"):
        forecast.use_assets({**forecast.assets(), **change})


def test_conclusions_are_broken_down(cache):
    forecast = task(cache(A=300, B=300), horizon=3)
    splits, model = forecast.sources(), forecast.model().eval()
    with torch.no_grad():
        parts = {"val": forecast.predict(model, whole(splits.val)), "test": forecast.predict(model, whole(splits.test))}
    found = json.loads(json.dumps(forecast.conclude(parts)))
    mse = (parts["val"]["forecast"] - parts["val"]["y"]).square().mean().item()
    assert np.mean(found["per_step_mse"]) == pytest.approx(mse, rel=1e-5)
    assert found["per_target_mse"]["return"] == pytest.approx(mse, rel=1e-5)
    assert np.mean(list(found["per_symbol_mse"].values())) == pytest.approx(mse, rel=1e-5)
    assert len(found["test_per_step_mse"]) == 3


def test_options_that_cannot_work_are_refused():
    assert issubclass(ForecastData, DataSection)
    assert ForecastData().problems() == []
    assert ForecastData(parts=(1, 1, 1), val_fraction=0.2).problems()[0][0] == "val_fraction"
    assert ForecastData(val_fraction=0.5, test_fraction=0.5).problems()[0][0] == "test_fraction"
    assert ForecastData(symbols=("A", "A")).problems()[0][0] == "symbols"
    assert ForecastModel(name="transformer", hidden_size=30, n_head=4).problems()[0][0] == "n_head"
    assert ForecastModel(name="lstm", n_head=8).problems()[0][0] == "n_head"
