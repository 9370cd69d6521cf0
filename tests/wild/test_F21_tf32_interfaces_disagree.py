"""F21: torch's two TF32 interfaces disagree, and reading one raises. Here they always agree.

Each case runs in a process of its own, because torch keeps these settings for good.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

NEW = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) >= (2, 9)
READ = """
import torch
said = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
print(*said, torch.get_float32_matmul_precision())
with torch.backends.cudnn.flags(enabled=False):  # reads them all
    pass
"""
SWITCH = """
from hotloop import device
for on in {sequence}:
    device.set_tf32(on)
    assert device.tf32_read_back() is on
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.skipif(not NEW, reason="this torch has one interface")
def test_the_fault_is_real():
    mixed = """
import torch
torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.conv.fp32_precision = "ieee"
"""
    ended = run(mixed + READ)
    assert ended.returncode, ended.stdout
    assert "RuntimeError" in ended.stderr


@pytest.mark.parametrize("sequence", [[True], [False], [True, False], [False, True, False, True]])
def test_reading_never_raises(sequence):
    ended = run(SWITCH.format(sequence=sequence) + READ)
    assert ended.returncode == 0, ended.stderr
    assert "deprecat" not in ended.stderr.lower()
    assert ended.stdout.split()[:2] == [str(sequence[-1])] * 2


def test_a_whole_run_leaves_it_readable(tmp_path):
    train = f"""
import torch, hotloop
net = torch.nn.Linear(2, 1)
data = {{"x": torch.randn(16, 2), "y": torch.randn(16, 1)}}
loss = lambda m, b: (m(b["x"]) - b["y"]).square()
for precision in ("tf32", "fp32"):
    hotloop.fit(net, data, loss=loss, max_steps=2, precision=precision, dir={str(tmp_path)!r}, progress=False)
"""
    ended = run(train + READ)
    assert ended.returncode == 0, ended.stderr
