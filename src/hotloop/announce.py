"""What is told before the first step of a run: what will be trained and how, what it takes, what is to be beaten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hotloop import device as machine
from hotloop.assemble import Session
from hotloop.conclude import baselines_of
from hotloop.engine.schedule import OPEN_ENDED
from hotloop.runs.recorder import Recorder, Tracker
from hotloop.runs.reporter import Reporter
from hotloop.runs.store import RunFolder
from hotloop.runs.wording import baseline_lines


def recorder(session: Session, folder: RunFolder, reporter: Reporter, trackers: Sequence[Tracker]) -> Recorder:
    """The observer that writes down what happens."""
    plan = session.plan
    told = getattr(session.task, "epoch_line", False) and plan.total_steps < OPEN_ENDED
    return Recorder(folder, reporter, trackers, -(-plan.total_steps // plan.steps_per_epoch) if told else None)


def announce(session: Session, folder: RunFolder, reporter: Reporter, notes: Sequence[str]) -> None:
    """Tell what will be trained, and how."""
    config, plan, level = session.config, session.plan, session.config.experiment.log_level
    known = baselines_of(folder)
    details = plan.all_lines() if level == "debug" else []
    on_gpu = plan.torch_device.type == "cuda"
    reporter.start(
        f"{Path(config.task).name} | {folder.dir.name}",
        [*notes, *baseline_lines(known), *plan.lines(), *_of_memory(session), *session.remarks, *details],
        plan.total_steps if plan.total_steps < OPEN_ENDED else 0,
        first_step=session.state.step,
        memory_total=plan.memory_limit or (machine.memory_total(plan.torch_device) if on_gpu else 0),
        level=level,
        baselines=known,
    )


def _of_memory(session: Session) -> list[str]:
    """The forecast, and the budget with how it is held to."""
    found, guard = session.forecast, session.state.guard
    lines = [] if found is None else found.lines()
    if guard.limit:
        over = ", less than the forecast: expect smaller micro-batches" if found and found.total > guard.limit else ""
        lines.append(f"memory budget {guard.limit / 2**30:.2f}GB{over} ({guard.how})")
    return lines
