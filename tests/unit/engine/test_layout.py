"""Channels last: the convolutions get what they are fast on, results stay, and nobody notices afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotloop.engine import layout, loop

X = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = {"x": X, "y": (X.mean((1, 2, 3)) > 0).long()}
LAST = torch.channels_last


class Net(nn.Module):
    """Two convolutions, statistics between them, and a head; `seen` tells how the images lay in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.head = nn.Conv2d(6, 4, 3), nn.Linear(4, 2)
        self.seen: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.is_contiguous(memory_format=LAST))
        hidden = F.relu(self.norm(self.first(x)))
        result: Tensor = self.head(self.second(hidden).mean((2, 3)))
        return result


def net() -> Net:
    torch.manual_seed(1)
    return Net()


def loss(model: nn.Module, batch: dict[str, Tensor], training: bool = True) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def weights_lie_last(model: nn.Module) -> list[bool]:
    return [weight.is_contiguous(memory_format=LAST) for weight in (model.first.weight, model.second.weight)]


def test_same_results_other_memory_and_everything_back(quick):
    during, model = [], net()
    plain = quick(net(), DATA, loss=loss, val=DATA, max_steps=12, batch_size=8)

    def look(info) -> None:
        during.append(weights_lie_last(model))
        model.seen_at_step = list(model.seen)
        model.seen.clear()

    run = quick(model, DATA, loss=loss, val=DATA, max_steps=12, batch_size=8, callbacks=[look], channels_last="on")
    assert during == [[True, True]] * 12
    assert all(model.seen), "the evaluation's images too"
    assert model.seen_at_step and all(model.seen_at_step)
    assert not any(weights_lie_last(model)) and model.first.weight.is_contiguous()
    assert run.summary["eval_loss"] == pytest.approx(plain.summary["eval_loss"], rel=1e-5)
    for one, other in zip(plain.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adamw8bit"])
@pytest.mark.parametrize("saved_by", ["on", "off"])
def test_a_state_loads_into_either_layout(build, optimizer, saved_by):
    """The optimizer's moments lie as they were saved, and updates must not mix the layouts up."""
    settings = {"max_steps": 8, "batch_size": 8, "optimizer": optimizer}
    before = build(net, DATA, loss, channels_last=saved_by, **settings)
    stepping = loop.steps(before.state, before.feed())
    for _ in range(4):
        next(stepping)
    stored = copy.deepcopy(before.state.state_dict())
    for _ in stepping:
        pass
    after = build(net, DATA, loss, channels_last="on", **settings)
    after.state.load_state_dict(stored)
    assert weights_lie_last(after.state.model) == [True, True]
    for _ in loop.steps(after.state, after.feed()):
        pass
    for one, other in zip(before.state.parameters, after.state.parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_model_without_convolutions_is_told(build):
    session = build(lambda: nn.Linear(3, 1), {"x": X[:, :, 0, 0]}, lambda m, b, t: m(b["x"])[:, 0], channels_last="on")
    assert not session.plan.channels_last
    assert [line for line in session.remarks if "channels_last=on is left out: the model has no 2-D conv" in line]


def test_auto_leaves_memory_alone(build):
    session = build(net, DATA, loss)
    assert not session.plan.channels_last and weights_lie_last(session.state.model) == [False, False]


def test_only_images_are_laid_out():
    counts = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4)
    batch = {"x": X[:2], "ids": counts, "rows": torch.ones(2, 3), "weight": {"a": torch.ones(2), "map": X[2:4]}}
    found = layout.channels_last(batch)
    assert found["x"].is_contiguous(memory_format=LAST) and torch.equal(found["x"], X[:2])
    assert found["weight"]["map"].is_contiguous(memory_format=LAST)
    assert found["ids"] is counts and found["rows"] is batch["rows"]
