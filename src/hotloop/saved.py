"""Reading a run back: its configuration, its task and its model, from the folder alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from hotloop.config.load import read_saved
from hotloop.config.schema import Config, TaskOptions
from hotloop.data.fingerprint import difference
from hotloop.errors import HotloopError
from hotloop.initial import ASSETS as ASSETS
from hotloop.initial import CONFIG as CONFIG
from hotloop.initial import FINAL as FINAL
from hotloop.initial import read_json as read_json
from hotloop.initial import read_weights
from hotloop.initial import weights_file as weights_file
from hotloop.runs.store import RunFolder
from hotloop.task import Task, options_of
from hotloop.tasks import BUILTIN, task_class
from hotloop.tasks.own import load_user_task

SUMMARY, PLAN, DATA, BASELINES = "training_summary.json", "plan.json", "data.json", "baselines.json"
PATHS = ("path", "train_path", "val_path", "test_path")
SEARCH = "search.json"
"""What a search before the run tried, a row each."""
FIT = "fit"
"""What the configuration of a run of `hotloop.fit` names as its task."""


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

    The model is None where only its maker can build it (a run of `hotloop.fit`, or of `hotloop.train` with a class) or
    no weights were saved yet.

    Raises:
        HotloopError: not a run folder, or a damaged one.
    """
    folder = RunFolder.open(path)
    summary = read_json(folder.dir / SUMMARY) if (folder.dir / SUMMARY).is_file() else {"status": "unfinished"}
    built = is_findable(read_json(folder.dir / CONFIG).get("task")) and weights_file(folder, "last") is not None
    return Run(folder.dir, summary, folder.read_metrics(), saved_model(folder)[1] if built else None)


def saved_model(folder: RunFolder, which: str = "last") -> tuple[Task, nn.Module]:
    """The task and its model with the weights asked for ("best" or "last"), in evaluation mode, on the CPU.

    Raises:
        HotloopError: no weights saved yet, damaged files, weights of another model, or a model that only its maker has.
    """
    if read_json(folder.dir / CONFIG).get("task") == FIT:
        raise HotloopError(
            "this run was started with hotloop.fit, and what builds its model is not in its folder",
            where=str(folder.dir),
            fix="use the model that hotloop.fit returned, or train a task in a file: hotloop train FILE.py:CLASS",
        )
    task = make_task(saved_config(folder, None))
    task.use_assets(read_json(folder.dir / ASSETS))
    path = weights_file(folder, which)
    if path is None:
        raise HotloopError("the run has saved no weights yet", where=str(folder.dir), fix="train until a checkpoint")
    stored = read_weights(path)
    model = task.model()
    try:
        model.load_state_dict(stored)
    except (RuntimeError, KeyError, TypeError) as error:
        raise HotloopError(f"the weights are not of this run's model: {error}", where=str(path)) from error
    return task, model.eval()


def saved_config(folder: RunFolder, task: Task | None) -> Config:
    """The configuration that a run wrote about itself.

    Raises:
        HotloopError: a damaged file, or a run whose task is not at hand.
    """
    name = read_json(folder.dir / CONFIG).get("task", "")
    if task is None and not is_findable(name):
        again = "call hotloop.fit again with the same model and data and resume_from_checkpoint=..."
        named = f'put the class {name} into a file, and write "task": "FILE.py:{name}" into the run\'s {CONFIG}'
        raise HotloopError(
            "this run was started from Python, and its model and data are not in its folder",
            where=str(folder.dir),
            fix=again if name == FIT else named,
        )
    if task is None:
        _require_file(folder, name)
    options = options_of(type(task), name) if task is not None else find_task(name)[0]
    return read_saved(folder.dir / CONFIG, options)


def _require_file(folder: RunFolder, name: str) -> None:
    """A task of a person's own is built by a file, which may have moved since."""
    file, _, kind = name.rpartition(":")
    if name not in BUILTIN and not Path(file).is_file():
        raise HotloopError(
            f"the file that builds this run's model is no longer there: {file}",
            where=str(folder.dir),
            fix=f'put it back, or say where it is now: "task": "FILE.py:{kind}" in {folder.dir / CONFIG}',
        )


def is_findable(name: Any) -> bool:
    """Whether a task can be found by its name alone."""
    return isinstance(name, str) and (name in BUILTIN or ".py" in name)


def refuse_finished(folder: RunFolder) -> None:
    """A run that is over does not go on.

    Raises:
        HotloopError: it came to its end, was stopped, or failed.
    """
    path = folder.dir / SUMMARY
    if not path.is_file():
        return
    summary = read_json(path)
    if summary.get("status") == "failed":
        raise HotloopError(
            f"this run stopped at a fault that the same data and options would meet again: {summary.get('reason')}",
            where=str(folder.dir),
            fix="train a new run with a lower rate, a longer warmup, or doctor.on_nan=skip",
        )
    if summary.get("status") in ("completed", "stopped"):
        raise HotloopError(
            f"this run is over after {summary.get('steps')} steps: {summary.get('reason') or 'it came to its end'}",
            where=str(folder.dir),
            fix="train a new one with more steps (training.max_steps or training.num_epochs)",
        )


def refuse_other_data(
    folder: RunFolder, steps_per_epoch: tuple[int, int], assets: dict[str, Any], parts: dict[str, Any]
) -> None:
    """Going on with other data than before would be neither the old run nor a new one.

    Args:
        folder: of the run.
        steps_per_epoch: what it was, and what it is now.
        assets: of the task, now.
        parts: fingerprints of the data, now.

    Raises:
        HotloopError: the data differs, and where.
    """
    was, now = steps_per_epoch
    why = f"an epoch has {now:,} steps, it had {was:,}" if now != was else ""
    why = why or difference(read_json(folder.dir / DATA), parts)
    if read_json(folder.dir / ASSETS) != json.loads(json.dumps(assets)):
        why = f"it gives another {ASSETS} (a vocabulary, say)"
    if why:
        fix = "put the data back as it was, or train a new run"
        raise HotloopError(f"this is not the data that the run was trained on: {why}", where=str(folder.dir), fix=fix)


def rooted(config: Config) -> Config:
    """The same configuration with files named by whole paths, so that a run can go on from any folder."""
    data, callbacks = config.data, config.callbacks
    paths = {name: _whole_paths(getattr(data, name, None)) for name in PATHS if getattr(data, name, None) is not None}
    first = config.model.init_from
    model = config.model if first is None else config.model.model_copy(update={"init_from": _whole(first)})
    return config.model_copy(
        update={
            "task": _whole_spec(config.task),
            "model": model,
            "data": data.model_copy(update=paths),
            "callbacks": callbacks.model_copy(update={"user": type(callbacks.user)(map(_whole_spec, callbacks.user))}),
        }
    )


def _whole_paths(value: Any) -> Any:
    """One path, or several in a list."""
    return _whole(value) if isinstance(value, str) else type(value)(_whole(path) for path in value)


def _whole(path: str) -> str:
    """A path of something that is there as a whole one; anything else (a name, an address) as it is."""
    found = Path(path).expanduser()
    return str(found.absolute()) if found.exists() else path


def _whole_spec(spec: str) -> str:
    """FILE.py:NAME with the whole path of the file."""
    file, colon, name = spec.rpartition(":")
    return f"{_whole(file)}:{name}" if colon and file.endswith(".py") else spec
