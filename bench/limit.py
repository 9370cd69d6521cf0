"""hotloop's step beside the loop by hand with the same settings, in one process: what is left to gain in the loop.

    python bench/limit.py [--only lob,translate] [--starts 2] [--rounds 15] [--seconds 0.5] [--store FILE]

In processes of their own (side_by_side.py) two equal loops differ by up to a tenth, as one of them lies better in
memory. Here both train in one process, in turn, burst by burst, each on its own copy of the same model; the order turns
every round, and the process is started several times. Printed is the time of the loop by hand over that of hotloop's
step (the transaction, the guard and the update are in it; records and TensorBoard are not), by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from peers import Pacer, steps_by_hand
from workloads import CPU, Workload, loaded_for, named, prepare

HERE = Path(__file__).resolve().parent
_WARM = 6
Step = Callable[[], None]


def by_hand(workload: Workload, folder: str) -> Step:
    """A step of the loop by hand, as it runs beside the other trainers too."""
    steps = steps_by_hand(prepare(workload, workload.tuned_knobs(), folder), Pacer(0, sys.stderr, workload.device))
    return lambda: next(steps)


def by_hotloop(workload: Workload, folder: str) -> Step:
    """A step of hotloop, as a run makes it."""
    from hotloop import assemble
    from hotloop.engine.recover import transact
    from hotloop.saved import make_task

    loaded = loaded_for(workload, workload.tuned_keys(), folder)
    session = assemble.build(loaded, make_task(loaded.config))
    state, feed = session.state, session.feed()

    def step() -> None:
        transact(state, next(feed))
        state.step += 1

    return step


def measure(workload: Workload, rounds: int, seconds: float) -> list[tuple[float, float]]:
    """Milliseconds a step of the loop by hand and of hotloop, round by round."""
    with tempfile.TemporaryDirectory() as hand, tempfile.TemporaryDirectory() as own:
        lanes = (by_hand(workload, hand), by_hotloop(workload, own))
        for lane in lanes:
            _timed(lane, _WARM)
        steps = round(seconds / (_timed(lanes[0], 2) / 2e3))
        steps = max(1, min(steps, (workload.steps - _WARM - 2) // rounds - 1))  # the run has no more
        found = []
        for number in range(rounds):
            times = {}
            for place in (1, 0) if number % 2 else (0, 1):
                lanes[place]()  # it follows a pause
                times[place] = _timed(lanes[place], steps) / steps
            found.append((times[0], times[1]))
        return found


def _timed(step: Step, count: int) -> float:
    """Milliseconds of that many steps."""
    begun = time.perf_counter()
    for _ in range(count):
        step()
    return 1e3 * (time.perf_counter() - begun)


def in_processes(workload: Workload, given: argparse.Namespace) -> dict[str, Any]:
    """All starts of one workload; later ones find the compiled code of the first."""
    starts = []
    with tempfile.TemporaryDirectory() as compiled:
        for _ in range(given.starts):
            words = ["--child", "--only", workload.name, "--rounds", str(given.rounds), "--seconds", str(given.seconds)]
            done = subprocess.run(
                [sys.executable, str(HERE / "limit.py"), *words], stdout=subprocess.PIPE, text=True, check=True,
                env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": compiled, "HF_HUB_OFFLINE": "1"},
            )  # fmt: skip
            starts.append(json.loads(done.stdout.splitlines()[-1]))
    pairs = [pair for start in starts for pair in start]
    ratios = [hand / own for hand, own in pairs]
    return {
        "name": workload.name, "title": workload.title,
        "ms": [median(pair[place] for pair in pairs) for place in (0, 1)],
        "ratio": [median(ratios), min(ratios), max(ratios)],
        "by_start": [median(hand / own for hand, own in start) for start in starts],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="comma-separated workloads (default: all)")
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="of a start")
    parser.add_argument("--seconds", type=float, default=0.5, help="about what a burst takes")
    parser.add_argument("--store", default="", help="file for the results; rows in it that were not run stay")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    chosen = named([name for name in given.only.split(",") if name], CPU)
    if given.child:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what a trainer prints is no answer
        print(json.dumps(measure(chosen[0], given.rounds, given.seconds)), file=answers, flush=True)
        return
    path, rows = Path(given.store), list[dict[str, Any]]()
    if given.store and path.is_file():
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    for workload in chosen:
        row = in_processes(workload, given)
        rows = [*(old for old in rows if old["name"] != row["name"]), row]
        starts = " ".join(f"{ratio:.3f}" for ratio in row["by_start"])
        print("{:12} by hand {:.1f} ms, hotloop {:.1f} ms: {:.3f} ({:.3f} .. {:.3f}); by start {}".format(
            row["name"], *row["ms"], *row["ratio"], starts), flush=True)  # fmt: skip
        if given.store:
            about = {"starts": given.starts, "rounds": given.rounds}
            path.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent / "src"))
    main()
