"""The data of a run: read, split, checked, weighed and ordered, before the plan decides where it lives.

Everything that happens to the data happens here, in one order: what `on_conflict` switches off, the task's sources,
the look for values that are not finite, the weights of the training rows, the order of the training rows. Validation
and test parts are never weighed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hotloop.config.schema import Config
from hotloop.data import weights
from hotloop.data.heads import weigh_heads
from hotloop.data.ledger import Ledger, lines_of
from hotloop.data.loader import fetch, move
from hotloop.data.sampler import Balanced, Sampler
from hotloop.data.source import Source, as_source
from hotloop.data.stream import StreamSource, ordered
from hotloop.data.weights import Weighed, Weighing
from hotloop.engine.blame import telling_whose
from hotloop.errors import ConfigError, HotloopError, Problem
from hotloop.task import Batch, LossOptions, Splits, Task

_SCANNED = 2 << 30  # bytes of a part that are looked through before the run; larger ones are only looked at on failure
_SHOWN = 5
_CHUNK = 1 << 22  # values looked at in one go


@dataclass
class Parts:
    """The data of a run.

    Attributes:
        splits: the sources; where the plan says resident they are moved to the device.
        host: the same sources where they were read.
        plain: these without weights, for baselines.
        sampler: the order of the training rows, with the effective batch size.
        ledger: None where the rows have no classes.
        remarks: what a person should know of the data.
    """

    splits: Splits
    host: Splits
    plain: Splits
    sampler: Sampler
    ledger: Ledger | None
    remarks: list[str] = field(default_factory=list)

    def move_to(self, device: torch.device) -> None:
        """Put every source that can live on a device there."""
        moved = {name: _there(source, device) for name, source in self.host.extra.items()}
        whole = self.host
        self.splits = Splits(
            _there(whole.train, device),
            None if whole.val is None else _there(whole.val, device),
            moved,
            None if whole.test is None else _there(whole.test, device),
        )


def prepare(task: Task, config: Config, origins: Mapping[str, str]) -> Parts:
    """Read the data of a run and put it in order.

    Args:
        task, config: of the run.
        origins: dotted key -> who set it, for messages.

    Raises:
        HotloopError: data that cannot be read, or weights that would multiply.
    """
    use_loss_options(task, config, origins)
    effective_batch = config.training.batch_size * config.training.gradient_accumulation_steps
    weighing = weights.asked_for(config.data, config.optimization)  # before any data is read
    splits = read_splits(task)
    told: list[str] = []
    if heads := task.heads():
        source, told = weigh_heads(splits.train, weighing, heads)
        weighed = Weighed(source)
    else:
        weighed = weights.weigh(splits.train, splits.val, weighing, task.class_names(), origins)
    if effective_batch == 1 and weighed.source is not splits.train:
        raise HotloopError(
            "a batch of one row is divided by that row's weight, so weights would have no effect",
            where="training.batch_size",
            fix="use a larger batch, gradient_accumulation_steps, or data.balance_sampler in place of weights",
        )
    host = replace(splits, train=weighed.source)
    sampler = _sampler(task, host.train, weighed.labels, effective_batch, config)
    remarks = [*_told(weighing, weighed.ledger, config), *told, *not_finite(splits)]
    remarks += host.train.remarks() if isinstance(host.train, StreamSource) else []
    return Parts(host, host, splits, sampler, weighed.ledger, remarks)


def read_splits(task: Task) -> Splits:
    """The task's sources, whatever form it gave them in, after `data.limit`, `data.val_fraction` and `data.folds`."""
    given: Any = task.sources()
    if not isinstance(given, Splits):
        raise HotloopError(
            f"{type(task).__name__}.sources() gave {'nothing' if given is None else f'a {type(given).__name__}'}",
            where="the task's sources",
            fix="return hotloop.Splits(train=..., val=...), each a dict of tensors or what else the guide names",
        )
    val = None if given.val is None else as_source(given.val, part="validation")
    test = None if given.test is None else as_source(given.test, part="test")
    extra = {name: as_source(source, part=name) for name, source in given.extra.items()}
    return task.cut(Splits(as_source(given.train), val, extra, test))


def use_loss_options(task: Task, config: Config, origins: Mapping[str, str]) -> None:
    """Hand the task what its training loss is to apply; what it would not apply is refused.

    Raises:
        ConfigError: an option that the task's loss does not know.
    """
    asked = LossOptions(config.optimization.label_smoothing, config.optimization.focal_gamma)
    unknown = [name for name, value in vars(asked).items() if value and name not in task.obeys]
    if unknown:
        why = f"has no effect: the loss of {type(task).__name__} does not apply it"
        fix = "leave it out, or apply it in your loss and name it in the task's `obeys`"
        keys = {f"optimization.{name}": getattr(asked, name) for name in unknown}
        raise ConfigError([Problem(key, value, origins.get(key, ""), why, fix) for key, value in keys.items()])
    task.loss_options = asked


def _sampler(task: Task, train: Source, labels: Tensor | None, batch_size: int, config: Config) -> Sampler:
    seed = config.experiment.seed
    if isinstance(train, StreamSource):
        return ordered(train, config.training, config.data, seed)
    if labels is not None:
        return Balanced(labels.numpy(), batch_size, seed)
    return task.sampler(train, batch_size, seed)


def _told(weighing: Weighing, ledger: Ledger | None, config: Config) -> list[str]:
    """The ledger's lines, what it left out, and what changes the training loss beside it."""
    lines = [] if ledger is None else lines_of(ledger, bool(weighing.active))
    if weighing.left_out:
        lines.insert(0, f"data.on_conflict=sampler_wins: {' and '.join(weighing.left_out)} is off")
    smoothing, gamma = config.optimization.label_smoothing, config.optimization.focal_gamma
    shown = [f"label smoothing {smoothing:g}"] if smoothing else []
    shown += [f"focal loss, gamma {gamma:g}"] if gamma else []
    return [*lines, f"in training only: {', '.join(shown)}"] if shown else lines


def not_finite(splits: Splits) -> list[str]:
    """A line for each array in memory that holds NaN or infinities, with the rows."""
    parts = {"training": splits.train, "validation": splits.val, "test": splits.test}
    found: dict[str, None] = {}
    for part, source in parts.items():
        stored = getattr(source, "stored", None)
        if stored is None or (source.nbytes or 0) > _SCANNED:
            continue
        for name, tensor in stored().items():
            rows = bad_rows(tensor)
            if len(rows):
                found[f"{name} of the {part} part {in_rows(rows)}: a loss that sees them is not finite"] = None
    return list(found)


def bad_rows(tensor: Tensor) -> Tensor:
    """The rows (first axis) of a tensor that hold NaN or infinities."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or not len(tensor):
        return torch.empty(0, dtype=torch.int64)
    found, chunk = [], max(1, _CHUNK * len(tensor) // max(1, tensor.numel()))
    for first in range(0, len(tensor), chunk):
        good = torch.isfinite(tensor[first : first + chunk]).flatten(1 if tensor.dim() > 1 else 0)
        whole = good.all(dim=1) if good.dim() > 1 else good
        found.append((~whole).nonzero().flatten().cpu() + first)
    return torch.cat(found)


def in_rows(rows: Tensor) -> str:
    """`holds NaN or infinities in 7 rows (3, 17, 40, 41, 90, ...)`."""
    shown = ", ".join(str(row) for row in rows[:_SHOWN].tolist())
    more = ", ..." if len(rows) > _SHOWN else ""
    return f"holds NaN or infinities in {len(rows):,} row{'s' if len(rows) > 1 else ''} ({shown}{more}; from 0)"


def autopsy(parts: Parts, step: int) -> list[str]:
    """What is not finite in the batch of a step (1-based): which array, which rows of the training part.

    The order is a function of the step alone, so the batch can be fetched again.
    """
    epoch, within = divmod(step - 1, parts.sampler.steps_per_epoch)
    indices = torch.from_numpy(parts.sampler.indices(epoch, within).copy())
    try:
        batch = fetch(parts.host.train, indices, None)
    except Exception:  # a user's item that fails now says nothing of the fault that is looked for
        return []
    found = []
    for name, value in batch.items():
        rows = bad_rows(value) if isinstance(value, Tensor) else torch.empty(0, dtype=torch.int64)
        if len(rows):
            found.append(f"{name} of that batch {in_rows(indices[rows].sort().values)} of the training part")
    return found


def first_micro_batch(parts: Parts, size: int, device: torch.device) -> Batch:
    """The first rows that training will see, on the device."""
    indices = torch.from_numpy(parts.sampler.indices(0, 0)[:size].copy())
    with telling_whose("the data"):
        return move(fetch(parts.host.train, indices, None), device)


def _there(source: Source, device: torch.device) -> Source:
    return source.to(device) if source.nbytes is not None else source
