"""The recipe for ETTh1: better than a linear regression in validation, and the known error on the test part."""

from __future__ import annotations

import torch

import hotloop
from hotloop.runs.store import RunFolder
from hotloop.saved import saved_model


def test_a_short_training_reaches_the_known_error(shared_data, experiments):
    path = str(shared_data("ett/ETTh1.csv"))
    keys = {"data.path": path, "num_epochs": 4, "dir": str(experiments), "trackers": (), "threads": 1}
    run = hotloop.train("forecast", template="etth1", progress=False, keys=keys)
    task, model = saved_model(RunFolder.open(run.dir), "best")
    splits = task.sources()
    with torch.no_grad():
        batches = [splits.test.batch(rows) for rows in torch.arange(len(splits.test)).split(512)]
        errors = torch.cat([task.loss(model, batch, False) for batch in batches])
    test_mse = errors.mean().item()
    assert test_mse <= 0.306  # within 3 % of the linear regression's 0.297
    assert run.summary["best"]["value"] < task.baselines(splits)["linear"]["mse"]
