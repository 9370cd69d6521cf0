"""Label sets: which tasks the data has, in which columns, with which classes; and the number of each row's class.

Torch-free. A label that is missing (absent, null, empty, -1 or -100) is -1: it counts nowhere and is never guessed.
A label that is no class is a fault, told by file and line. N rows; labels (N,) int64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import PurePath
from typing import Any

import numpy as np

from hotloop.data.records import Record, require_whole
from hotloop.errors import HotloopError
from hotloop.tasks.classify.options import REFERENCE, ClassifyModel, named
from hotloop.tasks.classify.read import Sheet

MISSING = -1
SINGLE = ("label", "labels")  # columns of the only task
_SUFFIXES = ("_labels", "_label", "")
_MOST = 200  # more distinct values than this are no classes
Labels = np.ndarray[Any, np.dtype[np.int64]]
Classes = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Settled:
    """The tasks to train.

    Args:
        classes: task -> names of its classes.
        notes: what was found and what was left out.
    """

    classes: Classes
    notes: list[str]


def settle(model: ClassifyModel, columns: Mapping[str, str], train: Sequence[Sheet], rest: Sequence[Sheet]) -> Settled:
    """Which tasks there are, and their classes.

    Args:
        model: names tasks, or leaves them to the data.
        columns: data.label_columns.
        train, rest: files of the training part, and of the others.

    Raises:
        HotloopError: a task without a column or without a single label; no task at all.
    """
    if model.tasks is not None:
        names, notes = list(model.tasks), list[str]()
    else:
        names, notes = _found(model, columns, train)
    _require_known(names, {"data.label_columns": columns, "model.task_weights": model.task_weights})
    for name in names:
        if not any(column_of(name, sheet, columns, len(names) == 1) for sheet in train):
            raise _no_column(f"no training file has a column of labels for {name}", name, train)
    classes = {name: _classes(name, model, columns, [*train, *rest], len(names) == 1) for name in names}
    notes += _told_num_labels(model, classes)
    return Settled(classes, notes)


def _require_known(names: Sequence[str], said: Mapping[str, Mapping[str, Any]]) -> None:
    """What is said of a task that is not trained would be lost; a known one without labels may have a weight."""
    for key, tasks in said.items():
        for name in tasks:
            if name not in names and not (key == "model.task_weights" and name in REFERENCE):
                near = get_close_matches(name, names, n=1)
                fix = f"did you mean {near[0]}?" if near else f"name one of {', '.join(names)}, or leave it out"
                raise HotloopError(f"there is no task {name} to train", where=f"{key}.{name}", fix=fix)


def _found(model: ClassifyModel, columns: Mapping[str, str], train: Sequence[Sheet]) -> tuple[list[str], list[str]]:
    """The tasks that the training files have columns for, and notes."""
    there = list(dict.fromkeys(name for sheet in train for name in sheet.columns))
    single = next((name for name in SINGLE if name in there), None)
    by_suffix = [name.removesuffix(end) for name in there for end in _SUFFIXES[:2] if name.endswith(end)]
    known = [name for name in REFERENCE if any(name + end in there for end in _SUFFIXES)]
    several = list(dict.fromkeys([*columns, *known, *by_suffix]))
    one = model.use_multitask is False or (model.num_labels is not None and (single or len(columns) == 1))
    if one or not several:
        return _one(model, columns, single, several, train)
    notes = [f"the column {single} is not used: there is a column for each task"] if single and not columns else []
    absent = [name for name in REFERENCE if name not in several] if known else []
    if absent:
        notes.append(f"no labels for {', '.join(absent)} in any training file: left out")
    return several, notes


def _one(
    model: ClassifyModel, columns: Mapping[str, str], single: str | None, several: list[str], train: Sequence[Sheet]
) -> tuple[list[str], list[str]]:
    """The only task there is, or is to be."""
    if len(columns) == 1:
        return list(columns), []
    if single is None and len(several) != 1:
        what = "there is no column label or labels" if several else "no training file has a column of labels"
        raise _no_column(what, several[0] if several else "TASK", train)
    notes = ["model.use_multitask=true, and the data has a single task"] if model.use_multitask else []
    if single is not None and several:
        notes.append(f"a single task: labels of {', '.join(several)} are not used")
    return (["label"] if single is not None else several), notes


def _no_column(what: str, task: str, train: Sequence[Sheet]) -> HotloopError:
    shown = "; ".join(f"{sheet.name}: {', '.join(sheet.columns)}" for sheet in train)
    fix = f"name it: data.label_columns.{task}=COLUMN"
    return HotloopError(f"{what}; there are {shown}", where="data.label_columns", fix=fix)


def _told_num_labels(model: ClassifyModel, classes: Classes) -> list[str]:
    if model.num_labels is None or len(classes) == 1:
        return []
    if all(len(names) != model.num_labels for names in classes.values()):
        shown = ", ".join(f"{task} {len(names)}" for task, names in classes.items())
        raise HotloopError(
            f"no task has {model.num_labels} classes ({shown})",
            where="model.num_labels",
            fix="leave it out, or name the tasks and their classes with model.tasks",
        )
    return [f"model.num_labels={model.num_labels} is for a single task; each of {', '.join(classes)} has its classes"]


def column_of(task: str, sheet: Sheet, columns: Mapping[str, str], only: bool) -> str | None:
    """The column of a file that holds a task's labels; None where the file has none.

    Args:
        columns: data.label_columns: COLUMN, or FILE:COLUMN.
        only: it is the only task, so that label and labels are its columns too.
    """
    said = columns.get(task)
    if said is None:
        names = [task + end for end in _SUFFIXES] + (list(SINGLE) if only else [])
        return next((name for name in names if name in sheet.columns), None)
    if said in sheet.columns:
        return said
    pattern, colon, column = said.rpartition(":")
    path = PurePath(sheet.name).as_posix()
    if not colon or not (fnmatch(path, pattern) or fnmatch(path, f"*/{pattern}")):
        return None
    if column not in sheet.columns:
        what = f"there is no column '{column}'; there are {', '.join(sheet.columns)}"
        raise HotloopError(what, where=f"{sheet.name} (data.label_columns.{task})", fix="name one of these")
    return column


def _classes(
    task: str, model: ClassifyModel, columns: Mapping[str, str], sheets: Sequence[Sheet], only: bool
) -> tuple[str, ...]:
    """The classes of a task: named, known, or all that the data has."""
    if model.tasks is not None:
        return named(model.tasks[task])
    if only and model.num_labels is not None:
        return named(model.num_labels)
    if task in REFERENCE:
        return REFERENCE[task]
    values: dict[int | str, str] = {}
    for sheet in sheets:
        column = column_of(task, sheet, columns, only)
        for record in sheet.records if column else ():
            value = plain(record.values.get(column or ""), sheet, record, task)
            if value is not None:
                values.setdefault(value, sheet.at(record))
            if len(values) > _MOST:
                what = f"the column {column} has more than {_MOST} different values, so it holds no classes"
                raise HotloopError(what, where=sheet.at(record), fix=f"name another: data.label_columns.{task}=COLUMN")
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) == len(values) and numbers:
        if max(numbers) >= _MOST:
            what = f"{max(numbers)} in the column of {task} would be one of {max(numbers) + 1:,} classes, from 0 on"
            fix = f"number the classes from 0, or name them: model.tasks.{task}=[NAME, ...]"
            raise HotloopError(what, where=values[max(numbers)], fix=fix)
        return named(max(max(numbers) + 1, 2))
    return tuple(sorted(map(str, values)))


def plain(value: Any, sheet: Sheet, record: Record, task: str) -> int | str | None:
    """A label as a number or a name; None where it is missing.

    Raises:
        HotloopError: a list, an object, a fraction, half of a character.
    """
    if isinstance(value, str):
        value = value.strip()
        try:
            value = float(value) if value.replace(".", "", 1).lstrip("+-").isdecimal() else value
        except ValueError:
            return str(value)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        require_whole(value, task, sheet.at(record))
        return value
    if not isinstance(value, int | float) or not math.isfinite(value) or value != int(value):
        shown = f"{value!r}"[:40]
        fix = "a label is the name of a class, or its number from 0 on"
        raise HotloopError(f"{shown} is no label of {task}", where=sheet.at(record), fix=fix)
    return None if int(value) in (-1, -100) else int(value)


def numbers(
    task: str, classes: Sequence[str], sheet: Sheet, columns: Mapping[str, str], only: bool
) -> tuple[Labels, str | None]:
    """The class of each row, (N,), MISSING where there is none; and the column it is in.

    Raises:
        HotloopError: a label that is no class of the task, with file and line.
    """
    column = column_of(task, sheet, columns, only)
    found = np.full(len(sheet.records), MISSING, dtype=np.int64)
    places = {name: number for number, name in enumerate(classes)}
    by_number = not any(name.isdecimal() for name in classes)  # a class that is called 1 need not be number 1
    for row, record in enumerate(sheet.records if column else ()):
        value = plain(record.values.get(column or ""), sheet, record, task)
        if value is None:
            continue
        number = places.get(str(value), value if by_number and isinstance(value, int) else MISSING)
        if not 0 <= number < len(classes):
            raise _no_class(value, task, classes, column or "", sheet.at(record))
        found[row] = number
    return found, column


def _no_class(value: int | str, task: str, classes: Sequence[str], column: str, where: str) -> HotloopError:
    near = get_close_matches(str(value), classes, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    shown = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
    numbered = "" if any(name.isdecimal() for name in classes) else f", or their numbers 0 to {len(classes) - 1}"
    others = f"; other classes: model.tasks.{task}=[NAME, ...]" if task in REFERENCE else ""
    return HotloopError(
        f"'{value}' in the column {column} is no class of {task}",
        where=where,
        fix=f"{hint}its {len(classes)} classes are {shown}{numbered}; a missing label is null, empty or -100{others}",
    )
