"""`hotloop train forecast` with no option: simulated bars, really prepared from a database, and forecast better than
the two simple predictors do.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_default_beats_its_baselines_on_rows_it_has_not_seen(tmp_path):
    """A process of its own, as a person starts it: the stated time counts from the start of the process."""
    command = [sys.executable, "-m", "hotloop", "train", "forecast", "--json", f"experiment.dir={tmp_path}"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    summary = json.loads(answer.stdout)
    naive, linear = (summary["baselines"][name] for name in ("naive", "linear"))
    assert summary["eval_mse"] < 0.95 * linear["mse"] < 0.95 * naive["mse"]
    assert summary["test_mse"] < 0.97 * linear["test_mse"] < 0.97 * naive["test_mse"]
    assert summary["seconds"]["total"] < 180
    assert "synthetic" in answer.stderr
    assert "Epoch [1/" in answer.stderr
    assert "(naive 0." in answer.stderr, "baselines stand beside the figures"
