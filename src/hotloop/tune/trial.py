"""A trial in a process of its own: `python -m hotloop.tune.trial`, asked by JSON lines, answers by JSON lines.

The first line names a folder with the run's config.json, the origins of its values and the choice to try; each later
one asks for a size (`{"size": 8}`) or for a confirmation (`{"steps": 3}`). With `"lane": true` in the first line the
run is a lane of a race, and each later line names one of its methods. Every answer is written at once, so what a
killed process measured is there. Nothing is written to the disk but what a request names. What the person's own code
prints goes to standard error, as standard output carries the answers.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hotloop import assemble, memory
from hotloop import device as machine
from hotloop.config.arguments import Arguments
from hotloop.config.load import Loaded, read_saved
from hotloop.engine.plan import Choice
from hotloop.errors import HotloopError
from hotloop.saved import CONFIG, find_task, make_task, read_json
from hotloop.task import Task
from hotloop.tune.gauge import Gauge
from hotloop.tune.lane import Lane, build_of

Answer = tuple[str, dict[str, Any]]
Answers = Callable[[Iterable[dict[str, Any]]], Iterator[Answer]]
Tell = Callable[[str, dict[str, Any]], None]
_LOOK = 1.0  # seconds between two looks at whether the parent is there


def opened(loaded: Loaded, task: Task, choice: Choice) -> Gauge:
    """A gauge of the run that `loaded` and `choice` describe; its peak begins now."""
    resets = memory.reset_peak(machine.pick_device(loaded.config.training.device))
    return Gauge(assemble.build(loaded, task, choice=choice), resets)


def serve(request: dict[str, Any], asked: Iterable[str], tell: Tell) -> None:
    """Put the run together and answer what is asked for, until nothing more is."""
    file = Path(request["folder"]) / CONFIG
    try:
        config = read_saved(file, find_task(read_json(file)["task"])[0])
        loaded = Loaded(config, request["origins"], (), Arguments())
        answers = _lane(loaded) if request.get("lane") else _gauge(loaded, request)
        for kind, found in answers(json.loads(line) for line in asked):
            tell(kind, found)
    except HotloopError as error:
        tell("fault", {"what": error.what, "where": error.where, "fix": error.fix})
    except Exception as error:
        if not memory.is_out_of_memory(error):
            raise
        tell("memory", {})


def _gauge(loaded: Loaded, request: dict[str, Any]) -> Answers:
    """Sizes of a micro-batch, measured."""

    def answers(asked: Iterable[dict[str, Any]]) -> Iterator[Answer]:
        _hold_to(request["limit"], machine.pick_device(loaded.config.training.device))
        gauge = opened(loaded, make_task(loaded.config), Choice(**request["choice"]))
        yield "ready", asdict(gauge.facts())
        for wanted in asked:
            yield "cost", asdict(gauge.confirm(wanted["steps"]) if "steps" in wanted else gauge.measure(wanted["size"]))

    return answers


def _lane(loaded: Loaded) -> Answers:
    """Steps of a run, and what it computes."""

    def answers(asked: Iterable[dict[str, Any]]) -> Iterator[Answer]:
        lane = Lane(loaded, build_of(make_task(loaded.config)))
        yield "ready", asdict(lane.facts())
        for wanted in asked:
            yield "done", _done(lane, wanted)

    return answers


def _done(lane: Lane, wanted: dict[str, Any]) -> dict[str, Any]:
    """One method of the lane, JSON-ready."""
    if wanted["do"] == "warm":
        return {"seconds": lane.warm()}
    if wanted["do"] == "run":
        return asdict(lane.run(wanted["seconds"]))
    if wanted["do"] == "peak":
        return {"bytes": lane.peak()}
    if wanted["do"] == "losses":
        return {"losses": lane.losses(wanted["seeds"], wanted["steps"])}
    torch.save(lane.gradients(wanted["precision"]), wanted["file"])
    return {}


def _hold_to(limit: int, device: torch.device) -> None:
    """Let a GPU's allocator keep to the limit itself, so that its cache does not look like need."""
    if limit and device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / machine.memory_total(device)), device)


def main() -> None:
    """Serve what standard input asks for."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)

        def tell(kind: str, found: dict[str, Any]) -> None:
            answers.write(json.dumps({"kind": kind, **found}) + "\n")
            answers.flush()

        request = json.loads(sys.stdin.readline())
        threading.Thread(target=_end_with_parent, args=(os.getppid(), request), daemon=True).start()
        serve(request, sys.stdin, tell)


def _end_with_parent(parent: int, request: dict[str, Any]) -> None:
    """Where whoever asks is killed, nobody waits for the answer: end at once, in the middle of a step too."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    if request.get("lane"):
        shutil.rmtree(request["folder"], ignore_errors=True)  # it was the parent's to remove
    os._exit(1)


if __name__ == "__main__":
    main()
