"""Schedules are tables: bounded, reaching the peak right after warmup and min_lr at the end, as the formulas say."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hotloop.config.schema import OptimizationSection
from hotloop.engine.schedule import OPEN_ENDED, factors, remarks, warmup_steps

DECAYING = ["cosine", "linear", "polynomial", "wsd"]
ALL = [*DECAYING, "constant", "plateau"]
many = settings(max_examples=80, deadline=None)


@st.composite
def runs(draw: st.DrawFn, kinds: list[str] = ALL) -> tuple[OptimizationSection, int]:
    """A schedule and the length of its run, as the guards let them through."""
    total = draw(st.integers(2, 400))
    rate = draw(st.floats(1e-6, 1.0))
    return OptimizationSection(
        lr_scheduler=draw(st.sampled_from(kinds)),
        learning_rate=rate,
        min_lr=rate * draw(st.floats(0.0, 1.0)),
        warmup_steps=draw(st.integers(0, total - 1)),
        warmup_start_factor=draw(st.none() | st.floats(1e-4, 1.0)),
        decay_ratio=draw(st.floats(0.01, 1.0)),
        polynomial_power=draw(st.floats(1.0, 4.0)),
    ), total


@many
@given(runs())
def test_the_table_stays_between_floor_and_peak(run: tuple[OptimizationSection, int]) -> None:
    options, total = run
    table, warmup = factors(options, total, 10), options.warmup_steps
    assert len(table) == total
    assert all(0.0 < factor <= 1.0 + 1e-12 for factor in table[:warmup])
    floor = options.min_lr / options.learning_rate
    assert all(floor - 1e-12 <= factor <= 1.0 + 1e-12 for factor in table[warmup:])


@many
@given(runs())
def test_warmup_rises_to_the_peak_and_nothing_rises_after_it(run: tuple[OptimizationSection, int]) -> None:
    options, total = run
    table, warmup = factors(options, total, 10), options.warmup_steps
    rising = table[: warmup + 1]
    assert all(b >= a for a, b in pairwise(rising))
    assert table[warmup] == pytest.approx(1.0, abs=1e-12)
    falling = table[warmup:]
    assert all(b <= a + 1e-12 for a, b in pairwise(falling))


@many
@given(runs(DECAYING))
def test_the_decay_ends_on_min_lr_at_its_last_step(run: tuple[OptimizationSection, int]) -> None:
    options, total = run
    end = max(options.warmup_steps + 1, total - 1)
    table = factors(options.model_copy(update={"decay_steps": end}), end + 3, 10)
    assert table[end] * options.learning_rate == pytest.approx(options.min_lr, rel=1e-9, abs=1e-15)
    assert table[end:] == [table[end]] * 3


@many
@given(runs(["linear"]))
def test_a_decay_over_the_whole_run_ends_one_step_above_min_lr(run: tuple[OptimizationSection, int]) -> None:
    """Step 0 has the peak, so the last of n updates is one n-th away from the floor."""
    options, total = run
    floor = options.min_lr / options.learning_rate
    last = factors(options, total, 10)[-1]
    assert last - floor == pytest.approx((1 - floor) / (total - options.warmup_steps), abs=1e-9)


@pytest.mark.parametrize("kind", ["cosine", "polynomial", "wsd"])
def test_a_long_decay_ends_close_to_min_lr(kind: str, options) -> None:
    table = factors(options(lr_scheduler=kind, learning_rate=1.0, min_lr=0.1, warmup_steps=20), 1000, 10)
    assert 0.1 <= table[-1] < 0.1 + 0.9 / 190


def test_the_published_warmup_of_seven_steps(options) -> None:
    section = options(learning_rate=8e-5, warmup_steps=7, warmup_start_factor=0.01, lr_scheduler="cosine", min_lr=5e-6)
    rates = [factor * 8e-5 for factor in factors(section, 50, 10)]
    assert rates[:3] == pytest.approx([8e-7, 1.21e-5, 2.34e-5], rel=2e-3)
    assert rates[:8] == pytest.approx([8e-7 + (8e-5 - 8e-7) * step / 7 for step in range(8)])
    assert rates[7] == pytest.approx(8e-5, rel=1e-12)
    assert rates[8] < 8e-5


def nanogpt_rate(it: int, learning_rate: float, min_lr: float, warmup_iters: int, lr_decay_iters: int) -> float:
    if it < warmup_iters:
        return learning_rate * (it + 1) / (warmup_iters + 1)
    if it > lr_decay_iters:
        return min_lr
    coefficient = 0.5 * (1.0 + math.cos(math.pi * (it - warmup_iters) / (lr_decay_iters - warmup_iters)))
    return min_lr + coefficient * (learning_rate - min_lr)


@pytest.mark.parametrize(("total", "warmup"), [(2000, 100), (5000, 100), (50, 0), (7, 6)])
def test_nanogpts_formula_step_by_step(total: int, warmup: int, options) -> None:
    section = options(lr_scheduler="cosine", learning_rate=1e-3, min_lr=1e-4, warmup_steps=warmup)
    rates = [factor * 1e-3 for factor in factors(section, total, 10)]
    assert rates == pytest.approx([nanogpt_rate(it, 1e-3, 1e-4, warmup, total) for it in range(total)], rel=1e-12)


def test_wsd_holds_the_peak_and_decays_at_the_end(options) -> None:
    section = options(lr_scheduler="wsd", learning_rate=1.0, min_lr=0.0, warmup_steps=10, decay_ratio=0.25)
    table = factors(section, 100, 10)
    assert table[10:76] == [1.0] * 66
    assert table[76:] == pytest.approx([1 - (step - 75) / 25 for step in range(76, 100)])


def test_linear_polynomial_and_constant(options) -> None:
    base = {"learning_rate": 2.0, "min_lr": 0.5, "warmup_steps": 0}
    left = [1 - step / 8 for step in range(8)]
    assert factors(options(lr_scheduler="linear", **base), 8, 10) == pytest.approx([0.25 + 0.75 * x for x in left])
    cubic = options(lr_scheduler="polynomial", polynomial_power=3.0, **base)
    assert factors(cubic, 8, 10) == pytest.approx([0.25 + 0.75 * x**3 for x in left])
    assert factors(options(lr_scheduler="constant", **base), 8, 10) == [1.0] * 8
    assert factors(options(lr_scheduler="plateau", **base), 8, 10) == [1.0] * 8


def test_warmup_may_be_said_in_steps_epochs_or_a_share(options) -> None:
    assert warmup_steps(options(warmup_steps=3), 200, 20) == 3
    assert warmup_steps(options(warmup_epochs=1.5), 200, 20) == 30
    assert warmup_steps(options(warmup_ratio=0.15), 200, 20) == 30
    assert warmup_steps(options(), 200, 20) == 0
    assert warmup_steps(options(warmup_steps=0), 200, 20) == 0


def test_a_run_without_a_known_end_needs_no_endless_table(options) -> None:
    table = factors(options(lr_scheduler="constant", warmup_steps=4), OPEN_ENDED, 10)
    assert table == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    decayed = factors(options(lr_scheduler="linear", decay_steps=6, min_lr=0.0), OPEN_ENDED, 10)
    assert len(decayed) == 7
    assert decayed[-1] == 0.0


def test_a_decay_laid_out_beyond_the_run_is_remarked(options) -> None:
    section = options(lr_scheduler="cosine", learning_rate=1e-3, min_lr=1e-5, decay_steps=200)
    [remark] = remarks(section, 100, 10)
    assert "laid out for 200 steps and the run ends at 100" in remark
    assert "not at min_lr 1e-05" in remark
    assert remarks(section, 200, 10) == []
    assert remarks(options(lr_scheduler="constant"), 100, 10) == []


def constant_loss(net: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Never gets better, whatever is learnt."""
    return net(batch["x"]).squeeze(1) * 0.0 + 1.0


def test_plateau_scales_the_rate_after_validations_that_were_no_better(quick) -> None:
    x = torch.randn(8, 3)
    run = quick(
        nn.Linear(3, 1), {"x": x}, loss=constant_loss, val={"x": x}, batch_size=4, max_steps=12, log_every=1,
        lr_scheduler="plateau", plateau_factor=0.5, plateau_patience=1, learning_rate=0.1, eval_every=2, warmup_steps=0,
    )  # fmt: skip
    rates = [record["learning_rate"] for record in run.history if "train_loss" in record]
    # Validations at 2 (best), 4 (waits), 6 (halved), 8 (waits), 10 (halved): from the step after it on.
    assert rates == pytest.approx([0.1] * 6 + [0.05] * 4 + [0.025] * 2)


def test_the_optimizer_is_given_the_tables_rates(quick) -> None:
    used = []

    def note(info) -> None:
        used.append(float(info.state.optimizers[0].param_groups[0]["lr"]))

    run = quick(
        nn.Linear(3, 1), {"x": torch.randn(8, 3)}, loss=constant_loss, batch_size=4, max_steps=9, log_every=1,
        lr_scheduler="cosine", warmup_steps=3, warmup_start_factor=0.1, learning_rate=0.2, min_lr=0.01,
        callbacks=[note],
    )  # fmt: skip
    section = OptimizationSection(
        lr_scheduler="cosine", warmup_steps=3, warmup_start_factor=0.1, learning_rate=0.2, min_lr=0.01
    )
    expected = [0.2 * factor for factor in factors(section, 9, 2)]
    assert used == pytest.approx(expected, rel=1e-6)
    assert [record["learning_rate"] for record in run.history] == pytest.approx(expected, rel=1e-6)
