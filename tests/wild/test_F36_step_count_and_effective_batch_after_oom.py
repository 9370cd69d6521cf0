"""F36: after an out-of-memory error the step count restarts and the effective batch changes. Here neither does."""

from __future__ import annotations

from pathlib import Path

from ..unit.engine.trouble import Trouble, fit, plain_net


def test_steps_and_effective_batches_are_those_of_an_undisturbed_run(experiments: Path) -> None:
    still, trouble = Trouble(), Trouble(above=3)
    calm = fit(experiments / "calm", still, plain_net())
    run = fit(experiments / "troubled", trouble, plain_net())
    assert trouble.struck > 0
    assert trouble.seen == still.seen  # the same rows in the same order, step by step
    assert [record["step"] for record in run.history] == [record["step"] for record in calm.history]
    assert run.summary["effective_batch"] == 8 and run.summary["steps"] == 20
