"""A task in a person's own file: every command works on it as on a built-in one, and its faults are told by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import hotloop
from hotloop.cli.main import main
from hotloop.errors import HotloopError

MINE = '''
"""My task."""

import torch
import torch.nn.functional as F

import hotloop
from hotloop.config.schema import ModelSection, RowsData, knob


class Options(ModelSection):
    width: int = knob(16, "Hidden features.", unit="features", ge=1)


class Rows(RowsData):
    rows: int = knob(256, "Rows to draw.", unit="rows", ge=8)


class Mine(hotloop.Task):
    Model, Data = Options, Rows

    def sources(self):
        draws = torch.Generator().manual_seed(self.seed)
        x = torch.randn(self.data_options.rows, 8, generator=draws)
        return hotloop.Splits(train={"x": x, "y": (x.sum(1) > 0).long()})

    def model(self):
        width = self.model_options.width
        return torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))

    def loss(self, model, batch, training):
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    def metrics(self, model, batch):
        return {"accuracy": hotloop.Tally.of(model(batch["x"]).argmax(1) == batch["y"], batch.get("weight"))}


class Halt(hotloop.Callback):
    """Interrupts at step 6."""

    def on_step(self, info):
        return hotloop.Ask(stop="interrupted", save=True) if info.step == 6 else None
'''
SPEC = "mine.py:Mine"
STILL = ("training.precision=fp32", "training.compile=off", "experiment.trackers=[]")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE, encoding="utf-8")


def trained(capsys: pytest.CaptureFixture[str], *words: str, steps: int = 12) -> dict[str, Any]:
    assert main(["train", SPEC, "--max-steps", str(steps), *STILL, *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command that the person must mend says."""
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_it_is_trained_listed_and_drawn(capsys) -> None:
    done = trained(capsys, "--width", "32")
    assert (done["steps"], done["status"]) == (12, "completed")
    assert 0 <= done["eval_accuracy"] <= 1
    assert main(["runs"]) == 0
    assert "mine.py:Mine" in capsys.readouterr().out
    assert main(["plot", done["dir"]]) == 0
    assert (Path(done["dir"]) / "loss.png").stat().st_size > 10_000
    model = hotloop.load_run(done["dir"]).model
    assert model is not None
    assert model(torch.zeros(3, 8)).shape == (3, 2)
    assert model[0].out_features == 32


def test_its_own_keys_are_shown_with_all_others(capsys) -> None:
    assert main(["knobs", SPEC]) == 0
    listed = capsys.readouterr().out
    assert "model.width = 16  (int, >= 1, features)" in listed
    assert "data.rows = 256  (int, >= 8, rows)" in listed
    assert main(["schema", SPEC]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "width" in json.dumps(schema["properties"]["model"])
    assert main(["train", SPEC, "--help"]) == 0
    assert "model.width" in capsys.readouterr().out
    assert main(["train", SPEC, "--width", "9", "--show-config"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "model.width" in line]
    assert line.split() == ["model.width", "9", "command", "line"]
    assert main(["train", SPEC, "--max-steps", "50", "--show-schedule"]) == 0
    assert "Step       49" in capsys.readouterr().out
    assert not Path("experiments").exists()


def test_the_file_that_init_writes_trains_it(capsys) -> None:
    assert main(["init", SPEC]) == 0
    capsys.readouterr()
    text = Path("mine.yaml").read_text(encoding="utf-8")
    assert "width: 16" in text
    Path("mine.yaml").write_text(text.replace("width: 16", "width: 24"), encoding="utf-8")
    done = trained(capsys, "--config", "mine.yaml")
    assert json.loads((Path(done["dir"]) / "config.json").read_text(encoding="utf-8"))["model"]["width"] == 24


def interrupted(capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["train", SPEC, "--max-steps", "12", *STILL, "callbacks.user=[mine.py:Halt]", "--log-every", "2"]) == 4
    capsys.readouterr()
    (folder,) = Path("experiments").iterdir()
    return folder


def test_it_goes_on_from_any_folder_as_if_never_interrupted(capsys, tmp_path: Path, monkeypatch) -> None:
    folder = interrupted(capsys).resolve()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["resume", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 12
    monkeypatch.chdir(tmp_path)
    straight = trained(capsys)
    one, other = (hotloop.load_run(path).model.state_dict() for path in (folder, straight["dir"]))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_whose_file_moved_says_so_and_how_to_go_on(capsys) -> None:
    folder = interrupted(capsys)
    Path("kept").mkdir()
    Path("mine.py").rename("kept/mine.py")
    said = told(capsys, "resume", str(folder))
    assert "no longer there" in said
    assert f'"task": "FILE.py:Mine" in {folder / "config.json"}' in said
    with pytest.raises(HotloopError, match="no longer there"):
        hotloop.load_run(folder)
    assert main(["runs"]) == 0  # these need no model
    assert main(["plot", str(folder)]) == 0
    config = folder / "config.json"
    stored = json.loads(config.read_text(encoding="utf-8"))
    stored["task"] = "kept/mine.py:Mine"
    stored["callbacks"]["user"] = []
    config.write_text(json.dumps(stored), encoding="utf-8")
    capsys.readouterr()
    assert main(["resume", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 12


def test_it_can_start_from_a_run_of_itself(capsys) -> None:
    first = trained(capsys)
    assert main(["train", SPEC, "--max-steps", "2", *STILL, f"model.init_from={first['dir']}"]) == 0
    assert "4 of the model's 4 tensors" in capsys.readouterr().out


MISTAKES = [
    ("def sources", "def source", "Mine has no sources()", "def sources(self):"),
    ("def model(self)", "def modell(self)", "Mine has no model()", "def model(self):"),
    ("batch, training)", "batch)", "Mine.loss() cannot be called with (model, batch, training)", "def loss(self,"),
    ("class Mine(hotloop.Task)", "class Mine", "mine.py:Mine is not a Task class", "derive it from hotloop.Task"),
    ("class Mine", "class Yours", "has no 'Mine'", ""),
    ("Model, Data = Options, Rows", "Model, Data = dict, Rows", "Mine.Model is dict", "ModelSection"),
    ("knob(16,", "knob(0,", "default of Options.width, 0, is refused", "limits"),
    ("return hotloop.Splits(train=", "return (", "Mine.sources() gave a dict", "return hotloop.Splits(train="),
    ("return torch.nn.Sequential", "torch.nn.Sequential", "Mine.model() gave nothing", "torch.nn.Module"),
    ('return {"accuracy": hotloop.Tally.of', 'return {"accuracy": max', "raised TypeError", "mine.py, line 3"),
    ("hotloop.Tally.of(model(", "(model(", "Mine.metrics() gave a tuple as 'accuracy'", "hotloop.Tally.of"),
    ("self.model_options.width", "self.model_options.widht", "no attribute 'widht'", "mine.py, line 28, in model"),
    ("import torch\n", "import torhc\n", "No module named 'torhc'", "mine.py, line 4"),
]


@pytest.mark.parametrize(("was", "now", "says", "mend"), MISTAKES, ids=[str(n) for n in range(len(MISTAKES))])
def test_a_mistake_in_the_file_is_told(capsys, was: str, now: str, says: str, mend: str) -> None:
    assert was in MINE
    Path("mine.py").write_text(MINE.replace(was, now), encoding="utf-8")
    assert main(["train", SPEC, "--max-steps", "2", *STILL]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert mend in said
    assert "bug in hotloop" not in said
