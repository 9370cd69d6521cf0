"""The feed: the same batches with workers and without, from any step on; padding weighs nothing; randomness by step."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from hotloop.data.loader import batches, fetch, fill_up, seeded
from hotloop.data.sampler import Shuffle
from hotloop.data.source import ArraySource, DatasetSource, Source, TensorSource

CPU = torch.device("cpu")


class Augmented(Dataset):
    """Items with noise out of all three generators, as people's own transforms draw it."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        noise = torch.randn(3) + random.random() + float(np.random.rand())
        return {"x": noise + index, "y": torch.tensor(index)}


def take(count: int, first: int = 0, **settings) -> list[dict[str, torch.Tensor]]:
    source: Source = settings.pop("source", None) or DatasetSource(Augmented())
    sampler = Shuffle(len(source), 5, 3)
    feed = batches(source, sampler, CPU, first_step=first, resident=settings.pop("resident", False), **settings)
    return list(itertools.islice(feed, count))


def same(some: list, others: list) -> bool:
    return len(some) == len(others) and all(
        list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(some, others, strict=True)
    )


@pytest.mark.parametrize("first", [0, 7])
def test_workers_give_the_batches_of_no_workers_to_the_bit(first: int) -> None:
    """Step 7 is in the middle of the second epoch of five; eleven steps go on into the fourth."""
    assert same(take(11, first, num_workers=2, seed=5), take(11, first, num_workers=0, seed=5))


def test_a_feed_from_the_middle_equals_one_from_the_start() -> None:
    assert same(take(14)[8:], take(6, first=8))


def test_augmentation_differs_by_step_and_by_seed() -> None:
    one, another = take(10, seed=1), take(10, seed=2)
    assert not same(one, another)
    by_row = {int(y): x for batch in one[:5] for x, y in zip(batch["x"], batch["y"], strict=True)}
    again = {int(y): x for batch in one[5:] for x, y in zip(batch["x"], batch["y"], strict=True)}
    assert by_row.keys() == again.keys()
    assert not any(torch.equal(by_row[row], again[row]) for row in by_row)  # another epoch, other noise


def test_fetching_leaves_the_callers_generators_alone() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    expected = (torch.rand(2), random.random(), np.random.rand())
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    take(6)
    drawn = (torch.rand(2), random.random(), np.random.rand())
    assert torch.equal(drawn[0], expected[0])
    assert drawn[1:] == expected[1:]


def test_seeded_puts_the_generators_back_after_an_error() -> None:
    def drawing() -> None:
        torch.rand(3)
        raise ZeroDivisionError

    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(5):
        drawing()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("resident", [True, False])
def test_tensors_and_arrays_give_the_same_from_the_device_and_from_the_host(resident: bool) -> None:
    x, y = torch.randn(23, 2), torch.arange(23)
    tensors = TensorSource({"x": x, "y": y})
    arrays = ArraySource({"x": x.numpy(), "y": y.numpy()})
    expected = take(9, first=3, source=tensors, resident=True)
    assert same(take(9, first=3, source=tensors, resident=resident), expected)
    if not resident:
        assert same(take(9, first=3, source=arrays), expected)
        assert same(take(9, first=3, source=arrays, num_workers=1), expected)


def test_the_last_batch_is_short_or_filled_up_with_weight_zero() -> None:
    source = TensorSource({"y": torch.arange(23)})
    short = take(5, source=source, resident=True)
    filled = take(5, source=source, resident=True, pad=True)
    assert [len(batch["y"]) for batch in short] == [5, 5, 5, 5, 3]
    assert [len(batch["y"]) for batch in filled] == [5] * 5
    assert [batch["weight"].tolist() for batch in filled] == [[1.0] * 5] * 4 + [[1.0, 1.0, 1.0, 0.0, 0.0]]
    assert "weight" not in short[0]
    seen = torch.cat([batch["y"][batch["weight"] > 0] for batch in filled])
    assert sorted(seen.tolist()) == list(range(23))


def test_padding_multiplies_the_weights_that_a_batch_brings() -> None:
    weight = torch.full((4, 2), 3.0)
    batch = fetch(TensorSource({"x": torch.arange(4), "weight": weight}), torch.tensor([1, 2]), 4)
    assert batch["weight"].tolist() == [[3.0, 3.0], [3.0, 3.0], [0.0, 0.0], [0.0, 0.0]]


class TwoTerms:
    """A source whose weight is one tensor a loss term."""

    nbytes = None

    def __len__(self) -> int:
        return 4

    def batch(self, indices: torch.Tensor) -> dict:
        return {"x": indices, "weight": {"a": torch.ones(len(indices)), "b": torch.full((len(indices), 2), 0.5)}}


def test_padding_reaches_each_terms_weight() -> None:
    weight = fetch(TwoTerms(), torch.tensor([3]), 2)["weight"]
    assert weight["a"].tolist() == [1.0, 0.0]
    assert weight["b"].tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_filling_up_a_full_batch_changes_nothing() -> None:
    indices, weight = fill_up(torch.tensor([2, 1]), 2)
    assert indices.tolist() == [2, 1]
    assert weight.tolist() == [1.0, 1.0]
