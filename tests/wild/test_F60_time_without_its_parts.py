"""F60: a time per epoch without the evaluation and compile parts, so that a "speed-up" is none.

Here the summary names each part, and a speed is that of training alone.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

import hotloop
from hotloop import assemble

COMPILES, EVALUATES = 0.4, 0.15  # seconds that each takes at the least


class Net(torch.nn.Module):
    """A line whose validation takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            time.sleep(EVALUATES)
        return self.line(x)


@pytest.fixture
def slow_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile whose first call takes long, as a real one's does; no compiler is needed."""

    def compile_slowly(function, mode=None, dynamic=None):
        done = []

        def call(*given):
            if not done:
                time.sleep(COMPILES)
                done.append(True)
            return function(*given)

        return call

    monkeypatch.setattr(assemble.torch, "compile", compile_slowly)


def test_each_part_has_its_own_seconds(experiments: Path, slow_compiler) -> None:
    rows = {"x": torch.randn(64, 4), "y": torch.randn(64, 1)}
    began = time.perf_counter()
    run = hotloop.fit(
        Net(),
        rows,
        val={name: value[:8] for name, value in rows.items()},
        loss=lambda net, batch: (net(batch["x"]) - batch["y"]).square().mean(1),
        dir=str(experiments),
        progress=False,
        batch_size=8,
        max_steps=12,
        log_every=3,
        eval_every=3,
        precision="fp32",
        compile="default",
    )
    whole = time.perf_counter() - began
    seconds = json.loads((run.dir / "training_summary.json").read_text())["seconds"]
    assert list(seconds) == ["startup", "compile", "train", "eval", "total"]
    assert seconds["compile"] >= COMPILES
    assert seconds["eval"] >= 4 * EVALUATES
    assert seconds["train"] < COMPILES, "neither compiling nor evaluating is training"
    assert sum(seconds[part] for part in ("startup", "compile", "train", "eval")) <= seconds["total"] <= whole + 0.01
    speeds = [record["samples_per_second"] for record in run.history if "samples_per_second" in record]
    assert len(speeds) == 4
    # Three steps of 8 rows and an evaluation, or the first step with its compiling, would be slower than this.
    assert min(speeds) > 3 * 8 / EVALUATES
    records = [record for record in run.history if "eval_seconds" in record]
    assert all(record["eval_seconds"] >= EVALUATES for record in records)
    assert sum(record["eval_seconds"] for record in records) == pytest.approx(seconds["eval"], rel=0.05)
