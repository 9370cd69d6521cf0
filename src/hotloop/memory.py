"""Memory of the device and of this process: what is used, the peak, and the errors that say there was none.

Bytes throughout. On a GPU the figures are the allocator's; on a CPU they are the process's resident memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import mmap
import sys
from pathlib import Path

import psutil
import torch

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


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that there was not enough memory."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, torch.OutOfMemoryError | MemoryError | NoMemory):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError | OSError) and text_says_out_of_memory(str(error)):
            return True
        error = error.__cause__  # what was merely being handled meanwhile is no cause
    return False


def text_says_out_of_memory(text: str) -> bool:
    """Whether a message, such as the last words of another process, says so."""
    return any(words in text.lower() for words in _TEXTS)


def release(device: torch.device) -> None:
    """Give back what nobody uses any more: Python's cycles, and the allocators' cached blocks."""
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


def can_keep_freed() -> bool:
    """Whether malloc is glibc's, which takes orders on what it gives back to the system."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


_keeps = [False]  # what this process was told last; a fresh one follows glibc's own rules
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc's malloc.h


def keep_freed(on: bool) -> None:
    """Let malloc keep what is freed instead of giving it back to the system, or give back again.

    A step frees its activations and asks for as much again in the next. By glibc's rules large blocks go back to the
    system meanwhile, and every page of them is fetched and zeroed anew: over a quarter of a step's time at worst.
    `trim` still gives back what nobody uses.

    Source: mallopt(3).
    """
    if on == _keeps[0] or not can_keep_freed():
        return
    orders = [(_TRIM_THRESHOLD, -1), (_MMAP_MAX, 0)]
    if not on:  # about where glibc's moving thresholds end in a process with large blocks
        orders = [(_TRIM_THRESHOLD, 64 << 20), (_MMAP_THRESHOLD, 32 << 20), (_MMAP_MAX, 65536)]
    libc = ctypes.CDLL(None)
    if all(libc.mallopt(parameter, value) for parameter, value in orders):
        _keeps[0] = on
    if not on:
        trim()


def free_share(device: torch.device, limit: int = 0) -> float:
    """Share of the device's memory, or of the limit, that is not in use now."""
    whole = machine.memory_total(device)
    free = machine.memory_free(device) / whole
    if device.type == "cuda":
        free += (torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) / whole
        return min(free, 1 - torch.cuda.memory_allocated(device) / limit) if limit else free
    return free


def peak(device: torch.device) -> int:
    """Bytes at the highest point since `reset_peak`, or since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    # The system's other figure (ru_maxrss) begins with that of the process which started this one.
    return status().get("VmHWM") or machine.peak_memory(device)


def reset_peak(device: torch.device) -> bool:
    """Let `peak` begin anew from what is in use now; False where the system cannot do that."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # a card named by its number would not do that
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


def own_at_rest(device: torch.device) -> int:
    """Like `own`, without free blocks of earlier work that malloc still holds."""
    trim()
    return own(device)


def own_peak() -> int:
    """Like `own` on a CPU, at the highest point since `reset_peak`; 0 where the system does not tell."""
    figures = status()
    return figures.get("VmHWM", 0) - figures.get("RssFile", 0) - figures.get("RssShmem", 0)


def swapped() -> int:
    """Bytes of this process that the system has moved to the disk; 0 where it does not tell."""
    return status().get("VmSwap", 0)


def status() -> dict[str, int]:
    """The sizes in /proc/self/status, in bytes; empty where there is no such file."""
    found = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                found[name] = int(value.split()[0]) * 1024
    return found
