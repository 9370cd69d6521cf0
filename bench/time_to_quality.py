"""Time to quality: the gpt task's own recipe against nanoGPT's small CPU recipe, whole processes, in turn.

    python bench/time_to_quality.py TEXT [--target 1.898] [--seeds 0 1 2] [--json]

A is the full nanogpt template (2000 steps in fp32), B the task's own recipe, stopped where its validation loss has
reached the target; A B A B ..., seed by seed, each a new process from start-up to exit. TEXT is tiny shakespeare for
the numbers in docs/log.md. Losses are over the whole validation split in windows of 64.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Any


def run(words: list[str]) -> dict[str, Any]:
    """One whole process: its wall time and its summary."""
    command = [sys.executable, "-m", "hotloop", "train", "gpt", *words, "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"wall": time.perf_counter() - started, **json.loads(done.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", help="the training text")
    parser.add_argument("--target", type=float, default=1.898, help="validation loss to reach (default 1.898)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in given.seeds:
            same = [f"data.path={given.text}", f"experiment.seed={seed}", f"experiment.dir={folder}"]
            reference = run(["--template", "nanogpt", *same])
            own = run([*same, f"experiment.stop_at={{eval_loss: {given.target}}}"])
            rows.append({"seed": seed, "reference": reference, "own": own, "ratio": own["wall"] / reference["wall"]})
            print(f"seed {seed} done", file=sys.stderr)
    if given.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'seed':>4}{'nanogpt s':>11}{'loss':>8}{'own s':>8}{'loss':>8}{'steps':>7}{'ratio':>7}   own parameters")
    for row in rows:
        a, b = row["reference"], row["own"]
        print(f"{row['seed']:>4}{a['wall']:11.1f}{a['eval_loss']:8.4f}{b['wall']:8.1f}{b['eval_loss']:8.4f}"
              f"{b['steps']:7}{row['ratio']:7.3f}   {b['parameters']:,} of {a['parameters']:,}")  # fmt: skip
    print(f"median ratio {median(row['ratio'] for row in rows):.3f}")


if __name__ == "__main__":
    main()
