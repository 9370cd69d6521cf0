"""Token rows of different lengths: padded alike whatever else is in the batch, measured in their own order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotloop.data.ragged import Ragged, RaggedSource, bucket_widths, source_buckets
from hotloop.data.source import Subset
from hotloop.errors import HotloopError

ROWS = [[5], [1, 2, 3], [], [7] * 20, [4] * 9]


def test_rows_come_back_padded_and_whole() -> None:
    ragged = Ragged.of(ROWS)
    assert ragged.padded(np.array([1, 2, 0]), 4, 0).tolist() == [[1, 2, 3, 0], [0] * 4, [5, 0, 0, 0]]


def test_a_batch_is_as_wide_as_its_longest_row_needs() -> None:
    source = RaggedSource({"ids": Ragged.of(ROWS)}, {"y": torch.arange(5)}, widths={"ids": (4, 12, 20)})
    assert source.batch(torch.tensor([0, 1]))["ids"].shape == (2, 4)
    assert source.batch(torch.tensor([0, 4]))["ids"].shape == (2, 12)
    batch = source.batch(torch.tensor([3, 1]))
    assert batch["ids"].shape == (2, 20) and batch["y"].tolist() == [3, 1]
    assert source.buckets.tolist() == [0, 0, 0, 2, 1]


def test_two_token_columns_share_the_buckets_and_a_subset_keeps_them() -> None:
    both = {"src": Ragged.of(ROWS), "tgt": Ragged.of(ROWS[::-1])}
    source = RaggedSource(both, widths={"src": (8, 20), "tgt": (8, 20)})
    assert source.buckets.tolist() == [1, 1, 0, 2, 2]
    assert source_buckets(Subset(source, torch.tensor([3, 0]))).tolist() == [2, 1]


def test_finish_makes_what_the_task_wants() -> None:
    source = RaggedSource({"ids": Ragged.of(ROWS)}, finish=lambda b: {**b, "weight": (b["ids"] != 0).float()})
    assert source.batch(torch.tensor([1]))["weight"].sum() == 3


def test_parts_of_different_lengths_are_refused() -> None:
    with pytest.raises(HotloopError, match="differ in their number of rows"):
        RaggedSource({"ids": Ragged.of(ROWS)}, {"y": torch.arange(4)})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=80), st.integers(1, 6))
def test_widths_hold_every_row_and_waste_no_more_than_one_width(lengths: list[int], count: int) -> None:
    found = np.array(lengths)
    widths = bucket_widths(found, count)
    assert list(widths) == sorted(set(widths)) and len(widths) <= count and widths[-1] >= found.max()
    assert all(width % 8 == 0 for width in widths)
    area = np.array(widths)[np.searchsorted(widths, found)].sum()
    assert area <= widths[-1] * len(found)
