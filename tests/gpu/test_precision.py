"""Each precision on a GPU: it trains, what was switched on is read back, and the arithmetic is really that one."""

from __future__ import annotations

import json

import pytest
import torch

from hotloop import device as machine
from hotloop.engine import loop

pytestmark = pytest.mark.gpu


def needs_bf16_and_tf32() -> None:
    if torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("this GPU has neither bf16 nor TF32 in hardware")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_trains(precision, optimizer, gpt):
    if precision in ("tf32", "bf16"):
        needs_bf16_and_tf32()
    run = gpt(precision=precision, optimizer=optimizer)
    plan = json.loads((run.dir / "plan.json").read_text())
    assert plan["device"].startswith("cuda")
    assert plan["precision"] == precision
    assert plan["tf32"] is (precision == "tf32")
    losses = [record["train_loss"] for record in run.history if "train_loss" in record]
    assert all(loss == loss for loss in losses)
    assert losses[-1] < 0.8 * losses[0]
    assert run.summary["peak_memory"] > 0
    assert all(record["gpu_memory"] > 0 for record in run.history if "train_loss" in record)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_forward_pass_really_computes_in_it(precision, session):
    if precision == "bf16":
        needs_bf16_and_tf32()
    built = session(precision=precision)
    seen = set()
    for module in built.state.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, given, out: seen.add(out.dtype))
    next(loop.steps(built.state, built.feed()))
    assert seen == {machine.DTYPES[precision]}
    assert all(parameter.dtype == torch.float32 for parameter in built.state.model.parameters())


def test_auto_takes_what_the_hardware_has(session):
    major = torch.cuda.get_device_capability()[0]
    expected = "bf16" if major >= 8 else "fp16" if major == 7 else "fp32"
    assert session(precision="auto").plan.precision == expected


def relative_error() -> float:
    """Of a matrix product on the device against float64."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=draw) for _ in range(2))
    right = a.double() @ b.double()
    found = (a.cuda() @ b.cuda()).double().cpu()
    return float((found - right).norm() / right.norm())


def test_tf32_is_on_when_it_says_so():
    needs_bf16_and_tf32()
    machine.set_tf32(True)
    assert machine.tf32_read_back() is True
    rounded = relative_error()
    machine.set_tf32(False)
    assert machine.tf32_read_back() is False
    exact = relative_error()
    assert exact < 1e-5
    assert rounded > 10 * exact


def test_fp16_overflow_lowers_the_scale_and_training_goes_on(session):
    built = session(precision="fp16", max_steps=30)
    scaler = built.state.scaler
    scaler.scale.fill_(2.0**40)  # far too much: the first updates must be left out
    for _ in loop.steps(built.state, built.feed()):
        pass
    seen = built.state.read()
    assert float(scaler.scale) < 2.0**40
    assert seen.skipped > 0
    assert seen.applied == 30 - seen.skipped
    assert seen.held_at == 0
    assert all(parameter.isfinite().all() for parameter in built.state.model.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_loss_is_near_that_of_fp32(precision, gpt):
    if precision == "bf16":
        needs_bf16_and_tf32()
    exact, rounded = gpt(precision="fp32"), gpt(precision=precision)
    assert rounded.summary["eval_loss"] == pytest.approx(exact.summary["eval_loss"], rel=0.05)
