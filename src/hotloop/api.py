"""Training from Python: `fit` a model you have, `train` a task by name, or drive the steps yourself with `steps`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from hotloop import assemble, launch
from hotloop.config.kept import refuse_changes
from hotloop.config.load import Loaded, load, read_saved
from hotloop.config.schema import Config, TaskOptions
from hotloop.data.stream import StreamSource, batch_size_of, disagreement, from_loader
from hotloop.engine import loop, recompute
from hotloop.engine.hooks import StepInfo
from hotloop.errors import HotloopError, NoMemory
from hotloop.folds import require_one
from hotloop.given import Given, Loss, Metrics, task_of
from hotloop.runs.console import Console
from hotloop.runs.reporter import Reporter, Silent
from hotloop.runs.store import RunFolder
from hotloop.saved import FIT, Run, find_task, read_json, rooted
from hotloop.shortage import explained
from hotloop.task import Task, options_of
from hotloop.tasks.own import require_task
from hotloop.tune.auto import settle
from hotloop.tune.choose import choose, refuse_idle_tuning

_FIT_ONLY = (
    "callbacks.",
    *("experiment.dir", "experiment.name", "experiment.notes", "experiment.log_level"),
    *("experiment.stop_at", "experiment.trackers"),
    *(
        "data.val_fraction",
        "data.folds",
        "data.fold",
        "data.split",
        "training.eval_every",
        "training.eval_batch_size",
        "training.max_time",
    ),
)
"""Keys, or beginnings of them, that `steps` does nothing about."""


def fit(
    model: nn.Module,
    data: Any,
    *,
    loss: Loss | None = None,
    metrics: Metrics | None = None,
    val: Any = None,
    config: Mapping[str, Any] | str | Path | None = None,
    callbacks: Sequence[Any] = (),
    progress: bool = True,
    resume_from_checkpoint: str | Path | None = None,
    **overrides: Any,
) -> Run:
    """Train a model of your own.

    Args:
        model: trained in place.
        data: tensors or arrays, a frame, a Hugging Face or torch Dataset, a DataLoader (see the guide, data.md).
        loss: (model, batch) -> one value a row, or a dict of such terms; a model of transformers brings its own.
        metrics: name -> (model, batch) -> one value a row; reported as eval_NAME.
        val: validation data; its loss is reported as eval_loss.
        config: a YAML file, or keys as a dict (dotted, or one dict a section).
        callbacks: observers: functions of StepInfo, or objects with hooks.
        progress: show what happens.
        resume_from_checkpoint: a run of the same model and data to go on with; it keeps its configuration.
        **overrides: canonical keys, as in batch_size=32, learning_rate=1e-3, max_steps=100.

    Raises:
        HotloopError: a fault of configuration, data or loss, with what to do.
    """
    data, loaded = _with_loader(data, config, overrides)
    own = loaded.config if resume_from_checkpoint is None else _of_run(resume_from_checkpoint, loaded)
    task = task_of(own, model, data, val, loss, metrics)
    with _reporter(progress, callbacks) as reporter, recompute.put_back(model):
        if resume_from_checkpoint is not None:
            return launch.resume(resume_from_checkpoint, task, reporter=reporter, callbacks=callbacks)
        choice = choose(loaded, task, reporter)
        return launch.train(loaded, task, reporter=reporter, callbacks=callbacks, choice=choice)


def steps(
    model: nn.Module,
    data: Any,
    *,
    loss: Loss | None = None,
    config: Mapping[str, Any] | str | Path | None = None,
    **overrides: Any,
) -> Iterator[StepInfo]:
    """Train step by step in a loop of your own; nothing is written and nothing is evaluated.

    Args:
        model, data, loss, config, **overrides: as in `fit`; keys that only `fit` acts on are refused.

    Yields:
        StepInfo after each optimizer step; reading its tensors makes the host wait.

    Raises:
        HotloopError: as `fit`.
        CheckStopped: loss or gradient not finite; looked for each `training.log_every` steps and at the end.
    """
    data, loaded = _with_loader(data, config, overrides)
    _refuse_fit_only(loaded)
    task = task_of(loaded.config, model, data, None, loss, None)
    with recompute.put_back(model):
        session = assemble.build(loaded, task, choice=choose(loaded, task))
        try:
            yield from loop.watched(session.state, session.feed())
        except NoMemory as short:
            raise explained(session, short) from short


def train(task: str | type[Task], *, progress: bool = True, callbacks: Sequence[Any] = (), **overrides: Any) -> Run:
    """Train a task by name ("gpt"), by file ("mine.py:Mine"), or by its class.

    Args:
        task: which.
        progress: show what happens.
        callbacks: observers, as in `fit`.
        **overrides: canonical keys; `template`, `config` (a file) too; dotted keys as a dict in `keys`.
    """
    options, found = find_task(task) if isinstance(task, str) else _options_of_class(task)
    template, file = overrides.pop("template", ()), overrides.pop("config", None)
    keys: dict[str, Any] = {**overrides.pop("keys", {}), **overrides}
    templates = [template] if isinstance(template, str) else list(template)
    loaded = load(options, templates=templates, file=file, overrides=keys, device_kind=_device_kind())
    require_one(loaded)
    made = found(loaded.config.model, loaded.config.data, seed=loaded.config.experiment.seed)
    with _reporter(progress, callbacks) as reporter:
        if not isinstance(task, str):
            refuse_idle_tuning(loaded, "candidates run in other processes, which may not find a class by its name")
        choice = choose(loaded, made, reporter)
        named = settle if isinstance(task, str) else None  # a class in hand may not be found by its name
        return launch.train(loaded, made, reporter=reporter, callbacks=callbacks, choice=choice, settle=named)


@contextlib.contextmanager
def _reporter(progress: bool, callbacks: Any) -> Iterator[Reporter]:
    """What shows the run, closed at its end."""
    if not isinstance(callbacks, list | tuple):
        kind = type(callbacks).__name__
        raise HotloopError(f"callbacks is a {kind}, not a list", where="callbacks", fix="write callbacks=[...]")
    reporter: Reporter = Console() if progress else Silent()
    try:
        yield reporter
    finally:
        reporter.close()


def _options_of_class(task: Any) -> tuple[TaskOptions, type[Task]]:
    found = require_task(task, getattr(task, "__name__", type(task).__name__))
    return options_of(found, found.__name__), found


def _device_kind() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _loaded(config: Mapping[str, Any] | str | Path | None, overrides: Mapping[str, Any]) -> Loaded:
    file = config if isinstance(config, str | Path) else None
    keys = dict(config) if isinstance(config, Mapping) else {}
    return load(options_of(Given, FIT), file=file, overrides={**keys, **overrides}, device_kind=_device_kind())


def _with_loader(
    data: Any, config: Mapping[str, Any] | str | Path | None, overrides: Mapping[str, Any]
) -> tuple[Any, Loaded]:
    """Data and configuration, where a DataLoader in hand says its batch size and workers if the caller does not."""
    loaded = _loaded(config, overrides)
    require_one(loaded)
    if not isinstance(data, DataLoader):
        return data, loaded
    source = from_loader(data)
    stream = isinstance(source, StreamSource)
    rows = source.own_batch if isinstance(source, StreamSource) else batch_size_of(data)
    found = {"training.batch_size": rows, "data.num_workers": data.num_workers}
    stated = {
        "training.batch_size": loaded.config.training.batch_size,
        "data.num_workers": loaded.config.data.num_workers,
    }
    taken = {}
    for key, own in found.items():
        if loaded.origins.get(key, "default").startswith(("default", "template")):
            taken.update({} if stream and key == "data.num_workers" else {key: own})
        elif stated[key] not in (own, "auto"):
            raise disagreement("the DataLoader", int(own or 0), int(stated[key]), key)
    return source, _loaded(config, {**overrides, **taken})


def _of_run(path: str | Path, loaded: Loaded) -> Config:
    """The configuration of the run to go on with, which the call may repeat and not change."""
    file = RunFolder.open(path).dir / "config.json"
    saved = read_json(file)
    if saved.get("task") != FIT:
        raise HotloopError(
            f"this is a run of the task '{saved.get('task')}', not of hotloop.fit",
            where=str(file.parent),
            fix=f"hotloop resume {file.parent}",
        )
    refuse_changes(
        replace(loaded, config=rooted(loaded.config)),
        saved,
        "leave these out of the call, or train a new run (no resume_from_checkpoint)",
    )
    return read_saved(file, options_of(Given, FIT))


def _refuse_fit_only(loaded: Loaded) -> None:
    """`steps` writes, evaluates and watches no clock: what asks for that must not be ignored."""
    asked = [
        f"{key} ({origin})"
        for key, origin in loaded.origins.items()
        if not origin.startswith(("default", "template")) and key.startswith(_FIT_ONLY)
    ]
    if loaded.config.optimization.lr_scheduler == "plateau":
        asked.append("optimization.lr_scheduler=plateau")
    if asked:
        raise HotloopError(
            "hotloop.steps only trains: it evaluates and writes nothing, so these have no effect",
            where=", ".join(asked),
            fix="leave them out and do it in your loop, or use hotloop.fit, which they belong to",
        )
