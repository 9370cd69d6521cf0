"""Every template of `forecast` trains two steps; without a path the data are simulated bars, and the run says so."""

from __future__ import annotations

import json

import pytest

import hotloop
from hotloop.config.recipes import available

TEMPLATES = available("forecast")


def test_the_recommended_ones_are_there():
    assert {"etth1", "forecast_8gb", "forecast_12gb", "forecast_16gb", "forecast_small"} <= set(TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_trains_two_steps(template, experiments, shared_data):
    keys = {"max_steps": 2, "limit": 64, "compile": "off", "trackers": (), "dir": str(experiments)}
    if template == "etth1":  # its parts are those of that file
        keys["data.path"] = str(shared_data("ett/ETTh1.csv"))
    run = hotloop.train("forecast", template=template, progress=False, keys=keys)
    assert run.summary["status"] == "completed"
    assert run.summary["steps"] == 2
    kept = json.loads((run.dir / "assets.json").read_text(encoding="utf-8"))
    assert ("synthetic market bars" in kept["source"]) == (template != "etth1")
