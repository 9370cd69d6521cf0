"""`hotloop prepare forecast` is killed, interrupted or loses a worker: what is finished stays, nothing is left running.

Whatever came in between, the finished cache equals that of an undisturbed call to the bit: every file, the manifest
too, nothing more and nothing less.
"""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

SYMBOLS, DAYS = 60, 600


def finished(folder: Path) -> int:
    """How many symbols have their file."""
    return len(list((folder / "bars").glob("[!.]*.parquet")))


@dataclass(frozen=True)
class Undisturbed:
    """The database, and the cache that a call without trouble makes of it."""

    arguments: tuple[str, ...]
    cache: Path
    out: str


@pytest.fixture(scope="module")
def whole(sqlite_bars, market_bars, start_preparing, tmp_path_factory):
    """Made with one worker, where the others have two or more."""
    folder = tmp_path_factory.mktemp("prepare")
    arguments = ("--database", sqlite_bars(folder / "bars.db", market_bars(SYMBOLS, DAYS)), "--symbols", "all")
    code, out, err = start_preparing(folder / "cache", *arguments, "--workers", "1").end()
    assert code == 0, out + err
    return Undisturbed(arguments, folder / "cache", out)


@pytest.fixture(scope="module")
def killed(whole, start_preparing):
    """A folder in which two workers were killed with kill -9 after five symbols; tests take a copy."""
    folder = whole.cache.with_name("killed")
    start_preparing(folder, *whole.arguments, "--workers", "2").kill(finished=5)
    assert not (folder / "manifest.json").exists()
    return folder


@pytest.fixture
def again(killed, tmp_path):
    """A copy of the killed folder, times of writing included."""
    return Path(shutil.copytree(killed, tmp_path / "cache"))


@pytest.fixture
def go_on(whole, prepare, contents):
    """`go_on(folder)`: resume there; it ends well, and the folder equals the undisturbed one."""

    def resume(folder, workers="1"):
        code, out, err = prepare(folder, *whole.arguments, "--workers", workers, "--resume").end()
        assert code == 0, out + err
        assert contents(folder) == contents(whole.cache)

    return resume


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_and_resumed_it_equals_the_undisturbed_one(workers, again, go_on, identities):
    before = identities(again)
    assert 5 <= len(before) < SYMBOLS - 2
    go_on(again, workers)
    kept = [name for name, identity in identities(again).items() if before.get(name) == identity]
    assert len(before) - len(kept) <= 1  # written and not yet recorded when the kill came: done again


def test_the_resumed_one_may_be_killed_too(whole, again, go_on, prepare):
    prepare(again, *whole.arguments, "--workers", "2", "--resume").kill(finished(again) + 15)
    go_on(again)


def test_what_a_kill_left_half_written_is_not_believed(again, go_on):
    """A torn last line of the record, a file cut short, another damaged, a temporary file, one that nobody recorded."""
    lines = (again / "done.jsonl").read_bytes().splitlines(keepends=True)
    (again / "done.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    cut, damaged, *_ = sorted((again / "bars").glob("S*.parquet"))
    cut.write_bytes(cut.read_bytes()[:100])
    damaged.write_bytes(damaged.read_bytes()[:-100] + b"x" * 100)
    (again / "bars" / ".S057.parquet.tmp").write_bytes(b"PAR1")
    (again / "bars" / "S056.parquet").write_bytes(b"PAR1")
    (again / "bars" / "NEG.parquet").write_bytes(b"PAR1")
    go_on(again)


def test_an_unfinished_folder_is_not_overwritten_unasked(whole, again, prepare, contents):
    before = contents(again)
    code, out, err = prepare(again, *whole.arguments, "--workers", "2").end()
    assert code == 2
    assert "--resume" in err
    assert "Traceback" not in out + err
    assert contents(again) == before


def test_resumed_with_other_options_it_refuses_and_names_them(whole, again, prepare, contents):
    before = contents(again)
    code, _, err = prepare(again, *whole.arguments, "--resume", "--start-date", "2020-03-01").end()
    assert code == 2
    assert "start" in err
    assert "2020-03-01" in err
    assert contents(again) == before


def test_resumed_when_all_is_done_it_writes_no_bars_again(whole, go_on, identities, tmp_path):
    folder = Path(shutil.copytree(whole.cache, tmp_path / "cache"))
    before = identities(folder)
    go_on(folder, "2")
    assert identities(folder) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_how_to_go_on(number, whole, go_on, prepare, tmp_path):
    running = prepare(tmp_path / "cache", *whole.arguments, "--workers", "2")
    running.wait_for(5)
    if number == signal.SIGINT:
        os.killpg(running.process.pid, number)  # as the terminal does: the workers hear it too
    else:
        running.process.send_signal(number)
    code, out, err = running.end()
    assert code == 4, (code, out, err)
    assert "--resume" in err
    assert "Traceback" not in out + err
    assert 5 <= finished(tmp_path / "cache") < SYMBOLS - 2
    go_on(tmp_path / "cache")


def test_a_worker_that_is_killed_costs_its_symbol_and_is_told(whole, go_on, prepare, tmp_path):
    running = prepare(tmp_path / "cache", *whole.arguments, "--workers", "2")
    running.wait_for(5)
    worker = next(process for process in running.family if "spawn_main" in " ".join(process.cmdline()))
    worker.kill()
    code, out, err = running.end()
    assert code == 0, (code, out, err)
    assert "SIGKILL" in out + err
    assert "Traceback" not in out + err
    assert finished(tmp_path / "cache") == finished(whole.cache) - 1
    go_on(tmp_path / "cache")


def test_two_at_once_do_not_write_into_one_folder(whole, prepare, contents, tmp_path):
    first = prepare(tmp_path / "cache", *whole.arguments, "--workers", "2")
    first.wait_for(3)
    psutil.Process(first.process.pid).suspend()  # it holds the folder while the second one comes
    try:
        code, _, err = prepare(tmp_path / "cache", *whole.arguments, "--resume").end()
    finally:
        psutil.Process(first.process.pid).resume()
    assert code == 2
    assert "another process" in err
    code, out, err = first.end()
    assert code == 0, out + err
    assert contents(tmp_path / "cache") == contents(whole.cache)
