"""F01: the last, shorter accumulation window divided by the full count gives gradients 1.0, 1.0, 0.5. Here 1.0 each."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import hotloop

PLAIN = {
    "optimizer": "sgd", "momentum": 0.0, "learning_rate": 1.0, "weight_decay": 0.0, "lr_scheduler": "constant",
    "warmup_steps": 0, "max_grad_norm": None, "precision": "fp32", "compile": "off",
}  # fmt: skip


class OneWeight(nn.Module):
    """y = w x: for x = 1 the gradient of each row is 1.0."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


def test_a_window_of_half_the_micro_batches_has_the_whole_gradient() -> None:
    """20 rows as 2 x 4: windows of 4, 4 and 2 micro-batches, which a division by 4 would give 1.0, 1.0 and 0.5."""
    model, at = OneWeight(), [0.0]
    rows = []
    for info in hotloop.steps(
        model, {"x": torch.ones(20)}, loss=lambda net, batch: net(batch["x"]), batch_size=2,
        gradient_accumulation_steps=4, num_epochs=1, **PLAIN,
    ):  # fmt: skip
        rows.append(info.rows)
        at.append(float(model.w.detach()))
    assert rows == [8, 8, 4]
    gradients = [before - after for before, after in pairwise(at)]
    assert gradients == pytest.approx([1.0, 1.0, 1.0], abs=1e-6)
