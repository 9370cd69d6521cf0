"""F23: utilisation computed against another card's data sheet, so that 104 % or 152 % is printed as a fact.

Here a share is one of what was measured on this machine, and one that cannot be is told as a fault of the ceiling.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from hotloop.ceilings import Ceilings, known, measure
from hotloop.cli.main import main
from hotloop.disk import cache_folder

WORDS = ("profile", "lob", "--steps", "2", "--batch-size", "8", "training.precision=fp32", "training.compile=off")
CPU = torch.device("cpu")


@pytest.fixture
def limits(experiments: Path, monkeypatch: pytest.MonkeyPatch) -> Ceilings:
    """Ceilings that were measured here and are kept; 1000 times what they are, so that noise plays no part."""
    monkeypatch.setenv("HOTLOOP_CACHE", "cache")
    monkeypatch.setattr("hotloop.ceilings._SIZES", {"cpu": (256,)})
    monkeypatch.setattr("hotloop.ceilings.Others.took", lambda self: 0.0)
    found = measure(CPU)
    return replace(found, matrix={name: 1000 * flops for name, flops in found.matrix.items()})


def keep(limits: Ceilings) -> None:
    assert known(CPU) is None
    from hotloop.ceilings import _file

    _file(CPU).parent.mkdir(parents=True)
    _file(CPU).write_text(json.dumps(asdict(limits)), encoding="utf-8")
    assert _file(CPU).is_relative_to(cache_folder())
    assert known(CPU) == limits


def test_the_share_is_one_of_the_ceiling_that_was_measured(limits: Ceilings, capsys) -> None:
    keep(limits)
    assert main([*WORDS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    seconds = (found["phases"]["forward"]["ms"] + found["phases"]["backward"]["ms"]) / 1000
    expected = found["work"]["flops"] / seconds / limits.matrix["fp32"]
    assert found["share_of_matrix_ceiling"] == pytest.approx(expected)
    assert found["share_of_matrix_ceiling"] < 0.01


def test_a_share_that_cannot_be_is_not_told_as_a_fact(limits: Ceilings, capsys) -> None:
    keep(replace(limits, matrix={"fp32": 1e6, "bf16": 1e6}))
    assert main([*WORDS]) == 0
    shown = capsys.readouterr().out
    [line] = [line for line in shown.splitlines() if line.startswith("products ")]
    assert "ceiling too low: measure again with --measure-again" in line
    assert "%" not in line
    assert "of what this machine can do" not in shown
    assert main([*WORDS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["share_of_matrix_ceiling"] is None
    assert any("ceiling too low" in note for note in found["notes"])
