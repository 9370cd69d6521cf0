"""kill -9 between any two files of a save: the folder of checkpoints ends as that of an undisturbed run.

The best checkpoint comes in the middle of the run, so that what was best, last and kept all change at different saves.
And where the end was reached and not yet written down, the resumed run writes it and trains no further.
"""

from __future__ import annotations

import json

import pytest

from hotloop.engine import checkpoint

RENAMES_AT_THE_END = 4  # final_model.pt and its checksum, metrics.json, training_summary.json
RENAMES = {15: 7, 30: 7, 45: 7, 60: 5, 75: 5}  # of each save: the checkpoint, index.json and each alias, with checksums
SAVES = [
    "training.max_steps=75",
    "optimization.learning_rate=2.0",  # better for a while, then it diverges
    "optimization.warmup_steps=59",
    "optimization.lr_scheduler=constant",
    "callbacks.checkpoint_every=eval",
    "callbacks.keep_last=1",
    "callbacks.save_top_k=1",
]


@pytest.fixture(scope="module")
def arguments(tiny):
    return [a for a in tiny if not a.startswith(("callbacks.", "optimization.", "training.max_steps"))] + SAVES


@pytest.fixture(scope="module")
def whole(warm, arguments, place, run_in, tmp_path_factory):
    """The undisturbed run, and how often it passed each place."""
    folder = place(tmp_path_factory.mktemp("whole"))
    assert warm(folder, *arguments, moments=[{"count": "calls.json"}]).code == 0
    run = run_in(folder)
    assert json.loads((run / "training_summary.json").read_text())["best"]["step"] == 45
    assert {path.stem for path in (run / "checkpoints").glob("step_*.pt")} == {"step_45", "step_75"}
    return run, json.loads((folder / "calls.json").read_text())


def check_whole(run) -> None:
    """No checkpoint is called damaged, whatever the moment, though nobody resumed."""
    for path in (run / "checkpoints").glob("*.pt"):
        checkpoint.verify(path)


@pytest.mark.parametrize(("save", "rename"), [(45, n) for n in range(7)] + [(60, n) for n in range(5)])
def test_killed_between_two_files_of_a_save(
    save, rename, warm, arguments, place, run_in, finish, whole, assert_same, sigkill, tmp_path
):
    undisturbed, calls = whole
    later = sum(count for step, count in RENAMES.items() if step >= save) + RENAMES_AT_THE_END
    moment = {"call": "rename", "number": calls["rename"] - later + 1 + rename, "what": "kill"}
    assert warm(place(tmp_path), *arguments, moments=[moment]).code == sigkill
    run = run_in(tmp_path)
    newest, _ = checkpoint.newest_good(run / "checkpoints")
    assert newest["step"] == (save if rename >= 2 else save - 15)
    check_whole(run)
    assert_same(finish(tmp_path, arguments), undisturbed)


@pytest.mark.parametrize("back", range(6))
def test_killed_while_old_ones_are_dropped(
    back, warm, arguments, place, run_in, finish, whole, assert_same, sigkill, tmp_path
):
    undisturbed, calls = whole
    moment = {"call": "unlink", "number": calls["unlink"] - back, "what": ["kill", "after"][back % 2]}
    assert warm(place(tmp_path), *arguments, moments=[moment]).code == sigkill
    check_whole(run_in(tmp_path))
    assert_same(finish(tmp_path, arguments), undisturbed)


def test_a_damaged_last_checkpoint_gives_its_names_back(warm, arguments, place, run_in, finish, sigkill, tmp_path):
    """Step 45 was the best and was last; it is found damaged, so both names go to step 30 until it is made again."""
    kept = ["callbacks.keep_last=2" if a == "callbacks.keep_last=1" else a for a in arguments]
    moment = {"call": "step", "number": 50, "what": "kill"}
    assert warm(place(tmp_path), *kept, moments=[moment]).code == sigkill
    folder = run_in(tmp_path) / "checkpoints"
    with open(folder / "step_45.pt", "r+b") as file:  # the same file as last.pt and best_model.pt
        file.write(b"broken")
    moment = {"call": "step", "number": 1, "what": "kill"}
    assert warm(tmp_path, "resume", str(folder.parent), moments=[moment]).code == sigkill
    for name in (checkpoint.LAST, checkpoint.BEST):
        assert checkpoint.load(folder / name)["step"] == 30
    assert checkpoint.load(finish(tmp_path, kept) / "checkpoints" / checkpoint.BEST)["step"] == 45


STOPS = {
    "early stopping": ["callbacks.early_stopping_patience=1"],
    "a goal": ["experiment.stop_at.eval_loss=0.9"],
}


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("back", range(5))
def test_killed_after_the_checkpoint_of_a_stop(
    stop, back, warm, arguments, place, run_in, finish, assert_same, sigkill, tmp_path
):
    """Before each file of the end: the run is over, and stays so."""
    undisturbed, killed = place(tmp_path / "whole"), place(tmp_path / "killed")
    stopping = [*arguments, *STOPS[stop]]
    assert warm(undisturbed, *stopping, moments=[{"count": "calls.json"}]).code == 0
    run = run_in(undisturbed)
    summary = json.loads((run / "training_summary.json").read_text())
    assert summary["status"] == "stopped"
    assert summary["steps"] < 75
    renames = json.loads((undisturbed / "calls.json").read_text())["rename"]
    assert (
        warm(killed, *stopping, moments=[{"call": "rename", "number": renames - back, "what": "kill"}]).code == sigkill
    )
    ended = warm(killed, "resume", str(run_in(killed)), moments=[{"call": "step", "number": 1, "what": "kill"}])
    assert ended.code == 0, ended.err  # not one step more
    assert f"training was over at step {summary['steps']}" in ended.out
    assert_same(run_in(killed), run)
