"""F08: validation with the class weights and smoothing of training cannot be compared. Here it is plain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotloop
from hotloop.data.source import TensorSource

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 1.0).long()  # a rare class
CLASS_WEIGHTS = torch.tensor([1.0, 9.0])


class Weighted(hotloop.Task):
    """Class weights and smoothing in training, as the contract has it: plain where `training` is False."""

    weighted = True

    def sources(self) -> hotloop.Splits:
        data = TensorSource({"x": X, "y": Y})
        return hotloop.Splits(data, data)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))

    def loss(self, model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
        weights = {"weight": CLASS_WEIGHTS, "label_smoothing": 0.15} if training and self.weighted else {}
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none", **weights)


def run(task: type[hotloop.Task], experiments: Path) -> Any:
    return hotloop.train(
        task, progress=False, dir=str(experiments), trackers=(), precision="fp32", compile="off", batch_size=8,
        max_steps=15, log_every=1,
    )  # fmt: skip


def plain(model: nn.Module) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model.eval()(X), Y))


def test_what_is_reported_is_the_plain_loss_of_the_model_as_it_is(experiments: Path) -> None:
    found = run(Weighted, experiments)
    assert found.summary["eval_loss"] == pytest.approx(plain(found.model), rel=1e-5)
    with torch.no_grad():
        weighted = float(F.cross_entropy(found.model(X), Y, CLASS_WEIGHTS, label_smoothing=0.15))
    assert abs(weighted - found.summary["eval_loss"]) > 0.05  # they differ enough to be told apart


def test_training_itself_was_weighted(experiments: Path) -> None:
    """Else the first test would pass with the weights lost altogether."""
    first, other = (
        run(task, experiments).history[0]["train_loss"]
        for task in (Weighted, type("Plain", (Weighted,), {"weighted": False}))
    )
    assert abs(first - other) > 0.05
