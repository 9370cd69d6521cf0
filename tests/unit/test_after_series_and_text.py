"""Forecasts and language models after training: predicted, measured and exported."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotloop.cli.main import main
from hotloop.exporting import export

PLAIN = ["training.device=cpu", "training.precision=fp32", "experiment.trackers=[]", "training.compile=off"]


def train(folder: Path, task: str, *words: str) -> Path:
    assert main(["train", task, *PLAIN, f"experiment.dir={folder}", "training.max_steps=5", *words]) == 0
    (run,) = list(folder.iterdir())
    return run


def series(path: Path, rows: list[int]) -> Path:
    """Hourly rows of two smooth columns, by their numbers."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["date", "load", "heat"])
        for row in rows:
            day, hour = divmod(row, 24)
            stamp = f"2024-01-{day + 1:02d} {hour:02d}:00:00"
            writer.writerow([stamp, f"{1000 + 50 * np.sin(row / 5):.4f}", f"{20 + np.cos(row / 7):.4f}"])
    return path


@pytest.fixture(scope="module")
def forecast(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on 200 rows: 140 for training, 40 for validation, 20 for the test; and its folder."""
    folder = tmp_path_factory.mktemp("forecast")
    words = [f"data.path={series(folder / 'all.csv', list(range(200)))}", "data.parts=[140,40,20]"]
    words += ["data.sequence=12", "data.horizon=3", "model.hidden_size=8", "model.num_layers=1", "model.dropout=0"]
    return train(folder / "runs", "forecast", *words), folder


def evaluated(capsys: pytest.CaptureFixture[str], run: Path, data: Path) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(data), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_forecasts_are_in_the_datas_own_units_and_reach_beyond_the_file(forecast, tmp_path):
    run, _ = forecast
    data, output = series(tmp_path / "new.csv", list(range(50, 90))), tmp_path / "out.jsonl"
    assert main(["predict", str(run), "--input", str(data), "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 40 - 12 + 1
    assert rows[-1]["after"] == "2024-01-04 17:00:00"
    assert [len(rows[0]["forecast"][name]) for name in ("load", "heat")] == [3, 3]
    assert all(900 < value < 1100 for row in rows for value in row["forecast"]["load"])
    assert all(15 < value < 25 for row in rows for value in row["forecast"]["heat"])


def test_the_rows_of_validation_give_what_the_run_reported(forecast, tmp_path, capsys):
    run, _ = forecast
    found = evaluated(capsys, run, series(tmp_path / "val.csv", list(range(140 - 12, 180))))
    assert found["rows"] == 40 - 3 + 1
    assert {name: found[name] for name in found["validation"][0]} == pytest.approx(found["validation"][0], rel=1e-6)
    assert found["per_class"] is None


def test_a_series_with_other_columns_or_too_few_rows_is_refused(forecast, tmp_path, capsys):
    run, _ = forecast
    other = tmp_path / "other.csv"
    other.write_text(series(tmp_path / "some.csv", list(range(30))).read_text().replace("heat", "cold"))
    output = ["--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", str(run), "--input", str(other), *output]) == 2
    assert "heat" in capsys.readouterr().err
    assert main(["predict", str(run), "--input", str(series(tmp_path / "few.csv", list(range(11)))), *output]) == 2
    assert "one window needs 12" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["safetensors", "torch-export", "onnx"])
def test_a_forecaster_is_exported(forecast, tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    assert export(forecast[0], kind, tmp_path / "out").difference <= 1e-5


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A character model, and the end of its text that it was validated on."""
    folder = tmp_path_factory.mktemp("gpt")
    text = "".join("the cat sat on the mat. "[n % 24] for n in range(0, 6000, 1)) + "a rat ate it. " * 50
    (folder / "text.txt").write_text(text)
    val = folder / "val.txt"
    val.write_text(text[int(len(text) * 0.9) :])
    words = ["model.n_layer=1", "model.n_head=2", "model.n_embd=16", "model.block_size=32", "training.batch_size=8"]
    return train(folder / "runs", "gpt", f"data.path={folder / 'text.txt'}", "data.val_fraction=0.1", *words), val


def test_a_language_model_is_measured_on_a_text(gpt, tmp_path, capsys):
    found = evaluated(capsys, *gpt)
    assert {name: found[name] for name in found["validation"][0]} == pytest.approx(found["validation"][0], rel=1e-6)
    assert main(["predict", str(gpt[0]), "--input", str(gpt[1]), "--output", str(tmp_path / "out.jsonl")]) == 2
    assert "hotloop generate" in capsys.readouterr().err
    assert main(["evaluate", str(gpt[0]), str(gpt[0]), "--data", str(gpt[1])]) == 2
    assert "give one run" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["safetensors", "torch-export", "onnx"])
def test_a_language_model_is_exported_for_any_length(gpt, tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    found = export(gpt[0], kind, tmp_path / "out")
    assert found.difference <= 1e-5
    assert len({tuple(shapes["ids"])[1] for shapes in found.checked}) == 2
