"""A run from start to end: the folder, the training, the summary; and going on with an interrupted one.

Everything that a later command needs is on the disk before the first step: configuration, plan, environment, the
task's assets. A run that dies at any moment is resumed from its newest whole checkpoint, or from its start.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hotloop import assemble, keeping, memory, saved
from hotloop import device as machine
from hotloop.announce import announce, recorder
from hotloop.assemble import Session
from hotloop.conclude import baselines, finish
from hotloop.config import to_yaml
from hotloop.config.arguments import Arguments
from hotloop.config.load import Loaded
from hotloop.config.schema import Config, to_plain
from hotloop.data.fingerprint import fingerprint
from hotloop.data.ledger import to_json
from hotloop.engine import checkpoint, loop
from hotloop.engine.footprint import forecast
from hotloop.engine.hooks import plain
from hotloop.engine.loop import Outcome
from hotloop.engine.plan import Choice, Plan
from hotloop.errors import HotloopError, NoMemory
from hotloop.parts import autopsy
from hotloop.runs.reporter import Reporter, Silent
from hotloop.runs.store import RunFolder
from hotloop.saved import (
    ASSETS,
    BASELINES,
    CONFIG,
    DATA,
    PLAN,
    SEARCH,
    Run,
    make_task,
    read_json,
    rooted,
    saved_config,
)
from hotloop.shortage import before_training, explained
from hotloop.task import Task
from hotloop.track.tensorboard import TensorBoard

Settle = Callable[[Loaded, Session, Reporter], Loaded | None]


def train(
    loaded: Loaded,
    task: Task | None = None,
    *,
    reporter: Reporter | None = None,
    callbacks: Sequence[Any] = (),
    started: float | None = None,
    choice: Choice = assemble.NOTHING,
    settle: Settle | None = None,
) -> Run:
    """Train in a new run folder.

    Args:
        loaded: the resolved configuration.
        task: made already; else the one that the configuration names.
        reporter: what the person sees; nothing if absent.
        callbacks: observers of the caller.
        started: when the process began, seconds since the epoch, so that start-up is counted whole.
        choice: what a search decided in place of the configuration.
        settle: asked, once the run is put together, for another configuration to train with.

    Raises:
        CheckStopped: a non-finite value stopped the run; folder and good weights are kept.
        Interrupted: Ctrl-C or SIGTERM; the run can be resumed.
        HotloopError: a fault of configuration, data or disk.
    """
    started = time.time() if started is None else started
    task = task or make_task(loaded.config)
    shown = reporter or Silent()
    loaded, task, session = settled(loaded, task, choice, settle, shown)
    plain(session.state.model.state_dict(), "the model")  # what could not be resumed is told before it is trained
    folder = _begun_folder(session, rooted(loaded.config), choice)
    notes = [*task.notes(), *loaded.notes, *choice.told]
    return _conduct(session, folder, shown, notes, callbacks, started, Judged())


def _begun_folder(session: Session, config: Config, choice: Choice) -> RunFolder:
    """A new run folder with everything that a later command needs."""
    session.config = config
    name = config.experiment.name or Path(config.task.partition(".py")[0]).name
    folder = RunFolder.create(Path(config.experiment.dir).expanduser(), name)
    folder.hold()
    folder.write_json("environment.json", machine.describe())
    folder.write_json(PLAN, session.plan.to_dict())
    folder.write_json(ASSETS, session.task.assets())
    _describe_data(session, folder, choice)
    folder.write_text("config.yaml", to_yaml(config))
    folder.write_json(CONFIG, to_plain(config))  # last: a folder with it can be resumed
    return folder


def settled(
    loaded: Loaded, task: Task, choice: Choice, settle: Settle | None, reporter: Reporter
) -> tuple[Loaded, Task, Session]:
    """The run put together, with another configuration where `settle` has one that works; see `Settle`."""
    session = _built(loaded, task, choice)
    plain_choice = replace(choice, told=(), rows=()) == assemble.NOTHING  # else something was decided before
    other = settle(loaded, session, reporter) if settle is not None and plain_choice else None
    if other is None or other.config == loaded.config:
        return other or loaded, task, session
    device = session.plan.torch_device
    del session
    memory.release(device)  # before the other one is built
    try:
        again = make_task(other.config)
        return other, again, _built(other, again, choice)
    except HotloopError as error:
        said = f"measured settings do not work here ({error.what}): training as without them"
    return replace(loaded, notes=(*loaded.notes, said)), task, _built(loaded, task, choice)


def _built(loaded: Loaded, task: Task, choice: Choice) -> Session:
    try:
        return assemble.build(loaded, task, choice=choice)
    except Exception as error:
        if not memory.is_out_of_memory(error):
            raise
        short = before_training(loaded.config, choice, error)
    raise short


@dataclass
class Judged:
    """What was known at the point from which a run goes on, besides its state; empty for a new one."""

    states: list[dict[str, Any]] = field(default_factory=list)  # of the callbacks
    spent: dict[str, float] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)
    scores: dict[int, float] = field(default_factory=dict)  # of the checkpoints so far
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
    saved.refuse_finished(folder)
    task = task or make_task(config)
    payload, notes = checkpoint.newest_good(folder.checkpoints)
    plan = Plan.from_dict(payload["plan"] if payload else read_json(folder.dir / PLAN))
    _inherit_again(task, config, folder)
    session = assemble.build(Loaded(config, {}, (), Arguments()), task, plan=plan, begun=payload is not None)
    per_epoch = session.plan.steps_per_epoch, session.parts.sampler.steps_per_epoch
    saved.refuse_other_data(folder, per_epoch, task.assets(), _fingerprints(session))
    judged = Judged(resumed=True)
    if payload is not None:
        session.state.load_state_dict(payload)
        reached, scores = Outcome(**payload["outcome"]), payload[checkpoint.SCORES]
        judged = Judged(payload["callbacks"], payload["seconds"], reached, scores, resumed=True)
    step = session.state.step
    folder.truncate_metrics(step)
    folder.truncate_log(step)
    where = _where(step, judged.outcome) if payload else "no checkpoint yet: starting from the first step"
    return _conduct(session, folder, reporter or Silent(), [*notes, where], callbacks, started, judged)


def _inherit_again(task: Task, config: Config, folder: RunFolder) -> None:
    """What the run took over from `model.init_from` when it began is in its own folder."""
    if config.model.init_from is not None:
        task.inherit(read_json(folder.dir / ASSETS))


def _where(step: int, outcome: Outcome) -> str:
    over = f"training was over at step {step:,} ({outcome.reason}): only the end is still to be written"
    return over if outcome.reason else f"resumed at step {step:,}"


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
    hooks, judge = assemble.observe(session, [recorder(session, folder, reporter, trackers), *callbacks])
    state.ask = reporter.confirm
    remarks = hooks.load_state_dict(judged.states)
    if judged.resumed:
        keeping.keeper(session, folder, judge).restore(state.step, judged.scores)
    if not judged.resumed:
        session.forecast = forecast(session.task, state, session.splits)
    announce(session, folder, reporter, [*notes, *remarks])
    save = partial(keeping.save, session, folder, hooks, judge, judged.spent)
    evaluate = partial(_evaluate, session, reporter) if session.splits.val is not None else None
    startup = time.time() - started
    reporter.phase("compiling" if plan.compile != "off" else "")
    outcome = judged.outcome
    if outcome.reason:  # it had come to its end, and died before that was written down
        hooks.tell("on_start", state)
        hooks.tell("on_end", outcome.reason)
    else:
        outcome = loop.fit(state, session.feed(), hooks, evaluate, save, outcome)
    if outcome.no_memory is not None:
        outcome.no_memory = _end_short(session, folder, save, outcome, outcome.no_memory)
    if outcome.status == "failed":
        met = state.read(reset=False).held_at or state.step  # the step whose values were not finite
        outcome.reason += "".join(f"; {line}" for line in autopsy(session.parts, met))
    if outcome.status == "failed" and not (folder.checkpoints / f"step_{state.step}.pt").exists():
        save(outcome)  # the weights of the step before the fault
    outcome.seconds = keeping.together(judged.spent, outcome)
    return finish(session, folder, reporter, outcome, judge, startup, started)


def _end_short(
    session: Session, folder: RunFolder, save: Callable[[Outcome], None], outcome: Outcome, short: NoMemory
) -> NoMemory:
    """Keep what is whole of a run that ended for want of memory, and word its end."""
    step = session.state.step
    if short.intact and not (folder.checkpoints / f"step_{step}.pt").exists():
        with contextlib.suppress(
            HotloopError, RuntimeError, MemoryError
        ):  # memory or disk short here too: say the rest
            save(outcome)
    steps = [checkpoint.step_of(path) for path in folder.checkpoints.glob("step_*.pt")]
    return explained(session, short, folder.dir, max(steps, default=-1))


def _evaluate(session: Session, reporter: Reporter) -> dict[str, float]:
    reporter.phase("evaluating")
    found = session.evaluate()
    reporter.phase("")
    return found


def _describe_data(session: Session, folder: RunFolder, choice: Choice) -> None:
    """What the run keeps of its data: fingerprints, the ledger, what simple predictors reach; and of a search on it."""
    if choice.rows:
        folder.write_json(SEARCH, choice.rows)
    folder.write_json(DATA, _fingerprints(session))
    folder.write_json(BASELINES, baselines(session))
    if session.parts.ledger is not None:
        folder.write_json("ledger.json", to_json(session.parts.ledger))


def _fingerprints(session: Session) -> dict[str, Any]:
    """Of the training and the validation part, from where they are."""
    parts, plan = {"training": session.splits.train, "validation": session.splits.val}, session.plan
    return {
        part: fingerprint(source, plan.torch_device if plan.resident and source.nbytes is not None else None)
        for part, source in parts.items()
        if source is not None
    }
