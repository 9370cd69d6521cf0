"""The run folder: nothing is lost to a crash, a full disk or a second writer, and every fault is told in words."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hotloop.errors import HotloopError
from hotloop.runs.store import RunFolder, being_written, is_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "demo")


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "20260102_030405")
    names = [RunFolder.create(tmp_path / "runs", "demo").dir.name for _ in range(3)]
    assert names == ["demo_20260102_030405", "demo_20260102_030405_2", "demo_20260102_030405_3"]
    assert all((tmp_path / "runs" / name / "checkpoints").is_dir() for name in names)


@pytest.mark.parametrize("name", ["", "a/b", "..", "x\ny", "n" * 400])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HotloopError, match="cannot be a folder's name|too long"):
        RunFolder.create(tmp_path, name)


def test_records_come_back_as_written_with_nan_as_null(run: RunFolder) -> None:
    run.append_metrics({"step": 1, "train_loss": math.nan, "learning_rate": np.float32(0.5), "epoch": 0.25})
    run.append_metrics({"step": 2, "train_loss": math.inf, "name": "größe", "counts": np.arange(2)})
    assert run.read_metrics() == [
        {"step": 1, "train_loss": None, "learning_rate": 0.5, "epoch": 0.25},
        {"step": 2, "train_loss": None, "name": "größe", "counts": [0, 1]},
    ]
    assert (run.dir / "metrics.jsonl").read_text().count("\n") == 2


def test_a_torn_last_line_is_ignored_and_cut_off_before_the_next_append(run: RunFolder) -> None:
    run.append_metrics({"step": 1})
    run.close()
    with open(run.dir / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 2, "train_lo')
    again = RunFolder.open(run.dir)
    assert again.read_metrics() == [{"step": 1}]
    again.append_metrics({"step": 3})
    assert again.read_metrics() == [{"step": 1}, {"step": 3}]


def test_a_file_that_holds_only_a_torn_line_starts_afresh(run: RunFolder) -> None:
    (run.dir / "metrics.jsonl").write_bytes(b'{"st')
    run.append_metrics({"step": 1})
    assert run.read_metrics() == [{"step": 1}]


def test_a_damaged_line_in_the_middle_is_named(run: RunFolder) -> None:
    (run.dir / "metrics.jsonl").write_text('{"step": 1}\nnot json\n{"step": 3}\n')
    with pytest.raises(HotloopError, match="line 2"):
        run.read_metrics()


def test_truncating_drops_later_records_and_a_torn_line_and_goes_on(run: RunFolder) -> None:
    for step in (1, 2, 3, 4):
        run.append_metrics({"step": step})
    with open(run.dir / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 5')
    assert run.truncate_metrics(2) == 2
    run.append_metrics({"step": 3, "again": True})
    assert run.read_metrics() == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_truncating_the_log_keeps_what_was_said_up_to_the_step(run: RunFolder) -> None:
    for line in [
        "gpt, 4000 steps",
        "step 100: train loss 2, val loss 2",
        "iter 150: loss 2",
        "note",
        "step 200: x",
        "end",
    ]:
        run.log(line)
    run.truncate_log(150)
    run.log("step 200: again")
    kept = (run.dir / "training.log").read_text().splitlines()
    assert kept == [
        "gpt, 4000 steps",
        "step 100: train loss 2, val loss 2",
        "iter 150: loss 2",
        "note",
        "step 200: again",
    ]


def test_truncating_what_is_not_there_is_harmless(run: RunFolder) -> None:
    run.truncate_log(5)
    assert run.truncate_metrics(5) == 0
    assert run.read_metrics() == []


_WRITER = """
import sys
from hotloop.runs.store import RunFolder
run = RunFolder.open(sys.argv[1])
for step in range(1, 10**9):
    run.append_metrics({"step": step, "train_loss": 1 / step, "text": "x" * (step % 3000)})
    run.write_json("state.json", {"step": step, "filler": list(range(500))})
    if step == 20:
        print("going", flush=True)
"""


def test_kill_9_loses_no_record_and_frees_the_run(run: RunFolder) -> None:
    run.write_json("config.json", {})
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(run.dir)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"going\n"
        assert being_written(run.dir)
        with pytest.raises(HotloopError, match="another process is training"):
            RunFolder.open(run.dir).append_metrics({"step": 0})
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert writer.stdout is not None
        writer.stdout.close()
    steps = [record["step"] for record in run.read_metrics()]
    assert len(steps) >= 20
    assert steps == list(range(1, len(steps) + 1))
    state = json.loads((run.dir / "state.json").read_text())  # whole, whatever moment it was
    assert len(steps) - state["step"] in (0, 1)
    assert len(state["filler"]) == 500
    assert not being_written(run.dir)
    RunFolder.open(run.dir).append_metrics({"step": len(steps) + 1})


def test_a_full_disk_is_told_and_the_old_file_stays(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_json("plan.json", {"old": True})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HotloopError) as caught:
        run.write_json("plan.json", {"old": False})
    assert "the disk is full" in str(caught.value)
    assert str(run.dir / "plan.json") in str(caught.value)
    assert "fix:" in str(caught.value)
    assert caught.value.exit_code == 2
    assert json.loads((run.dir / "plan.json").read_text()) == {"old": True}
    assert sorted(child.name for child in run.dir.iterdir()) == ["checkpoints", "plan.json"]


def test_a_record_cut_short_by_a_full_disk_leaves_no_torn_line(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.append_metrics({"step": 1})
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[: len(data) // 2]))
    with pytest.raises(HotloopError, match="the disk is full"):
        run.append_metrics({"step": 2, "text": "long" * 10})
    monkeypatch.undo()
    assert (run.dir / "metrics.jsonl").read_bytes() == b'{"step": 1}\n'
    run.append_metrics({"step": 2})
    assert [record["step"] for record in run.read_metrics()] == [1, 2]


def test_a_real_full_device_is_told() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    from hotloop.disk import append

    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(HotloopError, match="the disk is full"):
            append(descriptor, b"x\n", Path("/dev/full"))
    finally:
        os.close(descriptor)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HotloopError, match="a file, not a folder|file of that name"):
        RunFolder.create(tmp_path / "file" / "runs", "demo")
    if os.geteuid() == 0:
        pytest.skip("the superuser may write everywhere; the rest of this test needs another user")
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(HotloopError, match="permission denied"):
        RunFolder.create(tmp_path / "closed", "demo")


def test_what_is_not_a_run_is_refused_with_a_hint(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(HotloopError, match="no run at"):
        RunFolder.open(tmp_path / "absent")
    run.write_json("config.json", {})
    with pytest.raises(HotloopError, match=f"is not a run folder(.|\n)*{run.dir.name}"):
        RunFolder.open(tmp_path)
    with pytest.raises(HotloopError, match=f"did you mean .*{run.dir.name}"):
        RunFolder.open(run.checkpoints)
    assert is_run(run.dir)
    assert RunFolder.open(run.dir).checkpoints == run.checkpoints


def test_sync_and_close_can_be_repeated(run: RunFolder) -> None:
    run.log("line")
    run.sync()
    run.close()
    run.close()
    run.sync()
    run.log("more\n")
    assert (run.dir / "training.log").read_text() == "line\nmore\n"
