"""Throughput side by side: hotloop, loops by hand, Lightning, HF Trainer and Accelerate on the same six workloads.

    python bench/side_by_side.py --only gpt-12x64 --starts 3 --rounds 3 --seconds 2 [--json out.json] [--device cuda]

Same model, weights, rows, effective batch and number of steps for everyone. Each contestant is a process of its own;
warm-up with compiling is apart; then rounds in which each contestant makes the same steps in turn, beginning with
another one every time, while all others wait. The luck of a process (where its memory lies, which core it got) is worth
some percent for as long as it lives, so all are started anew, `--starts` times; later starts find their compiled code.
Printed are milliseconds a step (median, smallest and largest), how many times as fast hotloop is, round by round, and
the loss beside that of the plain fp32 loop over the same steps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any

from peers import FIELD, serve
from standing import rows_of, show
from workloads import CPU, Workload, named, with_tuned

HERE = Path(__file__).resolve().parent
COMPOSER = (
    "does not install beside torch 2.13: its releases 0.30 to 0.32.1 ask for an older torch, and the old ones that do "
    "not say so fail to build (tried with pip)"
)
_LONGEST = 900.0  # seconds after which a contestant is given up


class Contestant:
    """One process: built and warmed when it is made, then asked for steps."""

    def __init__(self, name: str, workload: Workload, warm: int, given: argparse.Namespace, folder: Path) -> None:
        self.name, self.why, self._clock = name, "", given.clock
        own = folder / name.replace(" ", "_")
        own.mkdir(exist_ok=True)  # it is there when it is started again
        self._said = (own / "said.txt").open("w+", encoding="utf-8")
        words = ["--child", name, "--only", workload.name, "--warm", str(warm), "--folder", str(own)]
        words += ["--device", given.device, "--threads", str(given.threads), "--tuned", given.tuned]
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "side_by_side.py"), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True,
            env=_environment(own, given.threads),
        )  # fmt: skip
        self.warmed = self._answer()

    def ask(self, steps: int) -> dict[str, Any] | None:
        """Make so many steps; None where it is gone."""
        if self.why:
            return None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it was killed while it waited: the answer says so
            self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        timer = Timer(_LONGEST, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if line.strip():
            found: dict[str, Any] = json.loads(line)
            return {**found, "seconds": found[self._clock]}
        code = self._process.wait()
        self._said.seek(0)
        last = [text.strip() for text in self._said.read().splitlines() if text.strip()][-1:]
        self.why = f"ended with code {code}" + (f": {last[0][:200]}" if last else "")
        return None

    def close(self) -> None:
        """End it: without a further request it ends itself."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()


def _environment(folder: Path, threads: int) -> dict[str, str]:
    """The defaults of a user's machine, or so many threads for all; an own cache, so that compiling is cold."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    paths = [str(HERE.parent / "src"), *filter(None, [kept.get("PYTHONPATH")])]
    kept |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    return {
        **kept, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
    }  # fmt: skip


def skipped(name: str, workload: Workload) -> str:
    """Why a contestant does not take part; empty where it does."""
    if name == "composer":
        return COMPOSER
    if not find_spec(FIELD[name][0]):
        return f"{FIELD[name][0]} is not installed"
    return "-" if name.startswith("nanogpt") and workload.task != "gpt" else ""


def run_workload(workload: Workload, given: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """All contestants on one workload: started so many times, and each time in rounds of equally many steps."""
    names = [name for name in FIELD if not given.contestants or name in given.contestants.split(",")]
    reasons = {name: why for name in names if (why := skipped(name, workload))}
    starts: list[Rounds] = []
    with tempfile.TemporaryDirectory(prefix="side_by_side_") as folder:
        for place in range(given.starts):
            left = [name for name in names if name not in reasons]
            say(f"{workload.name}: start {place + 1} of {given.starts}")
            made = one_start(left, workload, given, Path(folder), starts[0].steps if starts else 0, say)
            reasons |= made.reasons
            starts.append(made)
    answers = {
        name: [answer for start in starts for answer in start.answers[name]] for name in names if name not in reasons
    }
    told = {name: why for name, why in reasons.items() if why != "-"}
    rows = rows_of(answers, starts[0].warmed, workload.batch, told, given.starts)
    return {**about_workload(workload, given), "steps": starts[0].steps, "rows": rows}


@dataclass(frozen=True)
class Rounds:
    """What one start of all contestants gave: steps of a round, answers and warm-up by name, why one fell out."""

    steps: int
    answers: dict[str, list[dict[str, Any]]]
    warmed: dict[str, dict[str, Any]]
    reasons: dict[str, str]


Say = Callable[[str], None]


def one_start(
    names: list[str], workload: Workload, given: argparse.Namespace, folder: Path, steps: int, say: Say
) -> Rounds:
    """Start them all, let them make their rounds, end them; `steps` of a round, 0 to find it."""
    field: list[Contestant] = []
    try:
        for name in names:
            field.append(Contestant(name, workload, given.warm, given, folder))
            say(f"{name} {field[-1].why or 'is warm'}")
        steps = steps_of_a_round(field, workload, given, steps)
        answers = in_rounds(field, given.rounds, steps, say)
    finally:
        for contestant in field:
            contestant.close()
    warmed = {contestant.name: contestant.warmed for contestant in field if contestant.warmed}
    return Rounds(steps, answers, warmed, {contestant.name: contestant.why for contestant in field if contestant.why})


def about_workload(workload: Workload, given: argparse.Namespace) -> dict[str, Any]:
    """What was compared, and with which settings."""
    cut = ("training.gradient_accumulation_steps", 1)
    tuned = {key: value for key, value in workload.tuned_keys().items() if value != "auto" and (key, value) != cut}
    tuned |= {"memory.keep_freed": "on"} if workload.tuned_knobs().keep_freed else {}
    tuned |= {"training.fast_dropout": "on"} if workload.tuned_knobs().fast_dropout else {}
    about = {"name": workload.name, "title": workload.title, "batch": workload.batch, "goal": workload.goal}
    about |= {"clock": given.clock, "threads": given.threads or "own"}
    return {**about, "starts": given.starts, "rounds": given.rounds, "warm": given.warm, "tuned": tuned}


def steps_of_a_round(field: list[Contestant], workload: Workload, given: argparse.Namespace, known: int) -> int:
    """As many as the slowest makes in about the wished time, the same for all, within the run; unmeasured steps.

    `known`, the number of an earlier start, holds for all starts: the same steps, and so the same loss.
    """
    looked = [answer["seconds"] / answer["steps"] for one in field if (answer := one.ask(given.look))]
    if known:
        return known
    room = (workload.steps - given.warm - given.look) // given.rounds
    return max(1, min(room, round(given.seconds / max(looked, default=1.0))))


def in_rounds(
    field: list[Contestant], rounds: int, steps: int, say: Callable[[str], None]
) -> dict[str, list[dict[str, Any]]]:
    """Answers by name, one a round; the order turns by one from round to round."""
    answers: dict[str, list[dict[str, Any]]] = {contestant.name: [] for contestant in field}
    for round_ in range(rounds):
        turn = round_ % max(1, len(field))
        for contestant in field[turn:] + field[:turn]:
            if answer := contestant.ask(steps):
                answers[contestant.name].append(answer)
        say(f"round {round_ + 1} of {rounds}, {steps} steps each")
    return {name: found for name, found in answers.items() if len(found) == rounds}


def about() -> dict[str, Any]:
    """Machine and versions."""
    sys.path.insert(0, str(HERE.parent / "src"))
    from hotloop.device import describe

    found, versions = describe(), {}
    for package in ("torch", "lightning", "transformers", "accelerate"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    machine = {key: found[key] for key in ("cpu", "cores", "cpu_capability", "cpu_bf16", "memory_bytes", "gpus")}
    return {"date": date.today().isoformat(), "python": platform.python_version(), "versions": versions, **machine}


def store(path: Path, results: list[dict[str, Any]]) -> None:
    """Write the results; workloads of before that were not run now stay as they were, with their own date."""
    before = json.loads(path.read_text(encoding="utf-8"))["workloads"] if path.is_file() else []
    made, new = about(), {result["name"] for result in results}
    kept = [result for result in before if result["name"] not in new]
    dated = [{**result, "date": made["date"]} for result in results]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": made, "workloads": [*kept, *dated]}, indent=1) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="comma-separated workloads (default: all)")
    parser.add_argument("--contestants", default="", help="comma-separated contestants (default: all)")
    parser.add_argument("--starts", type=int, default=1, help="times that all contestants are started (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of a start (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="about what a round takes the slowest contestant")
    parser.add_argument("--warm", type=int, default=20, help="steps before the first round, compiling included")
    parser.add_argument("--look", type=int, default=5, help="steps by which the length of a round is found")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--tuned", default="", help="folder of NAME.yaml with the settings of the tuned contestants")
    parser.add_argument("--threads", type=int, default=0, help="torch threads of all (default: torch's own, or tuned)")
    parser.add_argument(
        "--clock", choices=("seconds", "cpu"), default="seconds",
        help="cpu: the processor's time, all threads together, for a look on a machine that others use too",
    )  # fmt: skip
    parser.add_argument("--json", default="", help="file for the results; workloads in it that were not run stay")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def chosen(given: argparse.Namespace) -> list[Workload]:
    """The workloads asked for, on the device asked for."""
    from gpu import CUDA

    among = CPU if given.device == "cpu" else CUDA
    found = named([name for name in given.only.split(",") if name], among)
    found = [replace(with_tuned(workload, given.tuned), device=given.device) for workload in found]
    if not given.threads:
        return found
    held = {"training.threads": given.threads}
    return [replace(workload, tuned={**workload.tuned_keys(), **held}) for workload in found]


def main() -> None:
    given = arguments()
    if given.child:
        channel = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what a trainer prints is no answer
        serve(given.child, chosen(given)[0], given.warm, given.folder, channel)
        return
    began, results = time.perf_counter(), []
    for workload in chosen(given):
        results.append(run_workload(workload, given, lambda text: print(text, file=sys.stderr)))
        show(results[-1])
        if given.json:
            store(Path(given.json), results)
    print(f"took {time.perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
