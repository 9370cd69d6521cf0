"""F42: an out-of-memory error in evaluation shrinks the training batch. Here only evaluation's own batch shrinks."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..unit.engine.trouble import Trouble, fit, plain_net


def test_training_goes_on_in_the_same_batches(experiments: Path) -> None:
    still, trouble = Trouble(), Trouble("evaluation", times=5)
    calm = fit(experiments / "calm", still, plain_net())
    run = fit(experiments / "troubled", trouble, plain_net())
    assert trouble.struck > 0 and trouble.losses == still.losses and trouble.state.pieces.rows == 8
    assert run.summary["eval_loss"] == pytest.approx(calm.summary["eval_loss"], rel=1e-6)
    assert trouble.notes[0] == "OOM in evaluation: its batch 16 -> 8, training's is untouched"
