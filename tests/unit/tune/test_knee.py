"""The law of the knee, by arithmetic: any machine, any order of surprises."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from hotloop.tune.knee import USEFUL, allowed_sizes, doubling, is_falling, is_rising, next_size, pieces_of, useful


@given(st.integers(1, 5000))
def test_allowed_sizes_are_all_numbers_of_pieces_and_no_others(rows: int) -> None:
    assert allowed_sizes(rows) == sorted({math.ceil(rows / k) for k in range(1, rows + 1)})


@given(st.integers(1, 10**6))
def test_doubling_ends_at_the_whole_batch_and_is_allowed(rows: int) -> None:
    sizes = doubling(allowed_sizes(rows))
    assert sizes[-1] == rows and sizes == sorted(set(sizes)) and len(sizes) <= 12
    assert set(sizes) <= set(allowed_sizes(rows))


def searched(rows: int, rate_of) -> dict[int, float]:
    """The search as it is run: doubling, then what `next_size` says."""
    sizes, rates = allowed_sizes(rows), {}
    for size in doubling(sizes):
        rates[size] = rate_of(size)
        if is_falling(rates):
            break
    for _ in range(60):
        size = next_size(rates, sizes)
        if size is None:
            return rates
        assert size in sizes and size not in rates
        rates[size] = rate_of(size)
    raise AssertionError("the search does not end")


@settings(max_examples=200)
@given(st.integers(1, 3000), st.randoms(use_true_random=False))
def test_whatever_a_machine_does_the_answer_was_run_and_no_smaller_one_is_as_good(rows: int, draw) -> None:
    known: dict[int, float] = {}
    rates = searched(rows, lambda size: known.setdefault(size, draw.choice([0.0, draw.random()])))
    answer = useful(rates)
    if answer is None:
        assert not any(rates.values())
        return
    assert answer in rates and rates[answer] > 0
    best = max(rates.values())
    assert rates[answer] >= USEFUL * best
    assert all(rate < USEFUL * best for size, rate in rates.items() if size < answer)


@settings(max_examples=200)
@given(st.integers(64, 4000), st.floats(0.02, 0.9), st.floats(0.001, 0.1), st.floats(1e-5, 1e-3))
def test_a_cliff_is_found_to_a_tenth(rows: int, share: float, start: float, row: float) -> None:
    """A pass costs a start and a price a row; above the cliff a row costs five times what it does at best."""
    cliff = max(1, int(share * rows))

    def rate_of(size: int) -> float:
        seconds = start + row * size if size <= cliff else 5 * size * (start / cliff + row)
        return rows / (pieces_of(rows, size) * seconds)

    rates = searched(rows, rate_of)
    answer = useful(rates)
    assert answer is not None
    best = max(map(rate_of, allowed_sizes(rows)))
    assert rate_of(answer) >= 0.85 * best, "a tenth in the size, and a step in the number of pieces"


def test_a_size_that_does_not_run_counts_nothing() -> None:
    assert useful({}) is None
    assert useful({4: 0.0, 8: 0.0}) is None
    assert useful({4: 10.0, 8: 0.0}) == 4
    assert next_size({4: 0.0, 8: 0.0}, [1, 2, 4, 8]) == 2
    assert next_size({1: 0.0}, [1, 2, 4, 8]) is None


def test_one_slow_size_may_be_noise_and_two_are_not() -> None:
    assert not is_falling({4: 10.0, 8: 11.0, 16: 2.0})
    assert is_falling({4: 10.0, 8: 11.0, 16: 2.0, 32: 2.0})
    assert is_rising({4: 10.0, 8: 11.0})
    assert not is_rising({4: 10.0, 8: 10.1})
