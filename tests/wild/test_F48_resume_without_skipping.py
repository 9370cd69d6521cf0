"""F48: resume skips through hours of batches to find its place. Here the place is arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hotloop.data.loader import IndexStream
from hotloop.data.sampler import RandomStarts, ShiftedBlocks, Shuffle


class Counting:
    """A torch Dataset that remembers which items were asked for."""

    def __init__(self, data):
        self.data, self.asked = data, []

    def __len__(self):
        return 60

    def __getitem__(self, index):
        self.asked.append(index)
        return {name: value[index] for name, value in self.data.items()}


def test_no_batch_before_the_place_is_fetched(tiny):
    settings = {"max_steps": 200, "checkpoint_every": 10, "eval_every": "off", "log_every": 100}
    whole = Counting(tiny.data)
    tiny.fit(tiny.net(), data=whole, **settings)
    run = tiny.cut(at=195, data=Counting(tiny.data), **settings)
    resumed = Counting(tiny.data)
    tiny.go_on(run, data=resumed, **settings)
    trained = [row for batch in tiny.trained for row in batch]
    assert len(tiny.trained) == 10
    assert resumed.asked == trained == whole.asked[-len(trained) :]


class Watched:
    """A sampler that notes what is worked out."""

    def __init__(self, sampler):
        self.sampler, self.batch_size, self.steps_per_epoch = sampler, sampler.batch_size, sampler.steps_per_epoch
        self.worked_out = []

    def indices(self, epoch, step, count=1):
        found = self.sampler.indices(epoch, step, count)
        self.worked_out.append((epoch, step, len(found)))
        return found


@pytest.mark.parametrize(
    "sampler",
    [
        Shuffle(10**9, 32, seed=1),
        RandomStarts(10**9, 32, seed=1, steps_per_epoch=10**7),
        ShiftedBlocks(10**9, 64, 32, seed=1),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_a_place_far_into_a_billion_items_costs_one_chunk(sampler):
    watched = Watched(sampler)
    epoch, within = 123, watched.steps_per_epoch - 5
    stream = iter(IndexStream(watched, torch.device("cpu"), epoch * watched.steps_per_epoch + within))
    found = next(stream)
    assert np.array_equal(found.numpy(), sampler.indices(epoch, within))
    [(first_epoch, first_step, items)] = watched.worked_out
    assert (first_epoch, first_step) == (epoch, within)
    assert items <= 5 * 32
