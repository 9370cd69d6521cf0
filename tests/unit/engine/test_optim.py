"""Optimizers: a held step changes nothing at all, from the very first on; decay and Muon go to the right tensors."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from hotloop.engine.muon import Muon, orthogonalise
from hotloop.engine.optim import build_optimizers, hidden_matrices, hold
from hotloop.errors import HotloopError

CPU = torch.device("cpu")
KINDS = [("adamw", {}), ("adam", {}), ("sgd", {"momentum": 0.9}), ("sgd", {"momentum": 0.0}), ("muon", {})]
each_kind = pytest.mark.parametrize(("kind", "more"), KINDS, ids=["adamw", "adam", "sgd", "sgd-plain", "muon"])


class Net(nn.Module):
    """An embedding, two hidden matrices of one shape, one of another, a norm and a head."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6, bias=False)
        self.wide = nn.Linear(6, 10)
        self.back = nn.Linear(10, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 7, bias=False)
        if tied:
            self.head.weight = self.embedding.weight


def give_gradients(model: nn.Module, seed: int, value: float | None = None) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.grad = drawn if value is None else torch.full_like(parameter, value)


def snapshot(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> list[torch.Tensor]:
    """Copies of every parameter and of every tensor of the optimizers' state."""
    states = [value for o in optimizers for state in o.state.values() for value in state.values()]
    return [tensor.detach().clone() for tensor in [*model.parameters(), *states] if isinstance(tensor, torch.Tensor)]


def step(model: nn.Module, optimizers: list[torch.optim.Optimizer], seed: int, held: float = 0.0, **gradient) -> None:
    give_gradients(model, seed, **gradient)
    hold(optimizers, torch.tensor(held))
    for optimizer in optimizers:
        optimizer.step()


@pytest.fixture
def trained(options):
    """Builds a net with its optimizers, always from the same weights."""

    def build(kind: str, **more) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        torch.manual_seed(0)
        model = Net()
        section = options(optimizer=kind, learning_rate=0.05, weight_decay=0.1, **more)
        return model, build_optimizers(model, section, CPU)

    return build


@each_kind
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_held_step_leaves_everything_bit_equal(kind: str, more: dict, value: float | None, trained) -> None:
    model, optimizers = trained(kind, **more)
    step(model, optimizers, seed=1)
    before = snapshot(model, optimizers)
    step(model, optimizers, seed=2, held=1.0, value=value)
    after = snapshot(model, optimizers)
    assert len(before) == len(after) > 9
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@each_kind
def test_held_steps_are_as_if_they_had_never_been(kind: str, more: dict, trained) -> None:
    """The very first one too, where an optimizer makes its state."""
    model, optimizers = trained(kind, **more)
    other, plain = trained(kind, **more)
    step(model, optimizers, seed=0, held=1.0, value=math.nan)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    for seed in (1, 2, 3):
        step(model, optimizers, seed=seed)
        step(model, optimizers, seed=seed + 10, held=1.0, value=math.inf)
        step(other, plain, seed=seed)
    pairs = list(zip(snapshot(model, optimizers), snapshot(other, plain), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)


@each_kind
def test_a_free_step_moves_every_parameter(kind: str, more: dict, trained) -> None:
    model, optimizers = trained(kind, **more)
    before = copy.deepcopy(model)
    step(model, optimizers, seed=1)
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize(("kind", "theirs"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_adam_is_torchs_own(kind: str, theirs: type, trained) -> None:
    model, optimizers = trained(kind, betas=(0.8, 0.95))
    other, _ = trained(kind)
    decayed = [p for p in other.parameters() if p.dim() >= 2]
    rest = [p for p in other.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    plain = theirs(groups, lr=0.05, betas=(0.8, 0.95), foreach=False)
    for seed in range(4):
        step(model, optimizers, seed=seed)
        give_gradients(other, seed)
        plain.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def groups_of(optimizers: list[torch.optim.Optimizer]) -> Iterator[dict]:
    for optimizer in optimizers:
        yield from optimizer.param_groups


@each_kind
def test_matrices_decay_and_vectors_do_not_and_nothing_is_left_out(kind: str, more: dict, trained) -> None:
    model, optimizers = trained(kind, **more)
    listed = [parameter for group in groups_of(optimizers) for parameter in group["params"]]
    assert sorted(map(id, listed)) == sorted(map(id, model.parameters()))
    for group in groups_of(optimizers):
        assert {parameter.dim() >= 2 for parameter in group["params"]} == {group["weight_decay"] == 0.1}
        assert isinstance(group["lr"], torch.Tensor)


def names(model: nn.Module, chosen: set[int]) -> set[str]:
    return {name for name, parameter in model.named_parameters() if id(parameter) in chosen}


def test_muon_takes_hidden_matrices_only() -> None:
    hidden = {"first.weight", "second.weight", "wide.weight", "back.weight"}
    for tied in (False, True):
        model = Net(tied)
        assert names(model, hidden_matrices(model)) == hidden


def test_a_model_may_name_its_output_layers() -> None:
    model = Net()
    model.output_layers = [model.back]
    assert names(model, hidden_matrices(model)) == {"first.weight", "second.weight", "wide.weight", "head.weight"}


def test_muon_and_adamw_share_the_parameters(trained) -> None:
    model, optimizers = trained("muon", muon_learning_rate=0.3)
    assert [type(optimizer) for optimizer in optimizers] == [Muon, torch.optim.AdamW]
    [group] = optimizers[0].param_groups
    assert group["base_lr"] == 0.3
    assert {group["base_lr"] for group in optimizers[1].param_groups} == {0.05}
    assert names(model, set(map(id, group["params"]))) == names(model, hidden_matrices(model))


def test_frozen_parameters_are_left_out(options) -> None:
    model = Net()
    model.first.requires_grad_(False)
    for kind in ("adamw", "muon"):
        listed = {id(p) for g in groups_of(build_optimizers(model, options(optimizer=kind), CPU)) for p in g["params"]}
        assert not listed & {id(p) for p in model.first.parameters()}


def test_a_model_with_nothing_to_train_is_an_error(options) -> None:
    with pytest.raises(HotloopError, match="no parameter that requires a gradient"):
        build_optimizers(Net().requires_grad_(False), options(), CPU)
    with pytest.raises(HotloopError, match="no parameter that requires a gradient"):
        build_optimizers(nn.ReLU(), options(), CPU)
    with pytest.raises(HotloopError, match=r"this model has none(.|\n)*optimizer=adamw"):
        build_optimizers(nn.Linear(3, 1), options(optimizer="muon"), CPU)


def reference_muon(weights, gradients, rate: float, decay: float, momentum: float) -> list[torch.Tensor]:
    """One matrix after the other, in float64, straight from the published algorithm."""
    results = []
    for weight, series in zip(weights, gradients, strict=True):
        w, buffer = weight.double(), torch.zeros_like(weight).double()
        for gradient in series:
            g = gradient.double()
            buffer = momentum * buffer + (1 - momentum) * g
            look_ahead = momentum * buffer + (1 - momentum) * g
            x = look_ahead / look_ahead.norm()
            if w.shape[0] > w.shape[1]:
                x = x.T
            for _ in range(5):
                gram = x @ x.T
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            if w.shape[0] > w.shape[1]:
                x = x.T
            scale = math.sqrt(max(1.0, w.shape[0] / w.shape[1]))
            w = w - rate * decay * w - rate * scale * x
        results.append(w)
    return results


def test_muon_equals_the_published_algorithm_matrix_by_matrix() -> None:
    torch.manual_seed(0)
    shapes = [(5, 8), (8, 5), (5, 8), (6, 6), (8, 5)]
    weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    gradients = [[torch.randn(shape) for _ in range(4)] for shape in shapes]
    expected = reference_muon([w.detach() for w in weights], gradients, rate=0.02, decay=0.1, momentum=0.9)
    muon = Muon(weights, lr=0.02, momentum=0.9, weight_decay=0.1)
    for turn in range(4):
        for weight, series in zip(weights, gradients, strict=True):
            weight.grad = series[turn]
        muon.step()
    for weight, target in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach().double(), target, rtol=0, atol=2e-5)


def test_an_orthogonalised_matrix_has_singular_values_near_one() -> None:
    stack = torch.randn(3, 24, 16, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(stack, 5))
    assert values.min() > 0.6 and values.max() < 1.3
    assert torch.linalg.svdvals(stack).max() > 5  # it was far from it before


def test_muon_skips_a_matrix_without_a_gradient() -> None:
    used, unused = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(3, 3))
    before = unused.detach().clone()
    muon = Muon([used, unused], lr=0.1)
    used.grad = torch.randn(3, 3)
    muon.step()
    assert torch.equal(unused.detach(), before)
