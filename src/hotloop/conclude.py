"""The end of a run: final weights, the test part, the task's own conclusion and its pictures, the summary.

What is concluded is of the best weights (or the last, where none were kept as best), which are those that later
commands use; the model has the last ones again afterwards. The summary is written last: a run that has it is over.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hotloop import device as machine
from hotloop.assemble import Session
from hotloop.engine import checkpoint, measure, recompute
from hotloop.engine.blame import telling_whose
from hotloop.engine.callbacks import Judge
from hotloop.engine.loop import Outcome
from hotloop.engine.state import TrainState
from hotloop.errors import CheckStopped, HotloopError, Interrupted
from hotloop.runs.pictures import plot_confusion
from hotloop.runs.reporter import Reporter
from hotloop.runs.store import RunFolder
from hotloop.runs.wording import evaluation_warning
from hotloop.saved import BASELINES, FINAL, SUMMARY, Run, read_json


def finish(
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
    recompute.remove(state.model)  # what is handed back trains no more
    if state.average is not None and outcome.status != "interrupted":
        state.average.copy_into_model()  # what was evaluated is what is kept; the last checkpoint has both
    if outcome.status != "interrupted":
        checkpoint.save(folder.dir / FINAL, state.model.state_dict())
    concluded = conclude(session, folder) if outcome.status in ("completed", "stopped") else {}
    summary = {**_summary(session, outcome, judge), **concluded, "baselines": baselines_of(folder)}
    summary["seconds"] = {"startup": startup, **outcome.seconds, "total": time.time() - started}
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
    if outcome.no_memory is not None:
        raise outcome.no_memory
    if outcome.status == "interrupted":
        raise Interrupted(
            f"interrupted after step {state.step}; the checkpoint is saved", fix=f"hotloop resume {folder.dir}"
        )
    return Run(folder.dir, summary, history, state.model)


def _summary(session: Session, outcome: Outcome, judge: Judge) -> dict[str, Any]:
    """training_summary.json."""
    state, plan = session.state, session.plan
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "task": Path(session.config.task).name,
        "steps": state.step,
        "epochs": round(state.step / plan.steps_per_epoch, 6),
        "train_loss": outcome.train_loss,
        **outcome.metrics,
        **({"warning": warning} if (warning := evaluation_warning(outcome.metrics)) else {}),
        "best": judge.verdict,
        "seconds": {},
        "recompiles": outcome.recompiles,
        "effective_batch": plan.effective_batch,
        "peak_memory": state.guard.process_peak(),
        "memory": _memory(session),
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
    }


def _memory(session: Session) -> dict[str, Any]:
    """What the run took of memory from its first step to its last, beside what was forecast; bytes, 0 for no limit."""
    found, state = session.forecast, session.state
    foreseen = {} if found is None else {"forecast": found.total, "parts": found.to_dict()}
    return {**foreseen, "peak": state.guard.peak(), "limit": state.guard.limit, "oom_retries": state.pieces.retries}


def baselines(session: Session) -> dict[str, dict[str, float]]:
    """What simple predictors reach on the same rows; worked out once, before training."""
    with machine.undisturbed(session.plan.torch_device), telling_whose("the baselines"):
        return session.task.baselines(session.parts.plain)


def baselines_of(folder: RunFolder) -> dict[str, dict[str, float]]:
    """The baselines that a run's folder holds; none where it has no such file."""
    return read_json(folder.dir / BASELINES) if (folder.dir / BASELINES).is_file() else {}


def conclude(session: Session, folder: RunFolder) -> dict[str, Any]:
    """Measure the best weights once more and write what comes of it.

    Returns:
        What goes into the summary: `weights` (best or last), test_NAME, and what the task concludes. A fault in the
        person's own code or on the disk is told as `conclusion_failed` and costs nothing that was trained.
    """
    task, splits = session.task, session.splits
    if splits.test is None and not measure.gives_outputs(task):
        return {}
    try:
        with _best_weights(session.state, folder) as which, telling_whose("the conclusion"):
            found = {"weights": which, **_test(session), **_of_the_task(session)}
        if "confusion" in found:
            subtitle = f"validation, {which} weights; rows: true class, share of each row"
            picture = folder.dir / "confusion.png"
            plot_confusion(found["confusion"], found["classes"], picture, folder.dir.name, subtitle)
    except HotloopError as error:
        return {"conclusion_failed": str(error)}
    return found


@contextlib.contextmanager
def _best_weights(state: TrainState, folder: RunFolder) -> Iterator[str]:
    """The model with its best weights inside, and the last ones again outside."""
    path = folder.checkpoints / checkpoint.BEST
    if not path.is_file():
        yield "last"
        return
    last = {name: tensor.detach().clone() for name, tensor in state.model.state_dict().items()}
    state.model.load_state_dict(checkpoint.weights_of(checkpoint.load(path)))
    try:
        yield "best"
    finally:
        state.model.load_state_dict(last)


def _test(session: Session) -> dict[str, float]:
    source = session.splits.test
    if source is None:
        return {}
    return measure.prefixed(
        measure.evaluate(session.task, session.state.model, source, session.plan, session.room), "test"
    )


def _of_the_task(session: Session) -> dict[str, Any]:
    task, splits = session.task, session.splits
    if not measure.gives_outputs(task):
        return {}
    sources = {"val": splits.val, "test": splits.test}
    model, plan, room = session.state.model, session.plan, session.room
    given = {name: source for name, source in sources.items() if source is not None}
    parts = {name: measure.outputs(task, model, source, plan, room) for name, source in given.items()}
    return task.conclude(parts) if parts else {}
