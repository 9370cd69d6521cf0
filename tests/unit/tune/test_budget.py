"""The search within a budget, on benches whose law is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.tune.fake import FACTS, MB, FakeBench, Told

from hotloop.engine.plan import Choice
from hotloop.errors import HotloopError
from hotloop.tune.budget import FULL, Freedom, find_fitting, order
from hotloop.tune.gauge import Cost
from hotloop.tune.tried import Tried

ROWS = {False: 50, None: 50, 0.5: 30, True: 10}  # MB of activations a row
SLOWER = {False: 1.0, None: 1.0, 0.5: 1.15, True: 1.3}


def law(start: float):
    """A pass costs `start` and a millisecond a row; recomputing takes less memory and more time."""

    def cost(choice: Choice, size: int) -> Cost:
        state = 50 if choice.optimizer == "adamw8bit" else 200
        peak = 100 + state + ROWS[choice.recompute] * size
        return Cost(size, True, (start + 1e-3 * size) * SLOWER[choice.recompute], 1e-3, peak * MB)

    return cost


def found_in(budget: int, start: float = 0.02, freedom: Freedom | None = None, **bench) -> tuple[Choice, FakeBench]:
    made = FakeBench(law(start), **bench)
    return find_fitting(made, budget * MB, Choice(), freedom or Freedom(("fp32", "bf16")), Told()), made


def test_where_all_fits_nothing_is_given_up() -> None:
    choice, bench = found_in(4000)
    assert (choice.micro_batch, choice.recompute, choice.optimizer, choice.precision) == (32, None, "adamw", "bf16")
    assert {chosen.recompute for chosen, _ in bench.ran} == {None}
    reasons = [row["reason"] for row in choice.rows if row["ms_per_step"] is None]
    assert reasons and all(reason.startswith("not tried: ") for reason in reasons)


def test_recomputing_is_taken_where_a_larger_size_buys_more_than_it_costs() -> None:
    choice, _ = found_in(900, start=0.1)
    assert choice.recompute is True
    assert choice.micro_batch == 32
    [row] = [row for row in choice.rows if row["chosen"]]
    assert row["peak_memory"] <= 900 * MB and row["fits"]
    fitting = [row for row in choice.rows if row["fits"]]
    assert row["samples_per_second"] >= 0.97 * max(row["samples_per_second"] for row in fitting)


def test_recomputing_is_not_tried_where_size_no_longer_pays() -> None:
    choice, bench = found_in(900, start=1e-4)
    assert not choice.recompute
    assert {chosen.recompute for chosen, _ in bench.ran} == {None}
    assert any("would gain less" in row["reason"] for row in choice.rows)


def test_what_was_stated_is_kept() -> None:
    choice, bench = found_in(900, start=0.1, freedom=Freedom(recompute=False, optimizer=False))
    assert choice.recompute is None
    assert {(chosen.recompute, chosen.optimizer) for chosen, _ in bench.ran} == {(None, None)}


def test_small_state_comes_where_nothing_else_fits() -> None:
    choice, _ = found_in(200)
    assert (choice.optimizer, choice.recompute) == ("adamw8bit", True)
    assert choice.micro_batch == 4


def test_nothing_fits_is_told_with_what_would_help() -> None:
    with pytest.raises(HotloopError, match="nothing fits into 100MB: the smallest peak seen is 160MB") as caught:
        found_in(100)
    assert "a budget of at least 168MB" in caught.value.fix
    assert "shorter samples" in caught.value.fix and "frozen" in caught.value.fix


def test_what_whole_steps_take_more_than_the_budget_for_is_not_taken() -> None:
    def whole(choice: Choice, cost: Cost) -> Cost:
        return replace(cost, peak=2 * cost.peak if (choice.micro_batch or 0) > 8 else cost.peak)

    choice, bench = found_in(2000, start=0.1, whole=whole, freedom=Freedom(recompute=False))
    assert (choice.micro_batch or 0) <= 8
    assert len(bench.confirmed) > 1
    assert any(row["reason"].startswith("not taken: ") and not row["fits"] for row in choice.rows)


def test_a_combination_that_cannot_be_had_is_a_row_and_no_end() -> None:
    choice, _ = found_in(900, start=0.1, refused=lambda choice: choice.recompute is True)
    assert choice.recompute == 0.5
    assert any("no room" in row["reason"] for row in choice.rows)


def test_batchnorm_keeps_the_stated_size_where_it_must() -> None:
    facts = replace(FACTS, couples=True, micro_batch=8)
    choice, bench = found_in(4000, facts=facts, freedom=Freedom(splittable=False))
    assert choice.micro_batch == 8
    assert {size for _, size in bench.ran} == {8}


def test_of_equally_fast_ones_the_smallest_comes_first() -> None:
    made = [
        Tried(Choice(micro_batch=size), 32, Cost(size, True, seconds, 0.0, peak), True)
        for size, seconds, peak in ((32, 1.0, 900), (16, 0.505, 500), (8, 0.3, 300))
    ]
    assert [one.choice.micro_batch for one in order(made)] == [16, 32, 8]
    assert FULL < 1
