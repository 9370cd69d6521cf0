"""Reading a run back: its configuration, its task and its model, from the folder alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from hotloop.config.load import read_saved
from hotloop.config.schema import Config, TaskOptions
from hotloop.engine import checkpoint
from hotloop.errors import HotloopError
from hotloop.runs.store import RunFolder
from hotloop.task import Task, options_of
from hotloop.tasks import BUILTIN, task_class
from hotloop.tasks.own import load_user_task

SUMMARY, PLAN, ASSETS, FINAL = "training_summary.json", "plan.json", "assets.json", "final_model.pt"
FIT = "fit"
"""What the configuration of a run of `hotloop.fit` names as its task."""

WEIGHTS = {
    "best": (f"checkpoints/{checkpoint.BEST}", FINAL, f"checkpoints/{checkpoint.LAST}"),
    "last": (FINAL, f"checkpoints/{checkpoint.LAST}"),
}
"""Which weights of a run are meant: the first of these files that it has."""


@dataclass
class Run:
    """A finished (or interrupted) run.

    Attributes:
        dir: its folder.
        summary: what training_summary.json holds.
        history: the records of metrics.jsonl.
        model: with the weights of the last step; None where the run was only read and its task is not at hand.
    """

    dir: Path
    summary: dict[str, Any]
    history: list[dict[str, Any]] = field(repr=False)
    model: nn.Module | None = field(default=None, repr=False)


def find_task(name: str) -> tuple[TaskOptions, type[Task]]:
    """A built-in task by its name, or a person's own as FILE.py:CLASS."""
    if ".py" in name and name not in BUILTIN:
        return load_user_task(name)
    found = task_class(name)
    return options_of(found, name), found


def make_task(config: Config) -> Task:
    """The task that a configuration names, with its options."""
    _, found = find_task(config.task)
    return found(config.model, config.data, seed=config.experiment.seed)


def load_run(path: Path | str) -> Run:
    """A run from its folder: summary, history, and the model with its last weights.

    The model is None where only its maker can build it (a run of `hotloop.fit`) or no weights were saved yet.

    Raises:
        HotloopError: not a run folder, or a damaged one.
    """
    folder = RunFolder.open(path)
    summary = read_json(folder.dir / SUMMARY) if (folder.dir / SUMMARY).is_file() else {"status": "unfinished"}
    built = read_json(folder.dir / "config.json").get("task") != FIT and weights_file(folder, "last") is not None
    return Run(folder.dir, summary, folder.read_metrics(), saved_model(folder)[1] if built else None)


def saved_model(folder: RunFolder, which: str = "last") -> tuple[Task, nn.Module]:
    """The task and its model with the weights asked for ("best" or "last"), in evaluation mode, on the CPU.

    Raises:
        HotloopError: no weights saved yet, damaged files, or weights of another model.
    """
    task = make_task(saved_config(folder, None))
    task.use_assets(read_json(folder.dir / ASSETS))
    path = weights_file(folder, which)
    if path is None:
        raise HotloopError("the run has saved no weights yet", where=str(folder.dir), fix="train until a checkpoint")
    stored = checkpoint.load(path)
    model = task.model()
    try:
        model.load_state_dict(stored["model"] if path.parent == folder.checkpoints else stored)
    except (RuntimeError, KeyError, TypeError) as error:
        raise HotloopError(f"the weights are not of this run's model: {error}", where=str(path)) from error
    return task, model.eval()


def weights_file(folder: RunFolder, which: str) -> Path | None:
    """The file with the weights asked for, "best" or "last"; None where the run has saved none."""
    return next((folder.dir / name for name in WEIGHTS[which] if (folder.dir / name).is_file()), None)


def saved_config(folder: RunFolder, task: Task | None) -> Config:
    """The configuration that a run wrote about itself."""
    name = read_json(folder.dir / "config.json").get("task", "")
    if name == FIT and task is None:
        raise HotloopError(
            "this run was started from Python, and its model and data are not in its folder",
            where=str(folder.dir),
            fix="call hotloop.fit again with the same model and data and resume_from_checkpoint=...",
        )
    options = options_of(type(task), name) if task is not None else find_task(name)[0]
    return read_saved(folder.dir / "config.json", options)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a run folder; a missing or damaged file is told by its name."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HotloopError(f"the run has no {path.name}", where=str(path.parent)) from error
    except (OSError, ValueError) as error:
        raise HotloopError(f"{path.name} cannot be read: {error}", where=str(path.parent)) from error
    if not isinstance(value, dict):
        raise HotloopError(f"{path.name} is not a JSON object", where=str(path))
    return value
