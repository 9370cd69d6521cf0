"""What gathering windows costs over holding them whole: peak memory and samples per second, side by side.

    python bench/windows.py [--data ../shared/data/tw-lob/tw_lob_rows.npz] [--rounds 3] [--batches 200] [--threads 1]

Each measurement is a process of its own, in turn (A, B, A, B). Without --data, the real books are taken where they lie
beside the repository, else the simulated ones. Printed are the median of the rounds and the smallest and largest.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from hotloop.data.source import Source, TensorSource
from hotloop.tasks.lob.options import LobData, LobModel
from hotloop.tasks.lob.task import Lob

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "tw-lob" / "tw_lob_rows.npz"
KINDS = ("gathered", "materialised")
BATCH = 256


def measure(kind: str, data: str | None, batches: int, threads: int) -> dict[str, float]:
    """One kind in this process: peak memory over what importing took, and how fast shuffled batches come."""
    torch.set_num_threads(threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source: Source = Lob(LobModel(), LobData(path=data, val_fraction=0.0), seed=1).sources().train
    if kind == "materialised":
        source = TensorSource(source.batch(torch.arange(len(source))))
    draw = torch.Generator().manual_seed(0)
    chosen = [torch.randint(len(source), (BATCH,), generator=draw) for _ in range(batches)]
    source.batch(chosen[0])
    start = time.perf_counter()
    for indices in chosen:
        source.batch(indices)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    held = (source.nbytes or 0) / 1e6
    return {"windows": len(source), "held_mb": held, "peak_mb": peak / 1e3, "samples": BATCH * batches / seconds}


def alone(kind: str, options: argparse.Namespace) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--kind", kind, "--batches", str(options.batches)]
    command += ["--threads", str(options.threads), *(["--data", options.data] if options.data else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def table(results: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """One row a kind: medians, and the range of samples per second."""
    rows = []
    for kind, found in results.items():
        samples = [one["samples"] for one in found]
        middle = {key: median(one[key] for one in found) for key in ("windows", "held_mb", "peak_mb", "samples")}
        rows.append({"name": kind, **middle, "spread": [min(samples), max(samples)]})
    return rows


def main() -> None:
    """Measure and print."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--data", default=str(REAL) if REAL.exists() else None, help="npz file of order books")
    reader.add_argument("--rounds", type=int, default=3)
    reader.add_argument("--batches", type=int, default=200)
    reader.add_argument("--threads", type=int, default=1)
    reader.add_argument("--json", action="store_true")
    reader.add_argument("--kind", choices=KINDS, help="measure this one here and print it as JSON")
    options = reader.parse_args()
    if options.kind:
        print(json.dumps(measure(options.kind, options.data, options.batches, options.threads)))
        return
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(options.rounds):
        for kind in KINDS:
            results[kind].append(alone(kind, options))
    rows = table(results)
    if options.json:
        print(json.dumps({"rows": rows, "data": options.data or "synthetic"}))
        return
    print(f"{'':14}{'windows':>10}{'held MB':>10}{'peak MB':>10}{'samples/s':>12}   smallest to largest")
    for row in rows:
        low, high = row["spread"]
        numbers = f"{row['windows']:>10,.0f}{row['held_mb']:>10.1f}{row['peak_mb']:>10.1f}{row['samples']:>12,.0f}"
        print(f"{row['name']:14}{numbers}   {low:,.0f} to {high:,.0f}")


if __name__ == "__main__":
    main()
