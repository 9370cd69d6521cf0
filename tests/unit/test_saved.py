"""A run read back, from wherever: what its folder names is found, and what it cannot name is told."""

from __future__ import annotations

import json

import pytest
import torch

import hotloop
from hotloop import launch
from hotloop.cli.train import refuse_other
from hotloop.config.load import load
from hotloop.errors import HotloopError
from hotloop.tasks import options_of

SMALL = {"max_steps": 4, "batch_size": 4, "device": "cpu", "compile": "off", "precision": "fp32", "trackers": ()}
TASK = """
import torch, hotloop
class Mine(hotloop.Task):
    def sources(self):
        x = torch.linspace(-1, 1, 20).unsqueeze(1)
        return hotloop.Splits({"x": x, "y": 2 * x})
    def model(self):
        return torch.nn.Linear(1, 1)
    def loss(self, model, batch, training):
        return (model(batch["x"]) - batch["y"]).square()
def seen(info):
    pass
"""


class Line(hotloop.Task):
    """A task that only this process knows."""

    def sources(self):
        x = torch.linspace(-1, 1, 20).unsqueeze(1)
        return hotloop.Splits({"x": x, "y": 2 * x})

    def model(self):
        return torch.nn.Linear(1, 1)

    def loss(self, model, batch, training):
        return (model(batch["x"]) - batch["y"]).square()


def reopen(run) -> None:
    """As if the process had died before the end was written down."""
    (run / "training_summary.json").unlink()


def test_a_run_of_a_class_is_read_without_its_model_and_resumed_from_a_file(tmp_path) -> None:
    run = hotloop.train(Line, progress=False, dir=str(tmp_path / "runs"), **SMALL).dir
    found = hotloop.load_run(run)
    assert found.model is None
    assert found.summary["steps"] == 4
    reopen(run)
    with pytest.raises(HotloopError, match="started from Python") as caught:
        launch.resume(run)
    assert '"task": "FILE.py:Line"' in caught.value.fix
    (tmp_path / "mine.py").write_text(TASK.replace("Mine", "Line"))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "task": f"{tmp_path / 'mine.py'}:Line"}))
    assert launch.resume(run).summary["steps"] == 4


def test_files_named_from_the_folder_of_the_start_are_found_from_any_other(tmp_path, monkeypatch) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir(), other.mkdir()
    (home / "mine.py").write_text(TASK)
    (home / "words.txt").write_text("to be or not to be " * 20)
    monkeypatch.chdir(home)
    keys = {"path": "words.txt", "user": ("mine.py:seen",)}
    run = hotloop.train("mine.py:Mine", progress=False, dir=str(tmp_path / "runs"), **SMALL, **keys).dir
    config = json.loads((run / "config.json").read_text())
    assert config["task"] == f"{home / 'mine.py'}:Mine"
    assert config["data"]["path"] == str(home / "words.txt")
    assert config["callbacks"]["user"] == [f"{home / 'mine.py'}:seen"]
    reopen(run)
    monkeypatch.chdir(other)
    assert launch.resume(run).summary["task"] == "mine.py:Mine"
    assert hotloop.load_run(run).model is not None


def test_a_path_repeated_beside_a_resume_is_no_change(tmp_path, monkeypatch) -> None:
    (tmp_path / "words.txt").write_text("to be or not to be " * 20)
    monkeypatch.chdir(tmp_path)
    keys = {"path": "words.txt", "n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8}
    run = hotloop.train("gpt", progress=False, dir="runs", **SMALL, **keys).dir
    refuse_other(load(options_of("gpt"), overrides={"path": "words.txt"}), run)
    with pytest.raises(HotloopError, match="keeps its own configuration"):
        refuse_other(load(options_of("gpt"), overrides={"max_steps": 9}), run)
    (run / "config.json").write_text("{")
    with pytest.raises(HotloopError, match=r"config\.json cannot be read"):
        refuse_other(load(options_of("gpt")), run)
