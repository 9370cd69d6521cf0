"""Where optimizer state is and how much: made before step 1, in 8 bits, on the host; all without changing training."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hotloop.engine import adamw8bit, loop, offload
from hotloop.engine import optim as engine_optim
from hotloop.engine.adamw8bit import AdamW8bit
from hotloop.engine.offload import OffloadedAdam
from hotloop.engine.optim import allocate, build_optimizers, hold
from hotloop.errors import HotloopError

CPU = torch.device("cpu")
KINDS = [("adamw", {}), ("adam", {}), ("sgd", {"momentum": 0.9}), ("sgd", {"momentum": 0.0}), ("muon", {})]
KINDS.append(("adamw8bit", {}))
each_kind = pytest.mark.parametrize(("kind", "more"), KINDS, ids=[f"{k}{'' if m else '-'}" for k, m in KINDS])


class Net(nn.Module):
    """Large and small tensors, one whose size no block divides, one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(67, 64)
        self.first = nn.Linear(64, 73)
        self.second = nn.Linear(73, 64)
        self.norm = nn.LayerNorm(64)
        self.unused = nn.Linear(64, 65)
        self.head = nn.Linear(64, 67)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embedding(x)
        return self.head(self.norm(h + self.second(torch.tanh(self.first(h)))))


def built(options, kind: str, on_host: bool = False, **more) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    torch.manual_seed(0)
    model = Net()
    section = options(optimizer=kind, learning_rate=0.01, weight_decay=0.1, **more)
    return model, build_optimizers(model, section, CPU, offload=on_host)


def step(model: nn.Module, optimizers: list[torch.optim.Optimizer], seed: int, value: float | None = None) -> None:
    """One update with gradients of `seed`; a `value` in their place comes with a held step."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if not name.startswith("unused"):
            drawn = torch.randn(parameter.shape, generator=generator) * 10.0 ** (seed % 5 - 3)
            parameter.grad = drawn if value is None else torch.full_like(parameter, value)
    hold(optimizers, torch.tensor(float(value is not None)))
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def tensors(optimizers: list[torch.optim.Optimizer]) -> list[torch.Tensor]:
    return [v for o in optimizers for s in o.state.values() for v in s.values() if isinstance(v, torch.Tensor)]


def everything(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> list[torch.Tensor]:
    """Parameters, and the state in the order of the parameters."""
    found = list(model.parameters())
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            found += [v for p in group["params"] for _, v in sorted(optimizer.state.get(p, {}).items())]
    return [tensor.detach() for tensor in found if isinstance(tensor, torch.Tensor)]


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(everything(*a), everything(*b), strict=True))


@each_kind
def test_all_state_is_there_before_the_first_step_and_is_zero(kind: str, more: dict, options) -> None:
    model, optimizers = built(options, kind, **more)
    weights = copy.deepcopy(model.state_dict())
    allocate(optimizers)
    assert not any(tensor.any() for tensor in tensors(optimizers))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    places = [tensor.data_ptr() for tensor in tensors(optimizers)]
    allocate(optimizers)
    for seed in range(3):
        step(model, optimizers, seed)
    assert [tensor.data_ptr() for tensor in tensors(optimizers)] == places


@each_kind
@pytest.mark.parametrize("piece", [1, 20_000, 1 << 30])
def test_training_is_the_same_to_the_bit(kind: str, more: dict, piece: int, options, monkeypatch) -> None:
    monkeypatch.setattr(engine_optim, "_PIECE", piece)
    early, late = built(options, kind, **more), built(options, kind, **more)
    allocate(early[1])
    for seed in range(4):
        for one in (early, late):
            step(*one, seed)
            step(*one, seed + 100, value=math.nan)
    allocate(late[1])  # the state of what was never trained; the rest is left alone
    assert equal(early, late)


def test_a_run_has_its_state_and_loads_checkpoints_without_all_of_it(build) -> None:
    x = torch.randint(0, 67, (40,))
    session = build(Net, {"x": x}, lambda m, b, t: F.cross_entropy(m(b["x"]), b["x"], reduction="none"), batch_size=4)
    state = session.state
    assert {id(p) for o in state.optimizers for p in o.state} == {id(p) for p in state.parameters}
    for _ in loop.steps(state, session.feed()):
        pass
    stored = copy.deepcopy(state.state_dict())
    numbers = [n for n, found in stored["optimizers"][0]["state"].items() if found["step"] == 0]
    assert len(numbers) == 2  # the unused layer
    for number in numbers:  # as a checkpoint of before has it
        del stored["optimizers"][0]["state"][number]
    state.load_state_dict(stored)
    assert len(state.optimizers[0].state) == len(state.parameters)


def test_large_tensors_are_in_8_bits_and_small_ones_are_not(options) -> None:
    model, (low, rest) = built(options, "adamw8bit", betas=(0.8, 0.9))
    assert isinstance(low, AdamW8bit) and isinstance(rest, torch.optim.AdamW)
    sizes = [[p.numel() for g in o.param_groups for p in g["params"]] for o in (low, rest)]
    assert min(sizes[0]) >= adamw8bit.SMALLEST > max(sizes[1])
    assert {g["betas"] for o in (low, rest) for g in o.param_groups} == {(0.8, 0.9)}
    allocate([low, rest])
    plain = 8 * sum(p.numel() for p in model.parameters() if p.numel() >= adamw8bit.SMALLEST)
    assert sum(t.numel() * t.element_size() for t in tensors([low])) < 0.27 * plain


def test_8_bits_follow_adamw(options) -> None:
    """From gradients of a real loss: the updates of 60 steps point the same way, and are as long."""
    moved = []
    for kind in ("adamw", "adamw8bit"):
        model, optimizers = built(options, kind)
        before = model.first.weight.detach().clone()
        for seed in range(60):
            x = torch.randint(0, 67, (32,), generator=torch.Generator().manual_seed(seed))
            F.cross_entropy(model(x), (x * 7 + 1) % 67).backward()
            hold(optimizers, torch.tensor(0.0))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        moved.append((model.first.weight.detach() - before).flatten())
    assert F.cosine_similarity(*moved, dim=0) > 0.99
    assert moved[1].norm() == pytest.approx(moved[0].norm().item(), rel=0.02)


@pytest.mark.parametrize("beta", [0.0, 0.999])
def test_the_first_update_of_8_bits_is_adamws_own(beta: float, options) -> None:
    low, plain = built(options, "adamw8bit", betas=(beta, beta)), built(options, "adamw", betas=(beta, beta))
    step(*low, seed=3)
    step(*plain, seed=3)
    for a, b in zip(low[0].parameters(), plain[0].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("piece", [256, 1 << 20])
def test_8_bits_in_pieces_held_and_not_contiguous(piece: int, options, monkeypatch) -> None:
    """Pieces, held steps and the layout in memory change nothing."""
    one, other = built(options, "adamw8bit"), built(options, "adamw8bit")
    turned = other[0].second.weight
    turned.data = turned.detach().t().contiguous().t()
    for seed in range(3):
        monkeypatch.setattr(adamw8bit, "_PIECE", {"cpu": 1 << 18})
        step(*one, seed)
        monkeypatch.setattr(adamw8bit, "_PIECE", {"cpu": piece})
        step(*other, seed)
        step(*other, seed, value=math.inf)
    assert not turned.is_contiguous()
    assert equal(one, other)


@pytest.mark.parametrize(("kind", "on_host"), [("adamw8bit", False), ("adamw", True), ("adam", True)])
def test_state_through_a_file_goes_on_to_the_bit(kind: str, on_host: bool, options) -> None:
    whole, first = built(options, kind, on_host), built(options, kind, on_host)
    for seed in range(3):
        step(*whole, seed)
        step(*first, seed)
    file = io.BytesIO()
    torch.save([first[0].state_dict(), [o.state_dict() for o in first[1]]], file)
    file.seek(0)
    weights, states = torch.load(file, weights_only=True)
    second = built(options, kind, on_host)
    places = [tensor.data_ptr() for tensor in tensors(second[1])]
    second[0].load_state_dict(weights)
    for optimizer, stored in zip(second[1], states, strict=True):
        optimizer.load_state_dict(stored)
    for seed in range(3, 6):
        step(*whole, seed)
        step(*second, seed)
    assert equal(whole, second)
    if on_host:
        assert [tensor.data_ptr() for tensor in tensors(second[1])] == places


@pytest.mark.parametrize("kind", ["adamw", "adam"])
@pytest.mark.parametrize("piece", [1, 1 << 30])
def test_the_host_does_what_torch_does(kind: str, piece: int, options, monkeypatch) -> None:
    monkeypatch.setattr(offload, "_PIECE", piece)
    here, there = built(options, kind), built(options, kind, on_host=True)
    assert type(there[1][0]) is OffloadedAdam
    for one in (here, there):
        allocate(one[1])
        for group in (g for o in one[1] for g in o.param_groups):
            group["lr"] = group["lr"].clone()
        for seed in range(50):
            for group in (g for o in one[1] for g in o.param_groups):
                group["lr"].fill_(0.01 / (seed + 1))
            step(*one, seed, value=math.nan if seed % 7 == 3 else None)
    assert equal(here, there)
    assert sorted(there[1][0].state_dict()["state"][0]) == sorted(here[1][0].state_dict()["state"][0])


@pytest.mark.parametrize("kind", ["adamw8bit", "adamw"])
def test_a_whole_run(kind: str, build) -> None:
    """Through assembly, step and checkpoint: a run that is put back goes on to the same end."""
    x = torch.randint(0, 67, (80,))
    loss = lambda m, b, t: F.cross_entropy(m(b["x"]), b["x"], reduction="none")  # noqa: E731
    keys = {"batch_size": 8, "max_steps": 12, "optimization.optimizer": kind, "optimization.learning_rate": 0.01}
    ends = []
    for offloaded in (False, True) if kind == "adamw" else (False,):
        session = build(Net, {"x": x}, loss, changes={"offload": offloaded}, **keys)
        stored, losses = None, []
        for info in loop.steps(session.state, session.feed()):
            losses.append(float(info.loss))
            stored = copy.deepcopy(session.state.state_dict()) if session.state.step == 6 else stored
        end = copy.deepcopy(session.state.model.state_dict())
        assert stored is not None and losses[-1] < losses[0]
        session.state.load_state_dict(stored)
        for _ in loop.steps(session.state, session.feed()):
            pass
        assert all(torch.equal(end[name], value) for name, value in session.state.model.state_dict().items())
        ends.append(end)
    assert all(torch.equal(ends[0][name], ends[-1][name]) for name in ends[0])


@pytest.mark.parametrize("kind", ["sgd", "muon", "adamw8bit"])
def test_other_rules_have_no_host_to_go_to(kind: str, options) -> None:
    with pytest.raises(HotloopError, match=r"cannot keep its state on the host(.|\n)*offload=off"):
        built(options, kind, on_host=True)


def test_on_a_cpu_there_is_nothing_to_offload(build) -> None:
    x = torch.randint(0, 67, (40,))
    loss = lambda m, b, t: F.cross_entropy(m(b["x"]), b["x"], reduction="none")  # noqa: E731
    session = build(Net, {"x": x}, loss, **{"memory.offload": "on", "batch_size": 4})
    assert not session.plan.offload
    assert any("memory.offload=on is left out" in line for line in session.remarks)
