"""On a GPU: a loss or gradient that is not finite leaves weights, buffers and optimizer as they were."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import hotloop
from hotloop.data.sampler import Shuffle
from hotloop.errors import CheckStopped

pytestmark = pytest.mark.gpu

ROWS, BATCH, STEPS, BAD = 96, 8, 12, 5
SAME = {"batch_size": BATCH, "precision": "fp32", "compile": "off", "deterministic": True, "seed": 42}
SAME |= {"lr_scheduler": "constant", "warmup_steps": 0, "learning_rate": 0.02, "progress": False}


class Explode(torch.autograd.Function):
    """The values as they are, and an infinite gradient in the rows marked bad."""

    @staticmethod
    def forward(ctx, values, bad):
        ctx.save_for_backward(bad)
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / (1 - ctx.saved_tensors[0]), None


def loss_with(fault):
    def loss(net, batch):
        values = (net(batch["x"]).squeeze(-1) - batch["y"]) ** 2
        if fault == "loss":
            return torch.where(batch["bad"] > 0, math.nan, values)
        return Explode.apply(values, batch["bad"]) if fault == "gradient" else values

    return loss


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 1))


def rows() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 4, generator=draw)
    bad = torch.zeros(ROWS)
    bad[int(Shuffle(ROWS, BATCH, 42).indices(0, BAD - 1)[3])] = 1.0
    return {"x": x, "y": x.sum(1), "bad": bad}


def train(net, fault, folder, device, **settings):
    return hotloop.fit(net, rows(), loss=loss_with(fault), dir=str(folder), device=device, **{**SAME, **settings})


@pytest.mark.parametrize("fault", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "muon"])
def test_the_weights_of_the_step_before_are_kept(optimizer, fault, device, tmp_path):
    healthy, ill = network(), network()
    train(healthy, "nothing", tmp_path / "healthy", device, optimizer=optimizer, max_steps=BAD - 1)
    with pytest.raises(CheckStopped) as caught:
        train(ill, fault, tmp_path / "ill", device, optimizer=optimizer, max_steps=STEPS, log_every=STEPS)
    assert f"step {BAD}" in caught.value.what
    for name, value in ill.state_dict().items():
        assert torch.equal(value, healthy.state_dict()[name]), name


def test_skip_goes_on(device, tmp_path):
    run = train(network(), "gradient", tmp_path, device, max_steps=STEPS, log_every=4, on_nan="skip")
    assert run.summary["status"] == "completed"
    losses = [record["train_loss"] for record in run.history]
    assert all(loss is not None and loss == loss for loss in losses)
    assert run.history[-1]["skipped_updates"] == 1
