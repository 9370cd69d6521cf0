"""Time to quality: hotloop against a plain fp32 run of the same task, whole processes, in turn, to the same target.

    python bench/time_to_quality.py input.txt [--task gpt] [--target 1.898] [--seeds 0 1 2] [--json]
    python bench/time_to_quality.py hlbd_100_concepts.txt --task hlbd      (or another file of HLBD, as text or JSON)
    python bench/time_to_quality.py tw_lob_rows.npz --task lob
    python bench/time_to_quality.py ETTh1.csv --task etth1
    python bench/time_to_quality.py COLD --task cold --keys model.name=ENCODER     (the folder with train, dev and test)
    python bench/time_to_quality.py - --task lob-default                   (a task's own default and embedded data)

A is the plain run, B hotloop's; A B A B ..., seed by seed, each a new process from start-up to exit. For gpt A is the
full nanogpt template (2000 steps in fp32) and B the task's own recipe, stopped at the target. For the others both train
the same model and stop at the target: A in fp32, uncompiled, fed from the host, in the stated micro-batches; B as its
template and options say. On COLD the target is one of the test part, which nobody stops by: both train to their end.
--store adds the rows to bench/results/quality.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

_AS_TORCH_IS = ("training.fast_dropout=off", "training.tune=off", "memory.keep_freed=off")
PLAIN = ("training.precision=fp32", "training.compile=off", "data.resident=off", *_AS_TORCH_IS)
QUALITY = Path(__file__).resolve().parent / "results" / "quality.json"


@dataclass(frozen=True)
class Contest:
    """One task with what both sides say, and the target.

    Args:
        title: for people.
        task: of hotloop.
        metric, target: what is to be reached.
        both: words for both sides; plain, own: words for one.
        stops: which sides stop at the target; the others train as long as they say.
        data: words that name the data, with {} for what the user gives.
    """

    title: str
    task: str
    metric: str
    target: float
    both: tuple[str, ...] = ()
    plain: tuple[str, ...] = PLAIN
    own: tuple[str, ...] = ()
    stops: tuple[str, ...] = ("plain", "own")
    data: tuple[str, ...] = ("data.path={}",)

    def target_text(self, target: float | None = None) -> str:
        return f"{self.metric} {self.target if target is None else target:g}"

    def reached(self, summary: dict[str, Any], target: float) -> bool:
        """Whether a run's last or best value is as good as the target."""
        values = [found[self.metric] for found in (summary, summary.get("best") or {}) if self.metric in found]
        low = any(word in self.metric for word in ("loss", "mse", "mae"))
        return any(value <= target if low else value >= target for value in values)


_SMALL = ("training.batch_size=4", "training.gradient_accumulation_steps=8")
_LOB = ("model.dropout=0", "optimization.label_smoothing=0", "optimization.class_weights=none", "data.scaling=none",
        "training.batch_size=256", "training.eval_every=47")  # fmt: skip
TASKS = {
    "gpt": Contest(
        "gpt, tiny shakespeare against nanoGPT's recipe", "gpt", "eval_loss", 1.898,
        plain=("--template", "nanogpt", *_AS_TORCH_IS), stops=("own",),
    ),
    "hlbd": Contest(
        "translate, the pairs of HLBD, template hlbd_fast (plain: 4 x 8)", "translate", "eval_exact_match_train", 0.95,
        both=("--template", "hlbd_fast"), plain=(*PLAIN, *_SMALL),
    ),
    "lob": Contest(
        "lob, DeepLOB on tw-lob", "lob", "eval_balanced_accuracy", 0.51, both=_LOB,
        own=("training.precision=bf16",),
    ),
    "etth1": Contest(
        "forecast, ETTh1, 24 hours ahead, template etth1", "forecast", "eval_mse", 0.376,
        both=("--template", "etth1"),
    ),
    "cold": Contest(
        "classify, COLD, template cold_10min", "classify", "test_f1_macro", 0.80, both=("--template", "cold_10min"),
        stops=(), data=("data.train_path={}/train.csv", "data.val_path={}/dev.csv", "data.test_path={}/test.csv"),
    ),
    "lob-default": Contest("lob, its default, simulated books", "lob", "eval_balanced_accuracy", 0.60),
    "translate-default": Contest("translate, its default, made-up phrases", "translate", "eval_exact_match", 0.95),
    "classify-default": Contest("classify, its default, made-up texts", "classify", "eval_f1_macro", 0.92),
    "forecast-default": Contest("forecast, its default, simulated bars", "forecast", "eval_mse", 0.58),
}  # fmt: skip


def run(task: str, words: Sequence[str]) -> dict[str, Any]:
    """One whole process: its wall time and its summary."""
    command = [sys.executable, "-m", "hotloop", "train", task, *words, "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    return {"wall": time.perf_counter() - started, **json.loads(done.stdout)}


def contest(given: argparse.Namespace, chosen: Contest, target: float) -> list[dict[str, Any]]:
    """Both sides for each seed."""
    rows, stop = [], f"experiment.stop_at={{{chosen.metric}: {target}}}"
    with tempfile.TemporaryDirectory() as folder:
        for seed in given.seeds:
            data = [] if given.data == "-" else [word.format(given.data) for word in chosen.data]
            same = [*data, f"experiment.seed={seed}", f"experiment.dir={folder}", *given.keys]
            ends = {side: [stop] if side in chosen.stops else [] for side in ("plain", "own")}
            plain = run(chosen.task, [*chosen.both, *chosen.plain, *same, *ends["plain"]])
            own = run(chosen.task, [*chosen.both, *chosen.own, *same, *ends["own"]])
            rows.append({
                "seed": seed, "reference": plain, "own": own, "ratio": own["wall"] / plain["wall"],
                "own_reached": chosen.reached(own, target), "reference_reached": chosen.reached(plain, target),
            })  # fmt: skip
            print(f"seed {seed} done", file=sys.stderr)
    return rows


def show(rows: list[dict[str, Any]], metric: str) -> None:
    print(f"{'seed':>4}{'plain s':>9}{metric:>24}{'own s':>8}{metric:>24}{'steps':>7}{'ratio':>7}   own parameters")
    for row in rows:
        a, b = row["reference"], row["own"]
        print(f"{row['seed']:>4}{a['wall']:9.1f}{a[metric]:24.4f}{b['wall']:8.1f}{b[metric]:24.4f}"
              f"{b['steps']:7}{row['ratio']:7.3f}   {b['parameters']:,} of {a['parameters']:,}")  # fmt: skip
    print(f"median ratio {median(row['ratio'] for row in rows):.3f}")


def store(name: str, target: str, rows: list[dict[str, Any]], path: Path = QUALITY) -> None:
    """Put the rows of one task beside those of the others."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    said = ("wall", "steps", "status", "parameters")
    small = [
        {**row, **{side: {key: row[side].get(key) for key in said} for side in ("reference", "own")}} for row in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**kept, name: {"target": target, "rows": small}}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", help="the data: a text, HLBD's file, tw-lob's npz, ETTh1.csv, COLD's folder")
    parser.add_argument("--task", choices=TASKS, default="gpt")
    parser.add_argument("--target", type=float, help="value to reach (default: the task's own)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keys", nargs="*", default=[], help="more key=value words for both sides")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--store", action="store_true", help="add the rows to bench/results/quality.json")
    given = parser.parse_args()
    chosen = TASKS[given.task]
    target = chosen.target if given.target is None else given.target
    rows = contest(given, chosen, target)
    if given.store:
        store(given.task, chosen.target_text(target), rows)
    if given.json:
        print(json.dumps(rows, indent=2))
        return
    show(rows, chosen.metric)


if __name__ == "__main__":
    main()
