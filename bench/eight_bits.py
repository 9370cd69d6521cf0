"""One update of a model of 33.5 million weights: torch's fused AdamW, ours with 8-bit moments, ours on the host, and
torchao's where it is installed. Milliseconds (median and spread of the rounds) and bytes of state.

    python bench/eight_bits.py [--device cuda] [--threads 1] [--rounds 7] [--only fused,8bit]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median

import torch

from hotloop.engine.adamw8bit import AdamW8bit
from hotloop.engine.offload import OffloadedAdam

SHAPES = [(16384, 512)] + [(512, 512)] * 32 + [(2048, 512)] * 8 + [(512, 2048)] * 8
Make = Callable[[list[torch.nn.Parameter], torch.Tensor], torch.optim.Optimizer]


def torchaos(parameters: list[torch.nn.Parameter], rate: torch.Tensor) -> torch.optim.Optimizer:
    from torchao.optim import AdamW8bit as Theirs

    return Theirs(parameters, lr=rate)


CONTESTANTS: dict[str, Make] = {
    "fused": lambda parameters, rate: torch.optim.AdamW(parameters, lr=rate, fused=True),
    "8bit": lambda parameters, rate: AdamW8bit(parameters, lr=rate),
    "offload": lambda parameters, rate: OffloadedAdam(parameters, lr=rate),
    "torchao": torchaos,
}


def state_size(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the state; the parts of a wrapped tensor count."""
    found = [value for state in optimizer.state.values() for value in state.values()]
    parts = [getattr(t, name) for t in found if hasattr(t, "codes") for name in ("codes", "scale", "qmap")]
    return sum(t.numel() * t.element_size() for t in [*parts, *(t for t in found if not hasattr(t, "codes"))])


def measure(make: Make, device: torch.device, rounds: int) -> tuple[float, list[float], int]:
    """(seconds of the first update, milliseconds of the others, bytes of state)."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, device=device) * 0.02) for shape in SHAPES]
    gradients = [torch.randn_like(parameter) * 1e-3 for parameter in parameters]
    optimizer = make(parameters, torch.tensor(1e-3, device=device))
    optimizer.found_inf, optimizer.grad_scale = torch.zeros((), device=device), None  # type: ignore[attr-defined]
    times = []
    for _ in range(rounds + 1):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        begun = time.perf_counter()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return times[0], sorted(1e3 * seconds for seconds in times[1:]), state_size(optimizer)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default=",".join(CONTESTANTS))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print("optimizer    first s   median ms   least to most ms     MB of state")
    for name in chosen.only.split(","):
        if name == "torchao" and not find_spec("torchao"):
            print("torchao      not installed")
            continue
        first, rest, size = measure(CONTESTANTS[name], torch.device(chosen.device), chosen.rounds)
        print(f"{name:<10} {first:9.2f} {median(rest):11.1f} {rest[0]:9.1f} to {rest[-1]:.1f} {size / 1e6:15.1f}")


if __name__ == "__main__":
    main()
