"""Loss curves read from run folders and from the logs of other trainers."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotloop.errors import HotloopError
from hotloop.runs.logs import read_curves
from hotloop.runs.store import RunFolder


def _log(tmp_path: Path, text: str, name: str = "train.log") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_a_nanogpt_log_gives_iterations_and_validation(tmp_path: Path) -> None:
    text = (
        "tokens per iteration will be: 16,384\nstep 0: train loss 4.2874, val loss 4.2823\n"
        "iter 0: loss 4.2649, time 39343.49ms, mfu -100.00%\niter 10: loss 3.1, time 12.3ms, mfu 1.2%\n"
        "saving checkpoint to out\nstep 250: train loss 1.9643, val loss 2.0652\niter 250: loss 2e0, time 1ms, mfu 1%\n"
    )
    curves = read_curves(_log(tmp_path, text))
    assert (curves.name, curves.unit) == ("train", "step")
    assert curves.train == {0: 4.2649, 10: 3.1, 250: 2.0}
    assert curves.eval == {0: 4.2823, 250: 2.0652}


def test_the_sampled_training_loss_is_used_where_no_other_is_told(tmp_path: Path) -> None:
    curves = read_curves(
        _log(tmp_path, "step 0: train loss 4.0, val loss 4.1\nstep 250: train loss 2.0, val loss 2.1\n")
    )
    assert curves.train == {0: 4.0, 250: 2.0}


def test_a_resumed_log_counts_as_told_last_and_in_order(tmp_path: Path) -> None:
    curves = read_curves(_log(tmp_path, "iter 10: loss 3\niter 20: loss 2\niter 10: loss 2.5\niter 30: loss 1\n"))
    assert list(curves.train.items()) == [(10, 2.5), (20, 2.0), (30, 1.0)]


def test_nan_is_left_out_and_said(tmp_path: Path) -> None:
    curves = read_curves(
        _log(tmp_path, "iter 1: loss 3.0\niter 2: loss nan\niter 3: loss inf\nstep 3: train loss 1, val loss nan\n")
    )
    assert curves.train == {1: 3.0}
    assert curves.notes() == [
        "train: 2 non-finite training losses left out",
        "train: 1 non-finite evaluation losses left out",
    ]


def test_our_own_console_with_colours_and_carriage_returns_is_read(tmp_path: Path) -> None:
    text = (
        "gpt | demo\r\n\x1b[36mStep 1/100\x1b[0m ---- 1%\r\x1b[2K\x1b[36mStep 100\x1b[0m | Loss: \x1b[1m0.4521\x1b[0m"
        " | LR: 1.25e-05 | GPU Mem: 3.2GB/4GB\r\nStep 250 | Eval loss: 2.0652 | best\r\n"
    )
    curves = read_curves(_log(tmp_path, text))
    assert (curves.train, curves.learning_rate, curves.eval) == ({100: 0.4521}, {100: 1.25e-5}, {250: 2.0652})


def test_epoch_lines_count_epochs(tmp_path: Path) -> None:
    text = "Epoch [1/100] - Train Loss: 0.234567, Val Loss: 0.345678, Time: 45.23s\n"
    curves = read_curves(_log(tmp_path, text))
    assert (curves.unit, curves.train, curves.eval) == ("epoch", {1: 0.234567}, {1: 0.345678})


def test_a_run_folder_and_its_metrics_file_give_the_same(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "demo")
    run.append_metrics({"step": 10, "train_loss": 2.0, "learning_rate": 0.5})
    run.append_metrics({"step": 20, "train_loss": float("nan"), "learning_rate": 0.25})
    run.append_metrics({"step": 20, "eval_loss": 1.5})
    for place in (run.dir, run.dir / "metrics.jsonl"):
        curves = read_curves(place)
        assert (curves.name, curves.train, curves.eval) == (run.dir.name, {10: 2.0}, {20: 1.5})
        assert curves.learning_rate == {10: 0.5, 20: 0.25}
        assert curves.skipped == {"train": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "train.log is empty"),
        ("hello\nworld\n", "no losses found in train.log"),
        ("iter 1: loss nan\n", "every loss in train.log is NaN or infinite"),
        ('{"a": 1}\n', "is JSON, not a log"),
        ("\0\1\2", "is not a text file"),
    ],
)
def test_a_file_without_losses_is_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(HotloopError) as caught:
        read_curves(_log(tmp_path, text))
    assert said in str(caught.value)
    assert "fix:" in str(caught.value)


def test_what_is_not_there_and_what_is_no_run_are_told(tmp_path: Path) -> None:
    with pytest.raises(HotloopError, match="no run or log at"):
        read_curves(tmp_path / "absent")
    with pytest.raises(HotloopError, match="is not a run folder"):
        read_curves(tmp_path)
    run = RunFolder.create(tmp_path, "demo")
    run.write_json("config.json", {})
    with pytest.raises(HotloopError, match=f"no losses found in {run.dir.name}"):
        read_curves(run.dir)
