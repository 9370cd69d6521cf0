"""A run from start to end: the folder, the training, the summary; and going on with an interrupted one.

Everything that a later command needs is on the disk before the first step: configuration, plan, environment, the
task's assets. A run that dies at any moment is resumed from its newest whole checkpoint, or from its start.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from hotloop import assemble
from hotloop import device as machine
from hotloop.assemble import Session
from hotloop.config.arguments import Arguments
from hotloop.config.load import Loaded, read_saved
from hotloop.config.schema import Config, TaskOptions, to_plain
from hotloop.disk import replacing
from hotloop.engine import checkpoint, loop
from hotloop.engine.callbacks import Judge
from hotloop.engine.loop import Outcome
from hotloop.engine.plan import Plan
from hotloop.errors import CheckStopped, HotloopError, Interrupted
from hotloop.runs.console import Reporter, Silent
from hotloop.runs.recorder import Recorder
from hotloop.runs.store import RunFolder
from hotloop.task import Task, options_of
from hotloop.tasks import BUILTIN, task_class
from hotloop.tasks.own import load_user_task
from hotloop.track.tensorboard import TensorBoard

SUMMARY, PLAN, ASSETS = "training_summary.json", "plan.json", "assets.json"


@dataclass
class Run:
    """A finished (or interrupted) run.

    Attributes:
        dir: its folder.
        summary: what training_summary.json holds.
        history: the records of metrics.jsonl.
        model: with the weights of the last step; None where the run was only read and its task is not at hand.
    """

    dir: Path
    summary: dict[str, Any]
    history: list[dict[str, Any]] = field(repr=False)
    model: nn.Module | None = field(default=None, repr=False)


def find_task(name: str) -> tuple[TaskOptions, type[Task]]:
    """A built-in task by its name, or a person's own as FILE.py:CLASS."""
    if ".py" in name and name not in BUILTIN:
        return load_user_task(name)
    found = task_class(name)
    return options_of(found, name), found


def make_task(config: Config) -> Task:
    """The task that a configuration names, with its options."""
    _, found = find_task(config.task)
    return found(config.model, config.data, seed=config.experiment.seed)


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
    folder.write_text("config.yaml", yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True))
    folder.write_json("config.json", to_plain(config))  # last: a folder with it can be resumed
    notes = [*task.notes(), *loaded.notes]
    return _conduct(session, folder, reporter or Silent(), notes, callbacks, started, Judged())


@dataclass
class Judged:
    """State of the callbacks at the point from which a run goes on; empty for a new one."""

    states: list[dict[str, Any]] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)
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
    plan = Plan.from_dict(payload["plan"] if payload else _read_json(folder.dir / PLAN))
    session = assemble.build(Loaded(config, {}, (), Arguments()), task, plan=plan)
    judged = Judged(resumed=True)
    if payload is not None:
        session.state.load_state_dict(payload)
        judged = Judged(payload["callbacks"], payload["seconds"], resumed=True)
    step = session.state.step
    folder.truncate_metrics(step)
    folder.truncate_log(step)
    _keeper(session, folder).forget_after(step)
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
    purge = state.step + 1 if judged.resumed else None
    trackers = [TensorBoard(folder.dir / "tensorboard", purge)] if "tensorboard" in config.experiment.trackers else []
    hooks, judge = assemble.observe(session, [Recorder(folder, reporter, trackers), *callbacks])
    hooks.load_state_dict(judged.states)
    reporter.start(
        f"{config.task} | {folder.dir.name}",
        [*notes, *plan.lines(), *session.remarks],
        plan.total_steps,
        first_step=state.step,
        memory_total=machine.memory_total(plan.torch_device) if plan.torch_device.type == "cuda" else 0,
    )
    keeper = _keeper(session, folder)
    startup = time.time() - started

    def save(outcome: Outcome) -> None:
        folder.sync()  # what the checkpoint takes as written must be on the disk before it
        metric = outcome.metrics.get(judge.metric) if outcome.evaluated_at == state.step else None
        payload = {**state.state_dict(), "plan": plan.to_dict(), "config": to_plain(config)}
        extra = {"callbacks": hooks.state_dict(), "metrics": outcome.metrics, "seconds": _together(judged.spent, outcome)}
        keeper.save(state.step, {**payload, **extra}, metric)

    evaluation = session.evaluate if session.splits.val is not None else None
    outcome = loop.fit(state, session.feed(), hooks, evaluation, save)
    outcome.seconds = _together(judged.spent, outcome)
    if outcome.status == "failed":
        save(outcome)  # the weights of the step before the fault
    return _finish(session, folder, reporter, outcome, judge, startup, started)


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
        with replacing(folder.dir / "final_model.pt") as file:
            torch.save(state.model.state_dict(), file)
    summary = _summary(session, outcome, judge, startup, time.time() - started)
    folder.write_json(SUMMARY, summary)
    history = folder.read_metrics()
    folder.write_json("metrics.json", history)
    folder.log(f"training took {outcome.seconds['train']:.2f} seconds")
    folder.close()
    reporter.finish({**summary, "dir": str(folder.dir)})
    if outcome.status == "failed":
        raise CheckStopped(
            f"{outcome.reason}: training stopped before the update",
            where=str(folder.dir),
            fix=f"the weights of step {state.step} are good and saved; try a lower learning rate, longer warmup, or fp32",
        )
    if outcome.status == "interrupted":
        raise Interrupted(f"interrupted after step {state.step}; the checkpoint is saved", fix=f"hotloop resume {folder.dir}")
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


def load_run(path: Path | str) -> Run:
    """A run from its folder: summary, history, and for built-in tasks the model with its final weights.

    Raises:
        HotloopError: not a run folder.
    """
    folder = RunFolder.open(path)
    summary = _read_json(folder.dir / SUMMARY) if (folder.dir / SUMMARY).is_file() else {"status": "unfinished"}
    return Run(folder.dir, summary, folder.read_metrics(), _saved_model(folder))


def _saved_model(folder: RunFolder) -> nn.Module | None:
    """The task's model with the newest weights; None for a run of `hotloop.fit`, whose model only its caller has."""
    name = _read_json(folder.dir / "config.json").get("task", "")
    if name == FIT:
        return None
    task = make_task(saved_config(folder, None))
    task.use_assets(_read_json(folder.dir / ASSETS))
    model = task.model()
    final = folder.dir / "final_model.pt"
    path = final if final.is_file() else folder.checkpoints / checkpoint.LAST
    stored = checkpoint.load(path)
    model.load_state_dict(stored if path == final else stored["model"])
    return model.eval()


FIT = "fit"
"""What the configuration of a run of `hotloop.fit` names as its task."""


def saved_config(folder: RunFolder, task: Task | None) -> Config:
    """The configuration that a run wrote about itself."""
    name = _read_json(folder.dir / "config.json").get("task", "")
    if name == FIT and task is None:
        raise HotloopError(
            "this run was started from Python, and its model and data are not in its folder",
            where=str(folder.dir),
            fix="call hotloop.fit again with the same model and data and resume_from_checkpoint=...",
        )
    options = options_of(type(task), name) if task is not None else find_task(name)[0]
    return read_saved(folder.dir / "config.json", options)


def _refuse_finished(folder: RunFolder) -> None:
    path = folder.dir / SUMMARY
    if path.is_file() and (summary := _read_json(path)).get("status") in ("completed", "stopped"):
        raise HotloopError(
            f"this run is over after {summary.get('steps')} steps: {summary.get('reason') or 'it came to its end'}",
            where=str(folder.dir),
            fix="train a new one with more steps (training.max_steps or training.num_epochs)",
        )


def _keeper(session: Session, folder: RunFolder) -> checkpoint.Keeper:
    chosen = session.config.callbacks
    judge = next(c for c in assemble.observe(session)[0].callbacks if isinstance(c, Judge))
    return checkpoint.Keeper(folder.checkpoints, chosen.save_top_k, chosen.keep_last, judge.sign)


def _together(before: Mapping[str, float], outcome: Outcome) -> dict[str, float]:
    return {name: before.get(name, 0.0) + spent for name, spent in outcome.seconds.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HotloopError(f"{path.name} cannot be read: {error}", where=str(path.parent)) from error
    if not isinstance(value, dict):
        raise HotloopError(f"{path.name} is not a JSON object", where=str(path))
    return value


