"""A classifier of two files after training: measured on files like one of them or like none; rows that lack a column.

The training files call their texts and labels differently, as sets labelled for different tasks do.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.tasks.classify_files import rows, write

from hotloop.cli.main import main

PLAIN = ["training.device=cpu", "training.precision=fp32", "experiment.trackers=[]", "training.compile=off"]
SIZES = ["model.hidden_size=16", "model.num_layers=1", "training.max_steps=4", "training.batch_size=16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classify")
    said = [{"comment": row.pop("text"), **row} for row in rows(40, sexist=[0, 1])]
    one, other = write(folder / "one.jsonl", rows(40, label=["no", "yes"])), write(folder / "other.jsonl", said)
    words = [f"data.path=[{one},{other}]", "data.text_column=comment", f"experiment.dir={folder / 'runs'}"]
    words.append("data.label_columns={rude: 'one.jsonl:label', sexist: sexist}")
    assert main(["train", "classify", *PLAIN, *SIZES, *words]) == 0
    (made,) = (folder / "runs").iterdir()
    return made


def evaluated(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(data), "--json"]) == 0
    shown = capsys.readouterr()
    found: dict[str, Any] = json.loads(shown.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return found, shown.err


def test_a_file_like_one_of_the_training_files_is_measured(run: Path, tmp_path: Path, capsys) -> None:
    found, told = evaluated(
        run, write(tmp_path / "one.jsonl", [*rows(20, label=["no", "yes"]), {"text": "好"}]), capsys
    )
    assert (found["rows"], found["eval_f1_macro_sexist"]) == (20, None)
    assert found["eval_f1_macro"] == found["eval_f1_macro_rude"]
    assert "1 rows without any label left out" in told


def test_a_file_without_a_column_of_labels_is_told_what_it_lacks(run: Path, tmp_path: Path, capsys) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(write(tmp_path / "a.jsonl", rows(9, label=["no", "yes"])))]) == 2
    told = capsys.readouterr().err
    assert "no column of labels for rude or sexist; there are text, label" in told
    assert "call it rude_labels" in told


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_the_answer_has_one_name_where_rows_lack_a_column(run: Path, tmp_path: Path, suffix: str) -> None:
    source, output = write(tmp_path / "in.jsonl", rows(6, sexist=["1", "0"])), tmp_path / f"out{suffix}"
    given = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    del given[3]["sexist"]
    write(source, given)
    assert main(["predict", str(run), "--input", str(source), "--output", str(output)]) == 0
    with output.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file)) if suffix == ".csv" else [json.loads(line) for line in file]
    assert [row.get("sexist") or None for row in found] == [row.get("sexist") for row in given]
    assert all(row["sexist_predicted"] in ("0", "1") and row["rude"] in ("no", "yes") for row in found)
