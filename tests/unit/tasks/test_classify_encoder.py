"""Runs with a pretrained encoder afterwards: rebuilt in full precision, started from by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tasks.classify_files import rows, tiny_encoder, write

import hotloop
from hotloop.errors import HotloopError
from hotloop.initial import ASSETS
from hotloop.runs.store import RunFolder
from hotloop.saved import saved_model

QUICK = {"device": "cpu", "precision": "fp32", "compile": "off", "threads": 1, "num_epochs": 1, "batch_size": 16}


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """An encoder that was stored in half precision, as many are."""
    folder = tiny_encoder(tmp_path / "half")
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**said, "torch_dtype": "float16", "dtype": "float16"}))
    return folder


def train(folder: Path, name: Path, **keys: Any) -> Any:
    path = write(folder / "a.jsonl", rows(48, label=["no", "yes"]))
    named = {"model.name": str(name), "model.max_sequence_length": 48, "data.path": str(path), "dir": str(folder / "r")}
    return hotloop.train("classify", progress=False, keys={**QUICK, **named, **keys})


def test_weights_are_read_back_as_they_were_trained(half: Path, tmp_path: Path) -> None:
    run = train(tmp_path, half)
    _, model = saved_model(RunFolder.open(run.dir), "last")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    trained = torch.load(run.dir / "final_model.pt", weights_only=True)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())


def test_a_run_starts_from_another_with_changes_of_its_own(half: Path, tmp_path: Path) -> None:
    first = train(tmp_path, half, **{"model.encoder_dropout": 0.3})
    keys = {"model.init_from": str(first.dir), "model.encoder_dropout": 0.0, "model.num_layers": 1}
    second = train(tmp_path, half, **keys)
    config = json.loads((second.dir / ASSETS).read_text(encoding="utf-8"))["encoder"]
    assert (config["hidden_dropout_prob"], config["num_hidden_layers"]) == (0.0, 1)
    with pytest.raises(HotloopError, match="has 2 layers, and 3 are asked for"):
        train(tmp_path, half, **{**keys, "model.num_layers": 3})
