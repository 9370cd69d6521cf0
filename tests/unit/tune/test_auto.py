"""`training.tune: auto`: short runs are left alone, known settings are used and told, long runs are tuned first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hotloop import assemble
from hotloop.cli.main import main
from hotloop.config.load import Loaded, load
from hotloop.errors import HotloopError
from hotloop.launch import train
from hotloop.runs.reporter import Silent
from hotloop.saved import make_task
from hotloop.tasks import options_of as builtin
from hotloop.tasks.own import load_user_task
from hotloop.tune import auto
from hotloop.tune.kept import keep, key_of, recall
from hotloop.tune.lane import LaneFacts, data_shape
from hotloop.tune.row import Row
from hotloop.tune.search import Climbed
from hotloop.tune.settings import with_knobs

from .owned import write

KNOBS = {"training.precision": "fp32", "training.threads": 1, "data.resident": "on", "training.channels_last": "off"}


class Lines(Silent):
    """Keeps what is shown as training begins."""

    def start(self, title: str, lines: Sequence[str], total_steps: int, **_: Any) -> None:
        self.lines = list(lines)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Loaded, assemble.Session]:
    """A run that is put together, with a cache of its own."""
    from hotloop.config.load import load

    monkeypatch.setenv("HOTLOOP_CACHE", str(tmp_path / "cache"))
    options, _ = load_user_task(f"{write(tmp_path)}:Line")
    keys: dict[str, Any] = {"max_steps": 5, "threads": 1, "device": "cpu", "dir": str(tmp_path), "eval_every": "off"}
    loaded = load(options, overrides=keys | {"trackers": ()})
    return loaded, assemble.build(loaded, make_task(loaded.config))


def _key(loaded: Loaded, session: assemble.Session) -> dict[str, Any]:
    count = sum(p.numel() for p in session.state.model.parameters())
    return key_of(loaded, count, data_shape(session))


def _never(*_: Any, **__: Any) -> Climbed:
    raise AssertionError("no search was to be made")


def test_a_short_run_is_left_alone(run: tuple[Loaded, assemble.Session], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, session = run
    monkeypatch.setattr(auto, "tune", _never)
    assert 0 < session.predicted_seconds < 20
    assert auto.settle(loaded, session, Silent()) is None
    session.predicted_seconds = 1800.0  # 5 % are 90 s: nothing could be found in them
    assert auto.settle(loaded, session, Silent()) is None


@pytest.mark.parametrize("stated", [{}, {"precision": "fp32", "compile": "off"}])
def test_every_recipe_has_a_predicted_time(stated: dict[str, Any], tmp_path: Path) -> None:
    """Precision and compilation may be stated, as gpt's own recipe does: what is kept is found all the same."""
    options = builtin("gpt")
    sizes = {"model.n_layer": 1, "model.n_embd": 32, "model.n_head": 2, "model.block_size": 16}
    loaded = load(options, overrides={**sizes, **stated, "threads": 1, "dir": str(tmp_path), "device": "cpu"})
    assert assemble.build(loaded, make_task(loaded.config)).predicted_seconds > 0
    off = with_knobs(loaded, {"training.tune": "off", "training.precision": "fp32", "training.compile": "off"})
    assert assemble.build(off, make_task(off.config)).predicted_seconds == 0


def _climbed(loaded: Loaded, session: assemble.Session, factor: float, **found: Any) -> Climbed:
    facts = LaneFacts(session.plan.to_dict(), 1, False, False, False, False, False, 1, 1, {})
    return Climbed(Row("baseline", {}), (), loaded, dict(KNOBS), factor, facts, **found)


def test_a_search_that_did_not_end_does_not_replace_one_that_did(run: tuple[Loaded, assemble.Session]) -> None:
    loaded, session = run
    key = _key(loaded, session)
    kept = []
    for found in ({"untried": 3}, {"broken": "the baseline's process ended"}, {}, {"untried": 1}):
        auto.remember(key, _climbed(loaded, session, 1.0 + len(kept), **found))
        now = recall(key)
        assert now is not None
        kept.append((now.factor, now.untried))
    assert kept == [(1.0, 3), (1.0, 3), (3.0, 0), (3.0, 0)]
    file, why = auto.remember(key, _climbed(loaded, session, 9.0, untried=1))
    assert file is None and "came to its end" in why


def test_a_profile_is_of_what_would_be_trained(
    run: tuple[Loaded, assemble.Session], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, session = run
    monkeypatch.setattr(auto, "_REBUILD", 0.0)
    keep(_key(loaded, session), {**KNOBS, "data.resident": "off"}, 1.5)
    words = ["max_steps=5", "threads=1", "device=cpu", "eval_every=off", "--steps", "5", "--json"]
    out = Path(loaded.config.experiment.dir) / "profile.png"
    assert main(["profile", loaded.config.task, *words, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "settings measured on" in shown.err and "1.50x the plain way" in shown.err
    assert json.loads(shown.out)["phases"]["data"]["ms"] >= 0


def test_known_settings_are_used_and_told(
    run: tuple[Loaded, assemble.Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, session = run
    monkeypatch.setattr(auto, "tune", _never)
    keep(_key(loaded, session), {**KNOBS, "training.precision": "bf16"}, 1.7)
    session.predicted_seconds = 100.0
    other = auto.settle(loaded, session, Silent())
    assert other is not None and other.config.training.precision == "bf16"
    assert other.origins["training.precision"] == "measured"
    assert "1.70x" in other.notes[-1] and "training.precision=bf16" in other.notes[-1]


def test_a_run_trains_with_what_was_kept_and_writes_it_down(run: tuple[Loaded, assemble.Session]) -> None:
    loaded, session = run
    keep(_key(loaded, session), {**KNOBS, "data.resident": "off"}, 1.5)

    def long_enough(found: Loaded, built: assemble.Session, reporter: Any) -> Loaded | None:
        built.predicted_seconds = 100.0
        return auto.settle(found, built, reporter)

    shown = Lines()
    done = train(loaded, settle=long_enough, reporter=shown)
    plan = json.loads((done.dir / "plan.json").read_text(encoding="utf-8"))
    assert plan["resident"] is False and plan["precision"] == "fp32"
    assert any("1.50x" in line and "data.resident=" not in line for line in shown.lines)


@pytest.mark.parametrize("key", ["training.tune", "training.auto_batch_size", "memory.budget"])
def test_off_and_other_searches_leave_it_out(
    key: str, run: tuple[Loaded, assemble.Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, session = run
    monkeypatch.setattr(auto, "tune", _never)
    keep(_key(loaded, session), KNOBS, 1.7)
    session.predicted_seconds = 1e6
    value: Any = {"training.tune": "off", "training.auto_batch_size": True, "memory.budget": "4GB"}[key]
    assert auto.settle(with_knobs(loaded, {key: value}, "command line"), session, Silent()) is None


def test_a_long_run_is_tuned_within_a_twentieth_of_its_time(
    run: tuple[Loaded, assemble.Session], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded, session = run
    asked: list[float] = []

    def found(given: Loaded, reporter: Any, minutes: float, track: Any) -> Climbed:
        asked.append(60 * minutes)
        baseline = Row("baseline", {}, 1.0, 1.0)
        facts = LaneFacts(session.plan.to_dict(), 1, False, False, False, False, False, 1, 1, {})
        return Climbed(baseline, (), with_knobs(given, KNOBS), dict(KNOBS), 1.3, facts)

    monkeypatch.setattr(auto, "tune", found)
    session.predicted_seconds = 10_000.0
    other = auto.settle(loaded, session, Silent())
    assert asked and asked[0] < 0.05 * 10_000
    assert other is not None and "1.30x" in other.notes[-1]
    kept = recall(_key(loaded, session))
    assert kept is not None and kept.knobs == KNOBS
    file = Path(other.notes[-1].rpartition("rows in ")[2].rstrip(")"))
    assert json.loads(file.read_text(encoding="utf-8"))["ladder"]["baseline"]["name"] == "baseline"

    (tmp_path / "taken").write_text("a file where the cache would be")
    monkeypatch.setenv("HOTLOOP_CACHE", str(tmp_path / "taken"))
    other = auto.settle(loaded, session, Silent())
    assert other is not None and "1.30x" in other.notes[-1] and "not kept" in other.notes[-1]
    assert other.config.training.precision == KNOBS["training.precision"]


def test_a_search_that_fails_is_told_and_changes_nothing(
    run: tuple[Loaded, assemble.Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, session = run

    def failing(*_: Any, **__: Any) -> Climbed:
        raise HotloopError("took more than 120 s")

    monkeypatch.setattr(auto, "tune", failing)
    session.predicted_seconds = 10_000.0
    other = auto.settle(loaded, session, Silent())
    assert other is not None and other.config == loaded.config and "came to nothing" in other.notes[-1]


def test_what_is_kept_is_for_this_model_data_machine_and_word_of_the_person(
    run: tuple[Loaded, assemble.Session],
) -> None:
    loaded, session = run
    key = _key(loaded, session)
    keep(key, KNOBS, 2.0)
    assert recall(key) is not None
    stated = replace(loaded, origins={**loaded.origins, "training.precision": "command line"})
    assert recall(_key(stated, session)) is None
    for part, value in (("parameters", 1), ("data", {"x": [2]}), ("machine", {"cpu": "another"})):
        assert recall({**key, part: value}) is None
    (file,) = (Path(p) for p in _files())
    file.write_text("{ not json", encoding="utf-8")
    assert recall(key) is None


def _files() -> list[Path]:
    from hotloop.disk import cache_folder

    return list((cache_folder() / "tuned").glob("*.json"))
