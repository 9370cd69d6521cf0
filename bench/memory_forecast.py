"""Memory that was forecast before a run beside what was seen in it, for the five built-in tasks.

    python bench/memory_forecast.py [--tasks gpt,lob] [--quick] [--json]

Each run is a process of its own, a few steps and one validation with embedded data. "seen" is the highest point of
what the run took beyond the process as it was before data and model were made: resident memory without pages of files
on a CPU, allocated memory on a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import product
from typing import Any

# Sizes at which activations are the larger part.
SIZES: dict[str, dict[str, Any]] = {
    "gpt": {"model.n_layer": 4, "model.n_head": 4, "model.n_embd": 256, "model.block_size": 128, "data.limit": 60000},
    "lob": {},
    "translate": {"data.limit": 2000},
    "classify": {"data.limit": 2000},
    "forecast": {"model.hidden_size": 256},
}
RECOMPUTES = ("gpt", "translate", "classify")
CHILD = """
import json, sys, warnings
import hotloop
warnings.simplefilter("ignore")
task, keys = json.loads(sys.argv[1])
print("RESULT" + json.dumps(hotloop.train(task, keys=keys, progress=False).summary["memory"]))
"""


def run(task: str, folder: str, **keys: Any) -> dict[str, Any] | None:
    """`memory` of the summary of one run; None where it did not end well."""
    given = {
        **SIZES[task],
        "experiment.dir": folder,
        "experiment.trackers": [],
        "training.max_steps": 4,
        "training.eval_every": 4,
        "training.compile": "off",
        "training.gradient_accumulation_steps": 1,
        **keys,
    }
    command = [sys.executable, "-c", CHILD, json.dumps([task, given])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        print(done.stderr.strip().splitlines()[-1:], file=sys.stderr)
    return json.loads(lines[0].removeprefix("RESULT")) if lines else None


def table(tasks: list[str], sizes: tuple[int, ...], precisions: tuple[str, ...]) -> list[dict[str, Any]]:
    """One row for each run."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for task, precision, size, recompute in product(tasks, precisions, sizes, (False, True)):
            if recompute and task not in RECOMPUTES:
                continue
            keys = {"training.precision": precision, "training.batch_size": size}
            keys |= {"optimization.gradient_checkpointing": True} if recompute else {}
            found = run(task, folder, **keys)
            if found is None or "forecast" not in found:
                continue
            ratio = found["forecast"] / found["peak"]
            row = {"task": task, "precision": precision, "micro_batch": size, "recompute": recompute, "ratio": ratio}
            row |= {"forecast": found["forecast"], "seen": found["peak"], "parts": found["parts"]}
            rows.append(row)
            print(
                f"| {task} | {precision} | {size} | {'yes' if recompute else 'no'} | {row['forecast'] / 2**20:.0f} "
                f"| {row['seen'] / 2**20:.0f} | {ratio:.2f} |",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default=",".join(SIZES))
    parser.add_argument("--quick", action="store_true", help="one size and fp32 only")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON at the end")
    given = parser.parse_args()
    print("| task | precision | micro-batch | checkpointing | forecast MB | seen MB | ratio |\n" + "|---" * 7 + "|")
    sizes, precisions = ((16,), ("fp32",)) if given.quick else ((4, 16, 64), ("fp32", "bf16"))
    rows = table(given.tasks.split(","), sizes, precisions)
    within = sum(abs(row["ratio"] - 1) <= 0.15 for row in rows)
    print(f"{within} of {len(rows)} within 15 %")
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
