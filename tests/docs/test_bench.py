"""The overhead bench runs, and its contestants train the same thing: equal losses from equal weights and batches."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest


def overhead(repository, names: str) -> dict[str, dict]:
    """Rows by name of a short run of the bench."""
    command = [sys.executable, str(repository / "bench" / "overhead.py"), "--json", "--only", names]
    command += ["--rounds", "1", "--steps", "80", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)["rows"]}


def test_the_bare_loop_learns_and_is_its_own_measure(repository):
    row = overhead(repository, "bare")["bare"]
    assert row["ratio"] == 1
    assert row["over_bare_ms"] == 0
    assert 0 < row["train_loss"] < 2.6  # ln(10) + what an untrained network adds


def test_hotloop_is_measured_beside_it(repository):
    rows = overhead(repository, "hotloop.steps,hotloop.fit")
    assert set(rows) == {"bare", "hotloop.steps", "hotloop.fit"}
    assert all(row["ms_per_step"] > 0 for row in rows.values())


@pytest.mark.skipif(find_spec("accelerate") is None, reason="the bench extra is not installed")
def test_another_trainer_does_the_same_work(repository):
    rows = overhead(repository, "accelerate")
    assert rows["accelerate"]["train_loss"] == pytest.approx(rows["bare"]["train_loss"], rel=1e-5)
