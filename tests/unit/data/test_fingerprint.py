"""Fingerprints: equal for equal data, different where a row, the size or a part differs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hotloop.data.fingerprint import difference, fingerprint
from hotloop.data.source import ArraySource, DatasetSource, TensorSource


def source(rows: int = 100, change: int | None = None) -> TensorSource:
    x = torch.arange(rows * 3.0).reshape(rows, 3)
    if change is not None:
        x[change] += 1
    return TensorSource({"x": x, "mask": torch.ones(rows, dtype=torch.bool)})


def of(**parts: TensorSource | None) -> dict:
    return {name: fingerprint(part, None) for name, part in parts.items() if part is not None}


def test_equal_data_gives_no_difference() -> None:
    assert difference(of(training=source(), validation=source(9)), of(training=source(), validation=source(9))) == ""
    arrays = [ArraySource({"x": np.ones((5, 2), dtype=np.float16)}) for _ in range(2)]
    assert fingerprint(arrays[0], None) == fingerprint(arrays[1], None)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"training": source(99)}, "the training part has 99 rows, it had 100"),
        ({"training": source(change=99)}, "rows of the training part have other contents"),
        ({"training": source(), "validation": source(5)}, "there was no validation part"),
        ({}, "there is no longer a training part"),
    ],
)
def test_the_difference_is_named(now: dict, said: str) -> None:
    assert difference(of(training=source()), of(**now)) == said


def test_nothing_is_fetched_from_a_persons_own_dataset() -> None:
    class Untouched:
        def __len__(self) -> int:
            return 7

        def __getitem__(self, index: int) -> None:
            raise AssertionError("fetched")

    assert fingerprint(DatasetSource(Untouched()), None) == {"rows": 7, "bytes": None}
