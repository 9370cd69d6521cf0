"""The machine: device, precision, TF32 read back, threads, random state. What differs by torch version is here.

TF32 is read back through the interface that this torch wants. Its two interfaces are kept in agreement, because on
recent versions reading the old one raises when they differ.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from hotloop.errors import HotloopError

TORCH_VERSION: tuple[int, ...] = tuple(
    int(part) for part in torch.__version__.split("+")[0].split(".")[:2] if part.isdigit()
)
_FP32_PRECISION_API = TORCH_VERSION >= (2, 9)  # torch.backends.*.fp32_precision; allow_tf32 before
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(wanted: str) -> torch.device:
    """The device that `training.device` names; auto takes CUDA where there is one, else the CPU.

    Raises:
        HotloopError: the device asked for by name is not there.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise HotloopError(
            f"'{wanted}' is not a device", where="training.device", fix="use auto, cpu, cuda or cuda:0"
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise HotloopError(
            _no_cuda(device), where="training.device", fix="use --device cpu, or install a CUDA build of torch"
        )
    if device.type not in ("cpu", "cuda"):
        raise HotloopError(
            f"training on {device.type} is not available in this version", where="training.device", fix="use cpu"
        )
    return device


def _no_cuda(device: torch.device) -> str:
    if torch.version.cuda is None:
        return f"a GPU was asked for, but this torch ({torch.__version__}) is a CPU build"
    if not torch.cuda.is_available():
        return "a GPU was asked for, but torch sees none: driver missing, or hidden by CUDA_VISIBLE_DEVICES"
    return f"{device} was asked for, but there are only {torch.cuda.device_count()} GPUs"


def device_kind() -> str:
    """What `auto` would pick, as a word for choosing a recipe: cpu or cuda."""
    return pick_device("auto").type


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (AVX-512 BF16 or AMX)."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in probes)


def native_precision(device: torch.device) -> str:
    """The fastest mixed precision that this device has in hardware: bf16, fp16 or fp32."""
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return "bf16" if major >= 8 else "fp16" if major == 7 else "fp32"
    return "bf16" if device.type == "cpu" and cpu_has_bf16() else "fp32"


def set_tf32(on: bool) -> None:
    """Switch TF32 for matrix products, convolutions and recurrent layers, through the interface this torch wants.

    Where torch has two, the old one's flags are brought along first. Left as they were they contradict the new ones,
    and whatever reads them then raises: `torch.backends.cudnn.flags`, max-autotune.
    """
    with warnings.catch_warnings(), contextlib.suppress(AttributeError):
        warnings.simplefilter("ignore")  # some versions announce that the old interface will go
        torch.backends.cuda.matmul.allow_tf32 = on
        torch.backends.cudnn.allow_tf32 = on
    if _FP32_PRECISION_API:
        backends: Any = torch.backends  # its stubs know the old interface only
        for part in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
            part.fp32_precision = "tf32" if on else "ieee"


def tf32_read_back() -> bool:
    """Whether TF32 is really on, read through the interface that `set_tf32` writes."""
    if _FP32_PRECISION_API:
        backends: Any = torch.backends
        return bool(backends.cuda.matmul.fp32_precision == "tf32")
    return bool(torch.backends.cuda.matmul.allow_tf32)


def set_deterministic(on: bool) -> None:
    """Deterministic kernels, or the fastest ones: cudnn's benchmark mode is never on together with determinism."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when its handle is made
    if on != torch.are_deterministic_algorithms_enabled():  # even switching it off loads all of torch's compiler: 0.9 s
        torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.deterministic = on
    torch.backends.cudnn.benchmark = not on


_budget_before: list[float] = []  # what compiled code was allowed to keep before a run said otherwise


def set_activation_budget(share: float | None) -> None:
    """Share of the activations that code compiled from now on keeps for the backward pass; None puts back what was.

    torch has no public name for it yet; this one has been there since 2.4.
    """
    if share is None and not _budget_before:
        return
    import torch._functorch.config as compiler

    settings: Any = compiler
    if share is None:
        settings.activation_memory_budget = _budget_before.pop()
        return
    _budget_before[:] = _budget_before or [settings.activation_memory_budget]
    settings.activation_memory_budget = share


_attention_before: dict[str, bool] = {}  # which kernels torch could choose from before a run said otherwise
_attention_now = ["auto"]
_KERNELS = {"flash": "flash", "efficient": "mem_efficient", "cudnn": "cudnn", "math": "math"}


def set_attention(kind: str, device: torch.device | None = None) -> None:
    """Leave torch's scaled dot-product attention this one kernel; auto gives it back what it had.

    Raises:
        HotloopError: the kernel exists on NVIDIA GPUs only, and `device` is none.
    """
    switches: Any = torch.backends.cuda
    _attention_now[0] = "auto"
    if kind == "auto":
        for name, was in _attention_before.items():
            getattr(switches, f"enable_{name}_sdp")(was)
        _attention_before.clear()
        return
    if kind in ("efficient", "cudnn") and device is not None and device.type != "cuda":
        raise HotloopError(
            f"the attention kernel {kind} exists on NVIDIA GPUs only, and this run is on {device}",
            where="training.attention",
            fix="use training.attention=flash, math or auto",
        )
    if not _attention_before:
        _attention_before.update({name: getattr(switches, f"{name}_sdp_enabled")() for name in _KERNELS.values()})
    for known, name in _KERNELS.items():
        getattr(switches, f"enable_{name}_sdp")(known == kind)
    _attention_now[0] = kind


def names_fused_attention() -> bool:
    """Whether the run names a fused kernel; plain Python, so that compiled code can ask it."""
    return _attention_now[0] not in ("auto", "math")


def usable_cores() -> int:
    """Logical cores that this process may use, which in a container are fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def set_threads(wanted: int | str) -> int:
    """Use `wanted` CPU threads (auto: leave torch's own choice); returns the number read back."""
    if isinstance(wanted, int) and wanted != torch.get_num_threads():
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices): model initialisation and dropout draw from these."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """State of every generator that training draws from; loads with weights_only."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put every generator back where `random_state` found it."""
    torch.set_rng_state(state["torch"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Run something that may draw random numbers (an evaluation, a probe) and leave the generators as they were."""
    state = random_state(device)
    try:
        yield
    finally:
        restore_random_state(state, device)


def peak_memory(device: torch.device) -> int:
    """Bytes at the highest point of this process: reserved on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if platform.system() == "Windows":
        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024  # kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_total(device: torch.device) -> int:
    """Bytes the device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def budget_bytes(budget: str | float | None, device: torch.device) -> int:
    """A memory budget in bytes: text such as 4GB (of 2**30), or a share of what the device has; 0 for none."""
    if budget is None:
        return 0
    if isinstance(budget, str):
        number = budget.strip().upper().rstrip("IB")
        return int(float(number[:-1]) * _UNITS[number[-1]])
    return int(budget * memory_total(device))


def memory_free(device: torch.device) -> int:
    """Bytes still to be had on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def cpu_is_intel() -> bool:
    """Whether the processor is one of Intel's, by what the system says."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "intel" in platform.processor().lower()


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """The environment a result was measured in: versions, processor, threads, GPUs."""
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_bf16": cpu_has_bf16(),
        "cores": psutil.cpu_count(logical=True),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
    }
