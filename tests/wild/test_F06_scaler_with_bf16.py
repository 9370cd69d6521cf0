"""F06: a loss scaler used with bf16, which has float32's range. Here bf16 has none: large losses are not scaled away."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hotloop

LARGE = 1e35  # times 65536 it is beyond bf16 and float32 alike


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"]).squeeze(1) * LARGE


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_gradient_that_flows_back_is_the_losss_own(precision: str) -> None:
    model = nn.Linear(4, 1, bias=False)
    flowing = []
    model.register_full_backward_hook(lambda module, inputs, outputs: flowing.append(outputs[0].detach().float()))
    done = []
    for info in hotloop.steps(
        model, {"x": torch.ones(8, 4)}, loss=loss, precision=precision, compile="off", batch_size=4, max_steps=4
    ):
        done.append(int(info.state.applied))
        assert info.state.scaler is None
    assert done == [1, 2, 3, 4]  # a scaler would overflow and skip
    expected = torch.full((4, 1), LARGE / 4)
    for gradient in flowing[-4:]:
        torch.testing.assert_close(gradient, expected, rtol=0.01, atol=0)
