"""The transaction around a step: where memory runs out the step is taken back and repeated, the same batch in full.

Nothing of a failed attempt stays: gradients are dropped, buffers and random state put back; the loss scale and the
weights change only in the update. The first failure at a size is repeated as it was, once what nobody uses has been
given back, and is then equal to the bit to an undisturbed step. The next one is split: micro-batch halved, accumulation
doubled, effective batch unchanged. An update that fails is never repeated, for it may have been made in part.
Everything here happens outside the `except` block, so that the frames of the failed attempt are free.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hotloop import memory
from hotloop.engine.reduce import Indivisible, couples_the_batch, rows_of
from hotloop.engine.state import TrainState
from hotloop.engine.step import train_step
from hotloop.errors import NoMemory, first_line
from hotloop.task import Batch

_CAPTURING = ("reduce-overhead", "max-autotune")


def transact(state: TrainState, batch: Batch) -> tuple[Tensor, Tensor]:
    """One optimizer step, whatever it takes of memory.

    Args:
        state, batch: as in `train_step`.

    Returns:
        (loss, gradient norm), as `train_step`.

    Raises:
        NoMemory: a single row does not fit, a split is not wanted or not possible, or the update failed.
    """
    pieces = state.pieces
    if pieces.wants_to_grow:
        pieces.grow() if _has_headroom(state) else pieces.put_off()
    draws, first_failure = state.draws, True
    while True:
        before = draws.take()
        said, whole = "", False
        try:
            with state.guard:
                result = (state.captured or train_step)(state, batch)
        except Exception as error:
            if not memory.is_out_of_memory(error) and (first_failure or not isinstance(error, Indivisible)):
                raise
            said, whole = first_line(error), isinstance(error, Indivisible)
        if not said:
            draws.settle(before)
            if smaller := pieces.done():
                state.tell(_changed(state, "memory allows it again", smaller, pieces.rows), "info")
            return result
        _take_back(state, before, said)
        if whole:
            raise _end(state, f"out of memory at step {state.step + 1}, and the step cannot be split: {said}", 0)
        _decide(state, rows_of(batch), first_failure, said)
        first_failure = False


def _take_back(state: TrainState, before: Any, said: str) -> None:
    """Undo a failed attempt; refuse where the update had begun."""
    state.pieces.retries += 1
    for parameter in state.parameters:
        parameter.grad = None
    memory.release(state.plan.torch_device)
    if state.updating:
        raise NoMemory(
            f"out of memory in the update of step {state.step + 1} ({said}): it may have been made in part, so it is "
            "neither repeated nor saved",
            fix="begin again with a smaller state (optimization.optimizer=adamw8bit), or with less beside it",
            intact=False,
        )
    state.put_buffers_back()
    state.draws.restore(before)


def _decide(state: TrainState, rows: int, first_failure: bool, said: str) -> None:
    """Set how the batch is cut for the next attempt, and say so in one line."""
    pieces, step = state.pieces, state.step + 1
    now = min(pieces.rows, rows)
    if pieces.take_growth_back():
        line = f"step {step}: micro-batch {now} still does not fit; tried again after {pieces.wait} quiet steps"
        state.tell(line, "info")
        return
    if not state.plan.recover:
        fix = "memory.recover=on, which repeats such a step in smaller micro-batches"
        raise _end(state, f"out of memory at step {step} ({said}), and memory.recover is off", now, fix)
    if first_failure and pieces.spared != now:
        pieces.spared = now
        state.tell(f"OOM at step {step}: unused memory given back, repeated in micro-batches of {now} rows", "warning")
        return
    coupled = couples_the_batch(state.model)
    smaller = half(now, coupled)
    if not smaller:
        fewest = "two rows, the fewest that BatchNorm can train on" if coupled and now > 1 else "a single row"
        raise _end(state, f"out of memory at step {step} on {fewest} ({said})", now)
    if state.plan.compile in _CAPTURING:
        why = f"and compile={state.plan.compile} cannot train in several micro-batches: use training.compile=default"
        raise _end(state, f"out of memory at step {step} ({said}), {why}", now)
    consequence = _consequence(state.model)
    if coupled and not _may_split(state, step, now):
        why = f"and a smaller micro-batch is refused (memory.on_batchnorm={state.plan.on_batchnorm})"
        raise _end(state, f"out of memory at step {step} ({said}), {why}: {consequence}", now)
    pieces.shrink(smaller)
    state.tell(_changed(state, "", now, pieces.rows, rows) + (f"; {consequence}" if consequence else ""), "warning")


def half(now: int, coupled: bool) -> int:
    """Rows of the next smaller micro-batch: half of `now`, rounded up; 0 where there is none.

    A layer that couples the rows cannot train on one alone, so there two are the fewest.
    """
    fewest = 2 if coupled else 1
    return max(fewest, -(-now // 2)) if now > fewest else 0


def _changed(state: TrainState, why: str, before: int, after: int, rows: int | None = None) -> str:
    rows = rows or state.plan.effective_batch
    sizes = f"micro-batch {before} -> {after}, accumulation {-(-rows // before)} -> {-(-rows // after)}"
    cause = f"OOM at step {state.step + 1}: " if not why else f"step {state.step + 1}: {why}: "
    return f"{cause}{sizes}, effective batch unchanged"


def _end(state: TrainState, what: str, rows: int, fix: str = "") -> NoMemory:
    """The end of a run whose state is whole; one row of the batch is to blame only where it was alone in its piece."""
    row = max(state.pieces.begun, 1) - 1 if rows == 1 else None
    return NoMemory(what, fix=fix, row=row, intact=True)


def _may_split(state: TrainState, step: int, rows: int) -> bool:
    wanted = state.plan.on_batchnorm
    if wanted != "ask":
        return wanted == "allow"
    return state.ask(
        f"Out of memory at step {step}. Micro-batches of {half(rows, True)} rows instead of {rows} take less, but "
        f"{_consequence(state.model)}. Go on with them?"
    )


def _consequence(model: nn.Module) -> str:
    """What a split changes besides rounding; empty where it changes nothing else."""
    parts = (
        ["BatchNorm (or another layer that mixes rows) sees fewer rows at a time"] if couples_the_batch(model) else []
    )
    parts += ["dropout draws other masks"] if has_dropout(model) else []
    return f"{' and '.join(parts)}, so the result is not the one of an unsplit step" if parts else ""


def has_dropout(model: nn.Module) -> bool:
    """Whether a layer draws random masks in training: a Dropout, or a `dropout` above 0 inside another layer."""
    for module in model.modules():
        rate = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0.0)
        if isinstance(rate, float) and rate > 0 and module.training:
            return True
    return False


def _has_headroom(state: TrainState) -> bool:
    """Whether a tenth of the memory is free, so that a larger micro-batch is worth a try."""
    return memory.free_share(state.plan.torch_device, state.plan.memory_limit) > 0.1
