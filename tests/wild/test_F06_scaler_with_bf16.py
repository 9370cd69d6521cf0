"""F06: a loss scaler used with bf16, which has float32's range and needs none. Here gradients flow back unscaled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hotloop

STEEP = 1e15  # ten orders beyond fp16, and no trouble for bf16


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_gradient_that_flows_back_is_the_losss_own(precision: str) -> None:
    flowing: list[Tensor] = []

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        out = model(batch["x"])
        out.register_hook(lambda gradient: flowing.append(gradient.float()))
        return out.squeeze(1) * STEEP

    done = []
    for info in hotloop.steps(
        nn.Linear(4, 1),
        {"x": torch.ones(8, 4)},
        loss=loss,
        precision=precision,
        compile="off",
        batch_size=4,
        max_steps=4,
    ):
        done.append(int(info.state.applied))
        assert info.state.scaler is None
    assert done == [1, 2, 3, 4]  # none was skipped to find a scale
    assert len(flowing) == 4
    for gradient in flowing:
        torch.testing.assert_close(gradient, torch.full((4, 1), STEEP / 4), rtol=0.01, atol=0)
