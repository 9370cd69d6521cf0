"""F35: a file with all positives first, cut without shuffling. Random and stratified splits see both classes."""

from __future__ import annotations

import numpy as np
import pytest

from hotloop.data.split import fold_rows, missing_classes, random_rows, stratified_rows, time_rows

LABELS = np.repeat([1, 0], [60, 140])


@pytest.mark.parametrize("seed", range(5))
def test_a_sorted_file_has_both_classes_on_both_sides(seed) -> None:
    for train, val in (
        random_rows(200, 0.2, seed),
        stratified_rows(LABELS, 0.2, seed),
        fold_rows("random", 200, 5, 0, seed),
        fold_rows("stratified", 200, 5, 0, seed, labels=LABELS),
    ):
        assert missing_classes(LABELS[train.numpy()], LABELS[val.numpy()]) == []


def test_cut_by_time_the_missing_class_is_reported() -> None:
    train, val = time_rows(200, 0.2)
    [line] = missing_classes(LABELS[train.numpy()], LABELS[val.numpy()], ["negative", "positive"])
    assert line == "class positive has 60 rows in training and none in validation: it is not measured"
