"""Layers of values and who wins: schema default < templates < file < command line or call.

A layer holds what one source set, each key at most once, with its origin. Some knobs are rivals, several ways to say
one thing: a higher layer that sets one removes its rivals from the layers below, so that a default never beats what a
person wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hotloop.config.schema import TrainingSection
from hotloop.errors import Problem

LENGTH = ("training.num_epochs", "training.max_steps")
WARMUP = ("optimization.warmup_ratio", "optimization.warmup_steps", "optimization.warmup_epochs")
RIVALS = (LENGTH, WARMUP)
BATCH = ("training.batch_size", "training.gradient_accumulation_steps")
_DEFAULT = {key: TrainingSection.model_fields[key.partition(".")[2]].default for key in BATCH}


@dataclass(frozen=True)
class Given:
    """A value that somebody set, and where."""

    value: Any
    origin: str


@dataclass
class Layer:
    """What one source set.

    Args:
        template: tells a recipe's values from a person's.
        values: by dotted key.
        micro_batch: a template's limit on batch_size; what lies below is split to it, its effective batch kept.
    """

    template: bool
    values: dict[str, Given] = field(default_factory=dict)
    micro_batch: Given | None = None

    def put(self, key: str, value: Any, origin: str) -> Problem | None:
        """Set a key; setting it twice to different values is a problem."""
        before = self.values.get(key)
        both = isinstance(value, dict) and before is not None and isinstance(before.value, dict)
        if both and before is not None and before.value.keys().isdisjoint(value):
            self.values[key] = Given({**before.value, **value}, before.origin)  # name by name: tasks.a=2 tasks.b=3
            return None
        if before is not None and (before.value != value or type(before.value) is not type(value)):
            why = f"is set twice, to {before.value!r} ({before.origin}) and to {value!r} ({origin})"
            return Problem(key, value, origin, why, "keep one of them")
        if before is None:
            self.values[key] = Given(value, origin)
        return None


def merge(layers: Sequence[Layer]) -> tuple[dict[str, Given], list[str], list[Problem]]:
    """Lay the layers over each other, lowest first.

    Returns:
        The value of every key that somebody set; notes on rivals that were removed; problems.
    """
    merged: dict[str, Given] = {}
    notes: list[str] = []
    problems: list[Problem] = []
    for layer in layers:
        problems += _double_warmup(layer)
        for rivals in RIVALS:
            chosen = [key for key in rivals if _set(layer.values, key)]
            for key in rivals if chosen else ():
                loser = merged.pop(key, None)
                if loser is not None and loser.value is not None and key not in chosen and not layer.template:
                    winner = layer.values[chosen[0]]
                    new, old = f"{chosen[0]} = {winner.value}", f"{key} = {loser.value}"
                    notes.append(f"{new} ({winner.origin}) replaces {old} ({loser.origin})")
        merged.update(layer.values)
        if layer.micro_batch is not None:
            notes += _split_batch(merged, layer.micro_batch)
    return merged, notes, problems


def _split_batch(merged: dict[str, Given], limit: Given) -> list[str]:
    """Make batch_size fit the limit and raise the accumulation, so that the optimizer sees the same batch."""
    sizes = [merged[key].value if key in merged else _DEFAULT[key] for key in BATCH]
    if not all(type(size) is int and size > 0 for size in sizes) or sizes[0] <= limit.value:
        return []  # a faulty size is reported as such
    effective = sizes[0] * sizes[1]
    micro = next(size for size in range(limit.value, 0, -1) if effective % size == 0)
    for key, size in zip(BATCH, (micro, effective // micro), strict=True):
        merged[key] = Given(size, limit.origin)
    return [
        f"{limit.origin}: micro-batch {sizes[0]} -> {micro}, accumulation {sizes[1]} -> {effective // micro}, "
        f"effective batch unchanged ({effective})"
    ]


def _set(values: dict[str, Given], key: str) -> bool:
    return key in values and values[key].value is not None


def _double_warmup(layer: Layer) -> list[Problem]:
    chosen = [key for key in WARMUP if _set(layer.values, key)]
    if len(chosen) < 2:
        return []
    first, *others = (f"{key} = {layer.values[key].value} ({layer.values[key].origin})" for key in chosen)
    given = layer.values[chosen[-1]]
    why = f"the warmup is stated in more than one way: {first} and {' and '.join(others)}"
    return [Problem(chosen[-1], given.value, given.origin, why, "keep one of them")]
