"""The contract between a task and the engine: what is trained on what, and what the loss of one item is.

A task names its sources, builds its model and gives UNREDUCED loss values; the engine alone reduces them (sum of
values x weight over the total weight of the effective batch), so accumulation, padding, masks, ragged batches and
several ranks are right by one rule. Weighing and balancing happen to the training source before the task sees a batch,
so a task's loss knows nothing of them and validation is plain. Shapes: B rows, T positions, C classes. A batch is a
dict of tensors with first axis B.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hotloop.config.schema import DataSection, ModelSection, RowsData, TaskOptions
from hotloop.data.sampler import Sampler, Shuffle
from hotloop.data.source import Source, Subset, first_rows, hold_out, required_column
from hotloop.data.split import fold_rows, grouped_rows, mixed, stratified_rows, time_rows
from hotloop.errors import HotloopError

Batch = dict[str, Tensor]
LossValues = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class Splits:
    """The parts a task trains and validates on: sources, or whatever can be read as one (a dict of tensors, say).

    Args:
        train: what the optimizer sees.
        val: the whole validation part, each item once; None trains without validation.
        extra: further evaluation sources; their metrics are reported as eval_METRIC_NAME.
        test: measured once, after training, with the best weights; reported as test_NAME.
    """

    train: Any
    val: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    test: Any = None


@dataclass(frozen=True)
class LossOptions:
    """What the optimization section says about the training loss; in validation none of it applies.

    Args:
        label_smoothing: share of each target spread evenly over all classes.
        focal_gamma: exponent of the focal loss; 0 is plain cross entropy.
    """

    label_smoothing: float = 0.0
    focal_gamma: float = 0.0


@dataclass(frozen=True)
class Tally:
    """A sum and the weight it was summed over, on the device; its mean is exact over uneven batches.

    Args:
        sum: scalar tensor, sum of value x weight; or a table of sums (a confusion matrix, say), of which `Task.scores`
            makes metrics once all batches are added up.
        weight: scalar tensor, the total weight.
    """

    sum: Tensor
    weight: Tensor

    @classmethod
    def of(cls, values: Tensor, weight: Tensor | None = None) -> Tally:
        """Tally of unreduced `values` with a weight shaped like them, or like their leading axes."""
        values = values.float()
        if weight is None:
            return cls(values.sum(), torch.full((), float(values.numel()), device=values.device))
        spread = weight.reshape(weight.shape + (1,) * (values.dim() - weight.dim())).float().expand_as(values)
        return cls((values * spread).sum(), spread.sum())

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.sum + other.sum, self.weight + other.weight)


@dataclass(frozen=True)
class Piece:
    """Some rows of a file that is to be predicted.

    Args:
        source: of these rows: a Source, or what can be read as one.
        rows: JSON-ready, one for each: what the output repeats of the input.
    """

    source: Any
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Exportable:
    """A model as other programs can run it: tensors in, tensors out.

    Args:
        module: takes the inputs by position, returns a tensor or a tuple of tensors.
        inputs: example inputs by name, of two rows or more.
        outputs: names of what it returns.
        dynamic: input name -> axis -> what the axis counts, for axes whose length may change ("batch", "length").
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]]


class Task:
    """What a workload says about itself. Subclass it, and train it with `hotloop train mine.py:Mine`.

    Override `sources`, `model` and `loss`; the rest has defaults that suit most tasks. `Model` and `Data` are the
    task's own options (pydantic sections); their values arrive as `model_options` and `data_options`.
    """

    Model: ClassVar[type[ModelSection]] = ModelSection
    Data: ClassVar[type[DataSection]] = RowsData
    obeys: ClassVar[frozenset[str]] = frozenset()
    """Options of the training loss (names of LossOptions) that `loss` applies when training; others are refused."""
    loss_options: LossOptions = LossOptions()
    """Set before `loss` is called the first time."""

    def __init__(self, model_options: ModelSection, data_options: DataSection, *, seed: int) -> None:
        self.model_options: Any = model_options
        self.data_options: Any = data_options
        self.seed = seed

    def sources(self) -> Splits:
        """The training and validation sources; called once, before `model`."""
        raise _not_said(self, "sources", "finds its data")

    def cut(self, splits: Splits) -> Splits:
        """Apply `data.limit` (the first rows) and, where there is no validation part, `data.val_fraction` or
        `data.folds` in the manner of `data.split`. A task whose `sources` does both itself returns them as they are.
        """
        train, val = splits.train, splits.val
        if val is not None and self._folds:
            raise HotloopError(
                "the data brings its own validation part, and folds would hold out another",
                where="data.folds",
                fix="leave data.folds out, or give the data in one part",
            )
        if val is not None and isinstance(self.data_options, RowsData) and self.data_options.split != "random":
            raise HotloopError(
                "the data brings its own validation part, so no rows are held out",
                where=f"data.split={self.data_options.split}",
                fix="leave data.split out, or give the data in one part",
            )
        if val is None and (self.data_options.val_fraction > 0 or self._folds):
            train, val = self._held_out(train)
        if self.data_options.limit is not None:
            train = first_rows(train, self.data_options.limit)
            val = None if val is None else first_rows(val, self.data_options.limit)
        return Splits(train, val, splits.extra, splits.test)

    @property
    def _folds(self) -> int | None:
        return self.data_options.folds if isinstance(self.data_options, RowsData) else None

    def _held_out(self, source: Source) -> tuple[Source, Source]:
        """Training and validation rows of one source, as the data section says."""
        options = self.data_options
        how = options.split if isinstance(options, RowsData) else "random"
        labels = required_column(source, "y", "data.split", "a stratified split") if how == "stratified" else None
        groups = required_column(source, "group", "data.split", "a split by group") if how == "group" else None
        if self._folds:
            fold = (options.fold or 1) - 1
            rows = fold_rows(how, len(source), self._folds, fold, self.seed, labels=labels, groups=groups)
        elif labels is not None:
            rows = stratified_rows(labels, options.val_fraction, self.seed)
        elif groups is not None:
            rows = grouped_rows(groups, options.val_fraction, self.seed)
        elif how == "time":
            rows = time_rows(len(source), options.val_fraction)
        else:
            return hold_out(source, options.val_fraction, self.seed)
        if options.limit is not None and how != "time":  # it takes the first rows, and these lie class by class
            rows = mixed(rows[0], self.seed), mixed(rows[1], self.seed)
        return Subset(source, rows[0]), Subset(source, rows[1])

    def model(self) -> nn.Module:
        """A freshly initialised model; torch's generators are seeded by the engine before the call."""
        raise _not_said(self, "model", "builds its model")

    def loss(self, model: nn.Module, batch: Batch, training: bool) -> LossValues:
        """Unreduced loss values, shaped like the batch's `weight`, e.g. (B,) or (B, T); or a dict of named terms.

        With `training` False the loss must be the plain one: no class weights, no smoothing.
        """
        raise _not_said(self, "loss", "counts its loss")

    def loss_weight(self, batch: Batch) -> Tensor | None:
        """For a model that can only give a mean: the weight that the mean was taken over (0-d tensor)."""
        return None

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tally]:
        """Tallies of one evaluation batch, without the eval_ prefix."""
        return {}

    def loss_and_metrics(self, model: nn.Module, batch: Batch) -> tuple[LossValues, dict[str, Tally]]:
        """What an evaluation batch gives: the plain loss and the metrics. Override it to share one forward pass."""
        return self.loss(model, batch, False), self.metrics(model, batch)

    def scores(self, tables: dict[str, Tensor]) -> dict[str, float]:
        """Metrics made of the tables that `metrics` gave, added up over the whole evaluation (CPU, float64)."""
        return {}

    def class_names(self) -> Sequence[str]:
        """What the classes of the column y are called, for messages; empty takes their numbers."""
        return ()

    def heads(self) -> Mapping[str, Sequence[str]]:
        """Where rows have several labels: column of labels, which is the name of its loss term too -> class names.

        A label below 0 is missing. Class weights are then worked out and applied head by head.
        """
        return {}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Outputs and, where the batch has them, targets of each row, for `conclude`; empty where there is nothing."""
        return {}

    def conclude(self, parts: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
        """What the summary says of the best weights, JSON-ready.

        Args:
            parts: "val" and "test", where there is one: what `predict` gave for every row, on the CPU.
        """
        return {}

    def baselines(self, splits: Splits) -> dict[str, dict[str, float]]:
        """Simple predictors to beat, fitted on the training part only: name -> metric (without eval_) -> value.

        Called once before training with the sources on the CPU; metrics of the test part are named test_METRIC.
        """
        return {}

    def sampler(self, source: Source, batch_size: int, seed: int) -> Sampler:
        """The order in which training sees its items."""
        return Shuffle(len(source), batch_size, seed)

    def term_weights(self) -> dict[str, float]:
        """Weights of the loss terms when `loss` returns several; terms not named count 1.0."""
        return {}

    def assets(self) -> dict[str, Any]:
        """What a run folder must carry (JSON-ready) to rebuild the model without its data: a vocabulary, say."""
        return {}

    def use_assets(self, assets: dict[str, Any]) -> None:
        """Take what `assets` gave, instead of `sources`, to rebuild the model from a run folder."""

    def inherit(self, assets: dict[str, Any]) -> None:
        """Take over what the weights of another run depend on (a vocabulary, say): called before `sources`, with the
        assets of the run that `model.init_from` names.
        """

    def notes(self) -> list[str]:
        """Lines to show before training: what data was found, and how much."""
        return []

    # After training; `use_assets` was called before each of these.

    def pieces(self, path: Path, rows: int) -> Iterator[Piece]:
        """Read a file to predict, at most `rows` rows at a time, so that a file of any size can be read."""
        raise _not_said(self, "pieces", "reads a file to predict")

    def answers(self, outputs: dict[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What is written for each row, JSON-ready, out of what `predict` gave for the rows of a piece."""
        raise _not_said(self, "answers", "writes its outputs")

    def labelled(self, path: Path) -> Source:
        """The rows of a file with their targets, as validation would see them."""
        raise _not_said(self, "labelled", "reads a file to be measured on")

    def combine(self, outputs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The outputs of several runs as one, row by row: the mean of their probabilities."""
        raise _not_said(self, "combine", "averages several runs")

    def exportable(self, model: nn.Module) -> Exportable:
        """The model for other programs."""
        raise _not_said(self, "exportable", "leaves hotloop")


def _not_said(task: Task, method: str, what: str) -> HotloopError:
    name = type(task).__name__
    return HotloopError(f"the task {name} does not say how it {what}", fix=f"write {name}.{method}()")


def options_of(task: type[Task], name: str) -> TaskOptions:
    """The option classes of a task class, as the configuration wants them."""
    return TaskOptions(name=name, model=task.Model, data=task.Data)
