"""The forecasting network: shapes of every kind, where it starts, and that symbols and columns reach it."""

from __future__ import annotations

import pytest
import torch

from hotloop.tasks.forecast.model import Forecaster
from hotloop.tasks.forecast.options import ForecastModel

NAMES = ("lstm", "gru", "transformer")


def network(columns: int = 3, targets: tuple[int, ...] = (0, 2), symbols: int = 4, **options) -> Forecaster:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_layers": 2, "symbol_embedding": 4, **options}
    norm = sizes.get("window_norm", "none")
    return Forecaster(ForecastModel(**sizes), columns, targets, symbols, sequence=12, horizon=5, norm=norm).eval()


def trained(model: Forecaster) -> Forecaster:
    """Weights as if something had been learned: nothing is zero any more."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


X = torch.randn(6, 12, 3, generator=torch.Generator().manual_seed(1)) + 2.0
SYMBOL = torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize("channels", ["mix", "independent"])
@pytest.mark.parametrize("patch", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_every_kind_gives_steps_by_targets_and_learns(name, patch, channels):
    model = trained(network(name=name, patch=patch, channels=channels))
    out = model(X, SYMBOL)
    assert out.shape == (6, 5, 2)
    out.square().mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


@pytest.mark.parametrize(
    ("norm", "start"),
    [
        ("none", torch.zeros(6, 1, 2)),
        ("last", X[:, -1:, [0, 2]]),
        ("mean", X.mean(1, keepdim=True)[:, :, [0, 2]]),
        ("standard", X.mean(1, keepdim=True)[:, :, [0, 2]]),
    ],
)
def test_an_untrained_model_forecasts_what_the_norm_gives_back(norm, start):
    out = network(window_norm=norm)(X, SYMBOL)
    assert torch.allclose(out, start.expand(6, 5, 2), atol=1e-6)


@pytest.mark.parametrize("norm", ["last", "mean", "standard"])
def test_a_normalised_model_follows_a_shift(norm):
    model = trained(network(window_norm=norm))
    assert torch.allclose(model(X + 10.0, SYMBOL), model(X, SYMBOL) + 10.0, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_symbol_changes_its_own_forecast_only(name):
    model = trained(network(name=name))
    changed = SYMBOL.clone()
    changed[0] = 3
    before, after = model(X, SYMBOL), model(X, changed)
    assert not torch.allclose(before[0], after[0])
    assert torch.equal(before[1:], after[1:])


def test_one_symbol_needs_no_embedding():
    assert network(symbols=1).symbol_embedding is None
    assert network(symbol_embedding=0).symbol_embedding is None


def test_independent_channels_do_not_see_each_other():
    model = trained(network(channels="independent"))
    other = X.clone()
    other[:, :, 2] = 0.0
    before, after = model(X, SYMBOL), model(other, SYMBOL)
    assert torch.allclose(before[:, :, 0], after[:, :, 0], atol=1e-6)
    assert not torch.allclose(before[:, :, 1], after[:, :, 1])


def test_mixed_channels_see_columns_that_are_not_forecast():
    model = trained(network())
    other = X.clone()
    other[:, :, 1] = 0.0
    assert not torch.allclose(model(X, SYMBOL), model(other, SYMBOL))


def test_the_window_norm_suits_the_target_unless_it_is_stated():
    auto = ForecastModel()
    assert [auto.norm_for(t) for t in (("return",), ("close",), ("OT",))] == ["none", "last", "mean"]
    assert ForecastModel(window_norm="standard").norm_for(("close",)) == "standard"


def test_the_linear_half_keeps_float32_under_autocast():
    model = trained(network())
    own = X[:, :, [0, 2]]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.skip(own), model.skip(own.float()))
        assert model.skip(own).dtype == torch.float32
