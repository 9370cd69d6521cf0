"""A run from start to end: the folder, the training, the summary; and going on with an interrupted one.

Everything that a later command needs is on the disk before the first step: configuration, plan, environment, the
task's assets. A run that dies at any moment is resumed from its newest whole checkpoint, or from its start.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hotloop import assemble
from hotloop import device as machine
from hotloop.assemble import Session
from hotloop.config import to_yaml
from hotloop.config.arguments import Arguments
from hotloop.config.load import Loaded
from hotloop.config.schema import to_plain
from hotloop.engine import checkpoint, loop
from hotloop.engine.callbacks import Judge
from hotloop.engine.hooks import Hooks
from hotloop.engine.loop import Outcome
from hotloop.engine.plan import Plan
from hotloop.engine.schedule import OPEN_ENDED
from hotloop.errors import CheckStopped, HotloopError, Interrupted
from hotloop.runs.recorder import Recorder
from hotloop.runs.reporter import Reporter, Silent
from hotloop.runs.store import RunFolder
from hotloop.saved import ASSETS, FINAL, PLAN, SUMMARY, Run, make_task, read_json, saved_config
from hotloop.task import Task
from hotloop.track.tensorboard import TensorBoard


def train(
    loaded: Loaded,
    task: Task | None = None,
    *,
    reporter: Reporter | None = None,
    callbacks: Sequence[Any] = (),
    started: float | None = None,
) -> Run:
    """Train in a new run folder.

    Args:
        loaded: the resolved configuration.
        task: made already; else the one that the configuration names.
        reporter: what the person sees; nothing if absent.
        callbacks: observers of the caller.
        started: when the process began, seconds since the epoch, so that start-up is counted whole.

    Raises:
        CheckStopped: a non-finite value stopped the run; folder and good weights are kept.
        Interrupted: Ctrl-C or SIGTERM; the run can be resumed.
        HotloopError: a fault of configuration, data or disk.
    """
    started = time.time() if started is None else started
    config = loaded.config
    task = task or make_task(config)
    session = assemble.build(loaded, task)
    name = config.experiment.name or Path(config.task.partition(".py")[0]).name
    folder = RunFolder.create(Path(config.experiment.dir).expanduser(), name)
    folder.hold()
    folder.write_json("environment.json", machine.describe())
    folder.write_json(PLAN, session.plan.to_dict())
    folder.write_json(ASSETS, task.assets())
    folder.write_text("config.yaml", to_yaml(config))
    folder.write_json("config.json", to_plain(config))  # last: a folder with it can be resumed
    notes = [*task.notes(), *loaded.notes]
    return _conduct(session, folder, reporter or Silent(), notes, callbacks, started, Judged())


@dataclass
class Judged:
    """What was known at the point from which a run goes on, besides its state; empty for a new one."""

    states: list[dict[str, Any]] = field(default_factory=list)  # of the callbacks
    spent: dict[str, float] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)
    resumed: bool = False


def resume(
    path: Path | str,
    task: Task | None = None,
    *,
    reporter: Reporter | None = None,
    callbacks: Sequence[Any] = (),
    started: float | None = None,
) -> Run:
    """Go on with a run from its newest whole checkpoint, with its own configuration and plan.

    Args:
        path: the run's folder.
        task: needed for a run of `hotloop.fit`, whose model and data are not in the folder.
        reporter, callbacks, started: as in `train`.

    Raises:
        HotloopError: no run, a finished one, or one whose checkpoints are all damaged.
    """
    started = time.time() if started is None else started
    folder = RunFolder.open(path)
    folder.hold()
    config = saved_config(folder, task)
    _refuse_finished(folder)
    task = task or make_task(config)
    payload, notes = checkpoint.newest_good(folder.checkpoints)
    plan = Plan.from_dict(payload["plan"] if payload else read_json(folder.dir / PLAN))
    session = assemble.build(Loaded(config, {}, (), Arguments()), task, plan=plan)
    _refuse_other_data(folder, session)
    judged = Judged(resumed=True)
    if payload is not None:
        session.state.load_state_dict(payload)
        reached = Outcome(train_loss=payload["train_loss"], metrics=payload["metrics"])
        judged = Judged(payload["callbacks"], payload["seconds"], reached, resumed=True)
    step = session.state.step
    folder.truncate_metrics(step)
    folder.truncate_log(step)
    checkpoint.forget_after(folder.checkpoints, step)
    where = f"resumed at step {step:,}" if payload else "no checkpoint yet: starting from the first step"
    return _conduct(session, folder, reporter or Silent(), [*notes, where], callbacks, started, judged)


def _conduct(
    session: Session,
    folder: RunFolder,
    reporter: Reporter,
    notes: Sequence[str],
    callbacks: Sequence[Any],
    started: float,
    judged: Judged,
) -> Run:
    """Train from the session's state to the end, and write what came of it."""
    config, plan, state = session.config, session.plan, session.state
    level = config.experiment.log_level
    purge = state.step + 1 if judged.resumed else None
    trackers = [TensorBoard(folder.dir / "tensorboard", purge)] if "tensorboard" in config.experiment.trackers else []
    hooks, judge = assemble.observe(session, [Recorder(folder, reporter, trackers), *callbacks])
    hooks.load_state_dict(judged.states)
    reporter.start(
        f"{config.task} | {folder.dir.name}",
        [*notes, *plan.lines(), *session.remarks, *(plan.all_lines() if level == "debug" else [])],
        plan.total_steps if plan.total_steps < OPEN_ENDED else 0,
        first_step=state.step,
        memory_total=machine.memory_total(plan.torch_device) if plan.torch_device.type == "cuda" else 0,
        level=level,
    )
    save = partial(_save, session, folder, hooks, judge, judged.spent)
    evaluate = partial(_evaluate, session, reporter) if session.splits.val is not None else None
    startup = time.time() - started
    reporter.phase("compiling" if plan.compile != "off" else "")
    outcome = loop.fit(state, session.feed(), hooks, evaluate, save, judged.outcome)
    if outcome.status == "failed" and not (folder.checkpoints / f"step_{state.step}.pt").exists():
        save(outcome)  # the weights of the step before the fault
    outcome.seconds = _together(judged.spent, outcome)
    return _finish(session, folder, reporter, outcome, judge, startup, started)


def _evaluate(session: Session, reporter: Reporter) -> dict[str, float]:
    reporter.phase("evaluating")
    found = session.evaluate()
    reporter.phase("")
    return found


def _save(
    session: Session, folder: RunFolder, hooks: Hooks, judge: Judge, spent: Mapping[str, float], outcome: Outcome
) -> None:
    """Write a checkpoint of the state as it is."""
    folder.sync()  # the records that it takes as written must be on the disk before it
    state = session.state
    metric = outcome.metrics.get(judge.metric) if outcome.evaluated_at == state.step else None
    payload = {
        **state.state_dict(),
        "plan": session.plan.to_dict(),
        "config": to_plain(session.config),
        "callbacks": hooks.state_dict(),
        "metrics": outcome.metrics,
        "train_loss": outcome.train_loss,
        "seconds": _together(spent, outcome),
    }
    _keeper(session, folder, judge).save(state.step, payload, metric)


def _finish(
    session: Session,
    folder: RunFolder,
    reporter: Reporter,
    outcome: Outcome,
    judge: Judge,
    startup: float,
    started: float,
) -> Run:
    """Final weights, summary, closing line; then the exit that the outcome asks for."""
    state = session.state
    if outcome.status != "interrupted":
        checkpoint.save(folder.dir / FINAL, state.model.state_dict())
    summary = _summary(session, outcome, judge, startup, time.time() - started)
    history = folder.read_metrics()
    folder.write_json("metrics.json", history)
    if outcome.status != "interrupted":
        folder.log(f"training took {outcome.seconds['train']:.2f} seconds")
    folder.write_json(SUMMARY, summary)  # last: a run that has it is over, so nothing else may be missing
    folder.close()
    reporter.finish({**summary, "dir": str(folder.dir)})
    if outcome.status == "failed":
        raise CheckStopped(
            f"{outcome.reason}: training stopped before the update",
            where=str(folder.dir),
            fix=f"the weights of step {state.step} are good and saved; try a lower learning rate or a longer warmup",
        )
    if outcome.status == "interrupted":
        raise Interrupted(
            f"interrupted after step {state.step}; the checkpoint is saved", fix=f"hotloop resume {folder.dir}"
        )
    return Run(folder.dir, summary, history, state.model)


def _summary(session: Session, outcome: Outcome, judge: Judge, startup: float, total: float) -> dict[str, Any]:
    """training_summary.json."""
    state, plan = session.state, session.plan
    best = None
    if judge.best_value is not None:
        best = {"metric": judge.metric, "value": judge.best_value, "step": judge.best_step}
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "task": session.config.task,
        "steps": state.step,
        "epochs": round(state.step / plan.steps_per_epoch, 6),
        "train_loss": outcome.train_loss,
        **outcome.metrics,
        "best": best,
        "seconds": {"startup": startup, **outcome.seconds, "total": total},
        "effective_batch": plan.effective_batch,
        "peak_memory": machine.peak_memory(plan.torch_device),
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
    }


def _refuse_finished(folder: RunFolder) -> None:
    path = folder.dir / SUMMARY
    if not path.is_file():
        return
    summary = read_json(path)
    if summary.get("status") == "failed":
        raise HotloopError(
            f"this run stopped at a fault that the same data and options would meet again: {summary.get('reason')}",
            where=str(folder.dir),
            fix="train a new run with a lower rate, a longer warmup, or doctor.on_nan=skip",
        )
    if summary.get("status") in ("completed", "stopped"):
        raise HotloopError(
            f"this run is over after {summary.get('steps')} steps: {summary.get('reason') or 'it came to its end'}",
            where=str(folder.dir),
            fix="train a new one with more steps (training.max_steps or training.num_epochs)",
        )


def _refuse_other_data(folder: RunFolder, session: Session) -> None:
    """Going on with other data than before would be neither the old run nor a new one."""
    was, found = session.plan.steps_per_epoch, session.sampler.steps_per_epoch
    why = f"an epoch has {found:,} steps, it had {was:,}" if found != was else ""
    if read_json(folder.dir / ASSETS) != json.loads(json.dumps(session.task.assets())):
        why = f"it gives another {ASSETS} (a vocabulary, say)"
    if why:
        fix = "put the data back as it was, or train a new run"
        raise HotloopError(f"this is not the data that the run was trained on: {why}", where=str(folder.dir), fix=fix)


def _keeper(session: Session, folder: RunFolder, judge: Judge) -> checkpoint.Keeper:
    chosen = session.config.callbacks
    return checkpoint.Keeper(folder.checkpoints, chosen.save_top_k, chosen.keep_last, judge.sign)


def _together(before: Mapping[str, float], outcome: Outcome) -> dict[str, float]:
    return {name: before.get(name, 0.0) + spent for name, spent in outcome.seconds.items()}
