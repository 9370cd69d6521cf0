"""Runs with a planted fault, and lanes whose clock is made up: what a ladder must see through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hotloop
from hotloop import assemble
from hotloop.assemble import Session
from hotloop.config.load import Loaded, load
from hotloop.task import options_of
from hotloop.tune.lane import Burst, Lane, LaneFacts
from hotloop.tune.lanes import Runner
from hotloop.tune.proof import Gradients
from hotloop.tune.settings import PLAIN, with_knobs

Plant = Callable[[Session], None]
MICRO, PIECES = 8, 4


class Blobs(hotloop.Task):
    """Four classes of points, a small network with dropout."""

    def sources(self) -> hotloop.Splits:
        random = torch.Generator().manual_seed(self.seed)
        x = torch.randn(512, 12, generator=random)
        y = (x @ torch.randn(12, 4, generator=random)).argmax(1)
        return hotloop.Splits({"x": x, "y": y})

    def model(self) -> nn.Module:
        first = [nn.Linear(12, 32), nn.GELU(), nn.Dropout(0.1)]
        return nn.Sequential(*first, nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 4))

    def loss(self, model: nn.Module, batch: dict[str, Tensor], training: bool) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def loaded(seed: int) -> Loaded:
    """A run of 200 steps in four micro-batches, in the plain way."""
    keys = {
        "batch_size": MICRO,
        "gradient_accumulation_steps": PIECES,
        "max_steps": 200,
        "learning_rate": 3e-3,
        "max_grad_norm": 0.5,
        "eval_every": "off",
        "threads": 1,
        "device": "cpu",
        "seed": seed,
    }
    return with_knobs(load(options_of(Blobs, "Blobs"), overrides=keys), PLAIN)


def wrong_scale(session: Session) -> None:
    """Each micro-batch counts as if it were the whole batch."""
    state, honest = session.state, session.state.micro_loss
    state.micro_loss = lambda micro, totals: honest(micro, totals) * PIECES


def dropped_samples(session: Session) -> None:
    """The last rows of every batch are left out."""
    honest = session.feed

    def feed(*given: Any) -> Iterator[dict[str, Tensor]]:
        for batch in honest(*given):
            yield {name: value[: -MICRO // 2] for name, value in batch.items()}

    session.feed = feed  # type: ignore[method-assign]


def frozen_layer(session: Session) -> None:
    """The first layer gets no gradient."""
    first = next(session.state.model.parameters())
    first.register_hook(torch.zeros_like)


def half_sums(session: Session) -> None:
    """Gradients of the micro-batches are added in float16."""

    def rounded(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.copy_(parameter.grad.half())

    for parameter in session.state.parameters:
        parameter.register_post_accumulate_grad_hook(rounded)


def skipped_clip(session: Session) -> None:
    """Whatever the clip is set to, nothing is clipped."""
    kind = type(session.state)
    never = property(lambda state: None, lambda state, value: None)
    session.state.__dict__.pop("max_grad_norm")
    session.state.__class__ = type("NeverClips", (kind,), {"max_grad_norm": never})


def nothing(session: Session) -> None:
    """An honest candidate."""


PLANTS: dict[str, Plant] = {
    "a wrong accumulation scale": wrong_scale,
    "dropped samples": dropped_samples,
    "a frozen layer": frozen_layer,
    "float16 sums": half_sums,
    "a skipped clip": skipped_clip,
}


class Timed:
    """A lane in this process that computes in earnest and takes the time that `seconds` makes up."""

    def __init__(self, lane: Lane, seconds: Callable[[], float]) -> None:
        self._lane, self._seconds = lane, seconds
        self.facts: LaneFacts = lane.facts()
        self.alive = True

    def warm(self) -> float:
        return 0.0

    def run(self, seconds: float) -> Burst:
        return Burst(1, self._seconds(), MICRO * PIECES)

    def peak(self) -> int:
        return self._lane.peak()

    def gradients(self, precision: str | None = None) -> Gradients:
        return self._lane.gradients(precision)

    def losses(self, seeds: list[int], steps: int) -> list[float]:
        return self._lane.losses(seeds, steps)

    def allow(self, seconds: float) -> None:
        pass

    def stay(self) -> None:
        """It stays anyway."""

    def close(self) -> None:
        """Nothing to end."""


@dataclass
class PlantedTrack:
    """Opens an honest baseline first, then candidates with the fault.

    Args:
        plant: the fault.
        random: of the noise.
        factor: how much faster the candidates claim to be.
        noise: of a step's time, as the standard deviation of its logarithm.
    """

    plant: Plant
    random: np.random.Generator
    factor: float = 2.0
    noise: float = 0.02
    opened: int = 0
    lanes: list[Lane] = field(default_factory=list)

    def open(self, loaded: Loaded, seconds: float = 0.0) -> Runner:
        """A lane of this configuration."""
        first, self.opened = self.opened == 0, self.opened + 1

        def build(config: Loaded) -> Session:
            task = Blobs(config.config.model, config.config.data, seed=config.config.experiment.seed)
            session = assemble.build(config, task)
            if not first:
                self.plant(session)
            return session

        pace = 0.01 if first else 0.01 / self.factor
        return Timed(Lane(loaded, build), lambda: pace * float(np.exp(self.noise * self.random.standard_normal())))
