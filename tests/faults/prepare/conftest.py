"""What the tests of preparing share: a real PostgreSQL server, tables of bars, the command line, and its death.

The server is a process of these tests alone: a new data folder, a free port on the loopback address, a password. It is
stopped at the end, and with the process of the tests where that is killed. Where the programs of PostgreSQL are missing
its tests are skipped with the reason. Shapes: a bar is (symbol, date, open, high, low, close, adj_close, volume).
"""

from __future__ import annotations

import ctypes
import datetime
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

Bar = tuple[str, datetime.date, float, float, float, float, float, int]
COLUMNS = ("symbol", "date", "open", "high", "low", "close", "adj_close", "volume")
TABLE = (
    "CREATE TABLE bars (symbol text, date date, open float8, high float8, low float8, close float8, adj_close float8,"
    " volume bigint)"
)
PASSWORD = "se.cret-word"
PATIENCE = 60.0  # seconds, on a machine with much else to do


def bars_of(symbol: str, days: int) -> list[Bar]:
    """A random walk of `days` bars, the same at every call; adj_close is close less a dividend, as after the fact."""
    draw, close, first = random.Random(symbol), 50.0, datetime.date(2020, 1, 1)
    rows = []
    for day in range(days):
        opened, close = close, close * (1 + draw.gauss(0, 0.02))
        high, low = max(opened, close) * 1.01, min(opened, close) * 0.99
        date = first + datetime.timedelta(days=day)
        rows.append((symbol, date, opened, high, low, close, close * 0.98, draw.randrange(1000, 100_000)))
    return rows


def market(symbols: int, days: int) -> list[Bar]:
    """Bars of S000, S001, ..., and of two more: NEG has an adjusted close below zero in row 200, TEN has ten rows."""
    rows = [bar for number in range(symbols - 2) for bar in bars_of(f"S{number:03d}", days)]
    negative = bars_of("NEG", days)
    negative[199] = (*negative[199][:6], -1.5, negative[199][7])
    return rows + negative + bars_of("TEN", 10)


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL and how it is reached."""

    url: str

    def connect(self) -> Any:
        import psycopg

        return psycopg.connect(self.url, autocommit=True)

    def fill(self, rows: list[Bar]) -> None:
        """The table `bars`, made anew."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS bars")
            cursor.execute(TABLE)
            with cursor.copy(f"COPY bars ({', '.join(COLUMNS)}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            cursor.execute("CREATE INDEX ON bars (symbol, date)")


def _programs() -> Path:
    """The folder of PostgreSQL's programs: on the PATH, or where Debian puts them."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: folder.parent.name.zfill(3))
    for folder in reversed(folders):
        if all((folder / name).is_file() for name in ("initdb", "postgres")):
            return folder
    pytest.skip("PostgreSQL is not installed (on Debian: apt-get install postgresql)")


def _identity() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: the user to run it as then, for Popen."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return {}
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in names:
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


def _die_with_the_tests() -> None:
    """In the server, before it starts: when the tests' process dies, however it dies, stop at once."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_data_folder(programs: Path, folder: Path, identity: dict[str, Any]) -> None:
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if identity:
        for path in (folder, secret):
            os.chown(path, identity["user"], identity["group"])
    made = subprocess.run(
        [programs / "initdb", "-D", folder / "data", "-U", "hot", "-A", "scram-sha-256", f"--pwfile={secret}"]
        + ["-E", "UTF8", "--locale=C", "--no-sync"],
        cwd=folder, capture_output=True, text=True, timeout=PATIENCE, **identity,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr


def _await(process: subprocess.Popen[bytes], server: Server, log: Path) -> None:
    import psycopg

    end = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, log.read_text()
        try:
            server.connect().close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL of these tests alone, on the loopback address."""
    pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
    programs, identity = _programs(), _identity()
    folder = Path(tempfile.mkdtemp(prefix="hotloop-postgres-"))  # not below tmp_path: that is closed to other users
    try:
        _make_data_folder(programs, folder, identity)
        port, log = _free_port(), folder / "log"
        settings = ["listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", "fsync=off"]
        command = [programs / "postgres", "-D", folder / "data"]
        with open(log, "wb") as said:
            process = subprocess.Popen(
                [*command, *(word for setting in settings for word in ("-c", setting))],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
                preexec_fn=_die_with_the_tests, **identity,
            )  # fmt: skip
        try:
            running = Server(f"postgresql://hot:{PASSWORD}@127.0.0.1:{port}/postgres")
            _await(process, running, log)
            yield running
        finally:
            _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # its fast shutdown, its immediate one, and ours
        process.send_signal(number)
        try:
            process.wait(timeout=20)
            return
        except subprocess.TimeoutExpired:
            continue


@pytest.fixture(scope="session")
def market_bars() -> Callable[[int, int], list[Bar]]:
    """`market_bars(50, 600)`: symbols S000 and on, NEG with a price below zero, TEN with ten rows."""
    return market


@pytest.fixture(scope="session")
def sqlite_bars() -> Callable[[Path, list[Bar]], str]:
    """Write bars into a SQLite file; returns its URL."""

    def write(file: Path, rows: list[Bar]) -> str:
        connection = sqlite3.connect(file)
        connection.execute(TABLE)
        marks = ", ".join("?" * len(COLUMNS))
        written = [(symbol, date.isoformat(), *rest) for symbol, date, *rest in rows]
        connection.executemany(f"INSERT INTO bars ({', '.join(COLUMNS)}) VALUES ({marks})", written)
        connection.execute("CREATE INDEX by_symbol ON bars (symbol)")
        connection.commit()
        connection.close()
        return f"sqlite:///{file}"

    return write


class Preparing:
    """The real command `hotloop prepare forecast` as a process in a session of its own, and all that it starts."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self._said = [folder.with_name(f"{folder.name}.{kind}") for kind in ("out", "err")]
        command = [sys.executable, "-m", "hotloop", "prepare", "forecast", str(folder), *arguments]
        with open(self._said[0], "w") as out, open(self._said[1], "w") as err:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        self.family: list[psutil.Process] = []

    def wait_for(self, finished: int) -> None:
        """Until so many symbols have their file; fails where the command is over before."""
        end = time.monotonic() + PATIENCE
        while len(finished_files(self.folder)) < finished:
            assert self.process.poll() is None, f"it was over before {finished} symbols were finished: {self.end()}"
            assert time.monotonic() < end, f"after {PATIENCE} s there are not yet {finished} finished symbols"
            time.sleep(0.001)
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> tuple[int, str, str]:
        """Wait for it: exit code (negative: the signal), and what it said. Nothing that it started may stay."""
        code = self.process.wait(timeout=PATIENCE)
        _, alive = psutil.wait_procs(self.family, timeout=20)
        for orphan in alive:
            orphan.kill()
        assert not alive, f"left running: {alive}"
        return code, self._said[0].read_text(), self._said[1].read_text()

    def kill(self, finished: int) -> None:
        """kill -9 once so many symbols are finished."""
        self.wait_for(finished)
        self.process.kill()
        code, _, _ = self.end()
        assert code == -signal.SIGKILL


def finished_files(folder: Path) -> list[Path]:
    """The Parquet files that have their name; a file that is being written has another."""
    return sorted((folder / "bars").glob("[!.]*.parquet"))


def _starting() -> Iterator[Callable[..., Preparing]]:
    begun: list[Preparing] = []

    def start(folder: Path, *arguments: str) -> Preparing:
        begun.append(Preparing(folder, *arguments))
        return begun[-1]

    yield start
    for one in begun:
        if one.process.poll() is None:
            one.family = psutil.Process(one.process.pid).children(recursive=True)
            one.process.kill()
            one.end()


@pytest.fixture
def prepare() -> Iterator[Callable[..., Preparing]]:
    """`prepare(folder, "--database", url, ...)` starts the command; what is left of it is killed at the end."""
    yield from _starting()


@pytest.fixture(scope="module")
def start_preparing() -> Iterator[Callable[..., Preparing]]:
    """The same as `prepare`, for what a module prepares once."""
    yield from _starting()


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, to the bit."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    return read


@pytest.fixture(scope="session")
def identities() -> Callable[[Path], dict[str, tuple[int, int]]]:
    """Inode and time of writing of every finished file: a file that was written again has others."""

    def read(folder: Path) -> dict[str, tuple[int, int]]:
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in finished_files(folder)}

    return read
