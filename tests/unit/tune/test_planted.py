"""A ladder keeps what is faster and computes the same, and nothing else: twenty of twenty for each planted fault."""

from __future__ import annotations

import numpy as np
import pytest

from hotloop.runs.reporter import Silent
from hotloop.tune.knobs import Rung
from hotloop.tune.ladder import Ladder
from hotloop.tune.row import Row

from .planted import PLANTS, Plant, PlantedTrack, loaded, nothing

TRIALS = 20


def _tried(plant: Plant, seed: int, factor: float = 2.0, noise: float = 0.02) -> Row:
    """The one candidate of a ladder, with a fault planted in it."""
    track = PlantedTrack(plant, np.random.default_rng(seed), factor, noise)
    ladder = Ladder(track, loaded(seed), Silent(), minutes=0.2)
    ladder.climb([[Rung("candidate", {"training.log_every": 7})]])
    ladder.close()
    (row,) = ladder.rows
    return row


def test_an_honest_candidate_that_is_faster_is_kept_each_time() -> None:
    rows = [_tried(nothing, seed) for seed in range(TRIALS)]
    assert [row.kept for row in rows] == [True] * TRIALS, [row.reason for row in rows if not row.kept]
    assert all(row.loss_difference == 0.0 and row.loss_verdict == "same" for row in rows)
    assert all(1.8 < row.factor < 2.2 for row in rows)


@pytest.mark.parametrize("name", PLANTS)
def test_a_faster_candidate_that_computes_something_else_is_rejected_each_time(name: str) -> None:
    rows = [_tried(PLANTS[name], seed) for seed in range(TRIALS)]
    assert [row.kept for row in rows] == [False] * TRIALS
    assert all("differ" in row.reason for row in rows), {row.reason for row in rows}


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.3])
def test_a_candidate_that_is_only_noise_is_rejected_each_time(noise: float) -> None:
    rows = [_tried(nothing, seed, factor=1.0, noise=noise) for seed in range(TRIALS)]
    assert [row.kept for row in rows] == [False] * TRIALS
