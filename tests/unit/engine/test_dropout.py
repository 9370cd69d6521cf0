"""Dropout whose masks are drawn four elements at a time: the same law as torch's, exact scale, and off again after."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hotloop
from hotloop import device as machine
from hotloop.config.schema import OptimizationSection, TrainingSection
from hotloop.engine import dropout, recompute
from hotloop.engine.dropout import FastDropout, dropped
from hotloop.engine.execution import resolve_speed

CPU = torch.device("cpu")


@given(rate=st.floats(0.001, 0.999), rows=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_what_is_kept_is_scaled_and_the_gradient_is_its_mask(rate: float, rows: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = (torch.rand(rows, width) + 0.5).requires_grad_()
    y = dropped(x, rate)
    y.sum().backward()
    assert x.grad is not None
    (scale,) = set(x.grad[x.grad != 0].tolist()) or {0.0}
    assert scale == 0.0 or scale == pytest.approx(1 / (1 - rate), rel=1e-5 / (1 - rate))
    assert torch.equal(y, x.detach() * x.grad)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_share_and_the_mean_are_those_of_the_rate(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    y = dropped(torch.ones(1000, 1000, dtype=dtype), rate)
    assert y.dtype is dtype and y.shape == (1000, 1000)
    kept = (y != 0).double()
    noise = (rate * (1 - rate) / 1e6) ** 0.5
    assert abs(kept.mean() - (1 - rate)) < 5 * noise
    expected = torch.nn.functional.dropout(torch.ones(10_000, dtype=dtype), rate).max()
    assert torch.allclose(y.max(), expected, rtol=1e-4)  # the same scale, rounded to the same type


def test_neighbours_know_nothing_of_each_other() -> None:
    """The four that share a random number, and those beside it."""
    torch.manual_seed(1)
    kept = (dropped(torch.ones(4_000_000), 0.1) != 0).double()
    fours = torch.corrcoef(kept.view(-1, 4).T) - torch.eye(4)
    along = torch.corrcoef(torch.stack([kept[:-1], kept[1:]]))[0, 1]
    assert fours.abs().max() < 5 / 1e6**0.5 and abs(along) < 5 / 4e6**0.5


def test_a_seed_decides_and_a_transposed_input_keeps_its_places() -> None:
    x = torch.arange(1.0, 40_001).view(100, 400)
    drawn = []
    for shown in (x, x, x.T.contiguous().T):
        torch.manual_seed(3)
        drawn.append(dropped(shown, 0.5))
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.3)) for _ in range(2))
        self.inplace, self.none = nn.Dropout(0.3, inplace=True), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return self.none(self.inplace(x))


def test_layers_are_taken_on_and_left_as_they_came() -> None:
    net = Net()
    net.layers[0][1].forward = lambda x: x  # somebody's own
    dropout.apply(net)
    assert [part for part in net.modules() if isinstance(part, FastDropout)] == [net.layers[1][1]]
    assert list(net.state_dict()) == list(Net().state_dict()) and repr(net) == repr(Net())
    assert isinstance(copy.deepcopy(net).layers[1][1], FastDropout)
    dropout.remove(net)
    assert not any(isinstance(part, FastDropout) for part in net.modules())


def test_what_torchs_own_takes_is_still_taken() -> None:
    layer = nn.Dropout(0.5)
    dropout.apply(layer)
    assert layer(input=torch.ones(128, 128)).shape == (128, 128)
    ragged = torch.nested.nested_tensor([torch.ones(100, 64), torch.ones(200, 64)])
    assert layer(ragged).is_nested
    each = torch.vmap(layer, randomness="different")(torch.ones(3, 128, 128))
    assert not torch.equal(each[0], each[1])


def test_blocks_that_are_compiled_one_by_one_share_a_program_still() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.drop = nn.Linear(64, 64), nn.Dropout(0.1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.drop(self.layer(x))

    net = nn.Sequential(*(Block() for _ in range(10)))
    dropout.apply(net)
    graphs = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    program = torch.compile(Block.forward, backend=counting, dynamic=False, fullgraph=True)
    x = torch.ones(128, 64).requires_grad_()
    for block in net:
        x = program(block, x)
    assert len(graphs) == 1


def test_few_elements_and_evaluation_are_torchs_own() -> None:
    ours, torchs = nn.Dropout(0.3), nn.Dropout(0.3)
    dropout.apply(ours)
    for x, same in ((torch.ones(64, 64), True), (torch.ones(128, 128), False)):
        torch.manual_seed(0)
        expected = torchs(x)
        torch.manual_seed(0)
        assert torch.equal(ours(x), expected) is same
    assert torch.equal(ours.eval()(x), x)


@pytest.mark.parametrize("backend", ["eager", "aot_eager_decomp_partition", "inductor"])
def test_compiled_code_keeps_the_law_in_one_graph(backend: str) -> None:
    """Also where the compiler merges equal operations, and works out again in the backward pass what it can."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Dropout(0.5), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.first(x).exp(), self.second(x)

    net = Twice()
    dropout.apply(net)
    compiled = torch.compile(net, backend=backend, fullgraph=True, dynamic=False)
    drawn = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        x = torch.linspace(0.5, 1.5, 128 * 128).requires_grad_()
        first, second = compiled(x)
        (first.sum() + second.sum()).backward()
        masks = first.detach().log() / x.detach(), second.detach() / x.detach()
        torch.testing.assert_close(x.grad, masks[0] * first.detach() + masks[1])  # the masks of the forward pass
        drawn.append(torch.stack(masks).round())
        assert set(drawn[-1].unique().tolist()) == {0.0, 2.0}
        assert abs(float(torch.corrcoef(drawn[-1])[0, 1])) < 0.05  # equal layers of one input, masks of their own
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("backend", ["aot_eager_decomp_partition", "inductor"])
def test_compiled_code_that_recomputes_draws_the_same_again(backend: str) -> None:
    """y = exp(m x), with a mask that is drawn in the forward pass and used in the backward pass after a second run."""

    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(lambda x: self.drop(x).exp().square(), x, use_reentrant=False)

    net = Again()
    dropout.apply(net)
    for run in (net, torch.compile(net, backend=backend, fullgraph=True, dynamic=False)):
        x = torch.linspace(0.5, 1.5, 128 * 128).requires_grad_()
        y = run(x)
        y.sum().backward()
        mask = y.detach().log() / 2 / x.detach()
        torch.testing.assert_close(x.grad, 2 * mask * y.detach())


@pytest.mark.parametrize(
    ("said", "device", "mode", "slow", "on"),
    [
        ("auto", "cpu", "off", True, True),
        ("auto", "cpu", "off", False, False),
        ("on", "cpu", "off", False, True),
        ("off", "cpu", "off", True, False),
        ("auto", "cpu", "default", True, True),
        ("on", "cuda", "off", True, False),
    ],
)
def test_auto_takes_it_where_torch_draws_one_by_one(
    said: str, device: str, mode: str, slow: bool, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropout, "is_slow_in_torch", lambda: slow)
    settings = TrainingSection(fast_dropout=said)
    fields, remarks = resolve_speed(settings, OptimizationSection(), torch.device(device), Net(), mode)
    assert fields["fast_dropout"] is on
    assert bool(remarks) is (said == "on" and not on)
    fields, remarks = resolve_speed(settings, OptimizationSection(), torch.device(device), nn.Linear(2, 2), mode)
    assert not fields["fast_dropout"] and bool(remarks) is (said == "on")


def test_torch_is_quick_with_intels_library_on_intels_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(machine, "cpu_is_intel", lambda: True)
    assert not dropout.is_slow_in_torch()
    monkeypatch.setattr(machine, "cpu_is_intel", lambda: False)
    assert dropout.is_slow_in_torch()


def _run(tmp_path: Path, **keys: Any) -> tuple[list[float], nn.Module]:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.3)) for _ in range(2)))
    losses: list[float] = []
    config = {"max_steps": 4, "batch_size": 256, "experiment.dir": str(tmp_path), "precision": "fp32", **keys}
    hotloop.fit(
        net, {"x": torch.randn(512, 64)}, loss=lambda model, batch: (model(batch["x"]) - batch["x"]).square().mean(1),
        config=config, callbacks=[lambda info: losses.append(float(info.loss))], progress=False,
    )  # fmt: skip
    return losses, net


def test_a_run_draws_the_same_when_activations_are_recomputed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropout, "is_slow_in_torch", lambda: True)
    plain, net = _run(tmp_path)
    assert not any(isinstance(part, FastDropout) for part in net.modules())  # handed back as it came
    assert _run(tmp_path, gradient_checkpointing=True)[0] == plain
    assert _run(tmp_path, fast_dropout="off")[0] != plain  # other masks, or it was not there at all


def test_taking_recomputing_off_takes_it_off_too() -> None:
    net = Net()
    dropout.apply(net)
    recompute.remove(net)
    assert not any(isinstance(part, FastDropout) for part in net.modules())
