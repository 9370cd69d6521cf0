"""F27: overlapping windows split at random. The share that leaks is measured; the splits offered share no row."""

from __future__ import annotations

import pytest
import torch

from hotloop.errors import HotloopError
from hotloop.tasks.lob.options import LobData, LobModel
from hotloop.tasks.lob.split import leaking_share
from hotloop.tasks.lob.task import Lob


def lob(**data) -> Lob:
    return Lob(LobModel(), LobData(symbols=6, rows=500, **data), seed=1)


def rows_of(source) -> set[int]:
    return set((source.books.starts.unsqueeze(1) + torch.arange(source.window)).flatten().tolist())


def test_a_random_split_is_refused_with_the_share_that_leaks():
    with pytest.raises(
        HotloopError, match=r"random split leaks: (100\.0|9\d\.\d)% of the validation windows"
    ) as caught:
        lob(split="random").sources()
    assert "data.split=symbol" in caught.value.fix and "data.split=time" in caught.value.fix


def test_the_share_is_measured_not_assumed():
    assert leaking_share(torch.arange(1000), 100, 0.2, 0) == 1.0
    assert leaking_share(torch.arange(1000) * 100, 100, 0.2, 0) == 0.0
    mixed = torch.cat([torch.arange(500), 1000 + torch.arange(500) * 100])
    assert 0.4 < leaking_share(mixed, 100, 0.2, 0) < 0.6


@pytest.mark.parametrize("data", [{"split": "symbol"}, {"split": "time"}, {"split": "time", "gap": 150}])
def test_no_row_is_on_both_sides(data):
    splits = lob(**data).sources()
    assert not rows_of(splits.train) & rows_of(splits.val)
    assert len(splits.val) / (len(splits.train) + len(splits.val)) == pytest.approx(0.25, abs=0.13)


def test_each_part_by_time_holds_every_symbol():
    splits = lob(split="time").sources()
    assert len(splits.train.column("group").unique()) == len(splits.val.column("group").unique()) == 6


def test_the_split_is_apart_from_the_seed_of_the_run():
    def held(split_seed: int, seed: int) -> list[int]:
        task = Lob(LobModel(), LobData(symbols=6, rows=500, split_seed=split_seed), seed=seed)
        return task.sources().val.column("group").unique().tolist()

    assert held(0, 1) == held(0, 2)
    assert len({tuple(held(seed, 1)) for seed in range(6)}) > 2
