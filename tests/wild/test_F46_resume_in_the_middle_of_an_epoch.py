"""F46: resuming in the middle of an epoch starts the data again: half is trained twice, half never.

Here every row is trained exactly once an epoch, wherever the run was cut.
"""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(("cut", "workers"), [(3, 0), (8, 0), (11, 0), (11, 1)])
def test_every_row_once_an_epoch(cut, workers, tiny):
    settings = {"max_steps": 16, "checkpoint_every": 1, "num_workers": workers, "eval_every": "off"}
    run = tiny.cut(at=cut, **settings)
    before = tiny.trained[-cut:][: cut - 1]  # the last step was lost with the power
    tiny.go_on(run, **settings)
    assert len(tiny.trained) == 16 - (cut - 1)
    rows = [row for batch in before + tiny.trained for row in batch]
    assert sorted(rows) == sorted([*range(60), *range(60)])
    assert sorted(rows[:60]) == list(range(60))


class Rows:
    """The data as a torch Dataset."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return {name: value[index] for name, value in self.data.items()}


def test_a_torch_dataset_too(tiny):
    settings = {"max_steps": 8, "checkpoint_every": 3, "eval_every": "off", "data": Rows(tiny.data)}
    run = tiny.cut(at=5, **settings)
    before = tiny.trained[-5:][:3]
    tiny.go_on(run, **settings)
    assert sorted(row for batch in before + tiny.trained for row in batch) == list(range(60))


def test_workers_leave_the_generator_of_dropout_alone(tiny, assert_equal):
    """Starting them draws a seed; they are started once more where a run goes on, and dropout must not notice."""
    settings = {"max_steps": 8, "checkpoint_every": 3, "eval_every": "off", "num_workers": 1, "data": Rows(tiny.data)}
    whole, resumed = tiny.net(), tiny.net()
    tiny.fit(whole, **settings)
    run = tiny.cut(at=5, **settings)
    tiny.go_on(run, resumed, **settings)
    assert_equal(resumed, whole)
