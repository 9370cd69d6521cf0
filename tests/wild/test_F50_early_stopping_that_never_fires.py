"""F50: early stopping compares recent with all values and never fires, or reads training losses as validation.

Here it stops after exactly `patience` validations that were not better than the best one.
"""

from __future__ import annotations

import pytest
import torch


def fit(tiny, values, **settings):
    left = list(values)

    def accuracy(net, batch):
        rows = len(batch["x"])  # fewer than 60 are the rehearsal before the run
        return torch.full((rows,), left.pop(0) if rows == 60 else 0.0)

    more = {"eval_batch_size": 60, "early_stopping_metric": "eval_accuracy", "max_steps": 3 * len(values), **settings}
    return tiny.fit(tiny.net(), metrics={"accuracy": accuracy}, **more)


@pytest.mark.parametrize(
    ("values", "patience", "validations"),
    [
        ([0.5, 0.4, 0.4, 0.4], 1, 2),
        ([0.5, 0.4, 0.4, 0.4, 0.4], 2, 3),
        ([0.5, 0.4, 0.6, 0.5, 0.5, 0.5], 2, 5),  # a better one starts the count anew
        ([0.5, 0.5, 0.5, 0.5], 2, 3),  # as good is not better
        ([0.9, 0.1, 0.2, 0.3, 0.4, 0.5], 3, 4),  # rising again, and still below the best
    ],
)
def test_it_fires_after_patience(values, patience, validations, tiny):
    run = fit(tiny, values, early_stopping_patience=patience)
    assert run.summary["status"] == "stopped"
    assert run.summary["steps"] == 3 * validations
    assert f"{patience} evaluations" in run.summary["reason"]


def test_it_does_not_fire_while_it_gets_better(tiny):
    run = fit(tiny, [0.1, 0.2, 0.3, 0.4, 0.5], early_stopping_patience=1)
    assert run.summary["status"] == "completed"


def test_less_than_min_delta_is_not_better(tiny):
    run = fit(tiny, [0.5, 0.505, 0.509, 0.9], early_stopping_patience=2, min_delta=0.01)
    assert run.summary["steps"] == 9


def test_a_falling_training_loss_does_not_keep_it_going(tiny):
    """The validation part has other targets, so learning makes its loss worse."""
    against = {**tiny.data, "y": -3 * tiny.data["y"]}
    run = tiny.fit(
        tiny.net(), val=against, early_stopping_patience=2, max_steps=60, learning_rate=0.05, lr_scheduler="constant"
    )
    train = [record["train_loss"] for record in run.history if "train_loss" in record]
    assert sum(train[-3:]) < sum(train[:3])
    assert run.summary["status"] == "stopped"
    assert run.summary["steps"] == 9
