"""What a run's checkpoint holds beside the state, and which checkpoints stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from hotloop.assemble import Session
from hotloop.config.schema import to_plain
from hotloop.engine import checkpoint
from hotloop.engine.callbacks import Judge
from hotloop.engine.hooks import Hooks
from hotloop.engine.loop import Outcome
from hotloop.runs.store import RunFolder


def save(
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
        "outcome": _as_kept(outcome),
        "seconds": together(spent, outcome),
    }
    keeper(session, folder, judge).save(state.step, payload, metric)


def _as_kept(outcome: Outcome) -> dict[str, Any]:
    """The outcome as a run that goes on from here should begin with; an interruption does not go on."""
    found = asdict(replace(outcome, no_memory=None))
    del found["seconds"], found["no_memory"]
    return {**found, "status": "completed", "reason": ""} if outcome.status == "interrupted" else found


def keeper(session: Session, folder: RunFolder, judge: Judge) -> checkpoint.Keeper:
    chosen = session.config.callbacks
    return checkpoint.Keeper(folder.checkpoints, chosen.save_top_k, chosen.keep_last, judge.sign)


def together(before: Mapping[str, float], outcome: Outcome) -> dict[str, float]:
    return {name: before.get(name, 0.0) + spent for name, spent in outcome.seconds.items()}
