"""The running average of the weights: by its formula, blind to held updates, swapped in and out to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hotloop
from hotloop.engine.average import Average

YES, NO = torch.tensor(True), torch.tensor(False)


def count(number: int) -> torch.Tensor:
    return torch.tensor([number])


class Shared(nn.Module):
    """Two names for one weight, a BatchNorm, a frozen layer, and a buffer that is replaced in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.frozen = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.frozen.requires_grad_(False)


def test_follows_its_formula() -> None:
    model = nn.Linear(2, 1)
    average = Average(model, 0.9)
    expected = model.weight.detach().clone().double()
    for step in range(1, 120):
        with torch.no_grad():
            model.weight.add_(0.1)
        average.update(count(step), YES)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.double()
    assert torch.allclose(average.state_dict()["weight"].double(), expected, atol=1e-5)


def test_a_held_update_moves_nothing() -> None:
    model = nn.Linear(2, 1)
    average = Average(model, 0.5)
    before = average.state_dict()["weight"].clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update(count(5), NO)
    assert torch.equal(average.state_dict()["weight"], before)


def test_shared_weights_have_one_average_under_both_names_and_frozen_ones_none() -> None:
    average = Average(Shared(), 0.9)
    found = average.state_dict()
    assert found["first.weight"] is found["second.weight"]
    assert "norm.running_mean" in found and "norm.num_batches_tracked" not in found
    assert not any(name.startswith("frozen") for name in found)


def test_swapped_in_and_out_to_the_bit() -> None:
    model = Shared()
    average = Average(model, 0.9)
    with torch.no_grad():
        model.first.weight.mul_(3.0)
        model.norm.running_mean = model.norm.running_mean + 1.0  # another tensor in its place
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with average.swapped_in():
        assert torch.equal(model.second.weight, average.state_dict()["first.weight"])
        assert float(model.norm.running_mean.abs().sum()) == 0.0
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())


def fit(tmp_path, name, **keys):
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    y = x @ torch.tensor([1.0, -2.0, 0.5, 3.0])
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(net, batch):
        return (net(batch["x"]).squeeze(-1) - batch["y"]) ** 2

    settings = {"experiment.dir": str(tmp_path / name), "training.ema": 0.95, "training.precision": "fp32"}
    data = {"x": x, "y": y}
    return hotloop.fit(
        model, data, loss=loss, val=data, config={**settings, **keys}, progress=False, batch_size=16, num_epochs=4,
        log_every=1, learning_rate=0.05,
    )  # fmt: skip


def test_the_average_is_what_is_evaluated_and_kept(tmp_path) -> None:
    run = fit(tmp_path, "a")
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    y = x @ torch.tensor([1.0, -2.0, 0.5, 3.0])
    kept = torch.load(run.dir / "final_model.pt", weights_only=True)
    assert all(torch.equal(kept[name], tensor) for name, tensor in run.model.state_dict().items())
    with torch.no_grad():
        loss = ((run.model(x).squeeze(-1) - y) ** 2).mean().item()
    assert loss == pytest.approx(run.summary["eval_loss"], rel=1e-5)
    stored = torch.load(run.dir / "checkpoints" / "last.pt", weights_only=True)
    assert all(torch.equal(kept[name], tensor) for name, tensor in stored["average"].items())
    assert not torch.equal(stored["model"]["0.weight"], kept["0.weight"]), "the run's own weights go on from here"


def test_training_itself_does_not_notice_the_average(tmp_path) -> None:
    plain, averaged = fit(tmp_path, "a", **{"training.ema": None}), fit(tmp_path, "b")
    losses = [[record["train_loss"] for record in run.history if "train_loss" in record] for run in (plain, averaged)]
    assert losses[0] == losses[1]
