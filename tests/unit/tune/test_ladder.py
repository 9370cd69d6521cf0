"""The climb itself, with lanes that are arithmetic: what is kept, charged and given up, and what if lanes die."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from hotloop.config.load import Loaded
from hotloop.errors import HotloopError
from hotloop.runs.reporter import Silent
from hotloop.tune.knobs import Rung, rungs
from hotloop.tune.ladder import Ladder
from hotloop.tune.lane import Burst, LaneFacts
from hotloop.tune.lanes import TimeOver
from hotloop.tune.proof import LOSS, NORM, Gradients
from hotloop.tune.race import race
from hotloop.tune.search import tune
from hotloop.tune.settings import value_of, with_knobs

from .planted import loaded

Law = Callable[[Loaded], dict[str, Any]]


@dataclass
class Made:
    """A lane by a law: seconds a step, seconds of its first step, and what it dies of."""

    config: Loaded
    law: dict[str, Any]
    alive: bool = True
    calls: int = 0

    @property
    def facts(self) -> LaneFacts:
        training = self.config.config.training
        plan = {
            "device": "cpu",
            "precision": training.precision,
            "compile": training.compile,
            "threads": 1,
            "resident": self.config.config.data.resident == "on",
            "num_workers": 0,
            "keep_freed": False,
            "fast_dropout": False,
            "total_steps": 200,
            "effective_batch": training.batch_size * training.gradient_accumulation_steps,
            "cut": [training.batch_size, training.channels_last],
        }
        return LaneFacts(plan, 10, True, False, False, False, False, self.law.get("shapes", 1), 1, {})

    def warm(self) -> float:
        return float(self.law.get("compile", 0.0))

    def run(self, seconds: float) -> Burst:
        self.calls += 1
        if self.calls > self.law.get("dies_after", 10**6):
            self.alive = False
            raise HotloopError("the system ended the process (out of memory)")
        rows = self.facts.plan["effective_batch"]
        return Burst(1, float(self.law["seconds"]) * (1 + 0.001 * (self.calls % 3)), rows)

    def peak(self) -> int:
        return 1

    def gradients(self, precision: str | None = None) -> Gradients:
        one = {"w": torch.ones(3), NORM: torch.tensor(1.0), LOSS: torch.tensor(1.0)}
        return [dict(one) for _ in range(4)]

    def losses(self, seeds: list[int], steps: int) -> list[float]:
        return [1.0 + 0.1 * seed for seed in seeds]

    def allow(self, seconds: float) -> None:
        pass

    def stay(self) -> None:
        """It stays."""

    def close(self) -> None:
        self.alive = False


@dataclass
class Arithmetic:
    """A track whose lanes follow a law."""

    law: Law
    lanes: list[Made] = field(default_factory=list)

    def open(self, config: Loaded, seconds: float = 0.0) -> Made:
        law = self.law(config)
        if "refused" in law:
            raise HotloopError(law["refused"])
        self.lanes.append(Made(config, law))
        return self.lanes[-1]


def _climb(law: Law, *groups: list[Rung], steps: float | None = None) -> tuple[Ladder, Arithmetic]:
    track = Arithmetic(law)
    ladder = Ladder(track, loaded(1), Silent(), minutes=5, steps=steps)
    ladder.climb(groups)
    return ladder, track


LAST = Rung("+ channels_last", {"training.channels_last": "on"})
COMPILE = Rung("+ compile", {"training.compile": "default"})


def _is(config: Loaded, key: str) -> Any:
    return value_of(config.config, key)


def test_compilation_is_charged_once_and_not_to_what_comes_after_it() -> None:
    def law(config: Loaded) -> dict[str, Any]:
        compiled, last = _is(config, "training.compile") == "default", _is(config, "training.channels_last") == "on"
        seconds = 0.1 / (1 + compiled) / (1 + last)
        return {"seconds": seconds, "compile": 9.0 * compiled}

    ladder, _ = _climb(law, [COMPILE], [LAST], steps=200)
    assert [row.kept for row in ladder.rows] == [True, True]  # 9 s for 0.05 s a step, then nothing more for 0.025 s
    ladder, _ = _climb(law, [COMPILE], steps=150)
    assert not ladder.rows[0].kept and "compiling takes 9 s more, and 150 steps save 8 s" in ladder.rows[0].reason


def test_each_shape_of_a_batch_costs_a_compilation() -> None:
    def law(config: Loaded) -> dict[str, Any]:
        compiled = _is(config, "training.compile") == "default"
        return {"seconds": 0.1 / (1 + compiled), "compile": 3.0 * compiled, "shapes": 4}

    ladder, _ = _climb(law, [COMPILE], steps=200)
    assert not ladder.rows[0].kept and "compiling takes 12 s" in ladder.rows[0].reason


def test_a_larger_batch_is_charged_by_rows_and_keeps_the_cut_it_was_written_for() -> None:
    def law(config: Loaded) -> dict[str, Any]:
        rows = _is(config, "training.batch_size") * _is(config, "training.gradient_accumulation_steps")
        return {"seconds": 0.05 + 0.001 * rows, "compile": 0.1}

    facts = Made(loaded(1), {"seconds": 1.0}).facts
    batches = [group for group in rungs(loaded(1), facts, True) if group[0].changes_batch]
    ladder, _ = _climb(law, *batches, steps=200)
    assert all(row.kept for row in ladder.rows), [row.reason for row in ladder.rows]
    knobs = ladder.best.row.knobs
    assert knobs["training.batch_size"] * knobs["training.gradient_accumulation_steps"] == 4 * 32


def test_of_a_group_the_fastest_stays_and_the_other_lanes_end() -> None:
    rows = [Rung(f"log {n}", {"training.log_every": n, "training.channels_last": "on"}) for n in (20, 50, 30)]

    def law(config: Loaded) -> dict[str, Any]:
        return {"seconds": 1 / _is(config, "training.log_every")}

    ladder, track = _climb(law, rows)
    assert ladder.best.row.name == "log 50"
    assert [lane.alive for lane in track.lanes] == [True, False, True, False]
    ladder.close()
    assert not any(lane.alive for lane in track.lanes)


def test_a_candidate_that_cannot_run_is_a_row_and_the_climb_goes_on() -> None:
    def law(config: Loaded) -> dict[str, Any]:
        if _is(config, "training.compile") == "default":
            return {"seconds": 0.1, "refused": "no compiler"}
        return {"seconds": 0.1 / (1 + (_is(config, "training.channels_last") == "on"))}

    ladder, _ = _climb(law, [COMPILE], [LAST])
    assert "does not run: no compiler" in ladder.rows[0].reason and ladder.rows[1].kept


def test_a_baseline_that_dies_ends_the_climb_with_the_rows_so_far() -> None:
    def law(config: Loaded) -> dict[str, Any]:
        last = _is(config, "training.channels_last") == "on"
        return {"seconds": 0.1 / (1 + last), "dies_after": 10**6 if last else 5}

    ladder, track = _climb(law, [LAST], [COMPILE])
    assert not ladder.rows[0].kept and "the baseline's process ended" in ladder.rows[1].reason
    ladder.close()
    assert not any(lane.alive for lane in track.lanes)


def _undecided() -> Loaded:
    config = with_knobs(loaded(1), {"training.precision": "auto"}, "default")
    return replace(config, origins=dict.fromkeys(config.origins, "default"))


def test_where_its_own_choice_does_not_run_tuning_climbs_from_the_plain_way() -> None:
    def law(config: Loaded) -> dict[str, Any]:
        if _is(config, "training.precision") == "auto":
            return {"seconds": 0.1, "refused": "no room"}
        return {"seconds": 0.1 / (1 + (_is(config, "training.channels_last") == "on"))}

    found = tune(_undecided(), Silent(), 5, track=Arithmetic(law))
    assert found.rows[0].reason == "does not run: no room" and not found.broken
    assert found.knobs["training.channels_last"] == "on" and found.factor > 1.9


def test_tuning_says_so_where_all_time_was_over_before_its_own_choice_was_measured() -> None:
    class Late(Arithmetic):
        def open(self, config: Loaded, seconds: float = 0.0) -> Made:
            if self.lanes:
                raise TimeOver("given up: its share of the time was over")
            return super().open(config, seconds)

    track = Late(lambda _: {"seconds": 0.1})
    with pytest.raises(HotloopError, match="own choice could not be measured"):
        tune(_undecided(), Silent(), 5, track=track)
    assert not any(lane.alive for lane in track.lanes)


@pytest.mark.parametrize(("times", "rows", "rounds"), [(3.7, 4, 7), (1.6, 2, 7), (1.6, 1, 3), (2.6, 1, 2)])
def test_paces_are_compared_row_by_row(times: float, rows: int, rounds: int) -> None:
    """A batch of four times the rows may take 3.7 times as long: it is raced to the end, not judged by one look."""
    larger = with_knobs(loaded(1), {"training.batch_size": 8 * rows})
    runners = {"baseline": Made(loaded(1), {"seconds": 0.1}), "candidate": Made(larger, {"seconds": 0.1 * times})}
    found = race(runners, "baseline", "candidate")
    assert len(found["candidate"].seconds) == rounds


def test_a_candidate_whose_time_was_over_leaves_the_search_unfinished() -> None:
    class Slow(Made):
        def warm(self) -> float:
            if _is(self.config, "training.compile") == "default":
                raise TimeOver("given up: its share of the time was over")
            return 0.0

    class Track(Arithmetic):
        def open(self, config: Loaded, seconds: float = 0.0) -> Made:
            self.lanes.append(Slow(config, {"seconds": 0.1}))
            return self.lanes[-1]

    ladder = Ladder(Track(lambda _: {}), loaded(1), Silent(), minutes=5)
    ladder.climb([[COMPILE], [LAST]])
    assert ladder.untried == 1 and ladder.rows[0].reason.startswith("given up") and not ladder.broken


def test_ending_one_lane_badly_ends_the_others_too() -> None:
    ladder, track = _climb(
        lambda config: {"seconds": 0.1 / (1 + (_is(config, "training.channels_last") == "on"))}, [LAST]
    )

    def interrupted() -> None:
        raise KeyboardInterrupt

    track.lanes[-1].close = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        ladder.close()
    assert not track.lanes[0].alive
