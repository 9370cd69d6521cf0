"""Trials in fresh processes: what they measure, and what becomes of those that die."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.tune.owned import SETTINGS, write

from hotloop.config.load import Loaded, load
from hotloop.engine.plan import Choice
from hotloop.errors import HotloopError
from hotloop.saved import find_task
from hotloop.tune.bench import Fresh, FreshTrial
from hotloop.tune.child import Child

MB = 2**20


def loaded(folder: Path, name: str, **settings) -> Loaded:
    options, _ = find_task(f"{write(folder)}:{name}")
    given = {**SETTINGS, "batch_size": 240, "dir": str(folder / "runs"), **settings}
    return load(options, overrides=given, device_kind="cpu")


def test_sizes_are_measured_and_a_step_is_confirmed(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    bench = Fresh(loaded(tmp_path, "Greedy"))
    with bench.open(Choice()) as trial:
        facts = trial.facts
        assert (facts.effective, facts.rows, facts.micro_batch, facts.precision) == (240, 240, 240, "fp32")
        assert not facts.recomputes and not facts.couples
        assert 2 * facts.weights < facts.state < 2 * facts.weights + 64  # two moments, and counts of updates
        small, large = trial.measure(8), trial.measure(64)
        again = trial.measure(8)
    assert small.ran and large.ran and 0 < small.seconds < large.seconds
    if facts.resets:
        assert 150 * MB < large.peak - small.peak < 300 * MB, "56 rows more of 4 MB each"
        assert again.peak < large.peak - 100 * MB, "the peak of a size is its own"
    with bench.open(Choice(micro_batch=16), whole=True) as trial:
        cost = trial.confirm(3)
    assert cost.ran and (cost.size, cost.update) == (16, 0.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert not (tmp_path / "runs").exists(), "nothing is written"


def test_a_size_that_kills_its_process_is_an_answer(tmp_path: Path) -> None:
    with Fresh(loaded(tmp_path, "Deadly")).open(Choice()) as trial:
        assert trial.measure(60).ran
        dead = trial.measure(120)
        assert not dead.ran and "out of memory" in dead.note
        assert trial.measure(48).ran, "another process goes on"


def test_a_loss_that_cannot_be_split_runs_whole_only(tmp_path: Path) -> None:
    with Fresh(loaded(tmp_path, "Mean")).open(Choice()) as trial:
        split, whole = trial.measure(120), trial.measure(240)
    assert not split.ran and "single number" in split.note
    assert whole.ran


def test_a_fault_of_the_persons_is_told_as_one(tmp_path: Path) -> None:
    with (
        pytest.raises(HotloopError, match="not with me") as caught,
        Fresh(loaded(tmp_path, "Broken")).open(Choice()) as trial,
    ):
        trial.measure(8)
    assert "Traceback" not in str(caught.value)


def test_a_trial_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    child = Child({"folder": str(tmp_path / "nowhere")})
    try:
        assert child.answer(0.0)["why"] == "took more than 0 s"
        assert child._process.poll() is not None
    finally:
        child.close()


def test_a_request_that_fails_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(HotloopError, match="a trial run failed: the process ended by itself"):
        FreshTrial({"limit": 0})
