"""Disk full, damaged checkpoints, two runs at once: each a clear message with exit code 2, and nothing is lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from hotloop.runs.store import RunFolder


@pytest.fixture(scope="module")
def whole(warm, tiny, place, run_in, tmp_path_factory):
    """The run of an undisturbed process, to compare with."""
    folder = place(tmp_path_factory.mktemp("whole"))
    assert warm(folder, *tiny).code == 0
    return run_in(folder)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with 400 kB, and a function that gives it more."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options: str) -> bool:
        with contextlib.suppress(OSError):
            return not subprocess.run(["mount", *options, str(place)], capture_output=True, check=False).returncode
        return False

    if not mount("-t", "tmpfs", "-o", "size=400k", "tmpfs"):
        pytest.skip("a small file system needs the right to mount; the injected ENOSPC below needs none")
    yield place, lambda: mount("-o", "remount,size=20m")
    subprocess.run(["umount", str(place)], check=True)


def fingerprints(folder: Path) -> dict[str, str]:
    # closing the lock's file would give up a lock that this process holds
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def is_told_plainly(ended, *words: str) -> bool:
    return ended.code == 2 and "Traceback" not in ended.out + ended.err and all(word in ended.err for word in words)


def test_a_real_full_disk(small_disk, warm, tiny, place, run_in, assert_same, tmp_path):
    disk, enlarge = small_disk
    kept = [argument for argument in tiny if not argument.startswith(("callbacks.", "training.max_steps"))]
    arguments = [*kept, "training.max_steps=60", "callbacks.keep_last=100", "callbacks.checkpoint_every=3"]
    untouched = place(tmp_path / "untouched")
    assert warm(untouched, *arguments).code == 0
    place(disk)
    ended = warm(disk, *arguments)
    assert is_told_plainly(ended, "the disk is full", "where: ", "fix: "), ended.err
    run = run_in(disk)
    newest = max(int(path.stem.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*.pt"))
    assert 3 <= newest < 60
    assert enlarge()
    resumed = warm(disk, "resume", str(run))
    assert resumed.code == 0, resumed.err
    assert f"resumed at step {newest}" in resumed.out
    assert_same(run, run_in(untouched))


@pytest.mark.parametrize(
    ("call", "number", "file"),
    [
        ("save", 1, "step_7.pt"),
        ("save", 4, "step_21.pt"),
        ("append", 1, "metrics.jsonl"),
        ("append", 9, "metrics.jsonl"),
        ("rename", 12, "checkpoints"),
        ("fsync", 20, ""),
    ],
)
def test_the_disk_is_full_in_the_middle(call, number, file, warm, tiny, place, finish, whole, assert_same, tmp_path):
    place(tmp_path)
    ended = warm(tmp_path, *tiny, moments=[{"call": call, "number": number, "what": "full"}])
    assert is_told_plainly(ended, "the disk is full", "free some space", file), ended.err
    assert_same(finish(tmp_path, tiny), whole)


def killed_at(warm, folder: Path, arguments: list[str], step: int) -> None:
    moment = {"call": "step", "number": step + 1, "what": "kill"}
    assert warm(folder, *arguments, moments=[moment]).code < 0


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "a bit":
        middle = len(content) // 2
        content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    elif how == "half":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = b""
    elif how == "half, no checksum":
        content = content[: len(content) // 2]
        path.with_name(path.name + ".sha256").unlink()
    os.unlink(path)  # the other names of the same file stay as they are
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["a bit", "half", "empty", "half, no checksum"])
def test_a_damaged_newest_checkpoint_falls_back(how, warm, tiny, place, run_in, whole, assert_same, tmp_path):
    killed_at(warm, place(tmp_path), tiny, 30)
    run = run_in(tmp_path)
    steps = sorted(int(path.stem.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*.pt"))
    assert steps[-1] == 30
    damage(run / "checkpoints" / "step_30.pt", how)
    ended = warm(tmp_path, "resume", str(run))
    assert ended.code == 0, ended.err
    assert "step_30.pt is damaged" in ended.out
    assert "falling back to the one before" in ended.out
    assert f"resumed at step {steps[-2]}" in ended.out
    assert_same(run, whole)


def test_without_any_option_there_is_a_checkpoint_to_fall_back_to(warm, tiny, place, run_in, tmp_path):
    """While the loss falls the newest checkpoint is the best one as well: another one must still be there."""
    plain = [argument for argument in tiny if not argument.startswith("callbacks.")]
    killed_at(warm, place(tmp_path), plain, 50)
    run = run_in(tmp_path)
    assert json.loads((run / "config.json").read_text())["callbacks"]["checkpoint_every"] == "eval"
    newest = run / "checkpoints" / "step_45.pt"
    damage(newest, "a bit")
    ended = warm(tmp_path, "resume", str(run))
    assert ended.code == 0, ended.err
    assert "step_45.pt is damaged" in ended.out
    assert "resumed at step 30" in ended.out


def test_all_checkpoints_damaged(warm, tiny, place, run_in, tmp_path):
    killed_at(warm, place(tmp_path), tiny, 30)
    run = run_in(tmp_path)
    files = list((run / "checkpoints").glob("step_*.pt"))
    for path in files:
        damage(path, "half")
    before = fingerprints(run)
    ended = warm(tmp_path, "resume", str(run))
    said = [f"none of the {len(files)} checkpoints can be used", "is damaged", "where: ", "fix: "]
    assert is_told_plainly(ended, *said), ended.err
    assert all(path.name in ended.err for path in files)
    assert fingerprints(run) == before


def test_two_runs_of_one_name_in_the_same_second(warm, tiny, place, whole, assert_same, tmp_path):
    place(tmp_path)
    both = warm.together([(tmp_path, tiny), (tmp_path, tiny)], moments=[{"what": "time"}])
    assert [ended.code for ended in both] == [0, 0], [ended.err for ended in both]
    runs = sorted((tmp_path / "experiments").iterdir())
    assert [run.name for run in runs] == ["tiny_20260101_120000", "tiny_20260101_120000_2"]
    for run in runs:
        assert_same(run, whole)


def test_a_run_that_another_process_trains_is_left_alone(warm, tiny, place, run_in, tmp_path):
    killed_at(warm, place(tmp_path), tiny, 30)
    run = run_in(tmp_path)
    mine = RunFolder.open(run)
    mine.hold()
    before = fingerprints(run)
    ended = warm(tmp_path, "resume", str(run))
    mine.close()
    assert is_told_plainly(ended, "another process is training"), ended.err
    assert fingerprints(run) == before
