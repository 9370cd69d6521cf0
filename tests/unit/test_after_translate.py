"""A translator after training: rows translated and measured as in validation, exported for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.tasks.pair_files import concepts, tsv

from hotloop.cli.main import main

SIZES = ["model.hidden_size=32", "model.num_layers=1", "model.n_head=2", "model.ff_size=64", "model.dropout=0"]
PLAIN = ["training.device=cpu", "training.precision=fp32", "experiment.trackers=[]", "training.compile=off"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("translate")
    train, val = tsv(folder / "train.tsv", concepts()), tsv(folder / "val.tsv", concepts()[::3])
    words = [f"data.train_path={train}", f"data.val_path={val}", f"experiment.dir={folder / 'runs'}"]
    words += ["training.num_epochs=45", "training.batch_size=8", "optimization.learning_rate=5e-3"]
    assert main(["train", "translate", *PLAIN, *SIZES, *words]) == 0
    (made,) = (folder / "runs").iterdir()
    train.unlink()
    return {"run": str(made), "val": val, "summary": json.loads((made / "training_summary.json").read_text())}


def test_the_rows_of_validation_give_what_the_run_reported(run, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    assert main(["predict", run["run"], "--input", str(run["val"]), "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["src"] for row in rows] == [row[1] for row in concepts()[::3]]
    exact = sum(row["translation"] == row["tgt"] for row in rows) / len(rows)
    best = run["summary"]["best"]
    assert best["metric"] == "eval_exact_match"
    assert exact == pytest.approx(best["value"])
    assert exact > 0.5


def test_pairs_are_measured_beside_validation(run, capsys) -> None:
    capsys.readouterr()
    assert main(["evaluate", run["run"], "--data", str(run["val"]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name in ("eval_loss", "eval_exact_match", "eval_chrf"):
        assert found[name] == pytest.approx(found["validation"][0][name], abs=1e-6)


def test_two_translators_are_not_averaged(run, tmp_path: Path, capsys) -> None:
    words = ["predict", run["run"], run["run"], "--input", str(run["val"]), "--output", str(tmp_path / "o.jsonl")]
    assert main(words) != 0
    assert "cannot be averaged" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["safetensors", "torch-export", "onnx"])
def test_a_translator_is_exported(run, tmp_path: Path, kind: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    target = tmp_path / "made"
    assert main(["export", run["run"], "--format", kind, "--output", str(target)]) == 0
    assert target.exists()
