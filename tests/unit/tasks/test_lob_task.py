"""The lob task as a person meets it: a run with its baselines, a model rebuilt without data, options that work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hotloop
from hotloop.config.load import load
from hotloop.errors import HotloopError
from hotloop.task import LossOptions
from hotloop.tasks.lob.options import OPTIONS, LobData, LobModel
from hotloop.tasks.lob.task import Lob

TINY = {"channels": 4, "inception_channels": 4, "hidden_size": 8}


def lob(**data) -> Lob:
    return Lob(LobModel(**TINY), LobData(symbols=16, rows=600, **data), seed=1)


def test_loss_and_metrics_are_unreduced_and_plain_in_validation():
    task = lob()
    task.loss_options = LossOptions(label_smoothing=0.2, focal_gamma=2.0)
    splits = task.sources()
    model = task.model().eval()
    batch = splits.val.batch(torch.arange(16))
    loss, tallies = task.loss_and_metrics(model, batch)
    logits = task.predict(model, batch)["logits"]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, batch["y"], reduction="none"))
    assert tallies["confusion"].sum.sum() == 16
    assert not torch.allclose(task.loss(model, batch, True), loss)
    assert set(task.scores({"confusion": tallies["confusion"].sum.double()})) == {
        "f1_macro", "balanced_accuracy", "mcc",
    }  # fmt: skip


def test_a_run_is_rebuilt_from_its_assets_alone():
    task = lob()
    splits = task.sources()
    model = task.model().eval()
    again = Lob(LobModel(**TINY), LobData(path="absent.npz"), seed=1)
    again.use_assets(json.loads(json.dumps(task.assets())))
    other = again.model().eval()
    other.load_state_dict(model.state_dict())
    x = splits.val.batch(torch.arange(4))["x"]
    assert torch.equal(model(x), other(x))
    with pytest.raises(HotloopError, match="cannot be rebuilt"):
        again.use_assets({"columns": 20})


def test_the_baselines_are_those_of_the_validation_part():
    task = lob()
    splits = task.sources()
    found = task.baselines(splits)
    y = splits.val.column("y")
    assert found["majority"]["accuracy"] == pytest.approx(
        (y == splits.train.column("y").bincount().argmax()).double().mean()
    )
    assert found["majority"]["balanced_accuracy"] == pytest.approx(1 / len(y.unique()))
    assert found["linear"]["balanced_accuracy"] > found["majority"]["balanced_accuracy"] + 0.03


def test_a_limit_takes_windows_of_all_symbols():
    task = lob(limit=30)
    splits = task.sources()
    assert len(splits.train) == len(splits.val) == 30
    assert len(splits.train.column("group").unique()) >= 4
    assert "30 windows of" in task.notes()[0]


def test_the_real_data_and_its_linear_baseline(shared_data):
    task = Lob(LobModel(), LobData(path=str(shared_data("tw-lob/tw_lob_rows.npz"))), seed=1)
    splits = task.sources()
    assert "23,884 windows, 36 symbols" in task.notes()[0]
    assert splits.train.column("sample_weight").max() > 10
    assert 0.42 < task.baselines(splits)["linear"]["balanced_accuracy"] < 0.50


def test_training_from_the_outside(experiments: Path):
    run = hotloop.train(
        "lob", progress=False,
        keys={"data.symbols": 6, "data.rows": 300, "num_epochs": 1, "batch_size": 32, "precision": "fp32",
              **{f"model.{name}": size for name, size in TINY.items()}},
    )  # fmt: skip
    assert run.summary["steps"] > 5
    assert {"eval_balanced_accuracy", "eval_f1_macro", "eval_mcc", "eval_accuracy"} <= set(run.summary)


def test_the_reference_recipe_is_the_published_one():
    config = load(OPTIONS, templates=["deeplob_v5"]).config
    rate, training = config.optimization, config.training
    assert (training.batch_size, training.num_epochs, config.model.dropout) == (512, 50, 0.6)
    assert (rate.learning_rate, rate.min_lr, rate.weight_decay, rate.max_grad_norm) == (8e-5, 5e-6, 5e-4, 0.5)
    assert (rate.label_smoothing, rate.warmup_ratio, rate.warmup_start_factor) == (0.15, 0.15, 0.01)
    assert (config.callbacks.early_stopping_metric, config.callbacks.early_stopping_patience) == ("eval_f1_macro", 20)


@pytest.mark.slow
def test_one_pass_of_the_default_recipe_beats_the_linear_baseline_clearly(experiments: Path):
    run = hotloop.train("lob", progress=False, keys={"num_epochs": 1})
    task = Lob(LobModel(), LobData(), seed=1)
    linear = task.baselines(task.sources())["linear"]["balanced_accuracy"]
    assert run.summary["eval_balanced_accuracy"] > linear + 0.04
