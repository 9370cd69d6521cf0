"""The CUDA side: its workloads, its targets, and one command that measures them all on one NVIDIA GPU.

    python bench/gpu.py [--rounds 5] [--seconds 2] [--skip gpt2,captured]

Three workloads run side by side as on a CPU (results to bench/results/cuda.json); the share of the matrix ceiling that
GPT-2's 124 million parameters reach, and how far a step of a small model is from its kernels alone, are measured here.
All of it goes to bench/results/gpu.json, from which bench/page.py fills the page. Written with care, not yet run.
Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workloads import PAIRS, PLAIN_LOB, Workload

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
_FAST = {"training.precision": "bf16", "training.compile": "default"}
CUDA = [
    Workload(
        "hlbd", "Transformer of 3 + 3 layers of 256, 600 pairs, effective batch 32 (peers: 4 x 8)", "translate",
        PAIRS, 32, 850, 10.0, "hlbd", 8, "cuda", {**_FAST, "training.capture": "on", "training.compile": "off"},
    ),
    Workload(
        "shakespeare", "GPT, 6 layers of 384, batch 64 x 256 characters (nanoGPT's shakespeare_char)", "gpt", {}, 64,
        5000, 1.5, "shakespeare_char", 1, "cuda", _FAST,
    ),
    Workload(
        "deeplob", "DeepLOB with the convolutions of its paper, windows of 100 x 40, batch 64",
        f"{HERE / 'published.py'}:PublishedLob", PLAIN_LOB, 64, 2000, 5.0, device="cuda",
        tuned={**_FAST, "training.channels_last": "on"},
    ),
]  # fmt: skip
TARGETS = {
    "hlbd": ("600 pairs x 50 passes, loop by hand in fp32 with batch 4 x 8 over hotloop", "10 times or more"),
    "shakespeare": (
        "shakespeare_char, script in nanoGPT's manner in bf16, compiled, over hotloop",
        "1.5 times or more",
    ),
    "deeplob": ("DeepLOB, loop by hand in fp32 with a DataLoader over hotloop", "5 times or more"),
    "gpt2": ("GPT-2 of 124 M in bf16: share of the measured matrix ceiling", "50 % or more"),
    "captured": ("small model, captured step: wall time over the time of its kernels", "1.1 times or less"),
}
_RIVAL = {"hlbd": "bare fp32", "shakespeare": "nanogpt script tuned", "deeplob": "bare fp32"}


def side_by_side(given: argparse.Namespace) -> dict[str, str]:
    """The three workloads; for each how many times as fast the tuned hotloop is as its rival."""
    stored = RESULTS / "cuda.json"
    command = [sys.executable, str(HERE / "side_by_side.py"), "--device", "cuda", "--json", str(stored)]
    command += ["--rounds", str(given.rounds), "--seconds", str(given.seconds), "--look", "20", "--warm", "60"]
    subprocess.run(command, check=True)
    found = {}
    for result in json.loads(stored.read_text(encoding="utf-8"))["workloads"]:
        rows = {row["name"]: row for row in result["rows"]}
        ratio = rows.get(_RIVAL.get(result["name"], ""), {}).get("tuned_is_faster")
        if ratio:
            found[result["name"]] = f"{ratio[0]:.2f} times ({ratio[1]:.2f} .. {ratio[2]:.2f})"
    return found


def seconds_of(act: Callable[[], Any], times: int) -> float:
    """Seconds of one `act`, the mean of `times`, with the device waited for at both ends."""
    import torch

    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(times):
        act()
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) / times


def matrix_ceiling(size: int = 8192) -> float:
    """Operations a second that a bf16 product of two square matrices reaches here; the best of five tries."""
    import torch

    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ b
    return 2.0 * size**3 / min(seconds_of(lambda: a @ b, 10) for _ in range(5))


def stepping(
    layers: int, width: int, heads: int, block: int, batch: int, vocabulary: int, keys: dict[str, Any]
) -> tuple[Any, Any]:
    """A GPT with random tokens in hotloop's own loop, warmed: (what makes one step, the model)."""
    import torch
    import torch.nn.functional as F

    import hotloop
    from hotloop.tasks.gpt.model import Transformer
    from hotloop.tasks.gpt.options import GptModel

    options = GptModel(n_layer=layers, n_head=heads, n_embd=width, block_size=block, dropout=0.0)
    model = Transformer(options, vocabulary)
    tokens = torch.randint(vocabulary, (16 * batch, block + 1))

    def loss(net: Any, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = net(rows["x"])
        return F.cross_entropy(logits.flatten(0, 1).float(), rows["y"].flatten(), reduction="none").view_as(rows["y"])

    keys = keys | {
        "training.batch_size": batch, "training.max_steps": 10_000, "training.device": "cuda",
        "training.precision": "bf16", "training.log_every": 1000, "data.resident": "on",
        "optimization.learning_rate": 3e-4,
    }  # fmt: skip
    data = {"x": tokens[:, :-1].contiguous(), "y": tokens[:, 1:].contiguous()}
    steps = hotloop.steps(model, data, loss=loss, config=keys)
    for _ in range(20):
        next(steps)
    return (lambda: next(steps)), model


def gpt2() -> str:
    """Share of the matrix ceiling of GPT-2 small: 6 N operations a token, and 12 L T C for attention."""
    layers, width, block, batch, vocabulary = 12, 768, 1024, 16, 50304
    step, model = stepping(layers, width, 12, block, batch, vocabulary, {"training.compile": "default"})
    seconds = min(seconds_of(step, 20) for _ in range(5))
    weights = model.count_parameters(positions=False)
    per_token = 6 * weights + 12 * layers * block * width
    ceiling = matrix_ceiling()
    share = per_token * batch * block / seconds / ceiling
    speed = f"{batch * block / seconds:,.0f} tokens/s, {1e3 * seconds:.1f} ms a step"
    return f"{share:.1%} of {ceiling / 1e12:.0f} TFLOP/s ({speed})"


def captured(steps: int = 50) -> str:
    """Wall time of a step of a small model with captured graphs, over the time that its kernels take."""
    from torch.profiler import ProfilerActivity, profile

    step, _ = stepping(4, 128, 4, 64, 12, 96, {"training.compile": "off", "training.capture": "on"})
    wall = min(seconds_of(step, steps) for _ in range(5))
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        seconds_of(step, steps)
    busy = sum(event.self_device_time_total for event in seen.key_averages()) / 1e6 / steps  # microseconds
    return f"{wall / busy:.2f} times ({1e3 * wall:.3f} ms, of which kernels {1e3 * busy:.3f} ms)"


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--skip", default="", help="comma-separated: side_by_side, gpt2, captured")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench/gpu.py needs an NVIDIA GPU, and torch sees none")
    skip, path = given.skip.split(","), RESULTS / "gpu.json"
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["found"] if path.is_file() else {}
    for name, measure in (("gpt2", gpt2), ("captured", captured)):
        if name not in skip:
            found[name] = measure()
            print(f"{name}: {found[name]}", flush=True)
    if "side_by_side" not in skip:
        torch.cuda.empty_cache()
        found |= side_by_side(given)
    RESULTS.mkdir(exist_ok=True)
    path.write_text(
        json.dumps({"device": torch.cuda.get_device_name(), "found": found}, indent=1) + "\n", encoding="utf-8"
    )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent / "src"))
    main()
