"""A `hotloop` command that starts in milliseconds: one process imports torch once and forks for each command.

Run as a script. It reads one JSON request a line, {"jobs": [{"arguments", "folder", "out", "err", "moments"}, ...]},
starts the jobs at once, answers {"pids": [...]}, waits for all and answers {"codes": [...]} (negative: the signal).
A child runs the real command line in its own folder. `moments` say where it comes to grief:
{"call": a name of `PLACES`, "number": which call, from 1, "what": kill, half, after, full, stop or time}.
"half" writes half of the data and dies, "full" lets this call and every later one fail with ENOSPC, "stop" sends
SIGTERM and goes on, "time" freezes the clock of the folder's name. Without trouble, {"count": FILE} counts the calls.
"""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from typing import Any, NoReturn

PLACES = {
    "step": ("hotloop.engine.recover", "train_step"),
    "validation": ("hotloop.engine.measure", "plain_tallies"),
    "save": ("torch", "save"),
    "rename": ("os", "replace"),
    "fsync": ("os", "fsync"),
    "link": ("os", "link"),
    "append": ("os", "write"),
    "unlink": ("os", "unlink"),
}

# What a command imports on its way; torch._inductor comes with torch.use_deterministic_algorithms.
LOADED = [
    "torch",
    "torch._inductor",
    "hotloop.launch",
    "hotloop.cli.train",
    "hotloop.tasks.gpt.task",
    "rich.progress",
    "tensorboard.summary.writer.event_file_writer",
]


def trouble(moment: dict[str, Any], calls: Counter[str]) -> None:
    """Put `moment` in the way of the function that it names."""
    name, number, what = moment["call"], moment["number"], moment["what"]
    module = importlib.import_module(PLACES[name][0])
    real = getattr(module, PLACES[name][1])

    def disturbed(*given: Any, **named: Any) -> Any:
        calls[name] += 1
        if what == "full" and calls[name] >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if calls[name] != number:
            return real(*given, **named)
        if what == "half":
            write_half(name, real, given)
        if what == "after":
            real(*given, **named)
        if what == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
            return real(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("dead")

    setattr(module, PLACES[name][1], disturbed)


def write_half(name: str, real: Any, given: tuple[Any, ...]) -> None:
    """What the disk holds when the power goes in the middle of a write."""
    if name == "append":
        real(given[0], given[1][: len(given[1]) // 2])
        return
    whole = io.BytesIO()
    real(given[0], whole)
    given[1].write(whole.getvalue()[: len(whole.getvalue()) // 2])
    given[1].flush()


def count_calls(path: str) -> Counter[str]:
    """Count the calls of every place, into a file when the command is over."""
    calls: Counter[str] = Counter()
    for name in PLACES:
        trouble({"call": name, "number": 0, "what": ""}, calls)
    return calls


def freeze_clock() -> None:
    """It is the same second for everybody."""
    real = time.strftime
    time.strftime = lambda form, *rest: real(form, *rest) if rest else "20260101_120000"


def child(job: dict[str, Any]) -> NoReturn:
    """Run one command and leave with its exit code."""
    os.chdir(job["folder"])
    for target, name in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666), target)
    code, counted = 1, None
    try:
        for moment in job["moments"]:
            if "count" in moment:
                counted = count_calls(moment["count"])
            elif moment.get("what") == "time":
                freeze_clock()
            else:
                trouble(moment, Counter())
        from hotloop.cli.main import main

        code = main(job["arguments"])
        if counted is not None:
            with open(next(m["count"] for m in job["moments"]), "w") as file:
                json.dump(counted, file)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Answer requests until the input ends."""
    for module in LOADED:
        importlib.import_module(module)
    assert threading.active_count() == 1, "only a process of one thread can fork"
    for line in sys.stdin:
        pids = []
        for job in json.loads(line)["jobs"]:
            pid = os.fork()
            if pid == 0:
                child(job)
            pids.append(pid)
        print(json.dumps({"pids": pids}), flush=True)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps({"codes": codes}), flush=True)


if __name__ == "__main__":
    serve()
