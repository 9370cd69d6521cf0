"""The forecast of memory: counted to the byte, carried on in a straight line, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hotloop.engine import footprint
from hotloop.engine.allocations import carried_on, changes_of, peak_of

CPU = torch.device("cpu")
MB = 2**20


class Net(nn.Module):
    """One hidden layer, BatchNorm and dropout: buffers and random state that a look must leave alone."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.hidden, self.norm = nn.Linear(16, width), nn.BatchNorm1d(width)
        self.drop, self.out = nn.Dropout(0.1), nn.Linear(width, 1)

    def forward(self, x_bf):
        return self.out(self.drop(torch.relu(self.norm(self.hidden(x_bf)))))


def test_the_highest_level_is_found_between_allocations_and_releases():
    assert peak_of([10, 20, -5, 30, -55]) == 55
    assert peak_of([]) == 0
    assert peak_of([-5, 3]) == 0


def test_each_allocation_is_carried_on_by_itself():
    # a fixed 100, then 10 a row: few rows peak at the first, many at the last
    at = {rows: [100, -100, 10 * rows] for rows in (2, 4, 64)}
    assert carried_on((2, at[2]), (4, at[4]), 64) == at[64]
    assert peak_of(at[4]) == 100 and peak_of(at[64]) == 640


def test_passes_that_differ_carry_their_peaks_on():
    assert carried_on((2, [30]), (4, [30, 20]), 8) == [90]


def test_allocations_of_a_pass_are_recorded():
    def run(count: int) -> None:
        block = torch.empty(count * MB // 4)
        other = torch.empty(count * MB // 4)
        del block, other

    changes = changes_of(run, 3, nn.Linear(1, 1), CPU)
    assert peak_of(changes) == 6 * MB and sum(changes) == 0


@pytest.fixture
def built(build):
    """`built(batch_size=64)`: put together and ready for its first step."""

    def make(net=Net, **overrides):
        x = torch.randn(256, 16, generator=torch.Generator().manual_seed(3))
        data = {"x": x, "y": x.sum(1, keepdim=True)}
        return build(net, data, lambda model, batch, _: (model(batch["x"]) - batch["y"]).pow(2), **overrides)

    return make


def bytes_of(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_weights_gradients_and_the_optimizers_state_are_counted(optimizer, built):
    made = built(optimizer=optimizer, batch_size=64)
    found = footprint.forecast(made.task, made.state, made.splits)
    model = made.state.model
    assert found.parameters == bytes_of(model.parameters()) + bytes_of(model.buffers())
    assert found.gradients == bytes_of(model.parameters())
    state = [v for one in made.state.optimizers for s in one.state.values() for v in s.values() if torch.is_tensor(v)]
    assert found.optimizer == bytes_of(state) + bytes_of(model.buffers())
    assert found.total == sum(value for name, value in found.to_dict().items() if name != "total")


def test_activations_grow_with_the_micro_batch_as_those_of_a_real_pass(built):
    made = built(batch_size=64)
    task, model = made.task, made.state.model

    def run(count: int) -> None:
        batch = made.splits.train.batch(torch.arange(count))
        task.loss(model, batch, True).mean().backward()

    found = footprint.forecast(task, made.state, made.splits)
    batch = bytes_of(made.splits.train.batch(torch.arange(64)).values())
    real = peak_of(changes_of(run, 64, model, CPU))
    assert found.activations + found.gradients + batch == pytest.approx(real, rel=0.02)


def test_accumulation_adds_the_gradients_of_before(built):
    once = built(batch_size=16)
    split = built(batch_size=16, gradient_accumulation_steps=4)
    assert split.plan.micro_batch == once.plan.micro_batch
    one, more = (footprint.forecast(made.task, made.state, made.splits) for made in (once, split))
    assert more.activations == one.activations + one.gradients


def test_a_look_leaves_nothing_behind(built):
    made = built(batch_size=64, optimizer="adamw")
    state = made.state
    torch.manual_seed(5)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    kept = [{n: v.clone() for n, v in s.items() if torch.is_tensor(v)} for s in state.optimizers[0].state.values()]
    draws = torch.get_rng_state()
    footprint.forecast(made.task, state, made.splits)
    assert torch.equal(draws, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in state.model.state_dict().items())
    assert all(parameter.grad is None for parameter in state.model.parameters())
    for one, now in zip(kept, state.optimizers[0].state.values(), strict=True):
        assert all(torch.equal(value, now[name]) for name, value in one.items())


def test_without_the_recorder_there_is_no_forecast(built, monkeypatch):
    import torch._C._autograd as autograd

    monkeypatch.delattr(autograd, "_enable_profiler_legacy")
    made = built()
    assert footprint.forecast(made.task, made.state, made.splits) is None


def test_a_line_for_a_person():
    found = footprint.Forecast(300 * MB, 300 * MB, 600 * MB, 900 * MB, 0, 100 * MB)
    assert found.lines() == [
        "memory forecast 2.15GB: parameters 300MB, gradients 300MB, optimizer 600MB, activations 900MB, other 100MB"
    ]
