"""`hotloop train forecast` with no option: simulated bars, really prepared from a database, and forecast better than
the two simple predictors do.
"""

from __future__ import annotations

import json

import pytest

from hotloop.cli.main import main


@pytest.mark.slow
def test_the_default_beats_its_baselines_on_rows_it_has_not_seen(experiments, capsys):
    assert main(["train", "forecast", "--json"]) == 0
    answer = capsys.readouterr()
    summary = json.loads(answer.out)
    naive, linear = (summary["baselines"][name] for name in ("naive", "linear"))
    assert summary["eval_mse"] < 0.95 * linear["mse"] < 0.95 * naive["mse"]
    assert summary["test_mse"] < 0.97 * linear["test_mse"] < 0.97 * naive["test_mse"]
    assert summary["seconds"]["total"] < 180
    assert "synthetic" in answer.err
    assert "Epoch [1/" in answer.err
    assert "(naive 0." in answer.err, "baselines stand beside the figures"
