"""F30: a missing label filled with a default ("role: none"), so that a class has no real example and nobody sees it."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.unit.tasks.classify_files import rows, write

from hotloop.tasks.classify.options import ClassifyData, ClassifyModel
from hotloop.tasks.classify.task import Classify


def made(path: Path) -> Classify:
    return Classify(ClassifyModel(hidden_size=16, n_head=2), ClassifyData(path=str(path), val_fraction=0.0), seed=1)


def test_missing_labels_give_no_gradient_and_no_example(tmp_path: Path) -> None:
    given = rows(40, toxicity_labels=["none", "toxic"], role_labels=["victim", None, "bystander", None])
    task = made(write(tmp_path / "a.jsonl", given))
    source = task.sources().train
    model = task.model()
    batch = source.batch(torch.arange(40))
    assert int(batch["weight"]["role"].sum()) == 20
    (task.loss(model, batch, True)["role"] * (1 - batch["weight"]["role"])).sum()  # finite, and weighed by nothing
    loss = (task.loss(model, batch, True)["role"] * batch["weight"]["role"]).sum()
    loss.backward()
    moved = model.heads["task_role"].bias.grad
    assert moved[0] > 0, "the class none is only pushed down: no row was counted as one of it"


def test_classes_without_an_example_are_named_with_their_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(40, toxicity_labels=["none", "toxic"], role_labels=["victim", "bystander"]))
    task = made(path)
    task.sources()
    [line] = [line for line in task.notes() if line.startswith("role: no example")]
    assert "none, perpetrator" in line
    assert str(path) in line
