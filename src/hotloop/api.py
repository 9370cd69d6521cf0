"""Training from Python: `fit` a model you have, `train` a task by name, or drive the steps yourself with `steps`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hotloop import assemble, launch
from hotloop.config.kept import refuse_changes
from hotloop.config.load import Loaded, load, read_saved
from hotloop.config.schema import Config, ModelSection, RowsData, knob
from hotloop.data.stream import StreamSource, batch_size_of, disagreement, from_loader
from hotloop.engine import loop
from hotloop.engine.hooks import StepInfo
from hotloop.engine.reduce import rows_of
from hotloop.errors import HotloopError
from hotloop.folds import require_one
from hotloop.runs.console import Console
from hotloop.runs.reporter import Reporter, Silent
from hotloop.runs.store import RunFolder
from hotloop.saved import FIT, Run, find_task, read_json, rooted
from hotloop.task import Batch, LossValues, Splits, Tally, Task, options_of

Loss = Callable[[nn.Module, Batch], LossValues]
Metrics = Mapping[str, Callable[[nn.Module, Batch], Tensor]]
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


class FitData(RowsData):
    """The data options of a model and data in hand: validation is what `val` gives, unless a share is asked for."""

    val_fraction: float = knob(0.0, "Share of the rows held out at random for validation; 0 is none.", ge=0, lt=1)


class Given(Task):
    """The task that `fit` trains: a model, data and a loss that the caller has."""

    Model = ModelSection
    Data = FitData
    net: nn.Module
    given: Splits
    loss_function: Loss
    metric_functions: Metrics

    def sources(self) -> Splits:
        return self.given

    def model(self) -> nn.Module:
        return self.net

    def loss(self, model: nn.Module, batch: Batch, training: bool) -> LossValues:
        return self.loss_function(model, batch)

    def class_names(self) -> Sequence[str]:
        names: Sequence[str] = getattr(self.given.train, "classes", None) or ()
        return names

    def notes(self) -> list[str]:
        left = getattr(self.given.train, "left_out", ())
        return [f"columns that are not used, as they hold no numbers: {', '.join(left)}"] if left else []

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tally]:
        return {name: _tally(name, f(model, batch), batch) for name, f in self.metric_functions.items()}


def _tally(name: str, values: Any, batch: Batch) -> Tally:
    """A metric's values, one a row; a mean is refused, as batches of uneven length would count the same."""
    rows, weight = rows_of(batch), batch.get("weight")
    if not isinstance(values, Tensor) or values.dim() == 0 or len(values) != rows:
        shown = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        raise HotloopError(
            f"the metric '{name}' gave {shown} for a batch of {rows} rows",
            where="metrics",
            fix="return one value a row; their mean is taken over the whole validation part",
        )
    if isinstance(weight, Tensor) and values.shape[: weight.dim()] != weight.shape:
        raise HotloopError(
            f"metric '{name}' of shape {tuple(values.shape)} does not match a weight of shape {tuple(weight.shape)}",
            where="metrics",
            fix="return values shaped like the batch's 'weight'",
        )
    return Tally.of(values, weight if isinstance(weight, Tensor) else None)


def fit(
    model: nn.Module,
    data: Any,
    *,
    loss: Loss,
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
        data: tensors or arrays, a frame, a torch Dataset or DataLoader (see the guide, data.md).
        loss: (model, batch) -> one value a row, or a dict of such terms; batch is a dict of tensors (B, ...).
        metrics: name -> (model, batch) -> one value a row; reported as eval_NAME.
        val: validation data, like `data`; its loss is reported as eval_loss.
        config: a YAML file, or keys as a dict (dotted, or one dict a section).
        callbacks: observers: functions of StepInfo, or objects with hooks such as on_evaluate.
        progress: show what happens.
        resume_from_checkpoint: folder of a run of the same model and data to go on with; it keeps its configuration.
        **overrides: canonical keys, as in batch_size=32, learning_rate=1e-3, max_steps=100.

    Raises:
        HotloopError: a fault of configuration, data or loss, with what to do.
    """
    data, loaded = _with_loader(data, config, overrides)
    own = loaded.config if resume_from_checkpoint is None else _of_run(resume_from_checkpoint, loaded)
    task = _given(own, model, data, val, loss, metrics)
    reporter: Reporter = Console() if progress else Silent()
    try:
        if resume_from_checkpoint is not None:
            return launch.resume(resume_from_checkpoint, task, reporter=reporter, callbacks=callbacks)
        return launch.train(loaded, task, reporter=reporter, callbacks=callbacks)
    finally:
        reporter.close()


def steps(
    model: nn.Module,
    data: Any,
    *,
    loss: Loss,
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
    session = assemble.build(loaded, _given(loaded.config, model, data, None, loss, None))
    yield from loop.watched(session.state, session.feed())


def train(task: str | type[Task], *, progress: bool = True, callbacks: Sequence[Any] = (), **overrides: Any) -> Run:
    """Train a task by name ("gpt"), by file ("mine.py:Mine"), or by its class.

    Args:
        task: which.
        progress: show what happens.
        callbacks: observers, as in `fit`.
        **overrides: canonical keys; `template`, `config` (a file) too; dotted keys as a dict in `keys`.
    """
    options, found = find_task(task) if isinstance(task, str) else (options_of(task, task.__name__), task)
    template, file = overrides.pop("template", ()), overrides.pop("config", None)
    keys: dict[str, Any] = {**overrides.pop("keys", {}), **overrides}
    templates = [template] if isinstance(template, str) else list(template)
    loaded = load(options, templates=templates, file=file, overrides=keys, device_kind=_device_kind())
    require_one(loaded)
    made = found(loaded.config.model, loaded.config.data, seed=loaded.config.experiment.seed)
    reporter: Reporter = Console() if progress else Silent()
    try:
        return launch.train(loaded, made, reporter=reporter, callbacks=callbacks)
    finally:
        reporter.close()


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


def _given(config: Config, model: nn.Module, data: Any, val: Any, loss: Loss, metrics: Metrics | None) -> Given:
    _check_call(config, model, val, loss, metrics)
    task = Given(config.model, config.data, seed=config.experiment.seed)
    task.net, task.loss_function, task.metric_functions = model, loss, metrics or {}
    task.given = Splits(data, val)
    return task


def _check_call(config: Config, model: Any, val: Any, loss: Any, metrics: Any) -> None:
    """What is wrong with a call whatever its data holds."""
    if config.data.path is not None:
        raise HotloopError("fit takes its data from the call", where="data.path", fix="leave data.path out")
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise HotloopError(f"the model is {kind}, not a torch.nn.Module", where="model", fix="pass a module, built")
    if not callable(loss):
        raise HotloopError(f"the loss is a {type(loss).__name__}", where="loss", fix="pass a function (model, batch)")
    if metrics is not None and not (isinstance(metrics, Mapping) and all(callable(f) for f in metrics.values())):
        raise HotloopError(
            f"metrics is a {type(metrics).__name__}, not a dict of functions",
            where="metrics",
            fix='name each: metrics={"accuracy": accuracy}, with accuracy(model, batch) -> one value a row',
        )
    if val is not None and config.data.val_fraction > 0:
        raise HotloopError(
            f"validation data is given twice: val=..., and data.val_fraction={config.data.val_fraction:g} of the rows",
            where="data.val_fraction",
            fix="leave one of them out",
        )
    if metrics and val is None and config.data.val_fraction == 0:
        raise HotloopError(
            "metrics are taken in validation, and there is nothing to validate on",
            where="metrics",
            fix="give validation data (val=...), or hold some out: data.val_fraction=0.1",
        )
