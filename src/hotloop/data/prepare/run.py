"""`hotloop prepare forecast` without its words: from a database's bars to a finished cache.

Invariant: an undisturbed call, one with any number of workers, and one that was killed and resumed leave the same
bytes behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from hotloop.data.prepare import indicators
from hotloop.data.prepare.bars import FEATURES_VERSION, STORED, PrepareOptions, Progress
from hotloop.data.prepare.cache import BARS, MANIFEST, UNFINISHED, VERSION
from hotloop.data.prepare.database import file_url
from hotloop.data.prepare.record import Head, Record
from hotloop.data.prepare.simulate import DAYS, SIMULATED, SYMBOLS, write_simulated
from hotloop.data.prepare.symbol import Outcome, Preparer
from hotloop.data.prepare.workers import prepare_here, prepare_in_workers
from hotloop.disk import telling
from hotloop.errors import HotloopError, Interrupted

Report = Callable[[Progress], None]


def prepare(
    folder: Path, url: str, options: PrepareOptions, *, report: Report | None = None, simulated: bool = False
) -> dict[str, Any]:
    """Prepare the bars of a database as a cache.

    Args:
        folder: of the cache; made where it does not exist.
        url: SQLAlchemy URL of the database.
        options: what to prepare and how.
        report: is told how far it has come, after each symbol.
        simulated: the database holds the bars that `prepare_simulated` wrote beside the cache.

    Returns:
        The manifest, which lies in the folder too.
    Raises:
        HotloopError: the database or the folder cannot be used; a fault of one symbol is in the manifest instead.
        Interrupted: by Ctrl-C; what is finished is kept.
    """
    preparer = Preparer(url, options)
    with closing(preparer.database):
        present = preparer.database.symbols()
        wanted, absent = _choose(present, options)
        record = Record(folder, _head(preparer, simulated), resume=options.resume)
        with closing(record):
            _refuse_vanished(record, wanted, folder)
            left = {symbol: value for symbol, value in wanted.items() if symbol not in record.kept}
            outcomes = (
                prepare_here(left, preparer)
                if options.workers <= 1 or len(left) <= 1
                else prepare_in_workers(left, url, options, options.workers)
            )
            _drain(record, outcomes, len(wanted), report)
            return record.finish(absent)


def prepare_simulated(
    folder: Path,
    options: PrepareOptions,
    *,
    seed: int = 0,
    symbols: int = SYMBOLS,
    days: int = DAYS,
    report: Report | None = None,
) -> dict[str, Any]:
    """Write simulated bars into a database inside the folder, and prepare them from there.

    Args:
        folder, options, report: as for `prepare`.
        seed, symbols, days: of the simulation.
    """
    database = folder / SIMULATED
    with telling("make", folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not any((folder / name).exists() for name in (MANIFEST, UNFINISHED, BARS)):
        write_simulated(database, symbols, days, seed)
    elif not database.exists():
        raise HotloopError(
            f"the folder holds prepared bars, but not the simulated ones ({SIMULATED})",
            where=str(folder),
            fix="give the --database that they came from, or choose another folder",
        )
    return prepare(folder, file_url("duckdb", database), options, report=report, simulated=True)


def prepare_embedded(folder: Path, *, seed: int, symbols: int = SYMBOLS, days: int = DAYS) -> Path:
    """A prepared cache of synthetic bars, made quickly and quietly within this process.

    Args:
        folder: is made; an unfinished or finished cache of simulated bars there is gone on with.
        seed, symbols, days: of the simulation.

    Returns:
        The folder.
    """
    prepare_simulated(folder, PrepareOptions(resume=True), seed=seed, symbols=symbols, days=days)
    return folder


def _choose(present: Mapping[str, Any], options: PrepareOptions) -> tuple[dict[str, Any], list[str]]:
    """The symbols to prepare, by name, and those asked for that the table does not hold."""
    asked = set(present) if options.symbols is None else set(options.symbols)
    names = sorted(asked & set(present))[: options.limit]
    return {name: present[name] for name in names}, sorted(asked - set(present))


def _head(preparer: Preparer, simulated: bool) -> Head:
    database, options = preparer.database, preparer.options
    return {
        "version": VERSION,
        "source": {
            # the simulated bars lie in the folder itself, which may be moved
            "database": f"duckdb:///{SIMULATED}" if simulated else database.shown,
            "table": options.table,
            "adjusted": database.adjusted,
        },
        "synthetic": simulated,
        "options": {
            "symbols": "all" if options.symbols is None else sorted(set(options.symbols)),
            "columns": dict(sorted(options.columns.items())),
            "start": options.start,
            "end": options.end,
            "limit": options.limit,
            "min_rows": options.min_rows,
            "features": FEATURES_VERSION,
        },
        "features": list(indicators.NAMES),
        "columns": ["time", *STORED, *indicators.NAMES],
    }


def _refuse_vanished(record: Record, wanted: Mapping[str, Any], folder: Path) -> None:
    gone = sorted(set(record.kept) - set(wanted))
    if gone:
        raise HotloopError(
            f"the cache holds symbols that the table no longer lists: {', '.join(gone[:10])}",
            where=str(folder),
            fix="prepare into another folder",
        )


def _drain(record: Record, outcomes: Iterator[Outcome], total: int, report: Report | None) -> None:
    """Record every outcome as it arrives."""
    began, kept, done = time.monotonic(), len(record.kept), 0
    say = report or (lambda progress: None)
    say(Progress(kept, total, 0, kept, None))
    try:
        for outcome in outcomes:
            record.add(outcome)
            done += 1
            left = (time.monotonic() - began) / done * (total - kept - done)
            say(Progress(kept + done, total, len(record.failed), kept, left))
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted: {len(record.symbols)} of {total} symbols are prepared and kept", fix="go on with --resume"
        ) from None
    finally:
        close = getattr(outcomes, "close", None)
        if close is not None:
            close()  # ends the workers now, not when the generator is collected
