"""Rare meetings: terms that are not finite, a stop beside an interruption, buffers made late, parts of one array."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import hotloop
from hotloop.data.source import ArraySource, hold_out
from hotloop.engine.hooks import INTERRUPTED, Ask

X = torch.arange(48.0).reshape(24, 2) / 48
SMALL = {"batch_size": 8, "max_steps": 3, "compile": "off", "precision": "fp32", "progress": False}


def terms(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    values = model(batch["x"]).square().mean(1)
    return {"a": values, "b": values * batch["x"][:, 0]}


def test_a_term_that_is_not_finite_is_no_perfect_score(experiments) -> None:
    bad = X.clone()
    bad[5, 0] = math.nan
    run = hotloop.fit(nn.Linear(2, 2), {"x": X}, loss=terms, val={"x": bad}, **SMALL)
    assert not math.isfinite(run.summary["eval_loss"])
    assert run.summary["best"] is None
    assert "warning" in run.summary


@pytest.mark.parametrize("first", [True, False])
def test_a_stop_that_ends_the_run_goes_before_an_interruption(first: bool) -> None:
    one, other = Ask(stop=INTERRUPTED), Ask(stop="eval_loss reached 1")
    joined = one | other if first else other | one
    assert joined.stop == "eval_loss reached 1"


class Caching(nn.Module):
    """Makes a buffer in its first pass and replaces another by a longer one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "made"):
            self.register_buffer("made", torch.ones(2), persistent=False)
        self.seen = torch.zeros(len(x))
        return self.layer(x) * self.made


def test_a_model_that_caches_in_buffers_can_be_trained(experiments) -> None:
    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(batch["x"]).square().mean(1)

    run = hotloop.fit(Caching(), {"x": X}, loss=loss, val={"x": X}, **SMALL)
    assert run.summary["steps"] == 3


def test_two_parts_of_one_array_share_its_copy_on_the_device() -> None:
    train, val = hold_out(ArraySource({"x": np.zeros((10, 2), dtype=np.float32)[::-1]}), 0.2, seed=0)
    cpu = torch.device("cpu")
    assert train.to(cpu)._source is val.to(cpu)._source
    assert len(train.to(cpu).batch(torch.arange(8))["x"]) == 8


def test_a_field_that_is_no_tensor_is_named() -> None:
    class Texts(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> dict[str, object]:
            return {"x": X[index], "text": "words"}

    with pytest.raises(hotloop.HotloopError, match="'text' in a batch is a list"):
        hotloop.fit(nn.Linear(2, 2), Texts(), loss=terms, **SMALL)


def test_training_time_is_in_the_checkpoint(experiments) -> None:
    run = hotloop.fit(nn.Linear(2, 2), {"x": X}, loss=terms, **SMALL)
    stored = torch.load(run.dir / "checkpoints" / "last.pt", weights_only=True)
    assert 0 < stored["seconds"]["train"] <= run.summary["seconds"]["train"]


class WithArray(nn.Linear):
    def get_extra_state(self) -> object:
        return np.zeros(2)

    def set_extra_state(self, state: object) -> None:
        pass


def test_a_model_whose_checkpoints_could_not_be_read_is_told_before_the_run(experiments) -> None:
    with pytest.raises(hotloop.HotloopError, match="the state_dict of the model holds a ndarray"):
        hotloop.fit(WithArray(2, 2), {"x": X}, loss=terms, **SMALL)
    assert not list(experiments.glob("**/metrics.jsonl"))


def test_steps_holds_nothing_out() -> None:
    with pytest.raises(hotloop.HotloopError, match="no effect"):
        next(hotloop.steps(nn.Linear(2, 2), {"x": X}, loss=terms, batch_size=8, max_steps=3, val_fraction=0.5))


def test_parts_that_came_in_evaluation_mode_stay_there_and_are_told(experiments, capsys) -> None:
    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(batch["x"]).square().mean(1)

    for asleep in (True, False):
        net = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train(not asleep), nn.Linear(2, 2))
        hotloop.fit(net, {"x": X}, loss=loss, **{**SMALL, "progress": True})
        shown = capsys.readouterr()
        assert ("in evaluation mode, as the model was built with it" in shown.out + shown.err) is asleep
