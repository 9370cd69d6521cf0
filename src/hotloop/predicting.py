"""Trained runs at work: rows of a file predicted one piece at a time, by one run or by several together.

Everything comes from the run folders; the training data may be gone. Precision, batch and threads are those of the
run's plan, so that the rows that a run was validated on give what it reported. Of several runs the task averages the
outputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hotloop.data.files import read_arrays
from hotloop.data.source import Subset, as_source
from hotloop.data.writing import Write
from hotloop.device import pick_device
from hotloop.engine import checkpoint, measure, precision
from hotloop.engine.blame import telling_whose
from hotloop.engine.plan import Plan, apply_to_process
from hotloop.errors import HotloopError
from hotloop.runs.store import RunFolder
from hotloop.saved import CONFIG, PLAN, read_json, saved_model, weights_file
from hotloop.task import Piece, Task

_ROWS = 1024  # of a piece, at least: what is held at a time
Told = Callable[[int], None]


@dataclass
class Trained:
    """A run, ready to predict.

    Attributes:
        folder, task: of the run.
        model: on the device, in evaluation mode.
        plan: of the run, for this machine.
        best: whether the weights are those of the best checkpoint.
        remarks: what a person should know of it.
    """

    folder: RunFolder
    task: Task
    model: nn.Module
    plan: Plan
    best: bool
    remarks: list[str] = field(default_factory=list)


def open_runs(
    places: Sequence[Path | str],
    which: str = "best",
    device: str = "auto",
    wanted_precision: str = "auto",
    batch_size: int | None = None,
) -> list[Trained]:
    """The runs of these folders, which must be of one task and have the same classes.

    Args:
        places: run folders.
        which: weights, "best" or "last".
        device, wanted_precision, batch_size: auto and None take what the run's plan says.

    Raises:
        HotloopError: no run, no weights yet, a device that is not there, or runs that do not go together.
    """
    runs = [_open(place, which, device, wanted_precision, batch_size) for place in places]
    first = _kind(runs[0])
    for run in runs[1:]:
        if _kind(run) != first:
            raise HotloopError(
                "the runs are not of one task with the same classes, so their outputs cannot be averaged",
                where=f"{runs[0].folder.dir} ({_shown(runs[0])}) and {run.folder.dir} ({_shown(run)})",
                fix="give runs of one task that were trained on the same classes",
            )
    return runs


def _open(place: Path | str, which: str, device: str, wanted: str, batch_size: int | None) -> Trained:
    folder = RunFolder.open(place)
    task, model = saved_model(folder, which)
    plan, remarks = Plan.from_dict(read_json(folder.dir / PLAN)), []
    there = _device(device, plan)
    if there.type != plan.torch_device.type and device == "auto":
        remarks.append(f"the run was trained on {plan.device}, which is not here: computing on {there}")
    chosen, remark = precision.resolve(plan.precision if wanted == "auto" else wanted, there)
    weights = weights_file(folder, which)
    assert weights is not None, "saved_model has read it"
    best = weights.name == checkpoint.BEST
    if which == "best" and not best:
        remarks.append(f"the run kept no best checkpoint; {weights.name} is used")
    plan = replace(
        plan,
        device=str(there),
        precision=chosen,
        resident=False,  # rows come piece by piece
        eval_batch=batch_size or plan.eval_batch,
        threads=min(plan.threads, os.cpu_count() or 1),
    )
    remarks += [remark] if remark else []
    return Trained(folder, task, model.to(there), apply_to_process(plan), best, remarks)


def _device(wanted: str, plan: Plan) -> torch.device:
    if wanted != "auto":
        return pick_device(wanted)
    try:
        return pick_device(plan.device)
    except HotloopError:
        return pick_device("cpu")


def _kind(run: Trained) -> tuple[Any, ...]:
    heads = {name: tuple(classes) for name, classes in run.task.heads().items()}
    return Path(read_json(run.folder.dir / CONFIG).get("task", "")).name, tuple(run.task.class_names()), heads


def _shown(run: Trained) -> str:
    task, names, heads = _kind(run)
    classes = [*names, *(name for found in heads.values() for name in found)]
    return f"{task}, {len(classes)} classes" if classes else str(task)


def predict(runs: Sequence[Trained], path: Path, write: Write, told: Told | None = None) -> int:
    """Predict every row of a file, in its order, a piece at a time.

    Args:
        runs: whose outputs are averaged where there are several.
        path: the file.
        write: takes each row's answer.
        told: is given the number of rows so far, after each piece.

    Returns:
        How many rows there were.

    Raises:
        HotloopError: the file does not fit, or the task does not predict.
    """
    task, done = runs[0].task, 0
    if len(runs) > 1 and type(task).combine is Task.combine:
        name = type(task).__name__
        fix = f"give one run; a task of your own says how they are averaged in {name}.combine()"
        raise HotloopError(f"the outputs of several runs of {name} cannot be averaged", fix=fix)
    size = runs[0].plan.eval_batch
    streams = [_pieces(run.task, path, size * max(1, _ROWS // size)) for run in runs]
    with telling_whose("predicting"):
        for group in zip_longest(*streams):
            rows = _same_rows(group, path)
            outputs = [measure.outputs(run.task, run.model, as_source(part.source, part="predicted"), run.plan)
                       for run, part in zip(runs, group, strict=True)]  # fmt: skip
            for answer in _answers(task, outputs[0] if len(runs) == 1 else task.combine(outputs), rows):
                write(answer)
            done += len(rows)
            if told is not None:
                told(done)
    if not done:
        raise HotloopError("the file holds no rows", where=str(path), fix="give a file with at least one row")
    return done


def _require_outputs(task: Task) -> None:
    if not measure.gives_outputs(task):
        name = type(task).__name__
        raise HotloopError(
            f"the task {name} does not say what its model's outputs are",
            fix=f'write {name}.predict(model, batch) -> {{"output": tensor}}',
        )


def _same_rows(group: Sequence[Piece | None], path: Path) -> Sequence[Mapping[str, Any]]:
    first = group[0]
    if first is None or any(part is None or list(part.rows) != list(first.rows) for part in group):
        raise HotloopError(
            "the runs read different rows from the file, so their outputs cannot be averaged",
            where=str(path),
            fix="give runs that were trained with the same data options",
        )
    return first.rows


def _pieces(task: Task, path: Path, rows: int) -> Iterator[Piece]:
    """The task's own pieces; of a task that has none, the numeric columns of a file, whole."""
    if type(task).pieces is not Task.pieces:
        yield from task.pieces(path, rows)
        return
    _require_outputs(task)
    source = as_source(read_arrays(path), part="predicted")
    for first in range(0, len(source), rows):
        chosen = torch.arange(first, min(first + rows, len(source)))
        yield Piece(Subset(source, chosen), [{"row": first + number} for number in range(len(chosen))])


def _answers(task: Task, outputs: dict[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the task writes of each row; of a task that does not say, every output as it is."""
    if type(task).answers is not Task.answers:
        return task.answers(outputs, rows)
    if not outputs:
        raise HotloopError(f"{type(task).__name__}.predict() gave nothing", fix="return the outputs of each row")
    values = {name: value.tolist() for name, value in outputs.items()}
    return [{**row, **{name: value[n] for name, value in values.items()}} for n, row in enumerate(rows)]
