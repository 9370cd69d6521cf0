"""How busy a device was: a processor by its time on the clock, a GPU by what its driver says."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest
import torch

from hotloop import usage
from hotloop.device import usable_cores
from hotloop.usage import Meter


def test_a_processor_that_works_is_busier_than_one_that_waits() -> None:
    meter = Meter(torch.device("cpu"))
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    busy = meter.share()
    meter = Meter(torch.device("cpu"))
    time.sleep(0.2)
    idle = meter.share()
    assert busy is not None and idle is not None
    assert 0 <= idle < 0.1 / usable_cores() + 0.05
    assert idle < busy <= 1 / usable_cores() + 0.05


@pytest.mark.parametrize(("answer", "share"), [("echo 37", 0.37), ("echo '[N/A]'", None), ("exit 6", None)])
def test_a_gpu_is_asked_through_nvidia_smi(
    answer: str, share: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert usage._by_smi("GPU-0") == share


def test_without_nvidia_smi_it_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert usage._by_smi("GPU-0") is None


def test_other_devices_do_not_tell() -> None:
    assert Meter(torch.device("meta")).share() is None
