"""The random state that a step starts from, kept so that a step can be taken back; cheap enough for every step."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


class Draws:
    """The random state that a step starts from.

    Python's and NumPy's generators are looked at in the first step only: where it drew nothing from them they are not
    kept, for reading them takes longer than all else that the transaction does.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self._hosts: bool | None = None  # whether a step draws from Python's or NumPy's generator; None: not known yet

    def take(self) -> tuple[Any, ...]:
        """The state now."""
        cuda = torch.cuda.get_rng_state(self._device) if self._device is not None else None
        hosts = (random.getstate(), np.random.get_state()) if self._hosts is not False else None
        return torch.get_rng_state(), cuda, hosts

    @property
    def on_host(self) -> bool:
        """Whether a step is known to draw from Python's or NumPy's generator."""
        return bool(self._hosts)

    def settle(self, before: tuple[Any, ...]) -> None:
        """After a step that was made: learn whether it drew on the host."""
        if self._hosts is None:
            python, numpy = before[2]
            found = np.random.get_state()
            same = all(np.array_equal(one, other) for one, other in zip(numpy, found, strict=True))
            self._hosts = python != random.getstate() or not same

    def restore(self, before: tuple[Any, ...]) -> None:
        """Put every generator back where it was."""
        own, cuda, hosts = before
        torch.set_rng_state(own)
        if cuda is not None and self._device is not None:
            torch.cuda.set_rng_state(cuda, self._device)
        if hosts is not None:
            random.setstate(hosts[0])
            np.random.set_state(hosts[1])
