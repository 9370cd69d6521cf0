"""Other spellings of a knob that are read, each with one line that says so.

An alias never competes with its canonical key: both in one layer with different values are a problem.
"""

from __future__ import annotations

from typing import Any

from hotloop.config.layers import Given, Layer
from hotloop.errors import Problem

ALIASES = {
    "data.batch_size": "training.batch_size",
    "data.gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "training.learning_rate": "optimization.learning_rate",
    "training.lr_scheduler": "optimization.lr_scheduler",
    "training.warmup_ratio": "optimization.warmup_ratio",
    "model.gradient_checkpointing": "optimization.gradient_checkpointing",
    "model.dropout_rate": "model.dropout",
    "optimization.eta_min": "optimization.min_lr",
    "optimization.grad_clip": "optimization.max_grad_norm",
    "optimization.lr_decay_iters": "optimization.decay_steps",
}
PRECISION = "training.precision"
# A switch that says "mixed precision", and what it makes of training.precision.
SWITCHES = {"training.fp16": "fp16", "training.bf16": "bf16", "training.amp": "auto"}
ALWAYS = {
    "optimization.memory_efficient_attention": "memory-efficient (scaled-dot-product) attention is always used",
}


def is_alias(key: str) -> bool:
    """Whether `key` is another spelling of a knob."""
    return key in ALIASES or key in SWITCHES or key in ALWAYS


def apply(layer: Layer, found: dict[str, Given]) -> tuple[list[str], list[Problem]]:
    """Move aliases into their canonical keys.

    Args:
        layer: holds the canonical keys of the same source; is added to.
        found: the aliases of that source.

    Returns:
        One note for each alias, and problems.
    """
    notes: list[str] = []
    problems: list[Problem] = []
    for key, given in found.items():
        if key in ALWAYS:
            notes.append(f"{key} ({given.origin}): {ALWAYS[key]}")
            problems += _not_a_switch(key, given.value, given.origin)
        elif key in ALIASES:
            notes.append(f"{key} ({given.origin}) is read as {ALIASES[key]}")
            problems += _moved(layer, key, given)
    switches = {key: given for key, given in found.items() if key in SWITCHES}
    if switches:
        more_notes, more_problems = _precision(layer, switches)
        return notes + more_notes, problems + more_problems
    return notes, problems


def _moved(layer: Layer, alias: str, given: Given) -> list[Problem]:
    canonical = layer.values.get(ALIASES[alias])
    if canonical is not None and canonical.value != given.value:
        why = f"means {ALIASES[alias]}, which is set to {canonical.value!r} ({canonical.origin})"
        return [Problem(alias, given.value, given.origin, why, f"keep {ALIASES[alias]} only")]
    problem = layer.put(ALIASES[alias], given.value, given.origin)
    return [problem] if problem else []


def _not_a_switch(key: str, value: Any, origin: str) -> list[Problem]:
    if isinstance(value, bool):
        return []
    return [Problem(key, value, origin, "must be true or false")]


def _precision(layer: Layer, switches: dict[str, Given]) -> tuple[list[str], list[Problem]]:
    problems = [fault for key, given in switches.items() for fault in _not_a_switch(key, given.value, given.origin)]
    if problems:
        return [], problems
    wanted = {key: SWITCHES[key] for key, given in switches.items() if given.value}
    specific = sorted({precision for precision in wanted.values() if precision != "auto"})
    first = next(iter(wanted or switches))
    given = switches[first]
    if len(specific) > 1:
        origins = ", ".join(f"{key} ({switches[key].origin})" for key in wanted)
        why = f"two precisions are asked for: {origins}"
        return [], [Problem(first, given.value, given.origin, why, "keep one, or set training.precision")]
    meant = specific[0] if specific else "auto" if wanted else "fp32"
    stated = layer.values.get(PRECISION)
    if stated is None:
        layer.put(PRECISION, meant, given.origin)
        return [
            f"{key} = {str(switches[key].value).lower()} ({switches[key].origin}) is read as {PRECISION} = {meant}"
            for key in switches
        ], []
    if _agree(stated.value, switches):
        return [f"{key} ({switches[key].origin}) adds nothing to {PRECISION} = {stated.value}" for key in switches], []
    why = f"says {meant}, but {PRECISION} is {stated.value!r} ({stated.origin})"
    return [], [Problem(first, given.value, given.origin, why, f"keep {PRECISION} only")]


def _agree(stated: Any, switches: dict[str, Given]) -> bool:
    """Whether every switch, on or off, fits a precision that is stated beside it."""
    fits = {"fp16": ("fp16",), "bf16": ("bf16",), "auto": ("auto", "fp16", "bf16")}
    return all((stated in fits[SWITCHES[key]]) == given.value for key, given in switches.items())
