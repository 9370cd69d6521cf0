"""Allocations that really fail: a process of its own under a limit of the system trains on in smaller pieces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, resource, sys
import torch
from torch import nn
import hotloop
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(32, 8192), nn.Tanh(), nn.Linear(8192, 64), nn.Tanh(), nn.Linear(64, 1))
x = torch.randn(4096, 32, generator=torch.Generator().manual_seed(1))
data = {"x": x, "y": x.sum(1, keepdim=True)}
losses, notes = [], []

class Watch(hotloop.Callback):
    def on_start(self, state):
        if sys.argv[2] == "limited":
            used = int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) * 1024
            resource.setrlimit(resource.RLIMIT_DATA, (used + 200 * 2**20, resource.RLIM_INFINITY))
    def on_step(self, info):
        losses.append(float(info.loss))
    def on_note(self, text, level):
        notes.append(text)

def loss(model, batch):
    return (model(batch["x"]) - batch["y"]).square()

run = hotloop.fit(net, data, loss=loss, val=data, callbacks=[Watch()], batch_size=4096, eval_batch_size=4096,
    max_steps=3, log_every=1, precision=sys.argv[3], compile="off", device="cpu", progress=False, trackers=(),
    dir=sys.argv[1])
found = {"losses": losses, "notes": notes, "eval_loss": run.summary["eval_loss"], "steps": run.summary["steps"]}
print(json.dumps(found))
"""


def trained(folder: Path, kind: str, precision: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), kind, precision], capture_output=True, text=True, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA limits a process's memory on Linux alone")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_process_that_may_take_no_more(tmp_path: Path, precision: str) -> None:
    """A whole batch holds several arrays of 128 MB, and 200 MB are there: steps and evaluation are split."""
    calm, limited = trained(tmp_path / "calm", "free", precision), trained(tmp_path / "limited", "limited", precision)
    assert not calm["notes"]
    assert any("micro-batch 4096 -> 2048" in line for line in limited["notes"])
    assert limited["steps"] == 3
    close = 1e-4 if precision == "fp32" else 2e-2
    assert limited["losses"] == pytest.approx(calm["losses"], rel=close)
    assert limited["eval_loss"] == pytest.approx(calm["eval_loss"], rel=close)
