"""One lane of a race: a run, put together as training would, that makes real steps when it is told to.

A step here is the whole of it: the batch is waited for, the transaction and the update are in it. The first steps are
apart, as they pay for compilation and for what any first call pays for. Lanes in processes of their own are spoken to
through `tune.child`; a test may hold one directly.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from hotloop import assemble, memory
from hotloop import device as machine
from hotloop.assemble import Session
from hotloop.config.load import Loaded
from hotloop.data.loader import fetch
from hotloop.data.ragged import shapes_of, source_buckets
from hotloop.data.stream import StreamSource
from hotloop.engine import dropout
from hotloop.engine.blocks import blocks_of
from hotloop.engine.plan import apply_to_process
from hotloop.engine.recover import transact
from hotloop.engine.reduce import couples_the_batch, micro_batches
from hotloop.errors import HotloopError
from hotloop.task import Batch, Task
from hotloop.tune import proof
from hotloop.tune.settings import PLAIN, with_knobs
from hotloop.usage import Meter

Build = Callable[[Loaded], Session]
_ATTENTION = {"scaled_dot_product_attention", "sdpa_attention_forward", "attend", "attend_to"}
_SHAPES = 40  # further steps at most, in which the shapes of batches are met and compiled
_WORKERS_SECONDS = 3.0  # of a burst that is longer because processes read ahead, at most
_WARM = 3  # steps before the first that counts, besides the very first


@dataclass(frozen=True)
class LaneFacts:
    """What is known of a run once it was put together.

    Args:
        plan: as resolved, JSON-ready.
        parameters: how many.
        convolves: it has convolutions over 4-D tensors, which channels_last is for.
        repeats: it has repeated blocks, which can be compiled one for all.
        attends: it has attention layers.
        drops: it has dropout layers that drop anything.
        couples: BatchNorm: a row's result depends on the rows beside it.
        shapes: how many a batch has.
        bytes: of the training data, None where it is fetched item by item.
        shape: what of the data decides over speed: trailing sizes and types of a batch.
    """

    plan: dict[str, Any]
    parameters: int
    convolves: bool
    repeats: bool
    attends: bool
    drops: bool
    couples: bool
    shapes: int
    bytes: int | None
    shape: dict[str, Any]


@dataclass(frozen=True)
class Burst:
    """Some steps on end.

    Args:
        steps: how many.
        seconds: of all of them.
        rows: that they saw, by the mean of an epoch: its last batch may be shorter.
        use: how busy the device was, 0 to 1; None where that is not told.
    """

    steps: int
    seconds: float
    rows: float
    use: float | None = None


class Lane:
    """A run that makes steps on demand.

    Args:
        loaded: its configuration.
        build: puts a session together; the default builds the task that the configuration names.
    """

    def __init__(self, loaded: Loaded, build: Build) -> None:
        self._loaded, self._build = loaded, build
        memory.reset_peak(machine.pick_device(loaded.config.training.device))
        self._session = build(loaded)
        state = self._session.state.state_dict()
        self._fresh = copy.deepcopy({name: value for name, value in state.items() if name != "model"})
        self._feed: Iterator[Batch] | None = None

    @property
    def _device(self) -> torch.device:
        return self._session.plan.torch_device

    def facts(self) -> LaneFacts:
        """What is known before anything is measured."""
        session = self._session
        model, train = session.state.model, session.parts.host.train
        return LaneFacts(
            plan=session.plan.to_dict(),
            parameters=sum(p.numel() for p in model.parameters()),
            convolves=any(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in model.modules()),
            repeats=len(blocks_of(model)) > 1,
            attends=any(_attends(part) for part in model.modules()),
            drops=bool(dropout.layers_of(model)),
            couples=couples_the_batch(model),
            shapes=shapes_of(train) + bool(self._short),
            bytes=train.nbytes,
            shape=data_shape(session),
        )

    def warm(self) -> float:
        """Make the first steps. Returns what the very first took beyond a later one, in seconds: compilation.

        Raises:
            HotloopError: the step was to be captured, and cannot be.
        """
        plan, state = self._session.plan, self._session.state
        shapes = min(_SHAPES, 2 * shapes_of(self._session.parts.host.train)) if plan.compile != "off" else 0
        first = self._burst(1).seconds
        rest = [self._burst(1).seconds for _ in range(_WARM + shapes)]
        if self._short:  # what ends an epoch is compiled now, not in the middle of a race
            self._step(next(micro_batches(next(self._batches()), self._short)))
        if state.captured is not None and state.captured.off:
            raise HotloopError(f"the step cannot be captured: {state.captured.off}")
        return max(0.0, first - min(rest))

    @property
    def _short(self) -> int:
        """Rows of an epoch's last batch where it is a shape of its own for the compiler; 0 where it is not."""
        plan = self._session.plan
        left = _last_rows(self._session)
        return 0 if plan.compile == "off" or plan.pad_ragged or left == plan.effective_batch else left

    def run(self, seconds: float) -> Burst:
        """Make steps for about so long, at least one, after one that is not counted: it follows a pause.

        Where processes read the data, what they had made ready meanwhile is used up first, and they end with the burst:
        they would else work in the others' turns, and their work would look free.
        """
        plan = self._session.plan
        ahead = plan.num_workers * max(1, plan.prefetch) if plan.num_workers else 0
        one = self._burst(1 + ahead)
        pace = one.seconds / one.steps
        if ahead:  # the first ones waited for the processes to start, and what these make ready is used up next
            one = self._burst(max(1, min(ahead, int(seconds / pace))))
            pace = one.seconds / one.steps
        least = min(2 * ahead, int(_WORKERS_SECONDS / pace)) if pace > 0 else 0
        meter = Meter(self._device)
        burst = self._burst(max(1, least, int((seconds - pace) / pace) if pace > 0 else 1))
        burst = replace(burst, use=meter.share())
        if ahead:
            self._end_feed()
        if plan.keep_freed:
            memory.trim()  # while others have their turn; the first step after it is not counted
        return burst

    def _end_feed(self) -> None:
        getattr(self._feed, "close", lambda: None)()
        self._feed = None

    def _burst(self, steps: int) -> Burst:
        feed = self._batches()
        self._wait()
        started = time.perf_counter()
        for _ in range(steps):
            self._step(next(feed))
        self._wait()
        return Burst(steps, time.perf_counter() - started, steps * _rows_a_step(self._session))

    def _step(self, batch: Batch) -> None:
        state = self._session.state
        if state.step % max(1, state.plan.total_steps) == 0:
            state.applied.zero_()  # the schedule has no rate for more updates than the run makes
        transact(state, batch)
        state.step += 1

    def _batches(self) -> Iterator[Batch]:
        self._feed = self._session.feed() if self._feed is None else self._feed
        return self._feed

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def peak(self) -> int:
        """Bytes at the highest point, above what the process had before data and model were there."""
        own = 0 if self._device.type == "cuda" else memory.own_peak()
        return max(0, (own or memory.peak(self._device)) - self._session.state.guard.baseline)

    def gradients(self, precision: str | None = None) -> proof.Gradients:
        """What the optimizer gets in the first steps; with `precision`, in plain eager execution in that one."""
        if precision is not None:
            return self._plain_gradients(precision)
        self._begin_anew(self._loaded.config.experiment.seed)
        return proof.gradients(self._session)

    def _plain_gradients(self, precision: str) -> proof.Gradients:
        """In plain eager execution; what torch keeps for the whole process is put back for this lane's own steps."""
        plan = self._session.plan
        try:
            return proof.gradients(self._build(with_knobs(self._loaded, {**PLAIN, "training.precision": precision})))
        finally:
            apply_to_process(plan)
            machine.set_attention(plan.attention, self._device)

    def losses(self, seeds: list[int], steps: int) -> list[float]:
        """Training loss after `steps` steps of each seed: the mean over the last third."""
        found = []
        for seed in seeds:
            self._begin_anew(seed)
            found.append(proof.loss_after(self._session, steps))
        return found

    def _begin_anew(self, seed: int) -> None:
        self._end_feed()
        proof.reseed(self._session, self._fresh, seed)


def data_shape(session: Session) -> dict[str, Any]:
    """What of a run decides over which settings are fast and possible: of data, model, cut, length and device.

    Sizes that only matter roughly are powers of two, so that a few rows or steps more change nothing.
    """
    plan, state, train = session.plan, session.state, session.parts.host.train
    return {
        "rows": _row_shapes(train),
        "size": _magnitude(train.nbytes or (0 if isinstance(train, StreamSource) else len(train))),
        "steps": _magnitude(plan.total_steps),
        "device": _named_device(plan.torch_device),
        "seconds": _magnitude(int(limit)) if (limit := session.config.training.max_time) else None,
        "cores": [plan.threads, machine.usable_cores()],  # fewer than the machine has, where others are kept out
        "cut": [plan.micro_batch, plan.accumulation],
        "model": hashlib.sha256(repr(state.model).encode()).hexdigest()[:16],
        "also": [plan.deterministic, plan.offload, state.average is not None, state.max_grad_norm is not None],
    }


def _last_rows(session: Session) -> int:
    """Rows of the last batch of an epoch."""
    plan, train = session.plan, session.parts.host.train
    if isinstance(train, StreamSource):
        return plan.effective_batch
    left = len(train) - (plan.steps_per_epoch - 1) * plan.effective_batch
    return left if 0 < left < plan.effective_batch else plan.effective_batch


def _rows_a_step(session: Session) -> float:
    """The mean over an epoch."""
    plan = session.plan
    return plan.effective_batch - (plan.effective_batch - _last_rows(session)) / plan.steps_per_epoch


def _attends(part: nn.Module) -> bool:
    """Whether a part calls torch's attention."""
    code = getattr(type(part).forward, "__code__", None)
    called = set(code.co_names) & _ATTENTION if code is not None else set()
    return isinstance(part, nn.MultiheadAttention) or bool(called)


def _row_shapes(train: Any) -> Any:
    """Sizes and types of a row's tensors, or the widths that rows of different lengths come in."""
    if isinstance(train, StreamSource):
        return "stream"
    if (buckets := source_buckets(train)) is not None:
        return sorted({int(width) for width in buckets})
    row = fetch(train, torch.arange(1), None)
    return {name: [*value.shape[1:], str(value.dtype)] for name, value in row.items() if hasattr(value, "shape")}


def _named_device(device: torch.device) -> str:
    """cpu, or which of the machine's GPUs."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _magnitude(count: int) -> int:
    return int(math.log2(max(1, count)))


def build_of(task: Task) -> Build:
    """Sessions of a task that this process can build."""
    return lambda loaded: assemble.build(loaded, task)
