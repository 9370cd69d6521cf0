"""Trained runs measured on a file with targets: loss, metrics and classes, beside what the run reported of itself.

One run is measured as validation measures it. Of several the task averages the outputs, and loss and metrics are those
of the mean. Shapes: N rows, C classes; logits (N, C).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hotloop.data.files import read_arrays
from hotloop.data.source import Source, as_source
from hotloop.engine import measure
from hotloop.engine.blame import telling_whose
from hotloop.errors import HotloopError
from hotloop.predicting import Trained
from hotloop.saved import SUMMARY, read_json
from hotloop.task import Task
from hotloop.tasks import classification


@dataclass(frozen=True)
class Measured:
    """What a file with targets says of a run, or of several.

    Attributes:
        rows: that were measured.
        metrics: eval_NAME -> value.
        classes: label set ("" where there is one) -> precision, recall, F1 and support of each class.
        validation: eval_NAME -> value that each run reported of these weights in training; empty where not known.
        notes: how the file was read, and what was left out.
    """

    rows: int
    metrics: dict[str, float]
    classes: dict[str, list[dict[str, Any]]]
    validation: list[dict[str, float]]
    notes: list[str]


def evaluate(runs: Sequence[Trained], path: Path) -> Measured:
    """Loss, metrics and classes on the rows of a file with targets; of several runs, those of the averaged outputs.

    Raises:
        HotloopError: the file does not fit, or the task's outputs cannot be averaged.
    """
    with telling_whose("evaluating"):
        sources = [_labelled(run.task, path) for run in runs]
        first = runs[0]
        if len(runs) == 1:
            metrics = measure.evaluate(first.task, first.model, sources[0], first.plan)
            outputs = _outputs(first, sources[0]) if _label_sets(first.task) else {}
        else:
            _require_classes(first.task)
            outputs = first.task.combine([_outputs(run, source) for run, source in zip(runs, sources, strict=True)])
            metrics = _metrics_of(first.task, outputs)
    classes = {
        head: classification.per_class(table, names)
        for head, (names, table) in _confusions(first.task, outputs).items()
    }
    named = measure.prefixed(metrics)
    validation = [{name: value for name, value in reported(run).items() if name in named} for run in runs]
    return Measured(len(sources[0]), named, classes, validation, list(getattr(sources[0], "notes", ())))


def _outputs(run: Trained, source: Source) -> dict[str, Tensor]:
    return measure.outputs(run.task, run.model, source, run.plan)


def _labelled(task: Task, path: Path) -> Source:
    given = task.labelled(path) if type(task).labelled is not Task.labelled else read_arrays(path)
    return as_source(given, part="evaluated")


def _label_sets(task: Task) -> dict[str, tuple[str, str, Sequence[str]]]:
    """Label set -> names of its logits and of its labels in what `predict` gives, and its classes."""
    heads = {head: (f"logits_{head}", head, names) for head, names in task.heads().items()}
    return heads or ({"": ("logits", "y", task.class_names())} if task.class_names() else {})


def _require_classes(task: Task) -> None:
    if not _label_sets(task):
        raise HotloopError(
            f"several runs of {type(task).__name__} cannot be measured as one: their outputs have no classes, and "
            "there is no mean of probabilities to take",
            fix="give one run",
        )


def _confusions(task: Task, outputs: dict[str, Tensor]) -> dict[str, tuple[Sequence[str], Tensor]]:
    """The confusions of each label set whose logits and labels are at hand; rows without a label count in none."""
    found = {}
    for head, (logits, labels, names) in _label_sets(task).items():
        if logits in outputs and labels in outputs:
            real = outputs[labels] >= 0
            found[head] = names, classification.confusion_of(outputs[logits][real], outputs[labels][real])
    return found


def _metrics_of(task: Task, outputs: dict[str, Tensor]) -> dict[str, float]:
    """Loss and metrics of averaged outputs, named as the task names its own."""
    found: dict[str, float] = {}
    tables, losses = {}, {}
    for head, (_, table) in _confusions(task, outputs).items():
        logits, labels, _ = _label_sets(task)[head]
        real = outputs[labels] >= 0
        losses[head] = classification.negative_log_likelihood(outputs[logits][real], outputs[labels][real])
        tables[f"confusion_{head}" if head else "confusion"] = table
        found |= {} if head else {"accuracy": (table.diagonal().sum() / table.sum()).item()}
    factors = task.term_weights()
    found |= {f"loss_{head}": value for head, value in losses.items() if head}
    real_losses = {head: value for head, value in losses.items() if not math.isnan(value)}
    loss = sum(value * factors.get(head, 1.0) for head, value in real_losses.items()) if real_losses else math.nan
    return {"loss": loss, **found, **task.scores(tables)}


def reported(run: Trained) -> dict[str, float]:
    """The validation figures that the run wrote of the weights in use; empty where it wrote none."""
    path = run.folder.dir / SUMMARY
    if not path.is_file():
        return {}
    summary = read_json(path)
    weights = {name: value for name, value in summary.items() if name.startswith("eval_")}
    best = summary.get("best")
    if run.best and isinstance(best, Mapping):
        at = [record for record in run.folder.read_metrics() if record.get("step") == best.get("step")]
        weights = {name: v for record in at for name, v in record.items() if name.startswith("eval_")} or weights
    return {name: float(value) for name, value in weights.items() if isinstance(value, int | float)}
