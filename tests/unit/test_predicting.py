"""Runs at work after training: rows predicted in order, measured, averaged; from the run's folder alone."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotloop.cli.main import main

CLASSIFY = ["model.hidden_size=16", "model.num_layers=1", "training.max_steps=12", "training.batch_size=16"]
LOB = ["model.channels=4", "model.inception_channels=4", "model.hidden_size=8", "data.window=30"]
PLAIN = ["training.device=cpu", "training.precision=fp32", "experiment.trackers=[]", "training.compile=off"]
WORDS = ("好", "壞", "你", "我", "他", "人", "是", "很", "的", "天")


def train(task: str, folder: Path, name: str, *words: str) -> Path:
    assert main(["train", task, *PLAIN, f"experiment.dir={folder}", f"experiment.name={name}", *words]) == 0
    (run,) = [path for path in folder.iterdir() if path.name.startswith(name)]
    return run


def texts(path: Path, count: int, start: int = 0) -> Path:
    """Texts whose first character is their class, of different lengths."""
    rows = []
    for number in range(start, start + count):
        rest = "".join(WORDS[2 + (number * k) % 8] for k in range(1, 3 + number % 19))
        rows.append({"id": number, "text": WORDS[number % 2] + rest, "label": ("good", "bad")[number % 2]})
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def books(path: Path, windows: int, *, whole: bool, labels: bool = True, seed: int = 0) -> Path:
    """Order books of three symbols as shared rows or as whole windows."""
    draw = np.random.default_rng(seed)
    price = 100 + np.cumsum(draw.normal(0, 0.1, 3 * 200))[:, None]
    level = np.arange(2)
    rows = np.empty((600, 2, 4), dtype=np.float32)
    rows[..., 0], rows[..., 2] = price + 0.1 * (1 + level), price - 0.1 * (1 + level)
    rows[..., 1], rows[..., 3] = draw.integers(1, 100, (600, 2)), draw.integers(1, 100, (600, 2))
    rows = rows.reshape(600, 8)
    symbols = np.arange(windows) % 3
    start = symbols * 200 + (np.arange(windows) // 3) * (160 // max(1, windows // 3))
    found: dict[str, Any] = {"stock_ids": np.array(["A", "B", "C"])[symbols]}
    found |= {"X": rows[start[:, None] + np.arange(30)]} if whole else {"rows": rows, "start": start}
    found |= {"y": draw.integers(0, 3, windows)} if labels else {}
    np.savez(path, **found)
    return path


@pytest.fixture(scope="module")
def classify_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two runs of different seeds, moved from where they were trained, and their validation file."""
    folder = tmp_path_factory.mktemp("classify")
    data, val = texts(folder / "train.jsonl", 120), texts(folder / "val.jsonl", 53, start=500)
    paths = [f"data.train_path={data}", f"data.val_path={val}", "data.text_column=text"]
    first = train("classify", folder / "first", "a", *CLASSIFY, *paths)
    second = train("classify", folder / "second", "b", *CLASSIFY, *paths, "experiment.seed=5")
    data.unlink()
    return Path(shutil.move(first, folder / "moved")), second, val


@pytest.fixture(scope="module")
def lob_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two runs of order books, and their validation file."""
    folder = tmp_path_factory.mktemp("lob")
    data = books(folder / "train.npz", 60, whole=False)
    val = books(folder / "val.npz", 45, whole=True, seed=1)
    steps = [*LOB, "training.max_steps=6", "training.batch_size=16", f"data.train_path={data}", f"data.val_path={val}"]
    first = train("lob", folder, "a", *steps)
    return first, train("lob", folder, "b", *steps, "experiment.seed=5"), val


def predicted(output: Path, *words: str) -> list[dict[str, Any]]:
    assert main(["predict", *words, "--output", str(output)]) == 0
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def evaluated(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def accuracy(rows: list[dict[str, Any]], answer: str) -> float:
    return sum(row["label"] == row[answer] for row in rows) / len(rows)


def test_texts_are_predicted_in_order_and_give_what_the_run_reported(classify_runs, tmp_path, capsys):
    run, _, val = classify_runs
    rows = predicted(tmp_path / "out.jsonl", str(run), "--input", str(val))
    given = [json.loads(line) for line in val.read_text(encoding="utf-8").splitlines()]
    assert [{name: row[name] for name in ("id", "text", "label")} for row in rows] == given
    assert all(abs(sum(row["label_probabilities"].values()) - 1) < 1e-5 for row in rows)
    found = evaluated(capsys, str(run), "--data", str(val))
    assert found["rows"] == 53
    assert {name: found[name] for name in found["validation"][0]} == found["validation"][0]
    assert accuracy(rows, "label_predicted") == found["eval_accuracy"]
    assert sum(one["support"] for one in found["per_class"]) == 53


def test_order_books_are_predicted_and_give_what_the_run_reported(lob_runs, tmp_path, capsys):
    run, _, val = lob_runs
    rows = predicted(tmp_path / "out.jsonl", str(run), "--input", str(val))
    assert [row["window"] for row in rows] == list(range(45))
    assert {row["symbol"] for row in rows} == {"A", "B", "C"}
    assert set(rows[0]["probabilities"]) == {"down", "flat", "up"}
    found = evaluated(capsys, str(run), "--data", str(val))
    assert {name: found[name] for name in found["validation"][0]} == found["validation"][0]
    assert accuracy(rows, "direction") == found["eval_accuracy"] == pytest.approx(found["eval_accuracy"])
    assert evaluated(capsys, str(run), "--data", str(val), "--checkpoint", "last")["validation"][0]["eval_loss"] > 0


def test_windows_come_out_alike_however_they_are_stored_and_cut(lob_runs, tmp_path, monkeypatch):
    run = str(lob_runs[0])
    one = predicted(tmp_path / "a.jsonl", run, "--input", str(books(tmp_path / "x.npz", 45, whole=True, labels=False)))
    other = predicted(tmp_path / "b.jsonl", run, "--input", str(books(tmp_path / "s.npz", 45, whole=False)))
    monkeypatch.setattr("hotloop.predicting._ROWS", 1)
    cut = predicted(tmp_path / "c.jsonl", run, "--input", str(tmp_path / "x.npz"), "--batch-size", "7")
    assert "label" not in one[0] and "label" in other[0]
    for row, beside, piece in zip(one, other, cut, strict=True):
        assert row == {name: value for name, value in beside.items() if name != "label"}
        assert piece["window"] == row["window"]
        assert piece["probabilities"] == pytest.approx(row["probabilities"], abs=2e-6)


def test_two_runs_are_averaged(classify_runs, lob_runs, tmp_path, capsys):
    for runs, key in ((classify_runs, "label_probabilities"), (lob_runs, "probabilities")):
        both = [str(runs[0]), str(runs[1])]
        single = [predicted(tmp_path / "one.jsonl", run, "--input", str(runs[2])) for run in both]
        mean = predicted(tmp_path / "mean.jsonl", *both, "--input", str(runs[2]))
        assert single[0][0][key] != single[1][0][key]
        for first, second, row in zip(*single, mean, strict=True):
            assert row[key] == pytest.approx({n: (first[key][n] + second[key][n]) / 2 for n in row[key]}, abs=2e-6)
        found = evaluated(capsys, *both, "--data", str(runs[2]))
        right = "label_predicted" if key.startswith("label") else "direction"
        assert found["eval_accuracy"] == pytest.approx(accuracy(mean, right))
        assert len(found["validation"]) == 2
        assert found["eval_loss"] > 0 and "eval_f1_macro" in found


def test_the_same_run_twice_measures_as_once(lob_runs, capsys):
    run, val = str(lob_runs[0]), str(lob_runs[2])
    once, twice = (evaluated(capsys, *[run] * count, "--data", val) for count in (1, 2))
    same = [name for name in once if name.startswith("eval_")]
    assert {name: twice[name] for name in same} == pytest.approx({name: once[name] for name in same}, rel=1e-6)


def test_runs_of_two_tasks_are_refused(classify_runs, lob_runs, capsys):
    assert main(["evaluate", str(classify_runs[0]), str(lob_runs[0]), "--data", str(lob_runs[2])]) == 2
    assert "not of one task with the same classes" in capsys.readouterr().err


def test_a_table_has_a_column_for_each_probability(classify_runs, tmp_path):
    output = tmp_path / "out.csv"
    assert main(["predict", str(classify_runs[0]), "--input", str(classify_runs[2]), "--output", str(output)]) == 0
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 53
    total = sum(float(value) for name, value in rows[0].items() if name.startswith("label_probabilities."))
    assert total == pytest.approx(1, abs=1e-5)


def test_standard_output_takes_rows_and_nothing_else(lob_runs, capfdbinary):
    for words in ([], ["--output", "-"]):
        assert main(["predict", str(lob_runs[0]), "--input", str(lob_runs[2]), *words]) == 0
        out, err = capfdbinary.readouterr()
        assert len([json.loads(line) for line in out.splitlines()]) == 45
        assert b"45 rows in" in err


def test_json_says_how_many_rows_and_how_fast(lob_runs, tmp_path, capsys):
    capsys.readouterr()
    words = ["--input", str(lob_runs[2]), "--output", str(tmp_path / "out.jsonl"), "--json"]
    assert main(["predict", str(lob_runs[0]), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 45 and found["rows_per_second"] > 0 and found["file"].endswith("out.jsonl")


def test_a_file_that_breaks_in_the_middle_leaves_nothing_behind(classify_runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hotloop.predicting._ROWS", 1)
    broken = tmp_path / "in.jsonl"
    broken.write_text(classify_runs[2].read_text(encoding="utf-8") + '{"text": 5}\n', encoding="utf-8")
    output = tmp_path / "out.jsonl"
    output.write_text("from before\n")
    words = ["predict", str(classify_runs[0]), "--input", str(broken), "--batch-size", "8", "--output", str(output)]
    assert main(words) == 2
    assert "line 54" in capsys.readouterr().err
    assert output.read_text() == "from before\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("out.xlsx", "no kind of file"), ("nowhere/out.jsonl", "no folder"), ("in.jsonl", "the file to read")],
)
def test_an_output_that_cannot_be_is_refused_at_once(classify_runs, tmp_path, capsys, name, said):
    source = tmp_path / "in.jsonl"
    shutil.copy(classify_runs[2], source)
    assert main(["predict", str(classify_runs[0]), "--input", str(source), "--output", str(tmp_path / name)]) == 2
    assert said in capsys.readouterr().err
    assert source.stat().st_size == classify_runs[2].stat().st_size


def test_books_of_other_levels_and_damaged_windows_are_refused(lob_runs, tmp_path, capsys):
    with np.load(lob_runs[2]) as archive:
        arrays = dict(archive)
    np.savez(tmp_path / "wide.npz", X=np.concatenate([arrays["X"], arrays["X"]], axis=2), y=arrays["y"])
    arrays["X"][41, 3, 2] = np.nan
    np.savez(tmp_path / "bad.npz", **arrays)
    output = ["--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", str(lob_runs[0]), "--input", str(tmp_path / "wide.npz"), *output]) == 2
    assert "16 columns, and the run was trained on 8" in capsys.readouterr().err
    assert main(["predict", str(lob_runs[0]), "--input", str(tmp_path / "bad.npz"), *output]) == 2
    assert "windows: 41" in capsys.readouterr().err


OWN = """
import torch, hotloop
class Mine(hotloop.Task):
    def sources(self):
        x = torch.linspace(-1, 1, 20)
        return hotloop.Splits({"x": x, "y": 2 * x})
    def model(self):
        return torch.nn.Linear(1, 1)
    def loss(self, model, batch, training):
        return (model(batch["x"].unsqueeze(1)).squeeze(1) - batch["y"]).square()
    def predict(self, model, batch):
        return {"output": model(batch["x"].unsqueeze(1)).squeeze(1)}
"""


def test_a_task_of_a_persons_own_reads_columns_by_name(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(OWN)
    run = train(f"{tmp_path}/mine.py:Mine", tmp_path / "runs", "own", "training.max_steps=3")
    table = tmp_path / "rows.csv"
    table.write_text("x,y\n0.5,1.0\n0.25,0.5\n-1.5,-3.0\n")
    rows = predicted(tmp_path / "out.jsonl", str(run), "--input", str(table))
    assert [row["row"] for row in rows] == [0, 1, 2]
    assert isinstance(rows[0]["output"], float)
    assert evaluated(capsys, str(run), "--data", str(table))["eval_loss"] > 0
    assert main(["evaluate", str(run), str(run), "--data", str(table)]) == 2
    assert "no classes" in capsys.readouterr().err
    assert main(["predict", str(run), str(run), "--input", str(table), "--output", str(tmp_path / "two.jsonl")]) == 2
    assert "cannot be averaged" in capsys.readouterr().err
    table.write_text("x,y\n0.5,1.0\nhalf,0.5\n")
    assert main(["evaluate", str(run), "--data", str(table)]) == 2
    assert "line 3" in capsys.readouterr().err


PEAK = """
import json, sys, torch
from hotloop import memory
from hotloop.cli.main import main
code = main(sys.argv[1:])
print(json.dumps({"code": code, "kilobytes": memory.peak(torch.device("cpu")) / 1024}))
"""


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_no_more_memory_than_ten_thousand(classify_runs, tmp_path):
    peaks, line = {}, classify_runs[2].read_text(encoding="utf-8")
    for count in (10_000, 100_000):
        source, output = tmp_path / f"{count}.jsonl", tmp_path / f"{count}.out.jsonl"
        lines = line.splitlines(keepends=True)
        source.write_text("".join(lines[n % len(lines)] for n in range(count)), encoding="utf-8")
        words = ["predict", str(classify_runs[0]), "--input", str(source), "--output", str(output)]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *words, "--batch-size", "512"], capture_output=True, text=True, timeout=300
        )
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["code"] == 0, done.stderr
        peaks[count] = found["kilobytes"] / 1024
        with output.open("rb") as file:
            assert sum(1 for _ in file) == count
    assert peaks[100_000] < peaks[10_000] + 15, peaks  # MB; the larger output alone has 16


def test_a_run_of_fit_says_where_its_model_is(tmp_path, capsys):
    import torch

    import hotloop

    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    run = hotloop.fit(
        torch.nn.Linear(2, 1), {"x": x}, loss=lambda model, batch: model(batch["x"]).square(), max_steps=2,
        device="cpu", progress=False, dir=str(tmp_path / "runs"), trackers=(),
    )  # fmt: skip
    for words in (["export", str(run.dir), "--format", "onnx"], ["evaluate", str(run.dir), "--data", "x.npz"]):
        assert main(words) == 2
        assert "use the model that hotloop.fit returned" in capsys.readouterr().err
