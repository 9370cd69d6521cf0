"""What this machine can do at most, measured: matrix products, memory, copies to a GPU, one small operation.

A share of a ceiling means something only where the ceiling was measured on the machine at hand: a number from a data
sheet belongs to another card, another clock or another count of threads. So nothing here is looked up. What was
measured is kept in the user's cache folder, by processor or GPU, threads and torch version; a file that cannot be read
is measured anew, and what was measured beside other programs is measured again, and the better kept. Units: FLOP/s (a
multiplication and an addition are two), bytes/s, seconds.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from hotloop import device as machine
from hotloop.disk import cache_folder, telling, write_atomic
from hotloop.errors import HotloopError

_SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}  # of the square matrices
_LONG_ROUND, _ROUNDS = 0.4, 10  # seconds; larger matrices are left out where one product takes longer
_MIB = 2**20
_STREAMED = {"cpu": 128 * _MIB, "cuda": 512 * _MIB}  # bytes of each of three arrays, larger than any cache
_COPIED, _CALLS = 256 * _MIB, 2000

_FULL = 0.85  # of all processors in use: next to none was idle
DISTURBING = 0.33  # processors that others took

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Ceilings:
    """The most that was seen on this machine.

    Args:
        device: name of the processor or GPU.
        threads: CPU threads it was measured with; 0 on a GPU, where they do not matter.
        torch: its version.
        matrix: precision (fp32, tf32, bf16, fp16) -> FLOP/s of a large matrix product; only what the device has.
        bandwidth: bytes/s read and written of the device's memory.
        operation: seconds of one operation on a single number, so of calling it.
        copies: `pinned` and `pageable` -> bytes/s from host to GPU; empty on a CPU.
        others: processors that other programs took meanwhile; 0 on a GPU.
    """

    device: str
    threads: int
    torch: str
    matrix: dict[str, float]
    bandwidth: float
    operation: float
    copies: dict[str, float] = field(default_factory=dict)
    others: float = 0.0

    @property
    def disturbed(self) -> bool:
        """Whether other programs took so much that the ceilings may be too low."""
        return self.others >= DISTURBING

    def line(self) -> str:
        """The ceilings in a line, for a person."""
        products = ", ".join(f"{name} {flops / 1e9:,.0f}" for name, flops in self.matrix.items())
        parts = [f"products {products} GFLOP/s", f"memory {self.bandwidth / 1e9:,.1f} GB/s"]
        parts += [f"copy from {kind} memory {speed / 1e9:,.1f} GB/s" for kind, speed in self.copies.items()]
        return "; ".join([*parts, f"an operation {self.operation * 1e6:.1f} us"])


def ceilings(device: torch.device, *, again: bool = False, tell: Tell = lambda line: None) -> Ceilings:
    """The ceilings of a device at this process's number of threads, from the cache or measured (a few seconds).

    Args:
        device: to measure; nothing else should run on it.
        again: measure even if they are known.
        tell: is told in a line that they are measured, and where they could not be kept.
    """
    before = None if again else known(device)
    if before is not None and not before.disturbed:
        return before
    tell("measuring what this machine can do; this takes a few seconds and is kept")
    found = _higher(before, measure(device))
    if found.disturbed:
        took = f"other programs took {found.others:.1f} processors while it was measured"
        tell(f"{took}: the ceilings may be too low, and are measured again next time")
    path = _file(device)
    try:
        with telling("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(asdict(found), indent=2).encode())
    except HotloopError as error:
        tell(f"the ceilings are not kept: {error.what} ({path.parent}); $HOTLOOP_CACHE names another folder")
    return found


def known(device: torch.device) -> Ceilings | None:
    """The ceilings from the cache; None where they were never measured for this device, threads and torch."""
    try:
        stored = json.loads(_file(device).read_bytes())
        found = Ceilings(**{name: stored[name] for name in (each.name for each in fields(Ceilings))})
        speeds = [*found.matrix.values(), found.bandwidth, found.operation, *found.copies.values()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    whole = bool(found.matrix) and all(isinstance(s, float) and math.isfinite(s) and s > 0 for s in speeds)
    whole = whole and isinstance(found.others, float)
    return found if whole and (found.device, found.threads, found.torch) == _key(device) else None


def measure(device: torch.device) -> Ceilings:
    """Measure the ceilings now. Random state and TF32 are afterwards as they were."""
    before, others = machine.tf32_read_back(), Others()
    try:
        matrix = {name: _matrix(device, name) for name in _precisions(device)}
    finally:
        machine.set_tf32(before)
    found = Ceilings(*_key(device), matrix, _bandwidth(device), _operation(device), _copies(device))
    if device.type == "cuda":
        torch.cuda.empty_cache()  # a run that follows may have a budget
        return found
    return replace(found, others=others.took())


def _higher(before: Ceilings | None, now: Ceilings) -> Ceilings:
    """The better of each of two measurements of one machine: neither can have been above the ceiling."""
    if before is None:
        return now
    return replace(
        now,
        matrix={name: max(speed, before.matrix.get(name, 0.0)) for name, speed in now.matrix.items()},
        bandwidth=max(now.bandwidth, before.bandwidth),
        operation=min(now.operation, before.operation),
    )


class Others:
    """What other programs take of the processors, from now on."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = self._now()

    def _now(self) -> tuple[float, float, float]:
        times, this = psutil.cpu_times(), psutil.Process()
        idle, own = times.idle + getattr(times, "iowait", 0.0), 0.0
        for process in [this, *this.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                own += process.cpu_times().user + process.cpu_times().system
        return time.perf_counter(), sum(times[:8]) - idle, own

    def took(self) -> float:
        """Processors that others took so far; 0 where enough were idle, so that nobody was in the way."""
        now, busy, own = self._now()
        wall, cores = max(now - self._began, 1e-3), psutil.cpu_count() or 1
        used = (busy - self._busy) / wall
        return max(0.0, used - (own - self._own) / wall) if used >= _FULL * cores else 0.0


def _key(device: torch.device) -> tuple[str, int, str]:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device), 0, str(torch.__version__)
    return machine.cpu_name(), torch.get_num_threads(), str(torch.__version__)


def _file(device: torch.device) -> Path:
    name, threads, version = _key(device)
    label = "-".join([name, *([f"{threads}-threads"] if threads else []), version])
    return cache_folder() / "ceilings" / (re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-") + ".json")


def _precisions(device: torch.device) -> list[str]:
    if device.type != "cuda":
        return ["fp32", "bf16"]
    major, _ = torch.cuda.get_device_capability(device)
    return ["fp32", *(["tf32", "bf16"] if major >= 8 else []), *(["fp16"] if major >= 7 else [])]


def _matrix(device: torch.device, precision: str) -> float:
    """FLOP/s of the best of some square products, of several sizes."""
    machine.set_tf32(precision == "tf32")
    dtype = machine.DTYPES.get(precision, torch.float32)
    draw, best = torch.Generator(device).manual_seed(1), 0.0
    for size in _SIZES[device.type]:
        if best and 2 * size**3 / best > _LONG_ROUND:
            break
        try:
            left, right = (torch.randn(size, size, generator=draw, device=device).to(dtype) for _ in range(2))
            out = torch.empty_like(left)
            seconds = _best(device, lambda a=left, b=right, c=out: torch.mm(a, b, out=c))  # type: ignore[misc]
        except torch.OutOfMemoryError:  # a small card: what was measured so far is its ceiling
            break
        best = max(best, 2 * size**3 / seconds)
    return best


def _bandwidth(device: torch.device) -> float:
    """Bytes/s of a sum of two arrays into a third, or of a copy, whichever is faster."""
    room = machine.memory_free(device) // 16
    count = max(_MIB, min(_STREAMED[device.type], room)) // 4
    a, b, c = (torch.ones(count, device=device) for _ in range(3))
    summed = 3 * 4 * count / _best(device, lambda: torch.add(a, b, out=c))
    copied = 2 * 4 * count / _best(device, lambda: c.copy_(a))
    return max(summed, copied)


def _operation(device: torch.device) -> float:
    """Seconds that the host takes for an operation on one number that is differentiated."""
    one, shortest = torch.ones(1, device=device, requires_grad=True), math.inf
    for _ in range(_ROUNDS):
        _wait(device)
        started = time.perf_counter()
        for _ in range(_CALLS):
            one * 2.0
        shortest = min(shortest, time.perf_counter() - started)
    return shortest / _CALLS


def _copies(device: torch.device) -> dict[str, float]:
    """Bytes/s from the host's memory to a GPU's."""
    if device.type != "cuda":
        return {}
    count = max(_MIB, min(_COPIED, machine.memory_free(device) // 8))
    target, pageable = torch.empty(count, dtype=torch.uint8, device=device), torch.ones(count, dtype=torch.uint8)

    def speed(host: Tensor) -> float:
        return count / _best(device, lambda: target.copy_(host, non_blocking=True))

    found = {"pageable": speed(pageable)}
    with contextlib.suppress(RuntimeError):  # the system may refuse to lock that much
        found["pinned"] = speed(pageable.pin_memory())
    return found


def _best(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds of one call: the least of several rounds, each long enough to be timed."""
    work()
    calls = max(1, min(200, int(0.02 / max(1e-7, next(_timed(device, work, 1))))))
    return min(seconds for _, seconds in zip(range(_ROUNDS), _timed(device, work, calls), strict=False))


def _timed(device: torch.device, work: Callable[[], Any], calls: int) -> Iterator[float]:
    while True:
        _wait(device)
        started = time.perf_counter()
        for _ in range(calls):
            work()
        _wait(device)
        yield (time.perf_counter() - started) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
