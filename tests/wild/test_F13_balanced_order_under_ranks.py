"""F13: under several ranks the weighted sampler is silently replaced by a plain one. Here a rank's part is cut out of
whatever order there is: all ranks together see the batches that one process would.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotloop.data.ranks import RankShare
from hotloop.data.sampler import Balanced, Shuffle

LABELS = np.array([0] * 70 + [1] * 20 + [2] * 7)


@settings(max_examples=60, deadline=None)
@given(
    ranks=st.integers(1, 5),
    batch=st.integers(5, 24),
    epoch=st.integers(0, 4),
    kind=st.sampled_from(["balanced", "plain"]),
)
def test_the_ranks_together_see_the_batches_of_one_process(ranks, batch, epoch, kind):
    whole = Balanced(LABELS, batch, 3) if kind == "balanced" else Shuffle(len(LABELS), batch, 3)
    shares = [RankShare(whole, rank, ranks) for rank in range(ranks)]
    for step in range(whole.steps_per_epoch):
        parts = [share.indices(epoch, step) for share in shares]
        assert sorted(np.concatenate(parts)) == sorted(whole.indices(epoch, step))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    together = [share.indices(epoch, 0, whole.steps_per_epoch) for share in shares]
    assert sum(map(len, together)) == len(LABELS)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_rank_sees_every_class_equally_often(ranks):
    share = RankShare(Balanced(LABELS, 24, 0), 0, ranks)
    drawn = np.concatenate([share.indices(epoch, 0, share.steps_per_epoch) for epoch in range(30)])
    counts = np.bincount(LABELS[drawn])
    assert counts.max() / counts.min() < 1.1, counts


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    batch=st.integers(1, 20),
    seed=st.integers(0, 99),
    start=st.integers(0, 10),
)
def test_the_balanced_order_is_even_complete_and_can_be_sought(sizes, batch, seed, start):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    order = Balanced(labels, batch, seed)
    epochs = 2 * max(sizes)
    drawn = np.concatenate([order.indices(epoch, 0, order.steps_per_epoch) for epoch in range(epochs)])
    counts = np.bincount(labels[drawn], minlength=len(sizes))
    assert counts.max() - counts.min() <= epochs, "every epoch is even to within one row"
    assert set(drawn) == set(range(len(labels))), "every row is seen"
    step = start % order.steps_per_epoch
    steps = [order.indices(1, number) for number in range(step, order.steps_per_epoch)]
    assert np.array_equal(order.indices(1, step, order.steps_per_epoch), np.concatenate(steps))
