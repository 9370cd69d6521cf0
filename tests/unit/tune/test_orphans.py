"""Lanes do not outlive the process that asks them, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PARENT = """
import sys
from hotloop.config.load import load
from hotloop.tasks.own import load_user_task
from hotloop.tune.lanes import FreshTrack
from hotloop.tune.settings import PLAIN, with_knobs

options, _ = load_user_task(sys.argv[1])
lane = FreshTrack().open(with_knobs(load(options, overrides={"max_steps": 9, "device": "cpu", "threads": 1}), PLAIN))
print(lane._child._process.pid, lane._folder, flush=True)
lane.warm()
"""
TASK = """
import time, torch, hotloop

class Endless(hotloop.Task):
    def sources(self):
        x = torch.ones(64, 1)
        return hotloop.Splits({"x": x})

    def model(self):
        return torch.nn.Linear(1, 1)

    def loss(self, model, batch, training):
        if len(batch["x"]) > 2:
            time.sleep(600)
        return model(batch["x"])
"""


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # nobody may be there to wait for it
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(sys.platform == "win32", reason="a process does not learn there that its parent is gone")
def test_a_lane_in_the_middle_of_a_step_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(TASK, encoding="utf-8")
    command = [sys.executable, "-c", PARENT, f"{tmp_path / 'endless.py'}:Endless"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, folder = parent.stdout.readline().split()
    time.sleep(1.0)
    assert _runs(int(pid))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 20
    while _runs(int(pid)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not _runs(int(pid)) and not Path(folder).exists()
