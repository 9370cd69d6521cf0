"""A running average of the weights, kept on the device beside them: what is evaluated, saved as best and used later.

After each update average += (1 - decay) (weights - average), with the decay growing from the start,
min(decay, (1 + t) / (10 + t)) after t updates, so that the first random weights are soon forgotten. A held update
moves nothing. Floating-point buffers (BatchNorm's statistics) are averaged alike.
Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """The average of a model's trained weights and buffers.

    Args:
        model: on its device; only read, except inside `swapped_in` and by `copy_into_model`.
        decay: share of the old average that an update keeps, 0 to 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._places: list[tuple[dict[str, Any], str]] = []  # where each tensor is: a buffer may be replaced by another
        self._names: dict[str, int] = {}  # every name of it, for shared weights have several -> its number
        numbers: dict[int, int] = {}
        for name, holder, key in _named(model):
            number = numbers.setdefault(id(holder[key]), len(self._places))
            self._names[name] = number
            if number == len(self._places):
                self._places.append((holder, key))
        self._tensors = [tensor.clone() for tensor in self._now()]

    def _now(self) -> list[Tensor]:
        """The model's own tensors as they are."""
        return [holder[key].detach() for holder, key in self._places]

    def update(self, applied: Tensor, free: Tensor) -> None:
        """Follow the weights after an update.

        Args:
            applied: updates made so far, integer tensor of one value.
            free: True where this update was made, 0-d.
        """
        count = applied.float().squeeze()
        share = (1.0 - ((1.0 + count) / (10.0 + count)).clamp(max=self._decay)) * free
        moves = torch._foreach_sub(self._now(), self._tensors)
        torch._foreach_mul_(moves, share)
        torch._foreach_add_(self._tensors, moves)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model with the averaged weights inside, and its own again outside, to the bit."""
        own = [tensor.clone() for tensor in self._now()]
        self.copy_into_model()
        try:
            yield
        finally:
            torch._foreach_copy_(self._now(), own)

    def copy_into_model(self) -> None:
        """Put the averaged weights in the place of the model's own, for good."""
        torch._foreach_copy_(self._now(), self._tensors)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages under every name that the model's own state has for them."""
        return {name: self._tensors[number] for name, number in self._names.items()}

    def load_state_dict(self, stored: dict[str, Tensor]) -> None:
        """Go back to where `state_dict` was taken."""
        for name, number in self._names.items():
            self._tensors[number].copy_(stored[name])


def _named(model: nn.Module) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Name, holder and key of what training may change: parameters that are not frozen, persistent float buffers."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        for key, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad:
                yield dot + key, module._parameters, key
        for key, buffer in module._buffers.items():
            kept = buffer is not None and key not in module._non_persistent_buffers_set
            if buffer is not None and kept and buffer.is_floating_point():
                yield dot + key, module._buffers, key
