"""Sources of token rows with labels, and which rows of the data are in which part.

One task: the batch has ids (B, T) and y (B,). Several: ids, a column of labels (B,) for each task, -1 where missing,
and a `weight` for each that masks these. N rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop.data.ragged import Ragged, RaggedSource
from hotloop.data.source import TensorSource, required_column
from hotloop.errors import HotloopError
from hotloop.tasks.classify.corpus import Corpus
from hotloop.tasks.classify.labels import Labels
from hotloop.tasks.classify.options import ClassifyData

_ROW = "row"


def numbered(corpus: Corpus) -> TensorSource:
    """The rows of a corpus by number, with what a split needs to know of them."""
    first = next(iter(corpus.labels.values()))
    columns = {_ROW: torch.arange(len(corpus.texts)), "y": torch.from_numpy(first)}
    if corpus.groups is not None:
        columns["group"] = torch.from_numpy(corpus.groups)
    return TensorSource(columns)


def rows_of(source: Any) -> Labels:
    """The numbers of the rows that a part was given."""
    return required_column(source, _ROW, "data", "a part").numpy()


def fitting(corpus: Corpus, rows: Labels, data: ClassifyData) -> tuple[Labels, list[str]]:
    """The training rows whose texts are neither too short nor too long, and a line that counts the others."""
    lengths = corpus.lengths()[rows]
    longest = data.max_length if data.max_length is not None else int(lengths.max(initial=0))
    short, long = lengths < data.min_length, lengths > longest
    kept = rows[~short & ~long]
    if not len(kept):
        fix = "lower data.min_length, or raise data.max_length"
        raise HotloopError("no training text is of the length asked for", where="data.min_length", fix=fix)
    parts = [f"{int(short.sum()):,} shorter than {data.min_length}"] if short.any() else []
    parts += [f"{int(long.sum()):,} longer than {longest}"] if long.any() else []
    return kept, [f"train: left out {' and '.join(parts)} characters"] if parts else []


def shared_texts(train: Corpus, rows: Labels, other: Corpus, others: Labels) -> int:
    """Texts of another part that stand in the training part too."""
    return int(np.isin(other.keys()[others], train.keys()[rows]).sum())


def build(
    tokens: Ragged, corpus: Corpus | None, rows: Labels | None, widths: tuple[int, ...], pad: int
) -> RaggedSource:
    """The source of some rows; without a corpus, of texts without labels."""
    columns: dict[str, Tensor] = {}
    tasks: tuple[str, ...] = ()
    if corpus is not None and rows is not None:
        tasks = tuple(corpus.labels)
        names = ("y",) if len(tasks) == 1 else tasks
        columns = {name: torch.from_numpy(corpus.labels[task][rows]) for name, task in zip(names, tasks, strict=True)}
        if corpus.weights is not None:
            columns["sample_weight"] = torch.from_numpy(corpus.weights[rows])
    finish = partial(_masked, tasks) if len(tasks) > 1 else None
    return RaggedSource({"ids": tokens}, columns, pad=pad, widths={"ids": widths}, finish=finish)


def _masked(tasks: tuple[str, ...], batch: dict[str, Any]) -> dict[str, Any]:
    """A weight for each task, 0 where its label is missing."""
    weight = {task: (batch[task] >= 0).float() for task in tasks}
    return {**batch, "weight": weight}
