"""What must hold before the first step, once data and plan are known, and what a person should know of them."""

from __future__ import annotations

from torch import nn

from hotloop.config import guards
from hotloop.config.load import Loaded
from hotloop.config.schema import Config
from hotloop.data.sampler import Sampler
from hotloop.engine import schedule
from hotloop.engine.plan import Plan
from hotloop.engine.probe import coupled_in_pieces
from hotloop.engine.resolve import total_steps
from hotloop.errors import ConfigError, HotloopError
from hotloop.task import Splits


def require_no_reader(loaded: Loaded) -> None:
    """Without a validation part nothing may wait for a validation."""
    problems = guards.validation_problems(loaded.config, loaded.origins)
    if problems:
        raise ConfigError(problems)


def remarks_on(config: Config, plan: Plan, sampler: Sampler, model: nn.Module) -> list[str]:
    """What a person should know of the schedule and of the batches."""
    lines = schedule.remarks(config.optimization, plan.total_steps, plan.steps_per_epoch)
    if config.training.max_time is not None and plan.total_steps < schedule.OPEN_ENDED:
        lines.append(f"ends after {plan.total_steps:,} steps or {config.training.max_time:g} s, whichever comes first")
    lines += coupled_in_pieces(plan, model)
    rows, wanted = len(sampler.indices(0, 0)), sampler.batch_size
    if rows >= wanted:
        return lines
    return [*lines, f"an effective batch of {wanted:,} is more than the data holds: each step sees all {rows:,} rows"]


def require_metrics(config: Config, splits: Splits, found: set[str]) -> None:
    """What decides over the best weights and the end of the run must be among what evaluation gives."""
    names = sorted(
        {f"eval_{name}" for name in found} | {f"eval_{metric}_{name}" for name in splits.extra for metric in found}
    )
    wanted = [("callbacks.early_stopping_metric", config.callbacks.early_stopping_metric)]
    wanted += [("experiment.stop_at", metric) for metric in config.experiment.stop_at]
    for key, metric in wanted:
        if metric not in names:
            raise HotloopError(
                f"there is no metric '{metric}'; evaluation gives {', '.join(names)}",
                where=key,
                fix=f"choose one of {', '.join(names)}",
            )


def check_schedule(loaded: Loaded, steps_per_epoch: int) -> None:
    """What only the length of the run shows of a schedule.

    Raises:
        ConfigError: warmup longer than the run, a peak that is never reached, and the like.
    """
    steps = total_steps(loaded.config.training, steps_per_epoch)
    problems = guards.schedule_problems(
        loaded.config, loaded.origins, total_steps=steps, steps_per_epoch=steps_per_epoch
    )
    if problems:
        raise ConfigError(problems)
