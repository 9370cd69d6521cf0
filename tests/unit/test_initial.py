"""Starting from another run, and keeping parts of a model as they are."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn

import hotloop
from hotloop.errors import HotloopError
from hotloop.initial import freeze, start_from

SMALL = {"max_steps": 6, "batch_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8, "progress": False,
         "precision": "fp32", "compile": "off", "log_every": 1}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    return path


@pytest.fixture(scope="module")
def parent(text, tmp_path_factory):
    return hotloop.train("gpt", **SMALL, keys={"data.path": str(text)}, dir=str(tmp_path_factory.mktemp("runs")))


def first_weight(run):
    return torch.load(run.dir / "final_model.pt", weights_only=True)


def test_a_run_starts_where_another_ended_and_keeps_its_vocabulary(parent, tmp_path) -> None:
    other = tmp_path / "b.txt"
    other.write_text("over the dog the fox jumps " * 60)  # fewer characters: its own vocabulary would be another
    keys = {"data.path": str(other), "model.init_from": str(parent.dir), "model.freeze": ["*"], "optimizer": "adamw"}
    with pytest.raises(HotloopError, match="no parameter that requires a gradient|does not depend on any"):
        hotloop.train("gpt", **SMALL, keys=keys, dir=str(tmp_path))
    frozen = {**keys, "model.freeze": ["blocks"]}
    run = hotloop.train("gpt", **SMALL, keys=frozen, dir=str(tmp_path))
    assert json.loads((run.dir / "assets.json").read_text()) == json.loads((parent.dir / "assets.json").read_text())
    best = torch.load(parent.dir / "checkpoints" / "best_model.pt", weights_only=True)["model"]
    now = first_weight(run)
    kept = [name for name in now if name.startswith("blocks")]
    assert kept and all(torch.equal(now[name], best[name]) for name in kept)
    assert any(not torch.equal(now[name], best[name]) for name in now if name not in kept)


def test_text_that_the_old_vocabulary_cannot_write_is_refused(parent, tmp_path) -> None:
    other = tmp_path / "b.txt"
    other.write_text("ÄÖÜ 123 " * 100)
    keys = {"data.path": str(other), "model.init_from": str(parent.dir)}
    with pytest.raises(HotloopError, match="vocabulary"):
        hotloop.train("gpt", **SMALL, keys=keys, dir=str(tmp_path))


def test_a_resumed_run_needs_its_parent_no_more(parent, text, tmp_path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(parent.dir, moved)
    keys = {"data.path": str(text), "model.init_from": str(moved), "training.eval_every": 3}

    def interrupt(info):
        if info.step == 5:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, HotloopError)):
        hotloop.train("gpt", **SMALL, keys=keys, dir=str(tmp_path), callbacks=[interrupt])
    (folder,) = [path for path in tmp_path.iterdir() if path != moved]
    shutil.rmtree(moved)
    from hotloop import launch

    assert launch.resume(folder).summary["steps"] == 6


def test_what_fits_is_taken_and_the_rest_is_told(tmp_path) -> None:
    torch.manual_seed(0)
    given = nn.ModuleDict({"body": nn.Linear(3, 3), "head": nn.Linear(3, 2)})
    torch.save(given.state_dict(), tmp_path / "w.pt")
    model = nn.ModuleDict({"body": nn.Linear(3, 3), "head": nn.Linear(3, 5), "extra": nn.Linear(1, 1)})
    lines = start_from(model, str(tmp_path / "w.pt"))
    assert torch.equal(model["body"].weight, given["body"].weight)
    assert "2 of the model's 6 tensors" in lines[0]
    assert "head.weight (2, 3) there, (5, 3) here" in lines[1] and "extra.weight" in lines[2]


def test_safetensors_are_read_and_a_damaged_file_is_told(tmp_path) -> None:
    from safetensors.torch import save_file

    model = nn.Linear(2, 2)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert "2 of the model's 2" in start_from(nn.Linear(2, 2), str(tmp_path / "w.safetensors"))[0]
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(HotloopError, match=r"bad\.safetensors"):
        start_from(model, str(tmp_path / "bad.safetensors"))


def test_nothing_that_fits_stops_with_names(tmp_path) -> None:
    torch.save({"other": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(HotloopError, match=r"none of its 1 tensors fits .*other.*weight"):
        start_from(nn.Linear(2, 2), str(tmp_path / "w.pt"))


def test_freezing_by_part_and_by_pattern_and_a_misspelling() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    (line,) = freeze(model, ["0", "1"])
    assert line.startswith("frozen: 4 of 6 tensors") and not model[1].training and model[2].weight.requires_grad
    freeze(model, ["*.bias"])
    assert not model[2].bias.requires_grad
    with pytest.raises(HotloopError, match="no parameter is called '7'"):
        freeze(model, ["7"])
