"""F07: `.squeeze()` on the output breaks a batch of one. Here it is told before the first step, where one will come."""

from __future__ import annotations

import pytest
import torch

from hotloop.errors import HotloopError

DATA = {"x": torch.arange(51.0).reshape(17, 3), "y": torch.arange(17.0)}


def squeezed(net, batch):
    return (net(batch["x"]) - batch["y"].unsqueeze(1)).square().squeeze()


def refused(net, batch):
    out = net(batch["x"]).squeeze()
    return torch.nn.functional.mse_loss(out.unsqueeze(1)[:, 0], batch["y"], reduction="none")


def fit(tiny, loss, **settings):
    given = {"data": DATA, "val": None, "eval_every": "off", "batch_size": 8, "max_steps": 6, **settings}
    return tiny.fit(torch.nn.Linear(3, 1), loss=loss, compile="off", **given)


def test_a_last_batch_of_one_row_is_told_before_it_is_met(tiny):
    with pytest.raises(HotloopError, match="step 3 has a micro-batch of one row.*single number") as told:
        fit(tiny, squeezed)
    assert "squeeze(-1)" in told.value.fix
    assert not list(tiny.folder.glob("*")), "nothing was trained"


def test_what_the_loss_raises_on_one_row_is_told_with_its_line(tiny):
    with pytest.raises(HotloopError, match="the loss, on the single row of step 3, raised IndexError") as told:
        fit(tiny, refused)
    assert "test_F07" in told.value.where


def test_a_validation_that_ends_with_one_row_is_told_too(tiny):
    sixteen = {name: value[:16] for name, value in DATA.items()}
    with pytest.raises(HotloopError, match="validation ends with a single row"):
        fit(tiny, squeezed, data=sixteen, val=DATA, eval_batch_size=8)


def test_where_no_batch_has_one_row_it_trains(tiny):
    sixteen = {name: value[:16] for name, value in DATA.items()}
    assert fit(tiny, squeezed, data=sixteen).summary["steps"] == 6


def test_squeezing_the_last_axis_trains(tiny):
    run = fit(tiny, lambda net, b: (net(b["x"]).squeeze(-1) - b["y"]).square())
    assert run.summary["steps"] == 6
