"""`hotloop train translate` with no option but fewer passes: it beats its two baselines on phrases it never saw."""

from __future__ import annotations

import json

import pytest

from hotloop.cli.main import main


@pytest.mark.slow
def test_the_default_beats_its_baselines_on_phrases_it_never_saw(experiments, capsys):
    assert main(["train", "translate", "training.num_epochs=5", "--json"]) == 0
    answer = capsys.readouterr()
    summary = json.loads(answer.out)
    frequent, nearest = (summary["baselines"][name] for name in ("most_frequent", "nearest_source"))
    assert frequent["exact_match"] == nearest["exact_match"] == 0, "no held-out target was trained on"
    assert summary["eval_exact_match"] > 0.7
    assert summary["eval_chrf"] > nearest["chrf"] + 30 > frequent["chrf"] + 30
    assert "generated phrases" in answer.err
