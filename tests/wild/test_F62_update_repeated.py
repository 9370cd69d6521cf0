"""F62: an out-of-memory error inside the optimizer's step is repeated, so a part of the update counts twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotloop.errors import NoMemory

from ..unit.engine.trouble import Trouble, fit, plain_net


@pytest.mark.parametrize("place", ["update", "update, in part"])
def test_the_run_ends_with_its_checkpoint_safe(experiments: Path, place: str) -> None:
    trouble = Trouble(place, step=8)
    with pytest.raises(NoMemory, match="neither repeated nor saved"):
        fit(experiments, trouble, plain_net(), checkpoint_every=5)
    assert trouble.struck == 1
    [folder] = experiments.iterdir()
    kept = sorted(path.name for path in (folder / "checkpoints").glob("step_*.pt"))
    assert kept == ["step_5.pt"]


def test_its_state_exists_before_the_first_step(experiments: Path) -> None:
    """So that an update needs no memory that the first one did not."""
    found = []

    class Looks(Trouble):
        def on_start(self, state):
            super().on_start(state)
            found.extend(len(optimizer.state) for optimizer in state.optimizers)

    fit(experiments, Looks(), plain_net(), max_steps=1)
    assert found == [4]  # of both layers, weights and biases
