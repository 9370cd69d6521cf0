"""Learning-rate schedules: the factor of the base rate as a function of the optimizer step, worked out before the run.

The whole schedule is a table, one number a step, so that it can be shown, plotted and checked before anything trains,
and read on the device without asking the host. `plateau` alone reacts to a metric: the host scales the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hotloop.config.schema import OptimizationSection

OPEN_ENDED = 1 << 40
"""Number of steps that stands for a run which only its time limit ends."""


def warmup_steps(options: OptimizationSection, total_steps: int, steps_per_epoch: int) -> int:
    """Optimizer steps of warmup, however the user said it (steps, epochs, or a share of the run)."""
    if options.warmup_steps is not None:
        return options.warmup_steps
    if options.warmup_epochs is not None:
        return round(options.warmup_epochs * steps_per_epoch)
    return round((options.warmup_ratio or 0.0) * total_steps)


def factors(options: OptimizationSection, total_steps: int, steps_per_epoch: int) -> list[float]:
    """Factor of `learning_rate` at each optimizer step, 0-based.

    Warmup is linear from `warmup_start_factor` (1 / (warmup + 1) where not given, as in nanoGPT) and reaches 1.0 at the
    step after it; the decay starts there and ends at `decay_steps` (the whole run where not given) on `min_lr`.

    Args:
        options: the optimization section.
        total_steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps of one pass over the training part.

    Returns:
        One factor a step; shorter than `total_steps` where the rest stays at the last one (a run without a known end).
        Warmup and decay are taken as checked (`config.guards.schedule_problems`).
    """
    warmup = warmup_steps(options, total_steps, steps_per_epoch)
    decay_end = options.decay_steps or total_steps
    start = options.warmup_start_factor if options.warmup_start_factor is not None else 1.0 / (warmup + 1)
    floor = options.min_lr / options.learning_rate
    decay = _decay(options, warmup, decay_end, floor)

    def factor(step: int) -> float:
        if step < warmup:
            return start + (1.0 - start) * step / warmup
        return decay(step)

    length = total_steps if total_steps < OPEN_ENDED else max(warmup, options.decay_steps or 0) + 1
    return [factor(step) for step in range(length)]


def _decay(options: OptimizationSection, warmup: int, end: int, floor: float) -> Callable[[int], float]:
    """The factor after warmup; `progress` runs from 0 at the end of warmup to 1 at the end of the decay."""

    def progress(step: int, first: int = warmup) -> float:
        return min(1.0, max(0.0, (step - first) / max(1, end - first)))

    if options.lr_scheduler == "cosine":
        return lambda step: floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress(step)))
    if options.lr_scheduler == "linear":
        return lambda step: floor + (1.0 - floor) * (1.0 - progress(step))
    if options.lr_scheduler == "polynomial":
        return lambda step: floor + (1.0 - floor) * (1.0 - progress(step)) ** options.polynomial_power
    if options.lr_scheduler == "wsd":
        first = max(warmup, end - max(1, round(options.decay_ratio * end)))
        return lambda step: floor + (1.0 - floor) * (1.0 - progress(step, first))
    return lambda step: 1.0  # constant, and plateau until the host scales it


def remarks(options: OptimizationSection, total_steps: int, steps_per_epoch: int) -> list[str]:
    """What a person should know of the schedule before the run starts."""
    decays = options.lr_scheduler not in ("constant", "plateau")
    if decays and options.decay_steps and options.decay_steps > total_steps:
        last = factors(options, total_steps, steps_per_epoch)[-1] * options.learning_rate
        return [
            f"the decay is laid out for {options.decay_steps} steps and the run ends at {total_steps}: "
            f"the rate ends at {last:.3g}, not at min_lr {options.min_lr:.3g}"
        ]
    return []
