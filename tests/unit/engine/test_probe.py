"""The probe looks at the loss before the run and leaves no trace: weights, gradients, buffers, random state, order."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hotloop.data.source import TensorSource
from hotloop.engine import probe
from hotloop.engine.loop import steps
from hotloop.errors import HotloopError
from hotloop.task import Task

CPU = torch.device("cpu")
BATCH = {"x": torch.randn(6, 4), "y": torch.randint(3, (6,))}


class Net(nn.Module):
    """All that a forward pass can change: BatchNorm's buffers, a counter that is not saved, dropout's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layers(x)


class Own(Task):
    """Draws from all three generators, as augmentation inside a loss would."""

    def loss(self, model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
        noise = random.random() + float(np.random.rand()) + torch.rand(())
        return nn.functional.cross_entropy(model(batch["x"]) * noise, batch["y"], reduction="none")


def own(loss=None) -> Task:
    kind = Own if loss is None else type("Wrong", (Task,), {"loss": lambda self, m, b, t: loss(m, b)})
    return kind(None, None, seed=0)


@pytest.mark.parametrize("precisions", [[], ["fp32"], ["fp32", "bf16"]])
def test_no_trace_is_left(precisions: list[str]) -> None:
    model = Net().train()
    state = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    facts = probe.look(own(), model, BATCH, CPU, precisions)
    assert sorted(facts.seconds) == sorted(precisions)
    assert all(seconds > 0 for seconds in facts.seconds.values())
    assert not facts.scalar
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert torch.equal(tensor, state[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


def test_training_is_the_same_to_the_bit_with_a_probe_and_without(build) -> None:
    """`compile: auto` times the loss first; `off` only looks at it once."""
    data = {"x": torch.randn(20, 4), "y": torch.randint(3, (20,))}

    def loss(model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    weights = []
    for mode in ("auto", "off"):
        session = build(Net, data, loss, batch_size=4, max_steps=8, compile=mode)
        assert session.plan.compile == "off"
        for _ in steps(session.state, session.feed()):
            pass
        weights.append([tensor.clone() for tensor in session.state.model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda m, b: 3.5, "the loss is a float, not a tensor"),
        (lambda m, b: None, "the loss is a NoneType, not a tensor"),
        (lambda m, b: {"a": m(b["x"])[:, 0], "b": 1.0}, "the loss 'b' is a float, not a tensor"),
        (lambda m, b: m(b["x"])[:, 0].detach(), "does not depend on any parameter"),
        (lambda m, b: torch.ones(len(b["x"])), "does not depend on any parameter"),
        (lambda m, b: m(b["x"]).argmax(1), "does not depend on any parameter"),
        (lambda m, b: m(b["x"])[0], r"shape \(3,\) for a batch of 2 rows"),
        (lambda m, b: {"a": m(b["x"])[:, 0], "b": m(b["x"])[0]}, r"the loss 'b' has shape \(3,\) for a batch of 2"),
        (lambda m, b: (m(b["x"])[:, 0] - b["y"][:, None]) ** 2, r"a value for each pair of rows: shape \(3, 3\) for 3"),
    ],
    ids=["float", "none", "float-term", "detached", "constant", "argmax", "shape", "shape-term", "broadcast"],
)
def test_a_loss_that_cannot_be_trained_on_is_named(loss, says: str) -> None:
    with pytest.raises(HotloopError, match=says) as caught:
        probe.look(own(loss), Net(), BATCH, CPU, [])
    assert "the task's loss" in str(caught.value)


def test_a_mean_is_recognised() -> None:
    assert probe.look(own(lambda m, b: m(b["x"]).mean()), Net(), BATCH, CPU, []).scalar


def test_batchnorm_couples_rows_and_layernorm_does_not() -> None:
    assert probe.couples_the_batch(Net())
    assert not probe.couples_the_batch(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.GroupNorm(1, 2)))


def test_two_positions_are_no_pair_of_rows() -> None:
    facts = probe.look(own(lambda m, b: m(b["x"])[:, :2]), Net(), BATCH, CPU, [])
    assert not facts.scalar


@pytest.mark.parametrize("pad", [False, True])
def test_a_rehearsal_names_the_metrics_and_leaves_no_trace(make_plan, pad: bool) -> None:
    model = Net().train()
    state = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate()
    assert probe.rehearse(own(), model, TensorSource(BATCH), make_plan(pad_ragged=pad)) == {"loss"}
    assert all(torch.equal(t, state[n]) for n, t in [*model.named_parameters(), *model.named_buffers()])
    assert model.training
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_a_rehearsal_refuses_a_mean_over_several_batches_only(make_plan) -> None:
    mean = own(lambda m, b: m(b["x"]).mean())
    probe.rehearse(mean, Net(), TensorSource(BATCH), make_plan(eval_batch=6))
    for size in (1, 2, 5):
        with pytest.raises(HotloopError, match="an evaluation in several batches"):
            probe.rehearse(mean, Net(), TensorSource(BATCH), make_plan(eval_batch=size))
