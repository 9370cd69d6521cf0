"""Streams and DataLoaders in hand: batches as they come, what cannot be sought says so, plain ones taken apart."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from hotloop.config.schema import DataSection, TrainingSection
from hotloop.data.dataset import DatasetSource
from hotloop.data.loader import batches
from hotloop.data.source import as_source
from hotloop.data.stream import Passing, StreamSource, ordered
from hotloop.errors import HotloopError

ROWS = TensorDataset(torch.arange(10.0), torch.arange(10))
CPU = torch.device("cpu")


class Numbers(IterableDataset):
    def __init__(self, count: int = 5) -> None:
        self.count = count

    def __iter__(self):
        return ({"x": torch.tensor(float(n)), "noise": torch.rand(())} for n in range(self.count))


def first(source, size: int, count: int, pad: bool = False):
    come = batches(source, Passing(size, 100), CPU, pad=pad, resident=False)
    return list(islice(come, count))


def test_a_pass_ends_short_and_begins_again() -> None:
    found = first(as_source(Numbers()), 2, 5)
    assert [b["x"].tolist() for b in found] == [[0, 1], [2, 3], [4], [0, 1], [2, 3]]
    assert not torch.equal(found[0]["noise"], found[3]["noise"])
    assert torch.equal(found[3]["noise"], first(as_source(Numbers()), 2, 5)[3]["noise"])


def test_what_was_looked_at_is_trained_on_too() -> None:
    source = as_source(Numbers())
    source.begin(2, 0)
    looked = source.batch(torch.tensor([0]))
    found = first(source, 2, 2)
    assert looked["noise"][0] == found[0]["noise"][0]
    assert [b["x"].tolist() for b in found] == [[0, 1], [2, 3]]


def test_a_short_batch_is_filled_up_with_rows_that_weigh_nothing() -> None:
    short = first(as_source(Numbers()), 2, 3, pad=True)[2]
    assert (short["x"].tolist(), short["weight"].tolist()) == ([4, 4], [1, 0])


def test_an_empty_stream_and_one_that_gives_one_pass_only_are_told() -> None:
    with pytest.raises(HotloopError, match="gave no items"):
        first(as_source(Numbers(0)), 2, 1)
    once = Numbers()
    once_only = iter(once)
    once.__class__ = type("Once", (Numbers,), {"__iter__": lambda self: once_only})
    with pytest.raises(HotloopError, match="ended after 3 batches and gave nothing when it was iterated again"):
        first(as_source(once), 2, 4)


def test_a_stream_is_no_validation_and_has_no_length() -> None:
    with pytest.raises(HotloopError, match="must count each item once"):
        as_source(Numbers(), part="validation")
    with pytest.raises(HotloopError, match="has no length"):
        len(as_source(Numbers()))


@pytest.mark.parametrize(
    ("training", "data", "says"),
    [
        ({"num_epochs": 3}, {}, "training.max_steps=..."),
        ({"num_epochs": 3, "max_steps": 4}, {}, "num_epochs has no meaning"),
        ({"max_steps": 4}, {"num_workers": 2}, "2 workers would each read"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(training, data, says) -> None:
    with pytest.raises(HotloopError, match=says):
        ordered(as_source(Numbers()), TrainingSection(**training), DataSection(**data), 0)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_plain_loader_is_taken_apart(shuffle) -> None:
    source = as_source(DataLoader(ROWS, batch_size=4, shuffle=shuffle), part="validation")
    assert isinstance(source, DatasetSource) and len(source) == 10
    assert source.batch(torch.tensor([3, 1]))["y"].tolist() == source.column("y")[[3, 1]].tolist() == [3, 1]


def test_a_collation_of_ones_own_is_kept() -> None:
    source = as_source(DataLoader(ROWS, batch_size=4, collate_fn=lambda items: torch.stack([x for x, _ in items]) + 1))
    assert source.batch(torch.tensor([3]))["x"].tolist() == [4]


@pytest.mark.parametrize(
    ("loader", "sizes"),
    [
        (lambda: DataLoader(ROWS, batch_size=4, sampler=WeightedRandomSampler([1.0] * 10, 10)), [4, 4, 2, 4]),
        (lambda: DataLoader(ROWS, batch_size=4, drop_last=True), [4, 4, 4]),
        (lambda: DataLoader(ROWS, batch_sampler=[[0, 1, 2], [3]]), [3, 1, 3]),
        (lambda: DataLoader(Numbers(), batch_size=3), [3, 2, 3]),
    ],
)
def test_other_loaders_are_used_as_they_come(loader, sizes) -> None:
    source = as_source(loader())
    assert isinstance(source, StreamSource) and source.own_batch == sizes[0]
    assert "cannot seek" in source.remarks()[0]
    assert [len(b["x"]) for b in first(source, sizes[0], len(sizes))] == sizes
    with pytest.raises(HotloopError, match=f"batch_size={sizes[0]}, and the configuration says batch_size=64"):
        ordered(source, TrainingSection(batch_size=64, max_steps=3), DataSection(), 0)
