"""The benches run, and their contestants train the same thing: equal losses from equal weights and batches."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

import pytest


def overhead(repository, names: str) -> dict[str, dict]:
    """Rows by name of a short run of the bench."""
    command = [sys.executable, str(repository / "bench" / "overhead.py"), "--json", "--only", names]
    command += ["--rounds", "1", "--steps", "80", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)["rows"]}


def test_the_bare_loop_learns_and_is_its_own_measure(repository):
    row = overhead(repository, "bare")["bare"]
    assert row["ratio"] == 1
    assert row["over_bare_ms"] == 0
    assert 0 < row["train_loss"] < 2.6  # ln(10) + what an untrained network adds


def test_hotloop_is_measured_beside_it(repository):
    rows = overhead(repository, "hotloop.steps,hotloop.fit")
    assert set(rows) == {"bare", "hotloop.steps", "hotloop.fit"}
    assert all(row["ms_per_step"] > 0 for row in rows.values())


@pytest.mark.skipif(find_spec("accelerate") is None, reason="the bench extra is not installed")
def test_another_trainer_does_the_same_work(repository):
    rows = overhead(repository, "accelerate")
    assert rows["accelerate"]["train_loss"] == pytest.approx(rows["bare"]["train_loss"], rel=1e-5)


# Side by side: the parent's arithmetic and the page, on made-up answers; and one real tiny round.


@pytest.fixture(scope="module")
def bench(repository):
    """The scripts of the bench folder by name; they import each other as siblings."""
    sys.path.insert(0, str(repository / "bench"))
    yield import_module
    sys.path.remove(str(repository / "bench"))


def answers(*seconds: float, loss: float = 2.0) -> list[dict]:
    return [{"seconds": value, "steps": 10, "loss": loss} for value in seconds]


MADE_UP = {
    "hotloop": answers(0.2, 0.2, 0.2),
    "hotloop tuned": answers(0.1, 0.2, 0.4, loss=2.01),
    "bare fp32": answers(0.3, 0.4, 0.8),
    "lightning": answers(0.3, 0.4, 2.0, loss=2.5),
    "transformers": answers(0.1, 0.1, 0.1, loss=None),
}


def made_up_rows(bench) -> dict[str, dict]:
    warmed = {"hotloop tuned": {"seconds": 31.0, "steps": 50}}
    rows = bench("standing").rows_of(MADE_UP, warmed, 32, {"composer": "does not install"})
    return {row["name"]: row for row in rows}


def test_medians_and_spreads_are_of_the_rounds(bench):
    row = made_up_rows(bench)["bare fp32"]
    assert row["ms"] == pytest.approx(40.0)
    assert row["spread"] == pytest.approx([30.0, 80.0])
    assert row["samples_per_second"] == pytest.approx(800.0)


def test_ratios_are_taken_within_each_round(bench):
    rows = made_up_rows(bench)
    assert rows["bare fp32"]["tuned_is_faster"] == pytest.approx([2.0, 2.0, 3.0])  # 3, 2, 2: not 40 / 20 by chance
    assert rows["lightning"]["tuned_is_faster"] == pytest.approx([3.0, 2.0, 5.0])  # 3, 2, 5: the medians would give 2
    assert rows["hotloop tuned"]["tuned_is_faster"] == pytest.approx([1.0, 1.0, 1.0])


def test_the_median_of_each_start_is_told(bench):
    rows = bench("standing").rows_of({name: found * 2 for name, found in MADE_UP.items()}, {}, 32, {}, starts=3)
    found = {row["name"]: row["by_start"] for row in rows}
    assert found["bare fp32"] == pytest.approx([2.5, 2.5, 2.0])  # 3, 2 | 2, 3 | 2, 2
    result = {**made_up_result(bench), "rows": rows, "starts": 3}
    text = bench("page").page({"cpu": {"workloads": [result], "about": {}}})
    assert "2.00 2.50 2.50" in text and "3 starts of 3 rounds of 10 steps" in text


def test_compiling_is_what_the_warm_up_takes_beyond_its_steps(bench):
    rows = made_up_rows(bench)
    assert rows["hotloop tuned"]["compile_seconds"] == pytest.approx(31.0 - 50 * 0.02)
    assert rows["lightning"]["compile_seconds"] == 0.0


def test_the_loss_is_set_beside_the_plain_loop(bench):
    rows = made_up_rows(bench)
    assert rows["hotloop tuned"]["verdict"] == "same"
    assert rows["lightning"]["verdict"] == "+25.0%"
    assert rows["transformers"]["verdict"] == "not finite"


def made_up_result(bench) -> dict:
    about = {"name": "gpt-12x64", "title": "A small GPT", "batch": 12, "goal": 2.5, "date": "2026-01-01"}
    keys = {"training.precision": "bf16"}
    return {**about, "steps": 10, "rounds": 3, "warm": 50, "tuned": keys, "rows": [*made_up_rows(bench).values()]}


def test_the_page_tells_what_was_found_and_what_was_missed(bench):
    text = bench("page").page({"cpu": {"workloads": [made_up_result(bench)], "about": {}}})
    assert "| A small GPT | 3.00 | 0.50 | 2.5 |" in text
    assert "Goal over Lightning, its defaults: 2.5 times, reached with 3.00." in text
    assert "Goal over HF Trainer, its defaults: 2.5 times, missed with 0.50." in text
    assert "`training.precision=bf16`" in text and "Composer: does not install." in text


def test_the_page_says_what_has_not_run(bench):
    text = bench("page").page({})
    rows = [line for line in text.splitlines() if line.startswith("| GPT-2 of 124 M")]
    assert rows and rows[0].endswith("| not run yet |")
    assert "| 40.00 |" not in text


def test_time_to_quality_is_a_row_for_each_task(bench):
    side = {"wall": 10.0, "steps": 5, "status": "stopped", "parameters": 1}
    plain = {"reference": {**side, "wall": 30.0}, "reference_reached": False}
    rows = [{**plain, "own": side, "own_reached": reached} for reached in (True, False)]
    text = bench("page").page({"quality": {"lob": {"target": "eval_balanced_accuracy 0.48", "rows": rows}}})
    assert "| eval_balanced_accuracy 0.48 | 30.0 | 10.0 | 3.00 (3.00 .. 3.00) | plain 0 of 2, hotloop 1 of 2 |" in text


def test_a_target_is_reached_in_the_direction_of_its_metric(bench):
    tasks = bench("time_to_quality").TASKS
    assert tasks["gpt"].reached({"eval_loss": 2.0, "best": {"eval_loss": 1.8}}, 1.9)
    assert not tasks["gpt"].reached({"eval_loss": 2.0}, 1.9)
    assert not tasks["lob"].reached({"eval_balanced_accuracy": 0.4}, 0.48)
    assert tasks["lob"].reached({"eval_balanced_accuracy": 0.5}, 0.48)


def test_results_of_other_workloads_stay_when_one_is_measured_again(bench, tmp_path):
    store, path = bench("side_by_side").store, tmp_path / "cpu.json"
    store(path, [{"name": "lob", "rows": [1]}, {"name": "gpt", "rows": [2]}])
    store(path, [{"name": "gpt", "rows": [3]}])
    kept = {result["name"]: result["rows"] for result in json.loads(path.read_text())["workloads"]}
    assert kept == {"lob": [1], "gpt": [3]}


def test_tuned_settings_keep_the_effective_batch(bench, tmp_path):
    module = bench("workloads")
    given = "training: {precision: bf16, compile: 'off', batch_size: 8, max_steps: 3}"
    (tmp_path / "translate.yaml").write_text(given)
    (workload,) = module.named(["translate"], module.CPU)
    tuned = module.with_tuned(workload, str(tmp_path))
    assert tuned.tuned_keys()["training.gradient_accumulation_steps"] == 4 and tuned.tuned_knobs().micro == 8
    assert "training.max_steps" not in tuned.tuned_keys()  # the length of the run is the workload's
    with pytest.raises(SystemExit, match="do not make up an effective batch of 32"):
        replace(workload, tuned={"training.batch_size": 5}).tuned_keys()


def test_peers_are_never_given_less_than_hotloop_chose_for_itself(bench):
    """What is left on auto would be bf16 for hotloop and fp32 for the others."""
    module = bench("workloads")
    left = replace(module.CPU[0], tuned={"training.precision": "bf16"})
    with pytest.raises(SystemExit, match="cannot be given training.compile=auto(.|\n)*state one of off, default"):
        left.tuned_knobs()


def test_every_peer_gets_the_same_rows_in_the_same_pieces(bench, tmp_path):
    """4 x 8 of a DataLoader and one batch of 32 of hotloop's feed hold the same pairs, in the same order."""
    module = bench("workloads")
    (workload,) = module.named(["translate"], module.CPU)
    plain = module.prepare(workload, workload.default_knobs(), str(tmp_path))
    whole = module.prepare(workload, module.Knobs(resident=True), str(tmp_path))
    pieces, one = iter(plain.feed()), next(iter(whole.feed()))
    rows = [row[row > 0].tolist() for piece in (next(pieces) for _ in range(8)) for row in piece["src"]]
    assert len(rows) == 32 and rows == [row[row > 0].tolist() for row in one["src"]]
    assert all(
        (a == b).all() for a, b in zip(plain.net.state_dict().values(), whole.net.state_dict().values(), strict=True)
    )


def test_a_contestant_that_dies_is_named_with_its_reason(bench, tmp_path):
    module = bench("side_by_side")
    given = argparse.Namespace(device="cpu", threads=1, tuned="", clock="seconds")
    gone = module.Contestant("bare fp32", replace(bench("workloads").CPU[0], name="nothing"), 1, given, tmp_path)
    gone.close()
    assert gone.ask(1) is None and "unknown: nothing" in gone.why


def test_the_limit_is_measured_in_one_process(repository, tmp_path, bench):
    file = tmp_path / "limit.json"
    command = [sys.executable, str(repository / "bench" / "limit.py"), "--only", "translate", "--rounds", "2"]
    command += ["--seconds", "0.01", "--starts", "1", "--store", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stored = json.loads(file.read_text())
    (row,) = stored["rows"]
    assert row["ratio"][1] <= row["ratio"][0] <= row["ratio"][2] and min(row["ms"]) > 0
    assert f"| {row['title']} | {row['ms'][0]:.1f} |" in bench("page").page({"limit": stored})


def test_one_round_of_the_bare_loop_and_hotloop_on_the_same_rows(repository, tmp_path):
    """In fp32 hotloop's losses are those of the plain loop: same weights, same rows, same arithmetic."""
    (tmp_path / "lstm.yaml").write_text("training:\n  precision: fp32\n  compile: 'off'\n")
    command = [sys.executable, str(repository / "bench" / "side_by_side.py"), "--only", "lstm", "--rounds", "1"]
    command += ["--starts", "2"]
    command += ["--seconds", "0.3", "--warm", "2", "--look", "1", "--threads", "1", "--tuned", str(tmp_path)]
    command += ["--contestants", "bare fp32,hotloop tuned", "--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "out.json").read_text())["workloads"]
    rows = {row["name"]: row for row in result["rows"]}
    assert all(row["ms"] > 0 and len(row["rounds"]) == len(row["by_start"]) == 2 for row in rows.values())
    assert rows["hotloop tuned"]["verdict"] == "same" and rows["bare fp32"]["loss_difference"] == 0
