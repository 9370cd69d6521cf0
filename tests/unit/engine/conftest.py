"""For the engine's tests: a plan and an optimization section with everything filled in, and a quick `fit`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import hotloop
from hotloop.config.schema import OptimizationSection
from hotloop.engine.plan import Plan

PLAN = Plan(
    device="cpu",
    precision="fp32",
    tf32=False,
    deterministic=False,
    threads=1,
    compile="off",
    micro_batch=4,
    accumulation=1,
    effective_batch=4,
    eval_batch=4,
    pad_ragged=False,
    resident=True,
    num_workers=0,
    pin_memory=False,
    prefetch=2,
    steps_per_epoch=5,
    total_steps=10,
    eval_every=5,
    log_every=5,
    checkpoint_every=0,
    on_nan="stop",
)


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    """`make_plan(total_steps=7)`: a plan for the CPU in float32 with these changes."""
    return lambda **changes: Plan(**{**PLAN.to_dict(), **changes})


@pytest.fixture(scope="session")
def options() -> Callable[..., OptimizationSection]:
    """`options(optimizer="sgd")`: the optimization section with these changes."""
    return lambda **changes: OptimizationSection(**changes)


@pytest.fixture
def quick(experiments: Path) -> Callable[..., Any]:
    """`hotloop.fit` without a screen, without tracker, in float32, in a temporary folder."""
    still = {"progress": False, "precision": "fp32", "compile": "off", "trackers": ()}
    return partial(hotloop.fit, **still, dir=str(experiments))
