"""Memory of the device and of this process: what is used, the peak, the budget, and the errors that say there was none.

Bytes throughout. On a GPU the figures are the allocator's; on a CPU they are the process's resident memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import mmap
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import torch
from torch.nn.modules.module import register_module_forward_hook

from hotloop import device as machine
from hotloop.errors import NoMemory

# What the allocators and libraries say, in lower case; none of these words is in another message of theirs.
_TEXTS = (
    "out of memory",  # CUDA, HIP, MPS, the CUDA driver, XPU
    "can't allocate memory",  # DefaultCPUAllocator
    "not enough memory",  # DefaultCPUAllocator on Windows
    "cannot allocate memory",  # the system's own words for ENOMEM
    "alloc_failed",  # CUBLAS_STATUS_, CUDNN_STATUS_, CUSOLVER_STATUS_, CUFFT_
    "std::bad_alloc",
    "bad allocation",
    "nvml_success == r internal assert failed",  # the CUDA allocator, while it words its own error
    "could not create a primitive",  # oneDNN, where it gets no memory for a kernel's code (seen under RLIMIT_DATA)
    "could not create a memory object",
)
_SLACK = 256 * 2**20  # see `Guard`: what the system's own limit leaves beyond twice the budget
_Limits = tuple[int, int]


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that there was not enough memory."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, torch.OutOfMemoryError | MemoryError | NoMemory):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError | OSError) and any(text in str(error).lower() for text in _TEXTS):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def release(device: torch.device) -> None:
    """Give back what nobody uses any more: Python's cycles, and the allocator's cached blocks."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        trim()


def trim() -> None:
    """Let malloc give back what it keeps for later; only glibc keeps much, and only it has this call."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _limits() -> _Limits | None:
    """Soft and hard limit of this process's private writable memory; None where the system has no such limit."""
    if sys.platform != "linux":
        return None
    import resource

    return resource.getrlimit(resource.RLIMIT_DATA)


def _set_limits(limits: _Limits) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, limits)


def _lower(limits: _Limits, wanted: int) -> _Limits:
    """The same limits with the soft one at `wanted`, unless it is lower already; -1 stands for no limit."""
    soft, hard = limits
    return (wanted if soft < 0 else min(soft, wanted)), hard


def free_share(device: torch.device, limit: int = 0) -> float:
    """Share of the device's memory, or of the limit, that is not in use now."""
    whole = machine.memory_total(device)
    free = machine.memory_free(device) / whole
    if device.type == "cuda":
        free += (torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) / whole
        return min(free, 1 - torch.cuda.memory_allocated(device) / limit) if limit else free
    return free


def used(device: torch.device) -> int:
    """Bytes in use now: allocated on a GPU, resident on a CPU."""
    return machine.memory_used(device)


def peak(device: torch.device) -> int:
    """Bytes at the highest point since `reset_peak`, or since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return _status().get("VmHWM") or machine.peak_memory(device)


def reset_peak(device: torch.device) -> bool:
    """Let `peak` begin anew from what is in use now; False where the system cannot do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: 5 sets the peak of resident memory back
        return True
    return False


def own(device: torch.device) -> int:
    """Bytes that belong to this process alone: allocated on a GPU; on a CPU resident, without pages of files.

    Code of libraries and mapped data files are left out: the system takes such pages back when it needs them.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError):
        _, resident, of_files = Path("/proc/self/statm").read_bytes().split()[:3]
        return (int(resident) - int(of_files)) * mmap.PAGESIZE
    return int(psutil.Process().memory_info().rss)


def own_peak() -> int:
    """Like `own` on a CPU, at the highest point since `reset_peak`; 0 where the system does not tell."""
    status = _status()
    return status.get("VmHWM", 0) - status.get("RssFile", 0) - status.get("RssShmem", 0)


def swapped() -> int:
    """Bytes of this process that the system has moved to the disk; 0 where it does not tell."""
    return _status().get("VmSwap", 0)


def _status() -> dict[str, int]:
    """The sizes in /proc/self/status, in bytes; empty where there is no such file."""
    found = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                found[name] = int(value.split()[0]) * 1024
    return found


class OverBudget(MemoryError):
    """The run has taken more memory than its budget allows."""


class Guard:
    """Holds a run to its budget, and knows the most that it took.

    On a GPU the allocator itself refuses what goes beyond. On a CPU the run is measured: after each layer, and after
    each backward pass by `check`; beyond the budget `OverBudget` is raised, like an allocation that failed. The system
    could refuse every allocation beyond a limit, but oneDNN does not survive that (it writes to what it did not get, or
    never compiles a kernel again), so that limit stands far behind the budget and meets single huge requests only.

    Args:
        device: of the run.
        limit: bytes that the run may take beyond `baseline`; 0 measures only.
        layers: look after each layer too; not for compiled models, which hooks would break up.

    Attributes:
        baseline: bytes that the process had of its own before the run; `growth` and `peak` count from there.
    """

    def __init__(self, device: torch.device, limit: int = 0, layers: bool = True) -> None:
        self._device, self.limit, self._layers = device, limit, layers
        self.baseline = 0 if device.type == "cuda" else own(device)
        self._highest = self._whole = 0  # beyond the baseline; of the whole process
        self._started = self._closed = self._exact = self._stale = False
        self._on_cpu = device.type != "cuda" and limit > 0
        self._undo: list[Callable[[], object]] = []
        self._wall: _Limits | None = None

    @property
    def how(self) -> str:
        """How the budget is held to, for a person; empty where there is none."""
        if not self.limit:
            return ""
        if self._device.type == "cuda":
            return "the allocator refuses what goes beyond it"
        where = "after each layer and each backward pass" if self._layers else "after each backward pass"
        far = "; the system refuses single requests far beyond it" if _limits() is not None else ""
        return f"measured {where}, and a step that went beyond it is taken back{far}"

    def start(self) -> None:
        """Training begins: `peak` counts from here, and a GPU's allocator is given its limit."""
        self._started, self._whole = True, machine.peak_memory(self._device)
        self._exact = reset_peak(self._device)
        if self._device.type == "cuda" and self.limit:
            share = min(1.0, self.limit / machine.memory_total(self._device))
            torch.cuda.set_per_process_memory_fraction(share, self._device)
        elif self._on_cpu and (limits := _limits()) is not None:
            room = 2 * self.limit + _SLACK - self.growth()
            self._wall = _lower(limits, _status().get("VmData", 0) + room)

    def close(self) -> None:
        """Training is over: `peak` stays, and a GPU's allocator is free again."""
        self._note()
        self._closed = True
        if self._device.type == "cuda" and self.limit:
            torch.cuda.set_per_process_memory_fraction(1.0, self._device)

    def __enter__(self) -> Guard:
        if not self._started:
            self.start()
        if self._on_cpu:
            self._note()
            reset_peak(self._device)  # what a checkpoint or the data took between two steps is not this step's
            if self._layers:
                self._undo.append(register_module_forward_hook(self._look).remove)
            if self._wall is not None and (before := _limits()) is not None:
                _set_limits(self._wall)
                self._undo.append(partial(_set_limits, before))
        return self

    def __exit__(self, *_: object) -> None:
        while self._undo:
            self._undo.pop()()
        if self._on_cpu:
            self._note()

    def make_room(self) -> None:
        """Before an evaluation, whose larger blocks would not fit into what malloc keeps of a step's."""
        if self._device.type != "cuda" and self.growth() > 2**27:
            trim()

    def check(self) -> None:
        """After a backward pass.

        Raises:
            OverBudget: the run took more than its budget since the last check.
        """
        if not self._on_cpu:
            return
        self._afresh()
        self._note()
        if (most := max(self.growth(), self._recent())) > self.limit:
            self._refuse(most)

    def growth(self) -> int:
        """Bytes that the run has now."""
        return own(self._device) - self.baseline

    def peak(self) -> int:
        """Bytes at the run's highest point since `start`."""
        self._note()
        return self._highest

    def process_peak(self) -> int:
        """Bytes at the highest point of the whole process (reserved on a GPU), what came before `start` included."""
        return max(self._whole, machine.peak_memory(self._device))

    def _look(self, *_: object) -> None:
        """After a layer's forward pass."""
        self._afresh()
        if self.growth() > self.limit:
            trim()  # blocks that malloc keeps for later do not count
            if (now := self.growth()) > self.limit:
                self._refuse(now)

    def _refuse(self, most: int) -> None:
        self._stale = True
        raise OverBudget(f"out of memory: the run took {most / 2**30:.2f}GB of {self.limit / 2**30:.2f}GB")

    def _afresh(self) -> None:
        """The first look after one that refused: the peak of the step that was taken back counts no more."""
        if self._stale:
            self._stale = False
            self._note()
            reset_peak(self._device)

    def _recent(self) -> int:
        """Bytes at the highest point since the peak was reset last."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return own_peak() - self.baseline if self._exact else self.growth()

    def _note(self) -> None:
        if not self._closed:
            self._highest = max(self._highest, self._recent())
        if self._on_cpu:  # elsewhere nothing sets the peak back after `start`
            self._whole = max(self._whole, machine.peak_memory(self._device))
