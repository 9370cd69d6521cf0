"""What a micro-batch, an update and a whole step cost, in seconds and bytes, of a run that was put together.

The session is the gauge's own, in a process of its own or on a copy of the model: what happens to its weights and
counters is nobody's loss. Rows are the longest of the training part, and the optimizer has its state before anything
is measured. Bytes are above what the process had of its own before data and model were there.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from hotloop import memory
from hotloop.assemble import Session
from hotloop.engine import measure
from hotloop.engine.footprint import made_bytes
from hotloop.engine.recompute import supports
from hotloop.engine.reduce import couples_the_batch, micro_batches, rows_of
from hotloop.engine.step import train_step
from hotloop.errors import HotloopError
from hotloop.task import Batch
from hotloop.tune.knee import pieces_of
from hotloop.tune.longest import widest_batch, widest_validation

_ROUNDS, _MOST = 3, 12
_SHORT, _LONG, _VERY_LONG = 0.06, 2.0, 10.0  # seconds: quicker passes are timed more often, slower ones less
_FEW = 2  # rows of the step that an update is timed with
NO_ROOM = "out of memory"


@dataclass(frozen=True)
class Facts:
    """What is known of a run once it was put together.

    Args:
        precision, optimizer, micro_batch: as resolved.
        effective: rows that an optimizer step sees by the configuration; `rows`: that the data has for it.
        recomputes: the model knows gradient checkpointing.
        couples: BatchNorm: a row's result depends on the rows beside it.
        weights, state: bytes of the parameters, and of what the optimizer keeps.
        built: bytes at the highest point of putting it together.
        resets: the system can begin a peak anew, so that a size's peak is its own.
        remarks: of the run, for the person.
    """

    device: str
    precision: str
    optimizer: str
    micro_batch: int
    effective: int
    rows: int
    eval_batch: int
    recomputes: bool
    couples: bool
    weights: int
    state: int
    built: int
    resets: bool
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What one size costs. Where it did not run, `ran` is False and the note says why.

    Args:
        size: rows of the micro-batch.
        seconds: of a forward and backward pass over one micro-batch; in a confirmation, of a whole step.
        update: seconds of the optimizer's update; in a confirmation part of `seconds`.
        peak: bytes at the highest point.
    """

    size: int
    ran: bool
    seconds: float = 0.0
    update: float = 0.0
    peak: int = 0
    note: str = ""


class Gauge:
    """Measures one session, size after size.

    Args:
        session: used up by it.
        resets: whether the peak was begun anew before the session was put together.
    """

    def __init__(self, session: Session, resets: bool) -> None:
        self._session, self._resets = session, resets
        self._device = session.plan.torch_device
        self._batch = widest_batch(session)
        self._update: float | None = None

    def facts(self) -> Facts:
        """What is known before anything is measured."""
        session, plan = self._session, self._session.plan
        model = session.state.model
        return Facts(
            device=str(self._device),
            precision=plan.precision,
            optimizer=plan.optimizer,
            micro_batch=plan.micro_batch,
            effective=plan.effective_batch,
            rows=rows_of(self._batch),
            eval_batch=plan.eval_batch,
            recomputes=supports(model),
            couples=couples_the_batch(model),
            weights=sum(p.numel() * p.element_size() for p in model.parameters()),
            state=made_bytes(session.state.optimizers),
            built=self._peak(),
            resets=self._resets,
            remarks=tuple(session.remarks),
        )

    def measure(self, size: int) -> Cost:
        """Time and peak of one micro-batch of `size` rows; too little memory is an answer."""
        memory.release(self._device)
        memory.reset_peak(self._device)
        note, seconds = "", 0.0
        try:
            if self._update is None:
                self._update = self._time_update(min(size, _FEW))  # the optimizer has its state from here on
            seconds = self._passes(self._batch, size)
        except Exception as error:  # the failed frames are let go before anything else is done
            note = _why(error)
        self._drop_gradients()
        peak = self._peak()
        memory.release(self._device)  # whether the next size fits is judged by what the system has free
        return Cost(size, not note, seconds, self._update or 0.0, peak, note)

    def confirm(self, steps: int) -> Cost:
        """Real steps on the whole effective batch, an evaluation batch, and what the end of a run needs.

        The peak is that of everything since before the session was put together.
        """
        size, note, spent = self._session.plan.micro_batch, "", [0.0]
        try:
            spent = [self._clocked(lambda: self._train(self._batch)) for _ in range(steps)]
            self._evaluate()
            self._end()
        except Exception as error:
            note = _why(error)
        self._drop_gradients()
        return Cost(size, not note, median(spent[1:] or spent), 0.0, self._peak(), note)

    def _time_update(self, few: int) -> float:
        """Seconds of an update: of a step on few rows, less the pass over them."""
        batch = next(micro_batches(self._batch, few))
        self._step(batch)
        return max(0.0, self._timed(lambda: self._step(batch)) - self._passes(batch, few))

    def _passes(self, batch: Batch, size: int) -> float:
        """Seconds of a pass: the median of some after one that is not counted."""
        state = self._session.state
        micro = next(micro_batches(batch, size))
        totals = state.totals(batch)
        pieces = pieces_of(rows_of(batch), size)

        def once() -> None:
            if pieces == 1:
                self._drop_gradients()  # with several pieces those of the pieces before are there
            part: Tensor = state.micro_loss(micro, totals)
            (part if state.scaler is None else part * state.scaler.scale).backward()  # type: ignore[no-untyped-call]

        return self._timed(once)

    def _timed(self, once: Callable[[], object]) -> float:
        """Seconds of one call: the median of at least three after a first one; that alone where it takes long."""
        first = self._clocked(once)
        if first > _LONG:  # what a first call costs beside its work matters little in it, a disturbance may
            return first if first > _VERY_LONG else min(first, self._clocked(once))
        spent: list[float] = []
        while len(spent) < _MOST and sum(spent) < (_LONG if len(spent) < _ROUNDS else _SHORT):
            spent.append(self._clocked(once))
        return median(spent)

    def _clocked(self, once: Callable[[], object]) -> float:
        started = time.perf_counter()
        once()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - started

    def _step(self, batch: Batch) -> None:
        """A real step on rows that are one micro-batch."""
        self._drop_gradients()
        self._session.state.pieces.rows = rows_of(batch)
        self._train(batch)

    def _train(self, batch: Batch) -> None:
        train_step(self._session.state, batch)
        self._session.state.applied.zero_()  # the schedule of a short run has no rate for more updates than it makes

    def _evaluate(self) -> None:
        session, source = self._session, widest_validation(self._session)
        if source is not None:
            measure.evaluate(session.task, session.state.model, source, session.plan)

    def _end(self) -> None:
        """The end of a run reads its best checkpoint back, beside the model, into the host's memory."""
        if self._device.type == "cpu" and measure.gives_outputs(self._session.task):
            state = self._session.state
            weights, moments = state.model.state_dict(), [optimizer.state for optimizer in state.optimizers]
            copies = [copy.deepcopy(weights), copy.deepcopy(weights), copy.deepcopy([dict(one) for one in moments])]
            del copies

    def _drop_gradients(self) -> None:
        for parameter in self._session.state.parameters:
            parameter.grad = None

    def _peak(self) -> int:
        """Bytes at the highest point, as the guard of a budget counts them while the run trains."""
        own = 0 if self._device.type == "cuda" else memory.own_peak()
        return max(0, (own or memory.peak(self._device)) - self._session.state.guard.baseline)


def _why(error: Exception) -> str:
    """Why a size did not run, in a line; an error that is no fault of the size's is raised."""
    if memory.is_out_of_memory(error):
        return NO_ROOM
    if isinstance(error, HotloopError):
        return error.what
    if isinstance(error, ValueError | RuntimeError | IndexError):
        return (str(error) or type(error).__name__).splitlines()[0]
    raise error
