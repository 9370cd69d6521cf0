"""What a person sees while a run trains, on a pipe and on a terminal."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from timeit import repeat

import pytest

from hotloop.runs.console import Console
from hotloop.runs.reporter import Reporter, Silent
from hotloop.runs.wording import duration, evaluation_line, summary_rows, thousands, training_line

TRAIN = {"step": 100, "epoch": 0.5, "train_loss": 0.45214, "learning_rate": 1.25e-5, "grad_norm": 1.0}
SUMMARY = {
    "status": "completed",
    "task": "gpt",
    "steps": 1000,
    "epochs": 1.234,
    "train_loss": 1.5,
    "eval_loss": 1.898,
    "eval_accuracy": 0.41,
    "best": {"metric": "eval_loss", "value": 1.88, "step": 750},
    "seconds": {"startup": 2.1, "compile": 0.0, "train": 65.2, "eval": 3.2, "total": 70.5},
    "effective_batch": 12,
    "peak_memory": 0.6 * 2**30,
    "parameters": 804096,
    "dir": "experiments/demo_20260101_120000",
}


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_the_training_line_on_a_gpu_has_the_form_that_other_tools_read() -> None:
    record = {**TRAIN, "gpu_memory": 3.2 * 2**30}
    assert training_line(record, 4 * 2**30) == "Step 100 | Loss: 0.4521 | LR: 1.25e-05 | GPU Mem: 3.2GB/4GB"


def test_the_training_line_on_a_cpu_shows_process_memory_and_throughput() -> None:
    line = training_line({**TRAIN, "samples_per_second": 12345.6})
    assert re.fullmatch(r"Step 100 \| Loss: 0\.4521 \| LR: 1\.25e-05 \| Mem: \d+\.\d+GB \| 12,346 samples/s", line)
    assert training_line({**TRAIN, "samples_per_second": 5.0, "tokens_per_second": 320}).endswith("| 320 tokens/s")


@pytest.mark.parametrize(
    ("total", "shown"),
    [(4.0, "4GB"), (3.81, "4GB"), (1.5, "1.5GB"), (0.25, "0.25GB"), (23.6, "24GB"), (79.2, "79GB"), (2.75, "2.8GB")],
)
def test_memory_is_shown_beside_what_may_be_taken(total: float, shown: str) -> None:
    whole = int(total * 2**30)
    assert f"GPU Mem: 0.2GB/{shown}" in training_line({**TRAIN, "gpu_memory": 0.2 * 2**30}, whole)
    assert f"| Mem: 0.9GB/{shown}" in training_line({**TRAIN, "gpu_memory": 0, "memory": 0.9 * 2**30}, whole)


def test_the_summary_sets_the_peak_beside_forecast_and_budget() -> None:
    own = {"forecast": 1.25 * 2**30, "peak": 1.31 * 2**30, "limit": 1.5 * 2**30, "oom_retries": 0}

    def row(**changes: float) -> str:
        return dict(summary_rows({**SUMMARY, "peak_memory": 1.9 * 2**30, "memory": {**own, **changes}}))["memory"]

    loaded = "; 1.9GB with all that is loaded"
    assert row() == f"1.31GB at the peak (forecast 1.25GB), budget 1.5GB{loaded}"
    assert row(limit=0) == f"1.31GB at the peak (forecast 1.25GB){loaded}"
    assert row(forecast=0, oom_retries=3) == f"1.31GB at the peak, budget 1.5GB, 3 step(s) repeated{loaded}"
    assert row(forecast=0, limit=0) == "1.9GB at the peak"


def test_a_nan_loss_is_shown_as_nan() -> None:
    assert "Loss: nan" in training_line({**TRAIN, "train_loss": float("nan")})
    assert "Loss: nan" in training_line({**TRAIN, "train_loss": None})


def test_the_evaluation_line_names_metrics_and_the_best() -> None:
    record = {"step": 250, "eval_loss": 2.06524, "eval_accuracy": 0.41, "eval_seconds": 1.5, "best": True}
    assert evaluation_line(record) == "Step 250 | Eval loss: 2.0652 | eval_accuracy: 0.41 | best"
    assert evaluation_line({"step": 1, "eval_loss": 2.0}) == "Step 1 | Eval loss: 2.0000"


def test_the_summary_says_where_the_time_went() -> None:
    rows = dict(summary_rows(SUMMARY))
    assert rows["time"] == "1m10s = startup 2.1s + compile 0.0s + train 1m05s + eval 3.2s"
    assert rows["best"] == "eval_loss 1.8800 at step 750"
    assert rows["parameters"] == "804,096"
    assert rows["steps"] == "1,000 (1.23 epochs)"
    assert rows["memory"] == "0.6GB at the peak"
    assert dict(summary_rows({"status": "stopped"})) == {"status": "stopped"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (9.96, "10s"), (59.6, "1m00s"), (3599.7, "1h00m"), (7384, "2h03m"), (-1, "0.0s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_thousands_keep_a_digit_where_it_counts() -> None:
    assert [thousands(value) for value in (12345.6, 3.25, 7, 0.04)] == ["12,346", "3.2", "7", "0.0"]


def _drive(reporter: Reporter) -> None:
    reporter.start("gpt | demo", ["data: [65] characters"], 200, memory_total=0)
    reporter.phase("compiling")
    reporter.phase("")
    for step in range(1, 201):
        reporter.progress(step)
    reporter.record(TRAIN)
    reporter.record({"step": 200, "eval_loss": 2.0, "best": True})
    reporter.note("odd [red]text", "warning")
    reporter.finish(SUMMARY)
    reporter.close()


def test_a_pipe_gets_plain_lines_without_control_codes() -> None:
    out = io.StringIO()
    _drive(Console(out))
    text = out.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[:2] == ["gpt | demo", "  data: [65] characters"]
    assert lines[2].startswith("Step 100 | Loss: 0.4521 |")
    assert lines[3:5] == ["Step 200 | Eval loss: 2.0000 | best", "Warning: odd [red]text"]
    assert "status         completed" in lines
    assert all(len(line) <= 80 for line in lines)


def test_a_terminal_gets_a_bar_with_share_and_time_and_the_same_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    console = Console(out)
    console.start("gpt | demo", [], 200)
    for step in range(1, 61):
        console.progress(step)
        time.sleep(0.01)
    console.record(TRAIN)
    console.record({"step": 120, "eval_loss": 2.0, "eval_accuracy": 0.5})
    console.phase("evaluating")
    console.finish(SUMMARY)
    text = _without_colours(out.getvalue())
    assert re.search(r"Step \d+/200 \S+ +\d+% +[\d.]+s, [\d.]+s left", text)
    assert re.search(r"evaluating 120/200 .* loss 0\.4521", text)
    assert "Step 100 | Loss: 0.4521 | LR: 1.25e-05 | Mem:" in text
    assert "Step 120 | Eval loss: 2.0000 | eval_accuracy: 0.5" in text
    assert re.search(r"status +completed", text)
    assert "experiments/demo_20260101_120000" in text
    assert "\x1b[" in out.getvalue()


def test_long_opening_lines_are_broken_at_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = Terminal()
    console = Console(out, live=True)
    console.start("gpt", ["text: the manual of Python 3.11.7 and nothing else: 465,126 characters"], 10)
    console.close()
    lines = _without_colours(out.getvalue()).splitlines()
    assert lines[1:4] == ["  text: the manual of Python 3.11.7 and", "    nothing else: 465,126 characters", lines[3]]
    assert "465,126" not in lines[3]


def test_the_terminal_is_given_back_with_a_cursor() -> None:
    out = Terminal()
    console = Console(out, live=True)
    console.start("gpt", [], 10)
    assert out.getvalue().rstrip().endswith("\x1b[?25h")  # visible while training: kill -9 cannot bring it back
    console.close()
    console.close()


def test_nothing_is_drawn_more_than_five_times_a_second() -> None:
    out = Terminal()
    console = Console(out, live=True)
    console.start("gpt", [], 10**6)
    began = time.perf_counter()
    step = 0
    while time.perf_counter() - began < 0.6:
        step += 1
        console.progress(step)
    console.close()
    assert step > 1000
    assert _without_colours(out.getvalue()).count("/1000000") <= 6


def test_progress_costs_under_two_microseconds() -> None:
    console = Console(io.StringIO(), live=True)
    console.start("gpt", [], 10**6)
    console.progress(1)
    best = min(repeat(lambda: console.progress(2), number=1000, repeat=20)) / 1000
    console.close()
    assert best < 2e-6


def test_a_resumed_run_counts_its_own_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    console = Console(out, live=True)
    console.start("gpt", [], 1000, first_step=900)
    for step in range(901, 961):
        console.progress(step)
        time.sleep(0.01)
    console.close()
    lefts = [float(left) for left in re.findall(r"([\d.]+)s left", _without_colours(out.getvalue()))]
    assert lefts
    assert max(lefts) < 5


def test_a_reader_that_goes_away_does_not_stop_the_run() -> None:
    code = (
        "from hotloop.runs.console import Console\nimport sys\nc = Console(); c.start('t', [], 3)\n"
        "sys.stdin.read()\nfor s in range(2000): c.record({'step': s, 'train_loss': 1.0})\n"
        "c.finish({'status': 'completed'}); sys.stderr.write('reached the end')"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert run.stdin is not None
    assert run.stdout is not None
    assert run.stderr is not None
    run.stdout.close()
    run.stdin.close()
    said = run.stderr.read().decode()
    run.stderr.close()
    assert run.wait() == 0
    assert said.startswith("reached the end")


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    _drive(Silent())
    assert capsys.readouterr() == ("", "")
