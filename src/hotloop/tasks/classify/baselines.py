"""Simple predictors to beat: the most frequent class, and a linear model of which tokens and pairs of tokens occur.

Shapes: N rows, F hashed features, C classes, E occurrences of a feature in a row.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hotloop.data.source import required_column
from hotloop.tasks import classification
from hotloop.tasks.classify.labels import Classes
from hotloop.tasks.classify.outputs import mean_scores, scores_of

_FEATURES, _CHUNK = 1 << 15, 4096
_PENALTY = 3e-6  # on the squared weights: weak, as most features are rare
_STEPS = 40


def occurrences(source: Any, pad: int) -> Tensor:
    """Which tokens and pairs of neighbours occur in each row, hashed, each row of length 1: (N, F) sparse."""
    rows_e, columns_e = [], []
    for first in range(0, len(source), _CHUNK):
        part = torch.arange(first, min(first + _CHUNK, len(source)))
        ids = source.batch(part)["ids"].numpy()
        for row, column in _hashed(ids, pad):
            rows_e.append(row + first)
            columns_e.append(column)
    pairs = np.unique(np.stack([np.concatenate(rows_e), np.concatenate(columns_e)]), axis=1)
    rows = torch.from_numpy(pairs)
    counts = torch.bincount(rows[0], minlength=len(source)).clamp(min=1).float()
    return _sparse(rows, counts.rsqrt()[rows[0]], len(source))


def _sparse(places: Tensor, values: Tensor, rows: int) -> Tensor:
    """A sparse table (rows, F) for quick products; torch warns that it may change how these are made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.sparse_coo_tensor(places, values, (rows, _FEATURES)).coalesce().to_sparse_csr()


def _hashed(ids_bt: Any, pad: int) -> list[tuple[Any, Any]]:
    """Row and feature of every token, and of every pair."""
    found = []
    single, pair = ids_bt, ids_bt[:, :-1] * 1_000_003 + ids_bt[:, 1:]
    for values, real in ((single, ids_bt != pad), (pair, ids_bt[:, 1:] != pad)):
        row, place = np.nonzero(real)
        spread = values[row, place].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        found.append((row, (spread >> np.uint64(49)).astype(np.int64)))
    return found


def _fitted(x_nf: Tensor, y_n: Tensor, classes: int) -> Tensor:
    """Weights (F, C) of multinomial logistic regression, by L-BFGS with a gradient written out."""
    weight = torch.zeros(_FEATURES, classes, requires_grad=True)
    target, turned = (
        F.one_hot(y_n, classes).float(),
        x_nf.to_sparse(layout=torch.sparse_coo).t().coalesce().to_sparse_csr(),
    )
    solver = torch.optim.LBFGS([weight], max_iter=_STEPS, line_search_fn="strong_wolfe", history_size=6)

    @torch.no_grad()
    def closure() -> Tensor:
        logits = torch.sparse.mm(x_nf, weight)
        residual = (logits.softmax(dim=1) - target) / len(y_n)
        weight.grad = torch.sparse.mm(turned, residual) + 2 * _PENALTY * weight
        return F.cross_entropy(logits, y_n) + _PENALTY * weight.square().sum()

    solver.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach()


def measured(
    parts: Mapping[str, Any], classes: Classes, pad: int, weights: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Both predictors fitted on "train" and measured on the others, whose keys go before the metrics' names.

    Args:
        parts: "train", "" (validation) and "test_" -> source, or None.
        classes: task -> its classes.
        pad: the id that fills up rows.
        weights: of the tasks.
    """
    held = {prefix: part for prefix, part in parts.items() if prefix != "train" and part is not None}
    x_train = occurrences(parts["train"], pad)
    x_held = {prefix: occurrences(part, pad) for prefix, part in held.items()}
    found: dict[str, dict[str, float]] = {"majority": {}, "linear": {}}
    by_task: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for task, names in classes.items():
        column = "y" if len(classes) == 1 else task
        x, y = _labelled(x_train, parts["train"], column)
        weight = _fitted(x, y, len(names))
        for prefix, part in held.items():
            rows, labels = _labelled(x_held[prefix], part, column)
            if len(labels):
                table = classification.confusion_of(torch.sparse.mm(rows, weight), labels)
                by_task.setdefault((prefix, "linear"), {})[task] = scores_of(table)
                majority = classification.majority_scores(y, labels, len(names))
                by_task.setdefault((prefix, "majority"), {})[task] = majority
    for (prefix, name), scores in by_task.items():
        one = next(iter(scores.values())) if len(classes) == 1 else mean_scores(scores, weights)
        found[name] |= {prefix + metric: value for metric, value in one.items()}
    return found


def _labelled(x_nf: Tensor, source: Any, column: str) -> tuple[Tensor, Tensor]:
    """The rows that have a label, and their labels."""
    labels = required_column(source, column, "a baseline", "a baseline")
    real = (labels >= 0).nonzero().flatten()
    if len(real) == len(labels):
        return x_nf, labels
    return x_nf.to_sparse(layout=torch.sparse_coo).index_select(0, real).coalesce().to_sparse_csr(), labels[real]
