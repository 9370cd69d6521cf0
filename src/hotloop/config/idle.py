"""Knobs that have no effect beside the others, such as plateau's patience under cosine.

A template's idle value is dropped back to the default, so that what is shown and saved is what works. A person's
idle value is a problem (`guards`): nothing that was asked for is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hotloop.config.layers import WARMUP, Given
from hotloop.config.schema import Config, OptimizationSection, RowsData


@dataclass(frozen=True)
class Needs:
    """`key` has an effect only where `works` holds; `condition` says so to people."""

    key: str
    condition: str
    works: Callable[[Config], bool]
    because: str


def _optimizer(*names: str) -> Callable[[Config], bool]:
    return lambda config: config.optimization.optimizer in names


def _schedule(*names: str) -> Callable[[Config], bool]:
    return lambda config: config.optimization.lr_scheduler in names


def has_warmup(optimization: OptimizationSection) -> bool:
    """Whether the schedule begins with a warmup."""
    return any(getattr(optimization, key.partition(".")[2]) for key in WARMUP)


def _streams(config: Config) -> bool:
    return config.data.resident != "on"


def _rows(key: str, otherwise: object) -> Callable[[Config], bool]:
    """Whether a key of `RowsData` says so; a task without that key has no say."""
    return lambda config: bool(getattr(config.data, key, otherwise))


def _holds_out(config: Config) -> bool:
    """Whether rows are held out; a task whose data are no separate rows splits in its own way."""
    data = config.data
    return not isinstance(data, RowsData) or data.val_fraction > 0 or data.folds is not None


_DECAYING = ("cosine", "linear", "polynomial", "wsd")
_OPTIMIZER, _SCHEDULE, _RESIDENT = "optimization.optimizer", "optimization.lr_scheduler", "data.resident"
NEEDS = (
    Needs("optimization.muon_learning_rate", "the optimizer muon", _optimizer("muon"), _OPTIMIZER),
    Needs("optimization.momentum", "the optimizers muon and sgd", _optimizer("muon", "sgd"), _OPTIMIZER),
    Needs(
        "optimization.layerwise_decay",
        "one optimizer for all layers: adamw, adamw8bit, adam or sgd",
        _optimizer("adamw", "adamw8bit", "adam", "sgd"),
        _OPTIMIZER,
    ),
    Needs(
        "optimization.betas",
        "adamw, adamw8bit, adam and muon's AdamW part",
        _optimizer("adamw", "adamw8bit", "adam", "muon"),
        _OPTIMIZER,
    ),
    Needs(
        "training.compile_region",
        "compilation (training.compile)",
        lambda c: c.training.compile != "off",
        "training.compile",
    ),
    Needs("memory.offload", "the optimizers adamw and adam", _optimizer("adamw", "adam"), _OPTIMIZER),
    Needs("optimization.min_lr", "a schedule that lowers the rate", _schedule(*_DECAYING, "plateau"), _SCHEDULE),
    Needs("optimization.decay_steps", "a decay: cosine, linear, polynomial or wsd", _schedule(*_DECAYING), _SCHEDULE),
    Needs("optimization.decay_ratio", "the schedule wsd", _schedule("wsd"), _SCHEDULE),
    Needs("optimization.polynomial_power", "the schedule polynomial", _schedule("polynomial"), _SCHEDULE),
    Needs("optimization.plateau_factor", "the schedule plateau", _schedule("plateau"), _SCHEDULE),
    Needs("optimization.plateau_patience", "the schedule plateau", _schedule("plateau"), _SCHEDULE),
    Needs("optimization.warmup_start_factor", "a warmup", lambda c: has_warmup(c.optimization), WARMUP[0]),
    Needs(
        "callbacks.min_delta",
        "early stopping, or the schedule plateau",
        lambda c: c.callbacks.early_stopping_patience is not None or c.optimization.lr_scheduler == "plateau",
        "callbacks.early_stopping_patience",
    ),
    Needs("data.weights_clip", "sample weights", _rows("use_sample_weights", True), "data.use_sample_weights"),
    Needs("data.weights_normalize", "sample weights", _rows("use_sample_weights", True), "data.use_sample_weights"),
    Needs("data.on_conflict", "the balanced sampler", _rows("balance_sampler", True), "data.balance_sampler"),
    Needs("data.split", "rows to hold out (data.val_fraction or data.folds)", _holds_out, "data.val_fraction"),
    Needs("data.fold", "folds", _rows("folds", True), "data.folds"),
    Needs("data.val_fraction", "a run without folds", lambda c: not _rows("folds", False)(c), "data.folds"),
    Needs("data.num_workers", "data that is not resident on the device", _streams, _RESIDENT),
    Needs("data.pin_memory", "data that is not resident on the device", _streams, _RESIDENT),
    Needs("data.prefetch", "data that is not resident on the device", _streams, _RESIDENT),
    Needs("data.prefetch", "workers", lambda c: c.data.num_workers != 0, "data.num_workers"),
)


def value_of(config: Config, key: str) -> object:
    """The value of a dotted key."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def default_of(config: Config, key: str) -> object:
    """The schema's default of a dotted key."""
    section, _, name = key.partition(".")
    return type(getattr(config, section)).model_fields[name].get_default(call_default_factory=False)


def found(config: Config) -> list[Needs]:
    """The knobs that are set to something else than their default and have no effect."""
    return [
        need for need in NEEDS if not need.works(config) and value_of(config, need.key) != default_of(config, need.key)
    ]


def drop(config: Config, given: Mapping[str, Given], ranks: Mapping[str, int]) -> tuple[dict[str, Given], list[str]]:
    """Leave out what has no effect, unless the one who set it also set what makes it idle.

    Args:
        config: the configuration.
        given: who set what.
        ranks: for keys that a person set, the height of their layer; templates' keys are absent.

    Returns:
        The values that remain; notes on a person's value that a higher layer made idle.
    """
    dropped = {need.key: need for need in found(config) if ranks.get(need.key, -1) < ranks.get(need.because, 0)}
    notes = [
        f"{key} = {given[key].value} ({given[key].origin}) has no effect beside {need.because} = "
        f"{value_of(config, need.because)} and is left out"
        for key, need in dropped.items()
        if key in ranks
    ]
    return {key: entry for key, entry in given.items() if key not in dropped}, notes
