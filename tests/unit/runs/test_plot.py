"""The pictures: written whole, of the right things, and refused in words where there is nothing to draw."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from hotloop.errors import HotloopError
from hotloop.runs.plot import plot_runs, plot_schedule, smoothed
from hotloop.runs.store import RunFolder


def _run(root: Path, name: str, steps: int = 40) -> Path:
    run = RunFolder.create(root, name)
    for step in range(1, steps + 1):
        run.append_metrics({"step": step, "train_loss": 4 / step, "learning_rate": 1e-3 * step})
        if step % 10 == 0:
            run.append_metrics({"step": step, "eval_loss": 4.5 / step})
    return run.dir


def _svg(*paths: Path) -> str:
    return plot_runs(paths, paths[0].parent / "picture.svg").read_text()


def _size(png: Path) -> tuple[int, int]:
    content = png.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def test_one_run_is_drawn_into_its_folder(tmp_path: Path) -> None:
    run = _run(tmp_path, "demo")
    picture = plot_runs([run])
    assert picture == run / "loss.png"
    assert _size(picture) == (1105, 715)
    assert not [child for child in run.iterdir() if child.name.endswith(".tmp")]


def test_one_run_shows_curves_best_and_rate(tmp_path: Path) -> None:
    run = _run(tmp_path, "demo")
    svg = _svg(run)
    for text in (run.name, "train (smoothed)", "eval", "best 0.1125 at step 40", "rate", "loss", "step"):
        assert f">{text}<" in svg


def test_a_run_without_evaluation_or_rate_is_drawn(tmp_path: Path) -> None:
    log = tmp_path / "short.log"
    log.write_text("iter 1: loss 3.0\niter 2: loss 2.0\n")
    assert plot_runs([log]) == tmp_path / "short.png"
    svg = _svg(log)
    assert ">last train loss 2.0000<" in svg
    assert ">rate<" not in svg


def test_several_runs_are_compared_and_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [_run(tmp_path / str(number), "same") for number in range(3)]
    for run in runs:
        run.rename(run.parent / "same")
    svg = _svg(*(run.parent / "same" for run in runs))
    assert all(f">same ({number})  best eval 0.1125<" in svg for number in (1, 2, 3))
    monkeypatch.chdir(tmp_path)
    assert plot_runs([run.parent / "same" for run in runs]) == Path("comparison.png")
    assert _size(tmp_path / "comparison.png") == (1170, 715)


def test_many_runs_have_their_legend_beside_the_picture(tmp_path: Path) -> None:
    runs = [_run(tmp_path, f"run{number}", steps=12) for number in range(12)]
    assert _size(plot_runs(runs, tmp_path / "many.png"))[0] > 1400
    assert all(f">{run.name}  best eval 0.4500<" in _svg(*runs) for run in runs)


def test_values_left_out_are_said_in_the_picture(tmp_path: Path) -> None:
    log = tmp_path / "broken.log"
    log.write_text("iter 1: loss 3.0\niter 2: loss nan\n")
    assert ">broken: 1 non-finite training losses left out<" in _svg(log)


def test_a_name_with_dollars_is_no_formula(tmp_path: Path) -> None:
    log = tmp_path / "a$b_c$.log"
    log.write_text("iter 1: loss 3.0\n")
    assert ">a$b_c$<" in _svg(log)


def test_the_smoothed_curve_keeps_the_ends_and_does_not_lag() -> None:
    falling = [float(200 - step) for step in range(200)]
    assert smoothed(falling) == pytest.approx(falling)
    assert smoothed([1.0]) == [1.0]
    assert smoothed([]) == []
    noisy = [float(step % 2) for step in range(200)]
    assert max(smoothed(noisy)[20:180]) - min(smoothed(noisy)[20:180]) < 0.2


def test_a_schedule_says_its_peak_and_end(tmp_path: Path) -> None:
    rates = [(step, min(1.0, step / 10) * 1e-3) for step in range(101)]
    svg = plot_schedule(rates, tmp_path / "schedule.svg", "gpt: cosine").read_text()
    assert ">gpt: cosine<" in svg
    assert ">peak 0.001 at step 10, ends at 0.001<" in svg
    assert _size(plot_schedule(rates, tmp_path / "schedule"))[0] == 1040  # .png is added
    with pytest.raises(HotloopError, match="no steps"):
        plot_schedule([], tmp_path / "schedule.png")


def test_faults_of_the_target_are_told(tmp_path: Path) -> None:
    run = _run(tmp_path, "demo", steps=3)
    with pytest.raises(HotloopError, match=r"cannot be written as \.gif"):
        plot_runs([run], tmp_path / "x.gif")
    with pytest.raises(HotloopError, match="no such file or folder"):
        plot_runs([run], tmp_path / "absent" / "x.png")


def test_pyplot_and_the_users_figures_are_left_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    known = "matplotlib.pyplot" in sys.modules
    plot_runs([_run(tmp_path, "demo", steps=3)])
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == known
