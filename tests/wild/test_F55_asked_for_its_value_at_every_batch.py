"""F55: `.item()` on every batch, so that the host waits for the device at each step.

Here a whole run of the gpt task, with its recorder and reporter, asks at its log points alone.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

import hotloop

ASKING = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")


def test_nothing_is_asked_between_log_points(experiments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[tuple[int, str]] = Counter()
    step = [0]

    def counting(name: str):
        original = getattr(torch.Tensor, name)

        def call(self, *arguments, **named):
            asked[step[0], name] += 1
            return original(self, *arguments, **named)

        return call

    for name in ASKING:
        monkeypatch.setattr(torch.Tensor, name, counting(name))

    def note(info) -> None:
        step[0] = info.step

    Path("text.txt").write_text("the cat sat on a mat and saw two red hens\n" * 300, encoding="utf-8")
    keys = {"data.path": "text.txt", "experiment.dir": str(experiments), "callbacks.checkpoint_every": "off"}
    size = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 16, "batch_size": 4, "max_steps": 23}
    how = {"log_every": 10, "eval_every": "off", "precision": "fp32", "compile": "off", "device": "cpu"}
    hotloop.train("gpt", keys=keys, callbacks=[note], **size, **how)
    # What is asked after the callback of step n and before that of step n + 1 is counted under n; 0 is before training.
    assert {at for at, _ in asked} <= {0, 10, 20, 23}, asked
    assert asked[10, "tolist"] == asked[20, "tolist"] == 1
    assert sum(asked[10, name] for name in ASKING) == 1, asked
