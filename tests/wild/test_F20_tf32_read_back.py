"""F20: TF32 switched on through an attribute that this torch does not have. Here what is shown was read back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hotloop import assemble
from hotloop import device as machine
from hotloop.config.load import load
from hotloop.engine.plan import Plan, apply_to_process
from hotloop.tasks.gpt.options import OPTIONS
from hotloop.tasks.gpt.task import Gpt

TINY = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8, "limit": 50, "max_steps": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def as_before():
    was = machine.tf32_read_back()
    yield
    machine.set_tf32(was)


def plan_for(precision: str) -> tuple[Plan, list[str]]:
    loaded = load(OPTIONS, overrides={**TINY, "precision": precision})
    session = assemble.build(loaded, Gpt(loaded.config.model, loaded.config.data, seed=1))
    return session.plan, session.remarks


@pytest.mark.parametrize("on", [True, False])
def test_switching_it_changes_what_torch_says(on):
    machine.set_tf32(not on)
    machine.set_tf32(on)
    assert machine.tf32_read_back() is on
    if machine.TORCH_VERSION >= (2, 9):
        assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if on else "ieee")
    else:
        assert torch.backends.cuda.matmul.allow_tf32 is on


def test_a_switch_without_effect_is_shown_as_off(monkeypatch):
    plan, _ = plan_for("fp32")
    machine.set_tf32(False)
    monkeypatch.setattr(machine, "set_tf32", lambda on: setattr(torch.backends.cuda, "allow_tf32_everywhere", on))
    settled = apply_to_process(replace(plan, precision="tf32", tf32=True))
    del torch.backends.cuda.allow_tf32_everywhere
    assert settled.tf32 is False
    assert "TF32: off (read back)" in settled.lines()[0]


def test_a_switch_with_effect_is_shown_as_on():
    plan, _ = plan_for("fp32")
    assert "TF32: off (read back)" in plan.lines()[0]
    settled = apply_to_process(replace(plan, precision="tf32"))
    assert "TF32: on (read back)" in settled.lines()[0]


def test_a_device_without_tf32_says_so():
    plan, remarks = plan_for("tf32")
    assert (plan.precision, plan.tf32) == ("fp32", False)
    assert any("TF32 exists on NVIDIA GPUs only" in remark for remark in remarks)
