"""Writes docs/benchmarks.md out of the stored results: python bench/page.py [--to FILE].

Reads what the other scripts left in bench/results: cpu.json and cuda.json (side_by_side.py), gpu.json (gpu.py),
limit.json (limit.py), overhead.json and overhead_large.json (overhead.py), quality.json (time_to_quality.py). What is
not there is said to be not run yet.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from standing import PEERS, by_start, reached, rounds_of

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results", HERE.parent / "docs" / "benchmarks.md"
NOT_RUN = "not run yet"
LABELS = {
    "hotloop": "hotloop, all on auto", "hotloop tuned": "hotloop, tuned", "bare tuned": "loop by hand, same settings",
    "bare fp32": "loop by hand, fp32, DataLoader", "nanogpt script": "script in nanoGPT's manner, fp32",
    "nanogpt script tuned": "the same, with hotloop's settings", "lightning": "Lightning, its defaults",
    "lightning tuned": "Lightning, hotloop's settings", "transformers": "HF Trainer, its defaults",
    "transformers tuned": "HF Trainer, hotloop's settings", "accelerate tuned": "Accelerate, hotloop's settings",
    "composer": "Composer",
}  # fmt: skip
HOW = """\
Each contestant is a process of its own and trains the same model from the same weights on the same rows in the same
order (the scripts in nanoGPT's manner draw their own), with the same effective batch, AdamW with decay for matrices,
and gradient clipping. Warming up and compiling come first, with an empty compiler's cache, and are told apart; then all
make the same number of steps in turn, round after round, while the others wait. Medians of the rounds, with the
smallest and the largest. "Times" is how often the tuned hotloop makes its step while the other makes one, taken within
each round. A process is lucky or not for as long as it lives (where its memory lies), so all are started several times;
"by start" is the median of each. hotloop writes its run folder, its records and TensorBoard meanwhile. Lightning and
HF Trainer with their defaults run in fp32, uncompiled, fed by a DataLoader without workers, with their own logging;
progress bar and checkpoints are off. With hotloop's settings they have its precision, compiler, threads, micro-batch,
feed and, where they are among them, malloc that keeps what tensors gave back and dropout's masks; `training.capture`
is hotloop's alone. The loss is the mean over the timed steps; "same" is within 1 % of the loop by hand in fp32."""

QUALITY = """\
Whole commands, start-up and evaluation included, each until its target or, where it does not get there, to its end. On
COLD both train to their end, as the target is one of the test part; the nanogpt template is as long as nanoGPT's own
recipe, and has no target to stop at. The last column says how many of the seeds got there."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def throughput(result: Mapping[str, Any]) -> list[str]:
    """The section of one workload."""
    head = ("", "ms a step", "min .. max", "samples/s", "times", "min .. max", "by start", "compiling, s", "loss",
            "loss is")  # fmt: skip
    lines = [f"### {result['title']}", ""]
    lines += table(head, [_standing(row) for row in result["rows"] if "skipped" not in row])
    lines += ["", f"{rounds_of(result)}, {result.get('date', '')}. Tuned: {_keys(result)}."]
    lines += [
        f"{LABELS.get(row['name'], row['name'])}: {row['skipped']}." for row in result["rows"] if "skipped" in row
    ]
    if result.get("clock") == "cpu":
        lines.append("By the processor's time, not by the clock on the wall.")
    for name, ratio, well in reached(result):
        word = "reached" if well else "missed"
        lines.append(f"Goal over {LABELS[name]}: {result['goal']} times, {word} with {ratio:.2f}.")
    return [*lines, ""]


def _keys(result: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}={value}`" for key, value in result["tuned"].items()) or "nothing"


def _standing(row: Mapping[str, Any]) -> list[str]:
    times = row.get("tuned_is_faster")
    loss = "-" if row["loss"] is None else f"{row['loss']:.4f}"
    return [
        LABELS.get(row["name"], row["name"]), f"{row['ms']:.2f}", "{:.2f} .. {:.2f}".format(*row["spread"]),
        f"{row['samples_per_second']:,.0f}", f"{times[0]:.2f}" if times else "-",
        f"{times[1]:.2f} .. {times[2]:.2f}" if times else "-", by_start(row) or "-", f"{row['compile_seconds']:.1f}",
        loss, row["verdict"],
    ]  # fmt: skip


def overview(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """All workloads in one table: the tuned hotloop over each peer's defaults, and its goal."""
    rows = []
    for result in results:
        found = {name: f"{ratio:.2f}" for name, ratio, _ in reached(result)}
        rows.append([result["title"], *(found.get(name, NOT_RUN) for name in PEERS), f"{result['goal']:g}"])
    return table(("times as fast as", *(LABELS[name] for name in PEERS), "goal"), rows) if rows else [NOT_RUN + "."]


LIMIT = """\
The loop by hand and hotloop's step with the same settings, each on its own copy of the model, in turn in one process,
where both have the same luck: what there is left to gain in the loop (`python bench/limit.py`)."""

_SIDES = {"plain": "reference", "hotloop": "own"}


def quality(stored: Mapping[str, Any]) -> list[str]:
    """Time to quality: one row a task."""
    from time_to_quality import TASKS

    rows = []
    for name, task in TASKS.items():
        found = stored.get(name, {}).get("rows", [])
        if not found:
            rows.append([task.title, task.target_text(), *[NOT_RUN] * 4])
            continue
        plain, own = ([row[side]["wall"] for row in found] for side in ("reference", "own"))
        ratios = [row["reference"]["wall"] / row["own"]["wall"] for row in found]
        sides = {side: sum(row[f"{key}_reached"] for row in found) for side, key in _SIDES.items()}
        well = ", ".join(f"{side} {count} of {len(found)}" for side, count in sides.items())
        rows.append([
            task.title, stored[name]["target"], f"{median(plain):.1f}", f"{median(own):.1f}",
            f"{median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})", well,
        ])  # fmt: skip
    return table(("task", "target", "plain, s", "hotloop, s", "times (min .. max)", "target reached"), rows)


def limit(stored: Mapping[str, Any]) -> list[str]:
    """hotloop's step beside the loop by hand, in one process."""
    if not stored:
        return [f"{NOT_RUN}.", ""]
    rows = [
        [row["title"], *(f"{value:.1f}" for value in row["ms"]), f"{row['ratio'][0]:.3f}",
         "{1:.3f} .. {2:.3f}".format(*row["ratio"]), " ".join(f"{ratio:.3f}" for ratio in row["by_start"])]
        for row in stored["rows"]
    ]  # fmt: skip
    about = f"{stored['about']['starts']} starts of {stored['about']['rounds']} rounds."
    titles = ("", "by hand, ms", "hotloop, ms", "by hand / hotloop", "min .. max", "by start")
    return [LIMIT, "", about, "", *table(titles, rows), ""]


def overhead(stored: Mapping[str, Any]) -> list[str]:
    """What a step costs over a bare loop, on a network of one size."""
    if not stored:
        return [f"{NOT_RUN}.", ""]
    about = stored["about"]
    size = (
        f"{about['rounds']} rounds of {about['steps']} steps, {about['batch']} rows, {about.get('hidden', 64)} wide, "
    )
    size += f"training.threads={about['threads']}, malloc as it is."
    rows = [
        [row["name"], f"{row['ms_per_step']:.3f}", "{:.3f} .. {:.3f}".format(*row["spread"]),
         f"{row['over_bare_ms']:+.3f}", "{:+.3f} .. {:+.3f}".format(*row["over_bare_spread"]), f"{row['ratio']:.3f}",
         "{:.3f} .. {:.3f}".format(*row.get("ratio_spread", (row["ratio"],) * 2))]
        for row in stored["rows"]
    ]  # fmt: skip
    titles = ("", "ms a step", "min .. max", "over bare, ms", "min .. max", "times bare", "min .. max")
    return [size, "", *table(titles, rows), ""]


def gpu(stored: Mapping[str, Any]) -> list[str]:
    """What is measured on an NVIDIA GPU, with its targets."""
    from gpu import TARGETS

    rows = [[what, goal, stored.get("found", {}).get(name, NOT_RUN)] for name, (what, goal) in TARGETS.items()]
    return table(("", "target", "found"), rows)


def machine(about: Mapping[str, Any]) -> list[str]:
    """Where it was measured."""
    if not about:
        return [f"{NOT_RUN}."]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    gpus = ", ".join(found["name"] for found in about["gpus"]) or "no GPU"
    half = "with bf16 in hardware" if about["cpu_bf16"] else "without bf16 in hardware"
    memory = f"{about['memory_bytes'] / 2**30:.0f} GB"
    return [
        f"{about['cpu']}, {about['cores']} cores ({about['cpu_capability']}, {half}), {memory}, {gpus}; "
        f"Python {about['python']}, {versions}; {about['date']}."
    ]


def page(stored: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page.

    Args:
        stored: name of a file in bench/results, without its end, -> what it holds; absent files may be left out.
    """
    cpu, cuda = stored.get("cpu", {}), stored.get("cuda", {})
    lines = ["# Benchmarks", "", "Written by `make bench` (`python bench/page.py`); do not edit it by hand.", ""]
    lines += ["## Throughput on a CPU", "", HOW, "", *overview(cpu.get("workloads", [])), ""]
    for result in cpu.get("workloads", []):
        lines += throughput(result)
    lines += ["## Time to quality", "", QUALITY, ""]
    lines += [*quality(stored.get("quality", {})), "", "## hotloop's step beside the loop by hand", ""]
    lines += [*limit(stored.get("limit", {})), "## What a step costs over a bare loop", ""]
    lines += [
        *overhead(stored.get("overhead", {})),
        *overhead(stored.get("overhead_large", {})),
        "## On an NVIDIA GPU",
        "",
    ]
    lines += [*gpu(stored.get("gpu", {})), ""]
    for result in cuda.get("workloads", []):
        lines += throughput(result)
    lines += ["## Machine", "", *machine(cpu.get("about", {}))]
    lines += machine(cuda["about"]) if cuda else []
    return "\n".join(lines) + "\n"


def read(folder: Path) -> dict[str, Any]:
    """Every stored result by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", default=str(PAGE))
    target = Path(parser.parse_args().to)
    target.write_text(page(read(RESULTS)), encoding="utf-8")
    print(f"wrote {target.name}")


if __name__ == "__main__":
    main()
