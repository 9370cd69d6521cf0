"""What `fit` and `steps` say about a call that cannot do what it asks for, and about training that goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotloop
from hotloop import api, assemble, given
from hotloop.errors import CheckStopped, HotloopError, Interrupted

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


def test_a_persons_own_exception_is_told_with_its_line_and_the_batch(fit) -> None:
    with pytest.raises(
        HotloopError, match=r"raised KeyError: 'y'(.|\n)*test_api_faults.py, line(.|\n)*x \(2, 4\) float32"
    ) as told:
        fit(net(), DATA, loss=loss, val={"x": X}, max_steps=2)
    assert isinstance(told.value.__cause__, KeyError)
    doubles = {"x": X.numpy().astype("float64"), "y": Y.numpy()}
    with pytest.raises(HotloopError, match=r"the loss raised RuntimeError(.|\n)*astype\('float32'\)(.|\n)*float64"):
        fit(net(), doubles, loss=loss, max_steps=2)


def test_arrays_that_run_backwards_and_lists_are_read(fit) -> None:
    backwards = {"x": X.numpy()[::-1], "y": Y}
    assert fit(net(), backwards, loss=loss, max_steps=2).summary["steps"] == 2
    assert fit(net(), [X, Y], loss=loss, max_steps=2).summary["steps"] == 2


IN_VAIN = [
    ({"early_stopping_patience": 2}, r"early_stopping_patience(.|\n)*nothing to validate on(.|\n)*val_fraction"),
    ({"stop_at": {"eval_loss": 1.0}}, r"stop_at(.|\n)*nothing to validate on"),
    ({"lr_scheduler": "plateau"}, r"lr_scheduler(.|\n)*nothing to validate on"),
    ({"metrics": {"right": right}}, r"nothing to validate on(.|\n)*val=(.|\n)*val_fraction=0.1"),
    ({"metrics": [right]}, r"metrics is a list(.|\n)*metrics=\{"),
    ({"val": DATA, "val_fraction": 0.2}, r"given twice"),
]


@pytest.mark.parametrize(("asked", "says"), IN_VAIN, ids=[str(n) for n in range(len(IN_VAIN))])
def test_what_would_wait_for_a_validation_in_vain_is_told(fit, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(HotloopError, match=says):
        fit(net(), DATA, loss=loss, max_steps=4, **asked)


def broken_after(calls: int) -> Callable[..., Tensor]:
    left = [calls]

    def broken(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        left[0] -= 1
        return loss(model, batch) * (1.0 if left[0] >= 0 else float("nan"))

    return broken


def test_steps_stops_at_a_value_that_is_not_finite() -> None:
    sick = broken_after(6)  # two of these calls are the probe's
    taken = hotloop.steps(net(), DATA, loss=sick, batch_size=8, max_steps=50, log_every=4, **STILL)
    assert [next(taken).step for _ in range(7)] == [1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(CheckStopped, match="not finite at step 5"):
        next(taken)


@pytest.mark.parametrize("key", ["save_top_k", "checkpoint_every", "eval_every", "max_time", "trackers", "stop_at"])
def test_steps_refuses_what_belongs_to_fit(key: str) -> None:
    value: Any = {"trackers": (), "stop_at": {"eval_loss": 1.0}}.get(key, 3)
    with pytest.raises(HotloopError, match=rf"{key} (.|\n)*hotloop.fit"):
        next(hotloop.steps(net(), DATA, loss=loss, max_steps=2, **{key: value}, **STILL))


def test_skipping_every_update_is_a_failure(fit) -> None:
    with pytest.raises(CheckStopped, match=r"in 5\d steps on end"):
        fit(net(), DATA, loss=broken_after(11), batch_size=8, max_steps=500, on_nan="skip")
    with pytest.raises(CheckStopped, match="in 3 steps on end"):
        fit(net(), DATA, loss=broken_after(1), batch_size=8, max_steps=3, on_nan="skip")


def test_a_validation_that_is_not_finite_is_no_best_and_is_told(fit) -> None:
    def only_training(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return loss(model, batch) * (1.0 if model.training else float("inf"))

    run = fit(net(), DATA, loss=only_training, val=DATA, batch_size=20, max_steps=3)
    assert run.summary["best"] is None
    assert "not finite" in run.summary["warning"]


def test_one_row_left_over_for_batchnorm_is_told_before_the_first_step(fit) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    data = {"x": X[:41], "y": Y[:41]}
    with pytest.raises(HotloopError, match=r"step 5 has 1 rows(.|\n)*batch_size=(9|11)(.|\n)*data.limit=40"):
        fit(model.eval(), data, loss=loss, batch_size=10, num_epochs=1)
    with pytest.raises(HotloopError, match=r"BatchNorm(.|\n)*batch_size"):
        fit(model, data, loss=loss, batch_size=1, num_epochs=1)
    assert fit(model, data, loss=loss, batch_size=10, max_steps=4).summary["steps"] == 4  # never comes to it


def test_a_batch_larger_than_the_data_is_remarked() -> None:
    task = given.task_of(api._loaded(None, {"batch_size": 64, **STILL}).config, net(), DATA, None, loss, None)
    session = assemble.build(api._loaded(None, {"batch_size": 64, **STILL}), task)
    assert any("all 60 rows" in line for line in session.remarks)


def test_fit_goes_on_with_the_runs_own_configuration(fit) -> None:
    def stopping(info: Any) -> hotloop.Ask | None:
        return hotloop.Ask(stop="interrupted", save=True) if info.step == 4 else None

    common = {"loss": loss, "batch_size": 15, "max_steps": 8, "seed": 7, "val_fraction": 0.25}
    whole = fit(net(), DATA, **common)
    with pytest.raises(Interrupted) as stopped:
        fit(net(), DATA, callbacks=[stopping], **common)
    folder = stopped.value.fix.split()[-1]
    with pytest.raises(HotloopError, match=r"max_steps: 8 in the run, 9 asked for(.|\n)*learning_rate"):
        fit(net(), DATA, loss=loss, resume_from_checkpoint=folder, max_steps=9, learning_rate=0.5)
    resumed = hotloop.fit(net(), DATA, loss=loss, resume_from_checkpoint=folder, progress=False)
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert resumed.summary["eval_loss"] == whole.summary["eval_loss"]


def test_a_run_of_a_gpu_that_is_not_here_is_told(fit) -> None:
    run = fit(net(), DATA, loss=loss, max_steps=4)
    (run.dir / "training_summary.json").unlink()
    plan = json.loads((run.dir / "plan.json").read_text())
    (run.dir / "plan.json").write_text(json.dumps({**plan, "device": "cuda:63"}))
    for checkpoint in (run.dir / "checkpoints").iterdir():
        checkpoint.unlink()
    with pytest.raises(HotloopError, match=r"was trained on cuda:63(.|\n)*resume it on a machine with cuda:63"):
        fit(net(), DATA, loss=loss, resume_from_checkpoint=run.dir)
