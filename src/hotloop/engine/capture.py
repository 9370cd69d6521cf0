"""A whole step as one CUDA graph: forward, backward, clipping, update and counters are recorded once, then replayed.

`train_step` asks the host for nothing, so it can be recorded as it is. The first steps with batches of one shape run
as ever, on a side stream, and the last of them is watched for waits; then the step is recorded on copies of the batch
that stay where they are, and from there on a step is: copy the next batch there, replay. Recording executes nothing,
so training does not notice. Each shape has a graph of its own; all share one pool of memory, as none reads what another
left there. What cannot be recorded is trained as ever, after one line with the reason.

Invariants: `state.step` and everything else on the host is counted by those who call; every tensor of the state is
changed in place. What replaces tensors (`load_state_dict`) must call `forget`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hotloop import memory
from hotloop.engine.reduce import rows_of
from hotloop.engine.state import TrainState
from hotloop.engine.step import train_step
from hotloop.errors import first_line
from hotloop.task import Batch

_DRAWS = "the step draws random numbers on the host, and a replay would repeat the same ones"
WARM = 3  # steps of a shape before it is recorded: what torch and its libraries set up lazily is there by then
MOST = 16  # graphs: further shapes are trained as ever
Pair = tuple[Tensor, Tensor]
Signature = tuple[Any, ...]


class Recorder(Protocol):
    """What records and replays; the device's side of `Capture`."""

    def prepare(self, run: Callable[[], Pair], watched: bool) -> tuple[Pair, str]:
        """Run a step as ever; with `watched` also say what in it could not be recorded, empty if nothing was seen."""

    def record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Record `run` without executing it; what is returned executes it and gives its result's own memory."""

    def abandon(self) -> None:
        """After a recording that failed: leave the device as if it had not been tried."""


@dataclass(frozen=True)
class _Recorded:
    """One graph with the tensors that it reads its batch from."""

    inputs: list[Tensor]
    replay: Callable[[], Tensor]
    pieces: int  # micro-batches of the step

    def step(self, state: TrainState, batch: Batch) -> Pair:
        torch._foreach_copy_(self.inputs, leaves(batch))
        state.updating = True  # a replay cannot be taken back in part
        both = self.replay().clone()  # the next replay writes to the same place
        state.pieces.begun, state.updating = self.pieces, False
        loss, norm = both.unbind()
        return loss, norm


class Capture:
    """Steps by replay; takes the place of `train_step`.

    Args:
        recorder: of the device.

    Attributes:
        off: why nothing is recorded any more; empty while it is.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self.off = recorder, ""
        self._graphs: dict[Signature, _Recorded] = {}
        self._warm: dict[Signature, int] = {}

    @property
    def graphs(self) -> int:
        """How many shapes are replayed."""
        return len(self._graphs)

    def forget(self) -> None:
        """Tensors of the state were replaced: record anew."""
        self._graphs.clear()
        self._warm.clear()

    def __call__(self, state: TrainState, batch: Batch) -> Pair:
        """One step, as `train_step` makes it."""
        if self.off:
            return train_step(state, batch)
        mark = signature(batch, state)
        if (known := self._graphs.get(mark)) is not None:
            return known.step(state, batch)
        if self._warm.get(mark, 0) < WARM:
            return self._prepare(state, batch, mark)
        if len(self._graphs) < MOST and (recorded := self._record(state, batch)) is not None:
            self._graphs[mark] = recorded
            return recorded.step(state, batch)
        return train_step(state, batch)

    def _prepare(self, state: TrainState, batch: Batch, mark: Signature) -> Pair:
        done = self._warm.get(mark, 0) + 1
        result, why = self._recorder.prepare(lambda: train_step(state, batch), watched=done == WARM)
        self._warm[mark] = done
        if done == WARM and (why := _DRAWS if state.draws.on_host else why):
            self._give_up(state, why)
        return result

    def _record(self, state: TrainState, batch: Batch) -> _Recorded | None:
        """Record a step on batches like this one; None where it cannot be, which is told."""
        buffers, why, said = state.buffers, "", _Said()
        try:
            static = copied(batch)
            with _recordable(state.optimizers):
                replay = self._recorder.record(lambda: said.by(lambda: _both(train_step(state, static))))
        except Exception as error:
            why = said.first or worded(error)
        if not why and any(one is not other for one, other in zip(buffers, state.buffers, strict=True)):
            why = "a forward pass puts another tensor in a buffer's place (write into it instead: buffer.copy_(...))"
        pieces, state.pieces.begun, state.updating = state.pieces.begun, 0, False
        for parameter in state.parameters:
            parameter.grad = None
        if why:  # outside of the `except` block, so that the frames of the failed attempt are free
            state.rebind_buffers(buffers)
            self._recorder.abandon()
            self._give_up(state, why)
            memory.release(state.plan.torch_device)
            return None
        if not self._graphs:
            state.tell(f"step {state.step + 1}: the whole step is captured in a CUDA graph", "info")
        return _Recorded(leaves(static), replay, pieces)

    def _give_up(self, state: TrainState, why: str) -> None:
        self.forget()
        self.off = why
        line = f"step {state.step + 1}: the step cannot be captured in a CUDA graph and is trained without: {why}"
        state.tell(line, "warning")


def _both(result: Pair) -> Tensor:
    """(loss, norm) as one tensor (2,), so that one copy brings both out."""
    loss, norm = result
    return torch.stack((loss, norm.to(loss.dtype)))


def signature(batch: Batch, state: TrainState) -> Signature:
    """What a recorded step depends on besides values: names, shapes and types of the batch, and how it is cut."""
    shapes = tuple((name, tuple(leaf.shape), leaf.dtype) for name, leaf in _named(batch))
    return shapes, min(state.pieces.rows, rows_of(batch))


def leaves(batch: Batch) -> list[Tensor]:
    """The tensors of a batch, those inside its dicts included, in a fixed order."""
    return [leaf for _, leaf in _named(batch)]


def _named(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name in sorted(value):
        part = value[name]
        if isinstance(part, dict):
            yield from _named(part, f"{prefix}{name}.")
        else:
            yield prefix + name, part


def copied(value: Any) -> Any:
    """A batch of the same form whose tensors are its own."""
    return {name: copied(part) if isinstance(part, dict) else part.clone() for name, part in value.items()}


@contextlib.contextmanager
def _recordable(optimizers: list[torch.optim.Optimizer]) -> Iterator[None]:
    """torch's optimizers refuse to be recorded unless told that they may; told always, they would warn each time.

    What the word promises holds here in any case: rates, counts of updates and the flag are on the device.
    """
    groups = [g for optimizer in optimizers for g in optimizer.param_groups if "capturable" in g]
    before = [group["capturable"] for group in groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, was in zip(groups, before, strict=True):
            group["capturable"] = was


class _Said:
    """What the step itself said where it failed: ending such a recording raises another error on top of it."""

    first = ""

    def by(self, run: Callable[[], Tensor]) -> Tensor:
        """Run it, and keep what it says in failing."""
        try:
            return run()
        except Exception as error:
            self.first = worded(error)
            raise


def worded(error: Exception) -> str:
    """An error in a line, for a person."""
    return f"{'out of memory: ' if memory.is_out_of_memory(error) else ''}{first_line(error)}"


class CudaGraphs:
    """Records with CUDA graphs.

    Args:
        device: a CUDA device, on whose current stream steps are replayed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def prepare(self, run: Callable[[], Pair], watched: bool) -> tuple[Pair, str]:
        main, drawn = torch.cuda.current_stream(self._device), torch.get_rng_state()
        self._side.wait_stream(main)
        said: list[str] = []
        try:
            with torch.cuda.stream(self._side), _watching(said) if watched else contextlib.nullcontext():
                result = run()
        finally:  # a step that failed is taken back on the main stream
            main.wait_stream(self._side)
        if watched and not torch.equal(drawn, torch.get_rng_state()):
            said = [_DRAWS]
        return result, said[0] if said else ""

    def record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # Other threads (one that pins batches) may go on meanwhile: only this thread's calls are looked at.
        context = torch.cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local")
        with torch.cuda.device(self._device), context:
            result = run()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    def abandon(self) -> None:
        """A recording that broke off can leave generator and allocator waiting for its end: end it for both."""
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())
        with contextlib.suppress(AttributeError, RuntimeError):  # the allocator has no public name for it
            internals: Any = torch._C
            internals._cuda_endAllocateToPool(index, self._pool)
        self._pool = torch.cuda.graph_pool_handle()


@contextlib.contextmanager
def _watching(said: list[str]) -> Iterator[None]:
    """Notes in `said` where the host waits for the device; a check that is set already is left alone."""
    if torch.cuda.get_sync_debug_mode() != 0:
        yield
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in seen if "called a synchronizing" in str(w.message)]
    said += [f"the host waits for the GPU in {_place(wait)}" for wait in waits[:1]]


def _place(warning: warnings.WarningMessage) -> str:
    """Where the wait was, as file:line."""
    return f"{warning.filename.replace(chr(92), '/').rpartition('/')[2]}:{warning.lineno}"
