"""For the engine's tests: a plan and an optimization section with everything filled in, a session, a quick `fit`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import hotloop
from hotloop import assemble
from hotloop.config.load import load
from hotloop.config.schema import OptimizationSection
from hotloop.data.source import as_source
from hotloop.engine.plan import Plan
from hotloop.task import Splits, Task, options_of

STILL = {"precision": "fp32", "compile": "off"}
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
    return lambda **changes: replace(PLAN, **changes)


@pytest.fixture(scope="session")
def options() -> Callable[..., OptimizationSection]:
    """`options(optimizer="sgd")`: the optimization section with these changes."""
    return lambda **changes: OptimizationSection(**changes)


def make_task(net: Callable[[], nn.Module], data: Any, loss: Callable, val: Any = None, **methods: Any) -> type[Task]:
    """A Task class out of functions; `loss` takes (model, batch, training), `methods` replace further ones."""
    splits = Splits(as_source(data), None if val is None else as_source(val))
    own = {
        "sources": lambda self: splits,
        "model": lambda self: net(),
        "loss": lambda self, model, batch, training: loss(model, batch, training),
    }
    return type("Own", (Task,), {**own, **{name: _method(function) for name, function in methods.items()}})


def _method(function: Callable) -> Callable:
    return lambda self, *arguments: function(*arguments)


@pytest.fixture(scope="session")
def build() -> Callable[..., assemble.Session]:
    """`build(net, data, loss, val=..., changes={of the plan}, methods={of the task}, **overrides)`: a session."""

    def make(
        net: Callable[[], nn.Module],
        data: Any,
        loss: Callable,
        *,
        val: Any = None,
        changes: dict[str, Any] | None = None,
        methods: dict[str, Callable] | None = None,
        **overrides: Any,
    ) -> assemble.Session:
        found = make_task(net, data, loss, val, **(methods or {}))
        keys = {**STILL, "max_steps": 10, "data.val_fraction": 0.0, **overrides}
        loaded = load(options_of(found, "own"), overrides=keys)
        task = found(loaded.config.model, loaded.config.data, seed=loaded.config.experiment.seed)
        session = assemble.build(loaded, task)
        return assemble.build(loaded, task, plan=replace(session.plan, **changes)) if changes else session

    return make


@pytest.fixture
def quick(experiments: Path) -> Callable[..., Any]:
    """`hotloop.fit` without a screen, without tracker, in float32, in a temporary folder."""
    return partial(hotloop.fit, progress=False, trackers=(), dir=str(experiments), **STILL)
