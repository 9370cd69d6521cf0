"""Order-book windows: a batch is the rows themselves, ids stay with their windows, memory stays small."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hotloop.tasks.lob.features import Features, mirrored
from hotloop.tasks.lob.options import LobData, LobModel
from hotloop.tasks.lob.simulate import barriers, simulate
from hotloop.tasks.lob.task import Lob
from hotloop.tasks.lob.windows import Windows


@pytest.fixture(scope="module")
def books():
    return simulate(4, 300, 100, seed=3)


def test_a_batch_is_gathered_from_the_rows(books):
    source = Windows(books, 100)
    chosen = torch.tensor([5, 0, len(source) - 1])
    batch = source.batch(chosen)
    assert batch["x"].shape == (3, 100, 20)
    for row, window in enumerate(chosen.tolist()):
        start = int(books.starts[window])
        assert torch.equal(batch["x"][row], books.rows[start : start + 100])
    assert torch.equal(batch["y"], books.y[chosen])
    assert torch.equal(source.column("group"), books.symbols)
    assert source.column("sample_weight") is None


def test_two_parts_share_one_copy_of_the_rows(books):
    train, val = Windows(books.at(torch.arange(20)), 100), Windows(books.at(torch.arange(20, 40)), 100)
    val.share_rows_with(train)
    there = torch.device("meta")
    assert train.to(there).books.rows is val.to(there).books.rows
    assert train.to(there) is train.to(there)


def test_the_real_data_takes_less_than_50_megabytes(shared_data):
    path = shared_data("tw-lob/tw_lob_rows.npz")
    task = Lob(LobModel(), LobData(path=str(path)), seed=1)
    splits = task.sources()
    assert len(splits.train) + len(splits.val) == 30_472
    assert splits.train.nbytes + splits.val.nbytes < 50e6  # as windows they would take 244 MB
    stored = np.load(path)
    held = set(np.random.default_rng(0).permutation(np.unique(stored["stock_ids"]))[36:].tolist())
    names = splits.val.books.names
    assert {names[number] for number in splits.val.column("group").unique().tolist()} == held


def test_mirroring_twice_changes_nothing_and_once_swaps_the_sides(books):
    batch = Windows(books, 100).batch(torch.arange(4))
    flip = torch.tensor([True, False, True, True])
    x, y = mirrored(batch["x"].double(), batch["y"], flip)
    assert torch.equal(y, torch.where(flip, 2 - batch["y"], batch["y"]))
    assert torch.equal(x[1], batch["x"][1].double())
    assert torch.equal(x[0, :, 1::4], batch["x"][0, :, 3::4].double())
    assert (x[:, :, 0] > x[:, :, 2]).all()  # asks stay above bids
    again, _ = mirrored(x, y, flip)
    torch.testing.assert_close(again, batch["x"].double())


def test_relative_features_do_not_see_the_level_and_mirror_with_the_book(books):
    source = Windows(books, 100)
    features = Features(True, 20).fit(source, standard=False)
    x = source.batch(torch.arange(6))["x"].double()
    dearer = x.clone()
    dearer[..., 0::2] *= 3.0
    torch.testing.assert_close(features(dearer), features(x), atol=1e-3, rtol=1e-3)
    flipped, _ = mirrored(x, torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.bool))
    torch.testing.assert_close(features(flipped)[..., 0::4], -features(x)[..., 2::4], atol=0.05, rtol=0.05)
    torch.testing.assert_close(features(flipped)[..., 1::4], features(x)[..., 3::4])
    assert 0.3 < features(source.batch(torch.arange(len(source)))["x"]).std() < 3.0


def test_scaling_is_fitted_on_the_training_part_alone():
    data = LobData(scaling="standard", symbols=4, rows=300)
    task = Lob(LobModel(), data, seed=1)
    splits = task.sources()
    everything = torch.arange(len(splits.train))
    seen = task.features(splits.train.batch(everything)["x"])
    torch.testing.assert_close(seen.mean((0, 1)), torch.zeros(20), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen.std((0, 1)), torch.ones(20), atol=1e-2, rtol=0)
    assert task.features(splits.val.batch(torch.arange(len(splits.val)))["x"]).mean((0, 1)).abs().max() > 0.01


def test_barriers_say_which_side_is_met_first():
    flat = np.zeros((3, 60))
    flat[0, 5:] = 2.0
    flat[1, 5:], flat[1, 9:] = -2.0, 5.0
    assert barriers(flat, np.ones((3, 1)))[:, 0].tolist() == [2, 0, 1]


def test_the_simulator_is_a_function_of_its_seed():
    one, same, other = (simulate(3, 250, 100, seed) for seed in (1, 1, 2))
    assert torch.equal(one.rows, same.rows) and torch.equal(one.y, same.y)
    assert not torch.equal(one.rows, other.rows)
    asks, bids = one.rows[:, 0::4], one.rows[:, 2::4]
    assert (asks.diff(dim=1) > 0).all() and (bids.diff(dim=1) < 0).all() and (asks[:, 0] > bids[:, 0]).all()
    assert "synthetic" in one.origin
