"""Models for other programs: each format runs without hotloop and gives what the run's model gives."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from tests.unit.tasks.classify_files import rows, tiny_encoder, write

from hotloop.cli.main import main
from hotloop.errors import HotloopError
from hotloop.exporting import export
from hotloop.runs.store import RunFolder
from hotloop.saved import saved_model

PLAIN = ["training.device=cpu", "training.precision=fp32", "experiment.trackers=[]", "training.compile=off"]
NEEDS_ONNX = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "onnxscript")), reason="no onnxruntime"
)
ALONE = """
import importlib.util, sys
import numpy as np
assert importlib.util.find_spec("hotloop") is None
inputs = np.load(sys.argv[2])
"""
TORCH = """
import torch
module = torch.export.load(sys.argv[1]).module()
found = module(*(torch.from_numpy(inputs[name]) for name in inputs.files))
found = [one.detach().numpy() for one in ((found,) if isinstance(found, torch.Tensor) else found)]
np.savez(sys.argv[3], *found)
"""
ONNX = """
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
assert [one.name for one in session.get_inputs()] == inputs.files
np.savez(sys.argv[3], *session.run(None, dict(inputs)))
assert "torch" not in sys.modules
"""


def train(folder: Path, task: str, *words: str) -> Path:
    assert main(["train", task, *PLAIN, f"experiment.dir={folder}", "training.batch_size=16", *words]) == 0
    (run,) = list(folder.iterdir())
    return run


@pytest.fixture(scope="module")
def lob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["model.name=deeplob_improved", "model.channels=4", "model.inception_channels=4", "model.hidden_size=8"]
    words += ["data.window=30", "data.symbols=4", "data.rows=200", "data.features=relative", "data.scaling=none"]
    words += ["training.max_steps=4"]
    return train(tmp_path_factory.mktemp("lob"), "lob", *words)


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two label sets, so that the model has two outputs."""
    folder = tmp_path_factory.mktemp("classify")
    found = [{"text": "好壞你我他"[n % 5] * (2 + n % 7), "mood": "ab"[n % 2], "topic": "xyz"[n % 3]} for n in range(60)]
    (folder / "train.json").write_text(json.dumps(found))
    (folder / "my.yaml").write_text("model: {tasks: {mood: [a, b], topic: [x, y, z]}}\n")
    words = ["--config", str(folder / "my.yaml"), f"data.train_path={folder / 'train.json'}"]
    words += ["model.hidden_size=16", "model.num_layers=1", "training.max_steps=4", "data.val_fraction=0.2"]
    return train(folder / "runs", "classify", *words)


def example(run: Path, count: int) -> tuple[dict[str, torch.Tensor], list[np.ndarray[Any, Any]]]:
    """Inputs of so many rows, and what the run's model gives."""
    task, model = saved_model(RunFolder.open(run), "best")
    form = task.exportable(model)
    inputs = {name: value.repeat(count, *[1] * (value.dim() - 1))[:count] for name, value in form.inputs.items()}
    with torch.no_grad():
        found = form.module(*inputs.values())
    return inputs, [one.numpy() for one in ((found,) if isinstance(found, torch.Tensor) else found)]


def run_alone(script: str, file: Path, inputs: dict[str, torch.Tensor], folder: Path) -> list[np.ndarray[Any, Any]]:
    """What a process gives that cannot import hotloop."""
    np.savez(folder / "in.npz", **{name: value.numpy() for name, value in inputs.items()})
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    hidden = "import os, sys\nsys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)]\n"
    hidden += "sys.path[:] = [p for p in sys.path if not os.path.isdir(os.path.join(p, 'hotloop'))]\n"
    words = [sys.executable, "-c", hidden + ALONE + script, str(file), str(folder / "in.npz"), str(folder / "out.npz")]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "out.npz") as found:
        return [found[name] for name in found.files]


@pytest.mark.parametrize("task", ["lob", "classify"])
@pytest.mark.parametrize(("kind", "script"), [("torch-export", TORCH), pytest.param("onnx", ONNX, marks=NEEDS_ONNX)])
def test_a_program_without_hotloop_computes_the_same(request, tmp_path, capfd, task, kind, script):
    run = request.getfixturevalue(task)
    capfd.readouterr()
    file = tmp_path / "model.file"
    assert main(["export", str(run), "--format", kind, "--output", str(file), "--json"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert err == ""
    assert found["largest_difference"] <= 1e-5
    assert len({shapes[next(iter(shapes))][0] for shapes in found["checked"]} - {1}) >= 2
    for count in (1, 5):
        inputs, expected = example(run, count)
        given = run_alone(script, file, inputs, tmp_path)
        assert len(given) == len(expected) == (2 if task == "classify" else 1)
        for one, other in zip(expected, given, strict=True):
            np.testing.assert_allclose(other, one, atol=1e-5 * max(1.0, float(np.abs(one).max())))


@pytest.mark.parametrize("task", ["lob", "classify"])
def test_safetensors_hold_the_weights_and_what_rebuilds_the_model(request, tmp_path, task):
    from safetensors import safe_open

    run = request.getfixturevalue(task)
    found = export(run, "safetensors", tmp_path / "out")
    assert found.difference == 0
    assert {path.name for path in found.path.iterdir()} == {"model.safetensors", "config.json", "assets.json"}
    with safe_open(found.path / "model.safetensors", framework="pt") as file:
        facts, names = file.metadata(), set(file.keys())
    assert facts["task"] == task and json.loads(facts["classes"])
    assert names == set(saved_model(RunFolder.open(run), "best")[1].state_dict())
    with pytest.raises(HotloopError, match="no empty folder"):
        export(run, "safetensors", tmp_path / "out")


def test_without_an_output_the_run_has_it_in_its_folder_and_again(lob, capsys):
    for _ in range(2):
        assert main(["export", str(lob), "--format", "safetensors"]) == 0
    assert (lob / "export" / "safetensors" / "model.safetensors").is_file()
    assert "largest difference to the run's model 0.0e+00" in capsys.readouterr().out
    shutil.rmtree(lob / "export")


def test_an_encoder_of_transformers_is_read_by_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    data = write(tmp_path / "train.jsonl", rows(40, label=("a", "b")))
    words = [f"model.name={tiny_encoder(tmp_path / 'bert')}", f"data.train_path={data}", "training.max_steps=3"]
    run = train(tmp_path / "runs", "classify", *words, "data.val_fraction=0.2", "model.max_sequence_length=32")
    found = export(run, "huggingface", tmp_path / "out")
    assert found.difference <= 1e-5
    ids = transformers.AutoTokenizer.from_pretrained(found.path)("你好人", return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(found.path).eval()
    own = saved_model(RunFolder.open(run), "best")[1].encoder
    with torch.no_grad():
        theirs, ours = (one(**ids).last_hidden_state for one in (model, own))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    with safetensors.safe_open(found.path / "heads.safetensors", "pt") as heads:
        assert json.loads(heads.metadata()["classes"]) == ["a", "b"]
    for kind in ("torch-export", "onnx"):
        assert export(run, kind, tmp_path / kind).difference <= 1e-5


def test_what_has_no_form_for_transformers_is_told(lob, classify, tmp_path, capsys):
    for run in (lob, classify):
        assert main(["export", str(run), "--format", "huggingface", "--output", str(tmp_path / "out")]) == 2
        assert "no form that transformers knows" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_does_not_agree_is_not_kept(lob, tmp_path, monkeypatch):
    target = tmp_path / "model.pt2"
    target.write_bytes(b"from before")
    monkeypatch.setattr("hotloop.exporting.TOLERANCE", -1.0)
    with pytest.raises(HotloopError, match="is not kept: its outputs differ"):
        export(lob, "torch-export", target)
    assert target.read_bytes() == b"from before"
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


def test_a_missing_package_is_named_with_its_extra(lob, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(HotloopError, match="needs the package onnxruntime") as caught:
        export(lob, "onnx", tmp_path / "model.onnx")
    assert "pip install 'hotloop[export]'" in caught.value.fix


@NEEDS_ONNX
def test_small_moves_of_high_prices_keep_their_digits(tmp_path):
    words = ["model.name=summary", "data.symbols=4", "data.rows=200", "training.max_steps=4"]
    run = train(tmp_path / "runs", "lob", *words)
    assert export(run, "onnx", tmp_path / "model.onnx").difference <= 2e-6
