"""F15: a "warmup" that only freezes the rate: no scheduler step until it is over. Here the rate rises each step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hotloop
from hotloop.errors import ConfigError

PLAIN = {
    "optimizer": "sgd", "momentum": 0.0, "learning_rate": 8e-5, "weight_decay": 0.0, "max_grad_norm": None,
    "precision": "fp32", "compile": "off", "batch_size": 4,
}  # fmt: skip


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"]).squeeze(1)


def rates_in_effect(**overrides) -> list[float]:
    """What really moved the weights: for x = 1 the gradient is 1, so each step moves the bias by the rate."""
    model, rates = nn.Linear(4, 1).double(), []
    at = model.bias.item()
    for _ in hotloop.steps(model, {"x": torch.ones(8, 4).double()}, loss=loss, **{**PLAIN, **overrides}):
        rates.append(at - model.bias.item())
        at = model.bias.item()
    return rates


def test_the_weights_move_by_a_rate_that_rises_from_the_first_step_on() -> None:
    rates = rates_in_effect(warmup_steps=7, warmup_start_factor=0.01, lr_scheduler="constant", max_steps=12)
    assert rates[:7] == pytest.approx([8e-7 + step * (8e-5 - 8e-7) / 7 for step in range(7)], rel=1e-4)
    assert rates[7:] == pytest.approx([8e-5] * 5, rel=1e-4)


def test_warmup_in_epochs_and_as_a_share_rise_alike() -> None:
    """8 rows in batches of 4 are 2 steps an epoch: 3 epochs, or 0.5 of 12 steps, are 6 steps."""
    common = {"lr_scheduler": "constant", "max_steps": 12}
    for warmup in ({"warmup_steps": 6}, {"warmup_epochs": 3}, {"warmup_ratio": 0.5}):
        assert rates_in_effect(**common, **warmup) == pytest.approx(
            [8e-5 * n / 7 for n in range(1, 7)] + [8e-5] * 6, rel=1e-4
        )


@pytest.mark.parametrize(
    "warmup", [{"warmup_steps": 12}, {"warmup_steps": 50}, {"warmup_epochs": 6}, {"warmup_epochs": 6.5}]
)
def test_a_warmup_as_long_as_the_run_is_an_error(warmup: dict) -> None:
    with pytest.raises(ConfigError, match="the rate never reaches its peak"):
        rates_in_effect(max_steps=12, lr_scheduler="constant", **warmup)
