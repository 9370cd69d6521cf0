"""`ladder` and `tune`: what they climb from, what they try, and what comes of it as data.

Both climb from the plain way to train (float32, eager, batches from the host) on this model, data and machine. The
ladder adds one thing after another and counts speed alone; tuning begins with what hotloop would do by itself, and
what takes time before the first step must pay for itself within the run that is meant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from hotloop import device as machine
from hotloop.config.load import Loaded
from hotloop.errors import HotloopError
from hotloop.runs.reporter import Reporter
from hotloop.tune.choose import choose
from hotloop.tune.knobs import Rung, rungs
from hotloop.tune.ladder import Ladder
from hotloop.tune.lane import LaneFacts
from hotloop.tune.lanes import FreshTrack, Track
from hotloop.tune.low import is_open
from hotloop.tune.row import Row
from hotloop.tune.settings import PLAIN, resolved, value_of, with_knobs, without_idle

OWN = "hotloop's own choice"


@dataclass(frozen=True)
class Climbed:
    """What a climb came to.

    Args:
        baseline, rows: of the ladder.
        best: the configuration that holds, with every measured knob stated.
        knobs: these knobs.
        factor: samples per second over the baseline's.
        facts: of the baseline.
        untried: how many candidates were left when the time was over.
        broken: why the climb could not go on, empty where it could.
    """

    baseline: Row
    rows: tuple[Row, ...]
    best: Loaded
    knobs: dict[str, Any]
    factor: float
    facts: LaneFacts
    untried: int = 0
    broken: str = ""

    def to_json(self) -> dict[str, Any]:
        """For ladder.json."""
        return {
            "task": self.best.config.task,
            "baseline": self.baseline.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "best": {"knobs": self.knobs, "factor": round(self.factor, 4)},
            "environment": {**machine.describe(), "hotloop": version("hotloop")},
        }


def ladder(
    loaded: Loaded, reporter: Reporter, minutes: float, *, batch_change: bool = False, track: Track | None = None
) -> Climbed:
    """One thing after another on top of the plain way to train.

    Args:
        loaded: the run's configuration; what it states by hand holds in every row.
        reporter: told as it goes on.
        minutes: after which no new candidate is begun.
        batch_change: other effective batches may be tried.
        track: where lanes are opened; processes of their own by default.

    Raises:
        HotloopError: the run cannot be put together, or something else searches for its micro-batch.
    """
    return _climbed(loaded, reporter, minutes, batch_change, track, own=False)


def tune(
    loaded: Loaded, reporter: Reporter, minutes: float, *, batch_change: bool = False, track: Track | None = None
) -> Climbed:
    """The fastest settings that compute the same, for the run that `loaded` describes; arguments as in `ladder`."""
    return _climbed(loaded, reporter, minutes, batch_change, track, own=True)


def _climbed(
    loaded: Loaded, reporter: Reporter, minutes: float, batch_change: bool, track: Track | None, own: bool
) -> Climbed:
    loaded = _for_this_card(loaded)
    if loaded.config.training.auto_batch_size or loaded.config.memory.budget is not None:
        raise HotloopError(
            "the micro-batch is searched for already (training.auto_batch_size or memory.budget)",
            fix="leave that out: tuning tries micro-batches too; or train without tuning",
        )
    plain = {key: value for key, value in PLAIN.items() if is_open(loaded.origins, key)}
    climb = Ladder(track or FreshTrack(), with_knobs(loaded, plain), reporter, minutes)
    try:
        if own:
            limit = loaded.config.training.max_time or math.inf
            climb.steps = min(climb.facts.plan["total_steps"], 1e3 * limit / climb.first.ms_per_step)
            climb.begin_with(Rung(OWN, _own(loaded, plain)))
        climb.climb(rungs(climb.baseline, climb.facts, batch_change))
        return _result(climb)
    finally:
        climb.close()


def _own(loaded: Loaded, plain: dict[str, Any]) -> dict[str, Any]:
    """The values that hotloop itself would begin with."""
    found = {key: value_of(loaded.config, key) for key in plain if key != "training.tune"}
    return {key: value for key, value in found.items() if value is not None}


def _for_this_card(loaded: Loaded) -> Loaded:
    """With the measures that a small card gets anyway, as if they were stated."""
    rows = loaded.config.training.batch_size * loaded.config.training.gradient_accumulation_steps
    if loaded.config.training.auto_batch_size or loaded.config.memory.budget is not None:
        return loaded
    choice = choose(loaded)
    knobs: dict[str, Any] = {}
    if choice.micro_batch is not None and rows % choice.micro_batch == 0:
        knobs["training.batch_size"] = choice.micro_batch
        knobs["training.gradient_accumulation_steps"] = rows // choice.micro_batch
    knobs |= {"optimization.gradient_checkpointing": True} if choice.recompute else {}
    knobs |= {"data.pin_memory": "off"} if choice.pin_memory is False else {}
    return with_knobs(loaded, knobs, "low-memory measures") if knobs else loaded


def _result(climb: Ladder) -> Climbed:
    """The best that holds, with every knob of speed stated; without a kept row that is the baseline."""
    best = climb.best
    knobs = {**best.row.knobs, **resolved(climb.facts_of_best.plan, best.loaded), "training.tune": "off"}
    loaded = without_idle(with_knobs(best.loaded, knobs))
    knobs = {key: value for key, value in knobs.items() if loaded.origins.get(key) != "default"}
    rows = tuple(climb.rows)
    return Climbed(climb.first, rows, loaded, knobs, best.row.factor, climb.facts, climb.untried, climb.broken)
