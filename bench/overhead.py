"""What a training step costs over a bare loop: the bare loop, hotloop, and other trainers where installed.

    python bench/overhead.py --threads 2 --rounds 7 --steps 2000 [--only bare,hotloop.steps] [--json] [--store FILE]
    python bench/overhead.py --hidden 4096 --batch 256 --steps 300            (steps of several milliseconds)

All contestants run in turn within one process, round after round, each round starting with another one, so that a
slow minute of the machine meets all of them. Printed are milliseconds per step (median of the rounds, smallest and
largest beside it) and, round by round against the bare loop of the same round, the median difference and ratio.
Trainers that are not installed are listed with the reason (`pip install -e ".[bench]"` brings them).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import contestants
import torch
from contestants import HIDDEN, Work

Contestant = Callable[[Work], tuple[float, float]]

# name -> (package it needs, the contestant)
FIELD: dict[str, tuple[str, Contestant]] = {
    "bare": ("torch", contestants.bare),
    "hotloop.steps": ("hotloop", contestants.hotloop_steps),
    "hotloop.fit": ("hotloop", contestants.hotloop_fit),
    "accelerate": ("accelerate", contestants.accelerate),
    "lightning": ("lightning", contestants.lightning),
    "lightning +bar +log": ("lightning", partial(contestants.lightning, extras=True)),
    "transformers": ("transformers", contestants.transformers),
    "transformers +bar +log": ("transformers", partial(contestants.transformers, extras=True)),
}


def measure(contestant: Contestant, work: Work) -> tuple[float, float]:
    """One contestant, once, from the same settings of torch; what it prints is swallowed."""
    torch.set_num_threads(work.threads)
    torch.use_deterministic_algorithms(False)
    gc.collect()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return contestant(work)


def run_rounds(names: list[str], work: Work, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Every contestant once per round; the order turns by one from round to round. One short round goes unmeasured."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for name in names:
        measure(FIELD[name][1], replace(work, steps=work.warm + 50))
    for round_ in range(rounds):
        turn = round_ % len(names)
        for name in names[turn:] + names[:turn]:
            results[name].append(measure(FIELD[name][1], work))
        print(f"round {round_ + 1} of {rounds} done", file=sys.stderr)
    return results


def table(results: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    """One row per contestant; differences and ratios are taken within each round."""
    base = [milliseconds for milliseconds, _ in results["bare"]]
    rows = []
    for name, measured in results.items():
        times = [milliseconds for milliseconds, _ in measured]
        over = [own - other for own, other in zip(times, base, strict=True)]
        ratios = [own / other for own, other in zip(times, base, strict=True)]
        rows.append({
            "name": name, "ms_per_step": median(times), "spread": [min(times), max(times)],
            "over_bare_ms": median(over), "over_bare_spread": [min(over), max(over)],
            "ratio": median(ratios), "ratio_spread": [min(ratios), max(ratios)],
            "train_loss": median(loss for _, loss in measured),
        })  # fmt: skip
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'':24}{'ms/step':>9}{'min .. max':>18}{'over bare':>12}{'min .. max':>20}{'ratio':>8}"
        f"{'min .. max':>15}{'loss':>9}"
    )
    for row in rows:
        spread = "{:.4f} .. {:.4f}".format(*row["spread"])
        over = "{:+.4f} .. {:+.4f}".format(*row["over_bare_spread"])
        ratio = "{:.3f} .. {:.3f}".format(*row["ratio_spread"])
        loss = f"{row['train_loss']:.4f}" if row["train_loss"] else "-"
        print(f"{row['name']:24}{row['ms_per_step']:9.4f}{spread:>18}{row['over_bare_ms']:+12.4f}{over:>20}"
              f"{row['ratio']:8.3f}{ratio:>15}{loss:>9}")  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds over all contestants (default 7)")
    parser.add_argument("--steps", type=int, default=2000, help="steps per contestant and round (default 2000)")
    parser.add_argument("--batch", type=int, default=32, help="rows per step (default 32)")
    parser.add_argument("--hidden", type=int, default=HIDDEN, help=f"width of the network (default {HIDDEN})")
    parser.add_argument("--only", default="", help="comma-separated names; bare is always among them")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--store", default="", help="file for the same JSON, beside the table")
    given = parser.parse_args()
    wanted = [name for name in given.only.split(",") if name]
    if unknown := [name for name in wanted if name not in FIELD]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(FIELD)}")
    given.names = [name for name in FIELD if name == "bare" or not wanted or name in wanted]
    return given


def main() -> None:
    given = arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    work = Work(given.steps, min(100, given.steps // 4), given.batch, given.threads, hidden=given.hidden)
    skipped = {name: f"{FIELD[name][0]} is not installed" for name in given.names if not find_spec(FIELD[name][0])}
    rows = table(run_rounds([name for name in given.names if name not in skipped], work, given.rounds))
    about = {
        "torch": torch.__version__, "python": platform.python_version(), "threads": work.threads,
        "cores": os.cpu_count(), "rounds": given.rounds, "steps": work.steps, "batch": work.batch,
        "hidden": work.hidden,
    }  # fmt: skip
    found = json.dumps({"about": about, "rows": rows, "skipped": skipped}, indent=1)
    if given.store:
        Path(given.store).parent.mkdir(exist_ok=True)
        Path(given.store).write_text(found + "\n", encoding="utf-8")
    if given.json:
        print(found)
        return
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    show(rows)
    for name, reason in skipped.items():
        print(f"{name:24}skipped: {reason}")


if __name__ == "__main__":
    main()
