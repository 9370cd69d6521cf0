"""One part of the data: its texts and the labels of every task, out of one file or several.

Torch-free. Rows without a single label are left out and counted; a class without an example is told, a task without
one is refused. N rows; labels (N,) int64, MISSING where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from hotloop.errors import HotloopError
from hotloop.tasks.classify.labels import MISSING, Classes, Labels, numbers
from hotloop.tasks.classify.options import ClassifyData
from hotloop.tasks.classify.read import Sheet

Numbers = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Corpus:
    """Texts with their labels.

    Args:
        texts: N of them.
        labels: task -> (N,).
        groups: (N,) number of each row's group, where asked for.
        weights: (N,) of each row, where asked for.
        unlabelled: rows that were left out.
        columns: what was read, file by file: name, rows, task -> column.
    """

    texts: list[str]
    labels: dict[str, Labels]
    groups: Labels | None
    weights: Numbers | None
    unlabelled: int
    columns: list[tuple[str, int, dict[str, str]]]

    def keys(self) -> Labels:
        """A number for each text, (N,), the same for the same text."""
        digests = (blake2b(text.strip().encode(), digest_size=8).digest() for text in self.texts)
        return np.frombuffer(b"".join(digests), dtype=np.int64).copy()

    def lengths(self) -> Labels:
        """Characters of each text, (N,)."""
        return np.array([len(text.strip()) for text in self.texts], dtype=np.int64)


def gather(sheets: Sequence[Sheet], classes: Classes, data: ClassifyData) -> Corpus:
    """The rows of several files, end to end.

    Raises:
        HotloopError: a text, a label, a group or a weight that cannot be used, with file and line.
    """
    texts: list[str] = []
    found: dict[str, list[Labels]] = {task: [] for task in classes}
    told = []
    for sheet in sheets:
        texts += sheet.texts(_wanted(data.text_column, sheet, sheets))
        used: dict[str, str] = {}
        for task, names in classes.items():
            labels, column = numbers(task, names, sheet, data.label_columns, len(classes) == 1)
            found[task].append(labels)
            used |= {task: column} if column else {}
        told.append((sheet.name, len(sheet.records), used))
    labels_of = {task: np.concatenate(parts) for task, parts in found.items()}
    has_any = np.stack([labels != MISSING for labels in labels_of.values()]).any(axis=0)
    if not has_any.any():
        raise _unlabelled(sheets, classes, told)
    kept = np.flatnonzero(has_any)
    groups, weights = _groups(sheets, data.group_column), _weights(sheets, data.use_sample_weights)
    return Corpus(
        [texts[row] for row in kept],
        {task: labels[kept] for task, labels in labels_of.items()},
        None if groups is None else groups[kept],
        None if weights is None else weights[kept],
        len(texts) - len(kept),
        told,
    )


def _unlabelled(
    sheets: Sequence[Sheet], classes: Classes, told: Sequence[tuple[str, int, dict[str, str]]]
) -> HotloopError:
    where = ", ".join(sheet.name for sheet in sheets)
    if any(used for *_, used in told):
        return HotloopError("no row has a label", where=where, fix="give at least some rows a label")
    there = ", ".join(dict.fromkeys(name for sheet in sheets for name in sheet.columns))
    fix = f"call it {next(iter(classes))}_labels; data.label_columns names it where a run is trained"
    return HotloopError(f"no column of labels for {' or '.join(classes)}; there are {there}", where=where, fix=fix)


def _wanted(column: str | None, sheet: Sheet, sheets: Sequence[Sheet]) -> str | None:
    """data.text_column where the file has it; a file beside it may call its text otherwise."""
    somewhere = column is not None and any(column in other.columns for other in sheets)
    return None if somewhere and column not in sheet.columns else column


def _groups(sheets: Sequence[Sheet], column: str | None) -> Labels | None:
    if column is None:
        return None
    known: dict[str, int] = {}
    found = []
    for sheet in sheets:
        for record in sheet.records:
            value = record.values.get(column)
            if value is None or value == "":
                fix = f"give every row a {column}, or split in another way"
                raise HotloopError(f"the row has no {column}", where=sheet.at(record), fix=fix)
            found.append(known.setdefault(str(value), len(known)))
    return np.array(found, dtype=np.int64)


def _weights(sheets: Sequence[Sheet], wanted: bool) -> Numbers | None:
    if not wanted:
        return None
    found = []
    for sheet in sheets:
        for record in sheet.records:
            value = record.values.get("sample_weight")
            try:
                weight = math.nan if value is None or isinstance(value, bool) else float(value)
            except (TypeError, ValueError):
                weight = math.nan
            if not math.isfinite(weight):
                fix = "give every row a number in the column sample_weight, or leave data.use_sample_weights out"
                raise HotloopError(f"{value!r} is no sample weight", where=sheet.at(record), fix=fix)
            found.append(weight)
    return np.array(found, dtype=np.float32)


def require_examples(corpus: Corpus, rows: Labels, classes: Classes) -> list[str]:
    """A line for each class that no training row has.

    Args:
        corpus: texts with labels.
        rows: numbers of those that are trained on.
        classes: task -> its classes.

    Raises:
        HotloopError: a task without a single label, or with a single class.
    """
    lines = []
    files = ", ".join(f"{name} (lines 1 to {count + 1})" for name, count, _ in corpus.columns)
    for task, names in classes.items():
        labels = corpus.labels[task][rows]
        real = labels[labels != MISSING]
        counts = np.bincount(real, minlength=len(names))
        present = [name for name, count in zip(names, counts, strict=True) if count]
        if len(present) < 2:
            what = f"only the class {present[0]}" if present else "not a single label"
            fix = f"give examples of two classes of {task} at least, or leave it out: model.tasks names the others"
            if len(rows) < len(corpus.texts):
                fix += f"; {len(rows):,} of {len(corpus.texts):,} rows are trained on (data.limit, data.val_fraction)"
            what = f"the training part has {what} of {task}, so there is nothing to tell apart"
            raise HotloopError(what, where=files, fix=fix)
        absent = [name for name, count in zip(names, counts, strict=True) if not count]
        if absent:
            lines.append(f"{task}: no example of {', '.join(absent)} in {files}: it cannot be learned")
    return lines


def left_out(part: str, corpus: Corpus) -> list[str]:
    """A line where rows without any label are left out."""
    return [f"{part}: {corpus.unlabelled:,} rows without any label left out"] if corpus.unlabelled else []


def told(part: str, corpus: Corpus, classes: Mapping[str, Sequence[str]]) -> list[str]:
    """What a part holds: files, columns, and how many rows each class has."""
    shown = []
    for name, rows, used in corpus.columns:
        columns = ", ".join(task if task == column else f"{task} in {column}" for task, column in used.items())
        shown.append(f"{name}: {rows:,} rows ({columns or 'no labels'})")
    lines = [f"{part}: {'; '.join(shown)}", *left_out(part, corpus)]
    for task, names in classes.items():
        labels = corpus.labels[task]
        counts = np.bincount(labels[labels != MISSING], minlength=len(names))
        pairs = [f"{name} {count:,}" for name, count in zip(names[:12], counts, strict=False)]
        missing = int((labels == MISSING).sum())
        lines.append(
            f"{part}: {task}: {', '.join(pairs)}{', ...' if len(names) > 12 else ''}"
            + (f"; {missing:,} of {len(labels):,} without a label" if missing else "")
        )
    return lines
