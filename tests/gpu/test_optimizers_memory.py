"""Optimizer state on a GPU: there before step 1, a quarter of it in 8 bits, none of it with offload; all train."""

from __future__ import annotations

import pytest
import torch

from hotloop.engine import loop

pytestmark = pytest.mark.gpu


def bytes_on(built, kind: str) -> int:
    """Bytes of optimizer state on this kind of device."""
    tensors = [v for o in built.state.optimizers for state in o.state.values() for v in state.values()]
    return sum(t.numel() * t.element_size() for t in tensors if torch.is_tensor(t) and t.device.type == kind)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "muon", "adamw8bit"])
def test_state_is_there_before_the_first_step_and_none_comes_later(optimizer, session):
    built = session(optimizer=optimizer)
    before = bytes_on(built, "cuda")
    assert before > 0
    stepping = loop.steps(built.state, built.feed())
    for _ in range(3):
        next(stepping)
    assert bytes_on(built, "cuda") == before
    assert built.state.read().applied == 3


def test_8_bits_take_less_than_a_third(session):
    wide = {"n_embd": 256, "n_head": 4}
    plain, low = (bytes_on(session(optimizer=kind, **wide), "cuda") for kind in ("adamw", "adamw8bit"))
    assert low < 0.3 * plain


def test_8_bits_never_make_the_host_wait(session):
    from tests.gpu.test_no_waiting import step_without_waiting

    step_without_waiting(session(optimizer="adamw8bit"))


def test_offload_leaves_no_optimizer_bytes_on_the_gpu(session):
    built = session(**{"memory.offload": "on"})
    assert built.plan.offload
    assert any("the host waits for the GPU once a step" in line for line in built.remarks)
    assert bytes_on(built, "cuda") == 0
    trained = sum(parameter.numel() for parameter in built.state.parameters)
    assert bytes_on(built, "cpu") >= 8 * trained
    for _ in loop.steps(built.state, built.feed()):
        pass
    assert bytes_on(built, "cuda") == 0
    assert built.state.read().applied == 60


@pytest.mark.parametrize("how", [{"optimizer": "adamw8bit"}, {"keys": {"memory.offload": "on"}}], ids=["8bit", "host"])
def test_it_trains_as_adamw_does(how, gpt):
    plain, other = gpt(), gpt(**how)
    assert other.summary["eval_loss"] == pytest.approx(plain.summary["eval_loss"], rel=0.02)


def test_a_held_step_on_the_host_changes_nothing(session):
    built = session(**{"memory.offload": "on"})
    state = built.state
    for _ in loop.steps(state, built.feed()):
        if state.step == 3:
            break
    weights = [p.detach().clone() for p in state.parameters]
    for parameter in state.parameters:
        parameter.grad = torch.full_like(parameter, float("nan"))
    [optimizer] = state.optimizers
    optimizer.found_inf = torch.ones((), device="cuda")
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, state.parameters, strict=True))
    assert {float(found["step"]) for found in optimizer.state.values()} == {3.0}
