"""Splits: the laws that hold for any data, and what is said where they cannot."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotloop.data.split import fold_rows, grouped_rows, missing_classes, random_rows, stratified_rows, time_rows
from hotloop.errors import HotloopError

SEEDS = st.integers(0, 2**32 - 1)
LABELS = st.lists(st.integers(0, 4), min_size=8, max_size=120).map(np.array)
quick = settings(max_examples=60, deadline=None)


def whole(parts, n: int) -> bool:
    return sorted(torch.cat(parts).tolist()) == list(range(n))


@quick
@given(LABELS, st.floats(0.15, 0.85), SEEDS)
def test_stratified_keeps_each_class_within_a_row_of_its_share(labels, fraction, seed) -> None:
    train, val = stratified_rows(labels, fraction, seed)
    assert whole((train, val), len(labels))
    for label in np.unique(labels):
        count, held = (labels == label).sum(), (labels[val.numpy()] == label).sum()
        assert abs(held - count * fraction) <= 1
        assert held < count  # a class with one row trains
    assert torch.equal(val, stratified_rows(torch.from_numpy(labels), fraction, seed)[1])


@quick
@given(st.lists(st.integers(0, 6), min_size=6, max_size=40).map(np.array), st.floats(0.1, 0.9), SEEDS)
def test_groups_stay_whole_and_come_as_near_as_they_can(groups, fraction, seed) -> None:
    sizes = np.unique(groups, return_counts=True)[1].tolist()
    if len(sizes) < 2:
        with pytest.raises(HotloopError, match="all rows belong to 1 group"):
            grouped_rows(groups, fraction, seed)
        return
    train, val = grouped_rows(groups, fraction, seed)
    assert whole((train, val), len(groups))
    assert not set(groups[train.numpy()]) & set(groups[val.numpy()])
    sums = [sum(some) for k in range(1, len(sizes)) for some in combinations(sizes, k)]
    target = len(groups) * fraction
    assert abs(len(val) - target) == pytest.approx(min(abs(s - target) for s in sums))


@quick
@given(st.integers(4, 200), st.integers(0, 3), st.floats(0.2, 0.6))
def test_time_validates_on_the_end_with_a_gap(n, gap, fraction) -> None:
    held = round(n * fraction)
    if n - held - gap <= 0:
        with pytest.raises(HotloopError, match="nothing to train on"):
            time_rows(n, fraction, gap)
        return
    train, val = time_rows(n, fraction, gap)
    assert val.tolist() == list(range(n - held, n))
    assert train.tolist() == list(range(n - held - gap))


@quick
@given(LABELS, st.integers(2, 5), SEEDS, st.sampled_from(["random", "stratified", "group"]))
def test_every_row_validates_in_exactly_one_fold(labels, folds, seed, how) -> None:
    n = len(labels)
    if how == "group" and len(np.unique(labels)) < folds:
        with pytest.raises(HotloopError, match="groups cannot fill"):
            fold_rows(how, n, folds, 0, seed, groups=labels)
        return
    parts = [fold_rows(how, n, folds, k, seed, labels=labels, groups=labels) for k in range(folds)]
    assert all(whole(part, n) for part in parts)
    assert whole([val for _, val in parts], n)
    for label in np.unique(labels):
        counts = [int((labels[val.numpy()] == label).sum()) for _, val in parts]
        if how == "stratified":
            assert max(counts) - min(counts) <= 1
        if how == "group":
            assert sum(count > 0 for count in counts) == 1


def test_folds_by_time_never_train_on_what_comes_after() -> None:
    parts = [fold_rows("time", 60, 5, fold, 0, gap=2) for fold in range(5)]
    assert [len(val) for _, val in parts] == [10] * 5
    assert all(int(train.max()) + 3 == int(val.min()) for train, val in parts)


def test_another_seed_is_another_split() -> None:
    groups = np.arange(100) // 5
    for cut in (lambda s: random_rows(100, 0.2, s), lambda s: stratified_rows(groups, 0.2, s)):
        assert torch.equal(cut(1)[1], cut(1)[1]) and not torch.equal(cut(1)[1], cut(2)[1])
    assert set(grouped_rows(groups, 0.2, 1)[1].tolist()) != set(grouped_rows(groups, 0.2, 2)[1].tolist())


@pytest.mark.parametrize(
    ("folds", "fold", "says"), [(1, 0, "cannot be cut"), (9, 0, "cannot be cut"), (3, 3, "no fold 3")]
)
def test_folds_that_cannot_be_are_refused(folds, fold, says) -> None:
    with pytest.raises(HotloopError, match=says):
        fold_rows("random", 8, folds, fold, 0)


def test_a_class_that_a_part_lacks_is_told() -> None:
    assert missing_classes(np.array([0, 1]), np.array([1, 0])) == []
    lines = missing_classes(torch.tensor([0, 0, 1]), torch.tensor([1, 2]), ["cat", "dog"])
    assert lines == [
        "class cat has 2 rows in training and none in validation: it is not measured",
        "class 2 has 1 row in validation and none in training: it cannot be learned",
    ]
