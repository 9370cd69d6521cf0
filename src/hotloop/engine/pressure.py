"""Signs that memory runs short while training goes on: near the limit, in fragments, or moved to slower memory.

Looked at at log points only. A `Sample` is what one look found; `Watch` is a pure function of the samples so far, and
says each thing once. Bytes and seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

import psutil
import torch

from hotloop import device as machine
from hotloop import memory
from hotloop.engine.state import TrainState

NEAR = 0.875  # of the limit: 3.5 of 4 GB
_FULL = 0.95  # of the device's own memory
_JUMP = 2.0  # times the usual seconds of a step
_USUAL = 3  # looks, before "usual" means anything
_LOOSE = 1.3  # reserved over in use: more than that is memory in pieces that fit nothing


@dataclass(frozen=True)
class Sample:
    """Memory at a log point.

    Attributes:
        used: bytes in use: allocated on a GPU; on a CPU what the run has taken, beside what the process had before.
        peak: of the same, at the highest point so far.
        reserved: bytes that the allocator holds (GPU).
        limit: bytes that the run may take: the budget, or a GPU's own memory; 0 where there is none.
        dedicated: bytes of the device's own memory.
        seconds: of one step, since the last look.
        retries: how often the allocator had to give back its cache and try again (GPU).
        inactive: bytes of freed pieces inside blocks that are still in use in part (GPU).
        available: bytes that the system still has.
        swapped: bytes of this process on the disk.
    """

    used: int
    peak: int
    reserved: int = 0
    limit: int = 0
    dedicated: int = 0
    seconds: float = 0.0
    retries: int = 0
    inactive: int = 0
    available: int = 0
    swapped: int = 0


def take(state: TrainState, seconds: float) -> Sample:
    """Look at the memory of a run; `seconds` is what a step takes now."""
    device, guard = state.plan.torch_device, state.guard
    total = machine.memory_total(device)
    if device.type != "cuda":
        free, swapped = int(psutil.virtual_memory().available), memory.swapped()
        return Sample(guard.growth(), guard.peak(), 0, guard.limit, total, seconds, 0, 0, free, swapped)
    found = torch.cuda.memory_stats(device)
    return Sample(
        used=found.get("allocated_bytes.all.current", 0),
        peak=guard.peak(),
        reserved=found.get("reserved_bytes.all.current", 0),
        limit=guard.limit or total,
        dedicated=total,
        seconds=seconds,
        retries=found.get("num_alloc_retries", 0),
        inactive=found.get("inactive_split_bytes.all.current", 0),
        available=machine.memory_free(device),
    )


def figures(state: TrainState, sample: Sample) -> dict[str, int]:
    """What of a sample goes into a record of metrics.

    `gpu_memory` is 0 on a CPU; there `memory`, under a budget, is what the run has taken of it.
    """
    on_gpu = state.plan.torch_device.type == "cuda"
    return {
        "gpu_memory": sample.used if on_gpu else 0,
        **({"memory_reserved": sample.reserved} if on_gpu else {}),
        "memory_peak": memory.peak(state.plan.torch_device) if on_gpu else state.guard.process_peak(),
        **({"memory": sample.used} if state.guard.limit and not on_gpu else {}),
        **({"oom_retries": state.pieces.retries} if state.pieces.retries else {}),
    }


class Watch:
    """Says what the samples tell, each thing once."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._seconds: deque[float] = deque(maxlen=20)
        self._first: Sample | None = None

    def look(self, sample: Sample) -> list[str]:
        """Warnings that this sample adds; mostly none."""
        first = self._first = self._first or sample
        found = {
            "spilled": _spilled(sample, first, self._seconds),
            "near": _near(sample),
            "pieces": _in_pieces(sample, first),
        }
        self._seconds.append(sample.seconds)
        new = {name: text for name, text in found.items() if text and name not in self._told}
        self._told |= set(new)
        return list(new.values())


def _near(sample: Sample) -> str:
    most = max(sample.used, sample.peak)
    if not sample.limit or most < NEAR * sample.limit:
        return ""
    return (
        f"memory at {most / sample.limit:.0%} of what the run may take ({_gb(most)} of {_gb(sample.limit)}): a longer "
        "sample may not fit any more; a smaller training.batch_size with more gradient_accumulation_steps takes less"
    )


def _in_pieces(sample: Sample, first: Sample) -> str:
    new = sample.retries - first.retries
    most = max(sample.used, sample.peak)
    if not new or not most or (sample.reserved < _LOOSE * most and sample.inactive < 0.25 * sample.reserved):
        return ""
    times = "once" if new == 1 else f"{new} times"
    return (
        f"memory is in fragments: the allocator holds {_gb(sample.reserved)} where at most {_gb(most)} were in use, "
        f"and had to give back its cache {times}; start again with {allocator_setting()} in the environment"
    )


def _spilled(sample: Sample, first: Sample, before: deque[float]) -> str:
    usual = median(before) if len(before) >= _USUAL else 0.0
    if not usual or sample.seconds < _JUMP * usual:
        return ""
    slower = f"a step takes {sample.seconds / usual:.1f} times as long as before"
    if sample.reserved and max(sample.reserved, sample.used) > _FULL * sample.dedicated:
        return (
            f"{slower}, with {_gb(sample.reserved)} of the GPU's {_gb(sample.dedicated)} in use: its driver probably "
            "moved some of it to the slow memory of the host; set memory.budget below the GPU's own memory (on Windows "
            "also: CUDA sysmem fallback policy, prefer no fallback), or close what else uses the GPU"
        )
    short = sample.available < (1 - _FULL) * sample.dedicated
    if not sample.reserved and sample.swapped > first.swapped and short:
        return (
            f"{slower}, and the system has moved {_gb(sample.swapped)} of this run to the disk; use a smaller "
            "training.batch_size, set memory.budget, or close other programs"
        )
    return ""


def allocator_setting() -> str:
    """The line that lets the CUDA allocator's blocks grow, as this torch reads it."""
    name = "PYTORCH_ALLOC_CONF" if machine.TORCH_VERSION >= (2, 9) else "PYTORCH_CUDA_ALLOC_CONF"
    return f"{name}=expandable_segments:True"


def _gb(size: int) -> str:
    return f"{size / 2**30:.2f}GB"
