"""Training from Python: `fit` a model you have, `train` a task by name, or drive the steps yourself with `steps`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hotloop import assemble, launch
from hotloop.config.load import Loaded, load
from hotloop.config.schema import DataSection, ModelSection, knob
from hotloop.engine import loop
from hotloop.engine.hooks import StepInfo
from hotloop.engine.reduce import rows_of
from hotloop.errors import HotloopError
from hotloop.runs.console import Console
from hotloop.runs.reporter import Reporter, Silent
from hotloop.saved import FIT, Run, find_task
from hotloop.task import Batch, LossValues, Splits, Tally, Task, options_of

Loss = Callable[[nn.Module, Batch], LossValues]
Metrics = Mapping[str, Callable[[nn.Module, Batch], Tensor]]


class FitData(DataSection):
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
        data: a dict (or tuple) of tensors or arrays with the same first axis, or a map-style torch Dataset.
        loss: (model, batch) -> one value a row, or a dict of such terms; batch is a dict of tensors (B, ...).
        metrics: name -> (model, batch) -> one value a row; reported as eval_NAME.
        val: validation data, like `data`; its loss is reported as eval_loss.
        config: a YAML file, or keys as a dict (dotted, or one dict a section).
        callbacks: observers: functions of StepInfo, or objects with hooks such as on_evaluate.
        progress: show what happens.
        resume_from_checkpoint: folder of a run of the same model and data to go on with.
        **overrides: canonical keys, as in batch_size=32, learning_rate=1e-3, max_steps=100.

    Raises:
        HotloopError: a fault of configuration, data or loss, with what to do.
    """
    loaded = _loaded(config, overrides)
    task = _given(loaded, model, data, val, loss, metrics or {})
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
        model, data, loss, config, **overrides: as in `fit`.

    Yields:
        StepInfo after each optimizer step; reading its tensors makes the host wait.
    """
    loaded = _loaded(config, overrides)
    session = assemble.build(loaded, _given(loaded, model, data, None, loss, {}))
    yield from loop.steps(session.state, session.feed())


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


def _given(loaded: Loaded, model: nn.Module, data: Any, val: Any, loss: Loss, metrics: Metrics) -> Given:
    config = loaded.config
    if config.data.path is not None:
        raise HotloopError("fit takes its data from the call", where="data.path", fix="leave data.path out")
    task = Given(config.model, config.data, seed=config.experiment.seed)
    task.net, task.loss_function, task.metric_functions = model, loss, metrics
    task.given = Splits(data, val)
    return task
