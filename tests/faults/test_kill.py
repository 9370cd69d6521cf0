"""kill -9 at any moment: the resumed run ends like an undisturbed one, to the bit.

Weights, optimizer state, random state and the metrics (in all but times, throughput and memory) are compared. The
moments are drawn with a fixed seed over the whole run: between steps in the middle of an epoch, in the middle of
writing a checkpoint, before and after each rename, in validation, in the middle of a line of metrics.jsonl, and some
by the clock from outside.
"""

from __future__ import annotations

import json
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

KINDS = [
    *[("step", "kill")] * 5,
    *[("save", "half")] * 4,
    ("rename", "kill"),
    ("rename", "kill"),
    ("rename", "after"),
    ("fsync", "kill"),
    ("link", "after"),
    *[("validation", "kill")] * 3,
    ("append", "half"),
    *[("clock", "kill")] * 2,
]
OPTIMIZERS = {"adamw": "--optimizer=adamw", "muon": "--optimizer=muon"}


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to: its folder, how often each place was passed, how long it took in seconds."""

    folder: Path
    run: Path
    calls: dict[str, int]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(warm, tiny, place, run_in, tmp_path_factory):
    """`undisturbed("muon")`, made once."""
    made: dict[str, Undisturbed] = {}

    def make(optimizer: str) -> Undisturbed:
        if optimizer not in made:
            folder = place(tmp_path_factory.mktemp(optimizer))
            started = time.monotonic()
            ended = warm(folder, *tiny, OPTIMIZERS[optimizer], moments=[{"count": "calls.json"}])
            seconds = time.monotonic() - started
            assert ended.code == 0, ended.err
            calls = json.loads((folder / "calls.json").read_text())
            made[optimizer] = Undisturbed(folder, run_in(folder), calls, seconds)
        return made[optimizer]

    return make


def test_there_are_twenty_moments():
    assert len(KINDS) == 20


@pytest.mark.parametrize("number", range(20))
def test_killed_at_a_random_moment(number, warm, tiny, place, finish, undisturbed, assert_same, sigkill, tmp_path):
    optimizer = ["adamw", "muon"][number % 2]
    whole, arguments = undisturbed(optimizer), [*tiny, OPTIMIZERS[optimizer]]
    draw, (call, what) = random.Random(1000 + number), KINDS[number]
    place(tmp_path)
    if call == "clock":
        ended = warm(tmp_path, *arguments, signal_after=(draw.random() * whole.seconds, signal.SIGKILL))
        assert ended.code in (sigkill, 0)
    else:
        moment = {"call": call, "number": draw.randint(1, whole.calls[call]), "what": what}
        ended = warm(tmp_path, *arguments, moments=[moment])
        assert ended.code == sigkill, moment
    assert_same(finish(tmp_path, arguments), whole.run)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_killed_again_and_again(
    optimizer, warm, tiny, place, run_in, finish, undisturbed, assert_same, sigkill, tmp_path
):
    arguments = [*tiny, OPTIMIZERS[optimizer]]
    place(tmp_path)
    assert warm(tmp_path, *arguments, moments=[{"call": "step", "number": 25, "what": "kill"}]).code == sigkill
    run = run_in(tmp_path)
    for moment in (
        {"call": "rename", "number": 1, "what": "kill"},  # while the metrics after the checkpoint are dropped
        {"call": "rename", "number": 2, "what": "after"},
        {"call": "step", "number": 1, "what": "kill"},  # no step further than before
        {"call": "save", "number": 1, "what": "half"},
        {"call": "validation", "number": 1, "what": "kill"},
        {"call": "save", "number": 2, "what": "half"},
        {"call": "unlink", "number": 1, "what": "after"},  # while old checkpoints are dropped
    ):
        ended = warm(tmp_path, "resume", str(run), moments=[moment])
        assert ended.code == sigkill, (moment, ended.out, ended.err)
    assert_same(finish(tmp_path, arguments), undisturbed(optimizer).run)


def test_before_the_first_checkpoint_it_starts_from_the_first_step(
    warm, tiny, place, run_in, undisturbed, assert_same, sigkill, tmp_path
):
    place(tmp_path)
    moment = {"call": "step", "number": 6, "what": "kill"}
    assert warm(tmp_path, *tiny, OPTIMIZERS["adamw"], moments=[moment]).code == sigkill
    run = run_in(tmp_path)
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [4]
    ended = warm(tmp_path, "resume", str(run))
    assert ended.code == 0, ended.err
    assert "no checkpoint yet: starting from the first step" in ended.out
    assert_same(run, undisturbed("adamw").run)


@pytest.mark.parametrize("rename", range(1, 7))
def test_while_the_folder_is_being_made(rename, warm, tiny, place, finish, undisturbed, assert_same, sigkill, tmp_path):
    arguments = [*tiny, OPTIMIZERS["adamw"]]
    place(tmp_path)
    moment = {"call": "rename", "number": rename, "what": "kill"}
    assert warm(tmp_path, *arguments, moments=[moment]).code == sigkill
    assert_same(finish(tmp_path, arguments), undisturbed("adamw").run)


@pytest.mark.parametrize("back", range(4))
def test_after_the_last_step(back, warm, tiny, place, finish, undisturbed, assert_same, sigkill, tmp_path):
    """The weights are trained, and the process dies while it writes them down: nothing is missing afterwards."""
    arguments, whole = [*tiny, OPTIMIZERS["adamw"]], undisturbed("adamw")
    place(tmp_path)
    moment = {"call": "rename", "number": whole.calls["rename"] - back, "what": "kill"}
    assert warm(tmp_path, *arguments, moments=[moment]).code == sigkill
    assert_same(finish(tmp_path, arguments), whole.run)


def test_the_order_of_the_data_goes_on_in_a_later_epoch(warm, tiny, place, finish, assert_same, sigkill, tmp_path):
    """Disjoint blocks at another offset each epoch, a ragged last batch: three epochs and a half."""
    kept = [argument for argument in tiny if "max_steps" not in argument]
    arguments = [*kept, "data.sampling=shifted", "training.max_steps=80", "training.gradient_accumulation_steps=2"]
    whole, killed = place(tmp_path / "whole"), place(tmp_path / "killed")
    assert warm(whole, *arguments).code == 0
    assert warm(killed, *arguments, moments=[{"call": "step", "number": 66, "what": "kill"}]).code == sigkill
    run = finish(killed, arguments)
    assert_same(run, finish(whole, arguments))
    assert json.loads((run / "training_summary.json").read_text())["epochs"] % 1 > 0.05
