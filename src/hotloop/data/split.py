"""Which rows train and which validate: at random, by class, by whole groups, by time; once, or in folds.

Pure functions of the numbers given and a seed, with the keyed permutation of the samplers, so that a run that goes on
holds out the same rows. Each returns (training rows, validation rows), int64 tensors that share no row and are never
empty. Shapes: N rows; labels (N,) and groups (N,) hold any values that can be sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hotloop.data.sampler import Indices, key_of, permute
from hotloop.errors import HotloopError

How = Literal["random", "stratified", "group", "time"]
Rows = tuple[Tensor, Tensor]
_PURPOSE, _MIXING = 6, 10  # of the key; a seed serves several random streams
_EXACT = 400_000_000  # bits of the table of reachable sums; above it groups are so many that a greedy choice is as near


def random_rows(n: int, fraction: float, seed: int) -> Rows:
    """Hold out round(n x fraction) rows drawn at random.

    Args:
        n: rows.
        fraction: share to validate on, in (0, 1).
        seed: another seed draws other rows.

    Raises:
        HotloopError: one of the two parts would be empty.
    """
    held = round(n * fraction)
    order = permute(np.arange(n), n, key_of(seed, _PURPOSE)) if n else np.arange(0)
    return _parts(order[held:], order[:held], f"holding out {fraction:g} of {n} rows")


def stratified_rows(labels: Tensor | Indices, fraction: float, seed: int) -> Rows:
    """Hold out the same share of each class, to within one row; a class with a single row trains.

    Args:
        labels: (N,) the class of each row. A class of two rows or more is on both sides wherever the share of all
            rows has room for it; `missing_classes` tells of those that are not.
        fraction: share to validate on, in (0, 1).
        seed: another seed draws other rows.

    Raises:
        HotloopError: one of the two parts would be empty.
    """
    members = _members(labels, seed)
    counts = np.array([len(rows) for rows in members])
    held = _held_of_each(counts, fraction)
    val = [rows[:count] for rows, count in zip(members, held, strict=True)]
    train = [rows[count:] for rows, count in zip(members, held, strict=True)]
    return _parts(_joined(train), _joined(val), f"holding out {fraction:g} of each of {len(counts)} classes")


def _held_of_each(counts: Indices, fraction: float) -> Indices:
    """Rows of each class to hold out: its share rounded up or down, so that all together are the share of all."""
    shares = counts * fraction
    held: Indices = np.floor(shares + 1e-9).astype(np.int64)
    can_grow = np.flatnonzero(held + 1 < counts)  # one row at least stays in training
    order = can_grow[np.lexsort((-(shares - held)[can_grow], held[can_grow] > 0))]  # classes with none yet come first
    wanting = max(0, round(int(counts.sum()) * fraction) - int(held.sum()))
    held[order[:wanting]] += 1
    return held


def grouped_rows(groups: Tensor | Indices, fraction: float, seed: int) -> Rows:
    """Hold out whole groups whose rows together come as near to the share as whole groups can.

    Args:
        groups: (N,) what must not be on both sides: a patient, an author, a symbol.
        fraction: share of the rows to validate on, in (0, 1).
        seed: another seed draws other groups, where several choices come as near.

    Raises:
        HotloopError: there are fewer than two groups.
    """
    members = _members(groups, seed)
    if len(members) < 2:
        raise HotloopError(
            f"all rows belong to {len(members)} group, so none can be held out",
            where="data.split=group",
            fix="split by a column with at least two groups, or use data.split=random",
        )
    order = permute(np.arange(len(members)), len(members), key_of(seed, _PURPOSE))
    sizes = [len(members[number]) for number in order]
    chosen = {int(order[place]) for place in _nearest(sizes, sum(sizes) * fraction)}
    val = [rows for number, rows in enumerate(members) if number in chosen]
    train = [rows for number, rows in enumerate(members) if number not in chosen]
    return _parts(_joined(train), _joined(val), f"holding out {fraction:g} of {len(members)} groups")


def _nearest(sizes: Sequence[int], target: float) -> list[int]:
    """Places of the sizes whose sum is nearest to `target`, some but not all: subset sum over bit sets."""
    if len(sizes) * sum(sizes) > _EXACT:
        return _greedy(sizes, target)
    reachable = [1]  # bit s of number k: the first k sizes can add up to s
    for size in sizes:
        reachable.append(reachable[-1] | reachable[-1] << size)
    sums = [s for s in range(1, sum(sizes)) if reachable[-1] >> s & 1]
    rest = min(sums, key=lambda s: (abs(s - target), s))
    chosen = []
    for place in range(len(sizes) - 1, -1, -1):
        if not reachable[place] >> rest & 1:
            chosen.append(place)
            rest -= sizes[place]
    return chosen


def _greedy(sizes: Sequence[int], target: float) -> list[int]:
    """Places taken in order as long as each brings the sum nearer to the target; one at least is taken, one left."""
    chosen: list[int] = []
    total = 0
    for place, size in enumerate(sizes):
        nearer = abs(total + size - target) < abs(total - target)
        if nearer and len(chosen) < len(sizes) - 1:
            chosen.append(place)
            total += size
    return chosen or [int(np.argmin(sizes))]


def mixed(rows: Tensor, seed: int) -> Tensor:
    """The same rows in another order, so that the first of them are a sample of all, and not one class or group."""
    order = permute(np.arange(len(rows)), len(rows), key_of(seed, _MIXING))
    return rows.index_select(0, torch.from_numpy(order))


def time_rows(n: int, fraction: float, gap: int = 0) -> Rows:
    """Validate on the last rows; of what comes before, the `gap` rows next to them are in neither part.

    Args:
        n: rows, the oldest first.
        fraction: share to validate on, in (0, 1).
        gap: rows left out, so that no window or label of training reaches into validation.

    Raises:
        HotloopError: one of the two parts would be empty.
    """
    first = n - round(n * fraction)
    return _parts(
        np.arange(max(0, first - gap)),
        np.arange(first, n),
        f"holding out the last {fraction:g} of {n} rows" + _gap(gap),
    )


def fold_rows(
    how: How,
    n: int,
    folds: int,
    fold: int,
    seed: int,
    *,
    labels: Tensor | Indices | None = None,
    groups: Tensor | Indices | None = None,
    gap: int = 0,
) -> Rows:
    """One fold of a cross-validation: every row validates in exactly one fold, and trains in the others.

    By time it is different, as nothing may train on what comes after: the rows are cut into `folds` + 1 blocks, fold k
    validates on block k + 1 and trains on all blocks before it, less the `gap`.

    Args:
        how: random, stratified (each class equally often, to within a row), group (whole, sizes balanced), time.
        n: rows.
        folds, fold: how many (at least 2), and which (from 0).
        seed: of the deal.
        labels, groups: (N,) for stratified and for group.
        gap: rows between training and validation, by time.

    Raises:
        HotloopError: more folds than there are rows or groups, or no such fold.
    """
    _check_folds(n, folds, fold)
    if how == "time":
        return _time_fold(n, folds, fold, gap)
    if how == "group":
        assert groups is not None, "splitting by group needs the groups"
        of_row = _group_folds(_members(groups, seed), n, folds, seed)
    else:
        assert how == "random" or labels is not None, "stratifying needs the labels"
        members = _members(np.zeros(n, dtype=np.int64) if how == "random" or labels is None else labels, seed)
        of_row = np.empty(n, dtype=np.int64)
        of_row[_joined(members)] = np.arange(n) % folds  # dealt out class after class, so each class evenly
    rows = np.arange(n)
    return _parts(rows[of_row != fold], rows[of_row == fold], f"fold {fold} of {folds} over {n} rows")


def _time_fold(n: int, folds: int, fold: int, gap: int) -> Rows:
    """Validate on one block and train on all blocks before it."""
    edges = np.linspace(0, n, folds + 2).astype(np.int64)
    return _parts(
        np.arange(max(0, edges[fold + 1] - gap)),
        np.arange(edges[fold + 1], edges[fold + 2]),
        f"fold {fold} of {folds} over {n} rows" + _gap(gap),
    )


def _group_folds(members: Sequence[Indices], n: int, folds: int, seed: int) -> Indices:
    """The fold of each row: the largest group first, each to the fold that has the fewest rows so far."""
    if len(members) < folds:
        raise HotloopError(
            f"{len(members)} groups cannot fill {folds} folds", where="data.folds", fix=f"use at most {len(members)}"
        )
    shuffled = permute(np.arange(len(members)), len(members), key_of(seed, _PURPOSE))
    of_row, sizes = np.empty(n, dtype=np.int64), np.zeros(folds, dtype=np.int64)
    for number in sorted(shuffled, key=lambda number: -len(members[number])):
        fewest = int(np.argmin(sizes))
        of_row[members[number]] = fewest
        sizes[fewest] += len(members[number])
    return of_row


def missing_classes(
    labels_train: Tensor | Indices, labels_val: Tensor | Indices, names: Sequence[str] = ()
) -> list[str]:
    """A line for each class that is in one part and not in the other; empty where both have all.

    Args:
        labels_train, labels_val: (N,) class numbers of the two parts.
        names: of the classes by their number; a class without a name is told by its number.
    """
    counts = [
        dict(zip(*(part.tolist() for part in _counted(labels)), strict=True))
        for labels in _two(labels_train, labels_val)
    ]
    lines = []
    for label in sorted({**counts[0], **counts[1]}):
        known = isinstance(label, int) and 0 <= label < len(names)
        name = f"class {names[label] if known else label}"
        if label not in counts[0]:
            lines.append(
                f"{name} has {_rows(counts[1][label])} in validation and none in training: it cannot be learned"
            )
        elif label not in counts[1]:
            lines.append(f"{name} has {_rows(counts[0][label])} in training and none in validation: it is not measured")
    return lines


def _two(*labels: Tensor | Indices) -> list[Indices]:
    return [np.asarray(part) for part in labels]


def _counted(labels: Indices) -> tuple[Any, Any]:
    found: tuple[Any, Any] = np.unique(labels, return_counts=True)
    return found


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _gap(gap: int) -> str:
    return f" with a gap of {_rows(gap)}" if gap else ""


def _members(labels: Tensor | Indices, seed: int) -> list[Indices]:
    """The rows of each distinct label, in sorted order of the labels, each in its own keyed order."""
    _, numbers = np.unique(np.asarray(labels), return_inverse=True)
    order = np.argsort(numbers.reshape(-1), kind="stable")
    found = np.split(order, np.flatnonzero(np.diff(numbers.reshape(-1)[order])) + 1) if len(order) else []
    return [
        rows[permute(np.arange(len(rows)), len(rows), key_of(seed, _PURPOSE, number))]
        for number, rows in enumerate(found)
    ]


def _joined(parts: Sequence[Indices]) -> Indices:
    return np.concatenate(parts) if len(parts) else np.arange(0)


def _check_folds(n: int, folds: int, fold: int) -> None:
    if not 2 <= folds <= n:
        raise HotloopError(
            f"{n} rows cannot be cut into {folds} folds", where="data.folds", fix=f"use 2 to {n}, or more rows"
        )
    if not 0 <= fold < folds:
        raise HotloopError(f"there is no fold {fold}: {folds} folds are numbered 0 to {folds - 1}", where="fold")


def _parts(train: Indices, val: Indices, what: str) -> Rows:
    """Both parts as tensors, or the error that one is empty."""
    if not len(train) or not len(val):
        raise HotloopError(
            f"{what} leaves nothing to {'train' if not len(train) else 'validate'} on",
            where="data.val_fraction",
            fix="use more data, another share, or data.val_fraction=0 to train without validation",
        )
    return torch.from_numpy(np.ascontiguousarray(train)), torch.from_numpy(np.ascontiguousarray(val))
