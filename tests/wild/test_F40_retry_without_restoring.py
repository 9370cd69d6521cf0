"""F40: a batch is repeated with BatchNorm's buffers moved and other dropout masks. Here both are put back first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ..unit.engine.trouble import Trouble, drawing_net, fit, weights


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_buffers_and_masks_of_the_failed_attempt_leave_no_trace(experiments: Path, place: str) -> None:
    still, trouble = Trouble(), Trouble(place, step=4)
    calm = fit(experiments / "calm", still, drawing_net())
    run = fit(experiments / "troubled", trouble, drawing_net())
    assert trouble.struck == 1 and trouble.losses == still.losses
    assert all(torch.equal(one, other) for one, other in zip(weights(run.model), weights(calm.model), strict=True))
