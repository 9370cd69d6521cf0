"""Symbols in several processes: each with its own connection, given one symbol at a time, answering as it finishes.

Invariants: workers start afresh (no connection is inherited) and write nothing; when the process that started them
dies, however it dies, each ends by itself because its pipe is closed. A worker that dies costs the one symbol it had.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from hotloop.data.prepare.bars import Fault, PrepareOptions
from hotloop.data.prepare.symbol import FAILED, Outcome, Preparer
from hotloop.errors import HotloopError

_PATIENCE = 5.0  # seconds for a worker to end by itself
_READY = "ready"  # a worker's first word


def prepare_here(symbols: Mapping[str, Any], preparer: Preparer) -> Iterator[Outcome]:
    """Prepare one symbol after the other in this process."""
    for symbol, value in symbols.items():
        yield preparer(symbol, value)


def prepare_in_workers(
    symbols: Mapping[str, Any], url: str, options: PrepareOptions, workers: int
) -> Iterator[Outcome]:
    """Prepare symbols in worker processes, and give each outcome as it arrives.

    Args:
        symbols: by name, with the value that the table holds.
        url: of the database; each worker connects on its own.
        options: as given.
        workers: processes at once.
    """
    waiting = deque(symbols.items())
    crew = _Crew(url, options)
    try:
        for _ in range(min(workers, len(waiting))):
            crew.start(waiting.popleft())
        while crew.busy:
            for connection in wait(list(crew.busy)):
                assert isinstance(connection, Connection)
                outcome = crew.receive(connection)
                if outcome is None:
                    continue
                yield outcome
                if waiting:
                    crew.give(connection, waiting.popleft())
    finally:
        crew.stop()


class _Crew:
    """The worker processes, and which symbol each of them has."""

    def __init__(self, url: str, options: PrepareOptions) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._url, self._options = url, options
        self._processes: dict[Connection, BaseProcess] = {}
        self._begun: set[Connection] = set()
        self.busy: dict[Connection, tuple[str, Any]] = {}

    def start(self, job: tuple[str, Any]) -> None:
        """Start a worker with its first symbol."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._url, self._options), daemon=True)
        process.start()
        theirs.close()  # the worker alone holds this end now, so its death is seen at ours
        self._processes[ours] = process
        self.busy[ours] = job
        ours.send(job)

    def give(self, connection: Connection, job: tuple[str, Any]) -> None:
        """The next symbol for a worker, or for a new one where it has died."""
        if connection not in self._processes:
            self.start(job)
            return
        self.busy[connection] = job
        with suppress(OSError):  # it died just now: its pipe tells so at the next reading
            connection.send(job)

    def receive(self, connection: Connection) -> Outcome | None:
        """What a worker has to say; None where it only says that it has connected.

        Raises:
            HotloopError: it could not begin.
            RuntimeError: a fault of ours in a worker, with its traceback.
        """
        try:
            answer = connection.recv()
        except (EOFError, OSError):
            return self._buried(connection)
        if answer == _READY:
            self._begun.add(connection)
            return None
        symbol, _ = self.busy.pop(connection)
        if isinstance(answer, HotloopError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"a worker failed at {symbol}:\n{answer}")
        assert isinstance(answer, Outcome)
        return answer

    def _buried(self, connection: Connection) -> Outcome:
        """The outcome of the symbol that a worker died with."""
        symbol, _ = self.busy.pop(connection)
        process = self._processes.pop(connection)
        process.join(_PATIENCE)
        connection.close()
        how = _how(process.exitcode)
        if connection not in self._begun:  # the next one would fare no better
            raise HotloopError(
                f"a worker process ended before it could begin{how}",
                fix="take --workers 1; a script of your own needs `if __name__ == '__main__':` around its call",
            )
        return Outcome(symbol, FAILED, Fault(f"its worker process ended early{how}").record())

    def stop(self) -> None:
        """End all workers, the idle ones by closing their pipe."""
        for connection, process in self._processes.items():
            connection.close()
            if self.busy:
                process.terminate()
        for process in self._processes.values():
            process.join(_PATIENCE)
            if process.exitcode is None:
                process.kill()
                process.join()
            process.close()
        self._processes.clear()


def _work(connection: Connection, url: str, options: PrepareOptions) -> None:
    """A worker's life: connect, then a symbol and its outcome until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    os.environ.setdefault("POLARS_MAX_THREADS", "1")  # the processes are the parallel part
    try:
        preparer = Preparer(url, options)
        connection.send(_READY)
        while True:
            connection.send(preparer(*connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):  # nobody asks any more
        return
    except HotloopError as error:
        connection.send(error)
    except Exception:  # goes to the parent as text, which raises it as a fault of ours
        connection.send(traceback.format_exc())


def _how(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return ""
    return f", killed by {signal.Signals(-exit_code).name} (out of memory?)"
