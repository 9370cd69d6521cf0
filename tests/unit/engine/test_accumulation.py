"""Accumulation changes nothing but memory: any split of an effective batch gives the gradient of the whole one.

Splits into 1, 2, 4 and 7 micro-batches of a batch of 30 rows, with masks, weights and a shorter last window, through
the real engine. The model is a small transformer without dropout, whose rows do not see one another.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hotloop.engine.loop import steps

VOCABULARY, LENGTH, WIDTH = 11, 6, 16


class Transformer(nn.Module):
    """One block of attention over LENGTH positions."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.to(dtype)

    def forward(self, x_bt: Tensor) -> Tensor:
        return self.head(self.block(self.tokens(x_bt) + self.positions.weight))


def loss(model: nn.Module, batch: dict[str, Tensor], training: bool = True) -> Tensor:
    logits = model(batch["x"])
    return F.cross_entropy(logits.flatten(0, 1), batch["y"].flatten(), reduction="none").view_as(batch["y"])


def make_data(rows: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Tokens with ragged lengths: the mask of each row times the row's own weight, over a range of a thousand."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (rows, LENGTH + 1), generator=generator)
    lengths = torch.randint(0, LENGTH + 1, (rows, 1), generator=generator)  # an empty row is possible
    lengths[0] = LENGTH
    mask = (torch.arange(LENGTH) < lengths).to(dtype)
    weight = 10 ** (3 * torch.rand(rows, 1, generator=generator, dtype=dtype) - 2)
    return {"x": tokens[:, :-1], "y": tokens[:, 1:], "weight": mask * weight}


def run(build, data: dict, micro: int, pieces: int, dtype: torch.dtype = torch.float32, **overrides):
    """A session whose effective window holds min(30, rows) rows, in micro-batches of `micro`."""
    changes = {"micro_batch": micro, "accumulation": pieces}
    return build(lambda: Transformer(dtype), data, loss, batch_size=30, changes=changes, **overrides)


def gradients(session, count: int = 1) -> list[Tensor]:
    """All gradients of each of the first steps, as the optimizer is given them."""
    found: list[Tensor] = []

    def keep(optimizer) -> None:
        found.append(torch.cat([p.grad.flatten().double() for g in optimizer.param_groups for p in g["params"]]))

    session.state.updates.insert(0, lambda: keep(session.state.optimizers[0]))  # just before the update
    for info in steps(session.state, session.feed()):
        if info.step == count:
            return found
    raise AssertionError("the run was shorter")


def apart(some: Tensor, other: Tensor) -> float:
    return float((some - other).norm() / other.norm())


SPLITS = [(15, 2), (8, 4), (5, 7), (7, 5), (4, 8), (1, 30)]
each_split = pytest.mark.parametrize(("micro", "pieces"), SPLITS)
FREE = {"max_grad_norm": None, "lr_scheduler": "constant", "warmup_steps": 0, "optimizer": "sgd", "momentum": 0.0}


@each_split
def test_gradients_of_any_split_agree_within_a_millionth(build, micro: int, pieces: int) -> None:
    """75 rows: windows of 30, 30 and 15. At a rate near 0 all three steps see the same weights in all splits."""
    still = {**FREE, "learning_rate": 1e-30, "weight_decay": 0.0}
    whole = gradients(run(build, make_data(75), 30, 1, **still), count=3)
    split = gradients(run(build, make_data(75), micro, pieces, **still), count=3)
    assert all(apart(a, b) < 1e-6 for a, b in zip(split, whole, strict=True))


@each_split
def test_the_gradient_is_that_of_the_formula(build, micro: int, pieces: int) -> None:
    """Sum of values x weight over the total weight, written down without the engine, in float64."""
    data = make_data(30, dtype=torch.float64)
    session = run(build, data, micro, pieces, torch.float64, **FREE, learning_rate=1e-3)
    model = Transformer(torch.float64)
    total = (loss(model, data) * data["weight"]).sum() / data["weight"].sum()
    names = {id(p): g for p, g in zip(model.parameters(), torch.autograd.grad(total, model.parameters()), strict=True)}
    order = [p for p in model.parameters() if p.dim() >= 2] + [p for p in model.parameters() if p.dim() < 2]
    expected = torch.cat([names[id(p)].flatten() for p in order])
    assert apart(gradients(session)[0], expected) < 1e-13


@pytest.mark.parametrize(("batch", "accumulation"), [(15, 2), (8, 4), (5, 7)])
def test_batch_size_times_accumulation_as_a_person_writes_it(build, batch: int, accumulation: int) -> None:
    """A data set of 30 rows is one window for 30 x 1, 15 x 2, 8 x 4 and 5 x 7, the last two being cut short."""
    still = {**FREE, "learning_rate": 1e-3}
    data, net = make_data(30), lambda: Transformer(torch.float32)
    whole = gradients(build(net, data, loss, batch_size=30, **still))[0]
    split = build(net, data, loss, batch_size=batch, gradient_accumulation_steps=accumulation, **still)
    assert (split.plan.micro_batch, split.plan.accumulation) == (batch, accumulation)
    assert apart(gradients(split)[0], whole) < 1e-6


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 2**31), st.booleans())
def test_any_split_of_any_batch(build, rows: int, micro: int, seed: int, weighted: bool) -> None:
    data = make_data(rows, seed)
    if not weighted:
        del data["weight"]
    count = -(-rows // 30)
    still = {**FREE, "learning_rate": 1e-30, "weight_decay": 0.0}
    whole = gradients(run(build, data, 30, 1, **still), count)
    split = gradients(run(build, data, micro, -(-30 // micro), **still), count)
    assert all(apart(a, b) < 1e-6 for a, b in zip(split, whole, strict=True) if b.any())


LONG = {"max_steps": 50, "learning_rate": 1e-3, "warmup_steps": 5, "lr_scheduler": "cosine", "optimizer": "adamw"}


def fifty_steps(session) -> tuple[Tensor, Tensor]:
    losses = [info.loss.double() for info in steps(session.state, session.feed())]
    assert len(losses) == 50
    weights = torch.cat([parameter.detach().flatten().double() for parameter in session.state.model.parameters()])
    return torch.stack(losses), weights


@pytest.fixture(scope="module")
def undivided(build) -> dict[torch.dtype, tuple[Tensor, Tensor]]:
    """Fifty steps without a split; 75 rows give windows of 30, 30 and 15."""
    kinds = (torch.float32, torch.float64)
    return {kind: fifty_steps(run(build, make_data(75, dtype=kind), 30, 1, kind, **LONG)) for kind in kinds}


@each_split
def test_fifty_steps_in_float64(build, undivided, micro: int, pieces: int) -> None:
    kind = torch.float64
    losses, weights = fifty_steps(run(build, make_data(75, dtype=kind), micro, pieces, kind, **LONG))
    wanted, wanted_weights = undivided[kind]
    assert wanted[-1] < wanted[0] - 0.1  # something was learnt
    assert float(((losses - wanted) / wanted).abs().max()) < 1e-12
    assert apart(weights, wanted_weights) < 1e-12


@each_split
def test_fifty_steps_in_float32(build, undivided, micro: int, pieces: int) -> None:
    losses, weights = fifty_steps(run(build, make_data(75), micro, pieces, **LONG))
    wanted, wanted_weights = undivided[torch.float32]
    assert float((losses - wanted).abs().max()) < 1e-5
    assert apart(weights, wanted_weights) < 1e-4


def test_the_same_split_again_is_bit_equal(build) -> None:
    first, again = (fifty_steps(run(build, make_data(75), 8, 4, **LONG)) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
