"""Which label sets are found, and what is said of labels, texts and files that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.tasks.classify_files import rows, write

from hotloop.errors import HotloopError
from hotloop.tasks.classify.options import REFERENCE, ClassifyData, ClassifyModel
from hotloop.tasks.classify.task import Classify


def made(data: dict[str, Any], **model: Any) -> Classify:
    return Classify(ClassifyModel(**model), ClassifyData(**data), seed=1)


def found(path: Path | tuple[str, ...], data: dict[str, Any] | None = None, **model: Any) -> Classify:
    task = made({"path": path if isinstance(path, tuple) else str(path), **(data or {})}, **model)
    task.sources()
    return task


def fault(path: Path, data: dict[str, Any] | None = None, **model: Any) -> HotloopError:
    with pytest.raises(HotloopError) as caught:
        found(path, data, **model)
    return caught.value


def test_the_four_known_tasks_are_found_by_their_columns(tmp_path: Path) -> None:
    labels = {f"{task}_labels": names for task, names in REFERENCE.items()}
    assert found(write(tmp_path / "a.json", rows(48, **labels))).classes == REFERENCE


def test_known_tasks_without_a_column_are_left_out_and_told(tmp_path: Path) -> None:
    task = found(write(tmp_path / "a.jsonl", rows(40, toxicity_labels=[0, 1, 2], sarcasm_labels=["no", "yes"])))
    assert task.classes == {"toxicity": REFERENCE["toxicity"], "sarcasm": ("no", "yes")}
    assert any("no labels for bullying, role, emotion" in line for line in task.notes())


@pytest.mark.parametrize("column", ["label", "labels"])
def test_one_label_column_is_one_task(tmp_path: Path, column: str) -> None:
    path = write(tmp_path / "a.jsonl", rows(40, **{column: [0, 1]}))
    assert found(path).classes == {"label": ("0", "1")}
    assert found(path, num_labels=3).classes == {"label": ("0", "1", "2")}
    assert found(path, tasks={"spam": ["ham", "spam"]}).classes == {"spam": ("ham", "spam")}


def test_num_labels_beside_several_tasks_must_be_true_of_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(40, toxicity_labels=[0, 1, 2], role_labels=[0, 1, 2, 3]))
    assert any("num_labels=3" in line for line in found(path, num_labels=3).notes())
    assert "no task has 7 classes" in fault(path, num_labels=7).what


@pytest.mark.parametrize("missing", [None, "", -1, -100, "-100", float("nan")])
def test_a_missing_label_is_never_guessed(tmp_path: Path, missing: Any) -> None:
    given = rows(40, toxicity_labels=["none", "toxic"], mood_labels=["a", "b"])
    for row in given[::4]:
        row["toxicity_labels"] = missing
    for row in given[1::4]:
        del row["mood_labels"]
    task = made({"path": str(write(tmp_path / "a.jsonl", given)), "val_fraction": 0.0})
    source: Any = task.sources().train
    assert int((source.column("toxicity") == -1).sum()) == 10
    assert int((source.column("mood") == -1).sum()) == 10
    batch = source.batch(source.column("toxicity").argsort()[:12])
    assert batch["weight"]["toxicity"].tolist() == [0.0] * 10 + [1.0] * 2
    assert any("severe" in line and "cannot be learned" in line for line in task.notes())


def test_files_labelled_for_different_tasks_train_together(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", rows(40, label=[0, 1]))
    other = write(tmp_path / "other.jsonl", rows(20, label=[0, 1], category=["x", "y", ""]))
    columns = {"offensive": "one*:label", "sexist": "other.jsonl:label", "category": "category"}
    task = made({"path": (str(one), str(other)), "label_columns": columns, "val_fraction": 0.0})
    source: Any = task.sources().train
    assert list(task.classes) == ["offensive", "sexist", "category"]
    counts = {name: int((source.column(name) >= 0).sum()) for name in task.classes}
    assert counts == {"offensive": 40, "sexist": 20, "category": 14}
    with pytest.raises(HotloopError, match="there is no column 'lable'"):
        found((str(one), str(other)), {"label_columns": {"offensive": "one*:lable"}})


@pytest.mark.parametrize(
    ("column", "value", "what", "hint"),
    [
        ("toxicity_labels", 3, "'3' in the column toxicity_labels is no class", "none, toxic, severe"),
        ("toxicity_labels", "toxik", "'toxik'", "did you mean toxic?"),
        ("toxicity_labels", [1], "[1] is no label", ""),
        ("toxicity_labels", 0.5, "0.5 is no label", ""),
        ("toxicity_labels", float("inf"), "inf is no label", ""),
        ("toxicity_labels", "9" * 400, "inf is no label", ""),
        ("text", "\ud83d!", "text holds half of a character (\\ud83d)", "cut texts between characters"),
        ("text", 7, "text is a number, not a text", ""),
        ("text", None, "the row has no text", ""),
    ],
)
def test_a_value_that_cannot_be_used_is_told_by_file_and_line(
    tmp_path: Path, column: str, value: Any, what: str, hint: str
) -> None:
    given = rows(30, toxicity_labels=[0, 1, 2])
    given[16][column] = value
    path = write(tmp_path / "a.jsonl", given)
    error = fault(path)
    assert what in error.what
    assert hint in error.fix
    assert error.where == f"{path}, line 17"


def test_a_task_without_labels_and_one_of_a_single_class_are_refused(tmp_path: Path) -> None:
    given = rows(30, toxicity_labels=[0, 1], mood_labels=[None])
    path = write(tmp_path / "a.jsonl", given)
    error = fault(path, tasks={"toxicity": 2, "mood": ["sad", "glad"]})
    assert "not a single label of mood" in error.what
    assert str(path) in error.where
    assert "lines" in error.where
    assert "only the class 1 of label" in fault(write(tmp_path / "b.jsonl", rows(9, label=[1]))).what


def test_what_is_split_is_not_called_the_training_part(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(40, label=[0, 1]))
    assert "data: label: 0 20, 1 20" in found(path).notes()
    assert "training: label: 0 20, 1 20" in found(path, {"val_fraction": 0.0}).notes()


def test_a_number_that_is_no_class_is_told_before_a_model_of_a_million_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*rows(9, label=[0, 1]), {"text": "x", "label": 1_000_000}])
    error = fault(path)
    assert "one of 1,000,001 classes" in error.what
    assert error.where == f"{path}, line 10"


def test_what_is_said_of_a_task_that_is_not_trained_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(40, toxicity_labels=[0, 1, 2], mood_labels=[0, 1]))
    error = fault(path, task_weights={"toxicty": 2.0})
    assert (error.where, error.fix) == ("model.task_weights.toxicty", "did you mean toxicity?")
    error = fault(path, {"label_columns": {"mood": "mood_labels"}}, tasks={"toxicity": 3})
    assert error.where == "data.label_columns.mood"
    assert found(path, task_weights={"mood": 2.0, "role": 0.5}).classes.keys() == {"toxicity", "mood"}


def test_other_classes_of_a_known_task_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(40, emotion=["joy", "anger"]))
    assert "model.tasks.emotion=[NAME, ...]" in fault(path).fix
    assert found(path, tasks={"emotion": ["joy", "anger"]}).classes == {"emotion": ("joy", "anger")}


def test_a_class_without_examples_is_sought_among_the_rows_that_are_trained_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*rows(20, label=[0]), *rows(20, label=[1])])
    error = fault(path, {"val_fraction": 0.0, "limit": 10})
    assert "only the class 0 of label" in error.what
    assert "10 of 40 rows are trained on (data.limit" in error.fix


def test_columns_that_are_not_there_are_told_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("body,verdict\na,1\nb,0\n", encoding="utf-8")
    assert "body, verdict" in fault(path).what
    error = fault(path, {"text_column": "body"})
    assert "data.label_columns" in error.fix
    assert found(path, {"text_column": "body", "label_columns": {"verdict": "verdict"}, "val_fraction": 0.0}).classes


def test_length_cleaning_and_shared_texts_are_counted(tmp_path: Path) -> None:
    given = [*rows(40, label=[0, 1]), {"text": "短", "label": 1}, {"text": "長" * 300, "label": 0}]
    train, val = write(tmp_path / "train.jsonl", given), write(tmp_path / "dev.jsonl", given[:10])
    task = found(tmp_path, {"min_length": 2, "max_length": 200})
    notes = "\n".join(task.notes())
    assert "1 shorter than 2 and 1 longer than 200 characters" in notes
    assert "10 of 10 validation texts stand in the training part too" in notes
    assert str(train) in notes
    assert str(val) in notes


def test_a_stratified_split_and_whole_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(80, label=[0, 0, 0, 1], author=list("abcdefgh")))
    one: Any = made({"path": str(path), "split": "stratified", "val_fraction": 0.25}).sources().val
    assert np.bincount(one.column("y").numpy()).tolist() == [15, 5]
    grouped = made({"path": str(path), "split": "group", "group_column": "author", "val_fraction": 0.25}).sources()
    assert len(grouped.val) == 20


def test_the_synthetic_set_is_called_so_and_has_all_tasks() -> None:
    task = made({})
    task.sources()
    assert task.classes == REFERENCE
    assert "synthetic" in task.notes()[0]
    assert json.dumps(task.assets())
