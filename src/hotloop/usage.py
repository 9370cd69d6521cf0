"""How busy a device was while steps were made: a GPU by what its driver says, a processor by its time on the clock."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field

import torch

from hotloop.device import usable_cores

_PATIENCE = 10.0  # seconds for nvidia-smi


@dataclass
class Meter:
    """Begins when it is made.

    Args:
        device: whose use is asked for.
    """

    device: torch.device
    _wall: float = field(default_factory=time.perf_counter)
    _processor: float = field(default_factory=time.process_time)

    def share(self) -> float | None:
        """Between 0 and about 1, asked at the very end; None where it cannot be told.

        On a CPU: this process's time on all threads over the wall time of all usable cores; a thread that waits by
        spinning counts as busy. On a GPU: the share of the driver's last sample (a sixth to one second) in which any
        kernel ran, which says nothing about how full it was.
        """
        if self.device.type == "cuda":
            return _of_gpu(self.device)
        if self.device.type != "cpu":
            return None
        wall = time.perf_counter() - self._wall
        return (time.process_time() - self._processor) / (wall * usable_cores()) if wall > 0 else None


def _of_gpu(device: torch.device) -> float | None:
    """By NVML where its Python package is installed, else by nvidia-smi."""
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # the package or the driver's library is missing, or the card does not tell (MIG)
        return _by_smi(f"GPU-{getattr(torch.cuda.get_device_properties(device), 'uuid', '')}")


def _by_smi(uuid: str) -> float | None:
    query = ["nvidia-smi", "-i", uuid, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=_PATIENCE, check=True).stdout
        return float(said.split()[0]) / 100
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
