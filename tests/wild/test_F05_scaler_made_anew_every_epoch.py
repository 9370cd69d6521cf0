"""F05: a loss scaler made anew every epoch starts at 65536 again and again. Here there is one for the whole run."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from hotloop import assemble
from hotloop.config.load import load
from hotloop.data.source import TensorSource
from hotloop.engine.loop import steps
from hotloop.task import Splits, Task, options_of


class Steep(Task):
    """Its gradient, 8 x 65536, overflows fp16 at the scale that a scaler starts with."""

    def sources(self) -> Splits:
        return Splits(TensorSource({"x": torch.ones(8, 4)}))

    def model(self) -> nn.Module:
        return nn.Linear(4, 1, bias=False)

    def loss(self, model, batch, training):
        return model(batch["x"]).squeeze(1) * 8.0


def fp16_session() -> assemble.Session:
    """fp16 on the CPU, which a plan can ask for: slow, and the same arithmetic."""
    keys = {"batch_size": 4, "num_epochs": 10, "max_grad_norm": None, "compile": "off", "data.val_fraction": 0.0}
    loaded = load(options_of(Steep, "steep"), overrides={**keys, "precision": "fp32"})
    task = Steep(loaded.config.model, loaded.config.data, seed=0)
    plan = assemble.build(loaded, task).plan
    return assemble.build(loaded, task, plan=replace(plan, precision="fp16"))


def test_the_scale_found_in_the_first_epoch_holds_in_all_others() -> None:
    session = fp16_session()
    assert session.plan.steps_per_epoch == 2
    scales, applied, scalers = [], [], set()
    for _ in steps(session.state, session.feed()):
        scales.append(float(session.state.scaler.scale))
        applied.append(int(session.state.applied))
        scalers.add(id(session.state.scaler))
    assert len(scalers) == 1
    skipped = applied.count(0)
    assert 1 <= skipped <= 6
    assert set(scales[skipped:]) == {65536.0 / 2**skipped}  # no epoch goes back to 65536
    assert applied == [0] * skipped + list(range(1, 21 - skipped))  # a new one would skip in every epoch
    assert session.state.scaler.clean == 20 - skipped  # counted across epochs


def test_the_scaler_is_part_of_the_checkpoint() -> None:
    session, other = fp16_session(), fp16_session()
    for info in steps(session.state, session.feed()):
        if info.step == 9:
            break
    other.state.load_state_dict(session.state.state_dict())
    assert other.state.scaler.scale == session.state.scaler.scale < 65536.0
    assert other.state.scaler.clean == session.state.scaler.clean > 0
