"""The search for the micro-batch that pays, on benches whose law is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.tune.fake import FACTS, MB, FakeBench, Told

from hotloop.engine.plan import Choice
from hotloop.errors import HotloopError
from hotloop.tune.batch import find_batch
from hotloop.tune.gauge import Cost

WIDE = replace(FACTS, rows=240, effective=240, micro_batch=240)


def cliff(choice: Choice, size: int) -> Cost:
    seconds = 0.004 + 0.0002 * size + (0.002 * size if size > 60 else 0.0)
    return Cost(size, True, seconds, 0.001, size * MB)


def test_it_lands_at_the_knee_and_says_what_the_stated_size_would_give() -> None:
    bench, told = FakeBench(cliff, WIDE), Told()
    found = find_batch(bench, Choice(), told)
    assert found.micro_batch == 60
    assert [choice.micro_batch for choice in bench.confirmed] == [60]
    assert "with the stated 240" in found.told[0]
    assert any("chosen" in line for line in told.lines)
    [row] = [row for row in found.rows if row["chosen"]]
    assert (row["micro_batch"], row["pieces"]) == (60, 4)
    assert {row["micro_batch"] for row in found.rows} == {size for _, size in bench.ran}


def test_no_memory_in_a_size_is_an_answer_and_smaller_ones_are_tried() -> None:
    def small(choice: Choice, size: int) -> Cost:
        return replace(cliff(choice, size), ran=False, note="out of memory") if size > 3 else cliff(choice, size)

    bench = FakeBench(small, WIDE)
    assert find_batch(bench, Choice(), Told()).micro_batch == 3
    assert max(size for _, size in bench.ran) == 4, "nothing larger is tried after one that had no room"


def test_nothing_runs() -> None:
    bench = FakeBench(lambda choice, size: Cost(size, False, note="out of memory"), WIDE)
    with pytest.raises(HotloopError, match="not even 1: out of memory"):
        find_batch(bench, Choice(), Told())


def test_a_size_that_whole_steps_do_not_confirm_is_not_the_answer() -> None:
    def whole(choice: Choice, cost: Cost) -> Cost:
        return replace(cost, ran=cost.size < 60, note="" if cost.size < 60 else "out of memory")

    found = find_batch(FakeBench(cliff, WIDE, whole), Choice(), Told())
    assert found.micro_batch == 48
    [row] = [row for row in found.rows if row["micro_batch"] == 60]
    assert "whole steps: out of memory" in row["reason"]


def test_the_effective_batch_as_the_limit_is_told() -> None:
    found = find_batch(FakeBench(lambda c, size: Cost(size, True, 0.01, 0.0, MB), WIDE), Choice(), Told())
    assert found.micro_batch == 240
    assert "still rise" in found.told[1]


def test_batchnorm_is_told_or_kept() -> None:
    bench = FakeBench(cliff, replace(WIDE, couples=True))
    assert "BatchNorm" in find_batch(bench, Choice(), Told()).told[-1]
    bench = FakeBench(cliff, replace(WIDE, couples=True))
    assert find_batch(bench, Choice(), Told(), splittable=False).micro_batch == 240
    assert [size for _, size in bench.ran] == [240]
