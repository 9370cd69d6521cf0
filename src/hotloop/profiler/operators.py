"""Which operators take the time, by torch's own profiler over a few steps; and its trace for a browser.

Looking at every operator slows steps down, so these steps are not the ones that are timed: only shares are taken from
them, and on a GPU the time of kernels, which the looking does not change.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from hotloop.disk import replacing
from hotloop.errors import HotloopError

_SHOWN = 8
_PRODUCTS = ("mm", "conv", "rnn", "lstm", "gru", "attention", "dot_product", "linear", "gemm", "matmul")
_KERNELS = ("cutlass", "xmma", "fmha", "flash", "nvjet")  # parts of the names of products' kernels on a GPU
_SUFFIXES = (".json", ".json.gz")


@dataclass(frozen=True)
class Operator:
    """One row of the evidence.

    Args:
        name: torch's; kernels of the compiler have names of their own.
        share: of all operators' own time, 0 to 1.
        calls: a step.
    """

    name: str
    share: float
    calls: float


@dataclass(frozen=True)
class Seen:
    """What torch's profiler saw.

    Args:
        operators: those that took most, the first the most.
        products: share of operator time in products (matrix, convolution, attention, recurrent), 0 to 1.
        kernels: seconds of a step in which the GPU ran kernels; None on a CPU.
    """

    operators: tuple[Operator, ...]
    products: float
    kernels: float | None


def checked_trace(path: Path) -> Path:
    """The file of a trace, before anything is measured.

    Raises:
        HotloopError: a name that a browser would not open, or no such folder.
    """
    if not path.name.endswith(_SUFFIXES):
        fix = f"name a file that ends in {' or '.join(_SUFFIXES)}; https://ui.perfetto.dev opens both"
        raise HotloopError("a trace cannot be written there", where=str(path), fix=fix)
    if not path.parent.is_dir():
        raise HotloopError(f"there is no folder {path.parent}", where=str(path), fix="make it, or name another file")
    return path


def look(device: torch.device, work: Callable[[int], Any], steps: int, trace: Path | None) -> Seen:
    """Run `steps` steps under torch's profiler.

    Args:
        device: of the run.
        work: takes that many steps.
        steps: at least 1.
        trace: where the trace goes; none is written otherwise.
    """
    on_gpu = device.type == "cuda"
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else its library writes lines to the screen
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        work(steps)
    if trace is not None:
        _export(profiler, trace)
    return _summed(list(profiler.key_averages()), steps, on_gpu)


def _export(profiler: Any, trace: Path) -> None:
    """Write the trace, whole or not at all; torch writes to a name only."""
    beside = trace.with_name(f".{trace.name}")  # torch compresses what ends in .gz
    try:
        profiler.export_chrome_trace(str(beside))
        with replacing(trace) as file, open(beside, "rb") as written:
            while piece := written.read(1 << 20):
                file.write(piece)
    finally:
        beside.unlink(missing_ok=True)


def _summed(rows: list[Any], steps: int, on_gpu: bool) -> Seen:
    """Operators have rows of the CPU's kind, kernels of the GPU's; an operator's GPU time is that of its kernels.

    A captured graph starts its kernels without operators; where these miss half of the time, kernels are told instead.
    """
    told = [row for row in rows if not getattr(row, "is_user_annotation", False)]
    operators = [row for row in told if row.device_type.name == "CPU"]
    kernels = [row for row in told if row.device_type.name == "CUDA"]
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    ran = sum(row.self_device_time_total for row in kernels if not row.key.startswith("Memcpy HtoD"))
    if sum(getattr(row, own) for row in operators) < 0.5 * ran:
        operators = kernels
    total = sum(getattr(row, own) for row in operators) or sys.float_info.min
    operators.sort(key=lambda row: getattr(row, own), reverse=True)
    shown = [Operator(row.key, getattr(row, own) / total, row.count / steps) for row in operators[:_SHOWN]]
    words = (*_PRODUCTS, *_KERNELS)
    products = sum(getattr(row, own) for row in operators if any(word in row.key.lower() for word in words))
    return Seen(
        tuple(operator for operator in shown if operator.share >= 0.005),
        products / total,
        ran / 1e6 / steps if on_gpu else None,
    )
