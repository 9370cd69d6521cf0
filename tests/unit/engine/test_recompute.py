"""Which blocks recompute, what they leave behind (nothing), and what is said where a name or a model does not fit."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from tests.unit.engine.recomputed import Net, X, equal, net, passes, wrapped
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from hotloop.engine import recompute
from hotloop.errors import HotloopError


def test_statistics_and_other_buffers_change_once() -> None:
    model = net()
    for block in model.blocks:
        spectral_norm(block.enter)  # each forward pass improves its vectors
    models = [model, copy.deepcopy(model)]
    plain, again = (
        passes((one, lambda model: model(X)), how)[1] for one, how in zip(models, (False, True), strict=True)
    )
    assert equal(plain, again)


@pytest.mark.parametrize(
    ("share", "chosen"), [(0.01, [3]), (0.34, [1, 4]), (0.5, [1, 3, 5]), (0.99, [0, 1, 2, 3, 4, 5])]
)
def test_a_share_is_spread_evenly_and_is_one_block_at_least(share, chosen):
    model = net()
    told = recompute.apply(model, share, compiled=False)
    assert wrapped(model) == [f"blocks.{number}" for number in chosen]
    assert f"{len(chosen)} of 6 blocks" in told[0]


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (("blocks.*",), [f"blocks.{number}" for number in range(6)]),
        (("blocks",), [f"blocks.{number}" for number in range(6)]),
        (("blocks.[03]", "head"), ["blocks.0", "blocks.3", "head"]),
        (("*.drop",), [f"blocks.{number}.drop" for number in range(6)]),
    ],
)
def test_parts_are_named_as_they_are_to_be_frozen(patterns, chosen):
    model = net()
    recompute.apply(model, patterns, compiled=False)
    assert wrapped(model) == chosen


@pytest.mark.parametrize(
    ("patterns", "told"),
    [
        (("block.*",), r"no part of the model is called 'block\.\*'\n.*\n.*did you mean blocks.* or blocks\.\d"),
        (("xyz",), r"no part of the model is called 'xyz'\n.*\n.*the model's parts are blocks, head"),
        (("blocks.0", "*.leave"), r"'blocks.0' names blocks.0, which holds blocks.0.leave of '\*.leave'"),
    ],
)
def test_names_that_are_wrong_are_told_with_the_nearest(patterns, told):
    model = net()
    with pytest.raises(HotloopError, match=told) as failed:
        recompute.apply(model, patterns, compiled=False)
    assert failed.value.where == "optimization.gradient_checkpointing"
    assert wrapped(model) == []


@pytest.mark.parametrize(
    ("model", "how", "fix"),
    [
        (nn.Linear(2, 2), True, "put its layers into an nn.ModuleList"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), True, r"name parts of it, as in \[0, 1, 2\]"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), 0.5, "or use training.compile=default"),
    ],
)
def test_a_model_without_blocks_is_told_what_can_be_done(model, how, fix):
    assert not recompute.supports(model)
    with pytest.raises(HotloopError, match=f"has no repeated blocks[^$]*{fix}"):
        recompute.apply(model, how, compiled=False)


def convolution() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.ReLU())


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (nn.Sequential(convolution(), convolution(), nn.Flatten()), ["0", "1"]),
        (nn.Sequential(nn.Sequential(Net(), Net()), nn.Sequential(Net(), Net())), ["0.0", "0.1", "1.0", "1.1"]),
        (nn.ModuleDict({"h": nn.ModuleList([Net(2), Net(2)])}), ["h.0", "h.1"]),
        (nn.ModuleList([Net(1)]), ["0"]),
        (nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), []),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)), []),
    ],
)  # fmt: skip
def test_blocks_are_the_outermost_repeated_parts(model, names):
    assert [name for name, _ in recompute.blocks_of(model)] == names


def test_a_model_says_its_blocks_itself() -> None:
    model = net()
    model.recompute_blocks = lambda: [model.head]  # type: ignore[assignment]
    assert [name for name, _ in recompute.blocks_of(model)] == ["head"]


@pytest.mark.parametrize("carry", ["deepcopy", "pickle", "torch.save"])
def test_copies_and_pickles_recompute_with_their_own_weights(carry):
    model = net()
    recompute.apply(model, True, compiled=False)
    if carry == "deepcopy":
        other: Any = copy.deepcopy(model)
    elif carry == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        other = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    other(X).sum().backward()
    assert all(weight.grad is None for weight in model.parameters())
    assert all(weight.grad is not None for weight in other.parameters())
    recompute.remove(other)
    assert (len(wrapped(model)), wrapped(other)) == (6, [])


def test_outside_of_training_nothing_is_to_be_seen() -> None:
    model, plain = net(), net()
    recompute.apply(model, True, compiled=False)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert torch.equal(model.eval()(X), plain.eval()(X))
    exported = torch.export.export(model, (X,))
    assert torch.equal(exported.module()(X), plain(X))
    assert "checkpoint" not in str(exported.graph)


def test_what_is_applied_again_replaces_what_was() -> None:
    model = net()
    recompute.apply(model, True, compiled=False)
    recompute.apply(model, ("head",), compiled=False)
    assert wrapped(model) == ["head"]
    assert recompute.apply(model, False, compiled=False) == []
    assert wrapped(model) == []


def test_a_forward_of_the_instances_own_is_run_and_comes_back() -> None:
    model, calls = net(), []
    own = model.blocks[0].forward
    mine = model.blocks[0].forward = lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs)
    recompute.apply(model, True, compiled=False)
    model(X).sum().backward()
    assert len(calls) == 2
    recompute.remove(model)
    assert model.blocks[0].__dict__["forward"] is mine
    assert wrapped(model) == ["blocks.0"]


@pytest.mark.parametrize("place", ["instance", "class"])
def test_a_plain_switch_of_a_persons_model_is_used_and_put_back(place):
    class Own(Net):
        gradient_checkpointing = False

    model: Any = Own() if place == "class" else net()
    model.__dict__.update({} if place == "class" else {"gradient_checkpointing": False})
    with recompute.put_back(model):
        assert "own switch" in recompute.apply(model, True, compiled=False)[0]
        assert model.gradient_checkpointing is True
        assert wrapped(model) == []
    assert model.gradient_checkpointing is False
    assert ("gradient_checkpointing" in model.__dict__) is (place == "instance")


def test_a_method_of_a_persons_model_is_called():
    class Own(Net):
        def gradient_checkpointing_enable(self) -> None:
            self.on = True

    model = Own()
    assert recompute.supports(model)
    recompute.apply(model, True, compiled=False)
    assert model.on and wrapped(model) == []


def test_the_compilers_budget_is_for_models_without_blocks_and_put_back() -> None:
    import torch._functorch.config as compiler

    layers = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    before = compiler.activation_memory_budget
    assert "keeps 25% of the activations" in recompute.apply(layers, 0.75, compiled=True)[0]
    assert compiler.activation_memory_budget == 0.25
    recompute.remove(layers)
    assert compiler.activation_memory_budget == before
    recompute.apply(net(), 0.5, compiled=True)
    assert compiler.activation_memory_budget == before
    with pytest.raises(HotloopError, match="has no repeated blocks"):
        recompute.apply(layers, True, compiled=True)
