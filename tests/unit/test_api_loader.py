"""fit with a DataLoader in hand: what the loader says is taken, what contradicts it is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import hotloop
from hotloop.errors import HotloopError

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
ROWS = TensorDataset(X, (X[:, 0] > 0).long())


def loss(model, batch):
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def fit(data, folder, **keys):
    torch.manual_seed(0)
    still = {"precision": "fp32", "compile": "off", "trackers": (), "progress": False, "log_every": 1}
    return hotloop.fit(torch.nn.Linear(4, 2), data, loss=loss, dir=str(folder), **still, **keys)


def test_a_loader_gives_the_run_of_its_dataset(experiments) -> None:
    run = fit(DataLoader(ROWS, batch_size=7, shuffle=True), experiments, max_steps=12, val=DataLoader(ROWS))
    same = fit(ROWS, experiments, batch_size=7, max_steps=12)
    assert run.summary["effective_batch"] == 7 and "eval_loss" in run.summary
    assert torch.equal(run.model.weight, same.model.weight)


def test_a_loader_and_a_call_that_disagree_are_refused(experiments) -> None:
    with pytest.raises(HotloopError, match="batch_size=64, and the configuration says batch_size=32"):
        fit(DataLoader(ROWS, batch_size=64), experiments, batch_size=32, max_steps=2)
