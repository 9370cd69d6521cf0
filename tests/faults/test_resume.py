"""Stopped by a signal, and resumed: exit code 4, the checkpoint of that step, and the same end to the bit.

And what cannot be resumed says why, with exit code 2, and is left as it was.
"""

from __future__ import annotations

import json
import random
import shutil
import signal

import pytest


@pytest.fixture(scope="module")
def whole(warm, tiny, place, run_in, tmp_path_factory):
    """The run of an undisturbed process, to compare with."""
    folder = place(tmp_path_factory.mktemp("whole"))
    assert warm(folder, *tiny).code == 0
    return run_in(folder)


@pytest.fixture
def begun(warm, tiny, place, run_in, sigkill, tmp_path):
    """A run that died at step 30."""
    moment = {"call": "step", "number": 31, "what": "kill"}
    assert warm(place(tmp_path), *tiny, moments=[moment]).code == sigkill
    return run_in(tmp_path)


def refused(warm, run) -> str:
    ended = warm(run.parent if run.parent.is_dir() else run.parents[1], "resume", str(run))
    assert ended.code == 2, ended.out + ended.err
    assert "Traceback" not in ended.err
    return ended.err


@pytest.mark.parametrize(("call", "number", "step"), [("step", 1, 1), ("step", 26, 26), ("validation", 3, 31)])
def test_sigterm_finishes_the_step_and_saves(
    call, number, step, warm, tiny, place, run_in, whole, assert_same, tmp_path
):
    ended = warm(place(tmp_path), *tiny, moments=[{"call": call, "number": number, "what": "stop"}])
    run = run_in(tmp_path)
    assert ended.code == 4, ended.err
    assert f"interrupted after step {step}" in ended.err
    assert f"hotloop resume {run.relative_to(tmp_path)}" in ended.err
    assert (run / "checkpoints" / f"step_{step}.pt").is_file()
    assert json.loads((run / "training_summary.json").read_text())["status"] == "interrupted"
    resumed = warm(tmp_path, "resume", str(run))
    assert resumed.code == 0, resumed.err
    assert f"resumed at step {step}" in resumed.out
    assert_same(run, whole)


@pytest.mark.parametrize("seed", range(2))
def test_ctrl_c_at_any_time(seed, warm, tiny, place, finish, whole, assert_same, tmp_path):
    delay = random.Random(seed).uniform(0.02, 0.25)
    ended = warm(place(tmp_path), *tiny, signal_after=(delay, signal.SIGINT))
    assert ended.code in (0, 4), ended.err
    assert "Traceback" not in ended.err
    assert_same(finish(tmp_path, tiny), whole, stopped=True)


def test_a_finished_run_is_over(warm, whole):
    files = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file() and path.name != ".lock"}
    said = refused(warm, whole)
    assert "this run is over after 60 steps" in said
    assert "fix: " in said
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_no_such_run(warm, tmp_path):
    assert "no run at" in refused(warm, tmp_path / "nowhere")


def test_a_folder_that_is_no_run(warm, tmp_path):
    (tmp_path / "photos").mkdir()
    assert "is not a run folder" in refused(warm, tmp_path / "photos")


def test_the_folder_of_runs_instead_of_a_run(warm, begun):
    assert begun.name in refused(warm, begun.parent)


def test_a_configuration_of_another_version(warm, begun):
    config = json.loads((begun / "config.json").read_text())
    config["training"]["warp_drive"] = 9
    (begun / "config.json").write_text(json.dumps(config))
    said = refused(warm, begun)
    assert "training.warp_drive" in said
    assert "config.json" in said


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_damaged_configuration(content, warm, begun):
    (begun / "config.json").write_text(content)
    assert "config.json" in refused(warm, begun)


def test_the_text_is_gone(warm, begun, tmp_path, whole, assert_same):
    shutil.move(tmp_path / "text.txt", tmp_path / "away.txt")
    assert "text.txt' does not exist" in (said := refused_in(warm, tmp_path, begun)), said
    shutil.move(tmp_path / "away.txt", tmp_path / "text.txt")
    assert warm(tmp_path, "resume", str(begun)).code == 0
    assert_same(begun, whole)


@pytest.mark.parametrize("change", ["other letters", "longer", "other words"])
def test_the_text_is_another_one(change, warm, begun, tmp_path, whole, assert_same):
    text = (tmp_path / "text.txt").read_text()
    changed = {"other letters": text + "ZZZZ", "longer": text + text, "other words": text[::-1]}
    (tmp_path / "text.txt").write_text(changed[change])
    said = refused_in(warm, tmp_path, begun)
    assert "not the data" in said, said
    (tmp_path / "text.txt").write_text(text)
    assert warm(tmp_path, "resume", str(begun)).code == 0
    assert_same(begun, whole)


def refused_in(warm, folder, run) -> str:
    ended = warm(folder, "resume", str(run))
    assert ended.code == 2, ended.out + ended.err
    assert "Traceback" not in ended.err
    return ended.err
