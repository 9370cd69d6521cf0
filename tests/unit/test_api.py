"""The Python API as a newcomer meets it: fit, steps, train, load_run, and what they say when something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hotloop
from hotloop.errors import ConfigError, HotloopError

STILL = {"precision": "fp32", "compile": "off"}
X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > X[:, 1]).long()
DATA = {"x": X, "y": Y}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def right(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"]).argmax(1) == batch["y"]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 2)


@pytest.fixture
def fit(experiments: Path) -> Callable[..., Any]:
    return partial(hotloop.fit, progress=False, trackers=(), dir=str(experiments), **STILL)


def test_fit_trains_in_place_and_returns_its_run(fit, experiments: Path) -> None:
    model = net()
    run = fit(
        model, DATA, loss=loss, val=DATA, metrics={"accuracy": right}, batch_size=10, num_epochs=20, learning_rate=0.1
    )
    assert run.model is model
    assert right(model, DATA).float().mean() > 0.9
    assert run.dir.parent == experiments
    assert run.summary["status"] == "completed"
    assert (run.summary["steps"], run.summary["epochs"], run.summary["effective_batch"]) == (120, 20.0, 10)
    assert run.summary["eval_accuracy"] == pytest.approx(float(right(model, DATA).float().mean()))
    assert run.summary["eval_loss"] == pytest.approx(float(loss(model, DATA).detach().mean()), rel=1e-5)
    losses = [record["train_loss"] for record in run.history if "train_loss" in record]
    assert losses[-1] < losses[0]
    assert json.loads((run.dir / "training_summary.json").read_text())["steps"] == 120


@pytest.mark.parametrize("kind", ["tensors", "arrays", "tuple", "dataset"])
def test_the_same_data_in_any_form_gives_the_same_run(fit, kind: str) -> None:
    data = {
        "tensors": DATA,
        "arrays": {"x": X.numpy(), "y": Y.numpy()},
        "tuple": (X, Y),
        "dataset": TensorDataset(X, Y),
    }[kind]
    run = fit(net(), data, loss=loss, batch_size=7, max_steps=12, log_every=1)
    reference = fit(net(), DATA, loss=loss, batch_size=7, max_steps=12, log_every=1)
    assert [r["train_loss"] for r in run.history] == [r["train_loss"] for r in reference.history]
    assert torch.equal(run.model.weight, reference.model.weight)


def test_workers_give_the_run_of_none(fit) -> None:
    short = {"loss": loss, "batch_size": 7, "max_steps": 10, "log_every": 1}
    run = fit(net(), TensorDataset(X, Y), num_workers=1, **short)
    assert torch.equal(run.model.weight, fit(net(), DATA, **short).model.weight)


def test_a_seed_makes_runs_equal_and_another_makes_another(fit) -> None:
    runs = [fit(net(), DATA, loss=loss, batch_size=8, max_steps=9, seed=seed).model.weight for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_share_of_the_rows_can_be_held_out(fit) -> None:
    run = fit(net(), DATA, loss=loss, val_fraction=0.25, batch_size=15, num_epochs=2)
    assert run.summary["steps"] == 6  # 45 rows
    assert run.summary["eval_loss"] > 0


def test_without_validation_nothing_is_evaluated(fit) -> None:
    run = fit(net(), DATA, loss=loss, batch_size=30, num_epochs=1)
    assert "eval_loss" not in run.summary
    assert run.summary["best"] is None


def test_steps_is_a_loop_of_ones_own_and_equals_fit(fit, experiments: Path) -> None:
    model = net()
    seen = [
        (info.step, info.rows, float(info.loss))
        for info in hotloop.steps(model, DATA, loss=loss, batch_size=7, max_steps=12, **STILL)
    ]
    assert [step for step, _, _ in seen] == list(range(1, 13))
    assert [rows for _, rows, _ in seen] == [7] * 8 + [4] + [7] * 3
    assert not list(experiments.iterdir())  # nothing is written
    fitted = fit(net(), DATA, loss=loss, batch_size=7, max_steps=12, log_every=1)
    assert torch.equal(model.weight, fitted.model.weight)
    assert [value for _, _, value in seen] == pytest.approx([r["train_loss"] for r in fitted.history])


def test_a_loop_of_ones_own_may_end_anywhere() -> None:
    model = net()
    before = model.weight.detach().clone()
    for info in hotloop.steps(model, DATA, loss=loss, max_steps=10**6, **STILL):
        if info.step == 3:
            break
    assert not torch.equal(model.weight.detach(), before)
    assert info.learning_rate > 0
    assert 0 < info.epoch < 2


def test_a_configuration_may_come_as_dict_sections_or_file(fit, experiments: Path) -> None:
    file = experiments.parent / "mine.yaml"
    file.write_text("training:\n  max_steps: 3\n  batch_size: 20\n")
    for config in (
        file,
        str(file),
        {"training.max_steps": 3, "batch_size": 20},
        {"training": {"max_steps": 3, "batch_size": 20}},
    ):
        run = fit(net(), DATA, loss=loss, config=config)
        assert (run.summary["steps"], run.summary["effective_batch"]) == (3, 20)
    assert fit(net(), DATA, loss=loss, config=file, batch_size=5).summary["effective_batch"] == 5


OWN = """
import torch
import torch.nn.functional as F
import hotloop
from hotloop.data.source import as_source

class Mine(hotloop.Task):
    def sources(self):
        x = torch.randn(40, 4, generator=torch.Generator().manual_seed(self.seed))
        data = as_source({"x": x, "y": (x[:, 0] > 0).long()})
        return hotloop.Splits(data, data)

    def model(self):
        return torch.nn.Linear(4, 2)

    def loss(self, model, batch, training):
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
"""


def test_train_takes_a_file_and_load_run_reads_what_it_left(experiments: Path) -> None:
    file = experiments.parent / "mine.py"
    file.write_text(OWN)
    run = hotloop.train(
        f"{file}:Mine", progress=False, max_steps=5, batch_size=8, dir=str(experiments), trackers=(), **STILL
    )
    assert (run.summary["status"], run.summary["steps"]) == ("completed", 5)
    again = hotloop.load_run(run.dir)
    assert again.summary == run.summary
    assert again.history == run.history
    for a, b in zip(again.model.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not again.model.training


def test_a_run_of_fit_is_read_without_its_model(fit) -> None:
    run = fit(net(), DATA, loss=loss, max_steps=2)
    again = hotloop.load_run(run.dir)
    assert again.model is None
    assert again.summary == run.summary


def test_load_run_of_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HotloopError):
        hotloop.load_run(tmp_path / "nothing")
    with pytest.raises(HotloopError):
        hotloop.load_run(tmp_path)


# ---- what a newcomer gets wrong -----------------------------------------------------------------------------------

SAID = [
    (DATA, lambda m, b: loss(m, b).detach(), {}, "does not depend on any parameter"),
    (DATA, lambda m, b: loss(m, b)[:1], {}, r"shape \(1,\) for a batch of 2 rows"),
    (DATA, lambda m, b: loss(m, b).mean().item(), {}, "the loss is a float, not a tensor"),
    (DATA, lambda m, b: loss(m, b).mean(), {"gradient_accumulation_steps": 2}, "single number(.|\n)*reduction='none'"),
    (DATA, loss, {"batchsize": 4}, r"batchsize(.|\n)*batch_size"),
    (DATA, loss, {"learning_rate": "fast"}, "learning_rate = 'fast'"),
    (DATA, loss, {"learning_rate": -1.0}, "learning_rate = -1.0"),
    (DATA, loss, {"path": "x.txt"}, "fit takes its data from the call"),
    ({"x": X, "y": Y[:10]}, loss, {}, "differ in their number of rows"),
    ({"x": X[:0], "y": Y[:0]}, loss, {}, "holds no rows"),
    ({"x": X.numpy()[:0], "y": Y.numpy()[:0]}, loss, {}, "holds no rows"),
    ({"x": np.array([[1, "a"]] * 4, dtype=object), "y": np.zeros(4)}, loss, {}, "'x' holds Python objects"),
    ([], loss, {}, "is empty"),
    (None, loss, {}, "data of type NoneType cannot be read"),
    (DATA, loss, {"device": "cuda:7"}, "GPU"),
    (DATA, loss, {"max_steps": 10, "warmup_steps": 10}, "never reaches its peak"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "wrong_loss", "overrides", "says"), SAID, ids=[str(n) for n in range(len(SAID))])
def test_mistakes_are_told_before_the_first_step(
    fit, experiments: Path, data: Any, wrong_loss: Any, overrides: dict[str, Any], says: str
) -> None:
    model = net()
    before = model.weight.detach().clone()
    settings = {"max_steps": 4, "batch_size": 4, **overrides}
    if overrides.get("device", "").startswith("cuda") and torch.cuda.device_count() > 7:
        pytest.skip("this machine has that many GPUs")
    with pytest.raises(HotloopError, match=says):
        fit(model, data, loss=wrong_loss, **settings)
    with pytest.raises(HotloopError, match=says):
        next(hotloop.steps(model, data, loss=wrong_loss, **{**STILL, **settings}))
    assert torch.equal(model.weight.detach(), before)
    assert not list(experiments.iterdir())  # no run folder of a run that never was


def test_a_share_that_holds_no_row_out_is_told(fit) -> None:
    with pytest.raises(HotloopError, match="leaves nothing to validate on"):
        fit(net(), DATA, loss=loss, max_steps=4, batch_size=4, val_fraction=0.001)


EVALUATING = [
    ({"loss": lambda m, b: loss(m, b).mean()}, "a single number(.|\n)*an evaluation in several batches"),
    ({"metrics": {"score": lambda m, b: right(m, b).float().mean()}}, r"'score' gave shape \(\) for a batch of 2 rows"),
    ({"metrics": {"score": lambda m, b: 0.5}}, "'score' gave a float for a batch of 2 rows"),
    ({"metrics": {"score": lambda m, b: m(b["x"])[0, :1]}}, r"'score' gave shape \(1,\) for a batch of 2 rows"),
    (
        {"early_stopping_metric": "eval_f1"},
        r"no metric 'eval_f1'; evaluation gives eval_loss\n.*early_stopping_metric",
    ),
    ({"stop_at": {"eval_accuracy": 0.9}}, "no metric 'eval_accuracy'; evaluation gives eval_loss(.|\n)*stop_at"),
]


@pytest.mark.parametrize(("wrong", "says"), EVALUATING, ids=[str(n) for n in range(len(EVALUATING))])
def test_what_would_fail_in_validation_is_told_before_the_first_step(fit, wrong: dict[str, Any], says: str) -> None:
    model = net()
    before = model.weight.detach().clone()
    with pytest.raises(HotloopError, match=says):
        fit(model, DATA, val=DATA, batch_size=4, max_steps=4, **{"loss": loss, **wrong})
    assert torch.equal(model.weight.detach(), before)


def test_metrics_of_weighted_rows_are_weighted(fit) -> None:
    val = {**DATA, "weight": torch.arange(60) / 60}
    model = net()
    run = fit(model, DATA, loss=loss, val=val, metrics={"accuracy": right}, batch_size=4, max_steps=2)
    expected = (right(model, DATA) * val["weight"]).sum() / val["weight"].sum()
    assert run.summary["eval_accuracy"] == pytest.approx(float(expected), rel=1e-5)


def test_all_faults_are_told_at_once(fit) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(net(), DATA, loss=loss, max_step=4, learning_rate=-1.0, optimizer="adamm")
    assert len(caught.value.problems) == 3


def test_a_frozen_model_is_told(fit) -> None:
    with pytest.raises(HotloopError, match=r"does not depend on any parameter|no parameter that requires a gradient"):
        fit(net().requires_grad_(False), DATA, loss=loss, max_steps=2)


def test_an_unknown_task_is_told_with_those_there_are() -> None:
    with pytest.raises(HotloopError, match="gpt"):
        hotloop.train("gtp", progress=False)
    with pytest.raises(HotloopError, match="there is no file"):
        hotloop.train("nowhere/mine.py:Mine", progress=False)


def test_one_of_several_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(HotloopError, match="one of 2 ranks"):
        next(hotloop.steps(net(), DATA, loss=loss, max_steps=2, **STILL))
