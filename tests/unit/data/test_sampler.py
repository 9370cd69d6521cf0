"""Samplers are pure functions of (seed, epoch, step): permutations, uniform draws, disjoint blocks; seeks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotloop.data.loader import IndexStream
from hotloop.data.sampler import Bucketed, RandomStarts, ShiftedBlocks, Shuffle, key_of, permute

few = settings(max_examples=40, deadline=None)
lengths = st.integers(1, 700)
batch_sizes = st.integers(1, 60)
seeds = st.integers(0, 2**32 - 1)
epochs = st.integers(0, 50)


def whole_epoch(sampler, epoch: int) -> np.ndarray:
    """Step by step, as a loop would ask."""
    return np.concatenate([sampler.indices(epoch, step) for step in range(sampler.steps_per_epoch)])


@few
@given(lengths, st.integers(0, 2**64 - 1))
def test_permute_is_a_permutation(length: int, key: int) -> None:
    sent = permute(np.arange(length), length, key)
    assert sorted(sent.tolist()) == list(range(length))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 4097])
def test_permute_around_powers_of_two(length: int) -> None:
    assert sorted(permute(np.arange(length), length, 7).tolist()) == list(range(length))


def test_permute_of_a_billion_items_costs_nothing_and_stays_inside() -> None:
    sent = permute(np.arange(10_000), 10**9, 3)
    assert len(set(sent.tolist())) == 10_000
    assert sent.min() >= 0 and sent.max() < 10**9
    assert sent.max() > 9e8  # it does use the whole range


@few
@given(lengths, batch_sizes, seeds, epochs)
def test_shuffle_sees_each_item_once_an_epoch(length: int, batch: int, seed: int, epoch: int) -> None:
    seen = whole_epoch(Shuffle(length, batch, seed), epoch)
    assert sorted(seen.tolist()) == list(range(length))


@few
@given(lengths, batch_sizes, seeds)
def test_shuffle_batches_are_full_but_for_the_last(length: int, batch: int, seed: int) -> None:
    sampler = Shuffle(length, batch, seed)
    sizes = [len(sampler.indices(0, step)) for step in range(sampler.steps_per_epoch)]
    assert sizes[:-1] == [batch] * (len(sizes) - 1)
    assert sum(sizes) == length
    assert 1 <= sizes[-1] <= batch


def test_shuffle_differs_by_epoch_and_by_seed() -> None:
    orders = [tuple(whole_epoch(Shuffle(50, 8, seed), epoch)) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6


def test_shuffle_has_no_favourite_first_item() -> None:
    firsts = np.array([Shuffle(10, 1, seed).indices(epoch, 0)[0] for seed in range(60) for epoch in range(20)])
    counts = np.bincount(firsts, minlength=10)
    assert np.all(abs(counts - 120) < 5 * np.sqrt(120)), counts  # five standard deviations


def samplers(length: int, batch: int, seed: int) -> list:
    return [
        Shuffle(length, batch, seed),
        Bucketed(np.arange(length) % 3 + np.arange(length) // 50, batch, seed),
        RandomStarts(length, batch, seed, steps_per_epoch=-(-length // batch)),
        ShiftedBlocks(length + 8, 7, batch, seed),
    ]


@few
@given(lengths, batch_sizes, seeds, epochs, st.data())
def test_any_seek_equals_going_there(length: int, batch: int, seed: int, epoch: int, data: st.DataObject) -> None:
    for sampler in samplers(length, batch, seed):
        step = data.draw(st.integers(0, sampler.steps_per_epoch - 1))
        count = data.draw(st.integers(1, sampler.steps_per_epoch + 2))
        sought = sampler.indices(epoch, step, count)
        assert sought.dtype == np.int64
        assert sought.tolist() == whole_epoch(sampler, epoch)[step * batch : (step + count) * batch].tolist()


@few
@given(st.integers(1, 80), st.integers(1, 20), seeds, st.integers(0, 60))
def test_a_stream_from_any_step_equals_a_continuous_one(length: int, batch: int, seed: int, first: int) -> None:
    cpu = torch.device("cpu")
    for sampler in samplers(length, batch, seed):
        continuous = list(itertools.islice(IndexStream(sampler, cpu), first + 12))
        sought = list(itertools.islice(IndexStream(sampler, cpu, first), 12))
        assert [part.tolist() for part in sought] == [part.tolist() for part in continuous[first:]]


def test_a_stream_goes_over_the_epochs_without_mixing_them() -> None:
    stream = itertools.islice(IndexStream(Shuffle(10, 4, 0), torch.device("cpu")), 6)
    parts = [part.tolist() for part in stream]
    assert [len(part) for part in parts] == [4, 4, 2, 4, 4, 2]
    assert sorted([*parts[0], *parts[1], *parts[2]]) == sorted([*parts[3], *parts[4], *parts[5]]) == list(range(10))
    assert parts[:3] != parts[3:]


def test_a_stream_longer_than_its_own_chunk_is_the_same() -> None:
    """Indices are worked out some thousands at a time; an epoch of more than that must not show the seams."""
    sampler = Shuffle(20_000, 64, 5)
    parts = list(itertools.islice(IndexStream(sampler, torch.device("cpu"), 2), sampler.steps_per_epoch - 2))
    assert torch.cat(parts).tolist() == whole_epoch(sampler, 0)[128:].tolist()


def test_random_starts_are_about_uniform_and_with_replacement() -> None:
    sampler = RandomStarts(20, 50, 9, steps_per_epoch=100)
    drawn = np.concatenate([whole_epoch(sampler, epoch) for epoch in range(2)])
    counts = np.bincount(drawn, minlength=20)
    assert drawn.min() >= 0 and drawn.max() < 20
    assert ((counts - 500) ** 2 / 500).sum() < 43.8  # chi-square with 19 degrees of freedom, p = 0.001
    assert all(len(set(sampler.indices(0, step).tolist())) < 50 for step in range(5))
    assert sampler.indices(0, 0).tolist() != sampler.indices(1, 0).tolist()


@few
@given(st.integers(2, 900), st.integers(1, 40), batch_sizes, seeds, epochs)
def test_shifted_blocks_are_disjoint_and_inside(n_tokens: int, block: int, batch: int, seed: int, epoch: int) -> None:
    if n_tokens < block + 1:
        n_tokens = block + 1 + n_tokens
    sampler = ShiftedBlocks(n_tokens, block, batch, seed)
    starts = np.sort(whole_epoch(sampler, epoch))
    assert len(starts) == sampler.blocks
    assert starts[0] >= 0
    assert starts[-1] + block + 1 <= n_tokens  # the last target too is inside
    assert np.all(np.diff(starts) == block)


def test_shifted_blocks_leave_less_than_two_blocks_unseen_and_shift() -> None:
    sampler = ShiftedBlocks(1000, 16, 8, 0)
    assert sampler.blocks * 16 > 1000 - 1 - 2 * 16
    offsets = {int(whole_epoch(sampler, epoch).min()) for epoch in range(60)}
    assert len(offsets) > 8
    assert max(offsets) < 16


def test_keys_depend_on_every_part_and_on_their_order() -> None:
    keys = {key_of(1, 2, 3), key_of(3, 2, 1), key_of(1, 2), key_of(1, 2, 4), key_of(0, 2, 3), key_of(1, 2, 3, 0)}
    assert len(keys) == 6
    assert key_of(5, 1) == key_of(5, 1)


def test_the_order_of_a_seed_does_not_change_between_versions() -> None:
    """A checkpoint keeps only the step: another order after an update of hotloop would train on other data."""
    assert Shuffle(10, 4, 42).indices(0, 0, 3).tolist() == [0, 4, 1, 8, 9, 5, 2, 3, 7, 6]
    assert RandomStarts(1000, 4, 42, 5).indices(1, 2).tolist() == [835, 779, 500, 286]


@few
@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), batch_sizes, seeds, epochs)
def test_buckets_see_every_row_once_and_mix_only_what_is_left_over(
    buckets: list[int], batch: int, seed: int, epoch: int
) -> None:
    numbers = np.array(buckets)
    sampler = Bucketed(numbers, batch, seed)
    seen = [sampler.indices(epoch, step) for step in range(sampler.steps_per_epoch)]
    assert sorted(np.concatenate(seen).tolist()) == list(range(len(buckets)))
    assert all(len(rows) == batch for rows in seen[:-1])
    mixed = sum(len(set(numbers[rows].tolist())) > 1 for rows in seen)
    assert mixed <= len(set(buckets))


def test_buckets_are_in_another_order_each_epoch() -> None:
    sampler = Bucketed(np.repeat([0, 1], 40), 8, seed=3)
    first, second = whole_epoch(sampler, 0), whole_epoch(sampler, 1)
    assert first.tolist() != second.tolist() and sorted(first.tolist()) == sorted(second.tolist())
