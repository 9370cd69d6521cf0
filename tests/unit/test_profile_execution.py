"""A profile of runs that execute in another way: captured steps, compiled blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.unit.test_profiler import CEILINGS, data, session, squares
from torch import Tensor, nn

from hotloop.engine import regions
from hotloop.engine.forwards import wrapped
from hotloop.profiler.measure import profile
from hotloop.profiler.work import count_work


def test_a_captured_step_is_profiled_in_its_phases() -> None:
    built = session(nn.Linear(4, 2), data(), squares)
    built.state.captured = lambda state, batch: pytest.fail("replayed")  # type: ignore[assignment]
    found = profile(built, CEILINGS, steps=3)
    assert found.timing.phases["forward"] > 0
    assert any("training.capture is left out here" in line for line in found.remarks)


def test_work_is_counted_without_the_compiled_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.out = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.layer(x).relu())

    def fake(function: Callable, **_: Any) -> Callable:
        return lambda *given: compiled.append(1) or function(*given)

    net = nn.Sequential(*(Block() for _ in range(2)), nn.Linear(4, 2))
    built = session(net, data(), squares, compile="default", compile_region="blocks")
    monkeypatch.setattr(torch, "compile", fake)
    regions._program.cache_clear()
    try:
        count_work(built, built.feed())
        assert not compiled and wrapped(net, regions._forward)
    finally:
        regions._program.cache_clear()
