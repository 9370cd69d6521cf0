"""What a run computes, for a comparison: the gradients its optimizer gets, and its losses over some steps.

The session is used up by it: it belongs to a process of its own or to a test. Rows, weights and order are functions
of the seed alone, so two sessions of one configuration that execute differently see the same.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hotloop import device as machine
from hotloop.assemble import Session, dropout_seed
from hotloop.engine.recover import transact
from hotloop.engine.step import train_step
from hotloop.initial import begin
from hotloop.tune.verdict import Error

BATCHES = 2
"""Effective batches whose gradients are compared."""
_SAME_DIRECTION = 1e-3
_NOTHING = 1e-3  # a parameter whose gradient is below this share of an even one is left out of the comparison by part
_OTHER_DRAWS = 20_000_003  # seed of the clipped passes: what is drawn at random shows as a difference between the two
_FP16_SCALE = 2.0**10  # what it settles at is below where it starts; gradients must not overflow here

Gradients = list[dict[str, Tensor]]
NORM, LOSS = "norm before clipping", "loss"


@contextlib.contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """No random masks: other kernels draw other ones, which would hide or feign a difference."""
    changed: list[tuple[nn.Module, str, float]] = []
    for module in model.modules():
        names = ["p"] if isinstance(module, nn.modules.dropout._DropoutNd) else []
        names += [name for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]
        for name in names:
            changed.append((module, name, getattr(module, name)))
            setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)


def gradients(session: Session) -> Gradients:
    """Gradients as the optimizer gets them, of some effective batches, at the weights the run begins with.

    Each batch is run twice: unclipped, and clipped at half of its norm, so that a clip that is left out shows even
    where the run's own would not bind yet. Weights stay as they are.
    """
    state, feed = session.state, session.feed()
    found: Gradients = []
    updates, clip = state.updates, state.max_grad_norm
    if state.scaler is not None:
        state.scaler.scale.fill_(_FP16_SCALE)
    before = copy.deepcopy(state.state_dict())
    taken: dict[str, Tensor] = {}

    def take() -> None:
        for name, parameter in state.model.named_parameters():
            if parameter.grad is not None:
                taken[name] = parameter.grad.detach().cpu().clone()

    state.updates = [take]
    try:
        with without_dropout(state.model):
            for _ in range(BATCHES):
                batch = next(feed)
                for share in (None, 0.5):
                    state.load_state_dict(before)
                    if share is not None:
                        torch.manual_seed(_OTHER_DRAWS)
                    taken.clear()
                    state.max_grad_norm = None if share is None else share * float(found[-1][NORM])
                    loss, norm = train_step(state, batch)  # not a recorded one: it holds its updates
                    found.append({**taken, NORM: norm.detach().cpu().clone(), LOSS: loss.detach().cpu().clone()})
                    if clip is None:
                        break  # a run that does not clip has no clip to leave out
    finally:
        state.updates, state.max_grad_norm = updates, clip
        getattr(feed, "close", lambda: None)()
        state.load_state_dict(before)
    return found


def draws_at_random(found: Gradients) -> bool:
    """Whether clipped and unclipped gradients of a batch point elsewhere: the loss draws what no layer switches off."""
    if len(found) != 2 * BATCHES:
        return False
    pairs = list(zip(found[::2], found[1::2], strict=True))
    return any(_turned(clipped, whole) > _SAME_DIRECTION for whole, clipped in pairs)


def _turned(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Distance between the directions of two gradients, a parameter at a time: a whole copy may not fit."""
    ours, theirs = max(_size(one), 1e-300), max(_size(other), 1e-300)
    away = 0.0
    for name, value in _parameters(other).items():
        held = one.get(name)
        away += _away(None if held is None else held.double() / ours, value.double() / theirs)
    return math.sqrt(away)


def _size(found: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in _parameters(found).values()))


def errors(found: Gradients, reference: Gradients) -> Error:
    """The largest differences over all batches."""
    if len(found) != len(reference):
        return Error(float("inf"), {}, float("inf"), float("inf"))
    whole = norm = loss = 0.0
    parts: dict[str, float] = {}
    for one, other in zip(found, reference, strict=True):
        whole = _larger(whole, _distance(one, other))
        norm, loss = _larger(norm, _relative(one[NORM], other[NORM])), _larger(loss, _relative(one[LOSS], other[LOSS]))
        for name, error in _by_part(one, other).items():
            parts[name] = _larger(parts.get(name, 0.0), error)
    return Error(whole, parts, norm, loss)


def _larger(one: float, other: float) -> float:
    """The maximum, where NaN is larger than everything."""
    return max(one, other) if one == one and other == other else float("nan")


def _relative(value: Tensor, reference: Tensor) -> float:
    return float((value.double() - reference.double()).abs() / reference.double().abs().clamp(min=1e-12))


def _parameters(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in found.items() if name not in (NORM, LOSS)}


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    size = sum(float(value.double().square().sum()) for value in _parameters(other).values())
    away = sum(_away(one.get(name), value) for name, value in _parameters(other).items())
    return float((away / max(size, 1e-300)) ** 0.5)


def _away(value: Tensor | None, reference: Tensor) -> float:
    """Squared distance; a gradient that is not there is one of zeros."""
    difference = reference.double() if value is None else value.double() - reference.double()
    return float(difference.square().sum())


def _by_part(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """Relative error of each parameter that has a gradient worth the name."""
    wanted = _parameters(other)
    sizes = {name: float(value.double().square().sum()) for name, value in wanted.items()}
    smallest = _NOTHING**2 * sum(sizes.values()) / max(1, len(sizes))
    return {
        name: (_away(one.get(name), value) / sizes[name]) ** 0.5
        for name, value in wanted.items()
        if sizes[name] > smallest
    }


def loss_after(session: Session, steps: int) -> float:
    """Training loss after `steps` steps from where the session is: the mean over the last third of them."""
    state, feed = session.state, session.feed()
    seen: list[Tensor] = []
    for _ in range(steps):
        loss, _ = transact(state, next(feed))
        state.step += 1
        seen.append(loss.detach().clone())
    getattr(feed, "close", lambda: None)()
    return float(torch.stack(seen[-max(1, steps // 3) :]).double().mean())


def reseed(session: Session, fresh: dict[str, Any], seed: int) -> None:
    """Begin anew as a run of another seed would: its weights, its order of rows, its masks; an empty optimizer.

    Args:
        session: of any seed.
        fresh: a copy of its state before the first step.
        seed: what `experiment.seed` would be.
    """
    config, device = session.config, session.plan.torch_device
    machine.seed_everything(seed)
    model, _ = begin(session.task, config.model, device, False)
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    del model
    machine.seed_everything(dropout_seed(seed))
    session.state.load_state_dict(copy.deepcopy({**fresh, "model": weights, "random": machine.random_state(device)}))
    sampler: Any = session.parts.sampler
    if hasattr(sampler, "seed"):
        session.parts.sampler = replace(sampler, seed=seed)
