"""The task that `fit` and `steps` train: a model, data and a loss that the caller has in hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hotloop.config.schema import Config, ModelSection, RowsData, knob
from hotloop.data.source import as_source
from hotloop.engine.reduce import rows_of
from hotloop.errors import HotloopError
from hotloop.pretrained import OwnLoss, is_pretrained
from hotloop.task import Batch, LossValues, Splits, Tally, Task

Loss = Callable[[nn.Module, Batch], LossValues]
Metrics = Mapping[str, Callable[[nn.Module, Batch], Tensor]]


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
        self.given = Splits(as_source(self.given.train), self.given.val)
        return self.given

    def model(self) -> nn.Module:
        return self.net

    def loss(self, model: nn.Module, batch: Batch, training: bool) -> LossValues:
        return self.loss_function(model, batch)

    def loss_weight(self, batch: Batch) -> Tensor | None:
        return self.loss_function.weight(batch) if isinstance(self.loss_function, OwnLoss) else None

    def class_names(self) -> Sequence[str]:
        names: Sequence[str] = getattr(self.given.train, "classes", None) or ()
        return names

    def notes(self) -> list[str]:
        left = getattr(self.given.train, "left_out", ())
        lines = [f"columns that are not used, as they hold no numbers: {', '.join(left)}"] if left else []
        if isinstance(self.loss_function, OwnLoss) and self.loss_function.unused:
            lines.append(f"columns that the model does not take: {', '.join(self.loss_function.unused)}")
        return lines

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


def task_of(config: Config, model: nn.Module, data: Any, val: Any, loss: Loss | None, metrics: Metrics | None) -> Given:
    """The task of a call of `fit` or `steps`.

    Raises:
        HotloopError: what is wrong with the call whatever its data holds.
    """
    _check_call(config, model, val, loss, metrics)
    task = Given(config.model, config.data, seed=config.experiment.seed)
    task.net, task.metric_functions = model, metrics or {}
    task.loss_function = OwnLoss(model) if loss is None else loss
    task.given = Splits(data, val)
    return task


def _check_call(config: Config, model: Any, val: Any, loss: Any, metrics: Any) -> None:
    """What is wrong with a call whatever its data holds."""
    if config.data.path is not None:
        raise HotloopError("fit takes its data from the call", where="data.path", fix="leave data.path out")
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise HotloopError(f"the model is {kind}, not a torch.nn.Module", where="model", fix="pass a module, built")
    if loss is None and not is_pretrained(model):
        raise HotloopError(
            f"there is no loss, and {type(model).__name__} is no model of transformers, which would bring its own",
            where="loss",
            fix="pass loss=(model, batch) -> one value a row, such as cross_entropy(..., reduction='none')",
        )
    if loss is not None and not callable(loss):
        raise HotloopError(f"the loss is a {type(loss).__name__}", where="loss", fix="pass a function (model, batch)")
    if isinstance(loss, nn.Module) or getattr(loss, "__module__", "") == "torch.nn.functional":
        name = getattr(loss, "__name__", type(loss).__name__)
        raise HotloopError(
            f"{name} takes (output, target), and a loss is called with (model, batch)",
            where="loss",
            fix="write loss=lambda model, batch: cross_entropy(model(batch['x']), batch['y'], reduction='none')",
        )
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
