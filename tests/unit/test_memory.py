"""Which errors say that memory ran out, and which only sound like it; figures of this process."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest
import torch

from hotloop import memory
from hotloop.errors import HotloopError, NoMemory

CPU = torch.device("cpu")
SAID = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 3.81 GiB"),
    MemoryError("std::bad_alloc"),
    MemoryError(),
    NoMemory("out of memory at step 3", intact=True),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError(
        "MPS backend out of memory (MPS allocated: 9.06 GB, other allocations: 2.00 MB, max allowed: 9.07 GB)"
    ),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 17179869184 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp] data. DefaultCPUAllocator: not enough memory: you tried to allocate 1"
    ),
    RuntimeError("std::bad_alloc"),
    RuntimeError("bad allocation"),
    RuntimeError("could not create a primitive"),
    RuntimeError("could not create a memory object"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":838'),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("unable to mmap 4096 bytes from file </torch_1>: Cannot allocate memory (12)"),
]
OTHERS = [
    None,
    RuntimeError("out of resource: shared memory, Required: 147456, Hardware limit: 101376. Reducing block sizes"),
    RuntimeError("index 5 is out of bounds for dimension 0 with size 5"),
    IndexError("index out of range in self"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("It is possible that dataloader's workers are out of shared memory. Please raise your shared memory"),
    RuntimeError("view size is not compatible with input tensor's size and stride (at least one dimension spans across "
                 "two contiguous subspaces)"),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("the text says out of memory"),
    HotloopError("a batch of one row"),
]  # fmt: skip


@pytest.mark.parametrize("error", SAID, ids=lambda error: str(error)[:50] or type(error).__name__)
def test_memory_ran_out(error):
    assert memory.is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: str(error)[:50])
def test_something_else_went_wrong(error):
    assert not memory.is_out_of_memory(error)


def test_the_cause_of_another_error_counts():
    wrapped = HotloopError("the loss failed")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert memory.is_out_of_memory(wrapped)


def test_what_was_merely_being_handled_does_not_count():
    another = ValueError("another")
    another.__context__ = MemoryError()
    assert not memory.is_out_of_memory(another)


def test_causes_that_go_in_a_circle_end():
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    assert not memory.is_out_of_memory(one)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be begun anew on Linux only")
def test_the_peak_of_the_process_follows_what_is_allocated():
    if not memory.reset_peak(CPU):
        pytest.skip("this system does not let the peak be begun anew")
    before = memory.own(CPU)
    block = torch.ones(2**23)  # 32 MB
    assert memory.own(CPU) - before > 30 * 2**20
    del block
    memory.trim()
    assert memory.own_peak() - before > 30 * 2**20
    assert memory.own(CPU) - before < 16 * 2**20
    assert memory.reset_peak(CPU)
    assert memory.own_peak() - before < 16 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_is_not_that_of_the_process_that_started_this_one():
    inner = "import torch; from hotloop import memory; print(memory.peak(torch.device('cpu')))"
    outer = (
        "import subprocess, sys; block = bytearray(1 << 30)\n"
        f"print(subprocess.run([sys.executable, '-c', {inner!r}], capture_output=True, text=True, check=True).stdout)"
    )
    done = subprocess.run([sys.executable, "-c", outer], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 1 << 29
