"""What TensorBoard shows of a run, and of a run that was resumed."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

from hotloop.track.tensorboard import TensorBoard


def _scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_records_become_scalars_of_their_keys(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.record({"step": 10, "train_loss": 0.5, "best": True, "note": "text", "learning_rate": None})
    board.record({"step": 20, "train_loss": math.nan, "eval_accuracy": 1})
    board.close()
    board.close()
    shown = _scalars(tmp_path)
    assert set(shown) == {"train_loss", "eval_accuracy"}
    assert shown["train_loss"][0] == (10, 0.5)
    assert shown["train_loss"][1][0] == 20
    assert math.isnan(shown["train_loss"][1][1])
    assert shown["eval_accuracy"] == [(20, 1.0)]


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path)
    for step in range(1, 11):
        first.record({"step": step, "train_loss": 1.0})
    first.close()
    second = TensorBoard(tmp_path, purge_step=6)
    for step in range(6, 9):
        second.record({"step": step, "train_loss": 2.0})
    second.close()
    assert _scalars(tmp_path)["train_loss"] == [(step, 1.0 if step < 6 else 2.0) for step in range(1, 9)]


def test_flushed_records_survive_the_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from hotloop.track.tensorboard import TensorBoard\n"
        "board = TensorBoard(Path(sys.argv[1])); board.record({'step': 1, 'train_loss': 0.5})\n"
        "board.flush(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    assert _scalars(tmp_path) == {"train_loss": [(1, 0.5)]}


def test_no_torch_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hotloop.track.tensorboard import TensorBoard\n"
        "assert 'tensorboard' not in sys.modules\n"
        "TensorBoard(Path(sys.argv[1])).close(); assert 'tensorboard' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
