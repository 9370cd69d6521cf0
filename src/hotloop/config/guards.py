"""Rules across knobs: pure functions from a configuration to faults, one function per rule.

Each fault names the knobs it rests on, the one to blame first. A rule that rests on a knob which is faulty by itself
says nothing, so that one mistake is one problem.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from hotloop.config import direction, idle
from hotloop.config.idle import value_of
from hotloop.config.layers import LENGTH, WARMUP, Given
from hotloop.config.schema import Config
from hotloop.errors import Problem

_DECAYING = ("cosine", "linear", "polynomial", "wsd")
_REPLAYING = ("reduce-overhead", "max-autotune")  # modes of torch.compile that capture graphs themselves


@dataclass(frozen=True)
class Fault:
    """What does not go together: the keys it rests on, why, and how to mend it."""

    keys: tuple[str, ...]
    why: str
    fix: str = ""


def check(
    config: Config, given: Mapping[str, Given], people: Collection[str] = (), faulty: Collection[str] = ()
) -> list[Problem]:
    """Apply every rule.

    Args:
        config: the configuration, with defaults in place of faulty values.
        given: who set what.
        people: keys that a person set, not a template.
        faulty: keys with a problem of their own.
    """
    faults: Iterable[Fault] = [fault for rule in RULES for fault in rule(config)]
    faults = [*faults, *(_idle(config, given, need) for need in idle.found(config) if need.key in people)]
    return [_problem(config, given, fault) for fault in faults if not set(fault.keys) & set(faulty)]


def schedule_problems(
    config: Config, origins: Mapping[str, str], *, total_steps: int, steps_per_epoch: float
) -> list[Problem]:
    """Check the schedule once the length of the run is known.

    Args:
        config: the configuration.
        origins: dotted key -> who set it.
        total_steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps of one pass over the data.
    """
    given = {key: Given(value_of(config, key), origin) for key, origin in origins.items() if origin != "default"}
    options = config.optimization
    warmup, key = _warmup(config, total_steps, steps_per_epoch)
    faults = list(_warmup_fits(key, warmup, total_steps))
    if options.decay_steps is not None and warmup < options.decay_steps < total_steps:
        faults.append(_ends_early(options.decay_steps, total_steps))
    if options.decay_steps is not None and options.decay_steps <= warmup:
        faults.append(_ends_in_warmup(options.decay_steps, warmup, key))
    return [_problem(config, given, fault) for fault in faults]


def validation_problems(config: Config, origins: Mapping[str, str]) -> list[Problem]:
    """What acts on validations where the data has turned out to have no validation part."""
    given = {key: Given(value_of(config, key), origin) for key, origin in origins.items() if origin != "default"}
    why = "acts on validations, and there is nothing to validate on"
    fix = "give validation data (val=... in hotloop.fit), or hold some out: data.val_fraction=0.1"
    return [_problem(config, given, Fault((key,), why, fix)) for key in _readers(config)]


def _problem(config: Config, given: Mapping[str, Given], fault: Fault) -> Problem:
    key = fault.keys[0]
    origin = given[key].origin if key in given else "default"
    others = [f"{other}: {given[other].origin}" for other in fault.keys[1:] if other in given]
    why = f"{fault.why} ({', '.join(others)})" if others else fault.why
    return Problem(key, value_of(config, key), origin, why, fault.fix)


def _idle(config: Config, given: Mapping[str, Given], need: idle.Needs) -> Fault:
    why = f"has no effect: it needs {need.condition}, and {need.because} is {value_of(config, need.because)!r}"
    return Fault((need.key, need.because), why, f"leave it out, or change {need.because}")


def run_has_a_length(config: Config) -> Iterator[Fault]:
    """Something must end the run."""
    if all(value_of(config, key) is None for key in (*LENGTH, "training.max_time")):
        fix = "set one of training.num_epochs, training.max_steps, training.max_time"
        yield Fault((*LENGTH, "training.max_time"), "nothing says how long to train", fix)


def decay_has_an_end(config: Config) -> Iterator[Fault]:
    """A decay over a run whose steps are not known beforehand has no end."""
    training, options = config.training, config.optimization
    open_ended = training.max_time is not None and training.num_epochs is None and training.max_steps is None
    if open_ended and options.lr_scheduler in _DECAYING and options.decay_steps is None:
        why = f"{options.lr_scheduler} needs to know at which step it ends, and only training.max_time limits the run"
        fix = "also set training.max_steps or training.num_epochs (whichever ends first), or lr_scheduler=constant"
        yield Fault(("training.max_time", "optimization.lr_scheduler"), why, fix)
    elif open_ended and options.warmup_ratio:
        why = "a share of a run whose number of steps is not known"
        yield Fault(("optimization.warmup_ratio", "training.max_time"), why, "use optimization.warmup_steps")


def _warmup(config: Config, total_steps: int, steps_per_epoch: float) -> tuple[int, str]:
    options = config.optimization
    if options.warmup_steps is not None:
        return options.warmup_steps, WARMUP[1]
    if options.warmup_epochs is not None:
        return round(options.warmup_epochs * steps_per_epoch), WARMUP[2]
    return round((options.warmup_ratio or 0.0) * total_steps), WARMUP[0]


def _warmup_fits(key: str, warmup: int, total_steps: int) -> Iterator[Fault]:
    if warmup and warmup >= total_steps:
        why = f"warmup takes {warmup} steps and the run has {total_steps}: the rate never reaches its peak"
        yield Fault((key, "training.max_steps"), why, f"warm up for fewer than {total_steps} steps, or train longer")


def warmup_is_shorter_than_the_run(config: Config) -> Iterator[Fault]:
    """The peak of the rate must be reached."""
    training, options = config.training, config.optimization
    if training.max_steps is not None and options.warmup_steps:
        yield from _warmup_fits(WARMUP[1], options.warmup_steps, training.max_steps)
    if options.warmup_epochs and training.num_epochs is not None and options.warmup_epochs >= training.num_epochs:
        why = f"warmup takes {options.warmup_epochs:g} epochs of {training.num_epochs}: the rate never reaches its peak"
        yield Fault((WARMUP[2], "training.num_epochs"), why, "warm up for less, or train longer")


def _ends_in_warmup(end: int, warmup: int, key: str) -> Fault:
    why = f"the decay ends at step {end}, and the warmup only at step {warmup}"
    return Fault(("optimization.decay_steps", key), why, "leave decay_steps out: the decay then takes the whole run")


def _ends_early(end: int, total_steps: int) -> Fault:
    why = f"the decay ends at step {end} of {total_steps}: the rest of the run would stay at min_lr"
    fix = f"leave decay_steps out, or end the run there (training.max_steps={end})"
    return Fault(("optimization.decay_steps", "training.max_steps"), why, fix)


def decay_fits_the_run(config: Config) -> Iterator[Fault]:
    """A decay ends after the warmup and not before the run."""
    training, options = config.training, config.optimization
    if options.decay_steps is None or options.lr_scheduler not in _DECAYING:
        return
    if options.warmup_steps and options.decay_steps <= options.warmup_steps:
        yield _ends_in_warmup(options.decay_steps, options.warmup_steps, WARMUP[1])
    elif training.max_steps is not None and training.num_epochs is None and options.decay_steps < training.max_steps:
        yield _ends_early(options.decay_steps, training.max_steps)


def floor_is_below_the_peak(config: Config) -> Iterator[Fault]:
    """The rate at the end cannot be above the peak."""
    options = config.optimization
    if options.min_lr > options.learning_rate:
        why = f"is above the peak, optimization.learning_rate={options.learning_rate:g}"
        yield Fault(("optimization.min_lr", "optimization.learning_rate"), why, "a tenth of the peak is usual")


def best_has_a_direction(config: Config) -> Iterator[Fault]:
    """What is best must be known, and not against what the metric's name says."""
    options = config.callbacks
    metric, stated = options.early_stopping_metric, options.early_stopping_mode
    known = direction.mode_of(metric)
    keys = ("callbacks.early_stopping_mode", "callbacks.early_stopping_metric")
    if not metric.startswith("eval_"):
        why = "is no metric of validation; their names begin with eval_"
        yield Fault((keys[1],), why, "use eval_loss, or a metric that the task reports in validation")
    elif stated == "auto" and known is None:
        why = f"the name {metric} does not tell whether more or less is better"
        yield Fault((keys[1], keys[0]), why, "set callbacks.early_stopping_mode to min or max")
    elif stated != "auto" and known is not None and stated != known:
        why = f"{metric} is better when {'lower' if known == 'min' else 'higher'}; {stated} would keep the worst"
        yield Fault(keys, why, f"use {known}, or leave it out")


def goal_has_a_direction(config: Config) -> Iterator[Fault]:
    """The metrics of stop_at are validation metrics with a known direction."""
    callbacks = config.callbacks
    for metric in config.experiment.stop_at:
        stated = callbacks.early_stopping_mode if metric == callbacks.early_stopping_metric else "auto"
        if not metric.startswith("eval_"):
            yield Fault(("experiment.stop_at",), f"{metric} is no metric of validation", "their names begin with eval_")
        elif direction.resolve(metric, stated) is None:
            why = f"the name {metric} does not tell whether more or less is better"
            fix = f"set callbacks.early_stopping_metric={metric} and callbacks.early_stopping_mode"
            yield Fault(("experiment.stop_at",), why, fix)


def _readers(config: Config) -> list[str]:
    """The knobs in use that act on validations."""
    readers = {
        "callbacks.early_stopping_patience": config.callbacks.early_stopping_patience is not None,
        "experiment.stop_at": bool(config.experiment.stop_at),
        "optimization.lr_scheduler": config.optimization.lr_scheduler == "plateau",
    }
    return [key for key, reads in readers.items() if reads]


def validation_feeds_its_readers(config: Config) -> Iterator[Fault]:
    """Early stopping, stop_at and plateau act on validations, so there must be some during the run."""
    for key in _readers(config) if config.training.eval_every == "off" else ():
        why = "acts on validations, and training.eval_every is off"
        yield Fault((key, "training.eval_every"), why, "set training.eval_every to a number of steps or to epoch")


def deterministic_means_fixed_kernels(config: Config) -> Iterator[Fault]:
    """Autotuning picks kernels by time, so two runs may pick differently."""
    if config.training.deterministic and config.training.compile == "max-autotune":
        why = "contradicts training.compile=max-autotune, which picks kernels by time"
        fix = "use training.compile=default, or leave deterministic out"
        yield Fault(("training.deterministic", "training.compile"), why, fix)


def blocks_are_compiled_without_graphs(config: Config) -> Iterator[Fault]:
    """Modes that replay captured graphs let one block overwrite what the next one's backward pass still needs."""
    training = config.training
    if training.compile_region == "blocks" and training.compile in _REPLAYING:
        why = f"does not go with training.compile={training.compile}, whose graphs hand on memory from block to block"
        fix = "use training.compile=default, or leave compile_region out"
        yield Fault(("training.compile_region", "training.compile"), why, fix)


def capture_takes_the_whole_step(config: Config) -> Iterator[Fault]:
    """What cannot be part of a recorded step."""
    training, key = config.training, "training.capture"
    if training.capture != "on":
        return
    if training.compile in _REPLAYING:
        why = f"does not go with training.compile={training.compile}, which captures parts of the step itself"
        yield Fault((key, "training.compile"), why, "use training.compile=default or off, or leave capture out")
    if config.memory.offload == "on":
        why = "does not go with memory.offload=on: an update on the host cannot be recorded on the GPU"
        yield Fault((key, "memory.offload"), why, "leave one of the two out")
    if config.optimization.gradient_checkpointing is not False and training.compile == "off":
        why = "does not go with activations recomputed without the compiler: random state is put back from the host"
        fix = "use training.compile=default, or leave one of the two out"
        yield Fault((key, "optimization.gradient_checkpointing"), why, fix)


def fold_is_one_of_the_folds(config: Config) -> Iterator[Fault]:
    """Folds are numbered from 1 to their number."""
    folds, fold = getattr(config.data, "folds", None), getattr(config.data, "fold", None)
    if folds is not None and fold is not None and fold > folds:
        yield Fault(("data.fold", "data.folds"), f"there are {folds} folds, numbered from 1", f"use 1 to {folds}")


RULES: tuple[Callable[[Config], Iterator[Fault]], ...] = (
    run_has_a_length,
    decay_has_an_end,
    warmup_is_shorter_than_the_run,
    decay_fits_the_run,
    floor_is_below_the_peak,
    best_has_a_direction,
    goal_has_a_direction,
    validation_feeds_its_readers,
    deterministic_means_fixed_kernels,
    blocks_are_compiled_without_graphs,
    capture_takes_the_whole_step,
    fold_is_one_of_the_folds,
)
