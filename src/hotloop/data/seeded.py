"""Code of a person's own that draws random numbers draws them from a key of ours, and disturbs no other draw."""

from __future__ import annotations

import random

import numpy as np
import torch


class seeded:
    """Python's, numpy's and torch's generators seeded inside, and as before outside."""

    def __init__(self, key: int) -> None:
        self._key = key

    def __enter__(self) -> None:
        self._before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(self._key)
        np.random.seed(self._key % (1 << 32))
        torch.default_generator.manual_seed(self._key % (1 << 63))

    def __exit__(self, *_: object) -> None:
        python, numpy, tensor = self._before
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(tensor)
