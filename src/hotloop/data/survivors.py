"""Workers that die: training goes on with fewer of them, from the very batch that was awaited.

A worker is ended by the system where memory is short, or where the shared memory that batches travel through (/dev/shm)
is too small. The order of batches is a function of the step alone, so another loader continues where this one stopped.
A worker that crashes in its own code would do so in this process too: that is told and ends the run.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from hotloop.errors import HotloopError, first_line

_CRASHES = ("SIGSEGV", "SIGABRT", "SIGILL", "SIGFPE", "Segmentation fault", "Aborted")
_MOMENT = 0.2  # seconds for a process that is ending
Open = Callable[[int, int], Iterator[Any]]


def surviving(open_: Open, first_step: int, workers: int, tell: Callable[[str, str], None]) -> Iterator[Any]:
    """The batches of `open_(step, workers)`, on and on, with half of the workers whenever one of them has died.

    Args:
        open_: batches from a step on, read by so many workers; with none they are read in this process.
        first_step: 0-based.
        workers: to begin with.
        tell: takes a line and its level.

    Raises:
        HotloopError: a worker crashed in the code that reads a row.
    """
    step = first_step
    while True:
        batches = open_(step, workers)
        try:
            for batch in batches:
                yield batch
                step += 1
            return
        except (RuntimeError, OSError, EOFError) as error:
            if not workers or not worker_died(error):
                raise
            said = _signals(batches) or first_line(error)
        if any(word in said for word in _CRASHES):
            raise HotloopError(
                f"a process that reads data crashed at step {step + 1}: {said}",
                where="the data",
                fix="read that batch with data.num_workers=0 under a debugger; the code that reads a row is at fault",
            )
        fewer = workers // 2
        instead = f"{fewer} read on" if fewer else "data is read in the training process"
        what = f"step {step + 1}: one of {workers} data workers died ({_why(said)})"
        tell(f"{what}; {instead}, from this batch", "warning")
        workers = fewer


@contextlib.contextmanager
def undisturbed_by_children() -> Iterator[None]:
    """Leave the handler of ended child processes as it is.

    torch's own, set with its first workers, raises wherever the program happens to be, even in the middle of an update.
    Without it a dead worker is seen where its batch is waited for.
    """
    here = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    before = signal.getsignal(signal.SIGCHLD) if here else None
    try:
        yield
    finally:
        if here and signal.getsignal(signal.SIGCHLD) is not before:
            signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)


def worker_died(error: BaseException) -> bool:
    """Whether an error of torch's DataLoader says that a worker is gone, rather than what its code raised."""
    text = str(error)
    gone = "DataLoader worker (pid" in text or "Pin memory thread exited" in text
    raised = "Caught " in text  # torch's words for what the code of a row has raised in a worker
    return gone or (isinstance(error, ConnectionError | EOFError) and not raised)


def _signals(batches: Iterator[Any]) -> str:
    """What ended the workers that are gone, by the system's names; empty where it does not tell."""
    codes = {worker.exitcode for worker in getattr(batches, "_workers", ()) if _ended(worker)}
    return ", ".join(sorted(signal.Signals(-code).name for code in codes))


def _ended(worker: Any) -> bool:
    worker.join(_MOMENT)
    return worker.exitcode is not None and worker.exitcode < 0


def _why(said: str) -> str:
    """What was said, with the room that there is: short memory, or short shared memory, is the usual reason."""
    room = f"{psutil.virtual_memory().available / 2**30:.1f} GB of memory are free"
    with contextlib.suppress(OSError):
        room += f", {shutil.disk_usage('/dev/shm').free / 2**20:,.0f} MB in /dev/shm"
    return f"{said}; {room}"
