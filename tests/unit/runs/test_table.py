"""The list of runs: what ended, what goes on, what was cut off; and tables on a pipe."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from hotloop.runs.store import RunFolder
from hotloop.runs.table import RUN_COLUMNS, find_runs, run_rows, show_table


def _run(root: Path, name: str, **summary: object) -> RunFolder:
    run = RunFolder.create(root, name)
    run.write_json("config.json", {"task": "gpt"})
    if summary:
        run.write_json("training_summary.json", {"task": "gpt", **summary})
    return run


def test_no_folder_means_no_runs(tmp_path: Path) -> None:
    assert find_runs(tmp_path / "absent") == []


def test_a_finished_run_shows_its_summary(tmp_path: Path) -> None:
    best = {"metric": "eval_loss", "value": 1.5, "step": 80}
    _run(
        tmp_path,
        "demo",
        status="completed",
        steps=100,
        train_loss=1.25,
        eval_loss=1.75,
        best=best,
        seconds={"total": 65},
    )
    (info,) = find_runs(tmp_path)
    assert (info.task, info.status, info.steps, info.seconds) == ("gpt", "completed", 100, 65)
    assert abs(info.started - time.time()) < 60
    assert run_rows([info])[0][1:] == ["gpt", "completed", "100", "1.2500", "1.7500", "1.5000", "1m05s"]


def test_a_run_cut_off_is_interrupted_and_shows_how_far_it_came(tmp_path: Path) -> None:
    run = _run(tmp_path, "demo")
    for step in range(1, 2001):
        run.append_metrics({"step": step, "train_loss": 2.0, "seconds": 3.5})
    run.append_metrics({"step": 2000, "eval_loss": 2.5})
    run.close()
    (info,) = find_runs(tmp_path)
    assert (info.status, info.steps, info.train_loss, info.eval_loss) == ("interrupted", 2000, 2.0, 2.5)
    assert (info.task, info.seconds) == ("gpt", 3.5)


def test_a_run_resumed_after_its_end_and_cut_off_again_is_interrupted(tmp_path: Path) -> None:
    run = _run(tmp_path, "demo", status="completed", steps=10, train_loss=3.0)
    run.append_metrics({"step": 20, "train_loss": 2.0})
    run.close()
    (info,) = find_runs(tmp_path)
    assert (info.status, info.steps, info.train_loss) == ("interrupted", 20, 2.0)


def test_a_run_that_another_process_trains_is_running(tmp_path: Path) -> None:
    run = _run(tmp_path, "demo")
    code = (
        "import sys; from hotloop.runs.store import RunFolder; r = RunFolder.open(sys.argv[1]);"
        "r.append_metrics({'step': 7}); print(1, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code, run.dir], stdin=-1, stdout=-1) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline()
        (info,) = find_runs(tmp_path)
        assert (info.status, info.steps) == ("running", 7)
        writer.communicate()
    assert find_runs(tmp_path)[0].status == "interrupted"


def test_broken_files_do_not_hide_the_other_runs(tmp_path: Path) -> None:
    _run(tmp_path, "good", status="completed", steps=1)
    broken = _run(tmp_path, "broken")
    (broken.dir / "training_summary.json").write_text("{")
    (broken.dir / "metrics.jsonl").write_bytes(b'\xff\xfe\n[1]\n{"step": 3}\n{"st')
    (tmp_path / "not_a_run").mkdir()
    found = {info.dir.name.split("_")[0]: info for info in find_runs(tmp_path)}
    assert sorted(found) == ["broken", "good"]
    assert found["broken"].steps == 3


def test_oldest_first_whatever_the_order_on_disk(tmp_path: Path) -> None:
    for name in ("a_20260301_000000", "b_20260101_000000", "c_20260201_000000_2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"task": "gpt"}))
        os.utime(tmp_path / name)
    assert [info.dir.name[0] for info in find_runs(tmp_path)] == ["b", "c", "a"]


def test_a_table_on_a_pipe_is_aligned_plain_text() -> None:
    out = io.StringIO()
    show_table(("run", ">steps"), [["demo", "7"], ["much longer", "1000"]], out)
    assert out.getvalue() == "run          steps\ndemo             7\nmuch longer   1000\n"
    assert len(RUN_COLUMNS) == 8
