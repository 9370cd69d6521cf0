"""F09: validation batches weighted equally although the last is shorter. Here each item counts once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hotloop

LOSSES = torch.tensor([1.0] * 8 + [11.0] * 2)  # in batches of 4, 4, 2: mean of means 4.33, mean 3.0


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"].unsqueeze(1)).squeeze(1) * 0.0 + batch["x"]


def flag(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return batch["x"] > 5.0


def evaluated(experiments: Path, val: dict[str, Tensor], size: int) -> dict[str, float]:
    run = hotloop.fit(
        nn.Linear(1, 1), {"x": LOSSES}, loss=loss, val=val, metrics={"large": flag}, batch_size=4, eval_batch_size=size,
        max_steps=1, precision="fp32", compile="off", progress=False, trackers=(), dir=str(experiments),
    )  # fmt: skip
    return run.summary


@pytest.mark.parametrize("size", [1, 3, 4, 7, 10, 100])
def test_the_last_shorter_batch_counts_its_own_items(experiments: Path, size: int) -> None:
    found = evaluated(experiments, {"x": LOSSES}, size)
    assert found["eval_loss"] == pytest.approx(3.0, abs=1e-6)
    assert found["eval_large"] == pytest.approx(0.2, abs=1e-6)


def test_items_without_weight_do_not_count(experiments: Path) -> None:
    weight = torch.tensor([1.0] * 8 + [0.0, 0.5])
    found = evaluated(experiments, {"x": LOSSES, "weight": weight}, 4)
    assert found["eval_loss"] == pytest.approx((8 + 5.5) / 8.5, abs=1e-6)
    assert found["eval_large"] == pytest.approx(0.5 / 8.5, abs=1e-6)
