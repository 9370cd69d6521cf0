"""F19: the schedule steps although the scaler skipped the update. Here it is indexed by updates made."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from hotloop import assemble
from hotloop.config.load import load
from hotloop.data.source import TensorSource
from hotloop.engine.loop import steps
from hotloop.task import Splits, Task, options_of

PEAK, STEPS = 1e-3, 10
TABLE = [PEAK * (1.0 - step / STEPS) for step in range(STEPS)]
SETTINGS = {
    "batch_size": 4, "max_steps": STEPS, "lr_scheduler": "linear", "learning_rate": PEAK, "min_lr": 0.0,
    "warmup_steps": 0,
    "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "max_grad_norm": None, "compile": "off",
    "precision": "fp32", "data.val_fraction": 0.0,
}  # fmt: skip


class Steep(Task):
    """Gradient 8; the scale begins at 65536, so that the first updates overflow fp16 and are skipped."""

    sick_calls: tuple[int, ...] = ()
    calls = 0

    def sources(self) -> Splits:
        return Splits(TensorSource({"x": torch.ones(40, 1)}))

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def loss(self, model, batch, training):
        self.calls += 1
        factor = math.nan if self.calls in self.sick_calls else 8.0
        return model(batch["x"]).squeeze(1) * factor


def moved(session: assemble.Session) -> list[float]:
    """By how much each step moved the bias, over its gradient: the rate in effect, 0 where nothing was updated."""
    bias, rates = session.state.model.bias, []
    at = bias.item()
    for _ in steps(session.state, session.feed()):
        rates.append((at - bias.item()) / 8.0)
        at = bias.item()
    return rates


def build(task_class: type[Task], **overrides) -> assemble.Session:
    loaded = load(options_of(task_class, "steep"), overrides={**SETTINGS, **overrides})
    return assemble.build(loaded, task_class(loaded.config.model, loaded.config.data, seed=0))


def test_a_skipped_update_does_not_use_up_a_rate() -> None:
    plan = build(Steep).plan
    loaded = load(options_of(Steep, "steep"), overrides=SETTINGS)
    task = Steep(loaded.config.model, loaded.config.data, seed=0)
    session = assemble.build(loaded, task, plan=replace(plan, precision="fp16"))
    rates = moved(session)
    skipped = rates.count(0.0)
    assert 1 <= skipped <= 6
    assert rates[:skipped] == [0.0] * skipped
    assert rates[skipped:] == pytest.approx(TABLE[: STEPS - skipped], rel=2e-3)  # from the peak, not from further down
    readout = session.state.read()
    assert (readout.applied, readout.skipped) == (STEPS - skipped, skipped)
    assert session.state.rate_at(readout.applied) == pytest.approx(TABLE[STEPS - skipped - 1])  # what records say


def test_the_same_holds_where_a_person_lets_bad_steps_be_skipped() -> None:
    session = build(Steep, on_nan="skip")
    session.task.calls, session.task.sick_calls = 0, (3, 4, 8)  # the look before the run does not count
    rates = moved(session)
    assert [step for step, rate in enumerate(rates, start=1) if rate == 0.0] == [3, 4, 8]
    assert [rate for rate in rates if rate] == pytest.approx(TABLE[:7], rel=2e-3)
