"""What the outputs of the heads are made into: scores over tasks, conclusions, answers for each row, means of runs.

One task: its logits are named "logits" and its labels "y"; several: logits_TASK and TASK. Shapes: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hotloop.tasks import classification
from hotloop.tasks.classify.labels import Classes


def name_of(task: str, classes: Classes) -> str:
    """What the logits of a task are called."""
    return "logits" if len(classes) == 1 else f"logits_{task}"


def scores_of(table: Tensor) -> dict[str, float]:
    """Accuracy, macro-F1 and the others of one task; NaN where no row has a label."""
    total = table.sum().item()
    accuracy = table.diagonal().sum().item() / total if total else math.nan
    return {"accuracy": accuracy, **classification.class_scores(table)}


def mean_scores(by_task: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> dict[str, float]:
    """Accuracy and macro-F1 as METRIC_TASK, and the weighted mean over the tasks that were measured as METRIC."""
    found: dict[str, float] = {}
    for metric in ("accuracy", "f1_macro", "balanced_accuracy"):
        values = {task: scores[metric] for task, scores in by_task.items()}
        real = {task: value for task, value in values.items() if not math.isnan(value)}
        total = sum(weights.get(task, 1.0) for task in real)
        found[metric] = sum(weights.get(t, 1.0) * v for t, v in real.items()) / total if total else math.nan
        if metric != "balanced_accuracy":
            found |= {f"{metric}_{task}": value for task, value in values.items()}
    return found


def conclusion(parts: dict[str, dict[str, Tensor]], classes: Classes) -> dict[str, Any]:
    """What the summary says: of one task as `classification.conclusion`, of several one such for each."""
    if len(classes) == 1:
        return classification.conclusion(parts, next(iter(classes.values())))
    found: dict[str, Any] = {}
    for task, names in classes.items():
        real = {}
        for part, rows in parts.items():
            labelled = rows[task] >= 0
            if labelled.any():
                real[part] = {"logits": rows[name_of(task, classes)][labelled], "y": rows[task][labelled]}
        found[task] = classification.conclusion(real, names)
    return {"tasks": found}


def answers(outputs: dict[str, Tensor], rows: Sequence[Mapping[str, Any]], classes: Classes) -> list[dict[str, Any]]:
    """Each row with the class of every task and the probabilities of its classes."""
    found = [dict(row) for row in rows]
    taken = {name for row in rows for name in row}  # one name for all rows: JSON lines may lack it here and there
    for task, names in classes.items():
        shares = outputs[name_of(task, classes)].double().softmax(dim=1)
        best = outputs[name_of(task, classes)].argmax(dim=1).tolist()
        for row, place, share in zip(found, best, shares.tolist(), strict=True):
            row[f"{task}_predicted" if task in taken else task] = names[place]
            row[f"{task}_probabilities"] = {name: round(p, 6) for name, p in zip(names, share, strict=True)}
    return found


def combined(outputs: Sequence[dict[str, Tensor]], classes: Classes) -> dict[str, Tensor]:
    """The mean of the probabilities of several runs, as logits; labels as the first has them."""
    found = dict(outputs[0])
    for task in classes:
        name = name_of(task, classes)
        shares = torch.stack([one[name].double().softmax(dim=1) for one in outputs])
        found[name] = shares.mean(dim=0).clamp(min=1e-30).log()
    return found
